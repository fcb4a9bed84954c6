//! `links`: WAT files to link parquets, some files a unit.

use ingest::links::{LinksPlan, LinksUnit};
use serde_json::{Value, json};
use stage::{Context, Result};
use store::Attempt;

use super::{Outcome, Site, Stage, Worker, fingerprint_of, unknown_unit};

impl Stage for LinksPlan {
    fn validate(&self) -> Result<()> {
        Self::validate(self)
    }

    fn identity(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    fn external(&self, context: &Context) -> Result<Value> {
        let units = self.units(context)?;
        let wats = units.iter().flat_map(|unit| &unit.wats).map(ingest::links::WatSource::url);
        // A crawl's file on a web server never changes under its name; a local one may.
        let is_web = |url: &str| url.starts_with("http://") || url.starts_with("https://");
        wats.map(|url| if is_web(url) { Ok(json!(url)) } else { fingerprint_of(url) }).collect()
    }

    fn worker<'a>(&'a self, site: &'a Site) -> Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(Links { site, units: self.units(&site.context)? }))
    }
}

struct Links<'a> {
    site: &'a Site,
    units: Vec<LinksUnit>,
}

impl Worker for Links<'_> {
    fn units(&self) -> Vec<String> {
        self.units.iter().map(|unit| unit.name.clone()).collect()
    }

    fn run(&mut self, unit: &str, out: &mut Attempt) -> Result<Outcome> {
        let wats =
            self.units.iter().find(|one| one.name == unit).ok_or_else(|| unknown_unit(unit))?;
        let mut file = out.file(&format!("links-{unit}.parquet"))?;
        let report = ingest::links::run_unit(&wats.wats, &mut file, &self.site.context)?;
        file.finish()?;
        Ok(Outcome { counts: report.counts(), info: json!(report) })
    }
}
