//! Qwen 3 (arXiv 2505.09388): Llama with norms on the heads of queries and keys.

use super::{
    Architecture, Config, ConfigError, Names,
    fields::{Defaults, attention_bias, late_windows, llama_like},
    spec::QueryKeyNorm,
};

pub fn read(config: &mut Config) -> Result<Architecture, ConfigError> {
    let defaults = Defaults { positions: 32_768, kv_heads: Some(32), head_dim: Some(128), ..Defaults::default() };
    let mut spec = llama_like(config, defaults)?;
    attention_bias(config, &mut spec, false)?;
    spec.attention.query_key_norm = QueryKeyNorm::PerHead(spec.norm);
    late_windows(config, &mut spec)?;
    Ok(Architecture { spec, names: Names::default() })
}
