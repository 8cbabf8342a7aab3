//! Next-token loss.

use candle_core::{CpuStorage, D, DType, IndexOp, Result, Storage, Tensor};
use rayon::prelude::*;

use super::{
    matrix::slice,
    simd::{exp, max, sum_by, vectorised},
};

/// Mean negative log-likelihood, in nats per token, of `ids` [seq] under `logits` [seq, vocabulary]: token t + 1 is
/// predicted at position t, so `seq − 1` tokens are scored. In f32 whatever the model runs in.
///
/// # Errors
/// When the shapes do not fit.
pub fn next_token(logits: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let scored = ids.dim(0)? - 1;
    let logits = logits.i(..scored)?.to_dtype(DType::F32)?;
    let targets = ids.i(1..)?.unsqueeze(1)?;
    let log_p = candle_nn::ops::log_softmax(&logits, D::Minus1)?;
    log_p.gather(&targets, 1)?.mean_all()?.neg()
}

/// Log-likelihood of every target under its row of `logits` [n, vocabulary], in nats; in f32 whatever the model runs in.
///
/// # Errors
/// When there are not as many targets as rows, or a target is beyond the vocabulary.
pub fn log_likelihoods(logits: &Tensor, targets: &[u32]) -> Result<Vec<f32>> {
    let (rows, vocabulary) = logits.dims2()?;
    if rows != targets.len() || targets.iter().any(|&target| target as usize >= vocabulary) {
        candle_core::bail!("{} targets do not fit logits of {rows} tokens over {vocabulary} ids", targets.len());
    }
    let logits = logits.to_dtype(DType::F32)?.contiguous()?;
    if !logits.device().is_cpu() {
        let targets = Tensor::new(targets, logits.device())?.unsqueeze(1)?;
        return candle_nn::ops::log_softmax(&logits, D::Minus1)?.gather(&targets, 1)?.flatten_all()?.to_vec1();
    }
    let (storage, layout) = logits.storage_and_layout();
    let Storage::Cpu(storage @ CpuStorage::F32(_)) = &*storage else { candle_core::bail!("logits are not f32") };
    let rows = slice(storage, layout)?.par_chunks_exact(vocabulary).zip(targets);
    Ok(rows.map(|(row, &target)| row[target as usize] - log_sum(row)).collect())
}

/// `ln Σ exp(x)`.
fn log_sum(row: &[f32]) -> f32 {
    let mut total = 0.0;
    add_up(row, &mut total);
    total
}

/// Values that are summed in f32 before their sum goes into an f64.
const BLOCK: usize = 1 << 10;

vectorised! {
    /// `ln Σ exp(x)` into `total`.
    fn add_up(row: &[f32], total: &mut f32) {
        let largest = max(row);
        let mut all = 0f64;
        for block in row.chunks(BLOCK) {
            all += f64::from(sum_by(block, |x| exp(x - largest)));
        }
        *total = largest + all.ln() as f32;
    }
}
