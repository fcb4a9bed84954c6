//! Picks pairs: an SQL expression or a baseline by name, to DataComp's subset file.
//!
//! ```yaml
//! select: {where: "clip_score >= quantile(clip_score, 0.7) AND caption_words < 50"}
//! select: {baseline: {clip_score: {arch: l14, fraction: 0.3}}}
//! ```
//!
//! Reading order: the plan here, `expression` (what a `where` may say), `functions` (what it
//! can call beyond SQL), `quantile` and `sample` (what two of them compute), [`baseline`].

pub mod baseline;

mod expression;
mod functions;
mod quantile;
mod sample;

use std::io::Write;

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch, StringArray};
use arrow_schema::DataType;
use datafusion::common::ScalarValue;
use datafusion::prelude::{DataFrame, Expr, cast, lit};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage::{Context, Counts, Error, Result, ResultExt, Status};
use store::subset::{self, Uid};
use store::{Attempt, Blob};

use crate::engine::{Budget, Engine, query_error};
use crate::reasons::count_failure;
pub use baseline::Baseline;
use expression::{Condition, column};

/// The file that [`SelectPlan::run`] writes.
pub const OUTPUT: &str = "subset.npy";

/// Picks pairs by an expression, a baseline, or both (then a pair must satisfy both); with neither
/// every pair that no judge turned away.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SelectPlan {
    /// An SQL condition over the columns of the scores or of the pool, default none. Besides SQL's
    /// own functions: `quantile(x, q)`, `top_fraction(x, f)`, `random(share)`,
    /// `random(share, seed)`, `words(text)`.
    #[serde(rename = "where")]
    pub condition: Option<String>,
    /// A baseline of DataComp's by name, default none.
    pub baseline: Option<Baseline>,
    /// How many of the pairs that satisfy the rest are drawn, by chance and without putting back:
    /// a number, or a subset file (or the id of a `select` stage) of which as many; default all.
    /// The same pairs on every machine, by uid and seed.
    pub sample: Option<Sample>,
    /// Whether pairs that a judge turned away may be picked, default no. Pairs without a picture
    /// never are.
    pub keep_dropped: bool,
    /// Whether an empty selection is an outcome rather than an error, default no.
    pub allow_empty: bool,
}

/// How many pairs a draw gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Sample {
    /// So many.
    Count(u64),
    /// As many as this subset has.
    AsMany(String),
}

/// What a selection gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    /// Kept; dropped by the judges' reasons, as `not_selected` or as `not_drawn`; failed by error message, or as
    /// `bad_uid`.
    pub counts: Counts,
    /// Each `quantile(..)` and `top_fraction(..)` as written, with its exact value; `None` where
    /// there is no value to take it of.
    pub thresholds: Vec<(String, Option<f64>)>,
}

impl SelectPlan {
    /// Checks the fields and the grammar of the expression; which columns there are is known when
    /// the stage runs.
    pub fn validate(&self) -> Result<()> {
        if let Some(condition) = &self.condition {
            expression::check_grammar(condition)?;
        }
        self.baseline.as_ref().map_or(Ok(()), Baseline::validate)
    }

    /// Reads score parquets of `judge`, or any pool parquets that have a `uid` (paths or URLs),
    /// and writes [`OUTPUT`], sorted.
    ///
    /// A row whose `status` is not success, or that has a `reason`, is passed over. A row in which
    /// a floating-point column that the condition names is NaN is never selected. Rows of equal
    /// uid are all selected, as in a subset file repeated uids are meant.
    ///
    /// # Errors
    /// When a file is missing, the pool is empty, a column is unknown (names the nearest), or
    /// nothing was selected.
    pub fn run(&self, cx: &Context, pool: &[String], out: &mut Attempt) -> Result<Selection> {
        let (uids, selection) = self.pick(cx, pool)?;
        let mut file = out.file(OUTPUT)?;
        subset::write(&mut file, &uids)?;
        file.flush().store("cannot write the subset")?;
        file.finish()?;
        Ok(selection)
    }

    /// As [`Self::run`], with the sorted uids in memory.
    pub fn pick(&self, cx: &Context, pool: &[String]) -> Result<(Vec<Uid>, Selection)> {
        self.validate()?;
        let budget = Budget {
            threads: cx.threads,
            memory: usize::try_from(cx.memory).unwrap_or(usize::MAX),
            spill: None,
        };
        let engine = Engine::new(&budget, &cx.cancel)?;
        let frame = engine.parquet("select", pool)?;
        let mut condition = Condition::new(&engine, &frame, self.keep_dropped);
        if let Some(text) = &self.condition {
            condition.and_text(text).map_err(|e| e.at("where"))?;
        }
        if let Some(baseline) = &self.baseline {
            baseline.add_to(&mut condition).map_err(|e| e.at("baseline"))?;
        }
        let (expression, thresholds) = condition.resolve(cx.seed_for("select"))?;
        tracing::debug!(%expression, ?thresholds, "selecting");

        let columns = pool_columns(&frame, expression)?;
        let frame = frame.select(columns).map_err(|e| query_error(&e, "cannot select"))?;
        let mut tally = Tally::new(self.keep_dropped);
        engine.stream(&frame, |batch| tally.push(&batch))?;
        let Tally { mut uids, mut counts, .. } = tally;
        if counts.entered == 0 {
            return Err(Error::input(format!("no pair in {}", crate::name_files(pool)))
                .at("select")
                .hint("look at the counts of the stage that made them"));
        }
        if uids.is_empty() && !self.allow_empty {
            return Err(nothing_selected(&counts));
        }
        if let Some(sample) = &self.sample {
            let wanted = sample.count()?;
            let there = uids.len();
            sample::draw(&mut uids, wanted, cx.seed_for("select")).ok_or_else(|| {
                Error::input(format!("a sample of {wanted} was asked of {there} pairs"))
                    .at("select: sample")
                    .hint("ask for fewer, or loosen the condition")
            })?;
            let undrawn = (there - uids.len()) as u64;
            counts.kept -= undrawn;
            *counts.dropped.entry("not_drawn".to_owned()).or_default() += undrawn;
        }
        uids.sort_unstable();
        counts.check()?;
        Ok((uids, Selection { counts, thresholds }))
    }
}

impl Sample {
    fn count(&self) -> Result<u64> {
        match self {
            Self::Count(count) => Ok(*count),
            Self::AsMany(file) => subset::read(&Blob::open(file)?).map(|uids| uids.len() as u64),
        }
    }
}

fn nothing_selected(counts: &Counts) -> Error {
    let mut why: Vec<(&String, &u64)> = counts.dropped.iter().chain(&counts.failed).collect();
    why.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let why: Vec<String> =
        why.iter().take(8).map(|(why, count)| format!("{why} {count}")).collect();
    let message = format!("none of {} pairs was selected: {}", counts.entered, why.join(", "));
    Error::input(message)
        .at("select")
        .hint("loosen the condition, or set allow_empty if an empty subset is what you want")
}

/// What the one pass over the pool needs: uid, what stands against a row, the condition.
fn pool_columns(frame: &DataFrame, condition: Expr) -> Result<Vec<Expr>> {
    let has = |name: &str| frame.schema().field_with_unqualified_name(name).is_ok();
    if !has("uid") {
        let have: Vec<&str> = frame.schema().fields().iter().map(|f| f.name().as_str()).collect();
        let message = format!("the pool has no column `uid`; there are {}", have.join(", "));
        return Err(Error::input(message).at("select"));
    }
    let text = |name: &str| {
        let column = if has(name) { column(name) } else { lit(ScalarValue::Utf8(None)) };
        cast(column, DataType::Utf8).alias(name)
    };
    // The names are ours alone: a pool may have a column called `selected`.
    Ok(vec![
        text("uid"),
        text("status"),
        text("error_message"),
        text("reason"),
        cast(condition, DataType::Boolean).alias("selected"),
    ])
}

/// Counts rows and gathers the selected uids.
struct Tally {
    keep_dropped: bool,
    uids: Vec<Uid>,
    counts: Counts,
}

impl Tally {
    fn new(keep_dropped: bool) -> Self {
        Self { keep_dropped, uids: Vec::new(), counts: Counts::default() }
    }

    fn push(&mut self, batch: &RecordBatch) -> Result<()> {
        let strings = |i: usize| {
            batch.column(i).as_string_opt::<i32>().ok_or_else(|| Error::internal("no string"))
        };
        let (uids, statuses) = (strings(0)?, strings(1)?);
        let (errors, reasons) = (strings(2)?, strings(3)?);
        let selected = batch.column(4).as_boolean_opt();
        let selected = selected.ok_or_else(|| Error::internal("the condition is no boolean"))?;
        for i in 0..batch.num_rows() {
            if let Some(status) = text(statuses, i)
                && status != Status::Success.as_str()
            {
                count_failure(&mut self.counts, text(errors, i).unwrap_or(status));
            } else if let Some(reason) = text(reasons, i).filter(|_| !self.keep_dropped) {
                self.counts.drop(reason);
            } else if let Some(uid) = text(uids, i).and_then(Uid::parse) {
                if selected.is_valid(i) && selected.value(i) {
                    self.uids.push(uid);
                    self.counts.keep();
                } else {
                    self.counts.drop("not_selected");
                }
            } else {
                self.counts.fail("bad_uid");
            }
        }
        Ok(())
    }
}

fn text(column: &StringArray, i: usize) -> Option<&str> {
    column.is_valid(i).then(|| column.value(i))
}
