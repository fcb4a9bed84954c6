//! The linear layer `x wᵀ + b`.

use candle_core::{CpuStorage, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::elementary::Float;
use crate::fused::{Fused, apply};
use crate::gemm::{Matrix, product};
use crate::rows::{PIECE, add_to};
use crate::simd::{Level, Work};
use crate::slices::{check, tensor, values, with_float};

/// `x wᵀ + bias`, with gradients for all tensors.
///
/// The product is the `gemm` crate's: the same bits at any number of threads, but its blocking
/// follows the caches of the machine, and it contracts where the machine can.
///
/// # Shapes
/// `x` (.., K), `weight` (N, K), `bias` (N) → (.., N)
///
/// # Errors
/// Other shapes, dtypes than one of f32 and f64, or devices than the CPU.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    check("linear", x)?;
    let bad = match (x.dims().last(), weight.dims()) {
        (Some(k), [n, columns]) => k != columns || bias.is_some_and(|b| b.dims() != [*n]),
        _ => true,
    };
    if bad {
        candle_core::bail!(
            "linear: x {:?}, weight {:?}, bias {:?}; expected (.., K), (N, K), (N)",
            x.dims(),
            weight.dims(),
            bias.map(Tensor::dims)
        );
    }
    match bias {
        Some(bias) => apply(Linear, &[x, weight, bias]),
        None => apply(Linear, &[x, weight]),
    }
}

/// `x w`, with gradients for both tensors; [`linear()`] without bias for a weight that lies the
/// other way round, as CLIP's projections do.
///
/// # Shapes
/// `x` (.., K), `weight` (K, N) → (.., N)
///
/// # Errors
/// Other shapes, dtypes than one of f32 and f64, or devices than the CPU.
pub fn project(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    check("project", x)?;
    match (x.dims().last(), weight.dims()) {
        (Some(k), [rows, _]) if k == rows => apply(Project, &[x, weight]),
        _ => candle_core::bail!(
            "project: x {:?}, weight {:?}; expected (.., K), (K, N)",
            x.dims(),
            weight.dims()
        ),
    }
}

struct Project;

impl Fused for Project {
    fn name(&self) -> &'static str {
        "project"
    }

    fn forward(&self, inputs: &[Tensor]) -> Result<(CpuStorage, Shape)> {
        let [x, weight] = inputs else { candle_core::bail!("project takes 2 tensors") };
        let (k, n) = weight.dims2()?;
        let mut shape = x.dims().to_vec();
        shape.pop();
        let rows = shape.iter().product();
        shape.push(n);
        with_float!("project", x.dtype(), T => {
            let (xs, w) = (values::<T>(x, "project")?, values::<T>(weight, "project")?);
            let mut y = vec![<T as Float>::ZERO; rows * n];
            product(&mut y, false, Matrix::new(&xs, rows, k), Matrix::new(&w, k, n));
            Ok((<T as candle_core::WithDType>::to_cpu_storage_owned(y), Shape::from(shape)))
        })
    }

    fn backward(
        &self,
        inputs: &[Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let [x, weight] = inputs else { candle_core::bail!("project takes 2 tensors") };
        let (k, n) = weight.dims2()?;
        with_float!("project", x.dtype(), T => {
            let (xs, w) = (values::<T>(x, "project")?, values::<T>(weight, "project")?);
            let dy = values::<T>(grad, "project")?;
            let rows = dy.len() / n.max(1);
            let mut dx = vec![<T as Float>::ZERO; xs.len()];
            let (dys, ws) = (Matrix::new(&dy, rows, n), Matrix::new(&w, k, n));
            product(&mut dx, false, dys, ws.transposed());
            let mut dw = vec![<T as Float>::ZERO; w.len()];
            product(&mut dw, false, Matrix::new(&xs, rows, k).transposed(), dys);
            Ok(vec![Some(tensor(dx, x.shape())?), Some(tensor(dw, (k, n))?)])
        })
    }
}

struct Linear;

impl Fused for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn forward(&self, inputs: &[Tensor]) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (&inputs[0], &inputs[1]);
        let (n, k) = weight.dims2()?;
        let mut shape = x.dims().to_vec();
        shape.pop();
        let rows = shape.iter().product();
        shape.push(n);
        with_float!("linear", x.dtype(), T => {
            let (xs, w) = (values::<T>(x, "linear")?, values::<T>(weight, "linear")?);
            let bias = match inputs.get(2) {
                Some(bias) => Some(values::<T>(bias, "linear")?),
                None => None,
            };
            let y = forward(&xs, &w, bias.as_deref(), (rows, n, k));
            Ok((<T as candle_core::WithDType>::to_cpu_storage_owned(y), Shape::from(shape)))
        })
    }

    fn backward(
        &self,
        inputs: &[Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let (x, weight) = (&inputs[0], &inputs[1]);
        let (n, k) = weight.dims2()?;
        with_float!("linear", x.dtype(), T => {
            let (xs, w) = (values::<T>(x, "linear")?, values::<T>(weight, "linear")?);
            let dy = values::<T>(grad, "linear")?;
            let rows = dy.len() / n.max(1);
            let mut dx = vec![T::ZERO; xs.len()];
            product(&mut dx, false, Matrix::new(&dy, rows, n), Matrix::new(&w, n, k));
            let mut dw = vec![T::ZERO; w.len()];
            product(&mut dw, false, Matrix::new(&dy, rows, n).transposed(), Matrix::new(&xs, rows, k));
            let mut all = vec![Some(tensor(dx, x.shape())?), Some(tensor(dw, (n, k))?)];
            if inputs.len() > 2 {
                all.push(Some(tensor(column_sums(Level::best(), &dy, n), n)?));
            }
            Ok(all)
        })
    }
}

/// x wᵀ + bias for (rows, n, k).
pub(crate) fn forward<T: Float>(
    x: &[T],
    w: &[T],
    bias: Option<&[T]>,
    (rows, n, k): (usize, usize, usize),
) -> Vec<T> {
    let mut y = match bias {
        Some(bias) => {
            let mut y = Vec::with_capacity(rows * n);
            for _ in 0..rows {
                y.extend_from_slice(bias);
            }
            y
        }
        None => vec![T::ZERO; rows * n],
    };
    product(&mut y, bias.is_some(), Matrix::new(x, rows, k), Matrix::new(w, n, k).transposed());
    y
}

/// Σ over rows, in pieces of [`PIECE`] rows.
pub(crate) fn column_sums<T: Float>(level: Level, x: &[T], width: usize) -> Vec<T> {
    let pieces = x.len().div_ceil((PIECE * width).max(1));
    let mut sums = vec![T::ZERO; pieces * width];
    sums.par_chunks_mut(width.max(1))
        .zip(x.par_chunks((PIECE * width).max(1)))
        .for_each(|(sums, x)| level.run(ColumnSums { x, sums }));
    let mut total = vec![T::ZERO; width];
    for sums in sums.chunks_exact(width.max(1)) {
        add_to(&mut total, sums);
    }
    total
}

struct ColumnSums<'a, T> {
    x: &'a [T],
    sums: &'a mut [T],
}

impl<T: Float> Work for ColumnSums<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for row in self.x.chunks_exact(self.sums.len()) {
            add_to(self.sums, row);
        }
    }
}
