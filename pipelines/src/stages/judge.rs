//! `judge`: scores beside the pairs of each shard, one shard a unit.
//!
//! A unit's scores are kept in the folder `<id>.scores`, verdicts on them in the stage's own. After
//! a change of thresholds the verdicts are made again from the scores that lie there, without a
//! look at a picture.

use filter::judge::{AnyJudge, Judge, JudgeContext, check_columns, rejudge_unit, run_unit};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stage::{Context, Error, Pairs, Result};
use store::Attempt;

use super::{
    Outcome, Scores, Site, Stage, Worker, base_name, checkpoint, fingerprint_of, shards,
    unknown_unit,
};
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
        self.0.iter().try_for_each(|judge| judge.plan().validate())?;
        check_columns(&self.0)
    }

    fn references(&self) -> Vec<(String, Noun)> {
        self.checkpoints().map(|name| (name.to_owned(), Noun::Checkpoint)).collect()
    }

    /// 2: JPEGs are decoded to libjpeg-turbo's pixels. 3: networks of judges add up from the bias on,
    /// with normalisations folded into their convolutions; `pii` finds numbers beside others. 4, with
    /// `pii` alone: it finds what other signs join or words stand behind.
    fn code(&self) -> u32 {
        if self.0.iter().any(|judge| judge.plan().name() == "pii") { 4 } else { 3 }
    }

    fn identity(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    fn scoring(&self) -> Option<Value> {
        let judges =
            self.0.iter().map(|judge| json!({judge.plan().name(): judge.plan().scoring()}));
        Some(judges.collect())
    }

    fn external(&self, _context: &Context) -> Result<Value> {
        let checkpoints = checkpoint::fingerprints(self.checkpoints())?;
        let mut files = Vec::new();
        for judge in &self.0 {
            for file in judge.plan().files() {
                files.push(fingerprint_of(file).map_err(|e| e.at(judge.plan().name()))?);
            }
        }
        Ok(if files.is_empty() { checkpoints } else { json!([checkpoints, files]) })
    }

    fn worker<'a>(&'a self, site: &'a Site) -> Result<Box<dyn Worker + 'a>> {
        let tars = site.shard_urls()?;
        let scores = scores_of(site)?;
        let there = scores.dir.commits()?;
        // With all scores there, no model is opened.
        let judges = if tars.iter().all(|tar| there.contains_key(&stem(tar))) {
            None
        } else {
            Some(Judges::open(self, site)?)
        };
        Ok(Box::new(Apart { plan: self, judges, scores, tars }))
    }
}

impl JudgesPlan {
    fn checkpoints(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|judge| judge.plan().checkpoint())
    }
}

/// Where a judge's scores lie.
pub(crate) fn scores_of(site: &Site) -> Result<&Scores> {
    site.scores.as_ref().ok_or_else(|| Error::internal("a judge without a place for scores"))
}

/// The judges with their models open.
pub(crate) struct Judges<'a> {
    plan: &'a JudgesPlan,
    open: Vec<Box<dyn Judge>>,
}

impl<'a> Judges<'a> {
    pub(crate) fn open(plan: &'a JudgesPlan, site: &Site) -> Result<Self> {
        let find = |name: &str| match site.references.get(name) {
            Some(done) => checkpoint::of(done),
            None => checkpoint::open(std::path::Path::new(name)),
        };
        let context = JudgeContext::new(&site.context).with_checkpoints(&find);
        let open =
            plan.0.iter().map(|judge| judge.plan().build(&context)).collect::<Result<_>>()?;
        Ok(Self { plan, open })
    }

    /// Judges the pairs of one shard into `<shard>.parquet`: scores to one attempt, verdicts to
    /// the other.
    pub(crate) fn run(
        &mut self,
        shard: &str,
        pairs: impl IntoIterator<Item = Result<Pairs>>,
        scores: &mut Attempt,
        out: &mut Attempt,
    ) -> Result<Outcome> {
        let mut table = scores.file(&format!("{shard}.parquet"))?;
        let mut file = out.file(&format!("{shard}.parquet"))?;
        let counts = run_unit(&self.plan.0, &mut self.open, pairs, &mut table, &mut file)?;
        table.finish()?;
        file.finish()?;
        Ok(Outcome { counts, info: Value::Null })
    }
}

/// Verdicts from the scores of a shard, if they are there.
pub(crate) fn judge_again(
    plan: &JudgesPlan,
    shard: &str,
    scores: &Scores,
    out: &mut Attempt,
) -> Result<Option<Outcome>> {
    if scores.dir.commit(shard)?.is_none() {
        return Ok(None);
    }
    let blob = scores.dir.blob(&format!("{shard}.parquet"))?;
    let table = store::parquet::File::open(&blob)?;
    let batches = table.batches(&store::parquet::Pick::default())?;
    let mut file = out.file(&format!("{shard}.parquet"))?;
    let counts = rejudge_unit(&plan.0, table.schema(), batches, &mut file)?;
    file.finish()?;
    Ok(Some(Outcome { counts, info: json!({"scores": "reused"}) }))
}

/// Judges shards that lie on disk.
struct Apart<'a> {
    plan: &'a JudgesPlan,
    judges: Option<Judges<'a>>,
    scores: &'a Scores,
    tars: Vec<String>,
}

impl Worker for Apart<'_> {
    fn units(&self) -> Vec<String> {
        self.tars.iter().map(|tar| stem(tar)).collect()
    }

    fn run(&mut self, unit: &str, out: &mut Attempt) -> Result<Outcome> {
        if let Some(outcome) = judge_again(self.plan, unit, self.scores, out)? {
            return Ok(outcome);
        }
        let tar =
            self.tars.iter().find(|tar| stem(tar) == unit).ok_or_else(|| unknown_unit(unit))?;
        let judges = self.judges.as_mut().ok_or_else(|| Error::internal("scores vanished"))?;
        let mut scores = self.scores.dir.begin(unit)?;
        let outcome = judges.run(unit, read(tar)?, &mut scores, out)?;
        self.scores.commit(scores)?;
        Ok(outcome)
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
