//! OPT (Zhang et al. 2022, arXiv 2205.01068): learned positions, ReLU.

use serde_json::{Value, json};

use super::{
    Architecture, Config, ConfigError, Names,
    fields::{Defaults, decoder, layer_norms_and_biases},
    spec::LearnedPositions,
};

pub fn read(config: &mut Config) -> Result<Architecture, ConfigError> {
    let width = config.size("ffn_dim")?;
    let mut spec = decoder(config, width, Defaults { tied: true, ..Defaults::default() })?;
    layer_norms_and_biases(&mut spec, 1e-5);
    // The first two rows were for padding.
    spec.embedding.learned_positions = Some(LearnedPositions { rows: spec.positions + 2, offset: 2 });
    let bias = config.switch("enable_bias", true)?;
    (spec.attention.input_bias, spec.attention.output_bias) = (bias, bias);
    spec.feed_forward.gated = false;
    spec.feed_forward.bias = bias;
    spec.feed_forward.activation = config.activation("activation_function", "relu")?;
    // OPT-350M differs from its sisters in these.
    config.only("do_layer_norm_before", &Value::Bool(true))?;
    config.only("word_embed_proj_dim", &json!(spec.hidden))?;
    config.only("_remove_final_layer_norm", &Value::Bool(false))?;
    config.only("layer_norm_elementwise_affine", &Value::Bool(true))?;
    config.inert(&["dropout", "activation_dropout", "layerdrop", "init_std"]);
    let names = Names {
        prefix: config.prefix("embed_tokens.weight", &["model.decoder.", "decoder."]),
        before_attention: "self_attn_layer_norm",
        before_ffn: "final_layer_norm",
        attention_output: "self_attn.out_proj",
        plain: "fc1",
        down: "fc2",
        norm: "final_layer_norm",
        ..Names::default()
    };
    Ok(Architecture { spec, names })
}
