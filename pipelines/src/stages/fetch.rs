//! `fetch`: links to img2dataset's shards, some thousand links a unit.

use arrow_array::RecordBatch;
use ingest::fetch::{Digest, FetchPlan, Fetcher};
use serde_json::{Value, json};
use shard::PoolWriter;
use stage::{Context, Error, Links, Pairs, Result};
use store::parquet::Pick;
use store::{Attempt, Blob};

use super::{Outcome, Site, Stage, Worker, unknown_unit};

impl Stage for FetchPlan {
    fn validate(&self) -> Result<()> {
        Self::validate(self)
    }

    /// How many sockets at once, how slowly, and where hosts are dialled, change when and not what;
    /// the alarm decides whether there is anything at all.
    fn identity(&self) -> Value {
        let mut plan = serde_json::to_value(self).unwrap_or_default();
        if let Some(plan) = plan.as_object_mut() {
            for field in ["thread_count", "max_per_host", "max_per_ip", "max_crawl_delay", "dial"]
                .into_iter()
                .chain(["min_success_rate", "alarm_window"])
            {
                plan.remove(field);
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
    links: LinkFiles,
}

impl<'a> Fetch<'a> {
    pub(crate) fn open(plan: &'a FetchPlan, site: &'a Site) -> Result<Self> {
        let mut blobs = Vec::new();
        for input in &site.inputs {
            blobs.extend(input.blobs(".parquet")?);
        }
        let links = LinkFiles::open(blobs)?;
        if links.rows == 0 {
            let from: Vec<&str> = site.inputs.iter().map(|input| input.id.as_str()).collect();
            return Err(Error::input("there is no link to fetch").at(from.join(", ")));
        }
        let fetcher = Fetcher::new(plan, &site.dial, &site.context)?;
        Ok(Self { plan, fetcher, links })
    }

    pub(crate) fn units(&self) -> Vec<String> {
        let shards = self.links.rows.div_ceil(u64::from(self.plan.number_sample_per_shard));
        (0..shards).map(|shard| self.plan.shard_name(shard as u32)).collect()
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
        let links = self.links.slice(u64::from(shard) * size, size)?;
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

/// Link parquets as one long list, read by row number.
struct LinkFiles {
    /// With the rows of each row group.
    files: Vec<(Blob, Vec<u64>)>,
    rows: u64,
}

impl LinkFiles {
    fn open(blobs: Vec<Blob>) -> Result<Self> {
        let mut files = Vec::new();
        let mut rows = 0;
        for blob in blobs {
            let file = store::parquet::File::open(&blob)?;
            let groups = file.metadata().row_groups().iter().map(|group| group.num_rows() as u64);
            rows += file.rows();
            files.push((blob, groups.collect()));
        }
        Ok(Self { files, rows })
    }

    /// The rows `[start, start + count)`, fewer at the end. Only row groups that hold some of them
    /// are read: a unit's cost does not grow with what lies before it.
    fn slice(&self, start: u64, count: u64) -> Result<Vec<Links>> {
        let (mut links, mut at, end) = (Vec::new(), 0, start.saturating_add(count));
        for (blob, groups) in &self.files {
            let mut picked = Vec::new();
            let mut row = None;
            for (number, rows) in groups.iter().enumerate() {
                let (from, to) = (at, at + rows);
                at = to;
                if to > start && from < end {
                    row.get_or_insert(from);
                    picked.push(number);
                }
            }
            let Some(mut row) = row else { continue };
            let pick = Pick { row_groups: Some(&picked), ..Pick::default() };
            for batch in store::parquet::File::open(blob)?.batches(&pick)? {
                let batch: RecordBatch = batch?;
                let (first, last) = (row.max(start), (row + batch.num_rows() as u64).min(end));
                if first < last {
                    let part = batch.slice((first - row) as usize, (last - first) as usize);
                    links.push(Links::try_new(part).map_err(|e| e.at(blob.name()))?);
                }
                row += batch.num_rows() as u64;
                if row >= end {
                    break;
                }
            }
        }
        Ok(links)
    }
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

    #[test]
    fn a_slice_of_links_crosses_row_groups_and_files() {
        let schema = arrow_schema::Schema::new(
            ["uid", "url", "alt"]
                .map(|name| arrow_schema::Field::new(name, arrow_schema::DataType::Utf8, false))
                .to_vec(),
        );
        let file = |urls: std::ops::Range<u32>| {
            let column: arrow_array::ArrayRef = std::sync::Arc::new(
                urls.map(|i| Some(i.to_string())).collect::<arrow_array::StringArray>(),
            );
            let columns = vec![column.clone(), column.clone(), column];
            let batch = RecordBatch::try_new(std::sync::Arc::new(schema.clone()), columns).unwrap();
            let layout = store::parquet::Layout {
                row_groups: store::parquet::RowGroups::Every(3),
                ..store::parquet::Layout::default()
            };
            let mut bytes = Vec::new();
            store::parquet::write_parquet(&mut bytes, &schema, [Ok(batch)], &layout).unwrap();
            Blob::from_bytes("links.parquet", bytes.into())
        };
        let files = LinkFiles::open(vec![file(0..7), file(7..9), file(9..20)]).unwrap();
        assert_eq!(files.rows, 20);
        for (start, count) in [(0, 3), (2, 3), (5, 6), (0, 20), (19, 5), (20, 5), (8, 1)] {
            let links = files.slice(start, count).unwrap();
            let urls: Vec<u64> = links
                .iter()
                .flat_map(|links| links.urls().iter().map(|url| url.unwrap().parse().unwrap()))
                .collect();
            let expected: Vec<u64> = (start..(start + count).min(20)).collect();
            assert_eq!(urls, expected, "{start} + {count}");
        }
    }
}
