//! Judging one unit: every pair in, one parquet row a pair out, in the same order.

use std::io::Write;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use stage::{Counts, Error, Pairs, Result, ResultExt};
use store::parquet::{Layout, Writer};

use super::{Judge, is_success};
use crate::reasons::count_failure;

/// Takes each batch with the scores beside it, and the verdict on every row: `None` is kept. Rows
/// whose status is not success are there too.
pub type KeepPairs<'a> = dyn FnMut(&Pairs, &[Option<&'static str>]) -> Result<()> + 'a;

/// Judges all pairs of one unit and writes one parquet row a pair, in order.
///
/// | column | |
/// | --- | --- |
/// | `uid, key, url, caption, status, error_message, width, height, original_width, original_height, sha256` | as in [`Pairs`] |
/// | further columns of the pairs | where the source has them |
/// | each judge's scores | written whatever the verdict; null where there is no picture |
/// | `reason` | null where the pair is kept; else the first judge's reason, or for a pair without a picture its `error_message` |
///
/// All judges see all pairs, so that every score is there for `select` and the report. Pairs
/// without a picture count as failed, pairs with a judge's reason as dropped: `in = kept + dropped
/// + failed`. The bytes do not depend on how the pairs are cut into batches.
///
/// # Errors
/// The source's, a judge's, the output's, or two score columns of one name.
pub fn run_unit<W: Write + Send>(
    judges: &mut [Box<dyn Judge>],
    batches: impl IntoIterator<Item = Result<Pairs>>,
    parquet_out: W,
    mut keep_pairs: Option<&mut KeepPairs<'_>>,
) -> Result<Counts> {
    let mut batches = batches.into_iter();
    // The first batch says which further columns there are; a unit without pairs is a file with
    // columns and no rows.
    let first = batches.next().transpose()?;
    let columns = first.as_ref().map_or_else(Pairs::schema, |pairs| pairs.batch().schema());
    let schema = schema(judges, columns.fields())?;
    let mut table = Writer::new(parquet_out, &schema, &Layout::default())?;
    let mut counts = Counts::default();
    for pairs in first.map(Ok).into_iter().chain(batches) {
        let (judged, reasons) = judge_batch(judges, pairs?)?;
        let why = tell(&judged, &reasons, &mut counts);
        table.write(&row_batch(&judged, &why, &schema)?)?;
        if let Some(keep) = keep_pairs.as_deref_mut() {
            keep(&judged, &reasons)?;
        }
    }
    table.finish()?;
    counts.check()?;
    Ok(counts)
}

/// Columns of the output: the pairs' own without the picture, the scores, the reason.
fn schema(judges: &[Box<dyn Judge>], pairs: &arrow_schema::Fields) -> Result<SchemaRef> {
    let mut fields: Vec<Field> =
        pairs.iter().filter(|f| f.name() != "image").map(|f| f.as_ref().clone()).collect();
    for judge in judges {
        fields.extend(judge.scores());
    }
    fields.push(Field::new("reason", DataType::Utf8, true));
    for (i, field) in fields.iter().enumerate() {
        if fields[..i].iter().any(|other| other.name() == field.name()) {
            let message = format!("two columns would be called `{}`", field.name());
            let hint = "give one of them another name (clip_score has the field `column`)";
            return Err(Error::recipe(message).hint(hint));
        }
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// The pairs with their scores beside them, and the first reason of each.
fn judge_batch(
    judges: &mut [Box<dyn Judge>],
    pairs: Pairs,
) -> Result<(Pairs, Vec<Option<&'static str>>)> {
    let mut reasons: Vec<Option<&'static str>> = vec![None; pairs.len()];
    let mut columns: Vec<(Field, ArrayRef)> = Vec::new();
    for judge in judges {
        let verdicts = judge.judge(&pairs).map_err(|e| e.at(judge.name()))?;
        if verdicts.reasons.len() != pairs.len() || verdicts.scores.len() != judge.scores().len() {
            let message = "the judge gave another number of verdicts or scores than asked";
            return Err(Error::internal(message).at(judge.name()));
        }
        for (i, reason) in verdicts.reasons.into_iter().enumerate() {
            if is_success(&pairs, i) {
                reasons[i] = reasons[i].or(reason);
            }
        }
        columns.extend(judge.scores().into_iter().zip(verdicts.scores));
    }
    let judged = columns
        .into_iter()
        .try_fold(pairs, |pairs, (field, column)| pairs.with_column(field.name(), column))?;
    Ok((judged, reasons))
}

/// Counts the batch and says for every row why it does not go on.
fn tell(pairs: &Pairs, reasons: &[Option<&'static str>], counts: &mut Counts) -> StringArray {
    let errors = pairs.text("error_message");
    let why = reasons.iter().enumerate().map(|(i, reason)| {
        if !is_success(pairs, i) {
            let status = pairs.statuses().value(i);
            let why = if errors.is_valid(i) { errors.value(i) } else { status };
            count_failure(counts, why);
            return Some(why);
        }
        match reason {
            Some(reason) => counts.drop(reason),
            None => counts.keep(),
        }
        *reason
    });
    why.collect()
}

fn row_batch(judged: &Pairs, why: &StringArray, schema: &SchemaRef) -> Result<RecordBatch> {
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    for field in schema.fields().iter().take(schema.fields().len() - 1) {
        let column = judged.batch().column_by_name(field.name()).ok_or_else(|| {
            Error::input(format!("a later batch has no column `{}`", field.name()))
        })?;
        columns.push(Arc::clone(column));
    }
    columns.push(Arc::new(why.clone()));
    RecordBatch::try_new(Arc::clone(schema), columns).input("batches have different columns")
}
