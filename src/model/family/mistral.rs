//! Mistral (Jiang et al. 2023, arXiv 2310.06825): Llama with a sliding window.

use super::{
    Architecture, Config, ConfigError, Names,
    fields::{Defaults, llama_like, slide_all},
};

pub fn read(config: &mut Config) -> Result<Architecture, ConfigError> {
    let defaults = Defaults { positions: 131_072, kv_heads: Some(8), ..Defaults::default() };
    let mut spec = llama_like(config, defaults)?;
    let window = config.size_or("sliding_window", 4096)?;
    slide_all(&mut spec, window);
    Ok(Architecture { spec, names: Names::default() })
}
