//! One parquet file in cc2dataset's columns, sorted by uid, row groups cut at uid prefixes.

use std::io::Write;
use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::{ArrayRef, RecordBatch};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use stage::{Links, Result, ResultExt};

use super::rows::Row;

/// Rows of a row group before equal uids become one: uids are digests, so that prefixes cut evenly.
const ROWS_PER_GROUP: u64 = 1 << 17;
/// At most 2 to this power of row groups: 256, the first two hex digits of the uid.
const MAX_PREFIX_BITS: u32 = 8;
/// Rows handed to parquet at a time.
const ROWS_PER_BATCH: usize = 8192;

/// Writes rows that come in the order of their uids.
pub(super) struct LinksWriter<W: Write + Send> {
    parquet: ArrowWriter<W>,
    columns: [StringBuilder; 5],
    buffered: usize,
    bits: u32,
    prefix: u16,
    rows: u64,
}

impl<W: Write + Send> LinksWriter<W> {
    /// `rows`, those with equal uids included, decide into how many row groups the uids are cut: a power of two, so that a
    /// reader who wants one of 2^n shares of the uids finds it in row groups of its own.
    pub(super) fn new(out: W, rows: u64) -> Result<Self> {
        let groups = rows.div_ceil(ROWS_PER_GROUP).next_power_of_two();
        let bits = groups.trailing_zeros().min(MAX_PREFIX_BITS);
        let by_uid = SortingColumn { column_idx: 0, descending: false, nulls_first: false };
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(None)
            .set_sorting_columns(Some(vec![by_uid]))
            .set_column_dictionary_enabled(ColumnPath::from("uid"), false)
            .build();
        let parquet = ArrowWriter::try_new(out, Links::schema(), Some(properties))
            .store("cannot write the links' parquet")?;
        Ok(Self { parquet, columns: Default::default(), buffered: 0, bits, prefix: 0, rows: 0 })
    }

    pub(super) fn push(&mut self, row: Row<'_>) -> Result<()> {
        let prefix = match self.bits {
            0 => 0,
            bits => u16::from_be_bytes([row.uid[0], row.uid[1]]) >> (16 - bits),
        };
        if prefix != self.prefix {
            self.end_group()?;
            self.prefix = prefix;
        }
        let uid = hex(row.uid);
        // Hex digits are UTF-8.
        let uid = std::str::from_utf8(&uid).internal("hex digits")?;
        let values = [uid, row.url, row.alt, row.cc_filename, row.page_url];
        for (column, value) in self.columns.iter_mut().zip(values) {
            column.append_value(value);
        }
        self.rows += 1;
        self.buffered += 1;
        if self.buffered == ROWS_PER_BATCH {
            self.flush_batch()?;
        }
        Ok(())
    }

    /// Ends the file; gives the number of rows.
    pub(super) fn finish(mut self) -> Result<u64> {
        self.flush_batch()?;
        self.parquet.close().store("cannot write the links' parquet")?;
        Ok(self.rows)
    }

    fn end_group(&mut self) -> Result<()> {
        self.flush_batch()?;
        self.parquet.flush().store("cannot write the links' parquet")
    }

    fn flush_batch(&mut self) -> Result<()> {
        if self.buffered == 0 {
            return Ok(());
        }
        self.buffered = 0;
        let columns = self.columns.iter_mut().map(|c| Arc::new(c.finish()) as ArrayRef).collect();
        let batch = RecordBatch::try_new(Links::schema(), columns).internal("links batch")?;
        self.parquet.write(&batch).store("cannot write the links' parquet")
    }
}

fn hex(uid: [u8; 16]) -> [u8; 32] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut hex = [0; 32];
    for (pair, byte) in hex.chunks_exact_mut(2).zip(uid) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    hex
}
