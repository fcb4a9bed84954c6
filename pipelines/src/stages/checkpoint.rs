//! `checkpoint`: a model that is there already, as the source of evaluation or compression; and
//! the way from a finished stage to its checkpoint.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stage::{Checkpoint, Context, Counts, Error, Result};
use store::Attempt;

use super::{Done, Outcome, Site, Stage, Worker, fingerprint, fingerprint_if_file};

/// An existing model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckpointPlan {
    /// `checkpoint.json` of a clipmill model, or the folder that holds it.
    #[serde(alias = "pretrained")]
    pub checkpoint: String,
}

const LINK: &str = "link.json";

impl Stage for CheckpointPlan {
    fn validate(&self) -> Result<()> {
        if self.checkpoint.is_empty() {
            return Err(Error::recipe("checkpoint is empty"));
        }
        Ok(())
    }

    fn identity(&self) -> Value {
        Value::Null
    }

    fn external(&self, _context: &Context) -> Result<Value> {
        fingerprint(&[file(&self.checkpoint).display().to_string()])
    }

    fn worker<'a>(&'a self, _site: &'a Site) -> Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(Link { plan: self }))
    }
}

struct Link<'a> {
    plan: &'a CheckpointPlan,
}

impl Worker for Link<'_> {
    fn units(&self) -> Vec<String> {
        vec!["link".to_owned()]
    }

    fn run(&mut self, _unit: &str, out: &mut Attempt) -> Result<Outcome> {
        let path = file(&self.plan.checkpoint);
        models::read_checkpoint(&path)?;
        out.put(LINK, json!(path).to_string().as_bytes())?;
        Ok(Outcome { counts: Counts::default(), info: Value::Null })
    }
}

fn file(path: &str) -> PathBuf {
    let path = Path::new(path);
    if path.is_dir() { path.join("checkpoint.json") } else { path.to_owned() }
}

/// What a key holds of checkpoints that a plan names by path: each handle has its weights' sha256.
///
/// # Errors
/// When one cannot be read.
pub(crate) fn fingerprints<'a>(names: impl Iterator<Item = &'a str>) -> Result<Value> {
    names.map(|name| fingerprint_if_file(&file(name).display().to_string())).collect()
}

/// The checkpoint of a finished stage, and the folder that its paths are relative to.
///
/// # Errors
/// When its files cannot be read.
pub(crate) fn of(done: &Done) -> Result<(Checkpoint, PathBuf)> {
    let path = if done.kind == "checkpoint" {
        let bytes = done.dir.blob(LINK)?.read_all()?;
        serde_json::from_slice(&bytes)
            .map_err(|e| Error::store("broken link").because(e).at(done.dir.locate(LINK)))?
    } else {
        // The weights too, so that both lie in one local folder.
        done.dir.blob("weights.safetensors")?.local_path()?;
        done.dir.blob("checkpoint.json")?.local_path()?
    };
    open(&path)
}

/// The checkpoint at this path.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn open(path: &Path) -> Result<(Checkpoint, PathBuf)> {
    let path = file(&path.display().to_string());
    let checkpoint = models::read_checkpoint(&path)?;
    let folder = path.parent().unwrap_or(Path::new(".")).to_owned();
    Ok((checkpoint, folder))
}
