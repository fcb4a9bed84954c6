//! `shards`: WebDataset shards that are there already, as the source of a recipe.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stage::{Context, Counts, Error, Result};
use store::{Attempt, Blob};

use super::{Done, Outcome, Site, Stage, Worker, fingerprint};

/// Existing WebDataset shards.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShardsPlan {
    /// Tar files: paths, folders, globs, brace ranges (`{00000..00012}.tar`), `s3://` or `https://`
    /// URLs, lists joined by `::`; with `CLIPMILL_PIPE=1` also `pipe:COMMAND`.
    #[serde(alias = "input")]
    pub urls: Vec<String>,
}

/// The record in which a `shards` stage keeps its list.
const LIST: &str = "shards.json";

impl Stage for ShardsPlan {
    fn validate(&self) -> Result<()> {
        if self.urls.is_empty() {
            return Err(Error::recipe("urls must name at least one tar file or folder"));
        }
        Ok(())
    }

    fn identity(&self) -> Value {
        Value::Null
    }

    fn external(&self, _context: &Context) -> Result<Value> {
        fingerprint(&tars(&self.urls)?)
    }

    fn worker<'a>(&'a self, _site: &'a Site) -> Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(List { plan: self }))
    }
}

struct List<'a> {
    plan: &'a ShardsPlan,
}

impl Worker for List<'_> {
    fn units(&self) -> Vec<String> {
        vec!["list".to_owned()]
    }

    fn run(&mut self, _unit: &str, out: &mut Attempt) -> Result<Outcome> {
        let tars = tars(&self.plan.urls)?;
        out.put(LIST, json!(tars).to_string().as_bytes())?;
        let pairs = stage::PairSource::len(&shard::Shards::open(&tars)?) as u64;
        let counts = Counts { entered: pairs, kept: pairs, ..Counts::default() };
        Ok(Outcome { counts, info: json!({"shards": tars.len()}) })
    }
}

/// The tar files that these patterns name, in order.
///
/// # Errors
/// When a pattern matches nothing, or matches no tar file.
pub fn tars(patterns: &[String]) -> Result<Vec<String>> {
    let mut tars = Vec::new();
    for pattern in patterns {
        let all = store::expand(pattern)?;
        let before = tars.len();
        tars.extend(all.into_iter().filter(|url| shard::is_tar(url)));
        if tars.len() == before {
            return Err(Error::input("no tar file here")
                .at(pattern)
                .hint("name a folder of shards, or `*.tar`"));
        }
    }
    Ok(tars)
}

/// The tar files of a finished stage that gives shards.
///
/// # Errors
/// When its list cannot be read.
pub fn tar_urls(done: &Arc<Done>) -> Result<Vec<String>> {
    if done.kind != "shards" {
        return Ok(done.locations(".tar"));
    }
    let bytes = done.dir.blob(LIST)?.read_all()?;
    serde_json::from_slice(&bytes)
        .map_err(|e| Error::store("broken list of shards").because(e).at(done.dir.locate(LIST)))
}

/// The metadata parquet beside each tar, where there is one.
///
/// # Errors
/// When a tar's neighbour cannot be looked for.
pub(crate) fn parquet_beside(tar: &str) -> Option<Blob> {
    Blob::open(&shard::parquet_beside(tar)?).ok()
}
