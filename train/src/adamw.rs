//! AdamW with decoupled weight decay, in one pass over each parameter.
//!
//! Loshchilov and Hutter, "Decoupled Weight Decay Regularization", arXiv 1711.05101, Algorithm 2,
//! in the operation order of torch's `optim/adamw.py` (`_single_tensor_adamw`), so that f32 results
//! agree with it to rounding.

use std::borrow::Cow;
use std::collections::BTreeMap;

use candle_core::{Error, Result, Tensor, Var};
use kernels::{AdamWPass, TensorStep};
use stage::ResultExt;

use crate::gradients::{Gradient, Gradients};
use crate::joint;
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
    moments: Moments,
    decays: bool,
}

/// First and second moment, where their parameter is.
#[derive(Debug)]
enum Moments {
    Host([Vec<f32>; 2]),
    Device([Tensor; 2]),
}

impl Slot {
    fn new(var: &Var, decays: bool) -> Result<Self> {
        let moments = if var.device().is_cpu() {
            Moments::Host([vec![0.0; var.elem_count()], vec![0.0; var.elem_count()]])
        } else {
            Moments::Device([var.zeros_like()?, var.zeros_like()?])
        };
        Ok(Self { moments, decays })
    }

    /// Numbers of each moment.
    pub(crate) fn len(&self) -> usize {
        match &self.moments {
            Moments::Host([first, _]) => first.len(),
            Moments::Device([first, _]) => first.elem_count(),
        }
    }

    /// Both moments in main memory.
    pub(crate) fn numbers(&self) -> Result<[Cow<'_, [f32]>; 2]> {
        Ok(match &self.moments {
            Moments::Host([first, second]) => [first.as_slice().into(), second.as_slice().into()],
            Moments::Device([first, second]) => {
                [joint::floats(first)?.into(), joint::floats(second)?.into()]
            }
        })
    }

    /// Other moments, of the same lengths.
    pub(crate) fn set(&mut self, numbers: [&[f32]; 2]) -> Result<()> {
        match &mut self.moments {
            Moments::Host(moments) => {
                for (moment, numbers) in moments.iter_mut().zip(numbers) {
                    moment.copy_from_slice(numbers);
                }
            }
            Moments::Device(moments) => {
                for (moment, numbers) in moments.iter_mut().zip(numbers) {
                    *moment = Tensor::from_slice(numbers, moment.shape(), moment.device())?;
                }
            }
        }
        Ok(())
    }
}

impl AdamW {
    /// Zero moments for these parameters; `decays(name, dims)` says which ones decay
    /// ([`crate::decay::Rule::decays`]).
    ///
    /// # Errors
    /// A device without memory for them.
    pub fn new(
        vars: &BTreeMap<String, Var>,
        constants: Constants,
        decays: impl Fn(&str, usize) -> bool,
    ) -> Result<Self> {
        let slot = |(name, var): (&String, &Var)| {
            Ok((name.clone(), Slot::new(var, decays(name, var.rank()))?))
        };
        Ok(Self { constants, slots: vars.iter().map(slot).collect::<Result<_>>()?, steps: 0 })
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
        let stranger =
            |name: &&String| gradients.get(name).is_some() && !self.slots.contains_key(*name);
        if let Some(name) = vars.keys().find(stranger) {
            return Err(Error::Msg(format!("the optimiser does not know {name}")));
        }
        // Those of parameters on a device, for one call.
        let mut elsewhere = Vec::new();
        for (name, slot) in &mut self.slots {
            let (Some(var), Some(gradient)) = (vars.get(name), gradients.get(name)) else {
                continue;
            };
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
            match (gradient, &mut slot.moments) {
                (Gradient::Host(gradient), Moments::Host([first, second])) => {
                    pass.apply(var, gradient, first, second)?;
                }
                (Gradient::Device(gradient), Moments::Device(moments)) => {
                    elsewhere.push(TensorStep { pass, parameter: var, gradient, moments });
                }
                _ => candle_core::bail!("the gradient of {name} is on another device"),
            }
        }
        kernels::adamw_tensors(&mut elsewhere)
    }

    /// Makes moments and number of steps those of rank 0.
    pub(crate) fn take_from_first(&mut self, ranks: &mut dyn Ranks) -> stage::Result<()> {
        let all = ranks.gather(&self.steps.to_le_bytes())?;
        if let Some(first) = all.first().and_then(|bytes| bytes.as_slice().try_into().ok()) {
            self.steps = u64::from_le_bytes(first);
        }
        for (name, slot) in &mut self.slots {
            let [first, second] = slot.numbers().model(name)?;
            let (mut first, mut second) = (first.into_owned(), second.into_owned());
            ranks.broadcast(&mut first)?;
            ranks.broadcast(&mut second)?;
            slot.set([&first, &second]).model(name)?;
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
    pub(crate) fn restore(
        &mut self,
        steps: u64,
        mut moments: impl FnMut(&str, &mut Slot) -> Result<()>,
    ) -> Result<()> {
        self.steps = steps;
        self.slots.iter_mut().try_for_each(|(name, slot)| moments(name, slot))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

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
        let mut adamw = AdamW::new(&vars, constants, rule).unwrap();
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
        let mut adamw = AdamW::new(&vars, PLAIN, decays).unwrap();
        let mut gradients = Gradients::new(&vars);
        gradients.add(&vars["w"].sum_all().unwrap()).unwrap();
        adamw.step(&vars, &gradients, 0.5, 1.0).unwrap();
        let values: Vec<f32> = Tensor::to_vec1(&vars["w"]).unwrap();
        assert!(values.iter().all(|v| (v - 0.5).abs() < 1e-5));
    }
}
