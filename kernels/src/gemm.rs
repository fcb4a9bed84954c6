//! Matrix products of slices.
//!
//! In f32 on machines with AVX2 and FMA (or AVX-512) the product is our own: every element is
//! summed over the inner dimension in blocks of [`DEPTH`], in order, each step one fused
//! multiply-add. Neither the threads nor the width of the vectors enter that order, so the bits are
//! the same on all such machines, and do not depend on the number of rows beside. In f64 and
//! elsewhere it is the `gemm` crate's, which candle uses too.
//!
//! The left factor is read where it lies; the right one is copied into panels of [`WIDE`] columns.
//! Shapes of transformers have thousands of rows on the left, or in the inner dimension, and a few
//! hundred columns, so the panels fit the second-level cache.

use candle_core::DType;
use rayon::prelude::*;

use crate::elementary::Float;
use crate::fresh::zeros;
use crate::simd::Level;
use crate::tiles::{Span, Strip, fused, has_fused};

/// A matrix over a slice.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    pub(crate) data: &'a [T],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Distance of two neighbours in a column, and in a row.
    pub(crate) strides: (usize, usize),
}

impl<'a, T: Float> Matrix<'a, T> {
    /// Row after row.
    pub(crate) fn new(data: &'a [T], rows: usize, columns: usize) -> Self {
        assert_eq!(data.len(), rows * columns, "a matrix of {rows} x {columns}");
        Self { data, rows, columns, strides: (columns, 1) }
    }

    /// The same numbers with rows and columns swapped.
    pub(crate) fn transposed(self) -> Self {
        let (down, right) = self.strides;
        Self { rows: self.columns, columns: self.rows, strides: (right, down), ..self }
    }

    /// The same matrix, if its numbers are f32.
    pub(crate) fn single(self) -> Option<Matrix<'a, f32>> {
        let data = T::single(self.data)?;
        Some(Matrix { data, rows: self.rows, columns: self.columns, strides: self.strides })
    }
}

/// `into = a b`, or `into += a b` if `add`; `into` is row after row.
pub(crate) fn product<T: Float>(into: &mut [T], add: bool, a: Matrix<T>, b: Matrix<T>) {
    assert_eq!(a.columns, b.rows, "inner dimensions");
    assert_eq!(into.len(), a.rows * b.columns, "the product");
    if into.is_empty() {
        return;
    }
    let level = Level::best();
    if has_fused(level)
        && let (Some(a), Some(b)) = (a.single(), b.single())
        && let Some(into) = T::single_mut(into)
    {
        own_product(level, into, add, a, b);
        return;
    }
    gemm_product(into, add, a, b);
}

/// Steps of the inner dimension in one block.
const DEPTH: usize = 256;

/// Columns of a panel of the right factor.
const WIDE: usize = 32;

/// Panels that are finished before the next ones begin. Where several blocks of the inner dimension
/// add to a part of the product that is larger than the second-level cache, it goes to and fro once a
/// block; of this many panels it stays there. Every element's sum keeps its order.
fn panels_together(rows: usize, depth: usize, columns: usize) -> usize {
    /// Bytes of the product beside which a block of both factors has room.
    const STAYS: usize = 700 << 10;
    const FEW: usize = 16;
    let all = columns.div_ceil(WIDE);
    if depth <= DEPTH || rows * columns * 4 <= STAYS { all } else { FEW.min(all) }
}

/// Rows of the product in one task: as many as still share the work evenly, but so few that their
/// part of the left factor stays in the second-level cache. Every element has its own sum, so the
/// bits do not depend on this.
fn rows_in_a_task(rows: usize) -> usize {
    /// Both kernels' rows, 6 and 12, divide it.
    const STEP: usize = 12;
    const MOST: usize = 32 * STEP;
    // Several tasks a thread, for machines whose cores are not equally fast at all times.
    let tasks = 2 * rayon::current_num_threads().max(1);
    rows.div_ceil(tasks).next_multiple_of(STEP).min(MOST)
}

/// Steps of the inner dimension that are copied at a time, so that their lines stay in the
/// first-level cache until they are full.
const COPIED: usize = 64;

/// The right factor in panels: for each [`WIDE`] columns all rows, zeros beyond the last column.
fn panels(b: Matrix<f32>) -> Vec<f32> {
    let (down, right) = b.strides;
    let mut packed = zeros(b.columns.div_ceil(WIDE) * b.rows * WIDE);
    packed.par_chunks_mut((b.rows * WIDE).max(1)).enumerate().for_each(|(panel, packed)| {
        let first = panel * WIDE;
        let count = WIDE.min(b.columns - first);
        if right == 1 {
            for (row, to) in packed.chunks_exact_mut(WIDE).enumerate() {
                to[..count].copy_from_slice(&b.data[row * down + first..][..count]);
            }
        } else {
            for (block, packed) in packed.chunks_mut(COPIED * WIDE).enumerate() {
                for column in 0..count {
                    let from = &b.data[(first + column) * right + block * COPIED * down..];
                    let from = from.iter().step_by(down);
                    for (row, from) in packed.chunks_exact_mut(WIDE).zip(from) {
                        row[column] = *from;
                    }
                }
            }
        }
    });
    packed
}

/// A right factor laid out once for many products.
#[derive(Debug, Clone)]
pub(crate) struct Panels {
    packed: Vec<f32>,
    /// Rows and columns of the factor.
    depth: usize,
    columns: usize,
}

impl Panels {
    /// None where products are the `gemm` crate's.
    pub(crate) fn new(b: Matrix<f32>) -> Option<Self> {
        has_fused(Level::best()).then(|| Self {
            packed: panels(b),
            depth: b.rows,
            columns: b.columns,
        })
    }

    /// `into += a b`
    pub(crate) fn add_product(&self, into: &mut [f32], a: Matrix<f32>) {
        assert_eq!(a.columns, self.depth, "inner dimensions");
        assert_eq!(into.len(), a.rows * self.columns, "the product");
        if !into.is_empty() && self.depth > 0 {
            packed_product(Level::best(), into, true, a, &self.packed, (self.depth, self.columns));
        }
    }
}

fn own_product(level: Level, into: &mut [f32], add: bool, a: Matrix<f32>, b: Matrix<f32>) {
    if b.rows == 0 {
        if !add {
            into.fill(0.0);
        }
        return;
    }
    packed_product(level, into, add, a, &panels(b), (b.rows, b.columns));
}

fn packed_product(
    level: Level,
    into: &mut [f32],
    add: bool,
    a: Matrix<f32>,
    packed: &[f32],
    (depth, columns): (usize, usize),
) {
    let (down, right) = a.strides;
    let task_rows = rows_in_a_task(a.rows);
    into.par_chunks_mut(task_rows * columns).enumerate().for_each(|(task, into)| {
        let rows = into.len() / columns;
        let together = panels_together(rows, depth, columns);
        for (group, panels) in packed.chunks(together * depth * WIDE).enumerate() {
            for start in (0..depth).step_by(DEPTH) {
                let steps = DEPTH.min(depth - start);
                for (panel, packed) in panels.chunks_exact(depth * WIDE).enumerate() {
                    let first = (group * together + panel) * WIDE;
                    let strip = Strip {
                        a: a.data,
                        offset: task * task_rows * down + start * right,
                        down,
                        right,
                        b: &packed[start * WIDE..(start + steps) * WIDE],
                        stride: WIDE,
                        steps,
                        span: Span::All,
                        into: &mut into[first..],
                        into_stride: columns,
                        rows,
                        columns: WIDE.min(columns - first),
                        add: add || start > 0,
                    };
                    fused(level, strip);
                }
            }
        }
    });
}

fn gemm_product<T: Float>(into: &mut [T], add: bool, a: Matrix<T>, b: Matrix<T>) {
    assert!(matches!(T::DTYPE, DType::F32 | DType::F64));
    let threads = rayon::current_num_threads();
    let parallelism =
        if threads > 1 { gemm::Parallelism::Rayon(threads) } else { gemm::Parallelism::None };
    // SAFETY: `Matrix::new` holds data.len() == rows·columns with strides (columns, 1), and
    // `transposed` swaps sizes and strides together, so every (i, j) of `a` and `b` addresses an
    // element of its slice; `into` has a.rows·b.columns elements with strides (b.columns, 1), and
    // is borrowed mutably, so it overlaps neither. The element type is f32 or f64, which gemm
    // implements.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            into.as_mut_ptr(),
            1,
            b.columns as isize,
            add,
            a.data.as_ptr(),
            a.strides.1 as isize,
            a.strides.0 as isize,
            b.data.as_ptr(),
            b.strides.1 as isize,
            b.strides.0 as isize,
            T::ONE,
            T::ONE,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_can_be_added_and_transposed() {
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]; // 2 x 3
        let b = [1.0, 0.0, 2.0, 1.0, 0.0, 3.0]; // 3 x 2
        let mut c = [1.0; 4];
        product(&mut c, true, Matrix::new(&a, 2, 3), Matrix::new(&b, 3, 2));
        assert_eq!(c, [6.0, 12.0, 15.0, 24.0]);
        let mut c = [9.0; 9];
        product(
            &mut c,
            false,
            Matrix::new(&a, 2, 3).transposed(),
            Matrix::new(&b, 3, 2).transposed(),
        );
        assert_eq!(c, [1.0, 6.0, 12.0, 2.0, 9.0, 15.0, 3.0, 12.0, 18.0]);
    }

    fn noise(count: usize, seed: u32) -> Vec<f32> {
        (0..count as u32).map(|i| ((i * 37 + seed) % 101) as f32 / 50.0 - 1.0).collect()
    }

    /// The definition, with fused steps in blocks of [`DEPTH`].
    fn defined(a: Matrix<f32>, b: Matrix<f32>) -> Vec<f32> {
        let at = |m: &Matrix<f32>, i: usize, j: usize| m.data[i * m.strides.0 + j * m.strides.1];
        let mut all = Vec::new();
        for i in 0..a.rows {
            for j in 0..b.columns {
                let mut total = 0f32;
                for start in (0..a.columns).step_by(DEPTH) {
                    let mut sum = 0f32;
                    for l in start..a.columns.min(start + DEPTH) {
                        sum = at(&a, i, l).mul_add(at(&b, l, j), sum);
                    }
                    total += sum;
                }
                all.push(total);
            }
        }
        all
    }

    #[test]
    fn every_level_gives_the_bits_of_the_definition_at_odd_sizes() {
        for level in Level::available().iter().filter(|level| has_fused(**level)) {
            for (m, n, k) in [
                (1, 1, 1),
                (49, 33, 300),
                (8, 32, 256),
                (101, 70, 5),
                (3, 130, 513),
                (350, 1100, 300),
            ] {
                let (a, b) = (noise(m * k, 3), noise(k * n, 7));
                let rows = (Matrix::new(&a, m, k), Matrix::new(&b, k, n));
                let columns =
                    (Matrix::new(&a, k, m).transposed(), Matrix::new(&b, n, k).transposed());
                for (a, b) in [rows, columns, (rows.0, columns.1), (columns.0, rows.1)] {
                    let mut c = vec![5.0; m * n];
                    own_product(*level, &mut c, false, a, b);
                    assert_eq!(c, defined(a, b), "{level:?} {m} {n} {k}");
                }
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_the_rows_beside_it() {
        let (a, b) = (noise(100 * 40, 1), noise(40 * 24, 2));
        let mut all = vec![0.0; 100 * 24];
        product(&mut all, false, Matrix::new(&a, 100, 40), Matrix::new(&b, 40, 24));
        let mut one = vec![0.0; 24];
        product(&mut one, false, Matrix::new(&a[70 * 40..71 * 40], 1, 40), Matrix::new(&b, 40, 24));
        assert!(!has_fused(Level::best()) || one == all[70 * 24..71 * 24]);
    }
}
