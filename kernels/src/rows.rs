//! Work on rows: pieces of fixed size in parallel, sums in fixed lanes and a fixed order.

use crate::elementary::Float;

/// Accumulators of a sum: one AVX-512 register of f32.
pub(crate) const LANES: usize = 16;

/// Rows in one piece of parallel work; fixed, so that sums over rows do not depend on the threads.
pub(crate) const PIECE: usize = 64;

/// Elements in one piece of elementwise parallel work.
pub(crate) const ELEMENTS: usize = 1 << 14;

/// Σ f(i) over `0..len` in [`LANES`] lanes, added pairwise at the end.
#[inline(always)]
pub(crate) fn lane_sum<T: Float>(values: &[T], mut f: impl FnMut(T) -> T) -> T {
    let mut lanes = [T::ZERO; LANES];
    let mut chunks = values.chunks_exact(LANES);
    for chunk in &mut chunks {
        for l in 0..LANES {
            lanes[l] += f(chunk[l]);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane += f(*value);
    }
    reduce(lanes)
}

/// Σ f(a, b) over two slices of one length, in the order of [`lane_sum`].
#[inline(always)]
pub(crate) fn lane_sum2<T: Float>(a: &[T], b: &[T], mut f: impl FnMut(T, T) -> T) -> T {
    let mut lanes = [T::ZERO; LANES];
    let mut left = a.chunks_exact(LANES);
    let mut right = b.chunks_exact(LANES);
    for (x, y) in (&mut left).zip(&mut right) {
        for l in 0..LANES {
            lanes[l] += f(x[l], y[l]);
        }
    }
    for ((lane, x), y) in lanes.iter_mut().zip(left.remainder()).zip(right.remainder()) {
        *lane += f(*x, *y);
    }
    reduce(lanes)
}

/// The largest value; the lowest of the type for an empty slice.
#[inline(always)]
pub(crate) fn lane_max<T: Float>(values: &[T]) -> T {
    let mut lanes = [T::LOWEST; LANES];
    let mut chunks = values.chunks_exact(LANES);
    for chunk in &mut chunks {
        for l in 0..LANES {
            lanes[l] = chunk[l].larger(lanes[l]);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane = value.larger(*lane);
    }
    lanes.into_iter().fold(T::LOWEST, |a, b| b.larger(a))
}

#[inline(always)]
fn reduce<T: Float>(mut lanes: [T; LANES]) -> T {
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            let other = lanes[l + width];
            lanes[l] += other;
        }
        width /= 2;
    }
    lanes[0]
}

/// Adds `from` to `into`, element by element.
#[inline(always)]
pub(crate) fn add_to<T: Float>(into: &mut [T], from: &[T]) {
    for (a, b) in into.iter_mut().zip(from) {
        *a += *b;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_take_every_element_once_at_any_length() {
        for len in [0, 1, 15, 16, 17, 100] {
            let values: Vec<f64> = (0..len).map(f64::from).collect();
            let expected = f64::from(len * (len - 1)) / 2.0;
            assert!((lane_sum(&values, |v| v) - expected).abs() < 1e-9, "{len}");
            assert!((lane_sum2(&values, &values, |a, _| a) - expected).abs() < 1e-9, "{len}");
        }
    }

    #[test]
    fn the_maximum_is_found_in_any_lane() {
        for place in 0..37 {
            let mut values = vec![-5f32; 37];
            values[place] = -1.0;
            assert!((lane_max(&values) + 1.0).abs() < f32::EPSILON);
        }
    }
}
