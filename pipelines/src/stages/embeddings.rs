//! `embeddings`: embeddings that are there already, as the source of a recipe.

use filter::near::features::{L14_IMG, Partition, partitions};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stage::{Context, Counts, Error, Result};
use store::Attempt;

use super::{Done, Outcome, Site, Stage, Worker, fingerprint};

/// Existing embeddings: clip-retrieval's layout, or the npz files of a DataComp pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EmbeddingsPlan {
    /// Folders or object store URLs that hold `img_emb/img_emb_*.npy` and
    /// `metadata/metadata_*.parquet`, as `embed` and clip-retrieval's inference write them, or
    /// `<name>.npz` beside `<name>.parquet`, as DataComp distributes its pools. With several, each
    /// holds partitions of its own.
    pub folders: Vec<String>,
    /// The array in npz files: `l14_img`, `b32_img`, `l14_txt` or `b32_txt` in DataComp's; default
    /// `l14_img`.
    pub array: String,
}

impl Default for EmbeddingsPlan {
    fn default() -> Self {
        Self { folders: Vec::new(), array: L14_IMG.to_owned() }
    }
}

/// The record in which the stage keeps its list.
const LIST: &str = "embeddings.json";

impl Stage for EmbeddingsPlan {
    fn validate(&self) -> Result<()> {
        if self.folders.is_empty() {
            return Err(Error::recipe("folders must name at least one folder"));
        }
        if self.array.is_empty() {
            return Err(Error::recipe("array must name an array, such as l14_img"));
        }
        Ok(())
    }

    fn identity(&self) -> Value {
        // The field came later than the stage: with its default the key is as it was.
        if self.array == L14_IMG { Value::Null } else { json!({"array": self.array}) }
    }

    fn external(&self, _context: &Context) -> Result<Value> {
        fingerprint(&files(&self.folders)?)
    }

    fn worker<'a>(&'a self, _site: &'a Site) -> Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(List { plan: self }))
    }
}

struct List<'a> {
    plan: &'a EmbeddingsPlan,
}

impl Worker for List<'_> {
    fn units(&self) -> Vec<String> {
        vec!["list".to_owned()]
    }

    fn run(&mut self, _unit: &str, out: &mut Attempt) -> Result<Outcome> {
        let files = files(&self.plan.folders)?;
        out.put(LIST, json!(files).to_string().as_bytes())?;
        Ok(Outcome { counts: Counts::default(), info: json!({"files": files.len()}) })
    }
}

fn files(folders: &[String]) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for folder in folders {
        let found = folder_files(folder)?;
        partitions(&found, L14_IMG).map_err(|e| e.at(folder.clone()))?;
        files.extend(found);
    }
    Ok(files)
}

/// The files of a folder in clip-retrieval's layout, or of a DataComp pool's.
///
/// # Errors
/// When one of the two kinds is missing.
pub(crate) fn folder_files(folder: &str) -> Result<Vec<String>> {
    let folder = folder.trim_end_matches('/');
    let both = |features: &str, metadata: &str| -> Result<Vec<String>> {
        let mut files = store::expand(&format!("{folder}/{features}"))?;
        files.extend(store::expand(&format!("{folder}/{metadata}"))?);
        Ok(files)
    };
    both("img_emb/*.npy", "metadata/*.parquet")
        .or_else(|first: Error| both("*.npz", "*.parquet").map_err(|_: Error| first))
}

/// The partitions of a finished stage that gives embeddings.
///
/// # Errors
/// When its list cannot be read.
pub(crate) fn of(done: &Done) -> Result<Vec<Partition>> {
    if done.kind != "embeddings" {
        return partitions(&done.locations(""), L14_IMG);
    }
    let bytes = done.dir.blob(LIST)?.read_all()?;
    let files: Vec<String> = serde_json::from_slice(&bytes)
        .map_err(|e| Error::store("broken list").because(e).at(done.dir.locate(LIST)))?;
    partitions(&files, done.plan.get("array").and_then(Value::as_str).unwrap_or(L14_IMG))
}
