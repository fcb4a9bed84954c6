//! RePaViT: idle channels in the FFN, and their fold into fewer, smaller matrices.
//!
//! "RePaViT: Scalable Vision Transformer Acceleration via Structural Reparameterization on
//! Feedforward Network Layers", ICML 2025; code Ackesnal/RePaViT (`repavit.py`). With W as
//! (out, in), a active channels of H and BatchNorm statistics fixed, the FFN
//!
//! ```text
//! y = x + W2·BN2([GELU(h_act), h_idle]) + b2,   h = W1·BN1(x) + b1
//! ```
//!
//! is y = V·GELU(U x + u) + R x + r with no normalisation and no residual: [`fold_block`].
//! In our towers only the image tower has this form, as RePa-CLIP's counters show; the attention
//! half keeps its LayerNorm, and the FFN's LayerNorm is replaced by BN1.

use candle_core::{DType, Device, Tensor};
use stage::{Error, Result, ResultExt};

/// BatchNorm's eps (`torch.nn.BatchNorm1d`).
pub const BATCH_NORM_EPS: f64 = 1e-5;

/// Share of the batch in the running statistics (`torch.nn.BatchNorm1d`'s momentum).
pub const BATCH_NORM_MOMENTUM: f64 = 0.1;

/// Channels that keep their activation, the first ones: ⌈H·(1 - ratio)⌉.
///
/// # Errors
/// A ratio outside 0..=1.
pub fn active_channels(hidden: usize, ratio: f64) -> Result<usize> {
    if !(0.0..=1.0).contains(&ratio) {
        return Err(Error::model(format!("idle ratio must lie in 0..=1, got {ratio}")));
    }
    Ok((hidden as f64 * (1.0 - ratio)).ceil() as usize)
}

/// BatchNorm with its running statistics, C channels.
#[derive(Debug, Clone)]
pub struct BatchNorm {
    /// Gain (C).
    pub weight: Tensor,
    /// Shift (C).
    pub bias: Tensor,
    /// Running mean (C).
    pub mean: Tensor,
    /// Running variance (C).
    pub variance: Tensor,
}

/// The FFN of a block in its training form.
#[derive(Debug, Clone)]
pub struct IdleFfn {
    /// BN1 over the C input channels.
    pub bn_1: BatchNorm,
    /// W1 (H, C).
    pub fc_weight: Tensor,
    /// b1 (H).
    pub fc_bias: Tensor,
    /// BN2 over the H hidden channels.
    pub bn_2: BatchNorm,
    /// W2 (C, H).
    pub proj_weight: Tensor,
    /// b2 (C).
    pub proj_bias: Tensor,
    /// Channels with activation, the first of H.
    pub active: usize,
}

/// The FFN of a block in its inference form.
#[derive(Debug, Clone)]
pub struct FoldedFfn {
    /// R (C, C): the idle path and the residual.
    pub idle_weight: Tensor,
    /// r (C).
    pub idle_bias: Tensor,
    /// U (a, C), u (a), V (C, a); None when no channel is active.
    pub active: Option<(Tensor, Tensor, Tensor)>,
}

/// Folds the FFN of one block, in f64, and returns the tensors in the dtype of `fc_weight`.
///
/// # Errors
/// Shapes that do not fit.
pub fn fold_block(ffn: &IdleFfn) -> Result<FoldedFfn> {
    fold(ffn).model("cannot fold the FFN")
}

fn fold(ffn: &IdleFfn) -> candle_core::Result<FoldedFfn> {
    let dtype = ffn.fc_weight.dtype();
    let (hidden, width) = ffn.fc_weight.dims2()?;
    let wide = |t: &Tensor| t.detach().to_dtype(DType::F64);
    // Steps 1 and 2: each BatchNorm goes into the matrix behind it.
    let (f1, b1) = absorb(&ffn.bn_1, &wide(&ffn.fc_weight)?, &wide(&ffn.fc_bias)?)?;
    let (f2, b2) = absorb(&ffn.bn_2, &wide(&ffn.proj_weight)?, &wide(&ffn.proj_bias)?)?;
    // Step 3: idle path and residual. R = F2[:, a:]·F1[a:, :] + I, r = F2[:, a:]·f1[a:] + f2
    let (active, idle) = (ffn.active, hidden - ffn.active);
    let eye = Tensor::eye(width, DType::F64, &Device::Cpu)?;
    let (r, shift) = if idle == 0 {
        (eye, b2)
    } else {
        let f2_idle = f2.narrow(1, active, idle)?.contiguous()?;
        let r = (f2_idle.matmul(&f1.narrow(0, active, idle)?.contiguous()?)? + eye)?;
        let through = f2_idle.matmul(&b1.narrow(0, active, idle)?.unsqueeze(1)?)?.squeeze(1)?;
        (r, (through + b2)?)
    };
    // Step 4: active path. U = F1[:a, :], u = f1[:a], V = F2[:, :a]
    let path = if active == 0 {
        None
    } else {
        let own = |t: Tensor| t.contiguous()?.to_dtype(dtype);
        Some((
            own(f1.narrow(0, 0, active)?)?,
            own(b1.narrow(0, 0, active)?)?,
            own(f2.narrow(1, 0, active)?)?,
        ))
    };
    Ok(FoldedFfn {
        idle_weight: r.to_dtype(dtype)?,
        idle_bias: shift.to_dtype(dtype)?,
        active: path,
    })
}

/// W·BN(x) + b = F x + f with A = γ/√(σ² + ε): F = W·diag(A), f = b + W·(β - μ⊙A).
fn absorb(norm: &BatchNorm, w: &Tensor, b: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
    let wide = |t: &Tensor| t.detach().to_dtype(DType::F64);
    let scale = (wide(&norm.weight)? / (wide(&norm.variance)? + BATCH_NORM_EPS)?.sqrt()?)?;
    let shift = (wide(&norm.bias)? - (wide(&norm.mean)? * &scale)?)?;
    let through = w.matmul(&shift.unsqueeze(1)?)?.squeeze(1)?;
    Ok((w.broadcast_mul(&scale)?, (b + through)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn active_channels_are_rounded_up() {
        assert_eq!(active_channels(61, 0.25).unwrap(), 46); // 45.75
        assert_eq!(active_channels(96, 0.75).unwrap(), 24);
        assert_eq!(active_channels(96, 1.0).unwrap(), 0);
        assert_eq!(active_channels(96, 0.0).unwrap(), 96);
        assert!(active_channels(96, 1.01).is_err());
        assert!(active_channels(96, f64::NAN).is_err());
    }
}
