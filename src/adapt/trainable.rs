//! A decoder whose trained values are variables. In: a checkpoint and an [`Adaptation`]. Out: the decoder, its named variables, and what the
//! checkpoint's tensors become.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, Var};

use super::{AdaptError, Adaptation};
use crate::{
    checkpoint::Checkpoint,
    model::{Architecture, Decoder, Patch, Site},
};

/// Trained values, in f32 whatever the model runs in.
pub struct Parameter {
    /// A tensor of the checkpoint, or a value of a patch: `layers.3.mlp.gate.values`.
    pub name: String,
    /// The layer that it belongs to, if one.
    pub layer: Option<usize>,
    /// The values.
    pub var: Var,
}

/// A decoder in training.
pub struct Trainable {
    /// The decoder.
    pub decoder: Decoder,
    /// What is trained, in the order of the checkpoint's tensors.
    pub parameters: Vec<Parameter>,
    /// The patches among it.
    pub patches: Vec<(Site, Arc<dyn Patch>)>,
    /// Tensors of the checkpoint that train as a whole.
    pub tensors: Vec<(String, Var)>,
}

impl Trainable {
    /// Loads a checkpoint, frozen in a number format but for what an adaptation trains.
    ///
    /// # Errors
    /// When files and config do not fit, or the device has no room.
    pub fn load(
        checkpoint: &Checkpoint,
        architecture: &Architecture,
        adaptation: &dyn Adaptation,
        dtype: DType,
        device: &Device,
    ) -> std::result::Result<Self, AdaptError> {
        checkpoint.check(&architecture.tensors(), |name| architecture.ignores(name))?;
        let (mut tensors, mut patches) = (Vec::new(), Vec::new());
        let decoder = Decoder::trained(
            architecture,
            |name| {
                if !adaptation.unfreezes(name) {
                    return checkpoint.tensor(name, dtype, device);
                }
                let var = Var::from_tensor(&checkpoint.tensor(name, DType::F32, device)?)?;
                tensors.push((name.to_owned(), var.clone()));
                Ok(var.into_inner())
            },
            |site, weight| {
                let patch = adaptation.patch(site, weight)?;
                patches.extend(patch.clone().map(|patch| (site, patch)));
                Ok(patch)
            },
        )?;
        let whole = tensors.iter().map(|(name, var)| {
            let layer = layer_of(architecture, name);
            Parameter { name: name.clone(), layer, var: var.clone() }
        });
        let beside = patches.iter().flat_map(|(site, patch)| {
            patch.vars().into_iter().map(move |(name, var)| Parameter {
                name: format!("{site}.{name}"),
                layer: Some(site.layer),
                var: var.clone(),
            })
        });
        let parameters = whole.chain(beside).collect();
        Ok(Self { decoder, parameters, patches, tensors })
    }

    /// How many values are trained.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.parameters.iter().map(|parameter| parameter.var.elem_count() as u64).sum()
    }

    /// The variables.
    #[must_use]
    pub fn vars(&self) -> Vec<Var> {
        self.parameters.iter().map(|parameter| parameter.var.clone()).collect()
    }

    /// Sets the seed of what is random in training; none where nothing is to be random.
    pub fn seed(&self, seed: Option<u64>) {
        self.patches.iter().for_each(|(_, patch)| patch.seed(seed));
    }

    /// The patch beside a projection.
    #[must_use]
    pub fn patch(&self, site: Site) -> Option<&dyn Patch> {
        self.patches.iter().find(|(own, _)| *own == site).map(|(_, patch)| &**patch)
    }
}

/// A tensor's values on the host.
pub fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

/// The layer that a tensor of the checkpoint belongs to.
fn layer_of(architecture: &Architecture, name: &str) -> Option<usize> {
    let names = &architecture.names;
    let rest = name.strip_prefix(&format!("{}{}.", names.prefix, names.layers))?;
    rest.split('.').next()?.parse().ok()
}
