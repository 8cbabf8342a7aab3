//! A GGUF file's metadata as a config.json: Hugging Face's fields, so that `model::family` reads both alike.
//! In: the file. Out: the config, or a refusal of what would change the arithmetic and is not understood.

use std::{cell::RefCell, collections::BTreeSet};

use serde_json::{Map, Value, json};

use super::{GgufError, architecture::Architecture, file::GgufFile};
use crate::checkpoint::CheckpointError;

/// Keys of an architecture that say nothing about the arithmetic of a forward pass over text.
const INERT: &[&str] = &["pooling_type", "rope.scaling.finetuned", "vocab_size"];

/// Keys that are inert at one value, and change the arithmetic at every other.
const INERT_AT: &[(&str, f64)] = &[
    ("attention.causal", 1.0),
    ("attention.clamp_kqv", 0.0),
    ("attention.max_alibi_bias", 0.0),
    ("expert_count", 0.0),
    ("expert_used_count", 0.0),
    ("rope.scaling.attn_factor", 1.0),
    ("use_parallel_residual", 0.0),
];

/// The config that a file's metadata and tensors amount to. Fields stand in a fixed order: its bytes are hashed.
pub fn config(file: &GgufFile, architecture: &Architecture) -> Result<Map<String, Value>, CheckpointError> {
    let metadata = Metadata { file, architecture, read: RefCell::default() };
    let mut config = metadata.common()?;
    let own = match architecture.name {
        "gemma" => metadata.gemma(),
        "gemma2" => metadata.gemma2(&config)?,
        "gemma3" => metadata.gemma3(&config)?,
        _ => metadata.plain(),
    };
    config.extend(own);
    if let Some(scaling) = metadata.rope_scaling(&config)? {
        config.insert("rope_scaling".to_owned(), scaling);
    }
    metadata.finish()?;
    Ok(config)
}

/// The metadata of one architecture, with a memory of which keys were read.
struct Metadata<'a> {
    file: &'a GgufFile,
    architecture: &'a Architecture,
    read: RefCell<BTreeSet<String>>,
}

type Fields = Map<String, Value>;

impl Metadata<'_> {
    fn key(&self, name: &str) -> String {
        let key = format!("{}.{name}", self.architecture.name);
        self.read.borrow_mut().insert(key.clone());
        key
    }

    fn whole(&self, name: &str) -> Result<Option<u64>, GgufError> {
        self.file.whole(&self.key(name))
    }

    fn number(&self, name: &str) -> Result<Option<f64>, GgufError> {
        self.file.number(&self.key(name))
    }

    fn absent(&self, name: &str) -> GgufError {
        GgufError::Absent { path: self.file.path.clone(), key: self.key(name) }
    }

    fn size(&self, name: &str) -> Result<u64, GgufError> {
        self.whole(name)?.ok_or_else(|| self.absent(name))
    }

    fn refuse(&self, name: &str, implemented: impl ToString) -> GgufError {
        let (path, key) = (self.file.path.clone(), self.key(name));
        let found = self.file.shown(&key);
        GgufError::NotImplemented { path, key, found, implemented: implemented.to_string() }
    }

    /// Whether the first layer's projection has a bias.
    fn biased(&self, projections: &[&str]) -> bool {
        projections.iter().any(|name| self.file.tensors.contains_key(&format!("blk.0.{name}.bias")))
    }

    /// What every architecture has.
    fn common(&self) -> Result<Fields, GgufError> {
        let (hidden, heads) = (self.size("embedding_length")?, self.size("attention.head_count")?);
        let mut fields = Map::new();
        let mut set = |field: &str, value: Value| fields.insert(field.to_owned(), value);
        set("model_type", self.architecture.model_type.into());
        set("vocab_size", self.vocabulary()?.into());
        set("hidden_size", hidden.into());
        set("intermediate_size", self.size("feed_forward_length")?.into());
        set("num_hidden_layers", self.size("block_count")?.into());
        set("num_attention_heads", heads.into());
        set("num_key_value_heads", self.whole("attention.head_count_kv")?.unwrap_or(heads).into());
        set("head_dim", self.head_dim(hidden, heads)?.into());
        set(
            "rms_norm_eps",
            self.number("attention.layer_norm_rms_epsilon")?
                .ok_or_else(|| self.absent("attention.layer_norm_rms_epsilon"))?
                .into(),
        );
        set("rope_theta", self.number("rope.freq_base")?.unwrap_or(10_000.0).into());
        set("max_position_embeddings", self.size("context_length")?.into());
        set("tie_word_embeddings", (!self.file.tensors.contains_key("output.weight")).into());
        for (key, field) in [("bos", "bos_token_id"), ("eos", "eos_token_id"), ("padding", "pad_token_id")] {
            if let Some(id) = self.file.whole(&format!("tokenizer.ggml.{key}_token_id"))? {
                set(field, id.into());
            }
        }
        Ok(fields)
    }

    /// Rows of the embedding; a file without weights has as many as tokens.
    fn vocabulary(&self) -> Result<u64, GgufError> {
        match self.file.tensors.get("token_embd.weight") {
            Some(embedding) => Ok(embedding.shape[0] as u64),
            None => Ok(self.file.texts("tokenizer.ggml.tokens")?.map_or(0, |tokens| tokens.len() as u64)),
        }
    }

    /// Width of a head, for queries, keys and values alike, all of it turned by position.
    fn head_dim(&self, hidden: u64, heads: u64) -> Result<u64, GgufError> {
        let width = match self.whole("attention.key_length")? {
            Some(width) => width,
            None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
            None => return Err(self.refuse("attention.head_count", format!("a divisor of embedding_length, {hidden}"))),
        };
        for name in ["attention.value_length", "rope.dimension_count"] {
            if self.whole(name)?.is_some_and(|other| other != width) {
                return Err(self.refuse(name, format!("the width of a head ({width})")));
            }
        }
        Ok(width)
    }

    /// Llama and Qwen.
    fn plain(&self) -> Fields {
        let mut fields = object(json!({ "hidden_act": "silu" }));
        // Qwen 2's config has no such field: it always has biases on queries, keys and values.
        if self.architecture.name != "qwen2" {
            fields.insert(
                "attention_bias".to_owned(),
                self.biased(&["attn_q", "attn_k", "attn_v", "attn_output"]).into(),
            );
        }
        if self.architecture.name == "llama" {
            fields.insert("mlp_bias".to_owned(), self.biased(&["ffn_gate", "ffn_up", "ffn_down"]).into());
        }
        fields
    }

    fn gemma(&self) -> Fields {
        object(json!({
            "hidden_act": "gelu_pytorch_tanh",
            "attention_bias": self.biased(&["attn_q", "attn_k", "attn_v", "attn_output"]),
        }))
    }

    fn gemma2(&self, common: &Fields) -> Result<Fields, GgufError> {
        // Where an older file says nothing, llama.cpp takes the published models' numbers, and so do we.
        Ok(object(json!({
            "hidden_activation": "gelu_pytorch_tanh",
            "attention_bias": self.biased(&["attn_q", "attn_k", "attn_v", "attn_output"]),
            "query_pre_attn_scalar": query_scale(common, 46),
            "attn_logit_softcapping": self.number("attn_logit_softcapping")?.unwrap_or(50.0),
            "final_logit_softcapping": self.number("final_logit_softcapping")?.unwrap_or(30.0),
            "sliding_window": self.whole("attention.sliding_window")?.unwrap_or(4096),
            "layer_types": self.layer_types(common, 2)?,
        })))
    }

    fn gemma3(&self, common: &Fields) -> Result<Fields, GgufError> {
        Ok(object(json!({
            "hidden_activation": "gelu_pytorch_tanh",
            "attention_bias": self.biased(&["attn_q", "attn_k", "attn_v", "attn_output"]),
            "query_pre_attn_scalar": query_scale(common, 62),
            "attn_logit_softcapping": self.number("attn_logit_softcapping")?,
            "final_logit_softcapping": self.number("final_logit_softcapping")?,
            "sliding_window": self.size("attention.sliding_window")?,
            "layer_types": self.layer_types(common, 6)?,
            "rope_local_base_freq": self.number("rope.freq_base_swa")?.unwrap_or(10_000.0),
        })))
    }

    /// Which layers see only the window: all but every n-th, or as the file lists them.
    fn layer_types(&self, common: &Fields, usual: u64) -> Result<Vec<&'static str>, GgufError> {
        let layers = common["num_hidden_layers"].as_u64().unwrap_or_default();
        let key = self.key("attention.sliding_window_pattern");
        let wanted = "a number of layers, or a switch for every layer";
        let sliding: Vec<bool> = match self.file.numbers(&key, wanted)?.as_deref() {
            None => every(usual, layers),
            Some([n]) if *n >= 1.0 => every(*n as u64, layers),
            Some(switches) if switches.len() as u64 == layers => switches.iter().map(|n| *n != 0.0).collect(),
            Some(_) => return Err(self.file.metadata_error(&key, wanted)),
        };
        Ok(sliding.iter().map(|&sliding| if sliding { "sliding_attention" } else { "full_attention" }).collect())
    }

    fn rope_scaling(&self, config: &Fields) -> Result<Option<Value>, CheckpointError> {
        let kind = self.file.text(&self.key("rope.scaling.type"))?;
        let factor = self.number("rope.scaling.factor")?.or(self.number("rope.scale_linear")?);
        // Without YaRN the length before scaling is only a fact about the training.
        self.key("rope.scaling.original_context_length");
        let linear = match (kind, factor) {
            (None | Some("none"), None) | (Some("none"), Some(_)) => None,
            (None | Some("linear"), Some(factor)) => Some(json!({ "rope_type": "linear", "factor": factor })),
            _ => return Err(self.refuse("rope.scaling.type", "`none` or `linear` with a factor"))?,
        };
        match (linear, self.frequencies(config)?) {
            (Some(_), Some(_)) => Err(self.frequencies_error("no such tensor beside linear scaling"))?,
            (linear, llama3) => Ok(linear.or(llama3)),
        }
    }

    /// Llama 3's scaling, which llama.cpp writes as one divisor per frequency. They are recomputed from the settings that
    /// all its models share but for two, and those two are found from them; divisors of any other origin are refused.
    fn frequencies(&self, config: &Fields) -> Result<Option<Value>, CheckpointError> {
        let Some(place) = self.file.tensors.get(FREQUENCIES) else { return Ok(None) };
        let width = config["head_dim"].as_u64().unwrap_or_default() as usize;
        if self.architecture.name != "llama" || place.elements != width / 2 || width == 0 {
            return Err(self.frequencies_error(&format!("a Llama 3 model's list of {}", width / 2)))?;
        }
        let unreadable = |error: candle_core::Error| CheckpointError::Broken {
            path: self.file.path.clone(),
            problem: format!("tensor `{FREQUENCIES}`: {error}"),
        };
        let divisors = self.file.floats(place).map_err(unreadable)?;
        if divisors.iter().all(|divisor| divisor.to_bits() == 1f32.to_bits()) {
            return Ok(None);
        }
        let theta = config["rope_theta"].as_f64().unwrap_or_default();
        let factor = divisors.iter().copied().fold(f32::NAN, f32::max);
        let fits = |positions: u32| {
            let wanted = llama3_divisors(theta, width, f64::from(factor), f64::from(positions));
            wanted.iter().zip(&divisors).all(|(wanted, &found)| (wanted - f64::from(found)).abs() < 1e-4 * wanted)
        };
        let positions = (4..21).map(|power| 1 << power).find(|&positions| fits(positions));
        let positions = positions.ok_or_else(|| self.frequencies_error("Llama 3's scaling"))?;
        Ok(Some(json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": LOW,
            "high_freq_factor": HIGH,
            "original_max_position_embeddings": positions,
        })))
    }

    fn frequencies_error(&self, implemented: &str) -> GgufError {
        GgufError::NotImplemented {
            path: self.file.path.clone(),
            key: FREQUENCIES.to_owned(),
            found: "a tensor of divisors of the rotary frequencies".to_owned(),
            implemented: implemented.to_owned(),
        }
    }

    /// Refuses every key of the architecture that was not read and is not known to be inert.
    fn finish(self) -> Result<(), GgufError> {
        let prefix = format!("{}.", self.architecture.name);
        for key in self.file.keys() {
            let Some(name) = key.strip_prefix(&prefix) else { continue };
            let at = INERT_AT.iter().find(|(other, _)| *other == name);
            let inert = INERT.contains(&name)
                || at.is_some_and(|(_, value)| {
                    self.file.numbers(key, "").is_ok_and(|found| found == Some(vec![*value]))
                });
            if self.read.borrow().contains(key) || inert {
                continue;
            }
            if let Some((_, value)) = at {
                return Err(self.refuse(name, value));
            }
            let (path, found) = (self.file.path.clone(), self.file.shown(key));
            return Err(GgufError::Unknown { path, key: key.to_owned(), found });
        }
        Ok(())
    }
}

/// Llama 3's divisors of the rotary frequencies.
pub const FREQUENCIES: &str = "rope_freqs.weight";
const LOW: f64 = 1.0;
const HIGH: f64 = 4.0;

/// What llama.cpp's converter divides every frequency by: nothing where a wave is short, the factor where it is longer than
/// the positions of the training, and a blend of both between.
fn llama3_divisors(theta: f64, width: usize, factor: f64, positions: f64) -> Vec<f64> {
    let divisor = |i: usize| {
        let wave = 2.0 * std::f64::consts::PI * theta.powf(i as f64 / width as f64);
        if wave < positions / HIGH {
            1.0
        } else if wave > positions / LOW {
            factor
        } else {
            let smooth = (positions / wave - LOW) / (HIGH - LOW);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    (0..width).step_by(2).map(divisor).collect()
}

/// Scores are divided by the root of a head's width, but in the 27-billion models, which only their number of layers
/// tells apart here as in llama.cpp, by that of hidden / heads.
fn query_scale(common: &Fields, layers_of_27b: u64) -> u64 {
    let field = |name: &str| common[name].as_u64().unwrap_or_default();
    if field("num_hidden_layers") == layers_of_27b {
        field("hidden_size") / field("num_attention_heads").max(1)
    } else {
        field("head_dim")
    }
}

/// Every n-th is false.
fn every(n: u64, layers: u64) -> Vec<bool> {
    (1..=layers.min(1 << 15)).map(|layer| !layer.is_multiple_of(n)).collect()
}

fn object(value: Value) -> Fields {
    match value {
        Value::Object(fields) => fields,
        _ => unreachable!("written above as an object"),
    }
}
