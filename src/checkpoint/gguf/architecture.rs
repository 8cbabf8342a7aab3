//! What llama.cpp calls an architecture, and its tensors, in Hugging Face's words. A new architecture is a row.

/// One architecture, and what llama.cpp's converter does to its weights (`convert_hf_to_gguf.py`).
pub struct Architecture {
    /// `general.architecture`, and the prefix of its metadata.
    pub name: &'static str,
    /// `model_type` in config.json.
    pub model_type: &'static str,
    /// Rows of queries and keys stand in pairs that turn together, (0, d/2, 1, d/2 + 1, …), where Hugging Face has halves.
    pub interleaved: bool,
    /// Attention and FFN have a norm before and one behind them, and `ffn_norm` is the one before the FFN.
    pub sandwich: bool,
    /// Norms are stored with 1 added, for the arithmetic is x · (1 + w), and the tokenizer's merges are ranked by token id.
    pub gemma: bool,
}

const PLAIN: Architecture =
    Architecture { name: "", model_type: "", interleaved: false, sandwich: false, gemma: false };
const GEMMA: Architecture = Architecture { gemma: true, ..PLAIN };

/// Every architecture that is read. Mistral's files come as `llama`.
pub static ARCHITECTURES: [Architecture; 6] = [
    Architecture { name: "llama", model_type: "llama", interleaved: true, ..PLAIN },
    Architecture { name: "qwen2", model_type: "qwen2", ..PLAIN },
    Architecture { name: "qwen3", model_type: "qwen3", ..PLAIN },
    Architecture { name: "gemma", model_type: "gemma", ..GEMMA },
    Architecture { name: "gemma2", model_type: "gemma2", sandwich: true, ..GEMMA },
    Architecture { name: "gemma3", model_type: "gemma3_text", sandwich: true, ..GEMMA },
];

/// Tensors outside the layers.
const OUTER: &[(&str, &str)] =
    &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// Tensors of a layer.
const INNER: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The norms of a layer, where the two spellings part.
const NORMS: &[(&str, &str)] = &[("ffn_norm", "post_attention_layernorm")];
const SANDWICH_NORMS: &[(&str, &str)] = &[
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

impl Architecture {
    /// The row of an architecture.
    pub fn of(name: &str) -> Option<&'static Self> {
        ARCHITECTURES.iter().find(|architecture| architecture.name == name)
    }

    fn norms(&self) -> &'static [(&'static str, &'static str)] {
        if self.sandwich { SANDWICH_NORMS } else { NORMS }
    }

    /// `blk.3.attn_q.weight` to `model.layers.3.self_attn.q_proj.weight`; none for a name that we do not know.
    pub fn hugging_face(&self, name: &str) -> Option<String> {
        let (stem, part) = name.rsplit_once('.')?;
        let Some(layered) = stem.strip_prefix("blk.") else {
            return Some(format!("{}.{part}", other(&[OUTER], stem, left)?));
        };
        let (layer, stem) = layered.split_once('.')?;
        Some(format!("model.layers.{layer}.{}.{part}", other(&[INNER, self.norms()], stem, left)?))
    }

    /// The way back.
    pub fn llama_cpp(&self, name: &str) -> Option<String> {
        let (stem, part) = name.rsplit_once('.')?;
        let Some(layered) = stem.strip_prefix("model.layers.") else {
            return Some(format!("{}.{part}", other(&[OUTER], stem, right)?));
        };
        let (layer, stem) = layered.split_once('.')?;
        Some(format!("blk.{layer}.{}.{part}", other(&[INNER, self.norms()], stem, right)?))
    }
}

type Pair = (&'static str, &'static str);

fn left(pair: &Pair) -> Pair {
    *pair
}

fn right(&(llama_cpp, hugging_face): &Pair) -> Pair {
    (hugging_face, llama_cpp)
}

fn other(tables: &[&'static [Pair]], name: &str, side: fn(&Pair) -> Pair) -> Option<&'static str> {
    tables.iter().copied().flatten().map(side).find(|(key, _)| *key == name).map(|(_, value)| value)
}
