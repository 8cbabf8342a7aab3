//! Gemma (arXiv 2403.08295): Llama with scaled embeddings, norms of `1 + w` and GELU.

use serde_json::Value;

use super::{
    Architecture, Config, ConfigError, DecoderSpec, Names,
    fields::{Defaults, attention_bias, llama_like},
    spec::NormKind,
};
use crate::model::Activation;

pub fn read(config: &mut Config) -> Result<Architecture, ConfigError> {
    let defaults = Defaults { positions: 8192, kv_heads: Some(16), ..DEFAULTS };
    Ok(Architecture { spec: decoder(config, defaults)?, names: Names::default() })
}

pub const DEFAULTS: Defaults = Defaults {
    theta: 10_000.0,
    eps: 1e-6,
    positions: 8192,
    original_positions: None,
    tied: true,
    head_dim: Some(256),
    rotary_share: None,
    kv_heads: Some(4),
    activation: "gelu_pytorch_tanh",
};

/// What all Gemmas have in common.
pub fn decoder(config: &mut Config, defaults: Defaults) -> Result<DecoderSpec, ConfigError> {
    let mut spec = llama_like(config, defaults)?;
    // Gemma 2 and 3 name it `hidden_activation`. Early configs say `gelu` and mean its approximation, as transformers knows.
    if config.field("hidden_activation").is_some() {
        spec.feed_forward.activation = config.activation("hidden_activation", defaults.activation)?;
    } else if spec.feed_forward.activation == Activation::Gelu {
        spec.feed_forward.activation = Activation::GeluTanh;
    }
    config.only("use_bidirectional_attention", &Value::Bool(false))?;
    attention_bias(config, &mut spec, false)?;
    spec.norm.kind = NormKind::RmsPlusOne;
    spec.embedding.scale = Some((spec.hidden as f64).sqrt());
    Ok(spec)
}
