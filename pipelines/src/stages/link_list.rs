//! `link_list`: link files that are there already, in one unit.

use ingest::link_list::LinkListPlan;
use serde_json::{Value, json};
use stage::{Context, Result};
use store::Attempt;

use super::{Outcome, Site, Stage, Worker, fingerprint};

impl Stage for LinkListPlan {
    fn validate(&self) -> Result<()> {
        Self::validate(self)
    }

    fn identity(&self) -> Value {
        let mut identity = json!({"format": self.input_format, "url": self.url_col, "caption": self.caption_col, "uid": self.uid_col});
        if let (Some(identity), false) = (identity.as_object_mut(), self.columns.is_empty()) {
            identity.insert("columns".to_owned(), json!(self.columns));
        }
        identity
    }

    fn external(&self, _context: &Context) -> Result<Value> {
        fingerprint(&self.url_list)
    }

    fn worker<'a>(&'a self, site: &'a Site) -> Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(List { plan: self, site }))
    }
}

struct List<'a> {
    plan: &'a LinkListPlan,
    site: &'a Site,
}

impl Worker for List<'_> {
    fn units(&self) -> Vec<String> {
        vec!["all".to_owned()]
    }

    fn run(&mut self, _unit: &str, out: &mut Attempt) -> Result<Outcome> {
        let counts = self.plan.run(&self.site.context, out)?;
        Ok(Outcome { counts, info: Value::Null })
    }
}
