//! `embeddings`: embeddings that are there already, as the source of a recipe.

use filter::near::features::partitions;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stage::{Context, Counts, Error, Result};
use store::Attempt;

use super::{Done, Outcome, Site, Stage, Worker, fingerprint};

/// Existing embeddings in clip-retrieval's layout.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingsPlan {
    /// Folders or object store URLs that hold `img_emb/img_emb_*.npy` and
    /// `metadata/metadata_*.parquet`, as `embed` and clip-retrieval's inference write them. With
    /// several, each holds partitions of its own.
    pub folders: Vec<String>,
}

/// The record in which the stage keeps its list.
const LIST: &str = "embeddings.json";

impl Stage for EmbeddingsPlan {
    fn validate(&self) -> Result<()> {
        if self.folders.is_empty() {
            return Err(Error::recipe("folders must name at least one folder"));
        }
        Ok(())
    }

    fn identity(&self) -> Value {
        Value::Null
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
        partitions(&found).map_err(|e| e.at(folder.clone()))?;
        files.extend(found);
    }
    Ok(files)
}

/// The files of a folder in clip-retrieval's layout.
///
/// # Errors
/// When one of the two kinds is missing.
pub(crate) fn folder_files(folder: &str) -> Result<Vec<String>> {
    let folder = folder.trim_end_matches('/');
    let mut files = store::expand(&format!("{folder}/img_emb/*.npy"))?;
    files.extend(store::expand(&format!("{folder}/metadata/*.parquet"))?);
    Ok(files)
}

/// The files of a finished stage that gives embeddings.
///
/// # Errors
/// When its list cannot be read.
pub(crate) fn of(done: &Done) -> Result<Vec<String>> {
    if done.kind != "embeddings" {
        return Ok(done.locations(""));
    }
    let bytes = done.dir.blob(LIST)?.read_all()?;
    serde_json::from_slice(&bytes)
        .map_err(|e| Error::store("broken list").because(e).at(done.dir.locate(LIST)))
}
