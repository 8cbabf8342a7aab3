//! What training puts beside a projection, and where a projection lies in a checkpoint.

use std::fmt;

use candle_core::{Result, Tensor, Var};
use serde::{Deserialize, Serialize};

/// A projection of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Projection {
    /// Queries of attention.
    Query,
    /// Keys of attention.
    Key,
    /// Values of attention.
    Value,
    /// The projection behind attention.
    Output,
    /// The FFN's input projection: the gate, or the only one where there is no gate.
    Gate,
    /// The FFN's other input projection, where it has a gate.
    Up,
    /// The FFN's output projection.
    Down,
}

impl Projection {
    /// All of them, in the order in which a layer uses them.
    pub const ALL: [Self; 7] = [Self::Query, Self::Key, Self::Value, Self::Output, Self::Gate, Self::Up, Self::Down];

    /// Its word in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Key => "key",
            Self::Value => "value",
            Self::Output => "output",
            Self::Gate => "gate",
            Self::Up => "up",
            Self::Down => "down",
        }
    }

    /// Whether it belongs to the feed-forward network.
    #[must_use]
    pub fn is_ffn(self) -> bool {
        matches!(self, Self::Gate | Self::Up | Self::Down)
    }
}

/// One projection of one layer of a model without experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Site {
    /// Layer, from 0.
    pub layer: usize,
    /// Which of its projections.
    pub projection: Projection,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = if self.projection.is_ffn() { "mlp" } else { "attention" };
        write!(f, "layers.{}.{group}.{}", self.layer, self.projection.name())
    }
}

/// Trained weights beside one frozen projection `y = x Wᵀ + b`.
///
/// A fresh patch changes nothing, and the projection with the patch gives what [`Patch::merge`] makes of its weight without.
pub trait Patch: Send + Sync {
    /// What the projection is given in place of its input `x [batch, seq, in]`.
    ///
    /// # Errors
    /// When a tensor operation fails.
    fn enter(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.clone())
    }

    /// What stands in place of the projection's output `y [batch, seq, out]`, which it gave for `x`.
    ///
    /// # Errors
    /// When a tensor operation fails.
    fn apply(&self, x: &Tensor, y: Tensor) -> Result<Tensor>;

    /// The weight `[out, in]` that does the same alone, in f32.
    ///
    /// # Errors
    /// When the weight is not the one that the patch was made beside.
    fn merge(&self, weight: &Tensor) -> Result<Tensor>;

    /// The bias `[out]` that belongs to it.
    ///
    /// # Errors
    /// As [`Patch::merge`].
    fn merge_bias(&self, bias: &Tensor) -> Result<Tensor> {
        Ok(bias.clone())
    }

    /// Its trained values, each with a name of its own.
    fn vars(&self) -> Vec<(&'static str, &Var)>;

    /// Of a patch that does nothing but give some rows or columns of the weight `[out, in]` values of their own: their ascending indices, the
    /// dimension that they are along, and the values. The projection then takes them in, which costs nothing, instead of asking
    /// [`Patch::apply`].
    fn replaces(&self) -> Option<(&[u32], usize, &Var)> {
        None
    }

    /// Before every pass: the seed of what is random in training, none where nothing is to be random.
    fn seed(&self, seed: Option<u64>) {
        let _ = seed;
    }
}

/// Where a projection lies in a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The tensor's name without `.weight` or `.bias`.
    pub stem: String,
    /// Which part of it.
    pub cut: Cut,
}

/// The part of a checkpoint's weight that is one projection `[out, in]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Whether the checkpoint stores `[in, out]`.
    pub transposed: bool,
    /// Which outputs.
    pub part: Part,
}

/// Outputs of a weight that several projections share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All.
    Whole,
    /// A run of them.
    Rows {
        /// The first.
        start: usize,
        /// How many.
        len: usize,
    },
    /// In outputs `[heads, parts, dim]`, one part.
    Heads {
        /// Which.
        part: usize,
        /// Of how many.
        parts: usize,
        /// Width of a head.
        dim: usize,
    },
}

impl Cut {
    /// All of a weight, stored `[out, in]`.
    pub const WHOLE: Self = Self { transposed: false, part: Part::Whole };

    /// Whether the projection shares memory with the checkpoint's tensor, so that a change of the one is one of the other.
    pub(super) fn is_view(self) -> bool {
        !self.transposed && !matches!(self.part, Part::Heads { .. })
    }

    /// The projection `[out, in]` of a weight as it is stored.
    ///
    /// # Errors
    /// When the weight is too small.
    pub fn of(self, weight: &Tensor) -> Result<Tensor> {
        let weight = if self.transposed { weight.t()?.contiguous()? } else { weight.clone() };
        self.part.of(&weight)
    }

    /// The projection's bias `[out]`.
    ///
    /// # Errors
    /// When the bias is too short.
    pub fn of_bias(self, bias: &Tensor) -> Result<Tensor> {
        self.part.of(bias)
    }

    /// A stored weight with another projection `[out, in]` in its place.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn put(self, weight: &Tensor, projection: &Tensor) -> Result<Tensor> {
        if !self.transposed {
            return self.part.put(weight, projection);
        }
        self.part.put(&weight.t()?.contiguous()?, projection)?.t()?.contiguous()
    }

    /// A stored bias with another one `[out]` in its place.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn put_bias(self, bias: &Tensor, part: &Tensor) -> Result<Tensor> {
        self.part.put(bias, part)
    }
}

impl Part {
    /// `[out, …]`, its outputs only.
    fn of(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Whole => Ok(x.clone()),
            Self::Rows { start, len } => x.narrow(0, start, len)?.contiguous(),
            Self::Heads { part, parts, dim } => {
                let own = Self::by_head(x, parts, dim)?.narrow(1, part, 1)?.contiguous()?;
                let shape = Self::shape(x, x.dim(0)? / parts);
                own.reshape(shape)
            }
        }
    }

    fn put(self, x: &Tensor, own: &Tensor) -> Result<Tensor> {
        match self {
            Self::Whole => {
                if x.dims() != own.dims() {
                    candle_core::bail!("{:?} does not fit into the place of {:?}", own.shape(), x.shape());
                }
                Ok(own.clone())
            }
            Self::Rows { start, .. } => x.slice_scatter0(own, start),
            Self::Heads { part, parts, dim } => {
                let whole = Self::by_head(x, parts, dim)?;
                let (heads, _, _, inner) = whole.dims4()?;
                let own = own.reshape((heads, 1, dim, inner))?;
                let piece = |i: usize| if i == part { Ok(own.clone()) } else { whole.narrow(1, i, 1) };
                let pieces = (0..parts).map(piece).collect::<Result<Vec<_>>>()?;
                Tensor::cat(&pieces, 1)?.reshape(x.shape())
            }
        }
    }

    /// `[heads, parts, dim, rest]`.
    fn by_head(x: &Tensor, parts: usize, dim: usize) -> Result<Tensor> {
        let rows = x.dim(0)?;
        x.reshape((rows / (parts * dim), parts, dim, x.elem_count() / rows))
    }

    fn shape(x: &Tensor, rows: usize) -> Vec<usize> {
        std::iter::once(rows).chain(x.dims()[1..].iter().copied()).collect()
    }
}
