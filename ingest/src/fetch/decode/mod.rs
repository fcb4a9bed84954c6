//! Decoding in processes of its own, for who wants no decoder to be able to end or hold up a run.
//!
//! A decoder is safe Rust, has caps on everything, and a panic of it costs one picture. What is left
//! is an abort (memory that is not to be had, a stack that is used up) and a loop: both would be the
//! whole run's. With `decode: {isolation: process}` the pictures are made by worker processes, one
//! for each thread: this program again, told by a hidden command to read pictures on its standard
//! input and to write what it made of them on its standard output ([`work`]). A worker has a cap on
//! its address space, an empty environment and no open file but its pipes; it is killed at the
//! deadline of a picture, and replaced.
//!
//! What a worker answers is the same bytes that this process would have made: it runs the same
//! function. A worker that dies has its picture tried once more in a fresh one, so that what other
//! pictures left in its memory decides nothing.
//!
//! Not in the worker: the header probe (a few hundred lines that allocate nothing), digests, hooks.

mod crew;
mod frame;
mod worker;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(super) use crew::Crew;
pub use worker::work;

/// Where pictures are decoded, and how far a decoder may go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Decode {
    /// `none`: in this process, a thread each. `process`: in worker processes, so that a decoder
    /// that aborts or loops costs one picture (`decoder_crashed`, `decoder_timeout`). Default
    /// `none`.
    pub isolation: Isolation,
    /// Longest time for one picture with its resizing and encoding, seconds, above 0; for `process`
    /// alone. Default 2.
    pub timeout: f64,
    /// Address space of a worker, bytes, at least 268435456; for `process` alone. Default
    /// 1073741824 (1 GiB).
    pub memory: u64,
}

impl Default for Decode {
    fn default() -> Self {
        Self { isolation: Isolation::None, timeout: 2.0, memory: 1 << 30 }
    }
}

/// What stands between a decoder and the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// Nothing but the decoder's guards.
    None,
    /// A process.
    Process,
}
