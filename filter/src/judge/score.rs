//! Scores beside pairs: the table that every verdict is read from.
//!
//! | column | |
//! | --- | --- |
//! | `uid, key, url, caption, status, error_message, width, height, original_width, original_height, sha256` | as in [`Pairs`] |
//! | further columns of the pairs | where the source has them; `source_<name>` where a judge takes the name |
//! | each judge's scores | null where there is no picture |
//! | `refused.<n>` | why judge n, from 0, has no score for the pair |

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef};
use stage::{Error, Pairs, Result, ResultExt};

use super::{AnyJudge, Judge};

/// A column of the source whose name a judge takes is kept under its name with this before it.
const OF_SOURCE: &str = "source_";

/// Whether these judges can stand in one stage: no two of their columns have one name, and none
/// that of a pair's own column.
///
/// # Errors
/// Names the column and both.
pub fn check_columns(plans: &[AnyJudge]) -> Result<()> {
    let pairs = Pairs::schema();
    let own = pairs.fields().iter().map(|f| (f.name().clone(), "the pairs"));
    let mut known: Vec<(String, &str)> =
        own.chain(std::iter::once(("reason".to_owned(), "every judge stage"))).collect();
    for plan in plans {
        for field in plan.plan().scores() {
            let name = plan.plan().name();
            if let Some((column, other)) = known.iter().find(|(column, _)| column == field.name()) {
                let message = format!("two columns would be called `{column}`");
                let hint = match (name, *other) {
                    ("clip_score" | "embedding_head", _) => {
                        format!("give one of them another name: {name} has the field `column`")
                    }
                    (name, other) if name == other => {
                        format!("name {name} once; another judge stage can have it too")
                    }
                    (name, other) => format!("{name} and {other} have one of that name each"),
                };
                return Err(Error::recipe(message).at(name).hint(hint));
            }
            known.push((field.name().clone(), name));
        }
    }
    Ok(())
}

/// The columns of the score table.
///
/// # Errors
/// Two columns of one name.
pub(super) fn schema(plans: &[AnyJudge], pairs: &Fields) -> Result<SchemaRef> {
    check_columns(plans)?;
    let taken = taken(plans);
    let mut fields: Vec<Field> = Vec::new();
    for field in pairs.iter().filter(|f| f.name() != "image") {
        // Fetched shards bring columns of their list along: DataComp's have `face_bboxes`.
        let name = match taken.contains(field.name()) {
            true => format!("{OF_SOURCE}{}", field.name()),
            false => field.name().clone(),
        };
        fields.push(field.as_ref().clone().with_name(name));
    }
    for (n, plan) in plans.iter().enumerate() {
        fields.extend(plan.plan().scores());
        fields.push(Field::new(refused(n), DataType::Utf8, true));
    }
    let names: Vec<&str> = fields.iter().map(|f| f.name().as_str()).collect();
    for (i, name) in names.iter().enumerate() {
        if names[..i].contains(name) {
            let message = format!("two columns would be called `{name}`");
            let hint = "the pairs bring a column of this name: leave it out there";
            return Err(Error::recipe(message).hint(hint));
        }
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// The names that judges give.
fn taken(plans: &[AnyJudge]) -> Vec<String> {
    let scores = plans.iter().flat_map(|plan| plan.plan().scores());
    scores.map(|field| field.name().clone()).chain(std::iter::once("reason".to_owned())).collect()
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
    let taken = taken(plans);
    for field in schema.fields().iter().take(schema.fields().len() - judged) {
        let short = field.name().strip_prefix(OF_SOURCE);
        let short = short.filter(|short| taken.iter().any(|name| name == short));
        let name = short.unwrap_or(field.name());
        let column = pairs.batch().column_by_name(name);
        let column =
            column.ok_or_else(|| Error::input(format!("a later batch has no column `{name}`")))?;
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
