//! `dedup`: exact duplicates out of link parquets, in one unit.

use filter::dedup::DedupPlan;
use serde_json::{Value, json};
use stage::Result;
use store::Attempt;

use super::{Outcome, Site, Stage, Worker};

impl Stage for DedupPlan {
    fn validate(&self) -> Result<()> {
        Self::validate(self)
    }

    /// The memory limit changes how, not what.
    fn identity(&self) -> Value {
        json!({"by": self.by})
    }

    fn worker<'a>(&'a self, site: &'a Site) -> Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(Dedup { plan: self, site }))
    }
}

struct Dedup<'a> {
    plan: &'a DedupPlan,
    site: &'a Site,
}

impl Worker for Dedup<'_> {
    fn units(&self) -> Vec<String> {
        vec!["all".to_owned()]
    }

    fn run(&mut self, _unit: &str, out: &mut Attempt) -> Result<Outcome> {
        let files: Vec<String> =
            self.site.inputs.iter().flat_map(|input| input.locations(".parquet")).collect();
        let done = self.plan.run(&self.site.context, &files, &self.site.dir.work_dir()?, out)?;
        Ok(Outcome { counts: done.counts, info: Value::Null })
    }
}
