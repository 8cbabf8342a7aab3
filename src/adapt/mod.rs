//! Fine-tuning a language's neurons, and the methods that it is compared with.
//! In: a checkpoint, text, an [`Adaptation`] that says what trains. Out: a run folder that resumes, a [`Delta`] of replaced weights, and a
//! plain checkpoint or adapter made from it.
//!
//! ```text
//! Adaptation -> Trainable (decoder, variables, patches) -> Trainer over Text -> Delta -> { apply | adapter | weight changes | report }
//! ```

mod adapter;
mod apply;
mod changes;
mod cost;
mod delta;
mod dropout;
mod ffn;
mod full;
mod ia3;
mod last_layers;
mod lora;
mod mask;
mod optimiser;
mod random;
mod report;
mod run;
mod subnetwork;
mod text;
mod trainable;
mod trainer;

use std::{path::PathBuf, sync::Arc};

use candle_core::Tensor;

pub use self::{
    adapter::{adapter, exports},
    apply::{Applied, apply},
    changes::{Change, changes},
    cost::{Cost, cost},
    delta::{Delta, DeltaHead, write as write_delta},
    dropout::dropout,
    mask::{AtlasMask, read as read_mask},
    optimiser::{AdamW, DecayTo, Moments, Schedule, clip, norm},
    report::{Page, page},
    run::{Metric, RunFolder, RunHead},
    text::{Text, TextPlan, targets},
    trainable::{Parameter, Trainable},
    trainer::{Event, Finish, Outcome, Settings, Trainer},
};
use crate::{
    atlas::AtlasError,
    checkpoint::CheckpointError,
    corpus::CorpusError,
    identify::Matching,
    language::LanguageCode,
    model::{Architecture, ModelError, Patch, Projection, Site},
    neuron::NeuronSet,
    output::{self, OutputError},
    tokens::TokensError,
};

/// Which weights of a model train, and by which patches.
pub trait Adaptation: Send + Sync {
    /// Whether a tensor of the checkpoint trains as a whole.
    fn unfreezes(&self, parameter: &str) -> bool {
        let _ = parameter;
        false
    }

    /// The patch beside a projection, whose weight `[out, in]` stays as it is; none where nothing is trained.
    ///
    /// # Errors
    /// When the device has no room.
    fn patch(&self, site: Site, weight: &Tensor) -> candle_core::Result<Option<Arc<dyn Patch>>> {
        let _ = (site, weight);
        Ok(None)
    }

    /// How many values the patch beside a projection `[out, in]` has, known without its weight.
    fn size(&self, site: Site, out: usize, inner: usize) -> u64 {
        let _ = (site, out, inner);
        0
    }

    /// The neurons that train, of a method that trains nothing else: their rows and columns are what is kept of it.
    fn neurons(&self) -> Option<&NeuronSet> {
        None
    }
}

/// A row of the table of methods.
pub struct Method {
    /// Its name on the command line and in files.
    pub name: &'static str,
    /// What trains, in one sentence.
    pub help: &'static str,
    /// Learning rate unless another is asked for.
    pub rate: f64,
    /// Largest norm of the gradient unless another is asked for.
    pub clip: f64,
    /// Whether it needs the neurons of a language.
    pub neurons: bool,
    open: fn(&Choice) -> Result<Box<dyn Adaptation>, AdaptError>,
}

/// Every method, one file each.
pub const METHODS: &[Method] =
    &[subnetwork::METHOD, random::METHOD, last_layers::METHOD, ffn::METHOD, full::METHOD, lora::METHOD, ia3::METHOD];

/// What a method is opened with.
pub struct Choice<'a> {
    /// The model.
    pub architecture: &'a Architecture,
    /// The language.
    pub language: LanguageCode,
    /// The neurons that serve it, where the method needs them.
    pub neurons: Option<&'a NeuronSet>,
    /// Seed of whatever is drawn.
    pub seed: u64,
    /// What a random control has in common with the neurons.
    pub matching: Matching,
    /// Rank of LoRA.
    pub rank: usize,
    /// LoRA's product is multiplied by α / rank.
    pub alpha: f64,
    /// Share of LoRA's inputs that are dropped in training.
    pub dropout: f64,
}

impl Method {
    /// The method of a name.
    ///
    /// # Errors
    /// When there is none.
    pub fn named(name: &str) -> Result<&'static Self, AdaptError> {
        METHODS.iter().find(|method| method.name == name).ok_or_else(|| AdaptError::Method {
            asked: name.to_owned(),
            known: METHODS.iter().map(|method| method.name).collect::<Vec<_>>().join(", "),
        })
    }

    /// What trains, of a model without experts.
    ///
    /// # Errors
    /// When the model has experts or the neurons are missing or of another model.
    pub fn open(&self, choice: &Choice) -> Result<Box<dyn Adaptation>, AdaptError> {
        if choice.architecture.spec.feed_forward.routing.is_some() {
            return Err(AdaptError::Experts);
        }
        (self.open)(choice)
    }
}

impl Choice<'_> {
    /// The neurons, for a method that cannot do without.
    fn neurons(&self) -> Result<&NeuronSet, AdaptError> {
        let neurons = self.neurons.ok_or(AdaptError::NoMask)?;
        if neurons.is_empty() {
            return Err(AdaptError::NoNeurons { language: self.language });
        }
        Ok(neurons)
    }
}

/// The weights and biases of all feed-forward networks, by their names in the checkpoint.
fn ffn_tensors(architecture: &Architecture) -> Vec<String> {
    let needed: Vec<String> = architecture.tensors().into_iter().map(|need| need.name).collect();
    let mut stems = Vec::new();
    for layer in 0..architecture.spec.ffn.layers {
        for projection in [Projection::Gate, Projection::Up, Projection::Down] {
            stems.extend(architecture.place(Site { layer, projection }).map(|place| place.stem));
        }
    }
    let names = stems.iter().flat_map(|stem| [format!("{stem}.weight"), format!("{stem}.bias")]);
    let mut names: Vec<String> = names.filter(|name| needed.contains(name)).collect();
    names.sort();
    names.dedup();
    names
}

/// What can be wrong with an adaptation.
#[derive(Debug, thiserror::Error)]
pub enum AdaptError {
    /// A method that is not in the table.
    #[error("--method {asked}: there is no such method; write one of {known}")]
    Method {
        /// What was asked for.
        asked: String,
        /// What there is.
        known: String,
    },
    /// A model with experts.
    #[error(
        "models with experts are not adapted: a router sends each token elsewhere, and masks of experts would train on few of them; take a dense model"
    )]
    Experts,
    /// A method that needs neurons, without any.
    #[error(
        "this method trains the neurons of a language; say where they are with --atlas: an atlas folder, a mask file, or OWNER/NAME on a Hub"
    )]
    NoMask,
    /// A mask without neurons.
    #[error(
        "no neuron serves {language} in this atlas, so there is nothing to train; take a larger --top-rate or another method"
    )]
    NoNeurons {
        /// The language.
        language: LanguageCode,
    },
    /// A mask of another model.
    #[error("{path}: is of {what} {theirs}, but the model here has {ours}; {advice}")]
    OtherModel {
        /// The atlas or the mask.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// What the mask says.
        theirs: String,
        /// What the model says.
        ours: String,
        /// What to do.
        advice: &'static str,
    },
    /// A mask file without the language.
    #[error("{path}: has no neurons of {language}; it has {held}")]
    NotInMask {
        /// The mask.
        path: PathBuf,
        /// What was asked for.
        language: LanguageCode,
        /// What there is.
        held: String,
    },
    /// A model whose weights cannot be replaced one by one.
    #[error("{path}: is a GGUF file, whose weights cannot be replaced one by one; adapt the model's safetensors")]
    Gguf {
        /// The file.
        path: PathBuf,
    },
    /// Text without enough documents to hold some out.
    #[error(
        "{corpus}: every twentieth document of {language} is held out for validation, and of {documents} none is left for it; take --document line where every line stands alone, or give other text with --validation-corpus"
    )]
    NoHeldOut {
        /// The corpus.
        corpus: String,
        /// The language.
        language: LanguageCode,
        /// Documents that were read.
        documents: u64,
    },
    /// Text without one full window.
    #[error(
        "{corpus} has {tokens} tokens in {language}, but a window takes {context}; take more text or a smaller --context"
    )]
    TooShort {
        /// The corpus.
        corpus: String,
        /// The language.
        language: LanguageCode,
        /// Tokens that were read.
        tokens: u64,
        /// Tokens per window.
        context: usize,
    },
    /// A folder that holds another run.
    #[error(
        "{path}: holds another run, which differs in {what}; choose another --out, or the same settings to continue it"
    )]
    OtherRun {
        /// The folder.
        path: PathBuf,
        /// The first setting that differs.
        what: String,
    },
    /// A folder with other things in it.
    #[error("{path}: is not empty and holds no run; choose an empty or new folder with --out")]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// A file that is not what it should be.
    #[error("{path}: {problem}{}", output::unless_said(.problem, "; make it again"))]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A delta on another base.
    #[error(
        "{path}: replaces weights of {base}, but tensor `{tensor}` of {model} is not that model's (its SHA-256 differs); take --model {base}"
    )]
    OtherBase {
        /// The delta.
        path: PathBuf,
        /// The base model.
        base: String,
        /// The tensor.
        tensor: String,
        /// The model given.
        model: PathBuf,
    },
    /// A loss that is no number any more.
    #[error("step {step}: the loss is {loss}; take a smaller --lr{}", if *.bf16 { " or --dtype f32" } else { "" })]
    Diverged {
        /// The step.
        step: u64,
        /// The loss.
        loss: f64,
        /// Whether it was computed in bf16.
        bf16: bool,
    },
    /// An adapter that PEFT cannot read.
    #[error(
        "{method}: has no form that PEFT reads for this family, whose checkpoints store several projections as one; take the delta"
    )]
    NoAdapter {
        /// The method.
        method: String,
    },
    /// The atlas.
    #[error(transparent)]
    Atlas(#[from] AtlasError),
    /// The model's files.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The arithmetic.
    #[error("the model's arithmetic failed: {0}")]
    Tensor(#[from] candle_core::Error),
    /// The text.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// The corpus.
    #[error(transparent)]
    Corpus(#[from] CorpusError),
    /// A file that cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
}

impl AdaptError {
    fn broken(path: &std::path::Path, problem: impl std::fmt::Display) -> Self {
        Self::Broken { path: path.to_owned(), problem: problem.to_string() }
    }
}
