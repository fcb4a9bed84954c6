//! `eval_results.jsonl` as DataComp's evaluator writes it, and CLIP_benchmark's JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use stage::{Error, Report, Result};

/// The metric that is a task's score.
pub const MAIN: &str = "main_metric";
/// Largest file of results that is read.
const MOST_BYTES: u64 = 64 << 20;

/// The result of one task on one model: one line of `eval_results.jsonl`.
///
/// DataComp's evaluator writes the first three fields and reads no others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskResult {
    /// The task's key.
    pub key: String,
    /// The task's name for people.
    pub dataset: String,
    /// Numbers by the field's names; null where a metric has no meaning.
    pub metrics: Map<String, Value>,
    /// 95 % bootstrap interval of a metric, low and high.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub intervals: BTreeMap<String, [f64; 2]>,
    /// Samples that were measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<u64>,
    /// Samples that were left out, by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub left_out: BTreeMap<String, u64>,
    /// What guessing gives for the main metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chance: Option<f64>,
    /// sha256 of the model's weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
}

impl TaskResult {
    /// A result of numbers alone.
    #[must_use]
    pub fn new(key: &str, dataset: &str, metrics: Map<String, Value>) -> Self {
        Self {
            key: key.to_owned(),
            dataset: dataset.to_owned(),
            metrics,
            intervals: BTreeMap::new(),
            samples: None,
            left_out: BTreeMap::new(),
            chance: None,
            checkpoint: None,
        }
    }

    /// The task's score, if it has one.
    #[must_use]
    pub fn main(&self) -> Option<f64> {
        self.metrics.get(MAIN)?.as_f64()
    }

    /// The interval of the score.
    #[must_use]
    pub fn main_interval(&self) -> Option<[f64; 2]> {
        self.intervals.get(MAIN).copied()
    }
}

/// One JSON object a line, in the order of the tasks.
#[must_use]
pub fn jsonl(results: &[TaskResult]) -> String {
    results.iter().map(|r| serde_json::to_string(r).unwrap_or_default() + "\n").collect()
}

/// Reads lines of `eval_results.jsonl`, ours or DataComp's. Of two lines of one key the later one
/// counts, as there.
///
/// # Errors
/// A line that is no result, by its number; lines of two different checkpoints.
pub fn read_jsonl(blob: &store::Blob) -> Result<Vec<TaskResult>> {
    if blob.len() > MOST_BYTES {
        return Err(Error::input("too large for a list of results").at(blob.name()));
    }
    let bytes = blob.read_all()?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|e| Error::input("not UTF-8").because(e).at(blob.name()))?;
    let mut results: Vec<TaskResult> = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        // Python writes NaN where a metric has no meaning, and JSON has no such word.
        let line = line.replace(": NaN", ": null");
        let result: TaskResult = serde_json::from_str(&line).map_err(|e| {
            Error::input(format!("line {} is no result", number + 1)).because(e).at(blob.name())
        })?;
        let first = results.iter().find_map(|r| r.checkpoint.as_ref());
        if let (Some(first), Some(this)) = (first, &result.checkpoint)
            && first != this
        {
            return Err(Error::conflict(format!(
                "line {} is of the checkpoint {this}, a line before it of {first}",
                number + 1
            ))
            .hint("give each checkpoint a folder of its own")
            .at(blob.name()));
        }
        results.retain(|r| r.key != result.key);
        results.push(result);
    }
    Ok(results)
}

/// CLIP_benchmark's JSON of one result. `model` is the architecture's name and `pretrained` that of
/// the weights: by these two `clip_benchmark build` tells models apart.
#[must_use]
pub fn clip_benchmark(result: &TaskResult, model: &str, pretrained: &str, task: &str) -> Value {
    json!({
        "dataset": data_set(&result.key, task),
        "model": model,
        "pretrained": pretrained,
        "task": task,
        "metrics": result.metrics,
        "language": "en",
    })
}

/// CLIP_benchmark's name of that file, for names without what a path is parted by.
#[must_use]
pub fn clip_benchmark_file(key: &str, model: &str, pretrained: &str, task: &str) -> String {
    let data_set = crate::job::slug(data_set(key, task));
    format!("{data_set}_{pretrained}_{model}_en_{task}.json")
}

/// The data set of a task: the task of a probe has the same as the zero-shot one.
fn data_set<'a>(key: &'a str, task: &str) -> &'a str {
    if task == "linear_probe" { key.strip_suffix("/linear_probe").unwrap_or(key) } else { key }
}

/// What one task measured, for the report: the metrics with their chances.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The line of `eval_results.jsonl`.
    pub result: TaskResult,
    /// `zeroshot_classification`, `zeroshot_retrieval` or `linear_probe`, CLIP_benchmark's words.
    pub task: &'static str,
    /// The same with chances, for people.
    pub report: Report,
    /// What became of each sample, for comparisons.
    pub outcome: crate::Outcome,
    /// What the outcome's numbers mean.
    pub shape: crate::Shape,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_key_dataset_and_metrics_in_this_order() {
        let metrics =
            Map::from_iter([("acc1".to_owned(), json!(0.5)), ("acc5".to_owned(), Value::Null)]);
        let result = TaskResult::new("cifar10", "CIFAR-10", metrics);
        assert_eq!(
            jsonl(&[result]),
            "{\"key\":\"cifar10\",\"dataset\":\"CIFAR-10\",\"metrics\":{\"acc1\":0.5,\"acc5\":null}}\n"
        );
    }

    fn read(text: &'static str) -> Result<Vec<TaskResult>> {
        read_jsonl(&store::Blob::from_bytes("r.jsonl", text.as_bytes().into()))
    }

    #[test]
    fn lines_of_datacomp_are_read_with_their_nan_and_the_later_of_one_key_counts() {
        let got = read(
            "{\"key\": \"a\", \"dataset\": \"A\", \"metrics\": {\"acc5\": NaN, \"main_metric\": 0.1}}\n\n\
             {\"key\": \"a\", \"dataset\": \"A\", \"metrics\": {\"main_metric\": 0.2}}\n",
        )
        .unwrap();
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].main(), Some(0.2));
        assert!(read("{\"key\": \"a\"}\n").unwrap_err().to_string().contains("line 1"));
    }

    #[test]
    fn lines_of_two_checkpoints_are_refused() {
        let error = read(
            "{\"key\":\"a\",\"dataset\":\"A\",\"metrics\":{},\"checkpoint\":\"aa\"}\n\
             {\"key\":\"b\",\"dataset\":\"B\",\"metrics\":{},\"checkpoint\":\"bb\"}\n",
        )
        .unwrap_err();
        assert_eq!(error.kind(), stage::Kind::Conflict);
    }
}
