//! Mixtral (Jiang et al. 2024, arXiv 2401.04088): Mistral with eight experts, of which each token passes two.

use super::{
    Architecture, Config, ConfigError, Names,
    fields::{Defaults, experts, llama_like, slide_all},
};

pub fn read(config: &mut Config) -> Result<Architecture, ConfigError> {
    let defaults =
        Defaults { theta: 1_000_000.0, eps: 1e-5, positions: 131_072, kv_heads: Some(8), ..Defaults::default() };
    let mut spec = llama_like(config, defaults)?;
    let window = config.size_or("sliding_window", None)?;
    slide_all(&mut spec, window);
    let count = config.optional_size("num_local_experts")?.unwrap_or(8);
    experts(config, &mut spec, count, 2, true)?;
    // Jitter is for training.
    config.inert(&["router_jitter_noise"]);
    let names = Names {
        router: "block_sparse_moe.gate",
        experts: "block_sparse_moe.experts",
        expert_projections: ["w1", "w3", "w2"],
        ..Names::default()
    };
    Ok(Architecture { spec, names })
}
