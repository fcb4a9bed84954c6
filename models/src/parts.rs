//! A batch in parts, each through the whole tower on one thread.
//!
//! Layer after layer over a whole batch, every result is tens of megabytes that go to main memory and
//! come back, and all threads wait for the slowest one after each layer. A few pictures at a time stay
//! near the core, and threads meet once a tower. A row of a product does not depend on the rows
//! beside it, so the features are the same bits.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

/// Rows of a product in a part: enough that the weights, which are read once a part, come in time.
pub(crate) const ROWS: usize = 200;

/// Applies `forward` to `size` samples of `x` (B, ..) at a time and puts the results (B, ..) together;
/// to all at once where there are fewer parts than threads.
pub(crate) fn in_parts(
    x: &Tensor,
    size: usize,
    forward: impl Fn(&Tensor) -> Result<Tensor> + Sync,
) -> Result<Tensor> {
    let batch = x.dim(0)?;
    let parts = batch.div_ceil(size.max(1));
    if parts < rayon::current_num_threads().max(2) {
        return forward(x);
    }
    let part = |i: usize| {
        let first = i * size;
        let part = x.narrow(0, first, size.min(batch - first))?;
        kernels::on_one_thread(|| forward(&part))
    };
    let parts = (0..parts).into_par_iter().map(part).collect::<Result<Vec<_>>>()?;
    Tensor::cat(&parts, 0)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use crate::{Clip, ClipConfig, Mode};

    #[test]
    fn features_are_the_same_bits_in_parts_and_whole() {
        for name in ["tiny-32", "tiny-vitamin-32"] {
            let config = ClipConfig::named(name).unwrap();
            let clip = Clip::init(&config, &[], 3, &Device::Cpu).unwrap();
            let side = config.vision.image_size();
            let pixels = (0..500 * 3 * side * side).map(|i| (i % 251) as f32 / 125.0 - 1.0);
            let pixels = candle_core::Tensor::from_iter(pixels, &Device::Cpu).unwrap();
            let pixels = pixels.reshape((500, 3, side, side)).unwrap();
            let context = config.text.context_length;
            let tokens: Vec<u32> = (0..50 * context)
                .map(|i| if i % context == 5 { 49_407 } else { i as u32 % 97 })
                .collect();
            let tokens =
                candle_core::Tensor::from_vec(tokens, (50, context), &Device::Cpu).unwrap();
            for laid_out in [clip.clone().with_packed_weights(), clip.clone().with_half_weights()] {
                let laid_out = laid_out.unwrap();
                let of = |threads: usize| {
                    let pool =
                        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    pool.install(|| {
                        let image = laid_out.encode_image(&pixels, Mode::Eval).unwrap();
                        let text = laid_out.encode_text(&tokens, Mode::Eval).unwrap();
                        (image.to_vec2::<f32>().unwrap(), text.to_vec2::<f32>().unwrap())
                    })
                };
                // In parts with two threads; whole with more threads than parts.
                let whole = of(64);
                assert_eq!(whole.0.len(), 500);
                assert_eq!(of(2), whole, "{name}");
            }
        }
    }
}
