//! Reads what stages wrote, for the report.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use serde_json::Value;
use stage::Result;

use crate::stages::{Done, pool};

/// Rows of scores that the report looks at; a pool of billions is sampled from its first files.
const MAX_ROWS: usize = 200_000;

/// One judged pair.
#[derive(Debug, Clone)]
pub(crate) struct Judged {
    pub(crate) uid: String,
    pub(crate) key: String,
    pub(crate) url: String,
    pub(crate) caption: String,
    pub(crate) success: bool,
    /// Hex, of the bytes as downloaded.
    pub(crate) sha256: Option<String>,
    /// What a language judge said.
    pub(crate) language: Option<String>,
    /// None where the pair was kept.
    pub(crate) reason: Option<String>,
    /// Scores, in the order of [`Scores::names`].
    pub(crate) scores: Vec<Option<f32>>,
}

/// What a judge stage wrote.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scores {
    /// Names of the score columns.
    pub(crate) names: Vec<String>,
    pub(crate) rows: Vec<Judged>,
    /// False when there were more rows than are looked at.
    pub(crate) complete: bool,
}

/// Columns of pairs that are no scores.
const PAIR_COLUMNS: [&str; 9] =
    ["uid", "key", "url", "caption", "status", "error_message", "sha256", "reason", "image"];
const SIZES: [&str; 4] = ["width", "height", "original_width", "original_height"];

/// The judged pairs of a stage, in order.
pub(crate) fn scores(done: &Done) -> Result<Scores> {
    let mut scores = Scores { complete: true, ..Scores::default() };
    for file in pool::parquets(done)? {
        for batch in store::parquet::read_parquet(&store::Blob::open(&file)?)? {
            let batch = batch?;
            if scores.names.is_empty() {
                scores.names = score_names(&batch);
            }
            for row in 0..batch.num_rows() {
                if scores.rows.len() == MAX_ROWS {
                    scores.complete = false;
                    return Ok(scores);
                }
                scores.rows.push(judged(&batch, row, &scores.names));
            }
        }
    }
    Ok(scores)
}

fn score_names(batch: &RecordBatch) -> Vec<String> {
    let schema = batch.schema();
    let is_score = |name: &str, kind: &DataType| {
        kind.is_numeric() && !PAIR_COLUMNS.contains(&name) && !SIZES.contains(&name)
    };
    let fields = schema.fields().iter().filter(|f| is_score(f.name(), f.data_type()));
    fields.map(|f| f.name().clone()).collect()
}

fn judged(batch: &RecordBatch, row: usize, names: &[String]) -> Judged {
    let text = |name: &str| {
        let column = batch.column_by_name(name).and_then(|c| c.as_string_opt::<i32>());
        column.filter(|c| c.is_valid(row)).map(|c| c.value(row).to_owned())
    };
    let schema = batch.schema();
    let mut texts = schema.fields().iter().filter(|field| *field.data_type() == DataType::Utf8);
    let language = texts.find(|field| field.name().contains("language"));
    let language = language.map(|field| field.name().as_str());
    Judged {
        uid: text("uid").unwrap_or_default(),
        key: text("key").unwrap_or_default(),
        url: text("url").unwrap_or_default(),
        caption: text("caption").or_else(|| text("text")).unwrap_or_default(),
        success: text("status").is_none_or(|status| status == "success"),
        sha256: text("sha256"),
        language: language.and_then(text),
        reason: text("reason"),
        scores: names.iter().map(|name| number(batch, name, row)).collect(),
    }
}

fn number(batch: &RecordBatch, name: &str, row: usize) -> Option<f32> {
    let column = batch.column_by_name(name).filter(|c| c.is_valid(row))?;
    let value = arrow_cast::cast(&column.slice(row, 1), &DataType::Float32).ok()?;
    value.is_valid(0).then(|| value.as_primitive::<Float32Type>().value(0))
}

/// The loss of each step of a training: `metrics.jsonl`.
pub(crate) fn losses(done: &Done) -> Result<Vec<(f64, f64)>> {
    let Some(blob) = done.blobs("metrics.jsonl")?.into_iter().next() else { return Ok(Vec::new()) };
    let bytes = blob.read_all()?;
    let lines = String::from_utf8_lossy(&bytes).into_owned();
    let point = |line: &str| {
        let value: Value = serde_json::from_str(line).ok()?;
        Some((value.get("step")?.as_f64()?, value.get("loss")?.as_f64()?))
    };
    Ok(lines.lines().filter_map(point).collect())
}

/// A running mean, so that curves of different data can be told apart.
pub(crate) fn smooth(points: &[(f64, f64)], width: usize) -> Vec<(f64, f64)> {
    let half = width / 2;
    (0..points.len())
        .map(|i| {
            let near = &points[i.saturating_sub(half)..(i + half + 1).min(points.len())];
            (points[i].0, near.iter().map(|p| p.1).sum::<f64>() / near.len() as f64)
        })
        .collect()
}

/// The model that a unit measured: an evaluation has a unit for each of its tasks.
pub(crate) fn model(commit: &store::Commit) -> &str {
    commit.info.get("model").and_then(Value::as_str).unwrap_or(&commit.unit)
}

/// The reports of an evaluation or a task, by the id of the model.
pub(crate) fn reports(done: &Done) -> BTreeMap<String, Vec<stage::Report>> {
    let mut reports: BTreeMap<String, Vec<stage::Report>> = BTreeMap::new();
    for commit in &done.commits {
        let list = commit
            .info
            .get("reports")
            .cloned()
            .or_else(|| commit.info.get("report").map(|one| Value::Array(vec![one.clone()])));
        if let Some(list) = list.and_then(|l| serde_json::from_value::<Vec<_>>(l).ok()) {
            reports.entry(model(commit).to_owned()).or_default().extend(list);
        }
    }
    reports
}

/// Seconds that a stage's units took together; those side by side on one machine count once.
pub(crate) fn seconds(done: &Done) -> f64 {
    crate::wall::seconds(done.commits.iter())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_keeps_the_number_of_points_and_the_mean_of_a_constant() {
        let points: Vec<(f64, f64)> = (0..10).map(|i| (f64::from(i), 2.0)).collect();
        assert_eq!(smooth(&points, 5), points);
    }
}
