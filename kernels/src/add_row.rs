//! A row added to every row of a tensor.

use candle_core::{Result, Tensor};

use crate::composed;
use crate::slices::check;

/// `x + row`, the row below itself as often as there are rows, with both gradients.
///
/// # Shapes
/// `x` (.., C), and any whose last dimensions have the row's numbers; `row` (C), or any of as many
/// numbers → that of x
///
/// # Errors
/// An empty row, one whose length does not divide x, or other dtypes than f32 and f64.
pub fn add_row(x: &Tensor, row: &Tensor) -> Result<Tensor> {
    check("add_row", x)?;
    let width = row.elem_count();
    if width == 0 || !x.elem_count().is_multiple_of(width) || row.dtype() != x.dtype() {
        candle_core::bail!("add_row: x {:?}, row {:?}", x.dims(), row.dims());
    }
    composed::add_row(x, row)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn the_row_is_added_to_every_row_and_gets_their_gradients_sum() {
        let x = Var::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
        let row = Var::new(&[10f32, 20.0], &Device::Cpu).unwrap();
        let y = add_row(&x, &row).unwrap();
        assert_eq!(y.to_vec2::<f32>().unwrap(), [[11.0, 22.0], [13.0, 24.0]]);
        let gradients = y.sum_all().unwrap().backward().unwrap();
        assert_eq!(gradients.get(&row).unwrap().to_vec1::<f32>().unwrap(), [2.0, 2.0]);
        assert_eq!(gradients.get(&x).unwrap().to_vec2::<f32>().unwrap(), [[1.0, 1.0]; 2]);
        assert!(add_row(&x, &Var::new(&[1f32, 2.0, 3.0], &Device::Cpu).unwrap()).is_err());
    }
}
