//! Architectures: config.json to a [`DecoderSpec`] and the names of its tensors. Data, no forward pass.

mod config;
mod fields;
mod names;

mod bloom;
mod cohere;
mod cohere2;
mod gemma;
mod gemma2;
mod gemma3;
mod gpt2;
mod gpt_neox;
mod llama;
mod mistral;
mod mixtral;
mod olmo2;
mod opt;
mod phi;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod smollm3;

use std::path::PathBuf;

use config::Config;
pub use config::ConfigError;
pub use names::{Architecture, Fused, Names};

use serde_json::{Map, Value};

use super::{DecoderSpec, spec};
use crate::checkpoint::Checkpoint;

/// One architecture.
pub struct Family {
    /// `model_type` in config.json.
    pub model_type: &'static str,
    /// Models of this architecture that readers know.
    pub models: &'static str,
    read: fn(&mut Config) -> Result<Architecture, ConfigError>,
}

/// Every architecture.
pub const FAMILIES: &[Family] = &[
    Family {
        model_type: "llama",
        models: "Llama 1 to 3.3, SmolLM and SmolLM2, TinyLlama, Salamandra, EuroLLM",
        read: llama::read,
    },
    Family { model_type: "mistral", models: "Mistral 7B, Mistral Nemo, Ministral", read: mistral::read },
    Family { model_type: "mixtral", models: "Mixtral 8x7B and 8x22B", read: mixtral::read },
    Family { model_type: "qwen2", models: "Qwen 1.5, 2 and 2.5", read: qwen2::read },
    Family { model_type: "qwen3", models: "Qwen 3", read: qwen3::read },
    Family { model_type: "qwen3_moe", models: "Qwen 3 with experts", read: qwen3_moe::read },
    Family { model_type: "gemma", models: "Gemma", read: gemma::read },
    Family { model_type: "gemma2", models: "Gemma 2", read: gemma2::read },
    Family { model_type: "gemma3_text", models: "Gemma 3 270M and 1B", read: gemma3::read },
    Family { model_type: "gemma3", models: "Gemma 3 4B to 27B (their text part)", read: gemma3::read_multimodal },
    Family { model_type: "phi3", models: "Phi 3, 3.5 and 4", read: phi3::read },
    Family { model_type: "olmo2", models: "OLMo 2", read: olmo2::read },
    Family { model_type: "cohere", models: "Command R, Aya 23, Aya Expanse", read: cohere::read },
    Family { model_type: "cohere2", models: "Command R7B, Command A", read: cohere2::read },
    Family { model_type: "smollm3", models: "SmolLM3", read: smollm3::read },
    Family { model_type: "gpt_neox", models: "GPT-NeoX-20B, Pythia", read: gpt_neox::read },
    Family { model_type: "phi", models: "Phi 1, 1.5 and 2", read: phi::read },
    Family { model_type: "bloom", models: "BLOOM, BLOOMZ", read: bloom::read },
    Family { model_type: "opt", models: "OPT (but not 350M)", read: opt::read },
    Family { model_type: "gpt2", models: "GPT-2 and its many descendants", read: gpt2::read },
];

/// Reads a checkpoint's config by the family that it names. Every field is either used, known to change nothing, or an error.
///
/// # Errors
/// When the family is unknown, or a field is missing, malformed, or asks for arithmetic that is not implemented.
pub fn read(checkpoint: &Checkpoint) -> Result<Architecture, ConfigError> {
    of_config(checkpoint.config_path(), checkpoint.config(), &|name| checkpoint.has(name))
}

/// The same without a checkpoint: a config, and which tensors there are.
///
/// # Errors
/// As [`read`].
pub fn of_config(
    path: PathBuf,
    fields: &Map<String, Value>,
    has: &dyn Fn(&str) -> bool,
) -> Result<Architecture, ConfigError> {
    let mut config = Config::new(path, fields, has);
    let model_type: String = config.text("model_type")?;
    let family = FAMILIES.iter().find(|family| family.model_type == model_type);
    let known = || FAMILIES.iter().map(|family| family.model_type).collect::<Vec<_>>().join(", ");
    let family = family.ok_or_else(|| config.unknown_family(model_type, known()))?;
    let architecture = (family.read)(&mut config)?;
    config.finish()?;
    Ok(architecture)
}
