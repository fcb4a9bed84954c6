//! `reshard`: chosen pairs into training shards, one output shard a unit, then the files that
//! stand beside them.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::Array;
use arrow_array::cast::AsArray;
use filter::select::OUTPUT as SUBSET;
use serde_json::{Value, json};
use shard::{Edited, Edits, FaceBoxes, ReshardPlan, Resharding, Selection, Shards};
use stage::{Context, Counts, Error, Progress, Result};
use store::Attempt;
use store::subset::{self, Uid};

use super::{
    Outcome, SideBySide, Site, Stage, Worker, boxes, fingerprint, fingerprint_if_file, pool,
    shards, unknown_unit,
};
use crate::recipe::Noun;

impl Stage for ReshardPlan {
    fn validate(&self) -> Result<()> {
        Self::validate(self)
    }

    /// 2, where something is masked or blurred: accounts are masked to their end, and numbers in more
    /// spellings; samples with a second picture, and those of a uid with an unknown row, do not go out.
    fn code(&self) -> u32 {
        if self.mask_pii.is_empty() && self.blur_faces.is_none() { 1 } else { 2 }
    }

    /// Where the subset and the boxes lie changes nothing, their content does.
    fn identity(&self) -> Value {
        let blur_faces = self.blur_faces.as_ref().map(|_| "named".to_owned());
        serde_json::to_value(Self { subset: None, blur_faces, ..self.clone() }).unwrap_or_default()
    }

    fn external(&self, _context: &Context) -> Result<Value> {
        let subset = self.subset.as_deref().map_or(Ok(Value::Null), fingerprint_if_file)?;
        let Some(boxes) = &self.blur_faces else { return Ok(subset) };
        // A stage's id has that stage's key instead.
        let boxes = match pool::files(std::slice::from_ref(boxes)) {
            Ok(files) => fingerprint(&files)?,
            Err(_) => Value::Null,
        };
        Ok(json!({"subset": subset, "boxes": boxes}))
    }

    fn references(&self) -> Vec<(String, Noun)> {
        let subset = self.subset.iter().map(|name| (name.clone(), Noun::Subset));
        let boxes = self.blur_faces.iter().map(|name| (name.clone(), Noun::Scores));
        subset.chain(boxes).collect()
    }

    fn worker<'a>(&'a self, site: &'a Site) -> Result<Box<dyn Worker + 'a>> {
        let input = site.inputs.first().ok_or_else(|| Error::internal("no input"))?;
        let source = input.upstream(Noun::Shards).ok_or_else(|| {
            Error::recipe("the pairs behind this selection are not in the recipe")
                .hint("select from a `judge` stage, whose shards are known")
        })?;
        let sources = Shards::open(&shards::tar_urls(&source)?)?;
        let named = match &self.subset {
            Some(name) => Some(match site.references.get(name) {
                Some(stage) => stage.dir.blob(SUBSET)?,
                None => store::Blob::open(name)?,
            }),
            None => None,
        };
        let (subset, skip) = match (named, input.noun) {
            (Some(file), Noun::Shards) => (Some(subset::read(&file)?), HashSet::new()),
            (Some(_), given) => {
                return Err(Error::recipe(format!(
                    "`subset` is named, and {} is given",
                    given.word()
                ))
                .hint("take shards with `from:`, or leave `subset` out"));
            }
            (None, Noun::Subset) => (Some(subset::read(&input.dir.blob(SUBSET)?)?), HashSet::new()),
            (None, Noun::Scores) => (None, with_reason(&pool::parquets(input)?)?),
            _ => (None, HashSet::new()),
        };
        let selection = match &subset {
            Some(uids) => Selection::Subset(uids),
            None => Selection::AllBut(&skip),
        };
        let faces = match &self.blur_faces {
            Some(name) => {
                let judge = site.references.get(name);
                let files = match judge {
                    Some(stage) => pool::parquets(stage)?,
                    None => pool::files(std::slice::from_ref(name))?,
                };
                boxes::check(name, judge, &files, &source)?;
                Some(FaceBoxes::read(&sources, &files)?)
            }
            None => None,
        };
        let edits = Edits::new(&site.context, self, faces);
        let resharding = self.plan_edited(&site.context, &sources, selection, &edits)?;
        Ok(Box::new(Reshard { site, sources, resharding, edits, subset }))
    }
}

struct Reshard<'a> {
    site: &'a Site,
    sources: Shards,
    resharding: Resharding,
    edits: Edits,
    subset: Option<Vec<Uid>>,
}

/// Most bytes that a unit holds, read ahead and waiting to be written.
const UNIT_MEMORY: u64 = 128 << 20;

/// The unit of the files that stand once beside all shards.
const BESIDE: &str = "beside";

impl Worker for Reshard<'_> {
    fn units(&self) -> Vec<String> {
        let shards = self.resharding.shards.iter().map(shard::OutputShard::unit);
        shards.chain([BESIDE.to_owned()]).collect()
    }

    fn run(&mut self, unit: &str, out: &mut Attempt) -> Result<Outcome> {
        self.unit(&self.site.context, unit, out)
    }

    fn side_by_side(&self) -> Option<SideBySide<'_>> {
        let cx = &self.site.context;
        let room = usize::try_from(cx.memory / UNIT_MEMORY).unwrap_or(usize::MAX);
        let at_once = cx.threads.min(self.resharding.shards.len()).min(room).max(1);
        // A shard alone shares its work between threads; of many each has one.
        let threads = cx.threads.div_ceil(at_once);
        let whole = Arc::new(Whole {
            progress: Arc::clone(&cx.progress),
            done: AtomicU64::new(0),
            total: self.resharding.counts.kept,
        });
        let run = move |unit: &str, out: &mut Attempt| {
            let part = Part { whole: Arc::clone(&whole), done: AtomicU64::new(0) };
            let cx = Context { threads, progress: Arc::new(part), ..cx.clone() };
            self.unit(&cx, unit, out)
        };
        Some(SideBySide { at_once, run: Box::new(run) })
    }
}

/// How far several units are together.
struct Whole {
    progress: Arc<dyn Progress>,
    done: AtomicU64,
    total: u64,
}

/// One of them.
struct Part {
    whole: Arc<Whole>,
    done: AtomicU64,
}

impl Progress for Part {
    fn update(&self, done: u64, _total: u64, note: &str) {
        let new = done.saturating_sub(self.done.swap(done, Ordering::Relaxed));
        let all = self.whole.done.fetch_add(new, Ordering::Relaxed) + new;
        self.whole.progress.update(all, self.whole.total, note);
    }
}

impl Reshard<'_> {
    fn unit(&self, cx: &Context, unit: &str, out: &mut Attempt) -> Result<Outcome> {
        if unit == BESIDE {
            shard::finish(&self.resharding, &self.sources, self.subset.as_deref(), out)?;
            return Ok(Outcome {
                counts: Counts::default(),
                info: json!({"shards": self.resharding.shards.len()}),
            });
        }
        let shard = self
            .resharding
            .shards
            .iter()
            .find(|s| s.unit() == unit)
            .ok_or_else(|| unknown_unit(unit))?;
        let (counts, edited) = shard::run_unit(cx, shard, &self.sources, &self.edits, out)?;
        let info = if edited == Edited::default() { Value::Null } else { edited.to_json().into() };
        Ok(Outcome { counts, info })
    }
}

/// The uids of pairs that have a reason against them.
fn with_reason(files: &[String]) -> Result<HashSet<Uid>> {
    let mut skip = HashSet::new();
    for file in files {
        let blob = store::Blob::open(file)?;
        for batch in store::parquet::read_parquet(&blob)? {
            let batch = batch?;
            let column = |name: &str| {
                batch
                    .column_by_name(name)
                    .and_then(|c| c.as_string_opt::<i32>())
                    .ok_or_else(|| Error::input(format!("no text column `{name}`")).at(file))
            };
            let (uids, reasons) = (column("uid")?, column("reason")?);
            let judged_out = (0..batch.num_rows()).filter(|&row| reasons.is_valid(row));
            skip.extend(judged_out.filter_map(|row| Uid::parse(uids.value(row))));
        }
    }
    Ok(skip)
}
