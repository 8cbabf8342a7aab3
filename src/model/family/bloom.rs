//! BLOOM (arXiv 2211.05100): linear biases in place of positions, a norm behind the embedding.

use serde_json::Value;

use super::{
    Architecture, Config, ConfigError, Fused, Names,
    fields::{Defaults, decoder, layer_norms_and_biases, plain_ffn, width_or_fourfold},
};
use crate::model::Activation;

pub fn read(config: &mut Config) -> Result<Architecture, ConfigError> {
    config.alias(&[
        ("hidden_size", "n_embed"),
        ("num_hidden_layers", "n_layer"),
        ("num_attention_heads", "n_head"),
        ("max_position_embeddings", "seq_length"),
        ("intermediate_size", "n_inner"),
    ]);
    let width = width_or_fourfold(config)?;
    let mut spec = decoder(config, width, Defaults { tied: true, ..Defaults::default() })?;
    let eps = config.number("layer_norm_epsilon", 1e-5)?;
    layer_norms_and_biases(&mut spec, eps);
    spec.embedding.norm = true;
    spec.attention.alibi = true;
    plain_ffn(&mut spec, Activation::GeluTanh);
    config.only("apply_residual_connection_post_layernorm", &Value::Bool(false))?;
    config.inert(&[
        "attention_softmax_in_fp32",
        "bias_dropout_fusion",
        "masked_softmax_fusion",
        "offset_alibi",
        "skip_bias_add",
        "skip_bias_add_qkv",
        "slow_but_exact",
        "unk_token_id",
    ]);
    let names = Names {
        prefix: config.prefix("word_embeddings.weight", &["transformer.", ""]),
        embedding: "word_embeddings",
        embedding_norm: "word_embeddings_layernorm",
        layers: "h",
        attention: Fused::ByHead("self_attention.query_key_value"),
        attention_output: "self_attention.dense",
        plain: "mlp.dense_h_to_4h",
        down: "mlp.dense_4h_to_h",
        norm: "ln_f",
        ..Names::default()
    };
    Ok(Architecture { spec, names })
}
