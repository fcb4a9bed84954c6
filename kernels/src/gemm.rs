//! Matrix products of slices, by the `gemm` crate that candle uses too.

use candle_core::DType;

use crate::elementary::Float;

/// A matrix over a slice.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    /// Distance of two neighbours in a column, and in a row.
    strides: (usize, usize),
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
}

/// `into = a b`, or `into += a b` if `add`; `into` is row after row.
pub(crate) fn product<T: Float>(into: &mut [T], add: bool, a: Matrix<T>, b: Matrix<T>) {
    assert_eq!(a.columns, b.rows, "inner dimensions");
    assert_eq!(into.len(), a.rows * b.columns, "the product");
    assert!(matches!(T::DTYPE, DType::F32 | DType::F64));
    if into.is_empty() {
        return;
    }
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
}
