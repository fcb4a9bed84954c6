//! New buffers, filled on all threads: a layer's result is megabytes, and one thread that fills it
//! lets the others wait for a fifth of the time of its product.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::rows::ELEMENTS;

/// `len` zeros.
pub(crate) fn zeros<T: Copy + Send + Sync + Default>(len: usize) -> Vec<T> {
    filled(len, ELEMENTS, |part| {
        for to in part {
            to.write(T::default());
        }
    })
}

/// `row`, `count` times.
pub(crate) fn repeated<T: Copy + Send + Sync>(row: &[T], count: usize) -> Vec<T> {
    if row.is_empty() {
        return Vec::new();
    }
    let rows = (ELEMENTS / row.len()).max(1);
    filled(count * row.len(), rows * row.len(), |part| {
        for to in part.chunks_exact_mut(row.len()) {
            for (to, from) in to.iter_mut().zip(row) {
                to.write(*from);
            }
        }
    })
}

/// A buffer that `write` fills.
///
/// # Safety
/// `write` writes every element.
pub(crate) unsafe fn written<T>(len: usize, write: impl FnOnce(&mut [MaybeUninit<T>])) -> Vec<T> {
    let mut values = Vec::with_capacity(len);
    write(&mut values.spare_capacity_mut()[..len]);
    // SAFETY: the capacity is at least `len`, and the caller says that all elements are written.
    unsafe { values.set_len(len) };
    values
}

/// `fill` must write every element of the parts it is given, all `part` long but the last.
fn filled<T: Send + Sync>(
    len: usize,
    part: usize,
    fill: impl Fn(&mut [MaybeUninit<T>]) + Send + Sync,
) -> Vec<T> {
    let all = |space: &mut [MaybeUninit<T>]| match len <= part {
        true => fill(space),
        false => space.par_chunks_mut(part).for_each(fill),
    };
    // SAFETY: both callers' `fill` writes every element: `zeros` each one in turn, `repeated` whole
    // rows, of which every part is a whole number, since `part` and `len` are multiples of the row.
    unsafe { written(len, all) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_any_length_are_filled_to_the_end() {
        for len in [0, 1, ELEMENTS, ELEMENTS + 1, 3 * ELEMENTS + 7] {
            assert_eq!(zeros::<f32>(len), vec![0f32; len]);
        }
        for (row, count) in [(0, 3), (1, 1), (7, 5), (3, 20_001), (ELEMENTS + 1, 3)] {
            let row: Vec<f32> = (0..row).map(|i| i as f32).collect();
            assert_eq!(repeated(&row, count), row.repeat(count));
        }
    }
}
