//! Features in rows, and the scores of some rows against others.

use candle_core::{Device, Tensor};
use stage::{Result, ResultExt};

use crate::classification::normalized;

/// Rows of equal width, one after another in memory.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Matrix {
    width: usize,
    data: Vec<f32>,
}

impl Matrix {
    /// Appends a row divided by its length. The first row sets the width; a row of another width is
    /// cut or filled with zeros, which no encoder gives.
    pub fn push_normalized(&mut self, row: &[f32]) {
        if self.width == 0 {
            self.width = row.len();
        }
        let start = self.data.len();
        self.data.extend(normalized(row).into_iter().take(self.width));
        self.data.resize(start + self.width, 0.0);
    }

    /// Rows, each divided by its length.
    #[must_use]
    pub fn of_normalized<'a>(rows: impl IntoIterator<Item = &'a [f32]>) -> Self {
        let mut matrix = Self::default();
        rows.into_iter().for_each(|row| matrix.push_normalized(row));
        matrix
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.data.len().checked_div(self.width).unwrap_or(0)
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Numbers in a row.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Row `i`.
    ///
    /// # Panics
    /// When there is no such row.
    #[must_use]
    pub fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.width..(i + 1) * self.width]
    }

    /// All rows.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.data.chunks_exact(self.width.max(1))
    }

    /// As a tensor `[rows, width]`.
    pub(crate) fn tensor(&self) -> Result<Tensor> {
        let shape = (self.len(), self.width);
        Tensor::from_slice(&self.data, shape, &Device::Cpu).model("features")
    }
}

/// Inner products of rows `a` from `from_a` with rows `b` from `from_b`: `counts.0` times
/// `counts.1` numbers, row by row.
pub(crate) fn tile(
    a: &Tensor,
    b: &Tensor,
    (from_a, from_b): (usize, usize),
    (count_a, count_b): (usize, usize),
) -> Result<Vec<f32>> {
    let product = || -> candle_core::Result<Vec<f32>> {
        let a = a.narrow(0, from_a, count_a)?;
        let b = b.narrow(0, from_b, count_b)?;
        a.matmul(&b.t()?)?.flatten_all()?.to_vec1()
    };
    product().model("cannot score the features")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tile_holds_the_inner_products_of_its_rows() {
        let a = Matrix::of_normalized([&[2.0_f32, 0.0][..], &[0.0, 5.0], &[3.0, 4.0]]);
        assert_eq!((a.len(), a.width(), a.row(2)), (3, 2, &[0.6, 0.8][..]));
        let tensor = a.tensor().unwrap();
        let got = tile(&tensor, &tensor, (1, 0), (2, 3)).unwrap();
        assert_eq!(got[..2], [0.0, 1.0]);
        assert!((got[5] - 1.0).abs() < 1e-6 && (got[2] - 0.8).abs() < 1e-6);
    }
}
