//! Gemma 2 (arXiv 2408.00118): Gemma with norms before and after, soft caps, and every other layer local.

use serde_json::json;

use super::{
    Architecture, Config, ConfigError, DecoderSpec, Names,
    fields::{slide, sliding_layers},
    gemma,
    spec::Placement,
};

pub fn read(config: &mut Config) -> Result<Architecture, ConfigError> {
    let mut spec = gemma::decoder(config, gemma::DEFAULTS)?;
    sandwich(config, &mut spec)?;
    spec.attention.softcap = config.number_or("attn_logit_softcapping", Some(50.0))?;
    spec.head.softcap = config.number_or("final_logit_softcapping", Some(30.0))?;
    let sliding = sliding_layers(config, spec.ffn.layers, |layer| layer % 2 == 0)?;
    let window = config.size_or("sliding_window", 4096)?;
    slide(&mut spec, &sliding, window);
    config.only("sliding_window_size", &json!(window))?;
    Ok(Architecture { spec, names: names() })
}

/// Norms on both sides, and scores divided by the root of a number of their own.
pub fn sandwich(config: &mut Config, spec: &mut DecoderSpec) -> Result<(), ConfigError> {
    spec.placement = Placement::Sandwich;
    let divisor = config.number("query_pre_attn_scalar", 256.0)?;
    for layer in &mut spec.layers {
        layer.scale = 1.0 / divisor.sqrt();
    }
    config.inert(&["cache_implementation"]);
    Ok(())
}

pub fn names() -> Names {
    Names {
        after_attention: "post_attention_layernorm",
        before_ffn: "pre_feedforward_layernorm",
        after_ffn: "post_feedforward_layernorm",
        ..Names::default()
    }
}
