//! GELU as a gate: Shazeer, "GLU Variants Improve Transformer", arXiv 2002.05202.

use candle_core::{CpuStorage, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::composed;
use crate::elementary::Float;
use crate::fresh::zeros;
use crate::fused::{Fused, apply};
use crate::gelu::Form;
use crate::rows::ELEMENTS;
use crate::simd::{Level, Work};
use crate::slices::{check, tensor, values, with_float};

/// GELU(gate) · value with the exact GELU, and both gradients.
///
/// # Shapes
/// `gate` and `value` alike → the same
///
/// # Errors
/// Two shapes, or dtypes than one of f32 and f64.
pub fn geglu(gate: &Tensor, value: &Tensor) -> Result<Tensor> {
    check("geglu", gate)?;
    if gate.dims() != value.dims() {
        candle_core::bail!("geglu: gate {:?}, value {:?}", gate.dims(), value.dims());
    }
    if composed::takes(gate) {
        return composed::geglu(gate, value);
    }
    apply(Geglu, &[gate, value])
}

struct Geglu;

impl Fused for Geglu {
    fn name(&self) -> &'static str {
        "geglu"
    }

    fn forward(&self, inputs: &[Tensor]) -> Result<(CpuStorage, Shape)> {
        let [gate, value] = inputs else { candle_core::bail!("geglu takes 2 tensors") };
        with_float!("geglu", gate.dtype(), T => {
            let (g, v) = (values::<T>(gate, "geglu")?, values::<T>(value, "geglu")?);
            let y = forward(Level::best(), &g, &v);
            Ok((<T as candle_core::WithDType>::to_cpu_storage_owned(y), gate.shape().clone()))
        })
    }

    fn backward(
        &self,
        inputs: &[Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let [gate, value] = inputs else { candle_core::bail!("geglu takes 2 tensors") };
        with_float!("geglu", gate.dtype(), T => {
            let (g, v) = (values::<T>(gate, "geglu")?, values::<T>(value, "geglu")?);
            let dy = values::<T>(grad, "geglu")?;
            let (dg, dv) = backward(Level::best(), &g, &v, &dy);
            Ok(vec![Some(tensor(dg, gate.shape())?), Some(tensor(dv, gate.shape())?)])
        })
    }
}

pub(crate) fn forward<T: Float>(level: Level, gate: &[T], value: &[T]) -> Vec<T> {
    let mut y = zeros(gate.len());
    y.par_chunks_mut(ELEMENTS)
        .zip(gate.par_chunks(ELEMENTS))
        .zip(value.par_chunks(ELEMENTS))
        .for_each(|((y, gate), value)| level.run(Forward { gate, value, y }));
    y
}

/// Gradients of the gate and of the value.
pub(crate) fn backward<T: Float>(
    level: Level,
    gate: &[T],
    value: &[T],
    dy: &[T],
) -> (Vec<T>, Vec<T>) {
    let (mut dg, mut dv) = (zeros(gate.len()), zeros(gate.len()));
    dg.par_chunks_mut(ELEMENTS)
        .zip(dv.par_chunks_mut(ELEMENTS))
        .zip(gate.par_chunks(ELEMENTS))
        .zip(value.par_chunks(ELEMENTS))
        .zip(dy.par_chunks(ELEMENTS))
        .for_each(|((((dg, dv), gate), value), dy)| {
            level.run(Backward { gate, value, dy, dg, dv });
        });
    (dg, dv)
}

struct Forward<'a, T> {
    gate: &'a [T],
    value: &'a [T],
    y: &'a mut [T],
}

impl<T: Float> Work for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for ((y, g), v) in self.y.iter_mut().zip(self.gate).zip(self.value) {
            *y = Form::Exact.value(*g) * *v;
        }
    }
}

struct Backward<'a, T> {
    gate: &'a [T],
    value: &'a [T],
    dy: &'a [T],
    dg: &'a mut [T],
    dv: &'a mut [T],
}

impl<T: Float> Work for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let inputs = self.gate.iter().zip(self.value).zip(self.dy);
        for ((dg, dv), ((g, v), dy)) in self.dg.iter_mut().zip(self.dv).zip(inputs) {
            *dg = *dy * *v * Form::Exact.slope(*g);
            *dv = *dy * Form::Exact.value(*g);
        }
    }
}
