//! Parquet: the same bytes for the same rows, and read with care.
//!
//! ```
//! use std::sync::Arc;
//! use arrow_array::{ArrayRef, RecordBatch, UInt64Array};
//! use store::parquet::{Layout, read_parquet, write_parquet};
//!
//! let column: ArrayRef = Arc::new(UInt64Array::from(vec![1, 2, 3]));
//! let batch = RecordBatch::try_from_iter([("row", column)])?;
//! let mut file = Vec::new();
//! write_parquet(&mut file, &batch.schema(), [Ok(batch.clone())], &Layout::default())?;
//! let blob = store::Blob::from_bytes("rows.parquet", file.into());
//! let read: Vec<RecordBatch> = read_parquet(&blob)?.collect::<stage::Result<_>>()?;
//! assert_eq!(read, [batch]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod footer;
mod read;
mod write;

pub use read::{Batches, File, Pick, read_parquet};
pub use write::{Compression, Layout, RowGroups, Writer, write_parquet};
