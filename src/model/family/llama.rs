//! Llama (Touvron et al. 2023, arXiv 2302.13971; Llama 3, arXiv 2407.21783) and the many models of its shape.

use super::{Config, ConfigError};
use crate::{
    model::{Activation, DecoderSpec, RopeScaling, RopeSpec},
    neuron::FfnShape,
};

pub fn spec(config: &mut Config) -> Result<DecoderSpec, ConfigError> {
    let (hidden, heads) = (config.size("hidden_size")?, config.size("num_attention_heads")?);
    let kv_heads = config.optional_size("num_key_value_heads")?.unwrap_or(heads);
    if heads % kv_heads != 0 {
        return config.refuse("num_key_value_heads", kv_heads, &format!("a divisor of the {heads} attention heads"));
    }
    let head_dim = match config.optional_size("head_dim")? {
        Some(width) => width,
        None if hidden % heads == 0 => hidden / heads,
        None => {
            return config.refuse(
                "hidden_size",
                hidden,
                &format!("a multiple of the {heads} attention heads, or `head_dim`"),
            );
        }
    };
    if head_dim % 2 != 0 {
        return config.refuse("head_dim", head_dim, "an even width, for rotary embeddings turn pairs");
    }
    let activation = match config.text("hidden_act")?.as_str() {
        "silu" | "swish" => Activation::Silu,
        other => return config.refuse("hidden_act", format!("`{other}`"), "`silu`"),
    };
    Ok(DecoderSpec {
        vocabulary: config.size("vocab_size")?,
        hidden,
        ffn: FfnShape::dense(config.layers("num_hidden_layers")?, config.size("intermediate_size")?),
        heads,
        kv_heads,
        head_dim,
        norm_eps: config.number("rms_norm_eps", 1e-6)?,
        rope: rope(config)?,
        positions: config.optional_size("max_position_embeddings")?.unwrap_or(2048),
        activation,
        attention_bias: config.switch("attention_bias", false)?,
        ffn_bias: config.switch("mlp_bias", false)?,
        tied: config.switch("tie_word_embeddings", false)?,
    })
}

/// Rotary settings, from `rope_theta` and `rope_scaling` (transformers 4) or `rope_parameters` (transformers 5).
fn rope(config: &mut Config) -> Result<RopeSpec, ConfigError> {
    let outer_theta = config.number("rope_theta", 10_000.0)?;
    let outer_positions = config.optional_size("max_position_embeddings")?;
    let scaling = config.nested("rope_scaling")?;
    let Some(mut rope) = config.nested("rope_parameters")?.or(scaling) else {
        return Ok(RopeSpec { theta: outer_theta, scaling: RopeScaling::Default });
    };
    let theta = rope.number("rope_theta", outer_theta)?;
    if rope.number("partial_rotary_factor", 1.0)? < 1.0 {
        return rope.refuse("partial_rotary_factor", rope.fields["partial_rotary_factor"].clone(), "1");
    }
    // Old configs write `type`, newer ones `rope_type`, some both.
    let older = rope.field("type").and_then(serde_json::Value::as_str).map(str::to_owned);
    let kind = rope.field("rope_type").and_then(serde_json::Value::as_str).map(str::to_owned).or(older);
    let scaling = match kind.as_deref() {
        None | Some("default") => RopeScaling::Default,
        Some("linear") => RopeScaling::Linear { factor: rope.required_number("factor")? },
        Some("llama3") => RopeScaling::Llama3 {
            factor: rope.required_number("factor")?,
            low_frequency_factor: rope.required_number("low_freq_factor")?,
            high_frequency_factor: rope.required_number("high_freq_factor")?,
            original_positions: match rope.optional_size("original_max_position_embeddings")? {
                Some(positions) => positions,
                None => outer_positions.ok_or_else(|| ConfigError::Absent {
                    path: rope.path.clone(),
                    field: "original_max_position_embeddings".to_owned(),
                })?,
            },
        },
        Some(other) => return rope.refuse("rope_type", format!("`{other}`"), "`default`, `linear` or `llama3`"),
    };
    if let RopeScaling::Llama3 { low_frequency_factor: low, high_frequency_factor: high, .. } = scaling
        && high <= low
    {
        return rope.refuse("high_freq_factor", high, &format!("a number above low_freq_factor, {low}"));
    }
    rope.finish()?;
    Ok(RopeSpec { theta, scaling })
}

impl Config<'_> {
    fn required_number(&mut self, name: &str) -> Result<f64, ConfigError> {
        self.required(name)?;
        self.number(name, f64::NAN)
    }
}
