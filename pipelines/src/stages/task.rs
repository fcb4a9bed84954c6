//! `task`: a downstream task, one checkpoint a unit.

use serde_json::{Value, json};
use stage::{Context, Counts, Result};
use store::Attempt;
use tasks::AnyTask;

use super::eval::open_shards;
use super::{Outcome, Site, Stage, Worker, checkpoint, fingerprint, shards, unknown_unit};

/// Samples in a forward pass; changes no result beyond rounding.
const BATCH: u32 = 64;

impl Stage for AnyTask {
    fn validate(&self) -> Result<()> {
        self.plan().validate()
    }

    /// 2: JPEGs are decoded to libjpeg-turbo's pixels.
    fn code(&self) -> u32 {
        2
    }

    fn identity(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    fn external(&self, _context: &Context) -> Result<Value> {
        fingerprint(&shards::tars(&self.plan().data())?)
    }

    fn worker<'a>(&'a self, site: &'a Site) -> Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(Run { plan: self, site }))
    }
}

struct Run<'a> {
    plan: &'a AnyTask,
    site: &'a Site,
}

impl Worker for Run<'_> {
    fn units(&self) -> Vec<String> {
        self.site.inputs.iter().map(|input| input.id.clone()).collect()
    }

    fn run(&mut self, unit: &str, out: &mut Attempt) -> Result<Outcome> {
        let input =
            self.site.inputs.iter().find(|i| i.id == unit).ok_or_else(|| unknown_unit(unit))?;
        let (model, folder) = checkpoint::of(input)?;
        let encoder = models::Encoder::open(&model, &folder, BATCH, &self.site.context)?;
        let report = self.plan.plan().run(&encoder, &open_shards, &self.site.context)?;
        out.put(&format!("{unit}/report.json"), json!(report).to_string().as_bytes())?;
        Ok(Outcome { counts: Counts::default(), info: json!({"reports": [report]}) })
    }
}
