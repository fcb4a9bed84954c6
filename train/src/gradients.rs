//! The gradients of one optimiser step: their sum over micro-batches, their norm, the clip.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor, Var};
use rayon::prelude::*;
use stage::ResultExt;

use crate::ranks::Ranks;
use crate::slices::{self, contiguous, contiguous_mut};

/// Gradients by parameter name. A parameter that the loss does not reach has none.
#[derive(Debug, Default)]
pub struct Gradients(BTreeMap<String, Tensor>);

/// Numbers a task works on: small enough for the second-level cache, large enough to be worth a
/// task. Sums are formed chunk by chunk in this order, so that threads do not change them.
pub(crate) const CHUNK: usize = 1 << 15;

impl Gradients {
    /// Adds the gradients of one backward pass, taking them out of `store`.
    pub fn add(&mut self, vars: &BTreeMap<String, Var>, store: &mut GradStore) -> Result<()> {
        for (name, var) in vars {
            let Some(gradient) = store.remove(var.as_tensor()) else { continue };
            let gradient = gradient.contiguous()?;
            match self.0.get(name) {
                Some(sum) => sum.inplace_op2(&gradient, &AddAssign)?,
                None => {
                    self.0.insert(name.clone(), gradient);
                }
            }
        }
        Ok(())
    }

    /// The gradient of this parameter.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }

    /// Puts this gradient in place of the parameter's own.
    pub(crate) fn set(&mut self, name: &str, gradient: Tensor) {
        self.0.insert(name.to_owned(), gradient);
    }

    /// Sums over the ranks, all in one exchange; `except` keeps its own.
    pub(crate) fn sum_over(
        &mut self,
        vars: &BTreeMap<String, Var>,
        except: &str,
        ranks: &mut dyn Ranks,
    ) -> stage::Result<()> {
        let mut flat = Vec::new();
        for (name, gradient) in self.0.iter().filter(|(name, _)| *name != except) {
            slices::with(gradient, |values| flat.extend_from_slice(values)).model(name)?;
        }
        ranks.sum(&mut flat)?;
        let mut rest = flat.as_slice();
        for (name, gradient) in self.0.iter_mut().filter(|(name, _)| *name != except) {
            let Some(var) = vars.get(name) else { continue };
            let (values, after) = rest.split_at(gradient.elem_count());
            rest = after;
            *gradient = Tensor::from_slice(values, var.dims(), var.device()).model(name)?;
        }
        Ok(())
    }

    /// The 2-norm of all gradients together, summed in f64. Not finite if any gradient is not.
    pub fn norm(&self) -> Result<f64> {
        let mut sum = 0.0;
        for gradient in self.0.values() {
            sum += slices::with(gradient, sum_of_squares)?;
        }
        Ok(sum.sqrt())
    }
}

fn sum_of_squares(values: &[f32]) -> f64 {
    let squares = |chunk: &[f32]| chunk.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>();
    if values.len() <= CHUNK {
        return squares(values);
    }
    let parts: Vec<f64> = values.par_chunks(CHUNK).map(squares).collect();
    parts.iter().sum()
}

/// What every gradient is multiplied with so that their norm is at most `max_norm`:
/// `min(1, max_norm / (norm + 1e-6))`, as torch's `clip_grad_norm_`.
#[must_use]
pub fn clip_factor(norm: f64, max_norm: Option<f64>) -> f32 {
    max_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0) as f32)
}

struct AddAssign;

impl InplaceOp2 for AddAssign {
    fn name(&self) -> &'static str {
        "add_assign"
    }

    fn cpu_fwd(
        &self,
        sum: &mut CpuStorage,
        sum_layout: &Layout,
        term: &CpuStorage,
        term_layout: &Layout,
    ) -> Result<()> {
        let term = contiguous(term, term_layout)?;
        let sum = contiguous_mut(sum, sum_layout)?;
        sum.par_chunks_mut(CHUNK).zip(term.par_chunks(CHUNK)).for_each(|(sum, term)| {
            for (s, t) in sum.iter_mut().zip(term) {
                *s += t;
            }
        });
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "exact in f32")]
mod tests {
    use candle_core::Device;

    use super::*;

    fn vars(values: &[(&str, &[f32])]) -> BTreeMap<String, Var> {
        let var = |v: &[f32]| Var::from_slice(v, v.len(), &Device::Cpu).unwrap();
        values.iter().map(|(name, v)| ((*name).to_owned(), var(v))).collect()
    }

    #[test]
    fn the_norm_is_of_all_gradients_together_and_passes_add_up() {
        let vars = vars(&[("a", &[3.0]), ("b", &[4.0])]);
        let mut gradients = Gradients::default();
        for _ in 0..2 {
            // Half the sum of squares: the gradient is the value itself.
            let halves = vars.values().map(|v| v.sqr().unwrap().sum_all().unwrap());
            let loss = (halves.reduce(|a, b| (a + b).unwrap()).unwrap() * 0.5).unwrap();
            gradients.add(&vars, &mut loss.backward().unwrap()).unwrap();
        }
        assert!((gradients.norm().unwrap() - 10.0).abs() < 1e-6);
    }

    #[test]
    fn one_infinite_gradient_makes_the_norm_infinite() {
        let vars = vars(&[("a", &[1.0, 1.0])]);
        let weights = Tensor::new(&[1.0_f32, f32::INFINITY], &Device::Cpu).unwrap();
        let loss = (vars["a"].as_tensor() * weights).unwrap().sum_all().unwrap();
        let mut gradients = Gradients::default();
        gradients.add(&vars, &mut loss.backward().unwrap()).unwrap();
        assert!(!gradients.norm().unwrap().is_finite());
    }

    #[test]
    fn clipping_scales_down_and_never_up() {
        assert_eq!(clip_factor(4.0, Some(1.0)), 0.249_999_94);
        assert_eq!(clip_factor(0.5, Some(1.0)), 1.0);
        assert_eq!(clip_factor(100.0, None), 1.0);
    }
}
