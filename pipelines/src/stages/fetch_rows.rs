//! The links of a fetch by row number: those of the stages before it, or of these the ones that
//! failed before.

use std::sync::Arc;

use arrow_array::{BooleanArray, RecordBatch};
use ingest::fetch::{FetchPlan, failed_before, of_rows};
use stage::{Error, Links, Result};
use store::Blob;
use store::parquet::Pick;

use super::Done;
use crate::recipe::Noun;

/// Where a fetch takes its links from.
pub(crate) enum Source {
    Links(LinkFiles),
    Failed(Failed),
}

impl Source {
    /// # Errors
    /// Shards without `retry_failed`, links with it, shards that no fetch made, a retry beside what
    /// it retried; a file that cannot be read.
    pub(crate) fn open(plan: &FetchPlan, inputs: &[Arc<Done>]) -> Result<Self> {
        if plan.retry_failed {
            return Failed::open(inputs).map(Self::Failed);
        }
        if let Some(fetched) = inputs.iter().find(|input| input.noun == Noun::Shards) {
            return Err(Error::recipe(format!(
                "`{}` gives shards, and fetch takes links",
                fetched.id
            ))
            .hint("set `retry_failed: true` to fetch again what failed there"));
        }
        let mut blobs = Vec::new();
        for input in inputs {
            blobs.extend(input.blobs(".parquet")?);
        }
        LinkFiles::open(blobs).map(Self::Links)
    }

    pub(crate) fn rows(&self) -> u64 {
        match self {
            Self::Links(links) => links.rows,
            Self::Failed(failed) => failed.rows,
        }
    }

    /// The number of the first shard.
    pub(crate) fn first_shard(&self) -> u64 {
        match self {
            Self::Links(_) => 0,
            Self::Failed(failed) => failed.first_shard,
        }
    }

    /// How many shards these rows make.
    pub(crate) fn shards(&self, plan: &FetchPlan) -> u64 {
        self.rows().div_ceil(u64::from(plan.number_sample_per_shard))
    }

    /// The rows `[start, start + count)`, fewer at the end.
    pub(crate) fn slice(&self, start: u64, count: u64) -> Result<Vec<Links>> {
        match self {
            Self::Links(links) => links.slice(start, count),
            Self::Failed(failed) => failed.slice(start, count),
        }
    }
}

/// The links behind the rows of earlier fetches that failed for a passing reason, in their order.
///
/// A fetch writes one row for each link, in the order of the links: row `i` of shard `s` belongs to
/// link `s * number_sample_per_shard + i`. So the link is read from where that fetch read it, with
/// all its columns.
pub(crate) struct Failed {
    parts: Vec<Part>,
    rows: u64,
    first_shard: u64,
}

/// One shard of an earlier fetch.
struct Part {
    table: Blob,
    source: Arc<Source>,
    /// Its first link in the source.
    start: u64,
    /// How many of its rows are to be fetched again.
    failed: u64,
}

impl Failed {
    fn open(inputs: &[Arc<Done>]) -> Result<Self> {
        let (mut parts, mut first_shard) = (Vec::new(), 0);
        for input in inputs {
            if let Some(before) = inputs.iter().find(|other| is_behind(input, &other.id)) {
                return Err(Error::recipe(format!(
                    "`{}` fetched again what failed in `{}`: from both, links would come twice",
                    input.id, before.id
                ))
                .hint(format!("take `{}` alone: what still fails is there", input.id)));
            }
            let fetched: FetchPlan = (input.kind == "fetch")
                .then(|| serde_json::from_value(input.plan.clone()).ok())
                .flatten()
                .ok_or_else(|| {
                    Error::recipe(format!(
                        "retry_failed takes fetch stages, but `{}` is a `{}`",
                        input.id, input.kind
                    ))
                })?;
            let source = Arc::new(Source::open(&fetched, &input.inputs)?);
            let size = u64::from(fetched.number_sample_per_shard);
            for (shard, table) in (0_u64..).zip(input.blobs(".parquet")?) {
                let failed = failed_before(&table)?.true_count() as u64;
                let (source, start) = (Arc::clone(&source), shard * size);
                parts.push(Part { table, source, start, failed });
            }
            first_shard = first_shard.max(source.first_shard() + source.shards(&fetched));
        }
        let rows = parts.iter().map(|part| part.failed).sum();
        Ok(Self { parts, rows, first_shard })
    }

    fn slice(&self, start: u64, count: u64) -> Result<Vec<Links>> {
        let (mut links, mut at, end) = (Vec::new(), 0, start.saturating_add(count));
        for part in &self.parts {
            let from = at;
            at += part.failed;
            if at <= start || from >= end || part.failed == 0 {
                continue;
            }
            let failures = failed_before(&part.table)?;
            let mut number = from; // of the next failure
            let mut row = 0;
            for batch in part.source.slice(part.start, failures.len() as u64)? {
                let wanted: BooleanArray = (row..row + batch.len())
                    .map(|row| {
                        let failed = failures.value(row);
                        let wanted = failed && (start..end).contains(&number);
                        number += u64::from(failed);
                        Some(wanted)
                    })
                    .collect();
                row += batch.len();
                links.push(of_rows(&batch, &wanted)?);
            }
            if row != failures.len() {
                return Err(Error::internal(format!("{row} links, {} rows", failures.len()))
                    .at(part.table.name()));
            }
        }
        Ok(links)
    }
}

/// Whether a stage took, at first or at second hand, what this one gave.
fn is_behind(done: &Done, id: &str) -> bool {
    done.inputs.iter().any(|input| input.id == id || is_behind(input, id))
}

/// Link parquets as one long list, read by row number.
pub(crate) struct LinkFiles {
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
