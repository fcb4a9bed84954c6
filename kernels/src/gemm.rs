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

use crate::elementary::Float;
use crate::fresh::{repeated, zeros};
use crate::panels::{from_panels, packed_product, panels};
use crate::simd::Level;
use crate::strip::Start;
use crate::tiles::has_fused;

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

/// `a b`, plus the same row everywhere if there is one, in a new buffer.
pub(crate) fn new_product<T: Float>(a: Matrix<T>, b: Matrix<T>, row: Option<&[T]>) -> Vec<T> {
    assert_eq!(a.columns, b.rows, "inner dimensions");
    let (rows, depth, columns) = (a.rows, a.columns, b.columns);
    let level = Level::best();
    let start = match row.map(T::single) {
        None => Some(Start::Nothing),
        Some(row) => row.map(Start::Row),
    };
    if has_fused(level)
        && depth > 0
        && rows * columns > 0
        && let (Some(a), Some(b), Some(start)) = (a.single(), b.single(), start)
    {
        let packed = panels(b);
        let y = from_panels(level, a, &packed, columns, start);
        if let Some(y) = T::of_singles(y) {
            return y;
        }
    }
    let mut y = match row {
        Some(row) => repeated(row, rows),
        None => zeros(rows * columns),
    };
    product(&mut y, row.is_some(), a, b);
    y
}

fn own_product(level: Level, into: &mut [f32], add: bool, a: Matrix<f32>, b: Matrix<f32>) {
    if b.rows == 0 {
        if !add {
            into.fill(0.0);
        }
        return;
    }
    let start = if add { Start::Held } else { Start::Nothing };
    let (first, len) = (into.as_mut_ptr().cast(), into.len());
    // SAFETY: the same numbers, borrowed as long; all of them are numbers, and the product writes
    // nothing else.
    unsafe {
        let into = std::slice::from_raw_parts_mut(first, len);
        packed_product(level, into, start, a, &panels(b), (b.rows, b.columns));
    }
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
    use crate::panels::{DEPTH, on_one_thread};

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
    fn defined(a: Matrix<f32>, b: Matrix<f32>, row: Option<&[f32]>) -> Vec<f32> {
        let at = |m: &Matrix<f32>, i: usize, j: usize| m.data[i * m.strides.0 + j * m.strides.1];
        let mut all = Vec::new();
        for i in 0..a.rows {
            for j in 0..b.columns {
                let mut total = row.map_or(0.0, |row| row[j]);
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
                (50, 257, 512), // rows that meet in the caches, and enough panels to copy them
            ] {
                let (a, b) = (noise(m * k, 3), noise(k * n, 7));
                let rows = (Matrix::new(&a, m, k), Matrix::new(&b, k, n));
                let columns =
                    (Matrix::new(&a, k, m).transposed(), Matrix::new(&b, n, k).transposed());
                for (a, b) in [rows, columns, (rows.0, columns.1), (columns.0, rows.1)] {
                    let mut c = vec![5.0; m * n];
                    own_product(*level, &mut c, false, a, b);
                    let expected = defined(a, b, None);
                    assert_eq!(c, expected, "{level:?} {m} {n} {k}");
                    let row: Vec<f32> = noise(n, 11);
                    let rows = |row: Option<&[f32]>| new_product(a, b, row);
                    assert_eq!(rows(None), expected, "{m} {n} {k}");
                    assert_eq!(rows(Some(&row)), defined(a, b, Some(&row)), "{m} {n} {k}");
                }
            }
        }
    }

    #[test]
    fn products_that_are_not_cut_for_other_threads_have_the_same_bits() {
        let (a, b) = (noise(900 * 300, 1), noise(300 * 40, 2));
        let of = || new_product(Matrix::new(&a, 900, 300), Matrix::new(&b, 300, 40), None);
        assert_eq!(on_one_thread(of), of());
        let empty = new_product(Matrix::new(&[], 0, 300), Matrix::new(&b, 300, 40), None);
        assert!(empty.is_empty());
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
