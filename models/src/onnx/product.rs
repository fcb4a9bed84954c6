//! Products of matrices.

use candle_core::{Device, Tensor};
use kernels::Products;
use stage::{Error, Result, ResultExt};

use super::array::{Array, count};
use super::attributes::Attributes;
use super::budget::{Budget, steps};

/// Columns to which a product's right factor is filled up where it is laid out (`kernels`, `gemm`).
const PANEL: usize = 32;

/// Numbers of a right factor (k, n) as it is laid out: thirty-two times its own where n is 1.
pub(super) fn laid_out(k: usize, n: usize) -> usize {
    n.checked_next_multiple_of(PANEL).map_or(usize::MAX, |n| k.saturating_mul(n))
}

/// `a` (.., k) times `b` (k, n); of more sides only the left may have them.
pub(super) fn matmul(a: &Array, b: &Array, budget: &mut Budget<'_>) -> Result<Array> {
    let ([before @ .., k], &[rows, n]) = (a.shape(), b.shape()) else {
        return Err(Error::model(format!("{:?} times {:?}", a.shape(), b.shape())));
    };
    if *k != rows || rows == 0 || n == 0 {
        return Err(Error::model(format!("{:?} times {:?}", a.shape(), b.shape())));
    }
    let shape = [before, &[n]].concat();
    let all = count(&shape)?;
    let panels = laid_out(rows, n);
    let moved = steps(&shape).saturating_mul(rows as u64).saturating_add(panels as u64);
    budget.take(moved, all.saturating_add(panels))?;
    let mut out = vec![0f32; all];
    let product = Products::F32.add_product(&mut out, a.floats()?, b.floats()?, [all / n, rows, n]);
    product.internal("a product failed")?;
    Array::new(&shape, out)
}

/// `Gemm` with `alpha` and `beta` of 1 and `a` as it stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gemm {
    /// Whether `b` is (n, k).
    turned: bool,
}

impl Gemm {
    pub(super) fn of(attributes: &mut Attributes) -> Result<Self> {
        for name in ["alpha", "beta"] {
            if let Some(factor) = attributes.float(name)?.filter(|factor| *factor != 1.0) {
                return Err(Error::model(format!("{name} of {factor}; only 1 is known")));
            }
        }
        if attributes.flag("transA")? {
            return Err(Error::model("transA; only a left factor as it stands is known"));
        }
        Ok(Self { turned: attributes.flag("transB")? })
    }

    /// `a` (m, k), `b` (k, n) or (n, k), `c` a row of n.
    pub(super) fn run(
        self,
        a: &Array,
        b: &Array,
        c: Option<&Array>,
        budget: &mut Budget<'_>,
    ) -> Result<Array> {
        let (&[m, k], &[rows, columns]) = (a.shape(), b.shape()) else {
            return Err(Error::model(format!("{:?} times {:?}", a.shape(), b.shape())));
        };
        let (inner, n) = if self.turned { (columns, rows) } else { (rows, columns) };
        if inner != k || k == 0 || n == 0 {
            return Err(Error::model(format!("{:?} times {:?}", a.shape(), b.shape())));
        }
        if let Some(c) = c.filter(|c| c.shape() != [n] && c.shape() != [1, n]) {
            return Err(Error::model(format!("a summand of shape {:?}, not [{n}]", c.shape())));
        }
        let all = count(&[m, n])?;
        let panels = laid_out(k, n);
        let mut room = all.saturating_mul(2).saturating_add(panels);
        if self.turned {
            // Both factors are copied into tensors.
            room = room.saturating_add(a.len()).saturating_add(b.len());
        }
        budget.take(steps(&[m, n, k]).saturating_add(panels as u64), room)?;
        let (a, b) = (a.floats()?, b.floats()?);
        let c = c.map(Array::floats).transpose()?;
        let run = || -> candle_core::Result<Vec<f32>> {
            if !self.turned {
                let mut out = c.map_or_else(|| vec![0.0; all], |c| c.repeat(m));
                Products::F32.add_product(&mut out, a, b, [m, k, n])?;
                return Ok(out);
            }
            let a = Tensor::from_slice(a, (m, k), &Device::Cpu)?;
            let b = Tensor::from_slice(b, (n, k), &Device::Cpu)?;
            let c = c.map(|c| Tensor::from_slice(c, n, &Device::Cpu)).transpose()?;
            kernels::linear(&a, &b, c.as_ref())?.flatten_all()?.to_vec1()
        };
        Array::new(&[m, n], run().internal("a product failed")?)
    }
}
