//! Scores beside pairs: the table that every verdict is read from.
//!
//! | column | |
//! | --- | --- |
//! | `uid, key, url, caption, status, error_message, width, height, original_width, original_height, sha256` | as in [`Pairs`] |
//! | further columns of the pairs | where the source has them |
//! | each judge's scores | null where there is no picture |
//! | `refused.<n>` | why judge n, from 0, has no score for the pair |

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef};
use stage::{Error, Pairs, Result, ResultExt};

use super::{AnyJudge, Judge};

/// The columns of the score table.
///
/// # Errors
/// Two columns of one name.
pub(super) fn schema(plans: &[AnyJudge], pairs: &Fields) -> Result<SchemaRef> {
    let mut fields: Vec<Field> =
        pairs.iter().filter(|f| f.name() != "image").map(|f| f.as_ref().clone()).collect();
    for (n, plan) in plans.iter().enumerate() {
        fields.extend(plan.plan().scores());
        fields.push(Field::new(refused(n), DataType::Utf8, true));
    }
    let reason = std::iter::once("reason");
    let names: Vec<&str> = fields.iter().map(|f| f.name().as_str()).chain(reason).collect();
    for (i, name) in names.iter().enumerate() {
        if names[..i].contains(name) {
            let message = format!("two columns would be called `{name}`");
            let hint = "give one of them another name (clip_score has the field `column`)";
            return Err(Error::recipe(message).hint(hint));
        }
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// The column in which judge `n` says why it has no score.
pub(super) fn refused(n: usize) -> String {
    format!("refused.{n}")
}

/// The score table's rows for a batch of pairs.
///
/// # Errors
/// A judge's, a batch without one of the columns, a judge that answers something else than asked.
pub(super) fn score_batch(
    plans: &[AnyJudge],
    judges: &mut [Box<dyn Judge>],
    pairs: &Pairs,
    schema: &SchemaRef,
) -> Result<RecordBatch> {
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    let judged: usize = plans.iter().map(|plan| plan.plan().scores().len() + 1).sum();
    for field in schema.fields().iter().take(schema.fields().len() - judged) {
        let column = pairs.batch().column_by_name(field.name()).ok_or_else(|| {
            Error::input(format!("a later batch has no column `{}`", field.name()))
        })?;
        columns.push(Arc::clone(column));
    }
    for (plan, judge) in plans.iter().zip(judges) {
        let plan = plan.plan();
        let scored = judge.score(pairs).map_err(|e| e.at(plan.name()))?;
        if scored.scores.len() != plan.scores().len() || scored.refused.len() != pairs.len() {
            let message = "the judge gave another number of scores or rows than asked";
            return Err(Error::internal(message).at(plan.name()));
        }
        columns.extend(scored.scores);
        columns.push(Arc::new(StringArray::from(scored.refused)));
    }
    RecordBatch::try_new(Arc::clone(schema), columns).input("batches have different columns")
}
