//! `select`: scores to a subset file, over the whole pool at once.

use filter::select::{OUTPUT, SelectPlan};
use serde_json::{Value, json};
use stage::{Context, Result};
use store::Attempt;

use super::{Outcome, Site, Stage, Worker, fingerprint_if_file, fingerprint_of, pool};
use crate::recipe::Noun;

impl Stage for SelectPlan {
    fn validate(&self) -> Result<()> {
        Self::validate(self)
    }

    fn references(&self) -> Vec<(String, Noun)> {
        self.subsets().map(|name| (name.clone(), Noun::Subset)).collect()
    }

    /// 2: rows with a NaN or an infinite number in the condition are counted as `nonfinite`.
    /// 3: those that the condition makes too; -0.0 is 0.0; `text_based` is nltk 3.8.1's.
    fn code(&self) -> u32 {
        3
    }

    fn identity(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    fn external(&self, _context: &Context) -> Result<Value> {
        let subsets = self.subsets().map(|name| fingerprint_if_file(name));
        let mut files: Vec<Value> = subsets.collect::<Result<_>>()?;
        if let Some(baseline) = &self.baseline {
            for file in baseline.files() {
                files.push(fingerprint_of(&file).map_err(|e| e.at("select: baseline"))?);
            }
        }
        Ok(if files.is_empty() { Value::Null } else { Value::Array(files) })
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
        let mut plan = self.plan.clone();
        for name in plan.subsets_mut() {
            if let Some(stage) = self.site.references.get(name) {
                *name = stage.dir.locate(OUTPUT);
            }
        }
        let selection = plan.run(&self.site.context, &files, out)?;
        let thresholds: serde_json::Map<String, Value> =
            selection.thresholds.into_iter().map(|(what, value)| (what, json!(value))).collect();
        Ok(Outcome {
            counts: selection.counts,
            info: json!({"thresholds": thresholds, "rows": selection.rows}),
        })
    }
}
