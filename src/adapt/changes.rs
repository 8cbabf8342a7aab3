//! How far an adaptation moved the weights, per layer and projection, over what was trained: relative to the size of the trained weights,
//! for a raw norm grows with their number.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{AdaptError, delta::Delta};
use crate::{
    checkpoint::Checkpoint,
    model::{Architecture, Projection},
};

/// The change of one projection of a layer, or of one tensor that is no projection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The layer, from 0, of a projection.
    pub layer: Option<usize>,
    /// Which projection.
    pub projection: Option<Projection>,
    /// The tensor of the checkpoint.
    pub tensor: String,
    /// Weights that could change.
    pub weights: u64,
    /// ‖Δ‖ / ‖W‖ over them (Frobenius); 0 where they are all zero and stayed so.
    pub relative: f64,
    /// Mean of |Δ| over them.
    pub mean: f64,
}

/// The changes that a delta makes, by layer and projection.
///
/// # Errors
/// When a file cannot be read.
pub fn changes(delta: &Delta, checkpoint: &Checkpoint, architecture: &Architecture) -> Result<Vec<Change>, AdaptError> {
    let mut found = BTreeMap::new();
    delta.parts(checkpoint, architecture, |name, site, before, after| {
        let (mut moved, mut size, mut sum) = (0f64, 0f64, 0f64);
        for (&before, &after) in before.iter().zip(after) {
            let change = f64::from(after) - f64::from(before);
            moved += change * change;
            size += f64::from(before) * f64::from(before);
            sum += change.abs();
        }
        let relative = if moved == 0.0 { 0.0 } else { (moved / size).sqrt() };
        let change = Change {
            layer: site.map(|site| site.layer),
            projection: site.map(|site| site.projection),
            tensor: name.to_owned(),
            weights: before.len() as u64,
            relative,
            mean: sum / before.len().max(1) as f64,
        };
        found.insert((site.is_none(), site, name.to_owned()), change);
    })?;
    Ok(found.into_values().collect())
}
