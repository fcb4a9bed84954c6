//! `train`: shards to a checkpoint, in one unit that saves its own state as it goes.

use serde_json::{Value, json};
use stage::{Context, Error, PairSource, Result};
use store::Attempt;
use train::TrainPlan;

use super::{Outcome, Site, Stage, Worker, fingerprint, shards};

impl Stage for TrainPlan {
    fn validate(&self) -> Result<()> {
        Self::validate(self)
    }

    /// 2: JPEGs are decoded to libjpeg-turbo's pixels.
    fn code(&self) -> u32 {
        2
    }

    /// Saving and logging more often changes no weight.
    fn identity(&self) -> Value {
        let mut plan = serde_json::to_value(self).unwrap_or_default();
        if let Some(plan) = plan.as_object_mut() {
            for field in ["data", "save_every", "log_every_n_steps"] {
                plan.remove(field);
            }
        }
        plan
    }

    fn external(&self, _context: &Context) -> Result<Value> {
        if self.data.is_empty() { Ok(Value::Null) } else { fingerprint(&shards::tars(&self.data)?) }
    }

    fn worker<'a>(&'a self, site: &'a Site) -> Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(Train { plan: self, site }))
    }
}

struct Train<'a> {
    plan: &'a TrainPlan,
    site: &'a Site,
}

impl Worker for Train<'_> {
    fn units(&self) -> Vec<String> {
        vec!["run".to_owned()]
    }

    fn run(&mut self, _unit: &str, out: &mut Attempt) -> Result<Outcome> {
        let mut tars = self.site.shard_urls()?;
        if !self.plan.data.is_empty() {
            tars.extend(shards::tars(&self.plan.data)?);
        }
        if tars.is_empty() {
            return Err(Error::recipe("nothing to train on")
                .hint("take shards with `from:`, or name them with `data:`"));
        }
        let data = shard::Shards::open(&tars)?;
        if data.is_empty() {
            return Err(Error::input(format!("no sample in {} shards", tars.len())).at(&tars[0]));
        }
        let work = self.site.dir.work_dir()?;
        let outcome = train::run(self.plan, &data, &work, out, &self.site.context, None)?;
        let info = json!({
            "steps": outcome.steps,
            "samples_seen": outcome.samples_seen,
            "loss": outcome.loss,
            "skipped_steps": outcome.skipped_steps,
            "resumed_at": outcome.resumed_at,
            "notes": outcome.notes,
            "data_share": outcome.data_share,
        });
        Ok(Outcome { counts: outcome.counts, info })
    }
}
