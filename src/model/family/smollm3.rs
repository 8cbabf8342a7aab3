//! SmolLM3: Llama with every fourth layer free of positions (Yang et al. 2025, arXiv 2501.18795).

use super::{
    Architecture, Config, ConfigError, Names,
    fields::{Defaults, attention_bias, llama_like, slide, sliding_layers},
};

pub fn read(config: &mut Config) -> Result<Architecture, ConfigError> {
    let defaults =
        Defaults { theta: 2_000_000.0, positions: 32_768, tied: true, kv_heads: Some(4), ..Defaults::default() };
    let mut spec = llama_like(config, defaults)?;
    attention_bias(config, &mut spec, false)?;
    spec.feed_forward.bias = config.switch("mlp_bias", false)?;
    let layers = spec.ffn.layers;
    let interval = config.optional_size("no_rope_layer_interval")?.unwrap_or(4);
    let turned = match config.whole_numbers("no_rope_layers")? {
        // 1 where positions are used, in spite of the field's name.
        Some(list) if list.len() == layers => list.into_iter().map(|layer| layer != 0).collect(),
        Some(list) => {
            let found = format!("a list of {}", list.len());
            return config.refuse("no_rope_layers", found, &format!("one number for each of {layers} layers"));
        }
        None => (0..layers).map(|layer| (layer + 1) % interval != 0).collect::<Vec<_>>(),
    };
    for (layer, turned) in spec.layers.iter_mut().zip(&turned) {
        layer.rope = turned.then_some(0);
    }
    let slides = config.switch("use_sliding_window", false)?;
    let window = config.size_or("sliding_window", None)?.filter(|_| slides);
    let sliding = sliding_layers(config, layers, |layer| window.is_some() && !turned[layer])?;
    slide(&mut spec, &sliding, window);
    config.inert(&["max_window_layers"]);
    Ok(Architecture { spec, names: Names::default() })
}
