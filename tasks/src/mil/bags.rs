//! Which pictures make a bag.

use arrow_array::Array;
use arrow_array::cast::AsArray;
use models::Encoder;
use stage::{Context, Dice, Error, PairSource, Result};

use super::MilPlan;

/// Samples read at once.
const READ: usize = 256;

/// All pictures with their features and whether they are of the class.
pub(super) struct Instances {
    pub(super) features: Vec<Vec<f32>>,
    pub(super) is_positive: Vec<bool>,
    pub(super) broken: usize,
}

impl Instances {
    pub(super) fn read(
        data: &dyn PairSource,
        label: &str,
        positive: &str,
        model: &Encoder,
        cx: &Context,
    ) -> Result<Self> {
        let mut all = Self { features: Vec::new(), is_positive: Vec::new(), broken: 0 };
        let indices: Vec<usize> = (0..data.len()).collect();
        for chunk in indices.chunks(READ) {
            cx.cancel.check()?;
            let pairs = data.read(chunk)?;
            let labels = pairs.batch().column_by_name(label).and_then(|c| c.as_string_opt::<i32>());
            let labels = labels
                .ok_or_else(|| Error::input(format!("no sample has `{label}` in its json")))?;
            let rows: Vec<usize> = (0..pairs.len()).collect();
            let found = model.images(&pairs, &rows)?;
            Encoder::check_finite(found.iter().flatten().map(Vec::as_slice), "pictures")?;
            for (row, features) in found.into_iter().enumerate() {
                let Ok(features) = features else {
                    all.broken += 1;
                    continue;
                };
                all.features.push(features);
                all.is_positive.push(labels.is_valid(row) && labels.value(row) == positive);
            }
            cx.progress.update((chunk[0] + chunk.len()) as u64, data.len() as u64, "features");
        }
        all.standardize();
        Ok(all)
    }

    pub(super) fn len(&self) -> usize {
        self.features.len()
    }

    pub(super) fn positives(&self) -> usize {
        self.is_positive.iter().filter(|p| **p).count()
    }

    pub(super) fn width(&self) -> usize {
        self.features.first().map_or(0, Vec::len)
    }

    /// Each feature to mean 0 and deviation 1 over all instances (labels are not looked at), so
    /// that one learning rate fits every tower.
    fn standardize(&mut self) {
        let count = self.features.len().max(1) as f64;
        for k in 0..self.width() {
            let mean = self.features.iter().map(|f| f64::from(f[k])).sum::<f64>() / count;
            let variance =
                self.features.iter().map(|f| (f64::from(f[k]) - mean).powi(2)).sum::<f64>() / count;
            let deviation = variance.sqrt().max(1e-12);
            for feature in &mut self.features {
                feature[k] = ((f64::from(feature[k]) - mean) / deviation) as f32;
            }
        }
    }
}

/// One bag: instances, and whether one of them is of the class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bag {
    pub(super) instances: Vec<usize>,
    pub(super) positive: bool,
}

/// Three sides that share no instance.
pub(super) struct Bags {
    pub(super) train: Vec<Bag>,
    pub(super) validation: Vec<Bag>,
    pub(super) test: Vec<Bag>,
}

impl Bags {
    /// Half of the instances make training bags, a quarter each the others; every second bag is
    /// positive.
    pub(super) fn new(plan: &MilPlan, instances: &Instances, seed: u64) -> Result<Self> {
        let mut dice = Dice::new(seed);
        let (mut of_class, mut others): (Vec<usize>, Vec<usize>) =
            (0..instances.len()).partition(|&i| instances.is_positive[i]);
        dice.shuffle(&mut of_class);
        dice.shuffle(&mut others);
        let most = plan.bag_size[1] as usize;
        if of_class.len() < 4 * plan.witnesses as usize || others.len() < 4 * most {
            return Err(Error::input(format!(
                "{} pictures of `{}` and {} others are too few for bags of up to {most} on three sides",
                of_class.len(),
                plan.positive,
                others.len(),
            ))
            .hint("name more shards, or make `bag_size` smaller"));
        }
        let cut = |all: &[usize]| {
            let (half, rest) = all.split_at(all.len() / 2);
            let (third, fourth) = rest.split_at(rest.len() / 2);
            [half.to_vec(), third.to_vec(), fourth.to_vec()]
        };
        let (a, b) = (cut(&of_class), cut(&others));
        let counts = [plan.train_bags, plan.test_bags, plan.test_bags];
        let mut sides = (0..3).map(|side| {
            (0..counts[side])
                .map(|n| bag(plan, &a[side], &b[side], n % 2 == 1, &mut dice))
                .collect::<Vec<_>>()
        });
        let mut next = || sides.next().unwrap_or_default();
        Ok(Self { train: next(), validation: next(), test: next() })
    }
}

fn bag(
    plan: &MilPlan,
    of_class: &[usize],
    others: &[usize],
    positive: bool,
    dice: &mut Dice,
) -> Bag {
    let [low, high] = plan.bag_size.map(|n| n as usize);
    let size = low + dice.below(high - low + 1);
    let witnesses = if positive { 1 + dice.below(plan.witnesses as usize) } else { 0 };
    let mut instances = dice.choose(of_class, witnesses);
    instances.extend(dice.choose(others, size - witnesses));
    dice.shuffle(&mut instances);
    Bag { instances, positive }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn instances() -> Instances {
        let is_positive: Vec<bool> = (0..400).map(|i| i % 10 == 0).collect();
        Instances { features: vec![vec![0.0]; 400], is_positive, broken: 0 }
    }

    fn plan() -> MilPlan {
        serde_json::from_str(r#"{"data": ["a"], "label": "c", "positive": "x"}"#).unwrap()
    }

    #[test]
    fn sides_share_no_instance_and_labels_are_true() {
        let (instances, plan) = (instances(), plan());
        let bags = Bags::new(&plan, &instances, 3).unwrap();
        let seen =
            |bags: &[Bag]| bags.iter().flat_map(|b| b.instances.clone()).collect::<BTreeSet<_>>();
        let sides = [seen(&bags.train), seen(&bags.validation), seen(&bags.test)];
        assert!(
            sides[0].is_disjoint(&sides[1])
                && sides[0].is_disjoint(&sides[2])
                && sides[1].is_disjoint(&sides[2])
        );
        for bag in bags.train.iter().chain(&bags.validation).chain(&bags.test) {
            let holds = bag.instances.iter().filter(|&&i| instances.is_positive[i]).count();
            assert_eq!(holds > 0, bag.positive);
            assert!(holds <= 2 && (10..=20).contains(&bag.instances.len()));
        }
    }

    #[test]
    fn too_few_pictures_are_said_with_both_numbers() {
        let mut few = instances();
        few.is_positive = vec![false; 400];
        let message = Bags::new(&plan(), &few, 3).err().unwrap().to_string();
        assert!(message.starts_with("0 pictures of `x` and 400 others"), "{message}");
    }
}
