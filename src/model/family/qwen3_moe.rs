//! Qwen 3 with experts (arXiv 2505.09388).

use serde_json::json;

use super::{
    Architecture, Config, ConfigError, Names,
    fields::{Defaults, attention_bias, experts, llama_like, slide_all},
    spec::QueryKeyNorm,
};

pub fn read(config: &mut Config) -> Result<Architecture, ConfigError> {
    config.alias(&[("num_experts", "num_local_experts")]);
    let defaults = Defaults { positions: 32_768, kv_heads: Some(4), ..Defaults::default() };
    let mut spec = llama_like(config, defaults)?;
    attention_bias(config, &mut spec, false)?;
    spec.attention.query_key_norm = QueryKeyNorm::PerHead(spec.norm);
    let slides = config.switch("use_sliding_window", false)?;
    let window = config.size_or("sliding_window", 4096)?.filter(|_| slides);
    // In all layers: `max_window_layers` is not used here.
    slide_all(&mut spec, window);
    config.inert(&["max_window_layers"]);
    spec.ffn.width = config.optional_size("moe_intermediate_size")?.unwrap_or(768);
    let count = config.optional_size("num_experts")?.unwrap_or(128);
    let normalised = config.switch("norm_topk_prob", false)?;
    experts(config, &mut spec, count, 8, normalised)?;
    // Layers without experts would be of another width.
    config.only("decoder_sparse_step", &json!(1))?;
    config.only("mlp_only_layers", &json!([]))?;
    Ok(Architecture { spec, names: Names::default() })
}
