//! `Report`: named numbers with their units, as evaluation and tasks give them.

use serde::{Deserialize, Serialize};

/// The outcome of an evaluation or a task.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What was measured, for a heading: `retrieval on held-out concepts`.
    pub title: String,
    /// The numbers, in the order in which a person wants to read them.
    pub metrics: Vec<Metric>,
    /// One sentence each: what a reader must know to read the numbers rightly.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// One number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// The field's standard name: `image_retrieval_recall@10`, `acc1`, `auc`.
    pub name: String,
    /// The value.
    pub value: f64,
    /// `share` (0..1), `ms`, `count`, `parameters`, `samples/s`, ...
    pub unit: String,
    /// What guessing would give, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chance: Option<f64>,
}

impl Report {
    /// Adds a number.
    pub fn push(&mut self, name: &str, value: f64, unit: &str, chance: Option<f64>) {
        self.metrics.push(Metric { name: name.to_owned(), value, unit: unit.to_owned(), chance });
    }

    /// The value of this name, if it was measured.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<f64> {
        self.metrics.iter().find(|metric| metric.name == name).map(|metric| metric.value)
    }
}
