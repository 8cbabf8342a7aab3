//! The neurons of the last layers, as many as the language has: whole layers from the last one down, and of the next as many as are
//! left, spread evenly.

use super::{Choice, Method, subnetwork::Subnetwork};
use crate::neuron::{NeuronId, NeuronSet};

pub(super) const METHOD: Method = Method {
    name: "last-layers",
    help: "as many neurons of the last layers",
    rate: 1e-4,
    clip: 1.0,
    neurons: true,
    open: |choice: &Choice| {
        let own = choice.neurons()?;
        let shape = own.shape();
        let mut left = own.len();
        let mut neurons = Vec::with_capacity(left);
        for layer in (0..shape.layers).rev() {
            let taken = left.min(shape.width);
            neurons.extend((0..taken).map(|i| NeuronId::dense(layer, i * shape.width / taken)));
            left -= taken;
        }
        Ok(Box::new(Subnetwork { neurons: NeuronSet::new(shape, neurons) }))
    },
};
