//! WARC records out of plain files or gzip of many members.
//!
//! A web archive is a file of records, each a header of `Name: value` lines and a body; in
//! practice each record is a gzip member of its own (WARC 1.1, ISO 28500:2017, annex D). Such
//! files come with every kind of damage, so this reader goes on wherever a next record can be
//! found and tells in [`Damage`] what it had to leave out, and at which byte.
//!
//! ```
//! let file = b"WARC/1.0\r\nWARC-Type: metadata\r\nContent-Length: 2\r\n\r\n{}\r\n\r\n";
//! let mut reader = ingest::warc::Reader::new("a.warc", &file[..]);
//! while let Some(record) = reader.next_record()? {
//!     assert_eq!(record.header("warc-type"), Some(&b"metadata"[..]));
//!     assert_eq!(record.body, b"{}");
//! }
//! assert!(reader.damage().is_empty());
//! # Ok::<(), stage::Error>(())
//! ```
//!
//! Reading order: [`Reader`], [`Record`], [`Damage`]; `members` unpacks the gzip, `window` holds what is unpacked.

mod damage;
mod members;
mod reader;
mod record;
mod window;

pub use damage::Damage;
pub use reader::{Limits, Reader};
pub use record::Record;
pub(crate) use record::{header, header_block, headers};
