//! Object stores: atomic writes, units, commit records, leases, and formats that two rooms share.
//!
//! A stage's work is cut into units. What a unit writes belongs to an attempt until one create-only
//! put of a commit record makes it real; killed at any moment, a unit is done or not begun.
//!
//! ```
//! use std::io::Write;
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().to_str().unwrap();
//! let output = store::Output::open(path)?;
//! let _lease = output.lock("my run")?;
//! let links = output.stage("links");
//! if links.commit("00000")?.is_none() {
//!     let mut attempt = links.begin("00000")?;
//!     let mut file = attempt.file("00000.txt")?;
//!     file.write_all(b"a link").map_err(store::write_error)?;
//!     file.finish()?;
//!     attempt.commit("key", stage::Counts::default(), serde_json::Value::Null)?;
//! }
//! assert_eq!(links.blob("00000.txt")?.read_all()?, "a link");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! On disk and in a bucket an output looks like this:
//!
//! ```text
//! .clipmill/lock              who runs (local); .clipmill/lease/ in a bucket
//! links/00000.txt             a published file
//! links/_commits/00000.json   the unit's commit record
//! links/_attempts/            files that no record names yet
//! links/_work/                what the stage keeps for itself (StageDir::work_dir)
//! ```
//!
//! Reading order: [`Output`], [`StageDir`], [`Attempt`], [`Commit`], [`Lease`], [`Blob`],
//! [`expand`], the formats [`subset`], [`npy`], [`npz`] and [`parquet`], and [`fail`] for tests.

mod attempt;
mod blob;
mod commit;
mod expand;
mod lease;
mod output;
mod stage_dir;

pub mod fail;
pub mod npy;
pub mod npz;
pub mod parquet;
pub mod subset;

mod address;
mod alive;
mod braces;
mod bucket;
mod cache;
mod digest;
mod disk;
mod gc;
mod name;
mod pipe;
mod public_address;
mod runtime;
mod space;
mod trouble;
mod web;

pub use address::check_address;
pub use attempt::{Attempt, AttemptFile};
pub use blob::Blob;
pub use commit::{Commit, FileRecord};
pub use expand::expand;
pub use lease::Lease;
pub use output::Output;
pub use parquet::{read_parquet, write_parquet};
pub use public_address::{is_loopback, is_public};
pub use stage_dir::StageDir;
pub use trouble::write_error;
pub use web::{WebLimits, allow_private_host, set_web_limits};
