//! The two halves of a transformer block, each one operator ([`crate::attention_half()`]).

use std::sync::{Mutex, PoisonError};

use candle_core::{CudaDevice, DType, Result, Shape, Storage, Tensor, TensorId};

use super::attention::{self, Sequences};
use super::launch::{Buffer, Memory};
use super::{calls, device, format, gradient, in_format, product, weight_gradient};
use crate::attention::Form;
use crate::fused::{Fused, apply};
use crate::halves::{Half, HalfForm};

/// [`crate::attention_half()`]
pub(crate) fn attention_half(
    x: &Tensor,
    half: Half,
    lengths: &[usize],
    heads: usize,
    causal: bool,
    form: HalfForm,
) -> Result<Tensor> {
    let head = half.norm[0].elem_count() / heads;
    let middle =
        Middle::Attention { form: Form { heads, head, causal }, lengths: lengths.to_vec() };
    run(x, half, middle, form)
}

/// [`crate::mlp_half()`]
pub(crate) fn mlp_half(x: &Tensor, half: Half, quick: bool, form: HalfForm) -> Result<Tensor> {
    run(x, half, Middle::Gelu { quick }, form)
}

fn run(x: &Tensor, half: Half, middle: Middle, form: HalfForm) -> Result<Tensor> {
    let Half { norm: [gain, shift], first: [w1, b1], second: [w2, b2] } = half;
    let inputs = [x, gain, shift, w1, b1, w2, b2];
    apply(Residual { middle, form, kept: Mutex::new(None) }, &inputs)
}

/// What lies between the two linear layers.
enum Middle {
    Attention { form: Form, lengths: Vec<usize> },
    Gelu { quick: bool },
}

struct Residual {
    middle: Middle,
    form: HalfForm,
    kept: Mutex<Option<Kept>>,
}

/// What the backward pass needs.
struct Kept {
    normed: Buffer,
    moments: [Buffer; 2],
    inner: Inner,
    /// What the second layer gets.
    middle: Buffer,
    /// Both weights in the format of the products.
    weights: [Tensor; 2],
}

enum Inner {
    Attention(Box<(attention::Kept, Sequences)>),
    /// The first layer's result without its bias.
    Gelu(Buffer),
}

/// Sizes of a half.
#[derive(Clone, Copy)]
struct Sizes {
    rows: usize,
    /// Of x.
    width: usize,
    /// Of the first layer's result.
    hidden: usize,
    /// Of what the second layer gets.
    inner: usize,
}

impl Sizes {
    fn of(inputs: &[Tensor]) -> Result<Self> {
        let (hidden, width) = inputs[3].dims2()?;
        let (_, inner) = inputs[5].dims2()?;
        Ok(Self { rows: inputs[0].elem_count() / width, width, hidden, inner })
    }
}

impl Residual {
    fn inside(&self, device: &CudaDevice, inputs: &[Tensor]) -> Result<Kept> {
        let Sizes { rows, width, hidden, .. } = Sizes::of(inputs)?;
        let [x, gain, shift, w1, b1, w2, ..] = inputs else {
            candle_core::bail!("half of a block takes 7 tensors")
        };
        let format = format(self.form.products);
        let weights = [in_format(device, w1, format)?, in_format(device, w2, format)?];
        let eps = self.form.eps as f32;
        let (normed, moments) =
            calls::layer_norm(device, x, [gain, shift], eps, (rows, width), format)?;
        let sizes = (rows, hidden, width);
        let first = product::by_rows(device, (&normed, &weights[0]), sizes, format)?;
        let bias: Option<&dyn Memory> = Some(b1);
        let (middle, inner) = match &self.middle {
            Middle::Attention { form, lengths } => {
                let sequences = Sequences::new(device, lengths)?;
                let (y, kept) =
                    attention::forward(device, (&first, bias, format), *form, &sequences)?;
                (y, Inner::Attention(Box::new((kept, sequences))))
            }
            Middle::Gelu { quick } => {
                let y = calls::gelu(device, (&first, bias), format, (rows, hidden), *quick)?;
                (y, Inner::Gelu(first))
            }
        };
        Ok(Kept { normed, moments, inner, middle, weights })
    }

    /// The gradient of the first layer's result, and of its bias.
    fn through_middle(
        &self,
        device: &CudaDevice,
        inner: &Inner,
        bias: &Tensor,
        dy: &Buffer,
        (rows, hidden): calls::Rows,
    ) -> Result<(Buffer, Buffer)> {
        let format = format(self.form.products);
        match (inner, &self.middle) {
            (Inner::Attention(kept), Middle::Attention { form, .. }) => {
                let (kept, sequences) = &**kept;
                let dx = attention::backward(device, kept, (dy, format), *form, sequences)?;
                let sums = calls::column_sums(device, (&dx, format), (rows, hidden))?;
                Ok((dx, sums))
            }
            (Inner::Gelu(first), Middle::Gelu { quick }) => {
                calls::gelu_backward(device, (first, bias, dy), format, (rows, hidden), *quick)
            }
            _ => candle_core::bail!("half of a block: another middle was kept"),
        }
    }
}

impl Fused for Residual {
    fn name(&self) -> &'static str {
        "half of a block"
    }

    fn forward_anywhere(&self, inputs: &[Tensor]) -> Result<(Storage, Shape)> {
        let device = device(&inputs[0])?;
        let Sizes { rows, width, inner, .. } = Sizes::of(inputs)?;
        let kept = self.inside(device, inputs)?;
        let format = format(self.form.products);
        let factors: (&dyn Memory, &dyn Memory) = (&kept.middle, &kept.weights[1]);
        let out = product::by_rows(device, factors, (rows, width, inner), format)?;
        let (x, bias): (&dyn Memory, &dyn Memory) = (&inputs[0], &inputs[6]);
        let y = calls::sum(device, Some(x), (&out, format), Some(bias), (rows, width))?;
        if !self.form.again {
            *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
        }
        Ok(y.shaped(inputs[0].shape())?.result())
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
        let device = device(&inputs[0])?;
        let Sizes { rows, width, hidden, inner: depth } = Sizes::of(inputs)?;
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Kept { normed, moments, inner, middle, weights } = match kept {
            Some(kept) => kept,
            // Forgotten, or a second backward pass of the same graph.
            None => self.inside(device, inputs)?,
        };
        let format = format(self.form.products);
        let rounded;
        let (dy, db2): (&dyn Memory, Buffer) = match format {
            DType::BF16 => {
                let (dy, sums) = calls::rounded_sums(device, grad, (rows, width))?;
                rounded = dy;
                (&rounded, sums)
            }
            _ => (grad, calls::column_sums(device, (grad, DType::F32), (rows, width))?),
        };
        let dw2 = weight_gradient(device, ids.get(5), (dy, &middle), (width, depth, rows))?;
        drop(middle);
        let sizes = (rows, depth, width);
        let dmiddle = product::by_columns(device, (dy, &weights[1]), sizes, format)?;
        let (dfirst, db1) =
            self.through_middle(device, &inner, &inputs[4], &dmiddle, (rows, hidden))?;
        drop((inner, dmiddle));
        let dw1 = weight_gradient(device, ids.get(3), (&dfirst, &normed), (hidden, width, rows))?;
        drop(normed);
        let sizes = (rows, width, hidden);
        let dnormed = product::by_columns(device, (&dfirst, &weights[0]), sizes, format)?;
        drop(dfirst);
        let [dx, dgain, dshift] = calls::layer_norm_backward(
            device,
            (&inputs[0], &inputs[1]),
            (&dnormed, format),
            [&moments[0], &moments[1]],
            Some(grad),
            (rows, width),
        )?;
        Ok(vec![
            Some(dx.shaped(inputs[0].shape())?.tensor()),
            gradient(ids.get(1), dgain.tensor())?,
            gradient(ids.get(2), dshift.tensor())?,
            dw1,
            gradient(ids.get(4), db1.tensor())?,
            dw2,
            gradient(ids.get(6), db2.tensor())?,
        ])
    }
}
