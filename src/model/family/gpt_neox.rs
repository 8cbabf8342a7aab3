//! GPT-NeoX (Black et al. 2022, arXiv 2204.06745) and Pythia: layer norms, partial rotary embeddings, attention and FFN side by side.

use super::{
    Architecture, Config, ConfigError, Fused, Names,
    fields::{Defaults, attention_bias, decoder, layer_norms_and_biases, plain_ffn, rope, turn_all},
    spec::Placement,
};

pub fn read(config: &mut Config) -> Result<Architecture, ConfigError> {
    config.alias(&[("rope_theta", "rotary_emb_base"), ("partial_rotary_factor", "rotary_pct")]);
    let defaults = Defaults { eps: 1e-5, rotary_share: Some(0.25), ..Defaults::default() };
    let width = config.size("intermediate_size")?;
    let mut spec = decoder(config, width, defaults)?;
    let eps = config.number("layer_norm_eps", defaults.eps)?;
    layer_norms_and_biases(&mut spec, eps);
    let parallel = config.switch("use_parallel_residual", true)?;
    spec.placement = if parallel { Placement::Parallel } else { Placement::Pre };
    attention_bias(config, &mut spec, true)?;
    let turned = rope(config, spec.attention.head_dim, defaults)?;
    turn_all(&mut spec, turned);
    plain_ffn(&mut spec, config.activation("hidden_act", "gelu")?);
    config.inert(&["classifier_dropout", "num_key_value_heads"]);
    let names = Names {
        prefix: "gpt_neox.".to_owned(),
        embedding: "embed_in",
        attention: Fused::ByHead("attention.query_key_value"),
        attention_output: "attention.dense",
        plain: "mlp.dense_h_to_4h",
        down: "mlp.dense_4h_to_h",
        norm: "final_layer_norm",
        // The name in files; transformers 5 writes the other.
        head: if config.prefix(".weight", &["embed_out", "lm_head"]) == "lm_head" { "lm_head" } else { "embed_out" },
        ignored: &[".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"],
        ..Names::default()
    };
    Ok(Architecture { spec, names })
}
