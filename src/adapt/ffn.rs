//! All feed-forward networks.

use std::collections::BTreeSet;

use super::{Adaptation, Choice, Method, ffn_tensors};

pub(super) const METHOD: Method = Method {
    name: "ffn",
    help: "the feed-forward networks of all layers",
    rate: 1e-5,
    clip: 1.0,
    neurons: false,
    open: |choice: &Choice| Ok(Box::new(Ffn(ffn_tensors(choice.architecture).into_iter().collect()))),
};

struct Ffn(BTreeSet<String>);

impl Adaptation for Ffn {
    fn unfreezes(&self, parameter: &str) -> bool {
        self.0.contains(parameter)
    }
}
