//! Linear layers.

use candle_core::{DType, Result, Shape, Storage, Tensor, TensorId};

use super::launch::{Buffer, Memory};
use super::{calls, device, format, gradient, in_format, product, weight_gradient};
use crate::fused::{Fused, apply};
use crate::linear::Products;

/// [`crate::linear_in()`]; the weight may also be bf16, without a gradient.
pub(crate) fn linear(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    products: Products,
) -> Result<Tensor> {
    let format = if weight.dtype() == DType::BF16 { DType::BF16 } else { format(products) };
    let operator = Linear { format, leaf: !x.track_op() };
    match bias {
        Some(bias) => apply(operator, &[x, weight, bias]),
        None => apply(operator, &[x, weight]),
    }
}

/// [`crate::project()`]
pub(crate) fn project(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    apply(Project, &[x, weight])
}

struct Linear {
    format: DType,
    /// Whether nothing needs the gradient of x.
    leaf: bool,
}

impl Fused for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn forward_anywhere(&self, inputs: &[Tensor]) -> Result<(Storage, Shape)> {
        let (x, weight) = (&inputs[0], &inputs[1]);
        let device = device(x)?;
        let (n, k) = weight.dims2()?;
        let rows = x.elem_count() / k;
        let (xs, w) = (in_format(device, x, self.format)?, in_format(device, weight, self.format)?);
        let mut y = product::by_rows(device, (&xs, &w), (rows, n, k), DType::F32)?;
        if let Some(bias) = inputs.get(2) {
            y = calls::sum(device, None, (&y, DType::F32), Some(bias), (rows, n))?;
        }
        Ok(y.shaped(shape(x, n))?.result())
    }

    fn backward(
        &self,
        inputs: &[Tensor],
        output: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        self.backward_collected(inputs, &[], output, grad)
    }

    fn backward_collected(
        &self,
        inputs: &[Tensor],
        ids: &[TensorId],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let (x, weight) = (&inputs[0], &inputs[1]);
        let device = device(x)?;
        let (n, k) = weight.dims2()?;
        let rows = x.elem_count() / k;
        if weight.dtype() == DType::BF16 {
            candle_core::bail!("linear: a weight in bf16 has no gradient");
        }
        let (xs, w) = (in_format(device, x, self.format)?, in_format(device, weight, self.format)?);
        let dy = in_format(device, grad, self.format)?;
        let dx = match self.leaf {
            true => None,
            false => {
                let dx = product::by_columns(device, (&dy, &w), (rows, k, n), DType::F32)?;
                Some(dx.shaped(x.shape())?.tensor())
            }
        };
        let dw = weight_gradient(device, ids.get(1), (&dy, &xs), (n, k, rows))?;
        let mut all = vec![dx, dw];
        if inputs.len() > 2 {
            let sums = calls::column_sums(device, (grad, DType::F32), (rows, n))?;
            all.push(gradient(ids.get(2), sums.tensor())?);
        }
        Ok(all)
    }
}

struct Project;

impl Fused for Project {
    fn name(&self) -> &'static str {
        "project"
    }

    fn forward_anywhere(&self, inputs: &[Tensor]) -> Result<(Storage, Shape)> {
        let (x, weight) = (&inputs[0], &inputs[1]);
        let (k, n) = weight.dims2()?;
        let sizes = (x.elem_count() / k, n, k);
        let y = product::by_columns(device(x)?, (x, weight), sizes, DType::F32)?;
        Ok(y.shaped(shape(x, n))?.result())
    }

    fn backward(
        &self,
        inputs: &[Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let (x, weight) = (&inputs[0], &inputs[1]);
        let device = device(x)?;
        let (k, n) = weight.dims2()?;
        let rows = x.elem_count() / k;
        let (dy, w): (&dyn Memory, &dyn Memory) = (grad, weight);
        let dx = product::by_rows(device, (dy, w), (rows, k, n), DType::F32)?;
        let dw = Buffer::new(device, (k, n), DType::F32)?;
        product::of_columns(device, (x, dy), (k, n, rows), &dw, false)?;
        Ok(vec![Some(dx.shaped(x.shape())?.tensor()), Some(dw.tensor())])
    }
}

/// (.., K) → (.., n)
fn shape(x: &Tensor, n: usize) -> Vec<usize> {
    let mut shape = x.dims().to_vec();
    shape.pop();
    shape.push(n);
    shape
}
