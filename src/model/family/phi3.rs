//! Phi 3 to 4 (arXiv 2404.14219): Llama with fused projections and LongRoPE.

use serde_json::{Value, json};

use super::{
    Architecture, Config, ConfigError, Fused, Names,
    fields::{Defaults, llama_like, slide_all},
};

pub fn read(config: &mut Config) -> Result<Architecture, ConfigError> {
    let mut spec = llama_like(
        config,
        Defaults {
            eps: 1e-5,
            positions: 4096,
            original_positions: Some(4096),
            rotary_share: Some(1.0),
            ..Defaults::default()
        },
    )?;
    let window = config.size_or("sliding_window", None)?;
    slide_all(&mut spec, window);
    for field in ["attention_bias", "mlp_bias", "lm_head_bias"] {
        config.only(field, &Value::Bool(false))?;
    }
    // Of Phi-3-small's block-sparse attention, which this architecture has not.
    for field in ["full_attn_mod", "interpolate_factor"] {
        config.only(field, &json!(1))?;
    }
    let names = Names {
        attention: Fused::Stacked("self_attn.qkv_proj"),
        gated: Fused::Stacked("mlp.gate_up_proj"),
        ..Names::default()
    };
    Ok(Architecture { spec, names })
}
