//! How the rooms' plans become stages of a run: one file a kind.
//!
//! A stage has two lives. Its plan is plain data from the recipe ([`Stage`]); its worker has
//! state (models, sockets, caches) and does units ([`Worker`]). A unit's output is written under
//! an attempt's name and becomes real by one create-only put of its commit record.

mod boxes;
pub mod checkpoint;
mod compress;
mod dedup;
mod embed;
pub mod embeddings;
mod eval;
mod fetch;
mod fetch_rows;
pub(crate) mod fused;
pub mod judge;
mod link_list;
mod links;
mod near;
pub mod pool;
mod ranks;
mod release;
mod reshard;
mod select;
pub mod shards;
mod task;
pub(crate) mod train;

pub(crate) use self::eval::lines as eval_lines;

use std::collections::BTreeMap;
use std::sync::Arc;

use ingest::DialMap;
use serde_json::Value;
use sha2::{Digest, Sha256};
use stage::{Context, Counts, Error, Result};
use store::{Attempt, Blob, Commit, StageDir};

use crate::recipe::{Kind, Noun};

/// A stage's plan: what a recipe says of it.
pub trait Stage: Send + Sync {
    /// Checks the ranges of all fields.
    ///
    /// # Errors
    /// Names the field, its range and the value.
    fn validate(&self) -> Result<()>;

    /// Names in the plan that may be ids of other stages, and what those must give.
    fn references(&self) -> Vec<(String, Noun)> {
        Vec::new()
    }

    /// Checks what can be known of the stages that it takes before anything runs.
    ///
    /// # Errors
    /// Why their output would be refused.
    fn check_inputs(&self, _inputs: &[&Kind]) -> Result<()> {
        Ok(())
    }

    /// What of the plan changes the output's bytes; nothing else enters the stage's key.
    fn identity(&self) -> Value;

    /// For a stage that scores: what of the plan changes a score. Scores lie in a folder of their
    /// own under their own key, so that another threshold uses them again.
    fn scoring(&self) -> Option<Value> {
        None
    }

    /// Raised when the same plan and input give other bytes than before.
    fn code(&self) -> u32 {
        1
    }

    /// Fingerprints of inputs that no stage made (files named in the plan).
    ///
    /// # Errors
    /// When such an input is missing.
    fn external(&self, _context: &Context) -> Result<Value> {
        Ok(Value::Null)
    }

    /// Writes what can only be said once all units are there. Its files belong to the marker that the
    /// stage is finished.
    ///
    /// # Errors
    /// When a file cannot be written.
    fn finish(&self, _done: &Done, _out: &mut Attempt) -> Result<()> {
        Ok(())
    }

    /// Opens what the work needs.
    ///
    /// # Errors
    /// When an input, a model or a network is not to be had.
    fn worker<'a>(&'a self, site: &'a Site) -> Result<Box<dyn Worker + 'a>>;
}

/// The working life of a stage.
pub trait Worker {
    /// The units in order; the same for the same input, on every machine.
    fn units(&self) -> Vec<String>;

    /// Does one unit.
    ///
    /// # Errors
    /// What stops the run. A bad sample does not: it is counted.
    fn run(&mut self, unit: &str, out: &mut Attempt) -> Result<Outcome>;

    /// This worker for several threads, where a unit needs nothing of another and its bytes stay the
    /// same in any order.
    fn side_by_side(&self) -> Option<SideBySide<'_>> {
        None
    }
}

/// What makes one unit, by its name, into an attempt.
pub type RunUnit<'a> = Box<dyn Fn(&str, &mut Attempt) -> Result<Outcome> + Sync + 'a>;

/// Units that may be done at once.
pub struct SideBySide<'a> {
    /// Most of them at a time, at least 1.
    pub at_once: usize,
    /// Does one, as [`Worker::run`].
    pub run: RunUnit<'a>,
}

/// What a unit tells the runner.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// What became of the samples.
    pub counts: Counts,
    /// What the report wants to know; clock values may be here and nowhere else.
    pub info: Value,
}

/// Where a stage runs: its folder, its inputs, the run's context.
pub struct Site {
    /// The stage's id.
    pub id: String,
    /// Seed, threads, memory, cancel, progress.
    pub context: Context,
    /// The stage's folder in the output.
    pub dir: StageDir,
    /// Where its scores lie, for a stage that has [`Stage::scoring`].
    pub scores: Option<Scores>,
    /// Finished stages that it takes, in order.
    pub inputs: Vec<Arc<Done>>,
    /// Finished stages that its plan names, by id.
    pub references: BTreeMap<String, Arc<Done>>,
    /// Hosts that are dialled elsewhere.
    pub dial: DialMap,
}

/// The scores of a stage, without the verdicts that its thresholds make of them.
pub struct Scores {
    /// Their folder, `<id>.scores`.
    pub dir: StageDir,
    /// Hash of everything that changed their bytes.
    pub key: String,
}

impl Scores {
    /// Makes one unit's scores real.
    ///
    /// # Errors
    /// As [`Attempt::commit`].
    pub fn commit(&self, scores: Attempt) -> Result<()> {
        scores.commit(&self.key, Counts::default(), Value::Null).map(drop)
    }
}

/// A finished stage.
#[derive(Clone)]
pub struct Done {
    /// Its id.
    pub id: String,
    /// Its kind.
    pub kind: &'static str,
    /// What it gives.
    pub noun: Noun,
    /// Hash of everything that changed its bytes.
    pub key: String,
    /// Its folder.
    pub dir: StageDir,
    /// The commit record of each unit, in the order of units.
    pub commits: Vec<Commit>,
    /// Counts of all units together.
    pub counts: Counts,
    /// The stages that it took.
    pub inputs: Vec<Arc<Done>>,
    /// The stages that its plan names, such as a scorer.
    pub references: Vec<Arc<Done>>,
    /// What its key is the hash of.
    pub identity: Value,
    /// The plan as JSON, defaults included.
    pub plan: Value,
}

impl Done {
    /// Committed files whose name ends so, in the order of units.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub fn blobs(&self, suffix: &str) -> Result<Vec<Blob>> {
        self.names(suffix).iter().map(|name| self.dir.blob(name)).collect()
    }

    /// Names of committed files that end so, in the order of units.
    #[must_use]
    pub fn names(&self, suffix: &str) -> Vec<String> {
        let files = self.commits.iter().flat_map(|commit| &commit.files);
        files.filter(|file| file.name.ends_with(suffix)).map(|file| file.name.clone()).collect()
    }

    /// Locations of committed files whose name ends so, in the order of units.
    #[must_use]
    pub fn locations(&self, suffix: &str) -> Vec<String> {
        self.names(suffix).iter().map(|name| self.dir.locate(name)).collect()
    }

    /// The nearest stage upstream, this one included, that gives this noun.
    #[must_use]
    pub fn upstream(self: &Arc<Self>, noun: Noun) -> Option<Arc<Self>> {
        if self.noun == noun {
            return Some(Arc::clone(self));
        }
        self.inputs.iter().find_map(|input| input.upstream(noun))
    }
}

impl Site {
    /// The shards (tar files) among the inputs, in order.
    ///
    /// # Errors
    /// When an input cannot be listed.
    pub fn shard_urls(&self) -> Result<Vec<String>> {
        let mut urls = Vec::new();
        for input in &self.inputs {
            urls.extend(shards::tar_urls(input)?);
        }
        Ok(urls)
    }
}

/// [`fingerprint_of`] all files that these patterns name.
///
/// # Errors
/// When nothing matches a pattern, or a file cannot be read.
pub(crate) fn fingerprint(patterns: &[String]) -> Result<Value> {
    let mut files = Vec::new();
    for pattern in patterns {
        for url in store::expand(pattern)? {
            files.push(fingerprint_of(&url)?);
        }
    }
    Ok(Value::Array(files))
}

/// [`fingerprint_of`] what a plan names by id, path or URL, if it is a file; a stage's id has that
/// stage's key instead.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn fingerprint_if_file(name: &str) -> Result<Value> {
    let is_file = name.contains("://") || std::path::Path::new(name).is_file();
    if is_file { fingerprint_of(name) } else { Ok(Value::Null) }
}

/// [`fingerprint_of`] a file that may be missing.
///
/// # Errors
/// When it is there and cannot be read, or the store cannot be reached.
pub(crate) fn fingerprint_if_there(url: &str) -> Result<Option<Value>> {
    match Blob::open(url) {
        Ok(_) => fingerprint_of(url).map(Some),
        Err(error) if error.kind() == stage::Kind::Input => Ok(None),
        Err(error) => Err(error),
    }
}

/// Name, size and sha256 of a file that no stage made; of a large one the sha256 of samples, for a
/// pool of terabytes is not read twice.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn fingerprint_of(url: &str) -> Result<Value> {
    /// Hashing up to here takes milliseconds.
    const WHOLE: u64 = 8 << 20;
    /// Bytes of the head and of the tail, and of each block between them.
    const EDGE: u64 = 64 << 10;
    const BLOCK: u64 = 4 << 10;
    const BLOCKS: u64 = 14;
    let blob = Blob::open(url)?;
    let (name, bytes) = (base_name(url), blob.len());
    if bytes <= WHOLE {
        return Ok(serde_json::json!({"name": name, "bytes": bytes, "sha256": blob.sha256()?}));
    }
    let mut digest = Sha256::new();
    digest.update(blob.read_at(0, EDGE as usize)?);
    for block in 1..=BLOCKS {
        let offset = bytes / (BLOCKS + 1) * block;
        digest.update(blob.read_at(offset, BLOCK as usize)?);
    }
    digest.update(blob.read_at(bytes - EDGE, EDGE as usize)?);
    let samples = format!("{:x}", digest.finalize());
    Ok(serde_json::json!({"name": name, "bytes": bytes, "sha256_of_samples": samples}))
}

/// The last component of a path or URL.
pub(crate) fn base_name(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

/// A unit that no worker listed.
pub(crate) fn unknown_unit(unit: &str) -> Error {
    Error::internal(format!("no such unit `{unit}`"))
}
