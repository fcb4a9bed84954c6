//! Picks pairs: an SQL expression or a baseline by name, to DataComp's subset file.
//!
//! ```yaml
//! select: {where: "clip_score >= quantile(clip_score, 0.7) AND caption_words < 50"}
//! select: {baseline: {clip_score: {arch: l14, fraction: 0.3}}, subtract: [seen.npy]}
//! ```
//!
//! Reading order: the plan here, `expression` (what a `where` may say), `functions` (what it
//! can call beyond SQL), `replaced` (SQL's own that stand for others), `formula` (how it is
//! evaluated), `quantile` and `sample` (what two of them compute), [`baseline`] and its
//! tests (`basic`, `wordnet`, `centroids`), `tally` (what becomes of a row), `uids`.

pub mod baseline;

mod basic;
mod centroids;
mod expression;
mod formula;
mod functions;
mod quantile;
mod replaced;
mod sample;
mod tally;
mod uids;
mod wordnet;

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage::{Context, Counts, Error, Result, ResultExt};
use store::subset::{self, Uid};
use store::{Attempt, Blob};

use crate::scan::Pool;
pub use baseline::Baseline;
use expression::Condition;
use tally::{Picker, Tally};
use uids::{Uids, meet};

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
    /// Subset files (or ids of `select` stages) in all of which a pair must be, default none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub intersect: Vec<String>,
    /// Subset files (or ids of `select` stages) in none of which a pair may be, default none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subtract: Vec<String>,
    /// Whether of several rows with one uid only one is selected, default no.
    #[serde(skip_serializing_if = "is_false")]
    pub distinct: bool,
    /// An SQL expression of whole numbers in 0..=1000: how often a pair stands in the subset, and
    /// so how often `reshard` writes it. Default once. Not together with `sample` or `distinct`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<String>,
    /// Whether pairs that a judge turned away may be picked, default no. Pairs without a picture
    /// never are.
    pub keep_dropped: bool,
    /// Whether an empty selection is an outcome rather than an error, default no.
    pub allow_empty: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
fn is_false(value: &bool) -> bool {
    !value
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
    /// Kept; dropped by the judges' reasons, as `not_selected`, `nonfinite` (a number of the
    /// condition, or one that it makes, is none or infinite), `weight_zero`, `not_in_intersect`, `in_subtract`,
    /// `duplicate` or `not_drawn`; failed by error message, or as `bad_uid`.
    pub counts: Counts,
    /// Rows of the subset: pairs, each as often as its weight says.
    pub rows: u64,
    /// Each `quantile(..)` and `top_fraction(..)` as written, with its exact value; `None` where
    /// there is no value to take it of.
    pub thresholds: Vec<(String, Option<f64>)>,
}

impl SelectPlan {
    /// Checks the fields and the grammar of the expressions; which columns there are is known when
    /// the stage runs.
    pub fn validate(&self) -> Result<()> {
        for (field, text) in [("where", &self.condition), ("weight", &self.weight)] {
            let checked = text.as_deref().map_or(Ok(()), expression::check_grammar);
            checked.map_err(|e| e.at(field))?;
        }
        if self.weight.is_some() && (self.sample.is_some() || self.distinct) {
            let message = "weight does not go together with sample or distinct";
            let hint =
                "draw in a select stage of its own, and weigh what it gives with `intersect`";
            return Err(Error::recipe(message).hint(hint));
        }
        self.baseline.as_ref().map_or(Ok(()), Baseline::validate)
    }

    /// The other subsets that it names: files or ids of stages.
    pub fn subsets(&self) -> impl Iterator<Item = &String> {
        let sample = self.sample.iter().filter_map(|sample| match sample {
            Sample::AsMany(name) => Some(name),
            Sample::Count(_) => None,
        });
        sample.chain(&self.intersect).chain(&self.subtract)
    }

    /// As [`Self::subsets`], to put files in the place of ids.
    pub fn subsets_mut(&mut self) -> impl Iterator<Item = &mut String> {
        let sample = self.sample.iter_mut().filter_map(|sample| match sample {
            Sample::AsMany(name) => Some(name),
            Sample::Count(_) => None,
        });
        sample.chain(&mut self.intersect).chain(&mut self.subtract)
    }

    /// Reads score parquets of `judge`, or any pool parquets that have a `uid` (paths or URLs),
    /// and writes [`OUTPUT`], sorted.
    ///
    /// A row whose `status` is not success, or that has a `reason`, is passed over: the condition
    /// is not evaluated on it. A row in which a floating-point number that the condition names or
    /// makes is NaN or infinite is never selected; -0.0 is 0.0. Rows
    /// of equal uid are all selected, as in a subset file repeated uids are meant.
    ///
    /// # Errors
    /// When a file is missing, the pool is empty, a column is unknown (names the nearest), or
    /// nothing was selected.
    pub fn run(&self, cx: &Context, pool: &[String], out: &mut Attempt) -> Result<Selection> {
        let (runs, selection) = self.select(cx, pool)?;
        let mut file = out.file(OUTPUT)?;
        subset::write_runs(&mut file, &runs)?;
        file.flush().store("cannot write the subset")?;
        file.finish()?;
        Ok(selection)
    }

    /// As [`Self::run`], with the sorted uids in memory.
    pub fn pick(&self, cx: &Context, pool: &[String]) -> Result<(Vec<Uid>, Selection)> {
        let (runs, selection) = self.select(cx, pool)?;
        Ok((runs.concat(), selection))
    }

    /// Sorted lists of uids that ascend one behind the other.
    fn select(&self, cx: &Context, pool: &[String]) -> Result<(Vec<Vec<Uid>>, Selection)> {
        self.validate()?;
        let files = pool;
        // Before the pool, so that a name that is none costs no pass.
        let others = Others::read(self)?;
        let pool = Pool::open("select", files, cx.threads, &cx.cancel)?;
        let mut condition = Condition::new(&pool, self.keep_dropped)?;
        if let Some(text) = &self.condition {
            condition.and_text(text).map_err(|e| e.at("where"))?;
        }
        if let Some(baseline) = &self.baseline {
            baseline.add_to(&mut condition).map_err(|e| e.at("baseline"))?;
        }
        let context = condition.context().clone();
        let mut resolved = condition.resolve(cx.seed_for("select"), self.weight.as_deref())?;
        let thresholds = std::mem::take(&mut resolved.thresholds);
        tracing::debug!(condition = %resolved.condition, ?thresholds, "selecting");

        let picker = Picker::new(&context, &pool, resolved, self.keep_dropped)?;
        let tallies = pool.scan(
            &picker.columns,
            || Ok(Tally::default()),
            |tally: &mut Tally, part| picker.push(tally, part),
        )?;
        let tally = tallies.into_iter().reduce(Tally::merge).unwrap_or_default();
        let (uids, mut counts) = tally.into_parts();
        if counts.entered == 0 {
            return Err(Error::input(format!("no pair in {}", crate::name_files(files)))
                .at("select")
                .hint("look at the counts of the stage that made them"));
        }
        let mut runs = Vec::new();
        for (weight, uids) in uids {
            let found = self.shape(cx.threads, &others, uids, &mut counts)?;
            runs = if runs.is_empty() && weight == 1 { found } else { join(runs, found, weight) };
        }
        if counts.kept == 0 && !self.allow_empty {
            return Err(nothing_selected(&counts));
        }
        if let Some(wanted) = others.sample {
            let mut uids = runs.concat();
            let there = uids.len();
            sample::draw(&mut uids, wanted, cx.seed_for("select")).ok_or_else(|| {
                Error::input(format!("a sample of {wanted} was asked of {there} pairs"))
                    .at("select: sample")
                    .hint("ask for fewer, or loosen the condition")
            })?;
            drop_kept(&mut counts, "not_drawn", (there - uids.len()) as u64);
            uids.sort_unstable();
            runs = vec![uids];
            if counts.kept == 0 && !self.allow_empty {
                return Err(nothing_selected(&counts));
            }
        }
        counts.check()?;
        let rows = runs.iter().map(|run| run.len() as u64).sum();
        Ok((runs, Selection { counts, rows, thresholds }))
    }

    /// Sorts, and leaves what `intersect`, `subtract` and `distinct` allow.
    fn shape(
        &self,
        threads: usize,
        Others { intersect, subtract, .. }: &Others,
        uids: Uids,
        counts: &mut Counts,
    ) -> Result<Vec<Vec<Uid>>> {
        let lost = [
            ("not_in_intersect", AtomicU64::new(0)),
            ("in_subtract", AtomicU64::new(0)),
            ("duplicate", AtomicU64::new(0)),
        ];
        let runs = uids.into_sorted(threads, |uids| {
            let mut before = uids.len();
            let mut lose = |step: usize, uids: &Vec<Uid>| {
                lost[step].1.fetch_add((before - uids.len()) as u64, Ordering::Relaxed);
                before = uids.len();
            };
            intersect.iter().for_each(|others| meet(uids, others, true));
            lose(0, uids);
            subtract.iter().for_each(|others| meet(uids, others, false));
            lose(1, uids);
            if self.distinct {
                uids.dedup();
            }
            lose(2, uids);
        })?;
        for (reason, count) in lost {
            drop_kept(counts, reason, count.into_inner());
        }
        Ok(runs)
    }
}

/// What stands in other subset files, read once.
struct Others {
    intersect: Vec<Vec<Uid>>,
    subtract: Vec<Vec<Uid>>,
    sample: Option<u64>,
}

impl Others {
    fn read(plan: &SelectPlan) -> Result<Self> {
        let read = |names: &[String]| -> Result<Vec<Vec<Uid>>> {
            names.iter().map(|name| subset::read(&Blob::open(name)?)).collect()
        };
        Ok(Self {
            intersect: read(&plan.intersect).map_err(|e| e.at("intersect"))?,
            subtract: read(&plan.subtract).map_err(|e| e.at("subtract"))?,
            sample: plan
                .sample
                .as_ref()
                .map(Sample::count)
                .transpose()
                .map_err(|e| e.at("sample"))?,
        })
    }
}

/// Two selections as one, the second so many times.
fn join(runs: Vec<Vec<Uid>>, more: Vec<Vec<Uid>>, weight: i64) -> Vec<Vec<Uid>> {
    let mut runs: Vec<Vec<Uid>> = if runs.is_empty() { vec![Vec::new(); more.len()] } else { runs };
    for (run, more) in runs.iter_mut().zip(more) {
        run.extend(more.into_iter().flat_map(|uid| (0..weight).map(move |_| uid)));
        run.sort_unstable();
    }
    runs
}

/// Of what was kept so many are dropped after all.
fn drop_kept(counts: &mut Counts, reason: &str, count: u64) {
    counts.kept -= count;
    counts.entered -= count;
    counts.merge(&tally::dropped(reason, count));
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
