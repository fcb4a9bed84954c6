//! `fetch`: links to img2dataset's shards, some thousand links a unit.

use ingest::fetch::{Digest, FetchPlan, Fetcher, Isolation};
use serde_json::{Value, json};
use shard::PoolWriter;
use stage::{Context, Error, Links, Pairs, Result};
use store::{Attempt, Blob};

use super::fetch_rows::Source;
use super::{Outcome, Site, Stage, Worker, unknown_unit};
use crate::recipe::{Kind, Noun};

impl Stage for FetchPlan {
    fn validate(&self) -> Result<()> {
        Self::validate(self)
    }

    fn check_inputs(&self, inputs: &[&Kind]) -> Result<()> {
        let shards = |kind: &&&Kind| kind.info().gives == Noun::Shards;
        if !self.retry_failed && inputs.iter().any(|kind| shards(&kind)) {
            return Err(Error::recipe("fetch takes shards only with `retry_failed: true`")
                .hint("take links, or set `retry_failed` to fetch again what failed"));
        }
        Ok(())
    }

    /// 2: JPEG files are byte for byte what OpenCV writes. 3: they are decoded to its pixels too. 4, with
    /// boxes of faces alone: boxes in pixels are bad ones.
    fn code(&self) -> u32 {
        if self.bbox_col.is_some() { 4 } else { 3 }
    }

    /// How many sockets at once, how slowly, and where hosts are dialled, change when and not what;
    /// the alarm decides whether there is anything at all.
    fn identity(&self) -> Value {
        let mut plan = serde_json::to_value(self).unwrap_or_default();
        if let Some(plan) = plan.as_object_mut() {
            for field in ["thread_count", "max_per_host", "max_per_ip", "max_crawl_delay", "dial"]
                .into_iter()
                .chain(["min_success_rate", "alarm_window", "resolver"])
            {
                plan.remove(field);
            }
            // A worker makes the same bytes, but its deadline can fail a picture.
            if self.decode.isolation == Isolation::None {
                plan.remove("decode");
            }
            // Not where the lists lie but what they say: see `external`.
            plan.remove("opt_out");
        }
        plan
    }

    /// What the opt-out lists say, each under its field.
    fn external(&self, _context: &Context) -> Result<Value> {
        let lists = &self.opt_out;
        Ok(json!({
            "domains": contents(&lists.domains)?,
            "urls": contents(&lists.urls)?,
            "prefixes": contents(&lists.prefixes)?,
            "sha256": contents(&lists.sha256)?,
        }))
    }

    fn worker<'a>(&'a self, site: &'a Site) -> Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(Fetch::open(self, site)?))
    }
}

/// The sha256 of each file that these patterns name, whatever its size: a list that changed must
/// not pass for the one before.
fn contents(patterns: &[String]) -> Result<Vec<String>> {
    let mut digests = Vec::new();
    for pattern in patterns {
        for url in store::expand(pattern)? {
            digests.push(Blob::open(&url)?.sha256()?);
        }
    }
    Ok(digests)
}

/// Fetches units of links.
pub(crate) struct Fetch<'a> {
    plan: &'a FetchPlan,
    fetcher: Fetcher,
    source: Source,
}

impl<'a> Fetch<'a> {
    pub(crate) fn open(plan: &'a FetchPlan, site: &'a Site) -> Result<Self> {
        let source = Source::open(plan, &site.inputs)?;
        // That nothing is left to be retried is good news.
        if source.rows() == 0 && !plan.retry_failed {
            let from: Vec<&str> = site.inputs.iter().map(|input| input.id.as_str()).collect();
            return Err(Error::input("there is no link to fetch").at(from.join(", ")));
        }
        let fetcher = Fetcher::new(plan, &site.dial, &site.context)?;
        let fetcher = fetcher.with_workers(&crate::cli::decode_worker(plan.decode.memory))?;
        Ok(Self { plan, fetcher, source })
    }

    pub(crate) fn units(&self) -> Vec<String> {
        let first = self.source.first_shard();
        let shards = first..first + self.source.shards(self.plan);
        shards.map(|shard| self.plan.shard_name(shard as u32)).collect()
    }

    /// Fetches one shard into `out`; each batch is handed on to `sink` besides.
    pub(crate) fn run(
        &mut self,
        unit: &str,
        out: &mut Attempt,
        sink: &mut dyn FnMut(Pairs) -> Result<()>,
    ) -> Result<Outcome> {
        let shard: u32 = unit.parse().map_err(|_| unknown_unit(unit))?;
        let size = u64::from(self.plan.number_sample_per_shard);
        let index = u64::from(shard)
            .checked_sub(self.source.first_shard())
            .ok_or_else(|| unknown_unit(unit))?;
        let links = self.source.slice(index * size, size)?;
        let mut tar = out.file(&format!("{unit}.tar"))?;
        let mut parquet = out.file(&format!("{unit}.parquet"))?;
        let mut stats = out.file(&format!("{unit}_stats.json"))?;
        let json = json_columns(self.plan, &links);
        let mut writer = PoolWriter::new(&mut tar).with_json_columns(&json);
        let counts = self.fetcher.run_unit(&links, shard, &mut |pairs: Pairs| {
            writer.push(&pairs)?;
            sink(pairs)
        })?;
        let (_, summary) = writer.finish(&mut parquet, &mut stats)?;
        tar.finish()?;
        parquet.finish()?;
        stats.finish()?;
        if summary.successes != counts.kept {
            return Err(Error::internal(format!(
                "{} pictures fetched, {} written",
                counts.kept, summary.successes
            )));
        }
        Ok(Outcome { counts, info: json!({"bytes": summary.tar_bytes}) })
    }
}

impl Worker for Fetch<'_> {
    fn units(&self) -> Vec<String> {
        Fetch::units(self)
    }

    fn run(&mut self, unit: &str, out: &mut Attempt) -> Result<Outcome> {
        Fetch::run(self, unit, out, &mut |_| Ok(()))
    }
}

/// What a sample's json says beside img2dataset's own fields: additional columns (no lists, which
/// its readers do not expect), the EXIF tags, another digest than sha256.
fn json_columns<'a>(plan: &'a FetchPlan, links: &[Links]) -> Vec<&'a str> {
    let is_scalar = |name: &str| {
        let column = links.first().and_then(|links| links.batch().column_by_name(name));
        column.is_some_and(|column| {
            use arrow_schema::DataType as T;
            matches!(
                column.data_type(),
                T::Utf8 | T::LargeUtf8 | T::Boolean | T::Int32 | T::Int64 | T::Float32 | T::Float64
            )
        })
    };
    let additional = plan.save_additional_columns.iter().map(String::as_str);
    let mut names: Vec<&str> =
        additional.filter(|name| *name != "uid" && is_scalar(name)).collect();
    names.extend(plan.extract_exif.then_some("exif"));
    names.extend(plan.compute_hash.map(Digest::name).filter(|name| *name != "sha256"));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opt_out_list_is_part_of_the_key_by_what_it_says_and_not_by_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let parts = |name: &str, text: &str| {
            let path = folder.path().join(name);
            let mut file = std::fs::File::create(&path).unwrap();
            std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
            let mut plan = FetchPlan::default();
            plan.opt_out.domains = vec![path.to_str().unwrap().to_owned()];
            (plan.identity(), plan.external(&Context::default()).unwrap())
        };
        assert_eq!(parts("a.txt", "a.example\n"), parts("b.txt", "a.example\n"));
        assert_ne!(parts("a.txt", "a.example\n"), parts("a.txt", "b.example\n"));
        assert_ne!(
            parts("a.txt", "").1,
            FetchPlan::default().external(&Context::default()).unwrap()
        );
    }
}
