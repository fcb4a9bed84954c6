//! The nouns that pass between clipmill's rooms, and what every stage is given.
//!
//! A mill: data enters, passes each room once, and leaves changed. Every stage is a verb from one
//! noun to another:
//!
//! ```text
//!  WAT ─ ingest ─▶ Links ─ ingest ─▶ Pairs ─ filter ─▶ Pairs + scores + reason ─ shard ─▶ shards
//!  shards ─ train ─▶ Checkpoint ─ compress ─▶ Checkpoint ─ eval, tasks ─▶ Report
//! ```
//!
//! Invariants: this crate does no IO and knows no tensors; a pair is judged, never edited. [`pii`]
//! has the rules for personal data in a text, which two rooms share.
//!
//! Reading order: [`Links`], [`Pairs`], [`Counts`], [`Checkpoint`], [`Report`], [`Context`],
//! [`Figures`], [`Gate`], [`Error`], and the [`registry!`] macro that gathers the stages of one room.

mod checkpoint;
mod context;
mod counts;
mod dice;
mod error;
mod figures;
mod gate;
mod links;
mod pairs;
mod parallel;
pub mod pii;
mod registry;
mod report;

pub use checkpoint::{Change, Checkpoint, Preprocess};
pub use context::{Cancel, Context, Device, NoProgress, Progress};
pub use counts::Counts;
pub use dice::Dice;
pub use error::{Error, Kind, Result, ResultExt};
pub use figures::{Figure, Figures};
pub use gate::{Gate, Held};
pub use links::Links;
pub use pairs::{PairRow, PairSource, Pairs, PairsBuilder, Status};
pub use parallel::in_parallel;
pub use report::{Metric, Report};

#[doc(hidden)]
pub use schemars as __schemars;
#[doc(hidden)]
pub use serde as __serde;
