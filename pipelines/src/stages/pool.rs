//! `pool`: metadata parquets that are there already (DataComp's pools, another run's scores), as
//! the source of a selection.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stage::{Context, Counts, Error, Result};
use store::Attempt;

use super::{Done, Outcome, Site, Stage, Worker, fingerprint};

/// Existing metadata parquets with a `uid` column.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolPlan {
    /// Parquet files: paths, folders, globs, brace ranges or object store URLs.
    #[serde(alias = "metadata_dir")]
    pub parquet: Vec<String>,
}

const LIST: &str = "pool.json";

impl Stage for PoolPlan {
    fn validate(&self) -> Result<()> {
        if self.parquet.is_empty() {
            return Err(Error::recipe("parquet must name at least one file or folder"));
        }
        Ok(())
    }

    fn identity(&self) -> Value {
        Value::Null
    }

    fn external(&self, _context: &Context) -> Result<Value> {
        let parquets = files(&self.parquet)?;
        // Embeddings of `a.parquet` lie in `a.npz`; a selection may look at them.
        let beside = parquets.iter().map(|parquet| parquet.replace(".parquet", ".npz"));
        let beside: Vec<String> =
            beside.filter(|npz| std::path::Path::new(npz).is_file()).collect();
        fingerprint(&parquets.into_iter().chain(beside).collect::<Vec<_>>())
    }

    fn worker<'a>(&'a self, _site: &'a Site) -> Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(List { plan: self }))
    }
}

struct List<'a> {
    plan: &'a PoolPlan,
}

impl Worker for List<'_> {
    fn units(&self) -> Vec<String> {
        vec!["list".to_owned()]
    }

    fn run(&mut self, _unit: &str, out: &mut Attempt) -> Result<Outcome> {
        let files = files(&self.plan.parquet)?;
        out.put(LIST, json!(files).to_string().as_bytes())?;
        Ok(Outcome { counts: Counts::default(), info: json!({"files": files.len()}) })
    }
}

/// The parquet files that these patterns name.
///
/// # Errors
/// When there is none.
pub(crate) fn files(patterns: &[String]) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for pattern in patterns {
        files.extend(store::expand(pattern)?.into_iter().filter(|url| url.ends_with(".parquet")));
    }
    if files.is_empty() {
        return Err(Error::input("no parquet file here").at(patterns.join(", ")));
    }
    Ok(files)
}

/// The parquets of a finished stage that gives scores.
///
/// # Errors
/// When its list cannot be read.
pub(crate) fn parquets(done: &Done) -> Result<Vec<String>> {
    if done.kind != "pool" {
        return Ok(done.locations(".parquet"));
    }
    let bytes = done.dir.blob(LIST)?.read_all()?;
    serde_json::from_slice(&bytes)
        .map_err(|e| Error::store("broken list").because(e).at(done.dir.locate(LIST)))
}
