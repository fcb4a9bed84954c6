//! `pool`: metadata parquets that are there already (DataComp's pools, another run's scores), as
//! the source of a selection.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stage::{Context, Counts, Error, Result};
use store::Attempt;

use super::{Done, Outcome, Site, Stage, Worker, fingerprint_if_there, fingerprint_of};

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
        let (mut found, mut npz) = (Vec::new(), Vec::new());
        for parquet in parquets {
            found.push(fingerprint_of(&parquet)?);
            // Embeddings of `a.parquet` lie in `a.npz`; a selection may look at them.
            let beside = format!("{}.npz", parquet.strip_suffix(".parquet").unwrap_or(&parquet));
            npz.extend(fingerprint_if_there(&beside)?);
        }
        found.append(&mut npz);
        Ok(Value::Array(found))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embeddings_beside_a_parquet_count_wherever_the_pool_lies() {
        let store = store::Output::in_memory();
        // The folder's name has the ending too.
        for file in ["pool.parquet.d/a.parquet", "pool.parquet.d/a.npz", "pool.parquet.d/b.parquet"]
        {
            store.put(file, file.into()).unwrap();
        }
        let names = |folder: &str| -> Vec<String> {
            let plan = PoolPlan { parquet: vec![format!("{folder}/pool.parquet.d/*.parquet")] };
            let found = plan.external(&Context::default()).unwrap();
            let name = |file: &Value| file["name"].as_str().unwrap().to_owned();
            found.as_array().unwrap().iter().map(name).collect()
        };
        assert_eq!(names(store.url()), ["a.parquet", "b.parquet", "a.npz"]);
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("pool.parquet.d")).unwrap();
        for file in ["a.parquet", "a.npz"] {
            std::fs::write(folder.path().join("pool.parquet.d").join(file), file).unwrap();
        }
        assert_eq!(names(folder.path().to_str().unwrap()), ["a.parquet", "a.npz"]);
    }

    #[test]
    fn another_file_under_a_url_is_another_fingerprint() {
        let of = |bytes: &'static str| {
            let store = store::Output::in_memory();
            store.put("subset.npy", bytes.into()).unwrap();
            super::super::fingerprint_if_file(&format!("{}/subset.npy", store.url())).unwrap()
        };
        assert_eq!(of("one")["name"], "subset.npy");
        assert_eq!(of("one"), of("one"));
        assert_ne!(of("one"), of("two"));
        assert_eq!(super::super::fingerprint_if_file("a-stage").unwrap(), Value::Null);
    }
}
