//! Reading: counts checked before memory is reserved, panics of the parser turned into errors.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, BufReader, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{ChunkReader, Length};
use stage::{Error, Result};

use super::footer;
use crate::Blob;

/// Bytes of one request to a remote object, and how many such blocks stay in memory.
const BLOCK: u64 = 1 << 20;
const BLOCKS: usize = 64;

/// All rows of a parquet file, in batches of at most 8,192.
///
/// # Errors
/// [`stage::Kind::Input`] that names the file when it is broken, here or while iterating.
pub fn read_parquet(blob: &Blob) -> Result<Batches> {
    File::open(blob)?.batches(&Pick::default())
}

/// A parquet file whose footer was read and found possible.
#[derive(Debug, Clone)]
pub struct File {
    source: Source,
    metadata: ArrowReaderMetadata,
}

/// What to read of a file.
#[derive(Debug, Clone)]
pub struct Pick<'a> {
    /// Columns by name, in the file's order; all if `None`. A nested column comes whole.
    pub columns: Option<&'a [&'a str]>,
    /// Row groups by number, in this order; all if `None`.
    pub row_groups: Option<&'a [usize]>,
    /// Most rows of a batch, at least 1.
    pub batch_rows: usize,
}

impl Default for Pick<'_> {
    /// Everything, 8,192 rows a batch.
    fn default() -> Self {
        Self { columns: None, row_groups: None, batch_rows: 8192 }
    }
}

impl File {
    /// Reads the footer.
    ///
    /// # Errors
    /// [`stage::Kind::Input`] when it is broken, or larger than any honest file's (64 MiB,
    /// 10,000 columns, 100,000 row groups).
    pub fn open(blob: &Blob) -> Result<Self> {
        footer::check(blob).map_err(|error| error.at(blob.name()))?;
        let source = Source::new(blob);
        let options = ArrowReaderOptions::new();
        let metadata = source.guard(|| Ok(ArrowReaderMetadata::load(&source, options)?))?;
        if metadata.metadata().row_groups().iter().any(|group| group.num_rows() < 0) {
            return Err(Error::input("a row group of less than no rows").at(blob.name()));
        }
        Ok(Self { source, metadata })
    }

    /// Columns and their types.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        self.metadata.schema()
    }

    /// Rows, as the footer says.
    #[must_use]
    pub fn rows(&self) -> u64 {
        let groups = self.metadata().row_groups().iter();
        groups.fold(0, |sum, group| sum.saturating_add(group.num_rows() as u64))
    }

    /// Row groups with their statistics.
    #[must_use]
    pub fn metadata(&self) -> &ParquetMetaData {
        self.metadata.metadata()
    }

    /// Reads what `pick` says.
    ///
    /// # Errors
    /// [`stage::Kind::Input`] when the file lacks a column, naming those it has.
    pub fn batches(&self, pick: &Pick<'_>) -> Result<Batches> {
        let metadata = self.metadata.clone();
        let mut builder =
            ParquetRecordBatchReaderBuilder::new_with_metadata(self.source.clone(), metadata)
                .with_batch_size(pick.batch_rows.max(1));
        if let Some(columns) = pick.columns {
            let fields = self.schema().fields();
            if let Some(missing) =
                columns.iter().find(|name| !fields.iter().any(|field| field.name() == **name))
            {
                let there: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
                return Err(Error::input(format!(
                    "no column `{missing}`; the columns are {}",
                    there.join(", ")
                ))
                .at(self.source.blob.name()));
            }
            let roots = fields.iter().enumerate();
            let roots = roots.filter(|(_, field)| columns.contains(&field.name().as_str()));
            let mask = ProjectionMask::roots(builder.parquet_schema(), roots.map(|(i, _)| i));
            builder = builder.with_projection(mask);
        }
        if let Some(groups) = pick.row_groups {
            let there = self.metadata().num_row_groups();
            if let Some(missing) = groups.iter().find(|group| **group >= there) {
                return Err(Error::internal(format!("row group {missing} of {there}"))
                    .at(self.source.blob.name()));
            }
            builder = builder.with_row_groups(groups.to_vec());
        }
        let inner = self.source.guard(|| Ok(builder.build()?))?;
        let schema = arrow_array::RecordBatchReader::schema(&inner);
        Ok(Batches { source: self.source.clone(), schema, inner: Some(inner) })
    }
}

/// The batches of a file, read one after another. Ends after the first error.
pub struct Batches {
    source: Source,
    schema: SchemaRef,
    inner: Option<ParquetRecordBatchReader>,
}

impl fmt::Debug for Batches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Batches").field(&self.source.blob).finish()
    }
}

impl Batches {
    /// Columns of the batches.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut inner = self.inner.take()?;
        let next = self.source.guard(|| match inner.next() {
            Some(batch) => Ok(Some((batch?, inner))),
            None => Ok(None),
        });
        match next {
            Ok(Some((batch, inner))) => {
                self.inner = Some(inner);
                Some(Ok(batch))
            }
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

/// A blob as the parquet crate reads it; a remote one in blocks that stay for a while, since the
/// crate asks for a page header and its page one by one.
#[derive(Clone)]
struct Source {
    blob: Blob,
    blocks: Option<Arc<Mutex<Blocks>>>,
    /// The blob's own error, which the parquet crate would turn into text.
    trouble: Arc<Mutex<Option<Error>>>,
}

/// Blocks by number, the one used last at the end.
type Blocks = VecDeque<(u64, Bytes)>;

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.blob.fmt(f)
    }
}

impl Source {
    fn new(blob: &Blob) -> Self {
        let blocks = blob.is_remote().then(Arc::default);
        Self { blob: blob.clone(), blocks, trouble: Arc::default() }
    }

    /// Runs a piece of the parser; its errors and panics become errors that name the file.
    fn guard<T>(
        &self,
        work: impl FnOnce() -> Result<T, Box<dyn std::error::Error + Send + Sync>>,
    ) -> Result<T> {
        let outcome = catch_unwind(AssertUnwindSafe(work));
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(own), false) = (trouble.take(), matches!(outcome, Ok(Ok(_)))) {
            return Err(own);
        }
        match outcome {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                Err(Error::input("broken parquet").because(error).at(self.blob.name()))
            }
            Err(panic) => {
                let why = panic
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or_else(|| panic.downcast_ref::<&str>().copied())
                    .unwrap_or("the parser gave up");
                Err(Error::input(format!("broken parquet: {why}")).at(self.blob.name()))
            }
        }
    }

    fn read(&self, start: u64, len: usize) -> Result<Bytes, ParquetError> {
        let read = match &self.blocks {
            Some(blocks) if (len as u64) < BLOCK => self.read_blocks(blocks, start, len),
            _ => self.blob.read_at(start, len),
        };
        read.map_err(|error| {
            let text = error.to_string();
            *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            ParquetError::EOF(text)
        })
    }

    /// Less than a block's bytes, from the one or two blocks they lie in.
    fn read_blocks(&self, blocks: &Mutex<Blocks>, start: u64, len: usize) -> Result<Bytes> {
        let end = start.saturating_add(len as u64);
        if len == 0 || end > self.blob.len() {
            return self.blob.read_at(start, len);
        }
        let (first, last) = (start / BLOCK, (end - 1) / BLOCK);
        let head = self.block(blocks, first)?;
        let from = (start - first * BLOCK) as usize;
        if first == last {
            return Ok(head.slice(from..from + len));
        }
        let mut bytes = head[from..].to_vec();
        let tail = self.block(blocks, last)?;
        bytes.extend_from_slice(&tail[..(end - last * BLOCK) as usize]);
        Ok(bytes.into())
    }

    fn block(&self, blocks: &Mutex<Blocks>, number: u64) -> Result<Bytes> {
        let mut blocks = blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = blocks.iter().position(|(n, _)| *n == number)
            && let Some((_, bytes)) = blocks.remove(at)
        {
            blocks.push_back((number, bytes.clone()));
            return Ok(bytes);
        }
        let start = number * BLOCK;
        let bytes = self.blob.read_at(start, (self.blob.len() - start).min(BLOCK) as usize)?;
        blocks.push_back((number, bytes.clone()));
        if blocks.len() > BLOCKS {
            blocks.pop_front();
        }
        Ok(bytes)
    }
}

impl Length for Source {
    fn len(&self) -> u64 {
        self.blob.len()
    }
}

impl ChunkReader for Source {
    type T = BufReader<Cursor>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(BufReader::new(Cursor { source: self.clone(), offset: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        self.read(start, length)
    }
}

struct Cursor {
    source: Source,
    offset: u64,
}

impl Read for Cursor {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.source.blob.len().saturating_sub(self.offset);
        let len = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let bytes = self.source.read(self.offset, len).map_err(io::Error::other)?;
        buffer[..len].copy_from_slice(&bytes);
        self.offset += len as u64;
        Ok(len)
    }
}
