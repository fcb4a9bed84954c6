//! `compress`: a checkpoint to a cheaper one, in one unit.

use compress::AnyCompressor;
use serde_json::{Value, json};
use stage::{Counts, Error, Result};
use store::Attempt;

use super::{Outcome, Site, Stage, Worker, checkpoint};
use crate::recipe::Kind;

impl Stage for AnyCompressor {
    fn validate(&self) -> Result<()> {
        self.plan().validate()
    }

    fn check_inputs(&self, inputs: &[&Kind]) -> Result<()> {
        let AnyCompressor::Repavit(_) = self;
        let plain =
            |kind: &&&Kind| matches!(kind, Kind::Train(plan) if plan.idle_channels.is_none());
        match inputs.iter().find(plain) {
            Some(_) => {
                Err(Error::recipe("repavit folds a model that was trained with idle channels")
                    .hint("give the `train` stage above it `idle_channels: 0.5`"))
            }
            None => Ok(()),
        }
    }

    fn identity(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    fn worker<'a>(&'a self, site: &'a Site) -> Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(Compress { plan: self, site }))
    }
}

struct Compress<'a> {
    plan: &'a AnyCompressor,
    site: &'a Site,
}

impl Worker for Compress<'_> {
    fn units(&self) -> Vec<String> {
        vec!["all".to_owned()]
    }

    fn run(&mut self, _unit: &str, out: &mut Attempt) -> Result<Outcome> {
        let input = self.site.inputs.first().ok_or_else(|| Error::internal("no checkpoint"))?;
        let (model, folder) = checkpoint::of(input)?;
        let mut worker = self.plan.plan().build(&self.site.context)?;
        let source = compress::Source { checkpoint: &model, base: &folder };
        let (_, report) = worker.compress(source, out.local_dir())?;
        Ok(Outcome { counts: Counts::default(), info: json!({"report": report}) })
    }
}
