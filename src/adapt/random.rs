//! The control: as many random neurons as the language has, none of them its own. A selection, trained as the subnetwork is.

use super::{Choice, Method, subnetwork::Subnetwork};
use crate::identify::control;

pub(super) const METHOD: Method = Method {
    name: "random",
    help: "as many random neurons, none of the language's own: matched per layer, or over all layers with --matching overall",
    rate: 1e-4,
    clip: 1.0,
    neurons: true,
    open: |choice: &Choice| {
        let neurons = control(choice.neurons()?, choice.language, choice.seed, choice.matching);
        Ok(Box::new(Subnetwork { neurons }))
    },
};
