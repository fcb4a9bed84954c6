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
    let targets = diagonal(batch, image.device())?;
    let logits = image.matmul(&text.t()?)?.broadcast_mul(&logit_scale.exp()?)?; // (B, B)
    let by_image = kernels::cross_entropy(&logits, &targets)?;
    let by_text = kernels::cross_entropy(&logits.t()?.contiguous()?, &targets)?;
    (by_image + by_text)? * 0.5
}

fn diagonal(batch: usize, device: &Device) -> Result<Tensor> {
    Tensor::arange(0_u32, batch as u32, device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(image: &[[f32; 2]; 2], text: &[[f32; 2]; 2], scale: f32) -> f32 {
        let tensor = |rows| Tensor::new(rows, &Device::Cpu).unwrap();
        let scale = Tensor::new(scale, &Device::Cpu).unwrap();
        clip_loss(&tensor(image), &tensor(text), &scale).unwrap().to_scalar().unwrap()
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
}
