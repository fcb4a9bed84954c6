//! `eval`: zero-shot tasks, one checkpoint a unit.

use eval::EvalPlan;
use eval::results::{clip_benchmark, jsonl};
use serde_json::{Value, json};
use stage::{Context, Counts, PairSource, Result};
use store::Attempt;

use super::{Outcome, Site, Stage, Worker, checkpoint, fingerprint, shards, unknown_unit};

impl Stage for EvalPlan {
    fn validate(&self) -> Result<()> {
        Self::validate(self)
    }

    /// 2: JPEGs are decoded to libjpeg-turbo's pixels.
    fn code(&self) -> u32 {
        2
    }

    fn identity(&self) -> Value {
        let mut plan = serde_json::to_value(self).unwrap_or_default();
        if let Some(plan) = plan.as_object_mut() {
            plan.remove("batch_size");
        }
        plan
    }

    fn external(&self, _context: &Context) -> Result<Value> {
        let mut files: Vec<String> = Vec::new();
        for task in &self.classification {
            files.extend(shards::tars(&task.data)?);
            files.extend(task.classes.clone());
        }
        if let Some(task) = &self.retrieval {
            files.extend(shards::tars(&task.data)?);
        }
        fingerprint(&files)
    }

    fn worker<'a>(&'a self, site: &'a Site) -> Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(Eval { plan: self, site }))
    }
}

struct Eval<'a> {
    plan: &'a EvalPlan,
    site: &'a Site,
}

impl Worker for Eval<'_> {
    fn units(&self) -> Vec<String> {
        self.site.inputs.iter().map(|input| input.id.clone()).collect()
    }

    fn run(&mut self, unit: &str, out: &mut Attempt) -> Result<Outcome> {
        let input =
            self.site.inputs.iter().find(|i| i.id == unit).ok_or_else(|| unknown_unit(unit))?;
        let (model, folder) = checkpoint::of(input)?;
        let encoder =
            models::Encoder::open(&model, &folder, self.plan.batch_size, &self.site.context)?;
        let measured = eval::run(self.plan, &encoder, &open_shards, &self.site.context)?;
        let results: Vec<_> = measured.iter().map(|m| m.result.clone()).collect();
        out.put(&format!("{unit}/eval_results.jsonl"), jsonl(&results).as_bytes())?;
        for one in &measured {
            let benchmark = clip_benchmark(&one.result, unit, one.task);
            let name = format!("{unit}/{}_clipmill_{unit}_en_{}.json", one.result.key, one.task);
            out.put(&name, benchmark.to_string().as_bytes())?;
        }
        let reports: Vec<_> = measured.into_iter().map(|m| m.report).collect();
        Ok(Outcome { counts: Counts::default(), info: json!({"reports": reports}) })
    }
}

/// Opens shards by pattern, with these json fields as further columns.
pub(crate) fn open_shards(patterns: &[String], columns: &[&str]) -> Result<Box<dyn PairSource>> {
    Ok(Box::new(shard::Shards::open(&shards::tars(patterns)?)?.with_json_columns(columns)?))
}
