//! What most configs spell alike: sizes of heads, activations, rotary embeddings, kinds of layers.

use serde_json::Value;

use super::{
    config::{Config, ConfigError},
    spec::{
        AttentionSpec, DecoderSpec, EmbeddingSpec, FeedForwardSpec, HeadSpec, LayerSpec, NormKind, NormSpec, Placement,
        QueryKeyNorm, Routing,
    },
};
use crate::{
    model::{Activation, RopeScaling, RopeSpec},
    neuron::FfnShape,
};

type Result<T> = std::result::Result<T, ConfigError>;

/// What a config leaves unsaid: the defaults of transformers' config class.
#[derive(Clone, Copy)]
pub struct Defaults {
    pub theta: f64,
    pub eps: f64,
    pub positions: usize,
    /// Window of pre-training, where it is another.
    pub original_positions: Option<usize>,
    pub tied: bool,
    /// Width of a head where it is not hidden / heads.
    pub head_dim: Option<usize>,
    /// The share of a head that is turned, where the family can turn less than all; `None` where it cannot.
    pub rotary_share: Option<f64>,
    /// Key and value heads where the config has no say; as many as query heads if `None`.
    pub kv_heads: Option<usize>,
    pub activation: &'static str,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            theta: 10_000.0,
            eps: 1e-6,
            positions: 2048,
            original_positions: None,
            tied: false,
            head_dim: None,
            rotary_share: None,
            kv_heads: None,
            activation: "silu",
        }
    }
}

/// A decoder of Llama's shape: RMS norms before attention and FFN, rotary positions in all layers, gated FFN, no biases. Families
/// change what they do otherwise.
pub fn llama_like(config: &mut Config, defaults: Defaults) -> Result<DecoderSpec> {
    let width = config.size("intermediate_size")?;
    let mut spec = decoder(config, width, defaults)?;
    let rope = rope(config, spec.attention.head_dim, defaults)?;
    turn_all(&mut spec, rope);
    let eps = config.number("rms_norm_eps", defaults.eps)?;
    spec.norm = NormSpec { kind: NormKind::Rms, bias: false, eps };
    spec.feed_forward.activation = config.activation("hidden_act", defaults.activation)?;
    Ok(spec)
}

/// Sizes, and what follows from them; no positions yet.
pub fn decoder(config: &mut Config, width: usize, defaults: Defaults) -> Result<DecoderSpec> {
    let attention = heads(config, defaults)?;
    let ffn = FfnShape::dense(config.layers("num_hidden_layers")?, width);
    let scale = 1.0 / (attention.head_dim as f64).sqrt();
    Ok(DecoderSpec {
        vocabulary: config.size("vocab_size")?,
        hidden: config.size("hidden_size")?,
        ffn,
        positions: config.optional_size("max_position_embeddings")?.unwrap_or(defaults.positions),
        embedding: EmbeddingSpec::default(),
        norm: NormSpec { kind: NormKind::Rms, bias: false, eps: defaults.eps },
        placement: Placement::Pre,
        attention,
        layers: vec![LayerSpec { window: None, rope: None, scale }; ffn.layers],
        ropes: Vec::new(),
        feed_forward: FeedForwardSpec { activation: Activation::Silu, gated: true, bias: false, routing: None },
        head: HeadSpec { tied: config.switch("tie_word_embeddings", defaults.tied)?, ..HeadSpec::default() },
    })
}

fn heads(config: &mut Config, defaults: Defaults) -> Result<AttentionSpec> {
    let (hidden, heads) = (config.size("hidden_size")?, config.size("num_attention_heads")?);
    let kv_heads = config.optional_size("num_key_value_heads")?.or(defaults.kv_heads).unwrap_or(heads);
    if heads % kv_heads != 0 {
        return config.refuse("num_key_value_heads", kv_heads, &format!("a divisor of the {heads} attention heads"));
    }
    let head_dim = match config.optional_size("head_dim")?.or(defaults.head_dim) {
        Some(width) => width,
        None if hidden % heads == 0 => hidden / heads,
        None => {
            let wanted = format!("a multiple of the {heads} attention heads, or `head_dim`");
            return config.refuse("hidden_size", hidden, &wanted);
        }
    };
    Ok(AttentionSpec {
        heads,
        kv_heads,
        head_dim,
        input_bias: false,
        output_bias: false,
        query_key_norm: QueryKeyNorm::None,
        softcap: None,
        alibi: false,
    })
}

/// Rotary settings, from `rope_theta` and `rope_scaling` (transformers 4) or `rope_parameters` (transformers 5).
pub fn rope(config: &mut Config, head_dim: usize, defaults: Defaults) -> Result<RopeSpec> {
    let theta = config.number("rope_theta", defaults.theta)?;
    let share = share(config, defaults.rotary_share)?;
    if let Some(rope) = rope_of_kind(config, "full_attention", head_dim, defaults)? {
        return Ok(rope);
    }
    let scaling = config.nested("rope_scaling")?;
    let Some(mut rope) = config.nested("rope_parameters")?.or(scaling) else {
        return plain_rope(config, theta, share, head_dim);
    };
    let positions = config.optional_size("max_position_embeddings")?.unwrap_or(defaults.positions);
    let original = config.optional_size("original_max_position_embeddings")?.or(defaults.original_positions);
    let share = defaults.rotary_share.map(|_| share);
    rope_object(&mut rope, theta, share, head_dim, positions, original)
}

/// The rotary settings of one kind of layer, where the config has an object for each.
pub fn rope_of_kind(config: &mut Config, kind: &str, head_dim: usize, defaults: Defaults) -> Result<Option<RopeSpec>> {
    let Some(mut kinds) = config.nested("rope_parameters")? else { return Ok(None) };
    let Some(mut rope) = kinds.nested(kind)? else { return Ok(None) };
    let positions = config.optional_size("max_position_embeddings")?.unwrap_or(defaults.positions);
    rope_object(&mut rope, defaults.theta, None, head_dim, positions, None).map(Some)
}

/// Rotary settings without stretching.
pub fn plain_rope(config: &Config, theta: f64, share: f64, head_dim: usize) -> Result<RopeSpec> {
    Ok(RopeSpec { theta, dim: turned(config, share, head_dim)?, interleaved: false, scaling: RopeScaling::Default })
}

/// The share of a head that is turned.
fn share(config: &mut Config, default: Option<f64>) -> Result<f64> {
    let share = config.number("partial_rotary_factor", default.unwrap_or(1.0))?;
    match default {
        None if share < 1.0 => config.refuse("partial_rotary_factor", share, "1"),
        _ => Ok(share),
    }
}

/// How many of a head's coordinates are turned.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn turned(config: &Config, share: f64, head_dim: usize) -> Result<usize> {
    if share > 1.0 {
        return config.refuse("partial_rotary_factor", share, "a share of at most 1");
    }
    let dim = (head_dim as f64 * share) as usize;
    if dim == 0 || !dim.is_multiple_of(2) {
        return config.refuse("head_dim", head_dim, &format!("an even number of turned coordinates instead of {dim}"));
    }
    Ok(dim)
}

/// One object of rotary settings.
pub fn rope_object(
    rope: &mut Config,
    theta: f64,
    default_share: Option<f64>,
    head_dim: usize,
    positions: usize,
    original: Option<usize>,
) -> Result<RopeSpec> {
    let theta = rope.number("rope_theta", theta)?;
    let share = share(rope, default_share)?;
    let dim = turned(rope, share, head_dim)?;
    // Old configs write `type`, newer ones `rope_type`, some both.
    let older = rope.field("type").and_then(Value::as_str).map(str::to_owned);
    let kind = rope.field("rope_type").and_then(Value::as_str).map(str::to_owned).or(older);
    let inner = rope.optional_size("original_max_position_embeddings")?;
    let original = original.or(inner);
    let scaling = match kind.as_deref() {
        None | Some("default") => RopeScaling::Default,
        Some("linear") => RopeScaling::Linear { factor: rope.required_number("factor")? },
        Some("llama3") => llama3(rope, original.unwrap_or(positions))?,
        // Early configs of Phi 3 say `yarn` and give LongRoPE's lists.
        Some("yarn") if !rope.has("short_factor") => yarn(rope, positions, original.unwrap_or(positions))?,
        Some("longrope" | "su" | "yarn") => long_rope(rope, dim, positions, original.unwrap_or(positions))?,
        Some(other) => {
            return rope.refuse(
                "rope_type",
                format!("`{other}`"),
                "`default`, `linear`, `llama3`, `yarn` or `longrope`",
            );
        }
    };
    rope.finish()?;
    Ok(RopeSpec { theta, dim, interleaved: false, scaling })
}

fn llama3(rope: &mut Config, original_positions: usize) -> Result<RopeScaling> {
    let (low, high) = (rope.required_number("low_freq_factor")?, rope.required_number("high_freq_factor")?);
    if high <= low {
        return rope.refuse("high_freq_factor", high, &format!("a number above low_freq_factor, {low}"));
    }
    Ok(RopeScaling::Llama3 {
        factor: rope.required_number("factor")?,
        low_frequency_factor: low,
        high_frequency_factor: high,
        original_positions,
    })
}

fn yarn(rope: &mut Config, positions: usize, original_positions: usize) -> Result<RopeScaling> {
    let factor = rope.number("factor", positions as f64 / original_positions as f64)?;
    let magnitude = |weight: f64| if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 };
    let (mscale, mscale_all) = (rope.optional_number("mscale")?, rope.optional_number("mscale_all_dim")?);
    let default = match (mscale, mscale_all) {
        (Some(one), Some(all)) => magnitude(one) / magnitude(all),
        _ => magnitude(1.0),
    };
    Ok(RopeScaling::Yarn {
        factor,
        fast: rope.number("beta_fast", 32.0)?,
        slow: rope.number("beta_slow", 1.0)?,
        original_positions,
        truncate: rope.switch("truncate", true)?,
        attention_factor: rope.number("attention_factor", default)?,
    })
}

fn long_rope(rope: &mut Config, dim: usize, positions: usize, original_positions: usize) -> Result<RopeScaling> {
    let factor = rope.number("factor", positions as f64 / original_positions as f64)?;
    let default = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original_positions as f64).ln()).sqrt() };
    let mut divisors = |name: &str| {
        let list = rope.numbers(name)?;
        if list.len() == dim / 2 {
            return Ok(list);
        }
        rope.refuse(name, format!("a list of {}", list.len()), &format!("a list of {} divisors", dim / 2))
    };
    let (short, long) = (divisors("short_factor")?, divisors("long_factor")?);
    let attention_factor = rope.number("attention_factor", default)?;
    Ok(RopeScaling::LongRope { short, long, original_positions, attention_factor })
}

/// For each layer whether its attention slides, by `layer_types` if it is there.
pub fn sliding_layers(config: &mut Config, layers: usize, otherwise: impl Fn(usize) -> bool) -> Result<Vec<bool>> {
    let Some(kinds) = config.texts("layer_types")? else { return Ok((0..layers).map(otherwise).collect()) };
    if kinds.len() != layers {
        return config.refuse(
            "layer_types",
            format!("a list of {}", kinds.len()),
            &format!("one kind for each of {layers} layers"),
        );
    }
    let mut sliding = Vec::with_capacity(layers);
    for kind in kinds {
        sliding.push(match kind.as_str() {
            "sliding_attention" => true,
            "full_attention" => false,
            other => {
                return config.refuse("layer_types", format!("`{other}`"), "`sliding_attention` or `full_attention`");
            }
        });
    }
    Ok(sliding)
}

/// Biases on all four projections around attention, or on none.
pub fn attention_bias(config: &mut Config, spec: &mut DecoderSpec, default: bool) -> Result<()> {
    let bias = config.switch("attention_bias", default)?;
    (spec.attention.input_bias, spec.attention.output_bias) = (bias, bias);
    Ok(())
}

/// The width of the FFN, which old configs leave out where it is four times the model's.
pub fn width_or_fourfold(config: &mut Config) -> Result<usize> {
    match config.optional_size("intermediate_size")? {
        Some(width) => Ok(width),
        None => Ok(4 * config.size("hidden_size")?),
    }
}

/// Layer norms with biases, and biases on all four projections around attention.
pub fn layer_norms_and_biases(spec: &mut DecoderSpec, eps: f64) {
    spec.norm = NormSpec { kind: NormKind::Layer, bias: true, eps };
    (spec.attention.input_bias, spec.attention.output_bias) = (true, true);
}

/// An FFN without gate, with biases.
pub fn plain_ffn(spec: &mut DecoderSpec, activation: Activation) {
    spec.feed_forward = FeedForwardSpec { activation, gated: false, bias: true, routing: None };
}

/// The same rotary embedding in all layers.
pub fn turn_all(spec: &mut DecoderSpec, rope: RopeSpec) {
    spec.ropes = vec![rope];
    for layer in &mut spec.layers {
        layer.rope = Some(0);
    }
}

/// The same window in all layers.
pub fn slide_all(spec: &mut DecoderSpec, window: Option<usize>) {
    for layer in &mut spec.layers {
        layer.window = window;
    }
}

/// Gives the layers that slide their window.
pub fn slide(spec: &mut DecoderSpec, sliding: &[bool], window: Option<usize>) {
    for (layer, slides) in spec.layers.iter_mut().zip(sliding) {
        layer.window = window.filter(|_| *slides);
    }
}

/// Windows as Qwen has them: only when switched on, and only from some layer on.
pub fn late_windows(config: &mut Config, spec: &mut DecoderSpec) -> Result<()> {
    let slides = config.switch("use_sliding_window", false)?;
    let window = config.size_or("sliding_window", 4096)?.filter(|_| slides);
    let first = config.optional_whole("max_window_layers")?.unwrap_or(28);
    let sliding = sliding_layers(config, spec.ffn.layers, |layer| window.is_some() && layer as u64 >= first)?;
    slide(spec, &sliding, window);
    Ok(())
}

/// Experts in place of one feed-forward network.
pub fn experts(
    config: &mut Config,
    spec: &mut DecoderSpec,
    count: usize,
    default_per_token: usize,
    normalised: bool,
) -> Result<()> {
    let experts_per_token = config.optional_size("num_experts_per_tok")?.unwrap_or(default_per_token);
    if experts_per_token > count {
        return config.refuse("num_experts_per_tok", experts_per_token, &format!("at most the {count} experts"));
    }
    spec.ffn.experts = count;
    spec.feed_forward.routing = Some(Routing { experts_per_token, normalised });
    config.inert(&["output_router_logits", "router_aux_loss_coef"]);
    Ok(())
}

impl Config<'_> {
    /// A whole number above 0; a default if the field is absent, nothing if it is null.
    pub fn size_or(&mut self, name: &str, default: impl Into<Option<usize>>) -> Result<Option<usize>> {
        if self.has(name) { self.optional_size(name) } else { Ok(default.into()) }
    }

    /// A positive number; a default if the field is absent, nothing if it is null.
    pub fn number_or(&mut self, name: &str, default: Option<f64>) -> Result<Option<f64>> {
        if self.has(name) { self.optional_number(name) } else { Ok(default) }
    }

    /// A non-linearity by the name that transformers gives it.
    pub fn activation(&mut self, field: &str, default: &str) -> Result<Activation> {
        let name = self.optional_text(field)?.unwrap_or_else(|| default.to_owned());
        match name.as_str() {
            "silu" | "swish" => Ok(Activation::Silu),
            "gelu" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
            "relu" => Ok(Activation::Relu),
            other => self.refuse(
                field,
                format!("`{other}`"),
                "`silu`, `gelu`, `gelu_new`, `gelu_pytorch_tanh`, `gelu_fast` or `relu`",
            ),
        }
    }

    /// Refuses anything but one value of a field that may be absent.
    pub fn only(&mut self, field: &str, value: &Value) -> Result<()> {
        match self.field(field) {
            Some(found) if found != value => self.refuse(field, found, &value.to_string()),
            _ => Ok(()),
        }
    }
}
