//! Whose pictures the boxes of faces are of: a box is a place in one picture as it is stored, and
//! `fetch` turns, scales, cuts and pads the pictures that it stores.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};
use stage::{Error, Result};
use store::Blob;

use super::{Done, shards};
use crate::recipe::Noun;
use crate::run::stage_file;

/// A stage's record of what its key is made of.
struct Record {
    kind: String,
    key: String,
    inputs: Vec<String>,
}

/// Refuses boxes that are known to be of other pictures than those of these shards: a judge's of
/// other shards; and behind a `fetch` all that are no judge's of what it stored, such as DataComp's,
/// which are of the pictures as they lay on the web.
///
/// `judge` is the stage that `name` names, if it names one, and `files` are the boxes.
pub(super) fn check(
    name: &str,
    judge: Option<&Arc<Done>>,
    files: &[String],
    source: &Arc<Done>,
) -> Result<()> {
    let pictures = pictures(source);
    let fetched = if pictures.kind == "fetch" {
        BTreeSet::from([pictures.key.clone()])
    } else {
        records(&shards::tar_urls(&pictures)?)
            .into_iter()
            .filter(|r| r.kind == "fetch")
            .map(|r| r.key)
            .collect()
    };
    if let Some(judge) = judge.filter(|judge| judge.kind == "judge") {
        let shards = judge.inputs.iter().filter_map(|input| input.upstream(Noun::Shards));
        let judged: Vec<Arc<Done>> = shards.map(|shards| self::pictures(&shards)).collect();
        if judged.iter().any(|judged| judged.key == pictures.key) {
            return Ok(());
        }
        let judged: Vec<&str> = judged.iter().map(|judged| &*judged.id).collect();
        let message = format!(
            "the boxes of `{name}` are of the pictures of `{}`, not of those of `{}`",
            judged.join("`, `"),
            source.id
        );
        return Err(Error::recipe(message).hint("judge the shards that are resharded"));
    }
    let records = records(files);
    let judged = !records.is_empty() && records.iter().all(|record| record.kind == "judge");
    let of_these = |key| records.iter().any(|record| record.inputs.contains(key));
    if fetched.is_empty() || judged && fetched.iter().all(of_these) {
        return Ok(());
    }
    let message = format!(
        "the boxes of `{name}` are not of the pictures of `{}`: a fetch turns pictures upright, \
         scales, cuts and pads them",
        source.id
    );
    Err(Error::recipe(message).hint(
        "let the fetch blur (`bbox_col`), or find the faces in what it stored with a judge `faces`",
    ))
}

/// The stage that stored the pictures of these shards: reshards before that blur nothing copy them.
fn pictures(shards: &Arc<Done>) -> Arc<Done> {
    let mut stage = Arc::clone(shards);
    while stage.kind == "reshard"
        && stage.plan.get("blur_faces").is_none_or(Value::is_null)
        && let Some(before) = stage.inputs.iter().find_map(|input| input.upstream(Noun::Shards))
    {
        stage = before;
    }
    stage
}

/// The records beside these files, one for each folder; those of folders without one are left out.
fn records(files: &[String]) -> Vec<Record> {
    let folders: BTreeSet<&str> =
        files.iter().map(|file| file.rsplit_once('/').map_or("", |(folder, _)| folder)).collect();
    let record = |folder: &str| {
        let name = stage_file(if folder.is_empty() { "." } else { folder });
        let bytes = Blob::open(&name).ok()?.read_all().ok()?;
        let record: Value = serde_json::from_slice(&bytes).ok()?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Some(Record {
            kind: record.get("kind").and_then(text)?,
            key: format!("{:x}", Sha256::digest(&bytes)),
            inputs: record.get("inputs")?.as_array()?.iter().filter_map(text).collect(),
        })
    };
    folders.into_iter().filter_map(record).collect()
}
