//! From scores to verdicts: the first judge that has something against a pair gives its reason.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use stage::{Counts, Error, Result, ResultExt, Status};

use super::AnyJudge;
use super::score::refused;
use crate::reasons::count_failure;

/// Reads verdicts out of a score table.
pub(super) struct Verdicts<'a> {
    plans: &'a [AnyJudge],
    /// Columns of the output: the score table's without `refused.<n>`, then `reason`.
    schema: SchemaRef,
    /// Where each judge's columns begin in the score table.
    starts: Vec<usize>,
    /// What became of the pairs so far.
    pub(super) counts: Counts,
}

impl<'a> Verdicts<'a> {
    /// # Errors
    /// A score table that other judges made.
    pub(super) fn new(plans: &'a [AnyJudge], scores: &SchemaRef) -> Result<Self> {
        let mut starts = Vec::with_capacity(plans.len());
        let judged: usize = plans.iter().map(|plan| plan.plan().scores().len() + 1).sum();
        let mut at = scores.fields().len().checked_sub(judged).ok_or_else(other_judges)?;
        for (n, plan) in plans.iter().enumerate() {
            starts.push(at);
            let mut expected = plan.plan().scores();
            expected.push(Field::new(refused(n), DataType::Utf8, true));
            for field in expected {
                let found = scores.field(at);
                if found.name() != field.name() || found.data_type() != field.data_type() {
                    return Err(other_judges());
                }
                at += 1;
            }
        }
        let is_refused = |name: &String| (0..plans.len()).any(|n| *name == refused(n));
        let mut fields: Vec<_> =
            scores.fields().iter().filter(|f| !is_refused(f.name())).cloned().collect();
        fields.push(Arc::new(Field::new("reason", DataType::Utf8, true)));
        Ok(Self { plans, schema: Arc::new(Schema::new(fields)), starts, counts: Counts::default() })
    }

    /// Columns of the output.
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The output's rows for these rows of the score table.
    ///
    /// # Errors
    /// A batch of other columns.
    pub(super) fn batch(&mut self, scored: &RecordBatch) -> Result<RecordBatch> {
        let mut reasons: Vec<Option<String>> = vec![None; scored.num_rows()];
        for (plan, &start) in self.plans.iter().zip(&self.starts) {
            let end = start + plan.plan().scores().len();
            let thresholds = plan.plan().reasons(&scored.columns()[start..end]);
            let refused = scored.column(end).as_string::<i32>();
            for (i, reason) in reasons.iter_mut().enumerate().filter(|(_, r)| r.is_none()) {
                *reason = if refused.is_valid(i) {
                    Some(refused.value(i).to_owned())
                } else {
                    thresholds.get(i).copied().flatten().map(str::to_owned)
                };
            }
        }
        let why = self.tell(scored, reasons)?;
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        for field in self.schema.fields().iter().take(self.schema.fields().len() - 1) {
            columns.push(Arc::clone(column(scored, field.name())?));
        }
        columns.push(Arc::new(why));
        RecordBatch::try_new(Arc::clone(&self.schema), columns).input("another table of scores")
    }

    /// Counts the batch and says for every row why it does not go on.
    fn tell(&mut self, scored: &RecordBatch, reasons: Vec<Option<String>>) -> Result<StringArray> {
        let statuses = column(scored, "status")?.as_string::<i32>();
        let errors = column(scored, "error_message")?.as_string::<i32>();
        let counts = &mut self.counts;
        let why = reasons.into_iter().enumerate().map(|(i, reason)| {
            let status = statuses.value(i);
            if status != Status::Success.as_str() {
                let why = if errors.is_valid(i) { errors.value(i) } else { status };
                count_failure(counts, why);
                return Some(why.to_owned());
            }
            match &reason {
                Some(reason) => counts.drop(reason),
                None => counts.keep(),
            }
            reason
        });
        Ok(why.collect())
    }
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    batch
        .column_by_name(name)
        .ok_or_else(|| Error::input(format!("the table of scores has no column `{name}`")))
}

fn other_judges() -> Error {
    Error::internal("these scores were made by other judges")
}
