//! A model with all that a method of adaptation needs of it, for tests.

use std::path::{Path as FilePath, PathBuf};

use candle_core::{DType, Device, Tensor};
use neuroglot::{
    adapt::{self, Adaptation, Choice, Method, Trainable},
    checkpoint::Checkpoint,
    identify::Matching,
    model::{Architecture, Decoder, Path, family},
    neuron::{NeuronId, NeuronSet},
};

use crate::tensors::{fixture, floats, ids};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

pub fn folder(name: &str) -> PathBuf {
    FilePath::new(FIXTURES).join(name)
}

/// Every tiny checkpoint without experts.
pub fn dense() -> Vec<PathBuf> {
    let inside = |name: &str| std::fs::read_dir(folder(name)).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<_> = inside("families").chain(inside("tiny-llama")).collect();
    folders.retain(|folder| {
        let architecture = family::read(&Checkpoint::open(folder).unwrap()).unwrap();
        architecture.spec.feed_forward.routing.is_none()
    });
    folders.sort();
    folders
}

/// A model with all that a method needs of it.
pub struct Bench {
    pub checkpoint: Checkpoint,
    pub architecture: Architecture,
    pub neurons: NeuronSet,
    pub ids: Tensor,
}

impl Bench {
    pub fn new(folder: &FilePath) -> Self {
        let checkpoint = Checkpoint::open(folder).unwrap();
        let architecture = family::read(&checkpoint).unwrap();
        let shape = architecture.spec.ffn;
        let all =
            (0..shape.layers).flat_map(|layer| (1..shape.width).step_by(5).map(move |i| NeuronId::dense(layer, i)));
        let neurons = NeuronSet::new(shape, all);
        let ids = ids(&fixture(&folder.join("reference.safetensors"))["input_ids"]);
        Self { checkpoint, architecture, neurons, ids }
    }

    pub fn choice(&self) -> Choice<'_> {
        Choice {
            architecture: &self.architecture,
            language: "mlt_Latn".parse().unwrap(),
            neurons: Some(&self.neurons),
            seed: 7,
            matching: Matching::PerLayer,
            rank: 4,
            alpha: 8.0,
            dropout: 0.0,
        }
    }

    pub fn open(&self, method: &Method) -> (Box<dyn Adaptation>, Trainable) {
        let adaptation = method.open(&self.choice()).unwrap();
        let trainable = self.load(&*adaptation, DType::F32, &Device::Cpu);
        (adaptation, trainable)
    }

    pub fn load(&self, adaptation: &dyn Adaptation, dtype: DType, device: &Device) -> Trainable {
        Trainable::load(&self.checkpoint, &self.architecture, adaptation, dtype, device).unwrap()
    }

    /// What a method trains, each value moved a little, somewhere.
    #[cfg(feature = "cuda")]
    pub fn disturbed(&self, method: &str, dtype: DType, device: &Device) -> Trainable {
        let adaptation = Method::named(method).unwrap().open(&self.choice()).unwrap();
        let trainable = self.load(&*adaptation, dtype, device);
        disturb(&trainable);
        trainable
    }

    pub fn targets(&self) -> Vec<u32> {
        targets(&self.ids)
    }

    pub fn base(&self) -> Decoder {
        Decoder::load(&self.checkpoint, DType::F32, &Device::Cpu, Path::Inference).unwrap()
    }
}

pub fn targets(ids: &Tensor) -> Vec<u32> {
    adapt::targets(&ids.flatten_all().unwrap().to_vec1::<u32>().unwrap(), ids.dim(1).unwrap())
}

pub fn each(folders: &[PathBuf], check: impl Fn(&Bench) -> Result<(), String>) {
    let failures: Vec<String> = folders
        .iter()
        .filter_map(|folder| {
            let name = folder.file_name().unwrap().to_string_lossy().into_owned();
            check(&Bench::new(folder)).err().map(|why| format!("{name}: {why}"))
        })
        .collect();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

/// Moves every value a little, each otherwise.
pub fn disturb(trainable: &Trainable) {
    let mut seed = 1u32;
    for parameter in &trainable.parameters {
        let noise: Vec<f32> = (0..parameter.var.elem_count())
            .map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((seed >> 8) as f32 / (1 << 24) as f32 - 0.5) * 0.05
            })
            .collect();
        let noise = Tensor::from_vec(noise, parameter.var.shape(), parameter.var.device()).unwrap();
        parameter.var.set(&(parameter.var.as_tensor() + noise).unwrap()).unwrap();
    }
}

pub fn relative(found: &Tensor, wanted: &Tensor) -> f64 {
    let (found, wanted) = (floats(found), floats(wanted));
    assert_eq!(found.len(), wanted.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut found.iter().zip(&wanted).map(|(a, b)| a - b)) / norm(&mut wanted.iter().copied()).max(1e-30)
}
