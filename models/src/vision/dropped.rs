//! What a training step leaves out at random: patch tokens, and half blocks of some samples.
//!
//! Each choice is a function of the step's seed and of its place in the model alone.

use candle_core::{Device, Result, Tensor};

use crate::init::Stream;

/// Leaves `max(1, ⌊G·(1 - share)⌋)` patch tokens of each picture, chosen at random, behind its
/// first token: open_clip's `PatchDropout` (Li et al., FLIP, arXiv 2212.00794).
///
/// # Shapes
/// (B, G + 1, C) → (B, K + 1, C)
pub(crate) fn patches(x: &Tensor, share: f64, seed: u64) -> Result<Tensor> {
    let (batch, tokens, width) = x.dims3()?;
    let all = tokens - 1;
    let kept = ((all as f64 * (1.0 - share)) as usize).max(1);
    let mut stream = Stream::new(seed, "patch_dropout");
    let mut rows = Vec::with_capacity(batch * (kept + 1));
    for picture in 0..batch {
        let first = picture * tokens;
        rows.push(first as u32);
        let mut places: Vec<(f64, usize)> = (0..all).map(|i| (stream.uniform(), i)).collect();
        places.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut places: Vec<usize> = places.into_iter().take(kept).map(|(_, i)| i).collect();
        places.sort_unstable();
        rows.extend(places.into_iter().map(|i| (first + 1 + i) as u32));
    }
    let rows = Tensor::new(rows, &Device::Cpu)?.reshape((batch, kept + 1))?;
    kernels::embedding(&x.reshape((batch * tokens, width))?, &rows)
}

/// Leaves out the whole result of a half block for this share of the samples, and scales the
/// others by 1 / (1 - share): Huang et al., "Deep Networks with Stochastic Depth", arXiv 1603.09382.
///
/// # Shapes
/// (B, N, C) → (B, N, C)
pub(crate) fn paths(x: &Tensor, share: f64, seed: u64, place: &str) -> Result<Tensor> {
    if share <= 0.0 {
        return Ok(x.clone());
    }
    let mut stream = Stream::new(seed, place);
    let kept = 1.0 - share;
    let scales: Vec<f64> =
        (0..x.dim(0)?).map(|_| if stream.uniform() < kept { 1.0 / kept } else { 0.0 }).collect();
    let scales = Tensor::new(scales, x.device())?.to_dtype(x.dtype())?;
    x.broadcast_mul(&scales.reshape(((), 1, 1))?)
}

/// The share of a block of `depth`: from 0 at the first one evenly to `largest` at the last.
pub(crate) fn share(largest: f64, block: usize, depth: usize) -> f64 {
    if depth < 2 { 0.0 } else { largest * block as f64 / (depth - 1) as f64 }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;

    #[test]
    fn patch_dropout_keeps_the_class_token_and_the_given_share_in_order() {
        let x = Tensor::arange(0f32, 34., &Device::Cpu).unwrap().reshape((2, 17, 1)).unwrap();
        let kept = patches(&x, 0.7, 3).unwrap();
        assert_eq!(kept.dims(), [2, 5, 1]); // class, and ⌊16·0.3⌋ = 4
        let rows = kept.squeeze(2).unwrap().to_vec2::<f32>().unwrap();
        for (row, first) in rows.iter().zip([0.0, 17.0]) {
            assert_eq!(row[0], first);
            assert!(row.windows(2).all(|pair| pair[0] < pair[1]), "{row:?}");
            assert!(row[4] < first + 17.0);
        }
        assert_ne!(rows[0][1..], rows[1][1..].iter().map(|v| v - 17.0).collect::<Vec<_>>());
        assert_eq!(patches(&x, 0.99, 3).unwrap().dims(), [2, 2, 1]);
    }

    #[test]
    fn every_patch_is_kept_equally_often() {
        let x = Tensor::arange(0f32, 9., &Device::Cpu).unwrap().reshape((1, 9, 1)).unwrap();
        let mut counts = [0u32; 9];
        for seed in 0..4000 {
            let kept = patches(&x, 0.5, seed).unwrap().flatten_all().unwrap();
            kept.to_vec1::<f32>().unwrap().iter().for_each(|v| counts[*v as usize] += 1);
        }
        assert_eq!(counts[0], 4000);
        assert!(counts[1..].iter().all(|n| (1850..2150).contains(n)), "{counts:?}");
    }

    #[test]
    fn drop_path_leaves_out_samples_and_keeps_the_mean() {
        let x = Tensor::ones((1000, 1, 2), DType::F32, &Device::Cpu).unwrap();
        let y = paths(&x, 0.2, 5, "a").unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(y.iter().all(|v| *v == 0.0 || *v == 1.25));
        let left = y.iter().filter(|v| **v == 0.0).count();
        assert!((320..480).contains(&left), "{left}");
        let mean = y.iter().sum::<f32>() / 2000.0;
        assert!((mean - 1.0).abs() < 0.06, "{mean}");
    }

    #[test]
    fn the_shares_of_the_blocks_grow_evenly_from_zero() {
        let shares: Vec<f64> = (0..14).map(|i| share(0.1, i, 14)).collect();
        assert_eq!(shares[0], 0.0);
        assert!((shares[1] - 0.007_692).abs() < 1e-6); // timm's ViTamin-S
        assert!((shares[13] - 0.1).abs() < 1e-12);
    }
}
