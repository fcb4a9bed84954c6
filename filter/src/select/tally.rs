//! What becomes of each row of a selection: counts and the uids that were picked.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, Int64Array, RecordBatch, StringArray};
use arrow_cast::cast;
use arrow_schema::DataType;
use datafusion::prelude::SessionContext;
use stage::{Counts, Error, Result, ResultExt, Status};
use store::subset::Uid;

use super::centroids::Embeddings;
use super::expression::{Resolved, column_names};
use super::formula::{Formula, is_finite};
use super::uids::Uids;
use crate::fasttext;
use crate::reasons::{cap, count_drop, count_failure};
use crate::scan::{Part, Pool};

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
    pub(super) embeddings: Option<Arc<Embeddings>>,
    /// What was looked up last, by word.
    pub(super) words: std::collections::HashMap<String, bool>,
}

/// Largest weight: one pair more often than this is a mistake.
pub(super) const MAX_WEIGHT: i64 = 1000;

/// The resolved condition, prepared for the columns of a pass.
pub(super) struct Picker {
    pub(super) columns: Vec<String>,
    condition: Formula,
    tests: Vec<Box<dyn RowTest>>,
    floats: Vec<String>,
    weight: Option<Formula>,
    keep_dropped: bool,
}

/// What one thread found.
#[derive(Default)]
pub(super) struct Tally {
    /// Picked uids by weight.
    uids: BTreeMap<i64, Uids>,
    counts: Counts,
    /// Of rows with another program's words for why they do not go on.
    foreign: Counts,
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
        let condition = Formula::new(context, condition, &schema)?;
        let weight = weight.map(|weight| Formula::new(context, weight, &schema)).transpose();
        let weight = weight.map_err(|e| e.at("weight"))?;
        Ok(Self { columns, condition, tests, floats, weight, keep_dropped })
    }

    /// Decides about some rows.
    pub(super) fn push(&self, tally: &mut Tally, part: &Part<'_>) -> Result<()> {
        let batch = &part.batch;
        let uids = texts(batch, "uid")?.ok_or_else(|| Error::internal("no uid"))?;
        let numbers = self.floats.iter().map(|name| batch.column_by_name(name));
        let numbers: Option<Vec<_>> = numbers.collect();
        let numbers = numbers.ok_or_else(|| Error::internal("a column is lost"))?;
        let (mut picked, mut fates) = (Vec::new(), std::mem::take(&mut tally.fates));
        fates.clear();
        self.pass_over(&mut tally.foreign, batch, &mut fates)?;
        picked.reserve(fates.len());
        let mut bad = 0;
        // A condition is evaluated on these rows alone: one that has no picture, or a number that
        // is none, cannot fail it.
        let mut rows = Vec::with_capacity(fates.len());
        for (i, fate) in fates.iter_mut().enumerate() {
            let uid = if *fate == Fate::Passed { None } else { uid(&uids, i) };
            picked.push(uid);
            match uid {
                _ if *fate == Fate::Passed => {}
                None => {
                    bad += 1;
                    *fate = Fate::Passed;
                }
                Some(_) if numbers.iter().all(|column| is_finite(column, i)) => rows.push(i),
                Some(_) => *fate = Fate::Nonfinite,
            }
        }
        tally.counts.merge(&failed("bad_uid", bad));
        let values = self.condition.evaluate(batch, rows).map_err(|e| e.at(part.path))?;
        let selected = values.found.as_boolean_opt();
        let selected = selected.ok_or_else(|| Error::internal("the condition is no boolean"))?;
        for row in values.nonfinite {
            fates[row] = Fate::Nonfinite;
        }
        for (&row, selected) in values.rows.iter().zip(selected) {
            if selected == Some(true) {
                fates[row] = Fate::Selected;
            }
        }
        for test in &self.tests {
            if fates.contains(&Fate::Selected) {
                test.test(part, &mut fates, &mut tally.scratch)?;
            }
        }
        let weights = self.weight.as_ref().map(|weight| weigh(weight, part, &mut fates));
        let weights = weights.transpose().map_err(|e| e.at("weight").at(part.path))?;
        tally.take(&picked, &fates, weights.as_ref()).map_err(|e| e.at(part.path))?;
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
                count_drop(counts, &reason);
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

    /// What was picked, and what became of all rows.
    pub(super) fn into_parts(mut self) -> (BTreeMap<i64, Uids>, Counts) {
        self.counts.merge(&self.foreign);
        (self.uids, self.counts)
    }

    pub(super) fn merge(mut self, other: Self) -> Self {
        self.counts.merge(&other.counts);
        self.foreign.merge(&other.foreign);
        cap(&mut self.foreign);
        for (weight, uids) in other.uids {
            self.uids.entry(weight).or_default().append(uids);
        }
        self
    }
}

/// The weights of the rows that are selected; one that is not finite is not selected after all.
fn weigh(weight: &Formula, part: &Part<'_>, fates: &mut [Fate]) -> Result<Int64Array> {
    let rows = (0..fates.len()).filter(|&i| fates[i] == Fate::Selected).collect();
    let values = weight.evaluate(&part.batch, rows)?;
    let found = values.found.as_primitive_opt::<Int64Type>();
    let found = found.ok_or_else(|| Error::internal("the weight is no whole number"))?;
    for row in values.nonfinite {
        fates[row] = Fate::Nonfinite;
    }
    let mut weights = vec![None; fates.len()];
    for (&row, weight) in values.rows.iter().zip(found) {
        weights[row] = weight;
    }
    Ok(Int64Array::from(weights))
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
