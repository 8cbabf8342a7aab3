//! Fixtures of tensors, and what tests compare them by.

use std::{collections::HashMap, path::Path};

use candle_core::{DType, Device, Tensor};
use neuroglot::model::{Decoder, Tally};

/// The tensors of a safetensors file.
pub fn fixture(path: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

pub fn ids(tensor: &Tensor) -> Tensor {
    tensor.to_dtype(DType::U32).unwrap()
}

pub fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

pub fn floats(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// A tally over a batch whose tokens are all of fold 0.
pub fn tally(decoder: &Decoder, ids: &Tensor, forward: impl FnOnce(&mut Tally)) -> Tally {
    let mut tally = Tally::new(decoder.spec().ffn, 1);
    let (batch, seq) = ids.dims2().unwrap();
    let folds = vec![vec![0u8; seq]; batch];
    tally.begin(folds.iter().map(Vec::as_slice));
    forward(&mut tally);
    tally
}

/// Whether counts differ at no neuron by more than the gates that are too near to 0 for two programs to agree on.
pub fn counts_agree(found: &[u64], reference: &Tensor, near_zero: &Tensor) -> Result<(), String> {
    let (reference, near_zero) = (floats(reference), floats(near_zero));
    assert_eq!(found.len(), reference.len());
    let differs = |neuron: &usize| (found[*neuron] as f64 - reference[*neuron]).abs() > near_zero[*neuron];
    match (0..found.len()).find(differs) {
        Some(neuron) => Err(format!("neuron {neuron}: {} here, {} in the reference", found[neuron], reference[neuron])),
        None => Ok(()),
    }
}
