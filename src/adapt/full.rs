//! Every weight of the model.

use super::{Adaptation, Choice, Method};

pub(super) const METHOD: Method = Method {
    name: "full",
    help: "every weight",
    rate: 1e-5,
    clip: 0.5,
    neurons: false,
    open: |_: &Choice| Ok(Box::new(Full)),
};

struct Full;

impl Adaptation for Full {
    fn unfreezes(&self, _: &str) -> bool {
        true
    }
}
