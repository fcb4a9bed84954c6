//! One step of AdamW, in place.
//!
//! Loshchilov, Hutter, "Decoupled Weight Decay Regularization", arXiv 1711.05101, in the order of
//! operations of PyTorch's `torch.optim.AdamW`.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Result, Tensor, Var};
use rayon::prelude::*;

use crate::elementary::Float;
use crate::rows::ELEMENTS;
use crate::simd::{Level, Work};
use crate::slices::{check, slice, with_float};

/// The numbers of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the second mean.
    pub eps: f64,
    /// Decoupled weight decay; 0 for biases and gains.
    pub weight_decay: f64,
    /// Number of this step, counted from 1.
    pub step: u64,
}

/// Updates a parameter and its two means in place:
///
/// ```text
/// m += (g - m)(1 - β1);  v = β2 v + (1 - β2) g²
/// p = p (1 - lr·wd) - lr / (1 - β1^t) · m / (√v / √(1 - β2^t) + ε)
/// ```
///
/// # Shapes
/// all four the same, contiguous
///
/// # Errors
/// Different shapes or dtypes, step 0, other dtypes than f32 and f64, or devices than the CPU.
pub fn adamw_step(
    parameter: &Var,
    gradient: &Tensor,
    exp_avg: &Var,
    exp_avg_sq: &Var,
    settings: &AdamW,
) -> Result<()> {
    check("adamw_step", parameter)?;
    let same = |t: &Tensor| t.dims() == parameter.dims() && t.dtype() == parameter.dtype();
    if !(same(gradient) && same(exp_avg) && same(exp_avg_sq)) || settings.step == 0 {
        candle_core::bail!(
            "adamw_step: parameter {:?}, gradient {:?}, means {:?} and {:?}, step {}; expected one \
             shape and a step from 1",
            parameter.dims(),
            gradient.dims(),
            exp_avg.dims(),
            exp_avg_sq.dims(),
            settings.step
        );
    }
    let gradient = gradient.detach().contiguous()?;
    exp_avg.inplace_op2(&gradient, &Mean(settings.beta1))?;
    exp_avg_sq.inplace_op2(&gradient, &SquareMean(settings.beta2))?;
    parameter.inplace_op3(exp_avg, exp_avg_sq, settings)
}

struct Mean(f64);
struct SquareMean(f64);

impl InplaceOp2 for Mean {
    fn name(&self) -> &'static str {
        "adamw_step"
    }

    fn cpu_fwd(&self, m: &mut CpuStorage, lm: &Layout, g: &CpuStorage, lg: &Layout) -> Result<()> {
        with_float!("adamw_step", m.dtype(), T => {
            let g = slice::<T>(g, lg, "adamw_step")?;
            let rate = T::of(1.0 - self.0);
            let level = Level::best();
            part::<T>(m, lm)?
                .par_chunks_mut(ELEMENTS)
                .zip(g.par_chunks(ELEMENTS))
                .for_each(|(m, g)| level.run(MeanStep { m, g, rate }));
            Ok(())
        })
    }
}

impl InplaceOp2 for SquareMean {
    fn name(&self) -> &'static str {
        "adamw_step"
    }

    fn cpu_fwd(&self, v: &mut CpuStorage, lv: &Layout, g: &CpuStorage, lg: &Layout) -> Result<()> {
        with_float!("adamw_step", v.dtype(), T => {
            let g = slice::<T>(g, lg, "adamw_step")?;
            let (keep, rate) = (T::of(self.0), T::of(1.0 - self.0));
            let level = Level::best();
            part::<T>(v, lv)?
                .par_chunks_mut(ELEMENTS)
                .zip(g.par_chunks(ELEMENTS))
                .for_each(|(v, g)| level.run(SquareStep { v, g, keep, rate }));
            Ok(())
        })
    }
}

impl InplaceOp3 for AdamW {
    fn name(&self) -> &'static str {
        "adamw_step"
    }

    fn cpu_fwd(
        &self,
        p: &mut CpuStorage,
        lp: &Layout,
        m: &CpuStorage,
        lm: &Layout,
        v: &CpuStorage,
        lv: &Layout,
    ) -> Result<()> {
        let t = self.step as f64;
        let (correction1, correction2) = (1.0 - self.beta1.powf(t), 1.0 - self.beta2.powf(t));
        with_float!("adamw_step", p.dtype(), T => {
            let (m, v) = (slice::<T>(m, lm, "adamw_step")?, slice::<T>(v, lv, "adamw_step")?);
            let keep = T::of(1.0 - self.lr * self.weight_decay);
            let step = T::of(self.lr / correction1);
            let (root, eps) = (T::of(correction2.sqrt()), T::of(self.eps));
            let level = Level::best();
            part::<T>(p, lp)?
                .par_chunks_mut(ELEMENTS)
                .zip(m.par_chunks(ELEMENTS))
                .zip(v.par_chunks(ELEMENTS))
                .for_each(|((p, m), v)| level.run(ParameterStep { p, m, v, keep, step, root, eps }));
            Ok(())
        })
    }
}

/// The elements of a contiguous storage, to write.
fn part<'a, T: Float>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [T]> {
    match (layout.contiguous_offsets(), T::slice_mut(storage)) {
        (Some((start, end)), Some(all)) => Ok(&mut all[start..end]),
        _ => candle_core::bail!("adamw_step: tensors are contiguous and of one dtype"),
    }
}

struct MeanStep<'a, T> {
    m: &'a mut [T],
    g: &'a [T],
    rate: T,
}

impl<T: Float> Work for MeanStep<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (m, g) in self.m.iter_mut().zip(self.g) {
            *m = *m + (*g - *m) * self.rate;
        }
    }
}

struct SquareStep<'a, T> {
    v: &'a mut [T],
    g: &'a [T],
    keep: T,
    rate: T,
}

impl<T: Float> Work for SquareStep<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (v, g) in self.v.iter_mut().zip(self.g) {
            *v = *v * self.keep + *g * *g * self.rate;
        }
    }
}

struct ParameterStep<'a, T> {
    p: &'a mut [T],
    m: &'a [T],
    v: &'a [T],
    keep: T,
    step: T,
    root: T,
    eps: T,
}

impl<T: Float> Work for ParameterStep<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for ((p, m), v) in self.p.iter_mut().zip(self.m).zip(self.v) {
            *p = *p * self.keep - self.step * (*m / (v.root() / self.root + self.eps));
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn two_steps_equal_the_formula_by_hand() {
        let var = |v: f64| Var::from_tensor(&Tensor::new(&[v], &Device::Cpu).unwrap()).unwrap();
        let (p, m, v) = (var(2.0), var(0.0), var(0.0));
        let settings =
            AdamW { lr: 0.1, beta1: 0.9, beta2: 0.98, eps: 1e-6, weight_decay: 0.2, step: 1 };
        let (mut by_hand, mut first, mut second) = (2.0f64, 0.0f64, 0.0f64);
        for (step, g) in [(1u64, 0.5f64), (2, -0.25)] {
            let gradient = Tensor::new(&[g], &Device::Cpu).unwrap();
            adamw_step(&p, &gradient, &m, &v, &AdamW { step, ..settings }).unwrap();
            first = 0.9 * first + 0.1 * g;
            second = 0.98 * second + 0.02 * g * g;
            let (c1, c2) = (1.0 - 0.9f64.powf(step as f64), 1.0 - 0.98f64.powf(step as f64));
            by_hand -= 0.1 * 0.2 * by_hand;
            by_hand -= 0.1 * (first / c1) / ((second / c2).sqrt() + 1e-6);
        }
        let got = p.to_vec1::<f64>().unwrap()[0];
        assert!((got - by_hand).abs() < 1e-12, "{got} {by_hand}");
    }

    #[test]
    fn step_zero_and_other_shapes_are_refused() {
        let var = |n: usize| Var::zeros(n, DType::F32, &Device::Cpu).unwrap();
        let settings =
            AdamW { lr: 0.1, beta1: 0.9, beta2: 0.98, eps: 1e-6, weight_decay: 0.0, step: 0 };
        let (p, m, v) = (var(3), var(3), var(3));
        assert!(adamw_step(&p, m.as_tensor(), &m, &v, &settings).is_err());
        let settings = AdamW { step: 1, ..settings };
        assert!(adamw_step(&p, var(2).as_tensor(), &m, &v, &settings).is_err());
    }
}
