//! Command R7B, Command A and their kind (arXiv 2504.00698): Command R with local layers, and no positions in the global ones.

use serde_json::json;

use super::{
    Architecture, Config, ConfigError, Names, cohere,
    fields::{Defaults, slide, sliding_layers},
};

pub fn read(config: &mut Config) -> Result<Architecture, ConfigError> {
    let mut spec = cohere::decoder(config, Defaults { ..cohere::DEFAULTS })?;
    let switch = config.optional_size("layer_switch")?;
    let pattern = config.optional_size("sliding_window_pattern")?.or(switch).unwrap_or(4);
    let sliding = sliding_layers(config, spec.ffn.layers, |layer| (layer + 1) % pattern != 0)?;
    let window = config.size_or("sliding_window", 4096)?;
    slide(&mut spec, &sliding, window);
    for (layer, slides) in spec.layers.iter_mut().zip(sliding) {
        layer.rope = slides.then_some(0);
    }
    // What published configs say besides, and what each has to say.
    for (field, value) in [
        ("order_of_interleaved_layers", json!("local_attn_first")),
        ("position_embedding_type", json!("rope_gptj")),
        ("rotary_pct", json!(1.0)),
        ("use_embedding_sharing", json!(true)),
        ("use_gated_activation", json!(true)),
        ("use_parallel_block", json!(true)),
        ("use_qk_norm", json!(false)),
    ] {
        config.only(field, &value)?;
    }
    config.inert(&["use_parallel_embedding", "cache_implementation"]);
    Ok(Architecture { spec, names: Names::default() })
}
