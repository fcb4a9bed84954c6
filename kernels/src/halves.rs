//! The two halves of a transformer block, each one operator.
//!
//! `x + W_o·attention(W_i·norm(x))` and `x + W_2·GELU(W_1·norm(x))` (Vaswani et al., arXiv
//! 1706.03762, in the pre-norm form of GPT-2 and CLIP). As one operator nothing between the norm and
//! the sum is a tensor of candle's: no zeroed gradients to add to, no additions of its own, and what
//! the backward pass needs is half of what the composition keeps. The numbers are the
//! composition's, bit for bit.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, Result, Shape, Tensor, TensorId};

use crate::attention::{self, Form};
use crate::composed;
use crate::elementary::Float;
use crate::fused::{Fused, apply};
use crate::gelu;
use crate::layer_norm;
use crate::linear::{self, Products, column_sums};
use crate::simd::Level;
use crate::slices::{Values, check, tensor, values, with_float};
use crate::sum::sum_into;

/// The tensors of one half: LayerNorm's gain and shift, then both linear layers' weights (N, K) and
/// biases.
#[derive(Debug, Clone, Copy)]
pub struct Half<'a> {
    /// Gain and shift (C).
    pub norm: [&'a Tensor; 2],
    /// Weight (H, C) and bias (H) of the first layer: H is 3C before attention.
    pub first: [&'a Tensor; 2],
    /// Weight (C, H) and bias (C) of the second: (C, C) after attention.
    pub second: [&'a Tensor; 2],
}

/// How a half is computed.
#[derive(Debug, Clone, Copy)]
pub struct HalfForm {
    /// LayerNorm's eps.
    pub eps: f64,
    /// Format of the products of the linear layers.
    pub products: Products,
    /// Whether all but the input is forgotten and computed again in the backward pass (gradient
    /// checkpointing).
    pub again: bool,
}

/// `x + second(attention(first(norm(x))))` over sequences that lie one after the other.
///
/// # Shapes
/// `x` (.., C) with ΣN rows, `lengths` N of each sequence → the same
///
/// # Errors
/// Other shapes, dtypes than one of f32 and f64 ([`Products::Bf16`]: f32).
pub fn attention_half(
    x: &Tensor,
    half: Half,
    lengths: &[usize],
    heads: usize,
    causal: bool,
    form: HalfForm,
) -> Result<Tensor> {
    check_attention(x, half, lengths, heads)?;
    if composed::takes(x) {
        return composed::attention_half(x, half, lengths, heads, causal, form);
    }
    let middle = Middle::Attention {
        form: Form { heads, head: half.norm[0].elem_count() / heads, causal },
        lengths: lengths.to_vec(),
    };
    run(x, half, middle, form)
}

/// `x + second(gelu(first(norm(x))))`, with [`crate::quick_gelu()`] if `quick`.
///
/// # Shapes
/// (.., C) → (.., C)
///
/// # Errors
/// As [`attention_half()`].
pub fn mlp_half(x: &Tensor, half: Half, quick: bool, form: HalfForm) -> Result<Tensor> {
    check_mlp(x, half)?;
    if composed::takes(x) {
        return composed::mlp_half(x, half, quick, form);
    }
    let gelu = if quick { gelu::Form::Quick } else { gelu::Form::Exact };
    run(x, half, Middle::Gelu(gelu), form)
}

/// Refuses what [`attention_half()`] refuses.
pub(crate) fn check_attention(
    x: &Tensor,
    half: Half,
    lengths: &[usize],
    heads: usize,
) -> Result<()> {
    let (rows, width) = check_half("attention_half", x, half, Some(3))?;
    if heads == 0 || !width.is_multiple_of(heads) || lengths.iter().sum::<usize>() != rows {
        candle_core::bail!(
            "attention_half: {heads} heads of a width of {width}, lengths that add up to {} of {rows} rows",
            lengths.iter().sum::<usize>()
        );
    }
    Ok(())
}

/// Refuses what [`mlp_half()`] refuses.
pub(crate) fn check_mlp(x: &Tensor, half: Half) -> Result<()> {
    check_half("mlp_half", x, half, None).map(|_| ())
}

/// Rows and width of x.
fn check_half(
    op: &'static str,
    x: &Tensor,
    half: Half,
    times: Option<usize>,
) -> Result<(usize, usize)> {
    check(op, x)?;
    let width = x.dims().last().copied().unwrap_or(0);
    let hidden = half.first[1].dims().first().copied().unwrap_or(0);
    let inner = times.map_or(hidden, |_| width);
    let good = width > 0
        && hidden > 0
        && times.is_none_or(|times| hidden == times * width)
        && half.norm.iter().all(|t| t.dims() == [width])
        && half.first[0].dims() == [hidden, width]
        && half.first[1].dims() == [hidden]
        && half.second[0].dims() == [width, inner]
        && half.second[1].dims() == [width];
    if !good {
        let dims = |pair: [&Tensor; 2]| format!("{:?} {:?}", pair[0].dims(), pair[1].dims());
        candle_core::bail!(
            "{op}: x {:?}, norm {}, first {}, second {}; expected (.., C), (C) (C), (H, C) (H), (C, H) (C)",
            x.dims(),
            dims(half.norm),
            dims(half.first),
            dims(half.second)
        );
    }
    Ok((x.elem_count() / width, width))
}

fn run(x: &Tensor, half: Half, middle: Middle, form: HalfForm) -> Result<Tensor> {
    let inputs = [
        x,
        half.norm[0],
        half.norm[1],
        half.first[0],
        half.first[1],
        half.second[0],
        half.second[1],
    ];
    apply(Residual { middle, form, kept: Mutex::new(None) }, &inputs)
}

/// What lies between the two linear layers.
enum Middle {
    Attention { form: Form, lengths: Vec<usize> },
    Gelu(gelu::Form),
}

impl Middle {
    fn forward<T: Float>(&self, level: Level, x: &[T]) -> Vec<T> {
        match self {
            Self::Attention { form, lengths } => attention::forward(level, x, *form, lengths),
            Self::Gelu(form) => gelu::forward(level, *form, None, x),
        }
    }

    fn backward<T: Float>(&self, level: Level, x: &[T], dy: &[T]) -> Vec<T> {
        match self {
            Self::Attention { form, lengths } => attention::backward(level, x, dy, *form, lengths),
            Self::Gelu(form) => gelu::backward(level, *form, None, x, dy),
        }
    }
}

struct Residual {
    middle: Middle,
    form: HalfForm,
    /// norm(x), first(..) and what came of it, until the backward pass.
    kept: Mutex<Option<[Tensor; 3]>>,
}

impl Residual {
    fn inside<T: Float>(&self, inputs: &[Tensor]) -> Result<[Vec<T>; 3]> {
        let of = |i: usize| values::<T>(&inputs[i], "half of a block");
        let (x, level) = (of(0)?, Level::best());
        let normed = layer_norm::forward(level, &x, &of(1)?, &of(2)?, T::of(self.form.eps));
        let (hidden, width) = inputs[3].dims2()?;
        let sizes = (normed.len() / width, hidden, width);
        let first = linear::forward(self.form.products, &normed, &of(3)?, Some(&of(4)?), sizes)?;
        let middle = self.middle.forward(level, &first);
        Ok([normed, first, middle])
    }
}

impl Fused for Residual {
    fn name(&self) -> &'static str {
        "half of a block"
    }

    fn forward(&self, inputs: &[Tensor]) -> Result<(CpuStorage, Shape)> {
        let shape = inputs[0].shape().clone();
        let (width, inner) = inputs[5].dims2()?;
        with_float!("half of a block", inputs[0].dtype(), T => {
            let [normed, first, middle] = self.inside::<T>(inputs)?;
            let (w, b) = (values::<T>(&inputs[5], self.name())?, values::<T>(&inputs[6], self.name())?);
            let sizes = (middle.len() / inner, width, inner);
            let mut y = linear::forward(self.form.products, &middle, &w, Some(&b), sizes)?;
            sum_into(&mut y, &values::<T>(&inputs[0], self.name())?);
            if !self.form.again {
                let kept = [keep(normed)?, keep(first)?, keep(middle)?];
                *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
            }
            Ok((<T as candle_core::WithDType>::to_cpu_storage_owned(y), shape))
        })
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
        let (hidden, _) = inputs[3].dims2()?;
        let (width, inner) = inputs[5].dims2()?;
        let products = self.form.products;
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        with_float!("half of a block", inputs[0].dtype(), T => {
            let [normed, first, middle] = match kept {
                Some(kept) => kept,
                // Forgotten, or a second backward pass of the same graph.
                None => {
                    let [normed, first, middle] = self.inside::<T>(inputs)?;
                    [keep(normed)?, keep(first)?, keep(middle)?]
                }
            };
            let (level, dy) = (Level::best(), numbers::<T>(grad)?);
            let sizes = (dy.len() / width, width, inner);
            let db2 = column_sums(level, &dy, width);
            let dw2 = linear::backward_w(products, ids.get(5), &dy, &numbers(&middle)?, sizes)?;
            drop(middle);
            let dmiddle = linear::backward_x(products, &dy, &numbers(&inputs[5])?, sizes)?;
            let dfirst = self.middle.backward(level, &numbers::<T>(&first)?, &dmiddle);
            drop((first, dmiddle));
            let sizes = (sizes.0, hidden, width);
            let db1 = column_sums(level, &dfirst, hidden);
            let dw1 = linear::backward_w(products, ids.get(3), &dfirst, &numbers(&normed)?, sizes)?;
            drop(normed);
            let dnormed = linear::backward_x(products, &dfirst, &numbers(&inputs[3])?, sizes)?;
            drop(dfirst);
            let eps = T::of(self.form.eps);
            let (mut dx, dgain, dshift) =
                layer_norm::backward(level, &numbers(&inputs[0])?, &numbers(&inputs[1])?, &dnormed, eps);
            sum_into(&mut dx, &dy);
            Ok(vec![
                Some(tensor(dx, inputs[0].shape())?),
                Some(tensor(dgain, width)?),
                Some(tensor(dshift, width)?),
                dw1,
                Some(tensor(db1, hidden)?),
                dw2,
                Some(tensor(db2, width)?),
            ])
        })
    }
}

fn numbers<T: Float>(tensor: &Tensor) -> Result<Values<'_, T>> {
    values(tensor, "half of a block")
}

fn keep<T: Float>(values: Vec<T>) -> Result<Tensor> {
    let len = values.len();
    tensor(values, len)
}
