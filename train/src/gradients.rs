//! The gradients of one optimiser step: their sum over micro-batches, their norm, the clip.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor, Var};
use kernels::{Collected, CollectedTensors};
use stage::ResultExt;

use crate::ranks::Ranks;

/// Gradients by parameter name. Those of parameters in main memory lie in buffers that live from
/// step to step, others where their parameters are. A parameter that the loss does not reach has
/// none.
#[derive(Debug, Default)]
pub struct Gradients {
    names: BTreeMap<String, Tensor>,
    collected: Collected,
    elsewhere: CollectedTensors,
}

/// A gradient where its parameter is.
#[derive(Debug, Clone, Copy)]
pub enum Gradient<'a> {
    /// In main memory, row after row.
    Host(&'a [f32]),
    /// On a device.
    Device(&'a Tensor),
}

impl Gradients {
    /// No gradients yet, for these parameters.
    #[must_use]
    pub fn new(vars: &BTreeMap<String, Var>) -> Self {
        let names: BTreeMap<String, Tensor> =
            vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
        let collected = Collected::new(names.values().filter(|var| var.device().is_cpu()));
        let elsewhere = CollectedTensors::new(names.values().filter(|var| !var.device().is_cpu()));
        Self { names, collected, elsewhere }
    }

    /// Forgets all gradients.
    pub fn clear(&mut self) {
        self.collected.clear();
        self.elsewhere.clear();
    }

    /// Adds the gradients of this loss.
    ///
    /// # Errors
    /// candle's.
    pub fn add(&mut self, loss: &Tensor) -> Result<()> {
        if loss.device().is_cpu() {
            return self.collected.backward(loss);
        }
        self.elsewhere.backward(loss)
    }

    /// The gradient of this parameter.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Gradient<'_>> {
        let parameter = self.names.get(name)?;
        let host = self.collected.get(parameter).map(Gradient::Host);
        host.or_else(|| self.elsewhere.get(parameter).map(Gradient::Device))
    }

    /// Puts this number in place of a scalar parameter's gradient, if the loss reached it.
    pub(crate) fn set(&mut self, name: &str, gradient: f32) -> Result<()> {
        let Some(parameter) = self.names.get(name) else { return Ok(()) };
        if !parameter.device().is_cpu() {
            let value = Tensor::from_slice(&[gradient], parameter.shape(), parameter.device())?;
            self.elsewhere.set(parameter, value);
            return Ok(());
        }
        if self.collected.get(parameter).is_none() {
            // Its buffer is made by a gradient: that of a loss that is the parameter itself.
            self.collected.backward(parameter)?;
        }
        if let Some([value]) = self.collected.get_mut(parameter) {
            *value = gradient;
        }
        Ok(())
    }

    /// Sums over the ranks, all in one exchange; `except` keeps its own.
    pub(crate) fn sum_over(&mut self, except: &str, ranks: &mut dyn Ranks) -> stage::Result<()> {
        self.sum_elsewhere(except, ranks)?;
        let others = || self.names.iter().filter(|(name, _)| *name != except).map(|(_, var)| var);
        let mut flat = Vec::new();
        for parameter in others() {
            flat.extend_from_slice(self.collected.get(parameter).unwrap_or_default());
        }
        if flat.is_empty() {
            return Ok(()); // the same on every rank
        }
        ranks.sum(&mut flat)?;
        let mut rest = flat.as_slice();
        for parameter in others() {
            let Some(gradient) = self.collected.get_mut(parameter) else { continue };
            let (values, after) = rest.split_at(gradient.len());
            gradient.copy_from_slice(values);
            rest = after;
        }
        Ok(())
    }

    /// The same for gradients on a device: there, where the exchange reaches it.
    fn sum_elsewhere(&mut self, except: &str, ranks: &mut dyn Ranks) -> stage::Result<()> {
        let inside = "the sum over ranks failed";
        // The same tensors, by another handle: what is written into them is written into the sums.
        let all: Vec<(&Tensor, Tensor)> = self
            .names
            .iter()
            .filter(|(name, _)| *name != except)
            .filter_map(|(_, parameter)| Some((parameter, self.elsewhere.get(parameter)?.clone())))
            .collect();
        let tensors: Vec<&Tensor> = all.iter().map(|(_, tensor)| tensor).collect();
        if tensors.is_empty() || ranks.sum_on_device(&tensors)? {
            return Ok(());
        }
        let mut flat = Vec::new();
        for tensor in tensors {
            flat.extend(crate::joint::floats(tensor).model(inside)?);
        }
        ranks.sum(&mut flat)?;
        let mut rest = flat.as_slice();
        for (parameter, tensor) in all {
            let (values, after) = rest.split_at(tensor.elem_count());
            let sum = Tensor::from_slice(values, tensor.shape(), tensor.device());
            self.elsewhere.set(parameter, sum.model(inside)?);
            rest = after;
        }
        Ok(())
    }

    /// The 2-norm of all gradients together, summed in f64. Not finite if any gradient is not.
    ///
    /// # Errors
    /// candle's.
    pub fn norm(&self) -> Result<f64> {
        let gradients = self.names.values().filter_map(|parameter| self.collected.get(parameter));
        let host: f64 = gradients.map(kernels::sum_of_squares).sum();
        let elsewhere: Vec<&Tensor> =
            self.names.values().filter_map(|parameter| self.elsewhere.get(parameter)).collect();
        let device = kernels::sum_of_squares_tensors(&elsewhere)?;
        Ok((host + device).sqrt())
    }
}

/// What every gradient is multiplied with so that their norm is at most `max_norm`:
/// `min(1, max_norm / (norm + 1e-6))`, as torch's `clip_grad_norm_`.
#[must_use]
pub fn clip_factor(norm: f64, max_norm: Option<f64>) -> f32 {
    max_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0) as f32)
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
        let mut gradients = Gradients::new(&vars);
        for _ in 0..2 {
            // Half the sum of squares: the gradient is the value itself.
            let halves = vars.values().map(|v| v.sqr().unwrap().sum_all().unwrap());
            let loss = (halves.reduce(|a, b| (a + b).unwrap()).unwrap() * 0.5).unwrap();
            gradients.add(&loss).unwrap();
        }
        assert!((gradients.norm().unwrap() - 10.0).abs() < 1e-6);
    }

    #[test]
    fn one_infinite_gradient_makes_the_norm_infinite() {
        let vars = vars(&[("a", &[1.0, 1.0])]);
        let weights = Tensor::new(&[1.0_f32, f32::INFINITY], &Device::Cpu).unwrap();
        let loss = (vars["a"].as_tensor() * weights).unwrap().sum_all().unwrap();
        let mut gradients = Gradients::new(&vars);
        gradients.add(&loss).unwrap();
        assert!(!gradients.norm().unwrap().is_finite());
    }

    #[test]
    fn clipping_scales_down_and_never_up() {
        assert_eq!(clip_factor(4.0, Some(1.0)), 0.249_999_94);
        assert_eq!(clip_factor(0.5, Some(1.0)), 1.0);
        assert_eq!(clip_factor(100.0, None), 1.0);
    }
}
