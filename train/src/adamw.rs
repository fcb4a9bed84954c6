//! AdamW with decoupled weight decay, in one pass over each parameter.
//!
//! Loshchilov and Hutter, "Decoupled Weight Decay Regularization", arXiv 1711.05101, Algorithm 2,
//! in the operation order of torch's `optim/adamw.py` (`_single_tensor_adamw`), so that f32 results
//! agree with it to rounding.

use std::collections::BTreeMap;

use candle_core::{Error, Result, Var};
use kernels::AdamWPass;

use crate::gradients::Gradients;
use crate::ranks::Ranks;

/// The constants of the optimiser; the learning rate comes with each step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Constants {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay of the parameters that decay.
    pub wd: f64,
}

/// Moments of every parameter and the number of steps taken.
#[derive(Debug)]
pub struct AdamW {
    constants: Constants,
    slots: BTreeMap<String, Slot>,
    steps: u64,
}

/// The optimiser's memory of one parameter.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) first: Vec<f32>,
    pub(crate) second: Vec<f32>,
    decays: bool,
}

impl AdamW {
    /// Zero moments for these parameters; `decays(name, dims)` says which ones decay
    /// ([`crate::decay::Rule::decays`]).
    pub fn new(
        vars: &BTreeMap<String, Var>,
        constants: Constants,
        decays: impl Fn(&str, usize) -> bool,
    ) -> Self {
        let slot = |name: &String, var: &Var| Slot {
            first: vec![0.0; var.elem_count()],
            second: vec![0.0; var.elem_count()],
            decays: decays(name, var.rank()),
        };
        let slots = vars.iter().map(|(name, var)| (name.clone(), slot(name, var))).collect();
        Self { constants, slots, steps: 0 }
    }

    /// One update of every parameter that has a gradient. Gradients are multiplied by `factor`
    /// first ([`crate::gradients::clip_factor`]).
    pub fn step(
        &mut self,
        vars: &BTreeMap<String, Var>,
        gradients: &Gradients,
        lr: f64,
        factor: f32,
    ) -> Result<()> {
        self.steps += 1;
        let Constants { beta1, beta2, eps, wd } = self.constants;
        let t = self.steps as f64;
        let correction2 = (1.0 - beta2.powf(t)).sqrt();
        for (name, var) in vars {
            let Some(gradient) = gradients.get(name) else { continue };
            let slot = self
                .slots
                .get_mut(name)
                .ok_or_else(|| Error::Msg(format!("the optimiser does not know {name}")))?;
            let pass = AdamWPass {
                factor,
                keep: if slot.decays { (1.0 - lr * wd) as f32 } else { 1.0 },
                one_minus_beta1: (1.0 - beta1) as f32,
                beta2: beta2 as f32,
                one_minus_beta2: (1.0 - beta2) as f32,
                correction2: correction2 as f32,
                eps: eps as f32,
                step_size: (lr / (1.0 - beta1.powf(t))) as f32,
            };
            pass.apply(var, gradient, &mut slot.first, &mut slot.second)?;
        }
        Ok(())
    }

    /// Makes moments and number of steps those of rank 0.
    pub(crate) fn take_from_first(&mut self, ranks: &mut dyn Ranks) -> stage::Result<()> {
        let all = ranks.gather(&self.steps.to_le_bytes())?;
        if let Some(first) = all.first().and_then(|bytes| bytes.as_slice().try_into().ok()) {
            self.steps = u64::from_le_bytes(first);
        }
        for slot in self.slots.values_mut() {
            ranks.broadcast(&mut slot.first)?;
            ranks.broadcast(&mut slot.second)?;
        }
        Ok(())
    }

    /// Steps taken so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    pub(crate) fn slots(&self) -> &BTreeMap<String, Slot> {
        &self.slots
    }

    /// Continues from saved moments. The names and lengths were checked by the caller.
    pub(crate) fn restore(&mut self, steps: u64, mut moments: impl FnMut(&str, &mut Slot)) {
        self.steps = steps;
        for (name, slot) in &mut self.slots {
            moments(name, slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::decay::Rule;

    fn decays(name: &str, dims: usize) -> bool {
        Rule::Legacy.decays(name, dims)
    }

    const PLAIN: Constants = Constants { beta1: 0.9, beta2: 0.98, eps: 1e-6, wd: 0.0 };

    /// Minimises `½ Σ x²` from (1, −2) for `steps` steps.
    fn descend(constants: Constants, steps: usize, rule: fn(&str, usize) -> bool) -> Vec<f32> {
        let var = Var::from_slice(&[1.0_f32, -2.0], (1, 2), &Device::Cpu).unwrap();
        let vars = BTreeMap::from([("w".to_owned(), var)]);
        let mut adamw = AdamW::new(&vars, constants, rule);
        for _ in 0..steps {
            let loss = (vars["w"].sqr().unwrap().sum_all().unwrap() * 0.5).unwrap();
            let mut gradients = Gradients::new(&vars);
            gradients.add(&loss).unwrap();
            adamw.step(&vars, &gradients, 0.1, 1.0).unwrap();
        }
        vars["w"].flatten_all().unwrap().to_vec1().unwrap()
    }

    fn near(a: &[f32], b: &[f32]) -> bool {
        a.iter().zip(b).all(|(a, b)| (a - b).abs() < 2e-6)
    }

    #[test]
    fn the_first_step_moves_by_the_learning_rate_against_the_sign() {
        let moved = descend(PLAIN, 1, decays);
        assert!(near(&moved, &[0.9, -1.9]), "{moved:?}");
    }

    #[test]
    fn decay_shrinks_before_the_step_and_only_what_decays() {
        let constants = Constants { wd: 0.2, ..PLAIN };
        let moved = descend(constants, 1, decays);
        assert!(near(&moved, &[0.88, -1.86]), "{moved:?}");
        let moved = descend(constants, 1, |_, _| false);
        assert!(near(&moved, &[0.9, -1.9]), "{moved:?}");
    }

    #[test]
    fn descent_arrives() {
        let end = descend(PLAIN, 300, decays);
        assert!(end.iter().all(|x| x.abs() < 0.02), "{end:?}");
    }

    #[test]
    fn long_parameters_are_updated_to_the_last_number() {
        let n = 100_007;
        let vars = BTreeMap::from([(
            "w".to_owned(),
            Var::ones(n, candle_core::DType::F32, &Device::Cpu).unwrap(),
        )]);
        let mut adamw = AdamW::new(&vars, PLAIN, decays);
        let mut gradients = Gradients::new(&vars);
        gradients.add(&vars["w"].sum_all().unwrap()).unwrap();
        adamw.step(&vars, &gradients, 0.5, 1.0).unwrap();
        let values: Vec<f32> = Tensor::to_vec1(&vars["w"]).unwrap();
        assert!(values.iter().all(|v| (v - 0.5).abs() < 1e-5));
    }
}
