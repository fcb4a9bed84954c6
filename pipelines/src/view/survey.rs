//! What all rows together say: reasons, and how the scores lie.

use std::collections::BTreeMap;

use arrow_array::Array;
use serde_json::{Value, json};
use stage::Result;
use store::Blob;
use store::parquet::read_parquet;

use super::rows::Rows;
use super::source::Table;

/// Bars of a score's histogram.
const BINS: usize = 48;
/// Different reasons that are told apart; the rest is one.
const REASONS: usize = 200;

/// Counts over all rows.
#[derive(Default)]
pub(super) struct Survey {
    pub(super) rows: u64,
    pub(super) kept: u64,
    pub(super) reasons: BTreeMap<String, u64>,
    pub(super) scores: Vec<Score>,
}

/// A score's range and bars.
pub(super) struct Score {
    name: String,
    low: f64,
    high: f64,
    bins: Vec<u64>,
}

impl Score {
    pub(super) fn to_json(&self) -> Value {
        json!({"name": self.name, "low": self.low, "high": self.high, "bins": self.bins})
    }
}

impl Survey {
    /// Reads all rows twice: once for counts and ranges, once for the bars between them.
    pub(super) fn of(tables: &[Table]) -> Result<Self> {
        let mut survey = Self::default();
        // In the order of the columns, which is that of the judges.
        let mut ranges: Vec<(String, (f64, f64))> = Vec::new();
        each(tables, |rows| {
            survey.rows += rows.len as u64;
            for row in 0..rows.len {
                match rows.why(row) {
                    None => survey.kept += 1,
                    Some(why) => {
                        let known = survey.reasons.contains_key(why);
                        let why =
                            if known || survey.reasons.len() < REASONS { why } else { "others" };
                        *survey.reasons.entry(why.to_owned()).or_default() += 1;
                    }
                }
            }
            for (name, column) in &rows.scores {
                let at = ranges.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
                    ranges.push((name.clone(), (f64::INFINITY, f64::NEG_INFINITY)));
                    ranges.len() - 1
                });
                let Some((_, range)) = ranges.get_mut(at) else { continue };
                for value in column.iter().flatten().filter(|value| value.is_finite()) {
                    *range = (range.0.min(value), range.1.max(value));
                }
            }
        })?;
        let finite = ranges.into_iter().filter(|(_, (low, _))| low.is_finite());
        survey.scores = finite
            .map(|(name, (low, high))| Score { name, low, high, bins: vec![0; BINS] })
            .collect();
        each(tables, |rows| {
            for score in &mut survey.scores {
                let Some((_, column)) = rows.scores.iter().find(|(name, _)| *name == score.name)
                else {
                    continue;
                };
                let width = (score.high - score.low).max(f64::MIN_POSITIVE);
                for row in (0..column.len()).filter(|&row| column.is_valid(row)) {
                    let value = column.value(row);
                    if value.is_finite() {
                        let bin = ((value - score.low) / width * BINS as f64) as usize;
                        if let Some(count) = score.bins.get_mut(bin.min(BINS - 1)) {
                            *count += 1;
                        }
                    }
                }
            }
        })?;
        Ok(survey)
    }
}

/// Shows all rows, a batch at a time.
pub(super) fn each(tables: &[Table], mut show: impl FnMut(&Rows<'_>)) -> Result<()> {
    for table in tables {
        for batch in read_parquet(&Blob::open(&table.path)?)? {
            show(&Rows::of(&batch?, &table.shard)?);
        }
    }
    Ok(())
}
