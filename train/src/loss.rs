//! CLIP's objective: the mean of two cross-entropies over the similarity matrix.
//!
//! Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
//! arXiv 2103.00020, Figure 3; open_clip `src/open_clip/loss.py`, `ClipLoss`.

use candle_core::{Device, Result, Tensor};

/// `½ (CE(s I Tᵀ, diagonal) + CE(s T Iᵀ, diagonal))` with `s = exp(logit_scale)`.
///
/// # Shapes
/// `image`, `text`: (B, E), rows of length 1. `logit_scale`: (), before exp. Gives ().
pub fn clip_loss(image: &Tensor, text: &Tensor, logit_scale: &Tensor) -> Result<Tensor> {
    let (batch, _embed) = image.dims2()?;
    let targets = diagonal(0, batch)?;
    let logits = image.matmul(&text.t()?)?.broadcast_mul(&logit_scale.exp()?)?; // (B, B)
    let by_image = kernels::cross_entropy(&logits, &targets)?;
    let by_text = kernels::cross_entropy(&logits.t()?.contiguous()?, &targets)?;
    (by_image + by_text)? * 0.5
}

/// The same for some rows against all: `½ (CE(s i Tᵀ, first..) + CE(s t Iᵀ, first..))`. The mean
/// over all parts of equal size is [`clip_loss`].
///
/// # Shapes
/// `own`: image and text (b, E); `all`: image and text (B, E), in which `own` begins at row
/// `first`. Gives ().
pub fn local_clip_loss(
    own: [&Tensor; 2],
    all: [&Tensor; 2],
    logit_scale: &Tensor,
    first: usize,
) -> Result<Tensor> {
    let (batch, _embed) = own[0].dims2()?;
    let targets = diagonal(first, batch)?;
    let scale = logit_scale.exp()?;
    let of = |own: &Tensor, all: &Tensor| -> Result<Tensor> {
        let logits = own.matmul(&all.t()?)?.broadcast_mul(&scale)?; // (b, B)
        kernels::cross_entropy(&logits, &targets)
    };
    (of(own[0], all[1])? + of(own[1], all[0])?)? * 0.5
}

/// In main memory, where indices are looked at before they are used.
fn diagonal(first: usize, rows: usize) -> Result<Tensor> {
    Tensor::arange(first as u32, (first + rows) as u32, &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor<const N: usize>(rows: [[f32; 2]; N]) -> Tensor {
        Tensor::new(rows.map(|row| row.to_vec()).to_vec(), &Device::Cpu).unwrap()
    }

    fn loss(image: &[[f32; 2]; 2], text: &[[f32; 2]; 2], scale: f32) -> f32 {
        let scale = Tensor::new(scale, &Device::Cpu).unwrap();
        clip_loss(&tensor(*image), &tensor(*text), &scale).unwrap().to_scalar().unwrap()
    }

    #[test]
    fn features_that_say_nothing_cost_the_logarithm_of_the_batch() {
        let same = [[1.0, 0.0], [1.0, 0.0]];
        assert!((loss(&same, &same, 0.0) - 2_f32.ln()).abs() < 1e-6);
    }

    #[test]
    fn matching_features_cost_what_the_softmax_leaves() {
        let eye = [[1.0, 0.0], [0.0, 1.0]];
        // −log(e^s / (e^s + 1)) with s = exp(ln 2) = 2
        let expected = (1.0 + (-2_f32).exp()).ln();
        assert!((loss(&eye, &eye, 2_f32.ln()) - expected).abs() < 1e-6);
    }

    #[test]
    fn both_directions_count_the_same() {
        let (a, b) = ([[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [1.0, 0.0]]);
        assert!((loss(&a, &b, 1.0) - loss(&b, &a, 1.0)).abs() < 1e-6);
    }

    #[test]
    fn the_mean_of_the_parts_is_the_whole() {
        let image = tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-0.8, 0.6]]);
        let text = tensor([[0.0, 1.0], [1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]]);
        let scale = Tensor::new(1.0_f32, &Device::Cpu).unwrap();
        let whole: f32 = clip_loss(&image, &text, &scale).unwrap().to_scalar().unwrap();
        let part = |first: usize| -> f32 {
            let own = |all: &Tensor| all.narrow(0, first, 2).unwrap();
            local_clip_loss([&own(&image), &own(&text)], [&image, &text], &scale, first)
                .unwrap()
                .to_scalar()
                .unwrap()
        };
        assert!((f32::midpoint(part(0), part(2)) - whole).abs() < 1e-6);
        assert!((part(0) - part(2)).abs() > 1e-3, "the parts differ");
    }
}
