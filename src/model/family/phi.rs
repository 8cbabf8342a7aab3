//! Phi 1 to 2 (arXiv 2306.11644, 2309.05463): attention and FFN side by side behind one layer norm, biases everywhere.

use super::{
    Architecture, Config, ConfigError, Names,
    fields::{Defaults, decoder, layer_norms_and_biases, plain_ffn, rope, turn_all},
    spec::{Placement, QueryKeyNorm},
};

pub fn read(config: &mut Config) -> Result<Architecture, ConfigError> {
    let defaults = Defaults { eps: 1e-5, rotary_share: Some(0.5), ..Defaults::default() };
    let width = config.size("intermediate_size")?;
    let mut spec = decoder(config, width, defaults)?;
    let eps = config.number("layer_norm_eps", defaults.eps)?;
    layer_norms_and_biases(&mut spec, eps);
    spec.placement = Placement::ParallelShared;
    if config.switch("qk_layernorm", false)? {
        spec.attention.query_key_norm = QueryKeyNorm::PerHead(spec.norm);
    }
    let turned = rope(config, spec.attention.head_dim, defaults)?;
    turn_all(&mut spec, turned);
    plain_ffn(&mut spec, config.activation("hidden_act", "gelu_new")?);
    spec.head.bias = true;
    let names = Names {
        attention_output: "self_attn.dense",
        query_norm: "self_attn.q_layernorm",
        key_norm: "self_attn.k_layernorm",
        plain: "mlp.fc1",
        down: "mlp.fc2",
        norm: "final_layernorm",
        ..Names::default()
    };
    Ok(Architecture { spec, names })
}
