//! `select`: scores to a subset file, over the whole pool at once.

use filter::select::SelectPlan;
use serde_json::{Value, json};
use stage::Result;
use store::Attempt;

use super::{Outcome, Site, Stage, Worker, pool};

impl Stage for SelectPlan {
    fn validate(&self) -> Result<()> {
        Self::validate(self)
    }

    fn identity(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    fn worker<'a>(&'a self, site: &'a Site) -> Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(Select { plan: self, site }))
    }
}

struct Select<'a> {
    plan: &'a SelectPlan,
    site: &'a Site,
}

impl Worker for Select<'_> {
    fn units(&self) -> Vec<String> {
        vec!["all".to_owned()]
    }

    fn run(&mut self, _unit: &str, out: &mut Attempt) -> Result<Outcome> {
        let mut files = Vec::new();
        for input in &self.site.inputs {
            files.extend(pool::parquets(input)?);
        }
        let selection = self.plan.run(&self.site.context, &files, out)?;
        let thresholds: serde_json::Map<String, Value> =
            selection.thresholds.into_iter().map(|(what, value)| (what, json!(value))).collect();
        Ok(Outcome { counts: selection.counts, info: json!({"thresholds": thresholds}) })
    }
}
