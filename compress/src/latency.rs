//! Side-by-side timing of two image towers.

use std::time::Instant;

use candle_core::Tensor;
use models::{Clip, Mode};
use stage::{Cancel, Result};

/// Median milliseconds of one image batch through each model.
///
/// The runs alternate, so that a machine that slows down slows both; one run of each warms up.
///
/// # Shapes
/// `pixels` (B, 3, S, S)
pub fn compare(
    before: &Clip,
    after: &Clip,
    pixels: &Tensor,
    runs: usize,
    cancel: &Cancel,
) -> Result<(f64, f64)> {
    let mut times = (Vec::with_capacity(runs), Vec::with_capacity(runs));
    for run in 0..=runs {
        cancel.check()?;
        let (first, second) = (time(before, pixels)?, time(after, pixels)?);
        if run > 0 {
            times.0.push(first);
            times.1.push(second);
        }
    }
    Ok((median(times.0), median(times.1)))
}

fn time(clip: &Clip, pixels: &Tensor) -> Result<f64> {
    let start = Instant::now();
    clip.encode_image(pixels, Mode::Eval)?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// The middle value; of an even number the mean of the two.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::float_cmp, reason = "whole numbers")]
    fn the_median_ignores_one_slow_run() {
        assert_eq!(median(vec![3.0, 900.0, 1.0]), 3.0);
        assert_eq!(median(vec![4.0, 1.0]), 2.5);
    }
}
