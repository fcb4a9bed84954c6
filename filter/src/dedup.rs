//! Exact duplicates: of equal uids one link stays.
//!
//! DataFusion sorts by uid within the memory given and spills the rest; one pass over the sorted
//! rows then picks from each run of equal uids. Which one stays is decided by a total order over
//! all columns, so the result is the same at any number of threads, files and spills.

use std::cmp::Ordering;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray, UInt32Array};
use arrow_schema::{DataType, SchemaRef};
use arrow_select::take::take_record_batch;
use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::row::{OwnedRow, RowConverter, SortField};
use datafusion::common::Column;
use datafusion::prelude::{DataFrame, Expr, cast};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage::{Context, Counts, Error, Links, Result, ResultExt};
use store::Attempt;
use store::parquet::{Layout, Writer};

use crate::engine::{Budget, Engine, query_error};

/// The file that [`DedupPlan::run`] writes.
pub const OUTPUT: &str = "links-00000.parquet";

/// Removes exact duplicates among links.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DedupPlan {
    /// What makes two links equal; default `uid`, which is the md5 of alt text and URL.
    pub by: By,
    /// Memory for sorting in MiB, in 16..=1048576, default 1024; what is beyond it goes to disk.
    pub memory_mb: u32,
}

/// What makes two links equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The same uid.
    Uid,
}

impl Default for DedupPlan {
    fn default() -> Self {
        Self { by: By::Uid, memory_mb: 1024 }
    }
}

/// What removing duplicates gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deduplicated {
    /// Kept; dropped as `duplicate`; failed as `no_uid`.
    pub counts: Counts,
    /// Bytes that went to disk for want of memory.
    pub spilled_bytes: u64,
}

impl DedupPlan {
    /// Checks the ranges of the fields.
    pub fn validate(&self) -> Result<()> {
        if (16..=1 << 20).contains(&self.memory_mb) {
            return Ok(());
        }
        Err(Error::recipe(format!("memory_mb must lie in 16..=1048576, got {}", self.memory_mb)))
    }

    /// Reads link parquets (paths or URLs), writes [`OUTPUT`] sorted by uid.
    ///
    /// Of equal uids the link with the smallest (`cc_filename`, `offset`, `url`, `alt`,
    /// `page_url`, further columns by name) stays; an unknown value comes after all known ones.
    /// cc2dataset's five columns come first, as text; further columns follow in the order in which
    /// the files bring them.
    ///
    /// # Errors
    /// When a file is missing or has no uid, url and alt, when there is no link at all, or when
    /// the memory does not suffice even with spilling.
    pub fn run(
        &self,
        cx: &Context,
        links: &[String],
        spill: &Path,
        out: &mut Attempt,
    ) -> Result<Deduplicated> {
        let mut file = out.file(OUTPUT)?;
        let done = self.write(cx, links, spill, &mut file)?;
        file.finish()?;
        Ok(done)
    }

    /// As [`Self::run`], into any writer.
    pub fn write(
        &self,
        cx: &Context,
        links: &[String],
        spill: &Path,
        out: impl Write + Send,
    ) -> Result<Deduplicated> {
        self.validate()?;
        let memory = (self.memory_mb as usize) << 20;
        // A partition sorts in its share of the memory: below 32 MiB it would spill all the time.
        let threads = cx.threads.clamp(1, (memory >> 25).max(1));
        let budget = Budget { threads, memory, spill: Some(spill.to_path_buf()) };
        let engine = Engine::new(&budget, &cx.cancel)?;
        let frame = link_columns(engine.parquet("dedup", links)?)?;
        let schema: SchemaRef = Arc::new(frame.schema().as_arrow().clone());
        let uid = Expr::Column(Column::new_unqualified("uid"));
        let sorted = frame
            .sort(vec![uid.sort(true, false)])
            .map_err(|e| query_error(&e, "cannot sort by uid"))?;

        let mut table = Writer::new(out, &schema, &Layout::default())?;
        let mut runs = Runs::new(&schema)?;
        let spilled = engine.stream(&sorted, |batch| {
            let before = runs.counts.entered / PROGRESS_ROWS;
            runs.push(&batch, &mut table)?;
            if runs.counts.entered / PROGRESS_ROWS > before {
                cx.progress.update(runs.counts.entered, 0, "links");
            }
            Ok(())
        })?;
        let counts = runs.finish(&mut table)?;
        if counts.entered == 0 {
            return Err(Error::input(format!("no link in {}", crate::name_files(links)))
                .at("dedup")
                .hint("look at the counts of the stage that made them"));
        }
        table.finish()?;
        counts.check()?;
        tracing::debug!(kept = counts.kept, spilled_bytes = spilled, "removed duplicates");
        Ok(Deduplicated { counts, spilled_bytes: spilled as u64 })
    }
}

/// How often progress is told.
const PROGRESS_ROWS: u64 = 1 << 20;

/// cc2dataset's columns first, as plain strings, then the others.
fn link_columns(frame: DataFrame) -> Result<DataFrame> {
    let schema = Arc::new(frame.schema().as_arrow().clone());
    let known = Links::schema();
    let mut columns = Vec::with_capacity(schema.fields().len());
    for field in known.fields() {
        let name = field.name();
        let column = Expr::Column(Column::new_unqualified(name));
        match schema.field_with_name(name).map(arrow_schema::Field::data_type) {
            Ok(DataType::Utf8) => columns.push(column),
            Ok(_) => columns.push(cast(column, DataType::Utf8).alias(name)),
            Err(_) if ["uid", "url", "alt"].contains(&name.as_str()) => {
                let have: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
                let message =
                    format!("links have no column `{name}`; there are {}", have.join(", "));
                return Err(Error::input(message).at("dedup"));
            }
            Err(_) => {}
        }
    }
    let others = schema.fields().iter().filter(|f| known.field_with_name(f.name()).is_err());
    columns.extend(others.map(|f| Expr::Column(Column::new_unqualified(f.name()))));
    frame.select(columns).map_err(|e| query_error(&e, "cannot read the links"))
}

/// Walks over rows sorted by uid and lets one of each run of equal uids through.
struct Runs {
    /// Columns of the total order, the most significant first.
    order: Vec<usize>,
    rows: RowConverter,
    /// The best row so far of the run that the last batch ended in.
    open: Option<Open>,
    counts: Counts,
}

struct Open {
    uid: String,
    row: RecordBatch,
    rank: OwnedRow,
}

impl Runs {
    fn new(schema: &SchemaRef) -> Result<Self> {
        let first = ["cc_filename", "offset", "url", "alt", "page_url"];
        let mut order: Vec<usize> =
            first.iter().filter_map(|name| schema.index_of(name).ok()).collect();
        let mut others: Vec<usize> = (0..schema.fields().len())
            .filter(|i| !order.contains(i) && schema.field(*i).name() != "uid")
            .collect();
        others.sort_by_key(|&i| schema.field(i).name());
        order.extend(others);
        let nulls_last = SortOptions { descending: false, nulls_first: false };
        let fields = order
            .iter()
            .map(|&i| SortField::new_with_options(schema.field(i).data_type().clone(), nulls_last));
        let rows = RowConverter::new(fields.collect())
            .input("a column of the links has a type without an order")
            .map_err(|e| e.at("dedup"))?;
        Ok(Self { order, rows, open: None, counts: Counts::default() })
    }

    fn push<W: Write + Send>(&mut self, batch: &RecordBatch, table: &mut Writer<W>) -> Result<()> {
        let uids = uids(batch)?;
        let known = uids.len() - uids.null_count(); // nulls are last
        (known..uids.len()).for_each(|_| self.counts.fail("no_uid"));
        let mut kept: Vec<u32> = Vec::with_capacity(known);
        let mut start = 0;
        while start < known {
            let uid = uids.value(start);
            let length = (start..known).take_while(|&i| uids.value(i) == uid).count();
            let end = start + length;
            let continues = self.open.as_ref().is_some_and(|open| open.uid == uid);
            if !continues {
                self.close(table)?;
            }
            if end < known && !continues {
                let best = if length == 1 { start } else { self.best(batch, start, length)?.0 };
                self.kept_one_of(length as u64);
                kept.push(best as u32);
            } else {
                // The run may go on in the next batch, or came from the last one.
                self.keep_open(batch, start, length)?;
                if end < known {
                    // It ended here: its row comes before all others of this batch.
                    self.close(table)?;
                }
            }
            start = end;
        }
        // The open run is the last of the batch, so that what was kept here comes before it.
        table.write(&pick(batch, kept)?)
    }

    fn finish<W: Write + Send>(mut self, table: &mut Writer<W>) -> Result<Counts> {
        self.close(table)?;
        Ok(self.counts)
    }

    /// The first row in the total order among `length` rows from `start`, and its rank.
    fn best(&self, batch: &RecordBatch, start: usize, length: usize) -> Result<(usize, OwnedRow)> {
        let columns: Vec<ArrayRef> =
            self.order.iter().map(|&i| batch.column(i).slice(start, length)).collect();
        let rows = self.rows.convert_columns(&columns).internal("cannot compare rows")?;
        let best = (0..length).min_by(|&a, &b| rows.row(a).cmp(&rows.row(b))).unwrap_or(0);
        Ok((start + best, rows.row(best).owned()))
    }

    fn keep_open(&mut self, batch: &RecordBatch, start: usize, length: usize) -> Result<()> {
        let (best, rank) = self.best(batch, start, length)?;
        let better = self.open.as_ref().is_none_or(|open| rank.cmp(&open.rank) == Ordering::Less);
        // The one that stays is counted when the run is closed.
        let duplicates = if self.open.is_some() { length } else { length - 1 };
        (0..duplicates).for_each(|_| self.counts.drop("duplicate"));
        if better {
            // A copy of the one row: a slice would hold the whole batch.
            let row = take_record_batch(batch, &UInt32Array::from(vec![best as u32]));
            let row = row.internal("cannot take a row")?;
            let uid = uids(&row)?.value(0).to_owned();
            self.open = Some(Open { uid, row, rank });
        }
        Ok(())
    }

    fn close<W: Write + Send>(&mut self, table: &mut Writer<W>) -> Result<()> {
        if let Some(open) = self.open.take() {
            self.counts.keep();
            table.write(&open.row)?;
        }
        Ok(())
    }

    fn kept_one_of(&mut self, length: u64) {
        self.counts.keep();
        (1..length).for_each(|_| self.counts.drop("duplicate"));
    }
}

/// These rows of a batch; without a copy where they follow each other.
fn pick(batch: &RecordBatch, rows: Vec<u32>) -> Result<RecordBatch> {
    match (rows.first(), rows.last()) {
        (Some(&first), Some(&last)) if (last - first) as usize + 1 == rows.len() => {
            Ok(batch.slice(first as usize, rows.len()))
        }
        _ => take_record_batch(batch, &UInt32Array::from(rows)).internal("cannot take rows"),
    }
}

fn uids(batch: &RecordBatch) -> Result<&StringArray> {
    batch
        .column_by_name("uid")
        .and_then(|column| column.as_string_opt::<i32>())
        .ok_or_else(|| Error::internal("uid is no string after the cast"))
}
