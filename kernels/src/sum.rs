//! The sum of two tensors.
//!
//! candle's runs on a pool of threads of its own that spin between two calls, beside the threads
//! that do all other work here.

use candle_core::{CpuStorage, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::composed;
use crate::elementary::Float;
use crate::fused::{Fused, apply};
use crate::rows::{ELEMENTS, add_to};
use crate::slices::{check, values, with_float};

/// `a + b`, with gradients for both.
///
/// # Shapes
/// one for both, any
///
/// # Errors
/// Different shapes or dtypes, or other dtypes than f32 and f64.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    check("add", a)?;
    if a.dims() != b.dims() || a.dtype() != b.dtype() {
        candle_core::bail!(
            "add: {:?} {:?} and {:?} {:?}",
            a.dtype(),
            a.dims(),
            b.dtype(),
            b.dims()
        );
    }
    if composed::takes(a) {
        return a + b;
    }
    apply(Add, &[a, b])
}

struct Add;

impl Fused for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn forward(&self, inputs: &[Tensor]) -> Result<(CpuStorage, Shape)> {
        let [a, b] = inputs else { candle_core::bail!("add takes 2 tensors") };
        with_float!("add", a.dtype(), T => {
            let (x, z) = (values::<T>(a, "add")?, values::<T>(b, "add")?);
            let pairs = x.par_iter().zip(z.par_iter()).with_min_len(ELEMENTS);
            let y: Vec<T> = pairs.map(|(x, z)| *x + *z).collect();
            Ok((<T as candle_core::WithDType>::to_cpu_storage_owned(y), a.shape().clone()))
        })
    }

    fn backward(&self, _: &[Tensor], _: &Tensor, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(grad.clone()), Some(grad.clone())])
    }
}

/// `into += from`, in parallel.
pub(crate) fn sum_into<T: Float>(into: &mut [T], from: &[T]) {
    into.par_chunks_mut(ELEMENTS).zip(from.par_chunks(ELEMENTS)).for_each(|(into, from)| {
        add_to(into, from);
    });
}
