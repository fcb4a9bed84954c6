//! `reshard`: chosen pairs into training shards, one output shard a unit, then the files that
//! stand beside them.

use std::collections::HashSet;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use filter::select::OUTPUT as SUBSET;
use serde_json::{Value, json};
use shard::{ReshardPlan, Resharding, Selection, Shards};
use stage::{Context, Counts, Error, Result};
use store::Attempt;
use store::subset::{self, Uid};

use super::{Outcome, Site, Stage, Worker, fingerprint_if_file, pool, shards, unknown_unit};
use crate::recipe::Noun;

impl Stage for ReshardPlan {
    fn validate(&self) -> Result<()> {
        Self::validate(self)
    }

    /// The subset's place changes nothing, its content does.
    fn identity(&self) -> Value {
        serde_json::to_value(Self { subset: None, ..self.clone() }).unwrap_or_default()
    }

    fn external(&self, _context: &Context) -> Result<Value> {
        self.subset.as_deref().map_or(Ok(Value::Null), fingerprint_if_file)
    }

    fn references(&self) -> Vec<(String, Noun)> {
        self.subset.iter().map(|name| (name.clone(), Noun::Subset)).collect()
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
        let resharding = self.plan(&site.context, &sources, selection)?;
        Ok(Box::new(Reshard { site, sources, resharding, subset }))
    }
}

struct Reshard<'a> {
    site: &'a Site,
    sources: Shards,
    resharding: Resharding,
    subset: Option<Vec<Uid>>,
}

/// The unit of the files that stand once beside all shards.
const BESIDE: &str = "beside";

impl Worker for Reshard<'_> {
    fn units(&self) -> Vec<String> {
        let shards = self.resharding.shards.iter().map(shard::OutputShard::unit);
        shards.chain([BESIDE.to_owned()]).collect()
    }

    fn run(&mut self, unit: &str, out: &mut Attempt) -> Result<Outcome> {
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
        let counts = shard::run_unit(&self.site.context, shard, &self.sources, out)?;
        Ok(Outcome { counts, info: Value::Null })
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
