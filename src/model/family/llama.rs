//! Llama (Touvron et al. 2023, arXiv 2302.13971; Llama 3, arXiv 2407.21783) and the many models of its shape.

use super::{
    Architecture, Config, ConfigError, Names,
    fields::{Defaults, attention_bias, llama_like},
};

pub fn read(config: &mut Config) -> Result<Architecture, ConfigError> {
    let mut spec = llama_like(config, Defaults::default())?;
    attention_bias(config, &mut spec, false)?;
    spec.feed_forward.bias = config.switch("mlp_bias", false)?;
    Ok(Architecture { spec, names: Names::default() })
}
