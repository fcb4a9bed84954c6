//! What becomes of each row of a selection: counts and the uids that were picked.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int64Type};
use arrow_array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow_cast::cast;
use arrow_schema::DataType;
use datafusion::prelude::SessionContext;
use stage::{Counts, Error, Result, ResultExt, Status};
use store::{npy, subset::Uid};

use super::expression::{Resolved, column_names};
use super::uids::Uids;
use crate::fasttext;
use crate::reasons::count_failure;
use crate::scan::{Compiled, Part, Pool};

/// What becomes of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Counted already: no picture, a judge's reason, no uid.
    Passed,
    Selected,
    NotSelected,
    /// A number that decides about the row is none, or infinite.
    Nonfinite,
}

/// A test that is not an SQL expression: it needs a model, a dictionary, or a file beside.
pub(super) trait RowTest: Send + Sync {
    /// The columns that it looks at; a text among them comes as plain strings.
    fn columns(&self) -> Vec<String>;

    /// Looks at the rows that are selected so far and may change their fate.
    fn test(&self, part: &Part<'_>, fates: &mut [Fate], scratch: &mut Scratch) -> Result<()>;
}

/// What tests keep between batches on one thread.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) fasttext: fasttext::Scratch,
    /// Embeddings of the file that was read last.
    pub(super) embeddings: Option<(String, npy::File)>,
    /// What was looked up last, by word.
    pub(super) words: std::collections::HashMap<String, bool>,
}

/// Largest weight: one pair more often than this is a mistake.
pub(super) const MAX_WEIGHT: i64 = 1000;

/// The resolved condition, prepared for the columns of a pass.
pub(super) struct Picker {
    pub(super) columns: Vec<String>,
    condition: Compiled,
    tests: Vec<Box<dyn RowTest>>,
    floats: Vec<String>,
    weight: Option<Compiled>,
    keep_dropped: bool,
}

/// What one thread found.
#[derive(Default)]
pub(super) struct Tally {
    /// Picked uids by weight.
    pub(super) uids: BTreeMap<i64, Uids>,
    pub(super) counts: Counts,
    scratch: Scratch,
    fates: Vec<Fate>,
}

impl Picker {
    pub(super) fn new(
        context: &SessionContext,
        pool: &Pool,
        resolved: Resolved,
        keep_dropped: bool,
    ) -> Result<Self> {
        let has = |name: &str| pool.schema().field_with_name(name).is_ok();
        if !has("uid") {
            let have: Vec<&str> =
                pool.schema().fields().iter().map(|f| f.name().as_str()).collect();
            let message = format!("the pool has no column `uid`; there are {}", have.join(", "));
            return Err(Error::input(message).at("select"));
        }
        let Resolved { condition, tests, floats, weight, thresholds: _ } = resolved;
        let mut columns = column_names(std::iter::once(&condition).chain(&weight));
        columns.extend(tests.iter().flat_map(|test| test.columns()));
        let known = ["uid", "status", "error_message", "reason"];
        columns.extend(known.iter().filter(|name| has(name)).map(|&name| name.to_owned()));
        columns.sort();
        columns.dedup();
        let schema = pool.columns(&columns)?;
        let condition = Compiled::new(context, condition, &schema)?;
        let weight = weight.map(|weight| Compiled::new(context, weight, &schema)).transpose()?;
        Ok(Self { columns, condition, tests, floats, weight, keep_dropped })
    }

    /// Decides about some rows.
    pub(super) fn push(&self, tally: &mut Tally, part: &Part<'_>) -> Result<()> {
        let batch = &part.batch;
        let uids = texts(batch, "uid")?.ok_or_else(|| Error::internal("no uid"))?;
        let selected = self.condition.evaluate(batch)?;
        let selected = selected.as_boolean_opt();
        let selected = selected.ok_or_else(|| Error::internal("the condition is no boolean"))?;
        let numbers = Numbers::new(batch, &self.floats)?;
        let (mut picked, mut fates) = (Vec::new(), std::mem::take(&mut tally.fates));
        fates.clear();
        self.pass_over(&mut tally.counts, batch, &mut fates)?;
        picked.reserve(fates.len());
        let mut bad = 0;
        for (i, fate) in fates.iter_mut().enumerate() {
            let uid = if *fate == Fate::Passed { None } else { uid(&uids, i) };
            picked.push(uid);
            if *fate == Fate::Passed {
                continue;
            }
            *fate = match uid {
                None => {
                    bad += 1;
                    Fate::Passed
                }
                Some(_) if !numbers.finite(i) => Fate::Nonfinite,
                Some(_) if is_true(selected, i) => Fate::Selected,
                Some(_) => Fate::NotSelected,
            };
        }
        tally.counts.merge(&failed("bad_uid", bad));
        for test in &self.tests {
            if fates.contains(&Fate::Selected) {
                test.test(part, &mut fates, &mut tally.scratch)?;
            }
        }
        let weights = self.weight.as_ref().map(|weight| weight.evaluate(batch)).transpose()?;
        let weights = weights.as_ref().and_then(|weights| weights.as_primitive_opt::<Int64Type>());
        tally.take(&picked, &fates, weights).map_err(|e| e.at(part.path))?;
        tally.fates = fates;
        Ok(())
    }

    /// A fate for each row: passed over and counted, or not selected so far.
    fn pass_over(
        &self,
        counts: &mut Counts,
        batch: &RecordBatch,
        fates: &mut Vec<Fate>,
    ) -> Result<()> {
        fates.resize(batch.num_rows(), Fate::NotSelected);
        let (statuses, errors) = (texts(batch, "status")?, texts(batch, "error_message")?);
        let reasons = texts(batch, "reason")?.filter(|_| !self.keep_dropped);
        if statuses.is_none() && reasons.is_none() {
            return Ok(());
        }
        let of = |column: &Option<StringArray>, i: usize| {
            column.as_ref().and_then(|c| c.is_valid(i).then(|| c.value(i).to_owned()))
        };
        for (i, fate) in fates.iter_mut().enumerate() {
            let status = of(&statuses, i).filter(|status| status != Status::Success.as_str());
            if let Some(status) = status {
                count_failure(counts, &of(&errors, i).unwrap_or(status));
            } else if let Some(reason) = of(&reasons, i) {
                counts.drop(&reason);
            } else {
                continue;
            }
            *fate = Fate::Passed;
        }
        Ok(())
    }
}

impl Tally {
    fn take(
        &mut self,
        picked: &[Option<Uid>],
        fates: &[Fate],
        weights: Option<&Int64Array>,
    ) -> Result<()> {
        let mut found = Counts::default();
        let (mut unselected, mut nonfinite, mut weightless) = (0, 0, 0);
        if weights.is_none() {
            let uids = self.uids.entry(1).or_default();
            for (uid, fate) in picked.iter().zip(fates) {
                match (fate, uid) {
                    (Fate::Selected, Some(uid)) => {
                        uids.push(*uid);
                        found.kept += 1;
                    }
                    (Fate::Nonfinite, _) => nonfinite += 1,
                    (Fate::NotSelected, _) => unselected += 1,
                    _ => {}
                }
            }
        } else if let Some(weights) = weights {
            for (i, (uid, fate)) in picked.iter().zip(fates).enumerate() {
                match (fate, uid) {
                    (Fate::Selected, Some(uid)) => {
                        let weight = if weights.is_valid(i) { weights.value(i) } else { 0 };
                        if !(0..=MAX_WEIGHT).contains(&weight) {
                            let message = format!(
                                "a weight must lie in 0..={MAX_WEIGHT}, {uid} has {weight}"
                            );
                            let hint = "bound it, for example least(greatest(x, 0), 10)";
                            return Err(Error::input(message).at("weight").hint(hint));
                        }
                        if weight == 0 {
                            weightless += 1;
                        } else {
                            self.uids.entry(weight).or_default().push(*uid);
                            found.kept += 1;
                        }
                    }
                    (Fate::Nonfinite, _) => nonfinite += 1,
                    (Fate::NotSelected, _) => unselected += 1,
                    _ => {}
                }
            }
        }
        found.entered = found.kept;
        self.counts.merge(&found);
        for (reason, count) in
            [("not_selected", unselected), ("nonfinite", nonfinite), ("weight_zero", weightless)]
        {
            self.counts.merge(&dropped(reason, count));
        }
        Ok(())
    }

    pub(super) fn merge(mut self, other: Self) -> Self {
        self.counts.merge(&other.counts);
        for (weight, uids) in other.uids {
            self.uids.entry(weight).or_default().append(uids);
        }
        self
    }
}

/// So many rows dropped for this reason; nothing where there are none.
pub(super) fn dropped(reason: &str, count: u64) -> Counts {
    let dropped = (count > 0).then(|| (reason.to_owned(), count)).into_iter().collect();
    Counts { entered: count, dropped, ..Counts::default() }
}

fn failed(reason: &str, count: u64) -> Counts {
    let failed = (count > 0).then(|| (reason.to_owned(), count)).into_iter().collect();
    Counts { entered: count, failed, ..Counts::default() }
}

/// A column as plain strings, if the batch has it.
pub(super) fn texts(batch: &RecordBatch, name: &str) -> Result<Option<StringArray>> {
    let Some(column) = batch.column_by_name(name) else { return Ok(None) };
    if let Some(column) = column.as_string_opt::<i32>() {
        return Ok(Some(column.clone()));
    }
    let column = cast(column, &DataType::Utf8).input(format!("column `{name}` is no text"))?;
    Ok(Some(column.as_string::<i32>().clone()))
}

fn uid(uids: &StringArray, i: usize) -> Option<Uid> {
    uids.is_valid(i).then(|| Uid::parse(uids.value(i))).flatten()
}

fn is_true(values: &BooleanArray, i: usize) -> bool {
    values.is_valid(i) && values.value(i)
}

/// The floating-point columns that a condition names.
struct Numbers(Vec<ArrayRef>);

impl Numbers {
    fn new(batch: &RecordBatch, names: &[String]) -> Result<Self> {
        let columns = names.iter().map(|name| {
            let column = batch.column_by_name(name);
            let column = column.ok_or_else(|| Error::internal("a column is lost"))?;
            if matches!(column.data_type(), DataType::Float32 | DataType::Float64) {
                return Ok(column.clone());
            }
            cast(column, &DataType::Float64).internal("cannot widen numbers")
        });
        columns.collect::<Result<_>>().map(Self)
    }

    /// Whether none is NaN or infinite; null is no number that could be.
    fn finite(&self, i: usize) -> bool {
        self.0.iter().all(|column| {
            column.is_null(i)
                || match column.data_type() {
                    DataType::Float32 => column.as_primitive::<Float32Type>().value(i).is_finite(),
                    _ => column.as_primitive::<Float64Type>().value(i).is_finite(),
                }
        })
    }
}
