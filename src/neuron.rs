//! What a neuron is: one unit of a feed-forward network's intermediate layer, named by its layer and its index.
//! In: nothing. Out: ids, the shape of a model's neuron grid, and sorted sets of neurons.

use serde::{Deserialize, Serialize};

/// One FFN neuron of a decoder: row `index` of layer `layer`'s gate (or input) projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NeuronId {
    /// Decoder layer, from 0.
    pub layer: usize,
    /// Position within the layer's intermediate activations, from 0.
    pub index: usize,
}

/// The grid of a model's neurons: `layers` rows of `width` neurons each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FfnShape {
    /// Number of decoder layers.
    pub layers: usize,
    /// Neurons per layer (`intermediate_size` in a Hugging Face config).
    pub width: usize,
}

impl FfnShape {
    /// All neurons of the model, `layers · width`.
    #[must_use]
    pub fn neurons(self) -> usize {
        self.layers * self.width
    }

    /// Place of a neuron in layer-major order.
    #[must_use]
    pub fn flat(self, neuron: NeuronId) -> usize {
        neuron.layer * self.width + neuron.index
    }

    /// The neuron at a place in layer-major order.
    #[must_use]
    pub fn neuron(self, flat: usize) -> NeuronId {
        NeuronId { layer: flat / self.width, index: flat % self.width }
    }
}

/// A set of neurons of one model: for every layer, the sorted indices. A layer without neurons is an empty row, never a gap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeuronSet {
    shape: FfnShape,
    layers: Vec<Vec<u32>>,
}

impl NeuronSet {
    /// The empty set over a grid.
    #[must_use]
    pub fn empty(shape: FfnShape) -> Self {
        Self { shape, layers: vec![Vec::new(); shape.layers] }
    }

    /// Collects neurons in any order; repeats are kept once.
    ///
    /// # Panics
    /// If a neuron lies outside the grid.
    #[must_use]
    pub fn new(shape: FfnShape, neurons: impl IntoIterator<Item = NeuronId>) -> Self {
        let mut set = Self::empty(shape);
        for neuron in neurons {
            assert!(neuron.layer < shape.layers && neuron.index < shape.width, "{neuron:?} lies outside {shape:?}");
            set.layers[neuron.layer].push(u32::try_from(neuron.index).expect("a layer is narrower than 2^32"));
        }
        for layer in &mut set.layers {
            layer.sort_unstable();
            layer.dedup();
        }
        set
    }

    /// The grid that the set lives on.
    #[must_use]
    pub fn shape(&self) -> FfnShape {
        self.shape
    }

    /// Sorted indices of one layer.
    #[must_use]
    pub fn layer(&self, layer: usize) -> &[u32] {
        &self.layers[layer]
    }

    /// Sorted indices, layer by layer.
    #[must_use]
    pub fn layers(&self) -> &[Vec<u32>] {
        &self.layers
    }

    /// Number of neurons.
    #[must_use]
    pub fn len(&self) -> usize {
        self.layers.iter().map(Vec::len).sum()
    }

    /// Whether no neuron is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a neuron is in the set.
    #[must_use]
    pub fn contains(&self, neuron: NeuronId) -> bool {
        u32::try_from(neuron.index)
            .is_ok_and(|index| self.layers.get(neuron.layer).is_some_and(|layer| layer.binary_search(&index).is_ok()))
    }

    /// Every neuron, by layer and index.
    pub fn iter(&self) -> impl Iterator<Item = NeuronId> + '_ {
        self.layers
            .iter()
            .enumerate()
            .flat_map(|(layer, row)| row.iter().map(move |&index| NeuronId { layer, index: index as usize }))
    }
}
