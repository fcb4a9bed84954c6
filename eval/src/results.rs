//! `eval_results.jsonl` as DataComp's evaluator writes it, and CLIP_benchmark's JSON.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use stage::Report;

/// The result of one task on one model: one line of `eval_results.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskResult {
    /// The task's key.
    pub key: String,
    /// The task's name for people.
    pub dataset: String,
    /// Numbers by the field's names; null where a metric has no meaning.
    pub metrics: Map<String, Value>,
}

/// One JSON object a line, in the order of the tasks.
#[must_use]
pub fn jsonl(results: &[TaskResult]) -> String {
    results.iter().map(|r| serde_json::to_string(r).unwrap_or_default() + "\n").collect()
}

/// CLIP_benchmark's JSON of one result.
#[must_use]
pub fn clip_benchmark(result: &TaskResult, model: &str, task: &str) -> Value {
    json!({
        "dataset": result.key,
        "model": model,
        "pretrained": "clipmill",
        "task": task,
        "metrics": result.metrics,
        "language": "en",
    })
}

/// What one task measured, for the report: the metrics with their chances.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The line of `eval_results.jsonl`.
    pub result: TaskResult,
    /// `zeroshot_classification` or `zeroshot_retrieval`, CLIP_benchmark's words.
    pub task: &'static str,
    /// The same with chances, for people.
    pub report: Report,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_key_dataset_and_metrics_in_this_order() {
        let metrics =
            Map::from_iter([("acc1".to_owned(), json!(0.5)), ("acc5".to_owned(), Value::Null)]);
        let result = TaskResult { key: "cifar10".into(), dataset: "CIFAR-10".into(), metrics };
        assert_eq!(
            jsonl(&[result]),
            "{\"key\":\"cifar10\",\"dataset\":\"CIFAR-10\",\"metrics\":{\"acc1\":0.5,\"acc5\":null}}\n"
        );
    }
}
