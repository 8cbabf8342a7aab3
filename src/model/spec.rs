//! What sets one architecture apart from another, as data: everything that the forward pass depends on.

use serde::{Deserialize, Serialize};

use super::{Activation, RopeSpec};
use crate::neuron::FfnShape;

/// Everything about an architecture that its forward pass depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecoderSpec {
    /// Rows of the embedding.
    pub vocabulary: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// The grid of FFN neurons.
    pub ffn: FfnShape,
    /// The longest window that the model was made for.
    pub positions: usize,
    /// From token ids to the residual stream.
    pub embedding: EmbeddingSpec,
    /// Every normalisation of the residual stream.
    pub norm: NormSpec,
    /// Where a layer normalises.
    pub placement: Placement,
    /// What the attention of all layers has in common.
    pub attention: AttentionSpec,
    /// What it has not: one row per layer.
    pub layers: Vec<LayerSpec>,
    /// The rotary embeddings that the layers refer to.
    pub ropes: Vec<RopeSpec>,
    /// The feed-forward networks.
    pub feed_forward: FeedForwardSpec,
    /// From the residual stream to logits.
    pub head: HeadSpec,
}

/// From token ids to the residual stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EmbeddingSpec {
    /// Factor of every embedding (Gemma: √hidden).
    pub scale: Option<f64>,
    /// Whether a norm follows (BLOOM).
    pub norm: bool,
    /// A table of learned positions that is added.
    pub learned_positions: Option<LearnedPositions>,
}

/// A table of learned positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearnedPositions {
    /// Rows of the table.
    pub rows: usize,
    /// Row of position 0 (OPT: 2).
    pub offset: usize,
}

/// A normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct NormSpec {
    /// Which.
    pub kind: NormKind,
    /// Whether it has a bias.
    pub bias: bool,
    /// ε under the root.
    pub eps: f64,
}

/// Which normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// `x / √(mean(x²) + ε) · w` (Zhang & Sennrich 2019, arXiv 1910.07467).
    Rms,
    /// The same with `1 + w` (Gemma).
    RmsPlusOne,
    /// `(x − mean) / √(var + ε) · w + b` (Ba et al. 2016, arXiv 1607.06450).
    Layer,
}

/// Where a layer normalises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// Before attention and before the FFN.
    Pre,
    /// After attention and after the FFN (OLMo 2).
    Post,
    /// Before and after both (Gemma 2).
    Sandwich,
    /// Before both, which read the same residual stream and are added to it together (GPT-NeoX).
    Parallel,
    /// The same with one norm for both (GPT-J, Phi, Command R).
    ParallelShared,
}

impl Placement {
    pub(super) fn before_attention(self) -> bool {
        self != Self::Post
    }

    pub(super) fn after(self) -> bool {
        matches!(self, Self::Post | Self::Sandwich)
    }

    pub(super) fn before_ffn(self) -> bool {
        !matches!(self, Self::Post | Self::ParallelShared)
    }

    pub(super) fn parallel(self) -> bool {
        matches!(self, Self::Parallel | Self::ParallelShared)
    }
}

/// What the attention of all layers has in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttentionSpec {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Whether the projections of queries, keys and values have biases.
    pub input_bias: bool,
    /// Whether the projection behind attention has a bias.
    pub output_bias: bool,
    /// Normalisation of queries and keys.
    pub query_key_norm: QueryKeyNorm,
    /// Scores `s` become `c · tanh(s / c)`.
    pub softcap: Option<f64>,
    /// Linear biases in place of positions (Press et al. 2022, arXiv 2108.12409).
    pub alibi: bool,
}

/// Normalisation of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueryKeyNorm {
    /// None.
    None,
    /// Of each head, with one weight `[head_dim]` for all heads.
    PerHead(NormSpec),
    /// Of each head, with weights `[heads, head_dim]` (Command R+).
    PerHeadOwn(NormSpec),
    /// Of the whole vector, before it is split into heads (OLMo 2).
    Whole(NormSpec),
}

/// One layer's attention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerSpec {
    /// Tokens that a query sees, itself among them; all earlier ones if `None`.
    pub window: Option<usize>,
    /// Which of [`DecoderSpec::ropes`] turns queries and keys, if any.
    pub rope: Option<usize>,
    /// Factor of the scores.
    pub scale: f64,
}

/// A feed-forward network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeedForwardSpec {
    /// The non-linearity.
    pub activation: Activation,
    /// Whether the activation is multiplied by an up projection (Shazeer 2020, arXiv 2002.05202).
    pub gated: bool,
    /// Whether the projections have biases.
    pub bias: bool,
    /// How tokens find their experts, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing: Option<Routing>,
}

/// Each token goes to the experts of the largest router probabilities (Shazeer et al. 2017, arXiv 1701.06538).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routing {
    /// Experts that a token passes.
    pub experts_per_token: usize,
    /// Whether their probabilities are divided by their sum.
    pub normalised: bool,
}

/// From the residual stream to logits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HeadSpec {
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Whether it has a bias (Phi).
    pub bias: bool,
    /// Factor of the logits (Command R).
    pub scale: Option<f64>,
    /// Logits `z` become `c · tanh(z / c)` (Gemma 2).
    pub softcap: Option<f64>,
}
