//! A safetensors file of masks.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use neuroglot::{atlas::MaskSet, neuron::FfnShape};

fuzz_target!(|bytes: &[u8]| {
    let shape = FfnShape { layers: 2, experts: 1, width: 48 };
    if let Ok(sets) = MaskSet::parse(Path::new("masks.safetensors"), bytes, shape) {
        assert!(sets.values().all(|set| set.shape() == shape && set.iter().all(|neuron| shape.holds(neuron))));
    }
});
