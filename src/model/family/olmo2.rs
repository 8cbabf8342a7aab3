//! OLMo 2 (arXiv 2501.00656): Llama with its norms behind attention and FFN, and on whole queries and keys.

use super::{
    Architecture, Config, ConfigError, Names,
    fields::{Defaults, attention_bias, llama_like},
    spec::{Placement, QueryKeyNorm},
};

pub fn read(config: &mut Config) -> Result<Architecture, ConfigError> {
    let mut spec = llama_like(config, Defaults { eps: 1e-5, ..Defaults::default() })?;
    attention_bias(config, &mut spec, false)?;
    spec.placement = Placement::Post;
    spec.attention.query_key_norm = QueryKeyNorm::Whole(spec.norm);
    Ok(Architecture { spec, names: Names::default() })
}
