//! Training on bags, choosing the epoch on the validation side, measuring on the test side.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use stage::{Context, Dice, Result, ResultExt};

use super::aggregator::bce_with_logits;
use super::bags::{Bag, Bags, Instances};
use super::{Aggregator, MilPlan, Pool, Pooling};
use crate::auc::roc_auc;

/// What one way to see bags reached on the test side.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Outcome {
    pub(super) auc: f64,
    pub(super) accuracy: f64,
    /// How well its attention or score finds the instances of the class in positive bags.
    pub(super) instance_auc: Option<f64>,
}

/// The aggregator and the two poolings, all with the same bags, optimiser, epochs and selection.
pub(super) fn all(
    plan: &MilPlan,
    instances: &Instances,
    bags: &Bags,
    cx: &Context,
) -> Result<Vec<(&'static str, Outcome)>> {
    let device = Device::Cpu;
    let width = instances.width();
    let seed = cx.seed_for("mil/aggregator");
    let attention = Aggregator::init(width, 1, seed, &device).model("aggregator")?;
    let mean = Pooling::init(Pool::Mean, width, &device).model("mean-pooling")?;
    let max = Pooling::init(Pool::Max, width, &device).model("max-pooling")?;
    let models: [(&'static str, &dyn Model); 3] =
        [("attention", &attention), ("mean_pooling", &mean), ("max_pooling", &max)];
    let mut outcomes = Vec::new();
    for (number, (name, model)) in models.into_iter().enumerate() {
        let learner = Learner { plan, instances, device: &device, model };
        let outcome = learner.run(bags, cx, number as u64).map_err(|e| e.at(name))?;
        outcomes.push((name, outcome));
    }
    Ok(outcomes)
}

/// Anything that learns from bags.
trait Model {
    fn vars(&self) -> &BTreeMap<String, Var>;
    fn loss(&self, bag: &Tensor, label: &Tensor) -> candle_core::Result<Tensor>;
    /// The bag's logit, and one number an instance that says how much it matters.
    fn view(&self, bag: &Tensor) -> candle_core::Result<(f32, Vec<f32>)>;
}

impl Model for Aggregator {
    fn vars(&self) -> &BTreeMap<String, Var> {
        self.vars()
    }

    fn loss(&self, bag: &Tensor, label: &Tensor) -> candle_core::Result<Tensor> {
        Aggregator::loss(self, &self.forward(bag)?, label)
    }

    fn view(&self, bag: &Tensor) -> candle_core::Result<(f32, Vec<f32>)> {
        let out = self.forward(bag)?;
        Ok((out.bag.flatten_all()?.to_vec1::<f32>()?[0], out.attention.flatten_all()?.to_vec1()?))
    }
}

impl Model for Pooling {
    fn vars(&self) -> &BTreeMap<String, Var> {
        self.vars()
    }

    fn loss(&self, bag: &Tensor, label: &Tensor) -> candle_core::Result<Tensor> {
        bce_with_logits(&self.forward(bag)?, label)
    }

    fn view(&self, bag: &Tensor) -> candle_core::Result<(f32, Vec<f32>)> {
        let logit = self.forward(bag)?.to_vec1::<f32>()?[0];
        Ok((logit, self.instances(bag)?.flatten_all()?.to_vec1()?))
    }
}

struct Learner<'a> {
    plan: &'a MilPlan,
    instances: &'a Instances,
    device: &'a Device,
    model: &'a dyn Model,
}

impl Learner<'_> {
    fn run(&self, bags: &Bags, cx: &Context, number: u64) -> Result<Outcome> {
        let mut adam = Adam::new(self.plan.lr, self.plan.weight_decay);
        let mut order: Vec<usize> = (0..bags.train.len()).collect();
        let mut dice = Dice::new(cx.seed_for("mil/order"));
        let mut best: Option<(f64, BTreeMap<String, Tensor>)> = None;
        for epoch in 0..self.plan.epochs {
            cx.cancel.check()?;
            dice.shuffle(&mut order);
            for &bag in &order {
                let bag = &bags.train[bag];
                let label = Tensor::new(&[f32::from(u8::from(bag.positive))], self.device)
                    .model("label")?;
                let loss = self.model.loss(&self.tensor(bag)?, &label).model("loss")?;
                let gradients = loss.backward().model("backward")?;
                adam.step(self.model.vars(), &gradients).model("optimiser step")?;
            }
            let auc = self.auc(&bags.validation)?.unwrap_or(0.5);
            if best.as_ref().is_none_or(|(before, _)| auc > *before) {
                best = Some((auc, snapshot(self.model.vars()).model("weights")?));
            }
            let note = format!("validation AUC {auc:.3}");
            let total = u64::from(self.plan.epochs);
            cx.progress.update(number * total + u64::from(epoch) + 1, 3 * total, &note);
        }
        if let Some((_, weights)) = best {
            for (name, var) in self.model.vars() {
                var.set(&weights[name]).model("weights")?;
            }
        }
        self.measure(bags)
    }

    fn measure(&self, bags: &Bags) -> Result<Outcome> {
        let (validation, labels) = self.logits(&bags.validation)?;
        let threshold = best_threshold(&validation, &labels);
        let (test, labels) = self.logits(&bags.test)?;
        let right = test
            .iter()
            .zip(&labels)
            .filter(|(logit, label)| (**logit > threshold) == **label)
            .count();
        Ok(Outcome {
            auc: roc_auc(&test, &labels).unwrap_or(0.5),
            accuracy: right as f64 / test.len().max(1) as f64,
            instance_auc: self.instance_auc(&bags.test)?,
        })
    }

    /// Within positive bags: does what matters most to the model belong to the class?
    fn instance_auc(&self, bags: &[Bag]) -> Result<Option<f64>> {
        let mut areas = Vec::new();
        for bag in bags.iter().filter(|bag| bag.positive) {
            let (_, weights) = self.model.view(&self.tensor(bag)?).model("forward")?;
            let labels: Vec<bool> =
                bag.instances.iter().map(|&i| self.instances.is_positive[i]).collect();
            areas.extend(roc_auc(&weights, &labels));
        }
        Ok((!areas.is_empty()).then(|| areas.iter().sum::<f64>() / areas.len() as f64))
    }

    fn auc(&self, bags: &[Bag]) -> Result<Option<f64>> {
        let (logits, labels) = self.logits(bags)?;
        Ok(roc_auc(&logits, &labels))
    }

    fn logits(&self, bags: &[Bag]) -> Result<(Vec<f32>, Vec<bool>)> {
        let mut logits = Vec::with_capacity(bags.len());
        for bag in bags {
            logits.push(self.model.view(&self.tensor(bag)?).model("forward")?.0);
        }
        Ok((logits, bags.iter().map(|bag| bag.positive).collect()))
    }

    /// (N, K)
    fn tensor(&self, bag: &Bag) -> Result<Tensor> {
        let width = self.instances.width();
        let values: Vec<f32> = bag
            .instances
            .iter()
            .flat_map(|&i| self.instances.features[i].iter().copied())
            .collect();
        Tensor::from_vec(values, (bag.instances.len(), width), self.device).model("bag")
    }
}

/// The cut that is right most often; the smallest of equal ones.
fn best_threshold(logits: &[f32], labels: &[bool]) -> f32 {
    let right =
        |cut: f32| logits.iter().zip(labels).filter(|(x, label)| (**x > cut) == **label).count();
    let mut cuts: Vec<f32> = logits.to_vec();
    cuts.push(f32::NEG_INFINITY);
    cuts.sort_by(f32::total_cmp);
    let mut best = f32::NEG_INFINITY;
    for cut in cuts {
        if right(cut) > right(best) {
            best = cut;
        }
    }
    best
}

fn snapshot(vars: &BTreeMap<String, Var>) -> candle_core::Result<BTreeMap<String, Tensor>> {
    vars.iter().map(|(name, var)| Ok((name.clone(), var.as_tensor().copy()?))).collect()
}

/// Adam with betas 0.5 and 0.9 as the published training has it; weight decay is added to the
/// gradient, as torch's `Adam` does.
struct Adam {
    lr: f64,
    weight_decay: f64,
    step: i32,
    moments: BTreeMap<String, (Tensor, Tensor)>,
}

impl Adam {
    fn new(lr: f64, weight_decay: f64) -> Self {
        Self { lr, weight_decay, step: 0, moments: BTreeMap::new() }
    }

    fn step(
        &mut self,
        vars: &BTreeMap<String, Var>,
        gradients: &GradStore,
    ) -> candle_core::Result<()> {
        const BETAS: (f64, f64) = (0.5, 0.9);
        self.step += 1;
        let (c1, c2) = (1.0 - BETAS.0.powi(self.step), 1.0 - BETAS.1.powi(self.step));
        for (name, var) in vars {
            let Some(gradient) = gradients.get(var) else { continue };
            let gradient = (gradient + (var.as_tensor() * self.weight_decay)?)?;
            let (m, v) = match self.moments.remove(name) {
                Some(moments) => moments,
                None => (gradient.zeros_like()?, gradient.zeros_like()?),
            };
            let m = ((m * BETAS.0)? + (&gradient * (1.0 - BETAS.0))?)?.detach();
            let v = ((v * BETAS.1)? + (gradient.sqr()? * (1.0 - BETAS.1))?)?.detach();
            let update = ((&m / c1)? / ((&v / c2)?.sqrt()? + 1e-8)?)?;
            var.set(&(var.as_tensor() - (update * self.lr)?)?)?;
            self.moments.insert(name.clone(), (m, v));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Instances whose class shows in one of four features; the others are noise.
    fn toy() -> Instances {
        let mut dice = Dice::new(5);
        let is_positive: Vec<bool> = (0..800).map(|i| i % 8 == 0).collect();
        let features = is_positive
            .iter()
            .map(|p| {
                let mut f: Vec<f32> = (0..4).map(|_| (dice.unit() * 2.0 - 1.0) as f32).collect();
                f[0] += if *p { 2.5 } else { 0.0 };
                f
            })
            .collect();
        Instances { features, is_positive, broken: 0 }
    }

    #[test]
    fn attention_finds_the_witness_that_the_mean_drowns() {
        let plan: MilPlan = serde_json::from_str(
            r#"{"data": ["a"], "label": "c", "positive": "x", "bag_size": [15, 20], "witnesses": 1, "epochs": 10}"#,
        )
        .unwrap();
        let instances = toy();
        let bags = Bags::new(&plan, &instances, 1).unwrap();
        let outcomes: BTreeMap<_, _> =
            all(&plan, &instances, &bags, &Context::default()).unwrap().into_iter().collect();
        let (attention, mean) = (&outcomes["attention"], &outcomes["mean_pooling"]);
        assert!(attention.auc > 0.9, "{attention:?}");
        assert!(attention.auc > mean.auc, "{attention:?} {mean:?}");
        assert!(attention.instance_auc.unwrap() > 0.9, "{attention:?}");
    }

    #[test]
    fn the_threshold_is_the_cut_that_is_right_most_often() {
        assert_eq!(best_threshold(&[0.1, 0.4, 0.6], &[false, false, true]), 0.4);
    }
}
