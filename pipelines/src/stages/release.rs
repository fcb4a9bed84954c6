//! `release`: what others get. A unit a shard, then the files that stand once beside them.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};
use shard::release::{self, Facts, ScoreTable, StageRecord};
use shard::{ReleasePlan, Shards};
use stage::{Context, Error, Result};
use store::subset::{self, Uid};
use store::{Attempt, Blob, FileRecord};

use super::judge::stem;
use super::{
    Done, Outcome, SideBySide, Site, Stage, Worker, base_name, checkpoint, pool, shards,
    unknown_unit,
};
use crate::recipe::{Kind, Noun};

impl Stage for ReleasePlan {
    fn validate(&self) -> Result<()> {
        Self::validate(self)
    }

    /// 2: the licence in the card is a quoted string; texts of the metadata are `Utf8`; json with
    /// `NaN` or half a surrogate pair is read.
    fn code(&self) -> u32 {
        2
    }

    fn references(&self) -> Vec<(String, Noun)> {
        self.checkpoints.iter().map(|name| (name.clone(), Noun::Checkpoint)).collect()
    }

    fn check_inputs(&self, inputs: &[&Kind]) -> Result<()> {
        match inputs.first().map(|kind| kind.info().gives) {
            Some(noun @ (Noun::Subset | Noun::Scores)) if !self.metadata_only => {
                Err(Error::recipe(format!(
                    "a release of pictures takes shards, but {} is given",
                    noun.word()
                ))
                .hint("put a `reshard` stage between, or write `metadata_only: true`"))
            }
            _ => Ok(()),
        }
    }

    fn identity(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    fn external(&self, _context: &Context) -> Result<Value> {
        checkpoint::fingerprints(self.checkpoints.iter().map(String::as_str))
    }

    fn finish(&self, done: &Done, out: &mut Attempt) -> Result<()> {
        let mut lineage = Vec::new();
        let mut seen = BTreeSet::new();
        for above in done.inputs.iter().chain(&done.references) {
            record(above, &mut lineage, &mut seen);
        }
        let subset = match done.inputs.first().filter(|input| input.noun == Noun::Subset) {
            Some(input) => Some(chosen(input)?),
            None => None,
        };
        let facts = Facts {
            name: &done.id,
            version: 1,
            parent: None,
            plan: self,
            counts: done.counts.clone(),
            lineage,
            subset,
            tombstones: None,
        };
        release::finish(&done.dir, &done.commits, facts, out).map(drop)
    }

    fn worker<'a>(&'a self, site: &'a Site) -> Result<Box<dyn Worker + 'a>> {
        let input = site.inputs.first().ok_or_else(|| Error::internal("no input"))?;
        let parts = Parts::of(input)?;
        let scores = match &parts {
            Parts::Shards(tars) => scores_of(input, tars)?,
            Parts::Judged { .. } => ScoreTable::empty(),
        };
        Ok(Box::new(Release { plan: self, site, parts, scores }))
    }
}

/// The uids of a selection.
fn chosen(done: &Done) -> Result<Vec<Uid>> {
    subset::read(&done.dir.blob(filter::select::OUTPUT)?)
}

/// A stage and what is above it, sources first, each once.
fn record(done: &Arc<Done>, lineage: &mut Vec<StageRecord>, seen: &mut BTreeSet<String>) {
    if !seen.insert(done.id.clone()) {
        return;
    }
    for above in done.inputs.iter().chain(&done.references) {
        record(above, lineage, seen);
    }
    let ids = |list: &[Arc<Done>]| list.iter().map(|above| above.id.clone()).collect();
    lineage.push(StageRecord {
        id: done.id.clone(),
        kind: done.kind.to_owned(),
        key: done.key.clone(),
        counts: done.counts.clone(),
        inputs: ids(&done.inputs),
        references: ids(&done.references),
        identity: done.identity.clone(),
    });
}

/// What the units are made from.
enum Parts {
    Shards(Vec<Tar>),
    Judged { files: Vec<String>, subset: Option<Vec<Uid>> },
}

struct Tar {
    unit: String,
    url: String,
    /// Its length and sha256, where a stage of this recipe wrote it.
    record: Option<FileRecord>,
}

impl Parts {
    fn of(input: &Arc<Done>) -> Result<Self> {
        let judged =
            |done: &Arc<Done>, subset| Ok(Self::Judged { files: pool::parquets(done)?, subset });
        match input.noun {
            Noun::Shards => {
                let records: Vec<&FileRecord> =
                    input.commits.iter().flat_map(|commit| &commit.files).collect();
                let tar = |url: String| {
                    let name = base_name(&url);
                    let own = records.iter().find(|r| r.name == name && input.kind != "shards");
                    Tar { unit: stem(&url), record: own.map(|r| (*r).clone()), url }
                };
                let tars: Vec<Tar> = shards::tar_urls(input)?.into_iter().map(tar).collect();
                check_names(tars.iter().map(|tar| tar.unit.as_str()))?;
                Ok(Self::Shards(tars))
            }
            Noun::Subset => {
                let scores = near(input, Noun::Scores).ok_or_else(|| {
                    Error::recipe("the pairs behind this selection are not in the recipe")
                })?;
                judged(&scores, Some(chosen(input)?))
            }
            _ => judged(input, None),
        }
    }
}

/// Units are named by their files.
fn check_names<'a>(names: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(Error::input(format!("two shards are called {name}.tar"))
                .hint("put a `reshard` stage before the release: it numbers its shards anew"));
        }
    }
    Ok(())
}

/// The nearest stage that gives this, through what stages take and what their plans name.
fn near(done: &Arc<Done>, noun: Noun) -> Option<Arc<Done>> {
    if done.noun == noun {
        return Some(Arc::clone(done));
    }
    done.inputs.iter().chain(&done.references).find_map(|above| near(above, noun))
}

/// The scores of the pairs in these shards, if a judge stands behind them.
fn scores_of(input: &Arc<Done>, tars: &[Tar]) -> Result<ScoreTable> {
    let Some(scores) = near(input, Noun::Scores) else { return Ok(ScoreTable::empty()) };
    let urls: Vec<String> = tars.iter().map(|tar| tar.url.clone()).collect();
    let mut uids = Shards::open(&urls)?.uids()?.to_vec();
    uids.sort_unstable();
    let files = pool::parquets(&scores)?;
    let files: Vec<Blob> = files.iter().map(|file| Blob::open(file)).collect::<Result<_>>()?;
    ScoreTable::read(&files, &uids)
}

struct Release<'a> {
    plan: &'a ReleasePlan,
    site: &'a Site,
    parts: Parts,
    scores: ScoreTable,
}

impl Worker for Release<'_> {
    fn units(&self) -> Vec<String> {
        match &self.parts {
            Parts::Shards(tars) => tars.iter().map(|tar| tar.unit.clone()).collect(),
            Parts::Judged { files, .. } => (0..files.len()).map(|i| format!("{i:05}")).collect(),
        }
    }

    fn run(&mut self, unit: &str, out: &mut Attempt) -> Result<Outcome> {
        self.unit(unit, out)
    }

    fn side_by_side(&self) -> Option<SideBySide<'_>> {
        let at_once = self.site.context.threads.min(self.units().len()).max(1);
        Some(SideBySide { at_once, run: Box::new(|unit, out| self.unit(unit, out)) })
    }
}

impl Release<'_> {
    fn unit(&self, unit: &str, out: &mut Attempt) -> Result<Outcome> {
        let cx = &self.site.context;
        let counts = match &self.parts {
            Parts::Shards(tars) => {
                let tar =
                    tars.iter().find(|tar| tar.unit == unit).ok_or_else(|| unknown_unit(unit))?;
                let blob = Blob::open(&tar.url)?;
                let shards = !self.plan.metadata_only;
                let counts = release::rows_of_shard(cx, unit, &blob, &self.scores, shards, out)?;
                if shards {
                    release::copy_shard(unit, &blob, tar.record.as_ref(), out)?;
                }
                counts
            }
            Parts::Judged { files, subset } => {
                let number = unit.parse::<usize>().map_err(|_| unknown_unit(unit))?;
                let file = files.get(number).ok_or_else(|| unknown_unit(unit))?;
                release::rows_of_scores(cx, unit, &Blob::open(file)?, subset.as_deref(), out)?
            }
        };
        Ok(Outcome { counts, info: json!({}) })
    }
}
