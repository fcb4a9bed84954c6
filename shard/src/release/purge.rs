//! A version of a release without some pairs.
//!
//! The new version is a stage folder beside the old one, made by the commit protocol: a unit for
//! each metadata file, rewritten where a pair is taken out and taken over by a second name where
//! not, then the files beside them, then the mark on the old version. A purge that was killed is
//! gone on with by the same command, and ends with the same bytes.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use arrow_array::cast::AsArray;
use arrow_array::{Array, StringArray};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use stage::{Context, Counts, Error, Result, ResultExt, in_parallel};
use store::parquet::{File, Pick};
use store::subset::{self, Uid};
use store::{Commit, Output, StageDir};

use super::finish::{Facts, SUBSET, finish};
use super::manifest::metadata_name;
use super::purge_unit::unit;
use super::tombstones::{TOMBSTONES, Tombstones};
use super::{Manifest, Parent, Selectors, StageRecord};

/// The mark in a version that another one replaces.
pub const REVOKED: &str = "REVOKED.json";

/// The unit of the files beside shards and metadata, last of all.
const FINISHED: &str = "_finished";
/// What the key of a version is made of.
const STAGE: &str = "_stage.json";

/// What [`REVOKED`] says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// The folder of the version that replaces it, beside it.
    pub replaced_by: String,
    /// Number of that version.
    pub version: u32,
    /// Its Merkle root.
    pub merkle_root: String,
    /// The key of the purge.
    pub key: String,
}

/// What a purge did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purge {
    /// The folder of the new version; `None` when no pair fitted and nothing was written.
    pub folder: Option<String>,
    /// Pairs taken out.
    pub removed: u64,
    /// Units that were rewritten, and all units.
    pub rewritten: usize,
    /// All units.
    pub units: usize,
    /// The root of the new version.
    pub merkle_root: String,
}

impl Purge {
    /// Takes the pairs that fit out of the release in `output/<id>`, into the next version beside it.
    ///
    /// # Errors
    /// When it is no release, when it was revoked already, when another purge of it was begun, or
    /// when the store fails.
    pub fn run(cx: &Context, output: &Output, id: &str, selectors: &Selectors) -> Result<Self> {
        let old = output.stage(id);
        let manifest = Manifest::read(&old)?;
        let next_id = next_folder(id, manifest.version);
        let mut tombstones = tombstones_of(&old, &manifest)?;
        let identity = json!({
            "kind": "purge",
            "code": 1,
            "parent": manifest.merkle_root,
            "selectors": selectors.digest(&tombstones),
        });
        let key = format!("{:x}", Sha256::digest(identity.to_string()));
        let new = output.stage(&next_id);
        if let Some(mark) = revoked(output, id)? {
            return if mark.key == key {
                let done = Manifest::read(&output.stage(&mark.replaced_by))?;
                Ok(Self::done(&mark.replaced_by, &done, &new.commits()?))
            } else {
                Err(Error::conflict("this version is revoked").at(old.locate("")).hint(format!(
                    "purge the version that replaces it: {}",
                    output.stage(&mark.replaced_by).locate("")
                )))
            };
        }
        let found = Fitting::of(cx, &old, &manifest, selectors)?;
        if found.gone.is_empty() {
            let (units, merkle_root) = (found.units.len(), manifest.merkle_root);
            return Ok(Self { folder: None, removed: 0, rewritten: 0, units, merkle_root });
        }
        begin(output, &next_id, &identity)?;
        let gone: HashSet<Uid> = found.gone.iter().copied().collect();
        let there = new.commits()?;
        if let Some(other) = there.values().find(|commit| commit.key != key) {
            return Err(another(&new.locate(&other.unit)));
        }
        let missing: Vec<&String> =
            found.units.keys().filter(|unit| !there.contains_key(*unit)).collect();
        in_parallel(cx.threads, missing.len(), |i| {
            cx.cancel.check()?;
            output.check_lease()?;
            let name = missing[i];
            let mut attempt = new.begin(name)?;
            let touched = found.units.get(name).copied().unwrap_or(false);
            let counts = unit(&old, &manifest, name, touched.then_some(&gone), &mut attempt)
                .map_err(|e| e.at(format!("unit {name}")))?;
            attempt.commit(&key, counts, json!({"rewritten": touched}))?;
            cx.progress.update(i as u64 + 1, missing.len() as u64, "units");
            Ok(())
        })?;
        let mut commits = new.commits()?;
        let finished = commits.remove(FINISHED);
        let ordered: Vec<Commit> = commits.into_values().collect();
        if finished.is_none() {
            selectors.bury(&mut tombstones);
            for uid in &found.gone {
                let hash = tombstones.hash("uid", &uid.to_string());
                tombstones.uid.insert(hash);
            }
            let mut counts = Counts::default();
            ordered.iter().for_each(|commit| counts.merge(&commit.counts));
            tombstones.samples += counts.dropped_total();
            let subset = kept_subset(&old, &manifest, &gone)?;
            let mut plan = manifest.plan.next_version();
            plan.allow_empty = true;
            let mut lineage = manifest.lineage.clone();
            lineage.push(StageRecord {
                id: next_id.clone(),
                kind: "purge".to_owned(),
                key: key.clone(),
                counts: counts.clone(),
                inputs: vec![id.to_owned()],
                references: Vec::new(),
                identity,
            });
            let facts = Facts {
                name: &manifest.name,
                version: manifest.version.saturating_add(1),
                parent: Some(Parent {
                    version: manifest.version,
                    merkle_root: manifest.merkle_root.clone(),
                }),
                plan: &plan,
                counts,
                lineage,
                subset,
                tombstones: Some(tombstones),
            };
            let mut attempt = new.begin(FINISHED)?;
            finish(&new, &ordered, facts, &mut attempt)?;
            let units: Vec<&str> = ordered.iter().map(|c| c.unit.as_str()).collect();
            attempt.commit(&key, Counts::default(), json!({"units": units}))?;
        }
        let made = Manifest::read(&new)?;
        let mark = Revoked {
            replaced_by: next_id.clone(),
            version: made.version,
            merkle_root: made.merkle_root.clone(),
            key,
        };
        let mut bytes = serde_json::to_vec_pretty(&mark).internal("cannot write the mark")?;
        bytes.push(b'\n');
        output.put(&format!("{id}/{REVOKED}"), bytes.into())?;
        Ok(Self::done(&next_id, &made, &new.commits()?))
    }

    fn done(folder: &str, made: &Manifest, commits: &BTreeMap<String, Commit>) -> Self {
        let units = commits.values().filter(|commit| commit.unit != FINISHED);
        let rewritten =
            units.clone().filter(|c| c.info.get("rewritten") == Some(&Value::Bool(true)));
        Self {
            folder: Some(folder.to_owned()),
            removed: made.counts.dropped_total(),
            rewritten: rewritten.count(),
            units: units.count(),
            merkle_root: made.merkle_root.clone(),
        }
    }
}

/// `release` → `release.v2` → `release.v3`: no id of a stage has a dot.
fn next_folder(id: &str, version: u32) -> String {
    let base = id.strip_suffix(&format!(".v{version}")).unwrap_or(id);
    format!("{base}.v{}", version.saturating_add(1))
}

fn another(place: &str) -> Error {
    Error::conflict("another purge of this release was begun here")
        .at(place)
        .hint("run that command again to its end, or remove the folder")
}

/// Writes what the version's key is made of; another purge's folder is refused.
fn begin(output: &Output, id: &str, identity: &Value) -> Result<()> {
    let name = format!("{id}/{STAGE}");
    match output.get(&name)? {
        None => output.put(&name, identity.to_string().into()),
        Some(bytes) if *bytes == *identity.to_string().as_bytes() => Ok(()),
        Some(_) => Err(another(&output.locate(id))),
    }
}

/// The mark on this version, if there is one.
fn revoked(output: &Output, id: &str) -> Result<Option<Revoked>> {
    let name = format!("{id}/{REVOKED}");
    let Some(bytes) = output.get(&name)? else { return Ok(None) };
    let mark: Revoked = serde_json::from_slice(&bytes)
        .input("broken mark of a revoked version")
        .map_err(|e| e.at(output.locate(&name)))?;
    // It becomes a folder's name.
    if mark.replaced_by.contains('/') || mark.replaced_by.starts_with('.') {
        return Err(Error::input(format!("the mark names the folder {:?}", mark.replaced_by))
            .at(output.locate(&name)));
    }
    Ok(Some(mark))
}

/// The list that this version carries, or an empty one.
pub(crate) fn tombstones_of(dir: &StageDir, manifest: &Manifest) -> Result<Tombstones> {
    match manifest.file(TOMBSTONES) {
        Some(_) => Tombstones::parse(&dir.blob(TOMBSTONES)?),
        None => Ok(Tombstones::new(&manifest.merkle_root)),
    }
}

/// A subset file may name a pair more often than the metadata has rows.
fn kept_subset(
    old: &StageDir,
    manifest: &Manifest,
    gone: &HashSet<Uid>,
) -> Result<Option<Vec<Uid>>> {
    if manifest.file(SUBSET).is_none() {
        return Ok(None);
    }
    let mut uids = subset::read(&old.blob(SUBSET)?)?;
    uids.retain(|uid| !gone.contains(uid));
    Ok(Some(uids))
}

/// The pairs that fit, and which units hold them.
struct Fitting {
    gone: BTreeSet<Uid>,
    /// Each unit, and whether it holds one.
    units: BTreeMap<String, bool>,
}

impl Fitting {
    fn of(
        cx: &Context,
        dir: &StageDir,
        manifest: &Manifest,
        selectors: &Selectors,
    ) -> Result<Self> {
        let names = manifest.units();
        let gone = in_parallel(cx.threads, names.len(), |i| {
            cx.cancel.check()?;
            fitting(&File::open(&dir.blob(&metadata_name(&names[i]))?)?, selectors)
        })?;
        let gone: BTreeSet<Uid> = gone.into_iter().flatten().collect();
        // A pair may stand in several units; one of them may have another URL beside the uid.
        let touched = in_parallel(cx.threads, names.len(), |i| {
            let table = File::open(&dir.blob(&metadata_name(&names[i]))?)?;
            if gone.is_empty() { Ok(false) } else { holds(&table, &gone) }
        })?;
        Ok(Self { gone, units: names.into_iter().zip(touched).collect() })
    }
}

/// Uids of the rows that fit.
fn fitting(table: &File, selectors: &Selectors) -> Result<Vec<Uid>> {
    let there: Vec<&str> = ["uid", "url", "sha256", "image_sha256"]
        .into_iter()
        .filter(|name| table.schema().column_with_name(name).is_some())
        .collect();
    let mut found = Vec::new();
    for batch in table.batches(&Pick { columns: Some(&there), ..Pick::default() })? {
        let batch = batch?;
        let text = |name: &str| batch.column_by_name(name).and_then(|c| c.as_string_opt::<i32>());
        let (uids, urls) = (text("uid"), text("url"));
        let hashes = [text("sha256"), text("image_sha256")];
        for row in 0..batch.num_rows() {
            let Some(uid) = value(uids, row).and_then(Uid::parse) else { continue };
            let fits = selectors.has_uid(uid)
                || value(urls, row).is_some_and(|url| selectors.has_url(url))
                || hashes.iter().any(|hash| {
                    value(*hash, row).is_some_and(|h| selectors.has_sha256(&h.to_ascii_lowercase()))
                });
            if fits {
                found.push(uid);
            }
        }
    }
    Ok(found)
}

fn value(column: Option<&StringArray>, row: usize) -> Option<&str> {
    column.filter(|column| column.is_valid(row)).map(|column| column.value(row))
}

/// Whether a table has one of these uids.
fn holds(table: &File, gone: &BTreeSet<Uid>) -> Result<bool> {
    for batch in table.batches(&Pick { columns: Some(&["uid"]), ..Pick::default() })? {
        let batch = batch?;
        let uids = batch.column_by_name("uid").and_then(|c| c.as_string_opt::<i32>());
        for row in 0..batch.num_rows() {
            if value(uids, row).and_then(Uid::parse).is_some_and(|uid| gone.contains(&uid)) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbered_behind_the_first_name() {
        assert_eq!(next_folder("release", 1), "release.v2");
        assert_eq!(next_folder("release.v2", 2), "release.v3");
    }
}
