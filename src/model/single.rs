//! Weights in f32 as matrix products on the CPU read them.

use std::{borrow::Cow, iter::once, ops::Range};

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::{
    matrix::{Matrix, multiply_rows, with},
    panels::{Place, add, behind, row_by_row},
    sums::Hidden,
    training::FrozenNorm,
};

/// A weight `[out, in]` cut into panels of [`PANEL`] rows, each stored transposed, `[in, PANEL]` (the last is of another width): the
/// order in which the matrix product reads it, which would otherwise be made anew for every few tokens.
pub struct Panels {
    values: Vec<f32>,
    out: usize,
    inner: usize,
}

/// A multiple of the rows that the microkernel takes at once, at most 16 with AVX2 and 64 with AVX-512 (which makes 64 and 32 of a panel).
const PANEL: usize = 96;
/// The last panel is at least this wide: the library adds up products of at most 64 × 64 in other blocks, and a token's sums must
/// not depend on how many other tokens share its batch.
const NARROWEST: usize = 65;

/// How many panels of `out` rows are [`PANEL`] wide; one more holds the rest.
fn full(out: usize) -> usize {
    out.saturating_sub(NARROWEST) / PANEL
}

impl Panels {
    /// Of an f32 tensor `[out, in]` on the CPU.
    pub fn new(weight: &Tensor) -> Result<Self> {
        let (out, inner) = weight.dims2()?;
        with(weight, |values| Ok(Self::of(values, out, inner)))
    }

    fn of(weight: &[f32], out: usize, inner: usize) -> Self {
        let mut panels = vec![0f32; out * inner];
        let full = full(out) * inner * PANEL;
        let (equal, last) = panels.split_at_mut(full);
        let (rows, last_rows) = weight.split_at(full);
        let pairs = equal.par_chunks_mut(PANEL * inner).zip(rows.par_chunks(PANEL * inner));
        pairs.chain([(last, last_rows)]).for_each(|(panel, rows)| {
            let width = rows.len() / inner;
            for (i, row) in rows.chunks_exact(inner).enumerate() {
                for (value, to) in row.iter().zip(panel[i..].iter_mut().step_by(width)) {
                    *to = *value;
                }
            }
        });
        Self { values: panels, out, inner }
    }
}

impl super::panels::Panels for Panels {
    type Rows<'x> = Cow<'x, [f32]>;

    fn shape(&self) -> [usize; 2] {
        [self.out, self.inner]
    }

    fn columns(&self) -> Vec<Range<usize>> {
        let full = full(self.out) * PANEL;
        (0..full).step_by(PANEL).map(|start| start..start + PANEL).chain(once(full..self.out)).collect()
    }

    /// The library lays a panel out anew for each task.
    fn most(&self) -> usize {
        512
    }

    fn rows<'x>(&self, x: &'x [f32], norm: Option<&FrozenNorm>) -> Cow<'x, [f32]> {
        behind(norm, x)
    }

    #[allow(unsafe_code)]
    unsafe fn made(&self, tokens: usize, make: impl FnOnce(Hidden<'_>)) -> Cow<'static, [f32]> {
        // SAFETY: as the caller promises.
        Cow::Owned(unsafe { row_by_row([tokens, self.inner], make) })
    }

    fn multiply(&self, x: &Cow<'_, [f32]>, columns: Range<usize>, place: Place<'_>) {
        let (width, tokens) = (columns.len(), x.len() / self.inner);
        let panel = &self.values[columns.start * self.inner..columns.end * self.inner];
        let Place { values, stride, onto } = place;
        let at = |rows| Matrix { offset: 0, rows, columns: 1 };
        multiply_rows([tokens, width, self.inner], (values, at(stride)), (x, at(self.inner)), (panel, at(width)));
        // SAFETY: the product writes all rows.
        #[allow(unsafe_code)]
        unsafe {
            add(onto, values, stride, width);
        }
    }
}
