//! Command R, Aya 23 and Aya Expanse (arXiv 2405.15032, 2412.04261): attention and FFN side by side behind one layer norm without
//! bias, rotary embeddings that pair neighbours, scaled logits.

use super::{
    Architecture, Config, ConfigError, DecoderSpec, Names,
    fields::{Defaults, attention_bias, llama_like},
    spec::{NormKind, NormSpec, Placement, QueryKeyNorm},
};

pub fn read(config: &mut Config) -> Result<Architecture, ConfigError> {
    let mut spec = decoder(config, Defaults { theta: 500_000.0, ..DEFAULTS })?;
    if config.switch("use_qk_norm", false)? {
        spec.attention.query_key_norm = QueryKeyNorm::PerHeadOwn(spec.norm);
    }
    Ok(Architecture { spec, names: Names::default() })
}

pub const DEFAULTS: Defaults = Defaults {
    theta: 10_000.0,
    eps: 1e-5,
    positions: 8192,
    original_positions: None,
    tied: true,
    head_dim: None,
    rotary_share: None,
    kv_heads: None,
    activation: "silu",
};

pub fn decoder(config: &mut Config, defaults: Defaults) -> Result<DecoderSpec, ConfigError> {
    let mut spec = llama_like(config, defaults)?;
    attention_bias(config, &mut spec, false)?;
    let eps = config.number("layer_norm_eps", defaults.eps)?;
    spec.norm = NormSpec { kind: NormKind::Layer, bias: false, eps };
    spec.placement = Placement::ParallelShared;
    spec.head.scale = Some(config.number("logit_scale", 0.0625)?);
    for rope in &mut spec.ropes {
        rope.interleaved = true;
    }
    Ok(spec)
}
