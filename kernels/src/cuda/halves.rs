//! The two halves of a transformer block, any number of them in a row as one operator
//! ([`crate::halves_in_turn()`]).
//!
//! One operator, since every node of candle's graph costs its gradient twice more: zeros to begin
//! with, and an addition.

use std::sync::{Mutex, PoisonError};

use candle_core::{CudaDevice, DType, Result, Shape, Storage, Tensor, TensorId};

use super::attention::{self, Sequences};
use super::launch::{Buffer, Memory};
use super::{calls, device, format, gradient, in_format, product, weight_gradient};
use crate::attention::Form;
use crate::fused::{Fused, apply};
use crate::halves::{Half, HalfForm};
use crate::halves_in_turn::HalfOf;

/// [`crate::halves_in_turn()`]
pub(crate) fn halves_in_turn(x: &Tensor, all: &[HalfOf]) -> Result<Tensor> {
    let mut inputs = vec![x];
    let mut parts = Vec::with_capacity(all.len());
    for half in all {
        let (weights, middle, form) = match *half {
            HalfOf::Attention { half, lengths, heads, causal, form } => {
                let head = half.norm[0].elem_count() / heads;
                let lengths = lengths.to_vec();
                (half, Middle::Attention { form: Form { heads, head, causal }, lengths }, form)
            }
            HalfOf::Mlp { half, quick, form } => (half, Middle::Gelu { quick }, form),
        };
        let Half { norm: [gain, shift], first: [w1, b1], second: [w2, b2] } = weights;
        inputs.extend([gain, shift, w1, b1, w2, b2]);
        parts.push(Residual { middle, form });
    }
    apply(Chain { parts, states: Mutex::new(None) }, &inputs)
}

/// Tensors of a half: gain, shift, and both weights with their biases.
const TENSORS: usize = 6;

struct Chain {
    parts: Vec<Residual>,
    /// Of each half, until the backward pass.
    states: Mutex<Option<Vec<State>>>,
}

struct State {
    x: Tensor,
    /// None where it is made again.
    kept: Option<Kept>,
}

impl Chain {
    fn run(&self, inputs: &[Tensor]) -> Result<(Buffer, Vec<State>)> {
        let (mut x, tensors) = (inputs[0].clone(), &inputs[1..]);
        let (mut last, mut states) = (None, Vec::with_capacity(self.parts.len()));
        for (part, tensors) in self.parts.iter().zip(tensors.chunks_exact(TENSORS)) {
            if let Some(y) = last.take().map(Buffer::tensor) {
                x = y;
            }
            let (y, kept) = part.forward(device(&x)?, &x, tensors)?;
            last = Some(y.shaped(x.shape())?);
            states.push(State { x: x.clone(), kept: (!part.form.again).then_some(kept) });
        }
        match last {
            Some(y) => Ok((y, states)),
            None => candle_core::bail!("no halves of blocks"),
        }
    }
}

impl Fused for Chain {
    fn name(&self) -> &'static str {
        "halves of blocks"
    }

    fn forward_anywhere(&self, inputs: &[Tensor]) -> Result<(Storage, Shape)> {
        let (y, states) = self.run(inputs)?;
        *self.states.lock().unwrap_or_else(PoisonError::into_inner) = Some(states);
        Ok(y.result())
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
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut states = match states {
            Some(states) => states,
            // A second backward pass of the same graph.
            None => self.run(inputs)?.1,
        };
        let mut gradients = vec![None; inputs.len()];
        let mut grad = grad.clone();
        for (i, part) in self.parts.iter().enumerate().rev() {
            let Some(State { x, kept }) = states.pop() else {
                candle_core::bail!("halves of blocks: fewer states than halves")
            };
            let place = 1 + i * TENSORS..1 + (i + 1) * TENSORS;
            let ids = ids.get(place.clone()).unwrap_or_default();
            let (dx, of_tensors) =
                part.backward(device, (&x, &inputs[place.clone()]), kept, ids, &grad)?;
            gradients[place].clone_from_slice(&of_tensors);
            grad = dx;
        }
        gradients[0] = Some(grad);
        Ok(gradients)
    }
}

/// What lies between the two linear layers.
enum Middle {
    Attention { form: Form, lengths: Vec<usize> },
    Gelu { quick: bool },
}

/// `x + second(middle(first(norm(x))))`
struct Residual {
    middle: Middle,
    form: HalfForm,
}

/// What the backward pass needs.
struct Kept {
    normed: Buffer,
    moments: [Buffer; 2],
    /// The first layer's result without its bias; None where attention keeps what it needs of it.
    first: Option<Buffer>,
    attention: Option<(attention::Kept, Sequences)>,
    /// What the second layer gets.
    middle: Buffer,
    /// Both weights in the format of the products.
    weights: [Tensor; 2],
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
    fn of(x: &Tensor, tensors: &[Tensor]) -> Result<Self> {
        let [_, _, w1, _, w2, _] = tensors else {
            candle_core::bail!("half of a block takes {TENSORS} tensors")
        };
        let (hidden, width) = w1.dims2()?;
        let (_, inner) = w2.dims2()?;
        Ok(Self { rows: x.elem_count() / width, width, hidden, inner })
    }
}

impl Residual {
    fn inside(&self, device: &CudaDevice, x: &Tensor, tensors: &[Tensor]) -> Result<Kept> {
        let Sizes { rows, width, hidden, .. } = Sizes::of(x, tensors)?;
        let [gain, shift, w1, b1, w2, _] = tensors else {
            candle_core::bail!("half of a block takes {TENSORS} tensors")
        };
        let format = format(self.form.products);
        let weights = [in_format(device, w1, format)?, in_format(device, w2, format)?];
        let eps = self.form.eps as f32;
        let (normed, moments) =
            calls::layer_norm(device, x, [gain, shift], eps, (rows, width), format)?;
        let sizes = (rows, hidden, width);
        let first = product::by_rows(device, (&normed, &weights[0]), sizes, format)?;
        let bias: Option<&dyn Memory> = Some(b1);
        match &self.middle {
            Middle::Attention { form, lengths } => {
                let sequences = Sequences::new(device, lengths)?;
                let (middle, kept) =
                    attention::forward(device, (&first, bias, format), *form, &sequences)?;
                let first = matches!(kept, attention::Kept::Rows).then_some(first);
                let attention = Some((kept, sequences));
                Ok(Kept { normed, moments, first, attention, middle, weights })
            }
            Middle::Gelu { quick } => {
                let middle = calls::gelu(device, (&first, bias), format, (rows, hidden), *quick)?;
                let first = Some(first);
                Ok(Kept { normed, moments, first, attention: None, middle, weights })
            }
        }
    }

    fn forward(
        &self,
        device: &CudaDevice,
        x: &Tensor,
        tensors: &[Tensor],
    ) -> Result<(Buffer, Kept)> {
        let Sizes { rows, width, inner, .. } = Sizes::of(x, tensors)?;
        let kept = self.inside(device, x, tensors)?;
        let format = format(self.form.products);
        let factors: (&dyn Memory, &dyn Memory) = (&kept.middle, &kept.weights[1]);
        let out = product::by_rows(device, factors, (rows, width, inner), format)?;
        let bias: Option<&dyn Memory> = Some(&tensors[5]);
        let y = calls::sum(device, Some(x), (&out, format), bias, (rows, width))?;
        Ok((y, kept))
    }

    /// The gradients of x and of the tensors; None for those that are collected.
    fn backward(
        &self,
        device: &CudaDevice,
        (x, tensors): (&Tensor, &[Tensor]),
        kept: Option<Kept>,
        ids: &[TensorId],
        grad: &Tensor,
    ) -> Result<(Tensor, [Option<Tensor>; TENSORS])> {
        let Sizes { rows, width, hidden, inner: depth } = Sizes::of(x, tensors)?;
        let Kept { normed, moments, first, attention, middle, weights } = match kept {
            Some(kept) => kept,
            None => self.inside(device, x, tensors)?,
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
        let dw2 = weight_gradient(device, ids.get(4), (dy, &middle), (width, depth, rows))?;
        drop(middle);
        let sizes = (rows, depth, width);
        let dmiddle = product::by_columns(device, (dy, &weights[1]), sizes, format)?;
        let bias = &tensors[3];
        let (dfirst, db1) = match (&self.middle, &attention, &first) {
            (Middle::Attention { form, .. }, Some((kept, sequences)), first) => {
                let rows_of: (&dyn Memory, Option<&dyn Memory>) = match first {
                    Some(first) => (first, Some(bias)),
                    None => (bias, None), // not looked at
                };
                let dy: (&dyn Memory, DType) = (&dmiddle, format);
                let dx = attention::backward(device, rows_of, kept, dy, *form, sequences)?;
                let sums = calls::column_sums(device, (&dx, format), (rows, hidden))?;
                (dx, sums)
            }
            (Middle::Gelu { quick }, _, Some(first)) => {
                let all: (&dyn Memory, &dyn Memory, &dyn Memory) = (first, bias, &dmiddle);
                calls::gelu_backward(device, all, format, (rows, hidden), *quick)?
            }
            _ => candle_core::bail!("half of a block: another middle was kept"),
        };
        drop((first, attention, dmiddle));
        let dw1 = weight_gradient(device, ids.get(2), (&dfirst, &normed), (hidden, width, rows))?;
        drop(normed);
        let sizes = (rows, width, hidden);
        let dnormed = product::by_columns(device, (&dfirst, &weights[0]), sizes, format)?;
        drop(dfirst);
        let [dx, dgain, dshift] = calls::layer_norm_backward(
            device,
            (x, &tensors[0]),
            (&dnormed, format),
            [&moments[0], &moments[1]],
            Some(grad),
            (rows, width),
        )?;
        let gradients = [
            gradient(ids.first(), dgain.tensor())?,
            gradient(ids.get(1), dshift.tensor())?,
            dw1,
            gradient(ids.get(3), db1.tensor())?,
            dw2,
            gradient(ids.get(5), db2.tensor())?,
        ];
        Ok((dx.shaped(x.shape())?.tensor(), gradients))
    }
}
