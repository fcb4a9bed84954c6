//! What became of every sample of a task: what its metrics are made of, kept so that two checkpoints
//! can be compared sample by sample.

use serde::{Deserialize, Serialize};

use crate::associations::Associated;
use crate::attributes::Answered;
use crate::average_precision::Labelled;
use crate::classification::Classified;
use crate::measure::Measure;
use crate::retrieval::Retrieved;
use crate::suite::{Rules, TaskKind};

/// What the numbers of an outcome mean. It stands beside them as JSON.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Shape {
    /// The kind of task.
    pub kind: TaskKind,
    /// Names of the classes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
    /// The metric that is the task's score.
    pub metric: Option<String>,
    /// What guessing gives for it, where the suite says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chance: Option<f64>,
    /// The k of recall@k.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recall_k: Vec<usize>,
    /// What is measured beyond the kind's metrics.
    pub rules: Rules,
    /// What stands before the names of the metrics: `lp_` for a linear probe.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub prefix: String,
}

/// What became of every sample.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// Names of the units: the samples' keys, an instance's number.
    pub keys: Vec<String>,
    /// The numbers of each sample's `npy` member, where the task has them.
    pub metadata: Vec<Vec<i64>>,
    /// The answers.
    pub answers: Answers,
}

/// The answers of a task by its kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Answers {
    /// One class a picture.
    Classified(Classified),
    /// Scores of all classes.
    Labelled(Labelled),
    /// Places among the candidates.
    Retrieved(Retrieved),
    /// A score an instance.
    Associated(Associated),
    /// Several classes a picture.
    Answered(Answered),
}

impl Default for Answers {
    fn default() -> Self {
        Self::Classified(Classified::default())
    }
}

impl Outcome {
    /// The metrics, in the order of the peers.
    #[must_use]
    pub fn measures<'a>(&'a self, shape: &'a Shape) -> Vec<Measure<'a>> {
        let mut measures = match &self.answers {
            Answers::Classified(found) => found.measures(shape, &self.metadata),
            Answers::Labelled(found) => found.measures(),
            Answers::Retrieved(found) => found.measures(&shape.recall_k),
            Answers::Associated(found) => found.measures(),
            Answers::Answered(found) => found.measures(&shape.rules, &self.metadata),
        };
        for measure in &mut measures {
            measure.name.insert_str(0, &shape.prefix);
            if shape.metric.as_ref() == Some(&measure.name) && shape.chance.is_some() {
                measure.chance = shape.chance;
            }
        }
        measures
    }

    /// Units that a bootstrap draws.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}
