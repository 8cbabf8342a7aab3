//! Gemma 3 (arXiv 2503.19786), and the text part of its models that also see: norms on the heads of queries and keys, five local
//! layers with a rotary base of their own to each global one.

use serde_json::json;

use super::{
    Architecture, Config, ConfigError, DecoderSpec, Names,
    fields::{Defaults, plain_rope, rope_of_kind, slide, sliding_layers},
    gemma, gemma2,
    spec::QueryKeyNorm,
};

const DEFAULTS: Defaults = Defaults { theta: 1_000_000.0, positions: 131_072, ..gemma::DEFAULTS };

pub fn read(config: &mut Config) -> Result<Architecture, ConfigError> {
    Ok(Architecture { spec: text(config)?, names: gemma2::names() })
}

/// Published files begin their names in three ways, by the version that wrote them.
pub fn read_multimodal(config: &mut Config) -> Result<Architecture, ConfigError> {
    let Some(mut inner) = config.nested("text_config")? else { return Err(config.absent("text_config")) };
    inner.text("model_type")?;
    let spec = text(&mut inner)?;
    inner.finish()?;
    config.only("tie_word_embeddings", &json!(spec.head.tied))?;
    config.inert(&[
        "vision_config",
        "boi_token_index",
        "eoi_token_index",
        "image_token_index",
        "image_token_id",
        "mm_tokens_per_image",
    ]);
    let prefix = config.prefix("embed_tokens.weight", &["language_model.model.", "model.language_model.", "model."]);
    let ignored = &["vision_tower.", "model.vision_tower.", "multi_modal_projector.", "model.multi_modal_projector."];
    let head = if prefix == "language_model.model." { "language_model.lm_head" } else { "lm_head" };
    Ok(Architecture { spec, names: Names { prefix, head, ignored, ..gemma2::names() } })
}

fn text(config: &mut Config) -> Result<DecoderSpec, ConfigError> {
    let mut spec = gemma::decoder(config, DEFAULTS)?;
    gemma2::sandwich(config, &mut spec)?;
    spec.attention.query_key_norm = QueryKeyNorm::PerHead(spec.norm);
    spec.attention.softcap = config.optional_number("attn_logit_softcapping")?;
    spec.head.softcap = config.optional_number("final_logit_softcapping")?;
    let older = config.optional_size("_sliding_window_pattern")?;
    let pattern = config.optional_size("sliding_window_pattern")?.or(older).unwrap_or(6);
    let sliding = sliding_layers(config, spec.ffn.layers, |layer| (layer + 1) % pattern != 0)?;
    let window = config.size_or("sliding_window", 4096)?;
    slide(&mut spec, &sliding, window);
    let theta = config.number("rope_local_base_freq", 10_000.0)?;
    let head_dim = spec.attention.head_dim;
    let local = match rope_of_kind(config, "sliding_attention", head_dim, Defaults { theta, ..DEFAULTS })? {
        Some(rope) => rope,
        None => plain_rope(config, theta, 1.0, head_dim)?,
    };
    spec.ropes.push(local);
    for (layer, slides) in spec.layers.iter_mut().zip(sliding) {
        layer.rope = Some(usize::from(slides));
    }
    Ok(spec)
}
