//! Writing: no clock, no machine, no batch border shows in the bytes.

use std::collections::VecDeque;
use std::fmt;
use std::io::Write;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression as Codec, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use stage::{Error, Result, ResultExt};

use crate::write_error;

/// Rows between which parquet's writer may end a page. Input batches are cut and joined at its
/// multiples, so that pages end at the same rows however the rows arrived.
const ALIGN: usize = 256;

/// How rows become row groups and bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Where row groups end.
    pub row_groups: RowGroups,
    /// How pages are compressed.
    pub compression: Compression,
}

impl Default for Layout {
    /// Groups of 65,536 rows, snappy.
    fn default() -> Self {
        Self { row_groups: RowGroups::Every(1 << 16), compression: Compression::Snappy }
    }
}

/// Where row groups end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowGroups {
    /// After this many rows each, at least 1.
    Every(usize),
    /// Before these rows of the file (counted from 0, ascending), and nowhere else.
    At(Vec<u64>),
    /// Where [`Writer::cut`] says.
    ByHand,
}

/// How pages are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Fast; every reader has it.
    Snappy,
    /// Level 3: about a third smaller for text, slower to write.
    Zstd,
    /// Not at all: for columns of pictures.
    None,
}

/// Writes batches as one parquet file; returns the number of rows.
///
/// # Errors
/// The first error among the batches, [`stage::Kind::Store`] when writing fails,
/// [`stage::Kind::Internal`] when a batch has another schema.
pub fn write_parquet<W: Write + Send>(
    out: W,
    schema: &Schema,
    batches: impl IntoIterator<Item = Result<RecordBatch>>,
    layout: &Layout,
) -> Result<u64> {
    let mut writer = Writer::new(out, schema, layout)?;
    for batch in batches {
        writer.write(&batch?)?;
    }
    let rows = writer.rows();
    writer.finish().map(|_| rows)
}

/// Writes one parquet file batch by batch.
pub struct Writer<W: Write + Send> {
    inner: ArrowWriter<W>,
    schema: SchemaRef,
    row_groups: RowGroups,
    /// Rows that do not yet fill a piece of `ALIGN`.
    pending: VecDeque<RecordBatch>,
    pending_rows: usize,
    group_rows: usize,
    rows: u64,
}

impl<W: Write + Send> fmt::Debug for Writer<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl<W: Write + Send> Writer<W> {
    /// Starts a file. The schema's own metadata is not written; that of its fields is.
    pub fn new(out: W, schema: &Schema, layout: &Layout) -> Result<Self> {
        match &layout.row_groups {
            RowGroups::Every(0) => return Err(Error::internal("row groups of 0 rows")),
            RowGroups::At(cuts) if !cuts.is_sorted() => {
                return Err(Error::internal("row group cuts must ascend"));
            }
            _ => {}
        }
        let codec = match layout.compression {
            Compression::Snappy => Codec::SNAPPY,
            Compression::Zstd => Codec::ZSTD(ZstdLevel::try_new(3).internal("zstd has a level 3")?),
            Compression::None => Codec::UNCOMPRESSED,
        };
        let properties = WriterProperties::builder()
            .set_created_by("clipmill".to_owned())
            .set_compression(codec)
            .set_write_batch_size(ALIGN)
            .set_max_row_group_row_count(None)
            .build();
        let schema = Arc::new(Schema::new(schema.fields().clone()));
        let inner = ArrowWriter::try_new(out, Arc::clone(&schema), Some(properties))
            .map_err(parquet_error)?;
        Ok(Self {
            inner,
            schema,
            row_groups: layout.row_groups.clone(),
            pending: VecDeque::new(),
            pending_rows: 0,
            group_rows: 0,
            rows: 0,
        })
    }

    /// Writes the rows of a batch. Fields must equal those of the file.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.schema_ref().fields() != self.schema.fields() {
            return Err(Error::internal(format!(
                "a batch with columns {:?} for a file with columns {:?}",
                names(batch.schema_ref()),
                names(&self.schema)
            )));
        }
        let mut from = 0;
        while from < batch.num_rows() {
            let len = (batch.num_rows() - from).min(self.rows_to_cut());
            if len > 0 {
                self.add(&batch.slice(from, len))?;
                from += len;
            }
            if self.rows_to_cut() == 0 {
                self.cut()?;
            }
        }
        Ok(())
    }

    /// Ends the row group, if it has rows.
    pub fn cut(&mut self) -> Result<()> {
        self.write_pending()?;
        self.group_rows = 0;
        if let RowGroups::At(cuts) = &mut self.row_groups {
            let rows = self.rows;
            cuts.retain(|cut| *cut > rows);
        }
        self.inner.flush().map_err(parquet_error)
    }

    /// Rows written so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes that the current row group holds in memory, about.
    #[must_use]
    pub fn memory(&self) -> usize {
        let pending = self.pending.iter().map(RecordBatch::get_array_memory_size);
        self.inner.memory_size() + pending.sum::<usize>()
    }

    /// Writes the footer and gives the inner writer back.
    pub fn finish(mut self) -> Result<W> {
        self.cut()?;
        let mut out = self.inner.into_inner().map_err(parquet_error)?;
        out.flush().map_err(write_error)?;
        Ok(out)
    }

    fn rows_to_cut(&self) -> usize {
        match &self.row_groups {
            RowGroups::Every(rows) => rows - self.group_rows,
            RowGroups::At(cuts) => cuts.first().map_or(usize::MAX, |cut| {
                usize::try_from(cut.saturating_sub(self.rows)).unwrap_or(usize::MAX)
            }),
            RowGroups::ByHand => usize::MAX,
        }
    }

    /// Adds rows of one row group: first fills the pending piece, then writes whole pieces.
    fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let rows = batch.num_rows();
        self.group_rows += rows;
        self.rows += rows as u64;
        let mut from = 0;
        if self.pending_rows > 0 {
            from = rows.min(ALIGN - self.pending_rows);
            self.pending.push_back(batch.slice(0, from));
            self.pending_rows += from;
            if self.pending_rows == ALIGN {
                self.write_pending()?;
            }
        }
        let whole = (rows - from) / ALIGN * ALIGN;
        if whole > 0 {
            self.inner.write(&batch.slice(from, whole)).map_err(parquet_error)?;
        }
        if from + whole < rows {
            self.pending_rows = rows - from - whole;
            self.pending.push_back(batch.slice(from + whole, self.pending_rows));
        }
        Ok(())
    }

    fn write_pending(&mut self) -> Result<()> {
        if self.pending_rows == 0 {
            return Ok(());
        }
        let joined = arrow_select::concat::concat_batches(&self.schema, &self.pending)
            .internal("cannot join batches")?;
        self.pending.clear();
        self.pending_rows = 0;
        self.inner.write(&joined).map_err(parquet_error)
    }
}

fn names(schema: &Schema) -> Vec<String> {
    schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect()
}

/// The writer's IO errors are ours underneath; anything else is a schema that parquet cannot hold.
fn parquet_error(error: ParquetError) -> Error {
    match error {
        ParquetError::External(cause) => match cause.downcast::<std::io::Error>() {
            Ok(error) => write_error(*error),
            Err(cause) => Error::internal("cannot write parquet").because(cause),
        },
        other => Error::internal("cannot write parquet").because(other),
    }
}
