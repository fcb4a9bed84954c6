//! Multiple-instance learning on frozen tower features.
//!
//! Self-ViT-MIL (Gul et al., arXiv 2210.09021; code gokberkgul/self-learning-transformer-mil,
//! aggregator from binli123/dsmil-wsi): a slide is a bag of tiles, only the bag has a label, and
//! an aggregator with global attention learns which instances matter. Here a bag is a set of
//! pictures out of shards, positive when it holds at least one of a given class.
//!
//! Where we differ: features are the CLIP image tower's embedding, not the concatenation of DINO
//! class tokens; threshold and epoch are chosen on a validation split, never on the test split,
//! as the published script does.
//!
//! Reading order: [`MilPlan`], [`Aggregator`], `bags` (which pictures make a bag), `learn`
//! (training and choosing the epoch).

mod aggregator;
mod bags;
mod learn;
mod pooling;

use models::Encoder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage::{Context, Error, Report, Result};

pub use aggregator::{Aggregated, Aggregator};
pub use pooling::{Pool, Pooling};

use crate::{Open, Task};
use bags::{Bags, Instances};

/// Bags of pictures out of labelled shards, and how to learn from them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MilPlan {
    /// Tar files: paths, folders, globs, brace ranges. Required.
    pub data: Vec<String>,
    /// Field of a sample's json that holds its class. Required.
    pub label: String,
    /// The class that makes a bag positive. Required.
    pub positive: String,
    /// Bags to train on, 10..=100000. Default 200.
    #[serde(default = "train_bags")]
    pub train_bags: u32,
    /// Bags to choose epoch and threshold on, and as many again to test on, 10..=100000. Default
    /// 100.
    #[serde(default = "test_bags")]
    pub test_bags: u32,
    /// Fewest and most instances in a bag, each 2..=10000. Default [10, 20].
    #[serde(default = "bag_size")]
    pub bag_size: [u32; 2],
    /// Most instances of the class in a positive bag, at least 1. Default 2.
    #[serde(default = "witnesses")]
    pub witnesses: u32,
    /// Passes over the training bags, 1..=10000. Default 30.
    #[serde(default = "epochs")]
    pub epochs: u32,
    /// Adam's learning rate, above 0. Default 0.002.
    #[serde(default = "lr")]
    pub lr: f64,
    /// Adam's weight decay (added to the gradient), 0 or more. Default 0.0001.
    #[serde(default = "weight_decay")]
    pub weight_decay: f64,
}

fn train_bags() -> u32 {
    200
}

fn test_bags() -> u32 {
    100
}

fn bag_size() -> [u32; 2] {
    [10, 20]
}

fn witnesses() -> u32 {
    2
}

fn epochs() -> u32 {
    30
}

fn lr() -> f64 {
    2e-3
}

fn weight_decay() -> f64 {
    1e-4
}

impl Task for MilPlan {
    fn validate(&self) -> Result<()> {
        let range = |name: &str, value: u32, low: u32, high: u32| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(Error::recipe(format!("{name} must lie in {low}..={high}, got {value}")))
        };
        range("train_bags", self.train_bags, 10, 100_000)?;
        range("test_bags", self.test_bags, 10, 100_000)?;
        range("bag_size", self.bag_size[0], 2, 10_000)?;
        range("bag_size", self.bag_size[1], self.bag_size[0], 10_000)?;
        range("witnesses", self.witnesses, 1, self.bag_size[0])?;
        range("epochs", self.epochs, 1, 10_000)?;
        if self.data.is_empty() {
            return Err(Error::recipe("data is empty"));
        }
        if !(self.lr.is_finite() && self.lr > 0.0) {
            return Err(Error::recipe(format!("lr must be above 0, got {}", self.lr)));
        }
        if !(self.weight_decay.is_finite() && self.weight_decay >= 0.0) {
            return Err(Error::recipe(format!(
                "weight_decay must be 0 or more, got {}",
                self.weight_decay
            )));
        }
        Ok(())
    }

    fn data(&self) -> Vec<String> {
        self.data.clone()
    }

    fn run(&self, model: &Encoder, open: &Open<'_>, cx: &Context) -> Result<Report> {
        let data = open(&self.data, &[&self.label])?;
        let instances = Instances::read(&*data, &self.label, &self.positive, model, cx)?;
        let bags = Bags::new(self, &instances, cx.seed_for("mil/bags"))?;
        let mut report = Report {
            title: format!("multiple-instance learning: bags with `{}`", self.positive),
            ..Report::default()
        };
        for (name, outcome) in learn::all(self, &instances, &bags, cx)? {
            report.push(&format!("{name}_bag_auc"), outcome.auc, "share", Some(0.5));
            report.push(&format!("{name}_bag_accuracy"), outcome.accuracy, "share", Some(0.5));
            if let Some(auc) = outcome.instance_auc {
                report.push(&format!("{name}_instance_auc"), auc, "share", Some(0.5));
            }
        }
        report.notes.push(format!(
            "{} instances, {} of the class; {} training, {} validation and {} test bags of {} to {} instances, \
             no instance on two sides; epoch and threshold chosen on the validation bags",
            instances.len(),
            instances.positives(),
            self.train_bags,
            self.test_bags,
            self.test_bags,
            self.bag_size[0],
            self.bag_size[1],
        ));
        if instances.broken > 0 {
            report.notes.push(format!(
                "{} pictures could not be decoded and are left out",
                instances.broken
            ));
        }
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bag_must_have_room_for_its_witnesses() {
        let text =
            r#"{"data": ["a"], "label": "c", "positive": "x", "bag_size": [2, 3], "witnesses": 3}"#;
        let plan: MilPlan = serde_json::from_str(text).unwrap();
        assert_eq!(plan.validate().unwrap_err().to_string(), "witnesses must lie in 1..=2, got 3");
    }
}
