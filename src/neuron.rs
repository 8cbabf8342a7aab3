//! What a neuron is: one unit of a feed-forward network's intermediate layer, named by its layer, its expert and its index.
//! In: nothing. Out: ids, the shape of a model's neuron grid, and sorted sets of neurons.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One FFN neuron of a decoder: row `index` of the gate (or input) projection of expert `expert` of layer `layer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NeuronId {
    /// Decoder layer, from 0.
    pub layer: usize,
    /// Expert within the layer, from 0; a dense model has only this one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub expert: usize,
    /// Position within the expert's intermediate activations, from 0.
    pub index: usize,
}

impl NeuronId {
    /// A neuron of a dense model.
    #[must_use]
    pub const fn dense(layer: usize, index: usize) -> Self {
        Self { layer, expert: 0, index }
    }
}

/// The grid of a model's neurons: `layers` rows of `experts` feed-forward networks with `width` neurons each.
///
/// In a mixture of experts a router sends every token to a few of a layer's experts, and only those can be active there. What a
/// dense model calls its FFN is its only expert, and every token goes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FfnShape {
    /// Number of decoder layers.
    pub layers: usize,
    /// Experts per layer that a router chooses from; 1 in a dense model.
    // Unwritten where it says nothing, so that files of dense models are those of a time that knew no others.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub experts: usize,
    /// Neurons per expert (`intermediate_size` or `moe_intermediate_size` in a Hugging Face config).
    pub width: usize,
}

fn one() -> usize {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_one(experts: &usize) -> bool {
    *experts == 1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(expert: &usize) -> bool {
    *expert == 0
}

impl FfnShape {
    /// The grid of a model with one FFN per layer.
    #[must_use]
    pub const fn dense(layers: usize, width: usize) -> Self {
        Self { layers, experts: 1, width }
    }

    /// Whether a router chooses between experts.
    #[must_use]
    pub fn is_routed(self) -> bool {
        self.experts > 1
    }

    /// Feed-forward networks of the model, `layers · experts`.
    #[must_use]
    pub fn ffns(self) -> usize {
        self.layers * self.experts
    }

    /// Neurons of one layer, `experts · width`.
    #[must_use]
    pub fn layer_width(self) -> usize {
        self.experts * self.width
    }

    /// All neurons of the model, `layers · experts · width`.
    #[must_use]
    pub fn neurons(self) -> usize {
        self.layers * self.layer_width()
    }

    /// [`FfnShape::neurons`] of a shape that comes from a file; none where the product is too large to be meant.
    #[must_use]
    pub fn checked_neurons(self) -> Option<usize> {
        self.layers.checked_mul(self.experts)?.checked_mul(self.width)
    }

    /// Place of a feed-forward network, layer-major and then by expert.
    #[must_use]
    pub fn ffn(self, layer: usize, expert: usize) -> usize {
        layer * self.experts + expert
    }

    /// Place of the feed-forward network that a neuron, by its own place, belongs to.
    #[must_use]
    pub fn ffn_of(self, flat: usize) -> usize {
        flat / self.width
    }

    /// Place of a neuron, layer-major, then by expert, then by index.
    #[must_use]
    pub fn flat(self, neuron: NeuronId) -> usize {
        self.ffn(neuron.layer, neuron.expert) * self.width + neuron.index
    }

    /// The neuron at a place.
    #[must_use]
    pub fn neuron(self, flat: usize) -> NeuronId {
        let ffn = self.ffn_of(flat);
        NeuronId { layer: ffn / self.experts, expert: ffn % self.experts, index: flat % self.width }
    }

    /// Place of a neuron within its layer, `expert · width + index`.
    #[must_use]
    pub fn in_layer(self, neuron: NeuronId) -> usize {
        neuron.expert * self.width + neuron.index
    }

    /// Whether a neuron is one of this grid's.
    #[must_use]
    pub fn holds(self, neuron: NeuronId) -> bool {
        neuron.layer < self.layers && neuron.expert < self.experts && neuron.index < self.width
    }

    /// A neuron in words: `layer 3 neuron 123`, and `layer 3 expert 7 neuron 123` where there are experts.
    #[must_use]
    pub fn words(self, neuron: NeuronId) -> String {
        let NeuronId { layer, expert, index } = neuron;
        if self.is_routed() {
            format!("layer {layer} expert {expert} neuron {index}")
        } else {
            format!("layer {layer} neuron {index}")
        }
    }
}

impl fmt::Display for FfnShape {
    /// `32 layers × 14336 neurons`, `16 layers × 64 experts × 1024 neurons`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { layers, experts, width } = self;
        if self.is_routed() {
            write!(f, "{layers} layers × {experts} experts × {width} neurons")
        } else {
            write!(f, "{layers} layers × {width} neurons")
        }
    }
}

/// A set of neurons of one model: for every layer, the sorted places within it. A layer without neurons is an empty row, never a
/// gap.
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
            assert!(shape.holds(neuron), "{neuron:?} lies outside {shape:?}");
            let place = u32::try_from(shape.in_layer(neuron)).expect("a layer is narrower than 2^32");
            set.layers[neuron.layer].push(place);
        }
        for layer in &mut set.layers {
            layer.sort_unstable();
            layer.dedup();
        }
        set
    }

    /// A set from the places of every layer; none unless every layer is there, in ascending order, without repeats and within the grid.
    #[must_use]
    pub fn from_layers(shape: FfnShape, layers: Vec<Vec<u32>>) -> Option<Self> {
        let ordered = |row: &Vec<u32>| row.is_sorted_by(|a, b| a < b);
        let inside = |row: &Vec<u32>| row.last().is_none_or(|&last| (last as usize) < shape.layer_width());
        (layers.len() == shape.layers && layers.iter().all(|row| ordered(row) && inside(row)))
            .then_some(Self { shape, layers })
    }

    /// How many neurons of a layer are in another set of the same grid too.
    #[must_use]
    pub fn shared(&self, other: &Self, layer: usize) -> usize {
        let (mut mine, mut theirs) = (self.layer(layer).iter().peekable(), other.layer(layer).iter().peekable());
        let mut shared = 0;
        while let (Some(a), Some(b)) = (mine.peek(), theirs.peek()) {
            match a.cmp(b) {
                std::cmp::Ordering::Less => drop(mine.next()),
                std::cmp::Ordering::Greater => drop(theirs.next()),
                std::cmp::Ordering::Equal => {
                    shared += 1;
                    mine.next();
                    theirs.next();
                }
            }
        }
        shared
    }

    /// The grid that the set lives on.
    #[must_use]
    pub fn shape(&self) -> FfnShape {
        self.shape
    }

    /// Sorted places of one layer, [`FfnShape::in_layer`]: a dense model's indices.
    #[must_use]
    pub fn layer(&self, layer: usize) -> &[u32] {
        &self.layers[layer]
    }

    /// Sorted places, layer by layer.
    #[must_use]
    pub fn layers(&self) -> &[Vec<u32>] {
        &self.layers
    }

    /// Sorted indices of one expert.
    pub fn expert(&self, layer: usize, expert: usize) -> impl Iterator<Item = u32> + '_ {
        let row = &self.layers[layer];
        let start = (expert * self.shape.width) as u32;
        let end = start + self.shape.width as u32;
        let within = row.partition_point(|&place| place < start)..row.partition_point(|&place| place < end);
        row[within].iter().map(move |place| place - start)
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
        self.shape.holds(neuron)
            && self.layers[neuron.layer].binary_search(&(self.shape.in_layer(neuron) as u32)).is_ok()
    }

    /// Every neuron, by layer, expert and index.
    pub fn iter(&self) -> impl Iterator<Item = NeuronId> + '_ {
        let width = self.shape.width;
        let id = move |layer, place: usize| NeuronId { layer, expert: place / width, index: place % width };
        let layers = self.layers.iter().enumerate();
        layers.flat_map(move |(layer, row)| row.iter().map(move |&place| id(layer, place as usize)))
    }
}
