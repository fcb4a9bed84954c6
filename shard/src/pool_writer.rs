//! One shard of a pool as img2dataset writes it: `<shard>.tar`, `<shard>.parquet`,
//! `<shard>_stats.json`.
//!
//! Source: `rom1504/img2dataset` 1.47.0, `writer.py`, `downloader.py`, `logger.py`. We differ where
//! no reader looks and determinism gains: samples stand in key order (theirs in completion order),
//! the tar holds no clock, the parquet has one row group instead of one for 100 rows, and the clock
//! fields of the statistics are 0 (times live in commit records).

use std::collections::BTreeMap;
use std::io::Write;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int32Type, Int64Type};
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use serde_json::{Map, Value};
use stage::{Counts, Error, Pairs, Result};
use store::write_error;

use crate::picture_suffix::suffix_of;
use crate::pool_parquet::{table_of, write_table};
use crate::python_json::dumps;
use crate::tar_write::TarWriter;

/// Writes one shard of a pool.
///
/// ```
/// use shard::PoolWriter;
/// use stage::PairsBuilder;
///
/// let mut writer = PoolWriter::new(Vec::new());
/// writer.push(&PairsBuilder::default().finish())?;
/// let (mut parquet, mut stats) = (Vec::new(), Vec::new());
/// let (tar, summary) = writer.finish(&mut parquet, &mut stats)?;
/// assert_eq!((tar.len(), summary.successes), (1024, 0));
/// # Ok::<(), stage::Error>(())
/// ```
#[derive(Debug)]
pub struct PoolWriter<W: Write> {
    tar: TarWriter<W>,
    /// Rows without their pictures; about 600 bytes each.
    table: Vec<RecordBatch>,
    last_key: Option<String>,
    json_columns: Vec<String>,
    summary: PoolSummary,
}

/// What a shard holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolSummary {
    /// Rows in, pictures written, failures by `error_message`.
    pub counts: Counts,
    /// Pictures in the tar.
    pub successes: u64,
    /// Rows of status `failed_to_download`.
    pub failed_to_download: u64,
    /// Rows of status `failed_to_resize`.
    pub failed_to_resize: u64,
    /// Length of the tar, bytes.
    pub tar_bytes: u64,
}

impl<W: Write> PoolWriter<W> {
    /// Starts a shard whose tar goes to `tar`.
    pub fn new(tar: W) -> Self {
        Self {
            tar: TarWriter::new(tar),
            table: Vec::new(),
            last_key: None,
            json_columns: Vec::new(),
            summary: PoolSummary::default(),
        }
    }

    /// Also writes these further columns of the pairs into each sample's json, after img2dataset's
    /// own fields: strings, integers, floats and booleans.
    ///
    /// Without this only the parquet holds them, so that a score or a verdict that changes does not
    /// change the tar.
    #[must_use]
    pub fn with_json_columns(mut self, names: &[&str]) -> Self {
        self.json_columns = names.iter().map(|&name| name.to_owned()).collect();
        self
    }

    /// Appends pairs: each success becomes `<key>.jpg|png|webp`, `<key>.json` and `<key>.txt`, each
    /// row, failed or not, a row of the parquet. Batches may be cut anywhere: the bytes stay the
    /// same.
    ///
    /// # Errors
    /// An internal error when keys do not ascend over all calls, or a success has no picture of a
    /// known format: both are broken promises of whoever made the pairs. A store error when the
    /// tar cannot be written.
    pub fn push(&mut self, pairs: &Pairs) -> Result<()> {
        for row in 0..pairs.len() {
            let key = pairs.keys().value(row);
            self.push_row(pairs, row, key).map_err(|e| e.at(format!("sample {key}")))?;
        }
        self.table.push(table_of(pairs)?);
        Ok(())
    }

    fn push_row(&mut self, pairs: &Pairs, row: usize, key: &str) -> Result<()> {
        if let Some(last) = self.last_key.as_deref().filter(|&last| last >= key) {
            let message = format!("keys of a shard must ascend, but this follows {last}");
            return Err(Error::internal(message));
        }
        self.last_key = Some(key.to_owned());
        let status = pairs.statuses().value(row);
        match status {
            "success" => {
                self.summary.successes += 1;
                self.summary.counts.keep();
                return self.push_sample(pairs, row, key);
            }
            "failed_to_download" => self.summary.failed_to_download += 1,
            "failed_to_resize" => self.summary.failed_to_resize += 1,
            other => return Err(Error::internal(format!("status {other:?} is unknown"))),
        }
        let reason = pairs.text("error_message");
        let reason = if reason.is_valid(row) { reason.value(row) } else { status };
        self.summary.counts.fail(reason);
        Ok(())
    }

    fn push_sample(&mut self, pairs: &Pairs, row: usize, key: &str) -> Result<()> {
        let Some(picture) = pairs.image(row) else {
            return Err(Error::internal("a success without a picture"));
        };
        let Some(suffix) = suffix_of(picture) else {
            return Err(Error::internal("the picture is no JPEG, PNG or WebP"));
        };
        let caption = pairs.captions().value(row);
        let json = self.json(pairs, row)?;
        let mut members =
            [(suffix, picture), ("json", json.as_bytes()), ("txt", caption.as_bytes())];
        // Alphabetical, as WebDataset's writer: jpg, json, txt, but json, png, txt.
        members.sort_by_key(|(suffix, _)| *suffix);
        for (suffix, data) in members {
            self.tar.append(&format!("{key}.{suffix}"), data)?;
        }
        Ok(())
    }

    /// img2dataset's fields in its order, `uid` first as DataComp asks for it.
    fn json(&self, pairs: &Pairs, row: usize) -> Result<String> {
        let mut map = Map::new();
        for name in ["uid", "caption", "url", "key", "status", "error_message", "width", "height"]
            .into_iter()
            .chain(["original_width", "original_height", "sha256"])
            .chain(self.json_columns.iter().map(String::as_str))
        {
            map.insert(name.to_owned(), scalar(pairs.batch(), name, row)?);
        }
        Ok(dumps(&Value::Object(map)))
    }

    /// Ends the tar, writes the parquet and the statistics, and gives the tar's output back.
    ///
    /// # Errors
    /// A store error when an output fails; an input error when batches had different columns.
    pub fn finish(
        self,
        mut parquet_out: impl Write,
        mut stats_out: impl Write,
    ) -> Result<(W, PoolSummary)> {
        let mut summary = self.summary;
        summary.tar_bytes = self.tar.bytes() + 1024;
        let tar = self.tar.finish()?;
        write_table(self.table, &mut parquet_out)?;
        stats_out.write_all(stats(&summary).as_bytes()).map_err(write_error)?;
        summary.counts.check()?;
        Ok((tar, summary))
    }
}

/// img2dataset's statistics, `status_dict` in alphabetical order.
fn stats(summary: &PoolSummary) -> String {
    let mut status: BTreeMap<&str, u64> = BTreeMap::new();
    for (reason, count) in &summary.counts.failed {
        status.insert(reason, *count);
    }
    if summary.successes > 0 {
        *status.entry("success").or_default() += summary.successes;
    }
    dumps(&serde_json::json!({
        "count": summary.counts.entered,
        "successes": summary.successes,
        "failed_to_download": summary.failed_to_download,
        "failed_to_resize": summary.failed_to_resize,
        "duration": 0.0,
        "start_time": 0.0,
        "end_time": 0.0,
        "status_dict": status,
    }))
}

/// A cell as JSON; non-finite floats are null, which is all that JSON has for them.
fn scalar(batch: &RecordBatch, name: &str, row: usize) -> Result<Value> {
    let Some(column) = batch.column_by_name(name) else {
        return Err(Error::internal(format!("pairs have no column `{name}` for the json")));
    };
    if column.is_null(row) {
        return Ok(Value::Null);
    }
    Ok(match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().value(row).into(),
        DataType::LargeUtf8 => column.as_string::<i64>().value(row).into(),
        DataType::Boolean => column.as_boolean().value(row).into(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(row).into(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).into(),
        DataType::Float64 => column.as_primitive::<Float64Type>().value(row).into(),
        // The shortest digits of the f32, not the long ones of the f64 it equals.
        DataType::Float32 => {
            let value = column.as_primitive::<Float32Type>().value(row);
            value.to_string().parse::<f64>().unwrap_or(f64::NAN).into()
        }
        other => {
            return Err(Error::recipe(format!(
                "column `{name}` is {other}, no scalar for the json"
            )));
        }
    })
}
