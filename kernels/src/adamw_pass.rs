//! AdamW over flat numbers in one pass, and the sum of squares that clips its gradients.
//!
//! Loshchilov and Hutter, "Decoupled Weight Decay Regularization", arXiv 1711.05101, Algorithm 2, in
//! the operation order of torch's `optim/adamw.py` (`_single_tensor_adamw`).

use std::cell::RefCell;

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Tensor, Var};
use rayon::prelude::*;

use crate::rows::{ELEMENTS, LANES};
use crate::simd::{Level, Work};

/// What is the same for all numbers of a parameter:
///
/// ```text
/// g = factor · gradient
/// m += (g - m) · one_minus_beta1;  v = beta2 v + one_minus_beta2 g²
/// p = keep p - step_size · m / (√v / correction2 + eps)
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[expect(missing_docs, reason = "the formula says what they are")]
pub struct AdamWPass {
    pub factor: f32,
    pub keep: f32,
    pub one_minus_beta1: f32,
    pub beta2: f32,
    pub one_minus_beta2: f32,
    pub correction2: f32,
    pub eps: f32,
    pub step_size: f32,
}

impl AdamWPass {
    /// Updates a parameter and its moments in place.
    ///
    /// # Errors
    /// Other lengths than the parameter's, another dtype than f32, or devices than the CPU.
    pub fn apply(
        &self,
        parameter: &Var,
        gradient: &[f32],
        first: &mut [f32],
        second: &mut [f32],
    ) -> Result<()> {
        let lengths = [gradient.len(), first.len(), second.len()];
        if lengths.iter().any(|len| *len != parameter.elem_count()) {
            candle_core::bail!(
                "adamw: a parameter of {} numbers, gradient and moments of {lengths:?}",
                parameter.elem_count()
            );
        }
        let moments = RefCell::new((first, second));
        parameter.inplace_op1(&Pass { form: *self, gradient, moments })
    }
}

impl AdamWPass {
    /// The same where everything is a tensor of one device; in f32, in the order of operations of
    /// [`AdamWPass::apply`].
    ///
    /// # Errors
    /// Other shapes than the parameter's, or another dtype than f32.
    pub fn apply_tensors(
        &self,
        parameter: &Var,
        gradient: &Tensor,
        [first, second]: &mut [Tensor; 2],
    ) -> Result<()> {
        let by = |x: Result<Tensor>, factor: f32| x? * f64::from(factor);
        let g = by(Ok(gradient.clone()), self.factor)?;
        *first = (&*first + by(&g - &*first, self.one_minus_beta1)?)?;
        *second = (by(Ok(second.clone()), self.beta2)? + by(g.sqr(), self.one_minus_beta2)?)?;
        let root = by(second.sqrt(), 1.0 / self.correction2)?;
        let moved = (&*first / (root + f64::from(self.eps))?)?;
        let kept = by(Ok(parameter.as_tensor().detach()), self.keep)?;
        parameter.set(&(kept - by(Ok(moved), self.step_size)?)?)
    }
}

struct Pass<'a> {
    form: AdamWPass,
    gradient: &'a [f32],
    moments: RefCell<(&'a mut [f32], &'a mut [f32])>,
}

impl InplaceOp1 for Pass<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (CpuStorage::F32(all), Some((start, end))) = (storage, layout.contiguous_offsets())
        else {
            candle_core::bail!("adamw takes contiguous f32 parameters")
        };
        let (first, second) = &mut *self.moments.borrow_mut();
        let (form, level) = (self.form, Level::best());
        all[start..end]
            .par_chunks_mut(ELEMENTS)
            .zip(self.gradient.par_chunks(ELEMENTS))
            .zip(first.par_chunks_mut(ELEMENTS).zip(second.par_chunks_mut(ELEMENTS)))
            .for_each(|((p, g), (m, v))| level.run(Step { form, p, g, m, v }));
        Ok(())
    }
}

struct Step<'a> {
    form: AdamWPass,
    p: &'a mut [f32],
    g: &'a [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
}

impl Work for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let pass = self.form;
        let numbers = self.p.iter_mut().zip(self.g).zip(self.m.iter_mut().zip(self.v));
        for ((p, g), (m, v)) in numbers {
            let g = g * pass.factor;
            *m += (g - *m) * pass.one_minus_beta1; // torch's lerp_
            *v = *v * pass.beta2 + pass.one_minus_beta2 * g * g;
            let denominator = v.sqrt() / pass.correction2 + pass.eps;
            *p = *p * pass.keep - pass.step_size * (*m / denominator);
        }
    }
}

/// Σ x², in f64, in an order that no number of threads and no SIMD level changes. Not finite if any
/// number is not.
#[must_use]
pub fn sum_of_squares(values: &[f32]) -> f64 {
    let level = Level::best();
    let parts: Vec<f64> =
        values.par_chunks(ELEMENTS).map(|values| level.run(Squares { values })).collect();
    parts.iter().sum()
}

struct Squares<'a> {
    values: &'a [f32],
}

impl Work for Squares<'_> {
    type Output = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        let mut lanes = [0f64; LANES];
        let mut chunks = self.values.chunks_exact(LANES);
        for chunk in &mut chunks {
            for l in 0..LANES {
                lanes[l] += f64::from(chunk[l]) * f64::from(chunk[l]);
            }
        }
        for (lane, value) in lanes.iter_mut().zip(chunks.remainder()) {
            *lane += f64::from(*value) * f64::from(*value);
        }
        lanes.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    const PASS: AdamWPass = AdamWPass {
        factor: 0.5,
        keep: 0.98,
        one_minus_beta1: 0.1,
        beta2: 0.98,
        one_minus_beta2: 0.02,
        correction2: 0.25,
        eps: 1e-6,
        step_size: 0.01,
    };

    fn noise(count: usize, seed: u32) -> Vec<f32> {
        let bits = |i: u32| i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8;
        (0..count as u32).map(|i| bits(i) as f32 / (1 << 23) as f32 - 1.0).collect()
    }

    #[test]
    fn every_level_and_any_number_of_threads_give_the_same_bits() {
        let count = 2 * ELEMENTS + 13;
        let (g, v0) = (noise(count, 1), noise(count, 2).iter().map(|v| v * v).collect::<Vec<_>>());
        let run = |level: Level| {
            let (mut p, mut m, mut v) = (noise(count, 3), noise(count, 4), v0.clone());
            level.run(Step { form: PASS, p: &mut p, g: &g, m: &mut m, v: &mut v });
            (p, m, v)
        };
        let expected = run(Level::Baseline);
        for level in Level::available() {
            assert_eq!(run(*level), expected, "{level:?}");
            let part = &g[..ELEMENTS];
            let squares = |level: Level| level.run(Squares { values: part }).to_bits();
            assert_eq!(squares(*level), squares(Level::Baseline));
        }
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let var = Var::from_vec(noise(count, 3), count, &Device::Cpu).unwrap();
            let (mut m, mut v) = (noise(count, 4), v0.clone());
            pool.install(|| PASS.apply(&var, &g, &mut m, &mut v)).unwrap();
            assert_eq!((var.to_vec1::<f32>().unwrap(), m, v), expected);
        }
    }

    #[test]
    fn tensors_are_updated_as_flat_numbers_are() {
        let count = 1000;
        let (g, v0) = (noise(count, 1), noise(count, 2).iter().map(|v| v * v).collect::<Vec<_>>());
        let (mut m, mut v) = (noise(count, 4), v0.clone());
        let var = Var::from_vec(noise(count, 3), count, &Device::Cpu).unwrap();
        PASS.apply(&var, &g, &mut m, &mut v).unwrap();
        let tensor = |values: Vec<f32>| Tensor::from_vec(values, count, &Device::Cpu).unwrap();
        let other = Var::from_vec(noise(count, 3), count, &Device::Cpu).unwrap();
        let mut moments = [tensor(noise(count, 4)), tensor(v0)];
        PASS.apply_tensors(&other, &tensor(g), &mut moments).unwrap();
        let near = |a: &Tensor, b: &[f32]| {
            let a = a.to_vec1::<f32>().unwrap();
            assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-6 * (1.0 + b.abs())));
        };
        near(&moments[0], &m);
        near(&moments[1], &v);
        near(&other, &var.to_vec1::<f32>().unwrap());
    }

    #[test]
    fn squares_are_summed_to_the_last_number() {
        let values = vec![2.0; ELEMENTS + 7];
        assert!((sum_of_squares(&values) - 4.0 * values.len() as f64).abs() < 1e-9);
        assert!(!sum_of_squares(&[1.0, f32::NAN]).is_finite());
        assert!(sum_of_squares(&[]).abs() < f64::EPSILON);
    }

    #[test]
    fn another_length_is_refused() {
        let var = Var::from_vec(vec![0f32; 3], 3, &Device::Cpu).unwrap();
        assert!(PASS.apply(&var, &[0.0; 3], &mut [0.0; 3], &mut [0.0; 2]).is_err());
    }
}
