//! Next-token loss.

use candle_core::{D, DType, IndexOp, Result, Tensor};

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
