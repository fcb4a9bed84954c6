//! Many inner products at once.

use candle_core::{Device, Tensor};
use stage::{Error, Result, ResultExt};

/// Inner products of every row of `a` with every row of `b`, rows of `dim` numbers: row-major,
/// `a`'s rows first. On x86-64 with AVX2 and FMA the same bits at any number of threads and on
/// every such CPU; elsewhere the sums follow the machine.
///
/// # Errors
/// [`stage::Kind::Internal`] where the lengths are no whole numbers of rows.
pub fn inner_products(a: &[f32], b: &[f32], dim: usize) -> Result<Vec<f32>> {
    if dim == 0 || !a.len().is_multiple_of(dim) || !b.len().is_multiple_of(dim) {
        let message = format!("{} and {} numbers in rows of {dim}", a.len(), b.len());
        return Err(Error::internal(message));
    }
    if a.is_empty() || b.is_empty() {
        return Ok(Vec::new());
    }
    let products = || -> candle_core::Result<Vec<f32>> {
        let a = Tensor::from_slice(a, (a.len() / dim, dim), &Device::Cpu)?;
        let b = Tensor::from_slice(b, (b.len() / dim, dim), &Device::Cpu)?;
        kernels::linear(&a, &b, None)?.flatten_all()?.to_vec1()
    };
    products().internal("products of features")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_meets_every_row() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0], [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
        assert_eq!(inner_products(&a, &b, 2).unwrap(), [1.0, 2.0, 3.0, 3.0, 4.0, 7.0]);
        assert!(inner_products(&a, &b, 3).is_err() && inner_products(&a, &b, 0).is_err());
        assert!(inner_products(&a, &[], 2).unwrap().is_empty());
    }
}
