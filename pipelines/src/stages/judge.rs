//! `judge`: scores beside the pairs of each shard, one shard a unit.

use filter::judge::{AnyJudge, Judge, JudgeContext, run_unit};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use stage::{Error, Pairs, Result};
use store::Attempt;

use super::{Outcome, Site, Stage, Worker, base_name, checkpoint, shards, unknown_unit};
use crate::recipe::Noun;

/// The judges of a stage, in order; the first that fails gives the reason.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct JudgesPlan(pub Vec<AnyJudge>);

impl Stage for JudgesPlan {
    fn validate(&self) -> Result<()> {
        if self.0.is_empty() {
            return Err(Error::recipe("a judge stage names at least one judge"));
        }
        self.0.iter().try_for_each(|judge| judge.plan().validate())
    }

    fn references(&self) -> Vec<(String, Noun)> {
        let names = self.0.iter().filter_map(|judge| match judge {
            AnyJudge::ClipScore(plan) => Some(plan.checkpoint.clone()),
            _ => None,
        });
        names.map(|name| (name, Noun::Checkpoint)).collect()
    }

    fn identity(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    fn worker<'a>(&'a self, site: &'a Site) -> Result<Box<dyn Worker + 'a>> {
        let tars = site.shard_urls()?;
        Ok(Box::new(Apart { judges: Judges::open(self, site)?, tars }))
    }
}

/// The judges with their models open.
pub(crate) struct Judges(Vec<Box<dyn Judge>>);

impl Judges {
    pub(crate) fn open(plan: &JudgesPlan, site: &Site) -> Result<Self> {
        let find = |name: &str| match site.references.get(name) {
            Some(done) => checkpoint::of(done),
            None => checkpoint::open(std::path::Path::new(name)),
        };
        let context = JudgeContext::new(&site.context).with_checkpoints(&find);
        plan.0.iter().map(|judge| judge.plan().build(&context)).collect::<Result<_>>().map(Self)
    }

    /// Judges the pairs of one shard into `<shard>.parquet`.
    pub(crate) fn run(
        &mut self,
        shard: &str,
        pairs: impl IntoIterator<Item = Result<Pairs>>,
        out: &mut Attempt,
    ) -> Result<Outcome> {
        let mut file = out.file(&format!("{shard}.parquet"))?;
        let counts = run_unit(&mut self.0, pairs, &mut file, None)?;
        file.finish()?;
        Ok(Outcome { counts, info: Value::Null })
    }
}

/// Judges shards that lie on disk.
struct Apart {
    judges: Judges,
    tars: Vec<String>,
}

impl Worker for Apart {
    fn units(&self) -> Vec<String> {
        self.tars.iter().map(|tar| stem(tar)).collect()
    }

    fn run(&mut self, unit: &str, out: &mut Attempt) -> Result<Outcome> {
        let tar =
            self.tars.iter().find(|tar| stem(tar) == unit).ok_or_else(|| unknown_unit(unit))?;
        self.judges.run(unit, read(tar)?, out)
    }
}

/// The pairs of one shard, failures of its parquet included.
pub(crate) fn read(tar: &str) -> Result<Box<dyn Iterator<Item = Result<Pairs>>>> {
    match shards::parquet_beside(tar) {
        Some(parquet) => Ok(Box::new(shard::PoolReader::open(tar, &parquet)?)),
        None => {
            let shards = shard::Shards::open(&[tar.to_owned()])?;
            let count = stage::PairSource::len(&shards);
            Ok(Box::new((0..count.div_ceil(BATCH)).map(move |batch| {
                let rows: Vec<usize> = (batch * BATCH..count.min((batch + 1) * BATCH)).collect();
                stage::PairSource::read(&shards, &rows)
            })))
        }
    }
}

/// Pairs read at once; any number gives the same bytes.
const BATCH: usize = 128;

/// `00042` of `some/folder/00042.tar`.
pub(crate) fn stem(tar: &str) -> String {
    let name = base_name(tar);
    name.strip_suffix(".tar").unwrap_or(name).to_owned()
}
