//! Object stores: atomic writes, units, commit records, leases, and formats that two rooms share.
//!
//! SKELETON: signatures are the contract; bodies follow.
#![allow(missing_docs, unused)]
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use stage::{Counts, Result};
use std::{collections::BTreeMap, io::Write, path::{Path, PathBuf}, sync::Arc};

/// Where a run writes: a local folder or any object_store URL. Blocking calls; never call from async code
/// (use `spawn_blocking`). Clone is cheap.
#[derive(Clone)]
pub struct Output { _p: () }
impl Output {
    /// Opens `path`, `file://`, `s3://` ...; creates a local folder; checks that the store honours create-only puts.
    pub fn open(url: &str) -> Result<Self> { todo!() }
    /// For tests.
    pub fn in_memory() -> Self { todo!() }
    /// Told to a second run on the same output (Kind::Conflict). Released on drop.
    pub fn lock(&self, run: &str) -> Result<Lease> { todo!() }
    /// The folder of one stage.
    pub fn stage(&self, id: &str) -> StageDir { todo!() }
    pub fn url(&self) -> &str { todo!() }
    /// Atomic whole-file write/read/list outside of units (resolved recipe, report).
    pub fn put(&self, name: &str, bytes: Bytes) -> Result<()> { todo!() }
    pub fn get(&self, name: &str) -> Result<Option<Bytes>> { todo!() }
    /// Removes attempts that no commit record names.
    pub fn gc(&self) -> Result<u64> { todo!() }
}
pub struct Lease { _p: () }

#[derive(Clone)]
pub struct StageDir { _p: () }
impl StageDir {
    pub fn id(&self) -> &str { todo!() }
    /// The commit record of a unit, its files published (hard-linked / copied to their final names) if a kill came between.
    pub fn commit(&self, unit: &str) -> Result<Option<Commit>> { todo!() }
    /// All commit records, by unit.
    pub fn commits(&self) -> Result<BTreeMap<String, Commit>> { todo!() }
    /// Starts an attempt at a unit: unique folder, nothing visible until `commit`.
    pub fn begin(&self, unit: &str) -> Result<Attempt> { todo!() }
    /// A committed file under its final name.
    pub fn blob(&self, name: &str) -> Result<Blob> { todo!() }
    /// The final name as a path or URL, for messages and other programs.
    pub fn locate(&self, name: &str) -> String { todo!() }
    /// A local folder of this stage that survives kills and is never committed by itself (training's own
    /// checkpoints, spools). For remote outputs it lies in the user's cache folder, named by the URL.
    pub fn work_dir(&self) -> Result<PathBuf> { todo!() }
    /// Forget everything in this stage (another key took its place).
    pub fn clear(&self) -> Result<()> { todo!() }
}

/// Files of one attempt. Dropped without commit: removed (best effort).
pub struct Attempt { _p: () }
impl Attempt {
    /// A new file; hashed while written; local spool for remote stores.
    pub fn file(&mut self, name: &str) -> Result<AttemptFile> { todo!() }
    /// A small file at once.
    pub fn put(&mut self, name: &str, bytes: &[u8]) -> Result<()> { todo!() }
    /// A local folder for programs that need paths; what lies in it at commit becomes files of the unit.
    pub fn local_dir(&self) -> &Path { todo!() }
    /// Makes all files real by ONE create-only put of the commit record, then publishes final names.
    /// When another attempt won, returns the winner's record and removes this one's files.
    pub fn commit(self, key: &str, counts: Counts, info: serde_json::Value) -> Result<Commit> { todo!() }
}
pub struct AttemptFile { _p: () }
impl AttemptFile { pub fn finish(self) -> Result<()> { todo!() } }
impl Write for AttemptFile {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> { todo!() }
    fn flush(&mut self) -> std::io::Result<()> { todo!() }
}

/// The commit record of a unit: `<stage>/_commits/<unit>.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Commit {
    pub unit: String,
    /// Stage key: hash of everything that changes its bytes.
    pub key: String,
    pub code: String,
    pub nonce: String,
    pub attempt: String,
    pub counts: Counts,
    pub files: Vec<FileRecord>,
    /// Clock values and whatever the stage wants to tell the report; never part of a key.
    pub info: serde_json::Value,
}
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FileRecord { pub name: String, pub bytes: u64, pub sha256: String }

/// Random access to one object, local or remote. Clone is cheap; Send + Sync.
#[derive(Clone)]
pub struct Blob { _p: () }
impl Blob {
    /// Any path or object_store URL (also `memory:` blobs of tests through StageDir::blob).
    pub fn open(url: &str) -> Result<Self> { todo!() }
    pub fn from_bytes(name: &str, bytes: Bytes) -> Self { todo!() }
    pub fn name(&self) -> &str { todo!() }
    pub fn len(&self) -> u64 { todo!() }
    pub fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> { todo!() }
    pub fn read_all(&self) -> Result<Bytes> { todo!() }
    /// Sequential, buffered.
    pub fn reader(&self) -> Box<dyn std::io::Read + Send> { todo!() }
    /// A local path (the file itself, or a cached copy of a remote object).
    pub fn local_path(&self) -> Result<PathBuf> { todo!() }
    pub fn sha256(&self) -> Result<String> { todo!() }
}
/// Files of a folder or brace range (`{00000..00012}`), `::` lists; sorted; local or remote.
pub fn expand(pattern: &str) -> Result<Vec<String>> { todo!() }

pub mod subset {
    //! DataComp subset files: sorted `(u64, u64)` rows, `.npy` with dtype `u8,u8`, or raw.
    use super::*;
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct Uid(pub u64, pub u64);
    impl Uid { pub fn parse(hex: &str) -> Option<Self> { todo!() } }
    /// Rows must be sorted; duplicates are meaningful.
    pub fn write(out: &mut dyn Write, uids: &[Uid]) -> Result<()> { todo!() }
    pub fn read(blob: &Blob) -> Result<Vec<Uid>> { todo!() }
}
pub mod npy {
    //! `.npy` v1/v2 reader and writer for f16/f32/f64/integers; hostile headers refused (reliability A6).
}
