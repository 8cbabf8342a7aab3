//! GPT-2 (Radford et al. 2019): learned positions, fused attention, weights stored `[in, out]`.

use serde_json::Value;

use super::{
    Architecture, Config, ConfigError, Fused, Names,
    fields::{Defaults, decoder, layer_norms_and_biases, plain_ffn, width_or_fourfold},
    spec::LearnedPositions,
};

pub fn read(config: &mut Config) -> Result<Architecture, ConfigError> {
    config.alias(&[
        ("hidden_size", "n_embd"),
        ("num_hidden_layers", "n_layer"),
        ("num_attention_heads", "n_head"),
        ("max_position_embeddings", "n_positions"),
        ("intermediate_size", "n_inner"),
    ]);
    let width = width_or_fourfold(config)?;
    let mut spec = decoder(config, width, Defaults { positions: 1024, tied: true, ..Defaults::default() })?;
    let eps = config.number("layer_norm_epsilon", 1e-5)?;
    layer_norms_and_biases(&mut spec, eps);
    spec.embedding.learned_positions = Some(LearnedPositions { rows: spec.positions, offset: 0 });
    let scaled = config.switch("scale_attn_weights", true)?;
    let by_layer = config.switch("scale_attn_by_inverse_layer_idx", false)?;
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        let scale = if scaled { layer.scale } else { 1.0 };
        layer.scale = if by_layer { scale / (i + 1) as f64 } else { scale };
    }
    plain_ffn(&mut spec, config.activation("activation_function", "gelu_new")?);
    config.only("add_cross_attention", &Value::Bool(false))?;
    config.inert(&[
        "attn_pdrop",
        "n_ctx",
        "reorder_and_upcast_attn",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
    ]);
    let names = Names {
        prefix: config.prefix("wte.weight", &["transformer.", ""]),
        embedding: "wte",
        positions: "wpe",
        layers: "h",
        before_attention: "ln_1",
        before_ffn: "ln_2",
        attention: Fused::Stacked("attn.c_attn"),
        attention_output: "attn.c_proj",
        plain: "mlp.c_fc",
        down: "mlp.c_proj",
        norm: "ln_f",
        transposed: true,
        ignored: &[".attn.bias", ".attn.masked_bias"],
        ..Names::default()
    };
    Ok(Architecture { spec, names })
}
