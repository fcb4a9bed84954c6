//! Operators that write over their input, for towers without gradient: a layer's result is megabytes,
//! and a new buffer for what follows it costs as much as the work itself.

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Tensor};
use rayon::prelude::*;

use crate::elementary::Float;
use crate::gelu::Form;
use crate::rows::{ELEMENTS, add_to};
use crate::simd::{Level, Work};
use crate::slices::{values, with_float};

/// [`crate::gelu()`], or [`crate::quick_gelu()`] if `quick`, of a tensor that nobody else looks at:
/// the result of another operator, say. The same bits, in its memory where no gradient is recorded.
///
/// # Errors
/// As [`crate::gelu()`].
pub fn gelu_over(x: Tensor, quick: bool) -> Result<Tensor> {
    let form = if quick { Form::Quick } else { Form::Exact };
    match writable(&x) {
        true => over(x, &Change::Gelu(form)),
        false if quick => crate::quick_gelu(&x),
        false => crate::gelu(&x),
    }
}

/// [`crate::geglu()`] over the gate, which nobody else looks at.
///
/// # Errors
/// As [`crate::geglu()`].
pub fn geglu_over(gate: Tensor, value: &Tensor) -> Result<Tensor> {
    match writable(&gate) && beside(&gate, value) {
        true => over(gate, &Change::Geglu(value)),
        false => crate::geglu(&gate, value),
    }
}

/// [`crate::add()`] over `a`, which nobody else looks at.
///
/// # Errors
/// As [`crate::add()`].
pub fn add_over(a: Tensor, b: &Tensor) -> Result<Tensor> {
    match writable(&a) && beside(&a, b) {
        true => over(a, &Change::Add(b)),
        false => crate::add(&a, b),
    }
}

/// Whether this tensor's memory may be written to.
fn writable(x: &Tensor) -> bool {
    x.device().is_cpu() && !x.track_op() && x.is_contiguous()
}

/// Whether the other tensor has the same shape and type, and no gradient either.
fn beside(x: &Tensor, other: &Tensor) -> bool {
    let alike = x.dims() == other.dims() && x.dtype() == other.dtype();
    alike && other.device().is_cpu() && !other.track_op() && other.is_contiguous()
}

fn over(x: Tensor, change: &Change) -> Result<Tensor> {
    x.inplace_op1(change)?;
    Ok(x)
}

enum Change<'a> {
    Gelu(Form),
    Geglu(&'a Tensor),
    Add(&'a Tensor),
}

impl InplaceOp1 for Change<'_> {
    fn name(&self) -> &'static str {
        match self {
            Self::Gelu(_) => "gelu",
            Self::Geglu(_) => "geglu",
            Self::Add(_) => "add",
        }
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("{}: a tensor is not contiguous", self.name())
        };
        let dtype = candle_core::backend::BackendStorage::dtype(storage);
        with_float!(self.name(), dtype, T => {
            let x = T::slice_mut(storage).and_then(|all| all.get_mut(start..end));
            self.of::<T>(x.unwrap_or_default())
        })
    }
}

impl Change<'_> {
    fn of<T: Float>(&self, x: &mut [T]) -> Result<()> {
        let level = Level::best();
        match self {
            Self::Gelu(form) => {
                x.par_chunks_mut(ELEMENTS).for_each(|x| level.run(Gelu { form: *form, x }));
            }
            Self::Geglu(value) => {
                let value = values::<T>(value, self.name())?;
                x.par_chunks_mut(ELEMENTS)
                    .zip(value.par_chunks(ELEMENTS))
                    .for_each(|(gate, value)| level.run(Geglu { gate, value }));
            }
            Self::Add(other) => {
                let other = values::<T>(other, self.name())?;
                x.par_chunks_mut(ELEMENTS)
                    .zip(other.par_chunks(ELEMENTS))
                    .for_each(|(x, other)| add_to(x, other));
            }
        }
        Ok(())
    }
}

struct Gelu<'a, T> {
    form: Form,
    x: &'a mut [T],
}

impl<T: Float> Work for Gelu<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        match self.form {
            Form::Exact => self.x.iter_mut().for_each(|x| *x = Form::Exact.value(*x)),
            Form::Quick => self.x.iter_mut().for_each(|x| *x = Form::Quick.value(*x)),
        }
    }
}

struct Geglu<'a, T> {
    gate: &'a mut [T],
    value: &'a [T],
}

impl<T: Float> Work for Geglu<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (gate, value) in self.gate.iter_mut().zip(self.value) {
            *gate = Form::Exact.value(*gate) * *value;
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn some(seed: usize) -> Tensor {
        let numbers: Vec<f32> =
            (0..70).map(|i| ((i * 37 + seed) % 101) as f32 / 20.0 - 2.5).collect();
        Tensor::from_vec(numbers, (2, 5, 7), &Device::Cpu).unwrap()
    }

    fn numbers(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn what_is_written_over_has_the_bits_of_the_operator_and_lies_where_the_input_lay() {
        let (a, b) = (some(1), some(2));
        let (gelu, quick) = (crate::gelu(&a).unwrap(), crate::quick_gelu(&a).unwrap());
        let (geglu, sum) = (crate::geglu(&a, &b).unwrap(), crate::add(&a, &b).unwrap());
        for (expected, of) in [
            (gelu, &(|a: Tensor| gelu_over(a, false)) as &dyn Fn(Tensor) -> Result<Tensor>),
            (quick, &|a: Tensor| gelu_over(a, true)),
            (geglu, &|a: Tensor| geglu_over(a, &b)),
            (sum, &|a: Tensor| add_over(a, &b)),
        ] {
            let input = some(1);
            let watched = input.clone();
            assert_eq!(numbers(&of(input).unwrap()), numbers(&expected));
            assert_eq!(numbers(&watched), numbers(&expected));
        }
    }

    #[test]
    fn an_input_with_a_gradient_keeps_its_numbers() {
        let (x, other) = (Var::from_tensor(&some(1)).unwrap(), some(2));
        let y = gelu_over(x.as_tensor().clone(), false).unwrap();
        let y = add_over(y, &other).unwrap();
        assert_eq!(numbers(&x), numbers(&some(1)));
        assert!(y.sum_all().unwrap().backward().unwrap().get(&x).is_some());
        assert!(add_over(some(1), &other.narrow(0, 0, 1).unwrap()).is_err());
    }
}
