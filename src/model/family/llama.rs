//! Llama (Touvron et al. 2023, arXiv 2302.13971; Llama 3, arXiv 2407.21783) and the many models of its shape.

use super::{
    Architecture, Config, ConfigError, Names,
    fields::{Defaults, llama_like},
};

pub fn read(config: &mut Config) -> Result<Architecture, ConfigError> {
    let mut spec = llama_like(config, Defaults::default())?;
    let bias = config.switch("attention_bias", false)?;
    (spec.attention.input_bias, spec.attention.output_bias) = (bias, bias);
    spec.feed_forward.bias = config.switch("mlp_bias", false)?;
    Ok(Architecture { spec, names: Names::default() })
}
