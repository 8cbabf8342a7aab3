//! Qwen 1.5, 2 and 2.5 (arXiv 2407.10671, 2412.15115): Llama with biases on queries, keys and values.

use super::{
    Architecture, Config, ConfigError, Names,
    fields::{Defaults, late_windows, llama_like},
};

pub fn read(config: &mut Config) -> Result<Architecture, ConfigError> {
    let defaults = Defaults { positions: 32_768, kv_heads: Some(32), ..Defaults::default() };
    let mut spec = llama_like(config, defaults)?;
    spec.attention.input_bias = true;
    late_windows(config, &mut spec)?;
    Ok(Architecture { spec, names: Names::default() })
}
