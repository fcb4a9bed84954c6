//! `embed`: image and text embeddings of shards, in clip-retrieval's layout, in one unit.

use filter::embed::EmbedPlan;
use filter::judge::JudgeContext;
use serde_json::Value;
use stage::{Context, Result};
use store::Attempt;

use super::{Outcome, Site, Stage, Worker, checkpoint};
use crate::recipe::Noun;

impl Stage for EmbedPlan {
    fn validate(&self) -> Result<()> {
        Self::validate(self)
    }

    fn references(&self) -> Vec<(String, Noun)> {
        vec![(self.checkpoint.clone(), Noun::Checkpoint)]
    }

    /// 2: JPEGs are decoded to libjpeg-turbo's pixels. 3: bf16 reaches the layers of a folded model.
    fn code(&self) -> u32 {
        3
    }

    fn identity(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    fn external(&self, _context: &Context) -> Result<Value> {
        checkpoint::fingerprints([self.checkpoint.as_str()].into_iter())
    }

    fn worker<'a>(&'a self, site: &'a Site) -> Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(Embed { plan: self, site }))
    }
}

struct Embed<'a> {
    plan: &'a EmbedPlan,
    site: &'a Site,
}

impl Worker for Embed<'_> {
    fn units(&self) -> Vec<String> {
        vec!["all".to_owned()]
    }

    fn run(&mut self, _unit: &str, out: &mut Attempt) -> Result<Outcome> {
        let shards = shard::Shards::open(&self.site.shard_urls()?)?;
        let find = |name: &str| match self.site.references.get(name) {
            Some(done) => checkpoint::of(done),
            None => checkpoint::open(std::path::Path::new(name)),
        };
        let context = JudgeContext::new(&self.site.context).with_checkpoints(&find);
        let rows = 0..stage::PairSource::len(&shards);
        let counts = self.plan.run(&context, &shards, rows, "0", out)?;
        Ok(Outcome { counts, info: Value::Null })
    }
}
