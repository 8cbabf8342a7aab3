//! What a run will take: trained values per layer, memory, steps; from the config alone.

use candle_core::DType;
use serde::Serialize;

use super::Adaptation;
use crate::model::{Activations, Architecture, Projection, Site};

/// What a run will take.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// Values of the model.
    pub parameters: u64,
    /// Values that train.
    pub trained: u64,
    /// Per layer.
    pub per_layer: Vec<u64>,
    /// Trained values of no layer.
    pub outside: u64,
    /// Steps.
    pub steps: u64,
    /// Tokens in all.
    pub tokens: u64,
    /// Bytes of the weights.
    pub weight_bytes: u64,
    /// Bytes of trained values, their gradients and two moments.
    pub trained_bytes: u64,
    /// Bytes of activations at the largest.
    pub activation_bytes: u64,
}

/// Values of a layer that are kept per token for the backward pass, in widths of the residual stream, of queries, of keys and of the FFN:
/// where it is written out (`model/training/pass.rs`), both inputs, what attention was given, gate and up; through the graph, more.
const WRITTEN: [usize; 4] = [2, 1, 2, 2];
const GRAPH: [usize; 4] = [5, 3, 3, 3];
/// Logits of 256 tokens, their gradient and the sum of gradients.
const LOGITS: usize = 256 * 3;

/// The cost of a run.
#[must_use]
pub fn cost(
    adaptation: &dyn Adaptation,
    architecture: &Architecture,
    dtype: DType,
    activations: Activations,
    [batch, accumulate, context]: [usize; 3],
    steps: u64,
) -> Cost {
    let spec = &architecture.spec;
    let mut per_layer = vec![0; spec.ffn.layers];
    let mut outside = 0;
    let names = &architecture.names;
    let prefix = format!("{}{}.", names.prefix, names.layers);
    for need in architecture.tensors() {
        let size = need.shape.iter().product::<usize>() as u64;
        if adaptation.unfreezes(&need.name) {
            let layer = need.name.strip_prefix(&prefix).and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
            match layer.and_then(|layer| per_layer.get_mut(layer)) {
                Some(layer) => *layer += size,
                None => outside += size,
            }
        }
    }
    let attention = &spec.attention;
    let [queries, keys] = [attention.heads, attention.kv_heads].map(|heads| heads * attention.head_dim);
    let (hidden, width) = (spec.hidden, spec.ffn.width);
    for (layer, sum) in per_layer.iter_mut().enumerate() {
        for projection in Projection::ALL {
            let site = Site { layer, projection };
            if architecture.place(site).is_none() {
                continue;
            }
            let (out, inner) = match projection {
                Projection::Query => (queries, hidden),
                Projection::Key | Projection::Value => (keys, hidden),
                Projection::Output => (hidden, queries),
                Projection::Gate | Projection::Up => (width, hidden),
                Projection::Down => (hidden, width),
            };
            *sum += adaptation.size(site, out, inner);
        }
    }
    let trained = per_layer.iter().sum::<u64>() + outside;
    let widths = [hidden, queries, keys, width];
    let by = if adaptation.neurons().is_some() { WRITTEN } else { GRAPH };
    let kept: usize = by.iter().zip(widths).map(|(times, width)| times * width).sum();
    let tokens = batch * context;
    let layers = spec.ffn.layers;
    let values = match activations {
        Activations::Kept => tokens * kept * layers,
        // The inputs of all layers, and one layer.
        Activations::Recomputed => tokens * (hidden * layers + kept),
    };
    let bytes = dtype.size_in_bytes() as u64;
    Cost {
        parameters: architecture.parameters(),
        trained,
        per_layer,
        outside,
        steps,
        tokens: steps * (tokens * accumulate) as u64,
        weight_bytes: architecture.parameters() * bytes,
        trained_bytes: trained * 4 * 4,
        activation_bytes: ((values + LOGITS * spec.vocabulary) * 4) as u64,
    }
}
