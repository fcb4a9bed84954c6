//! A version of a release without some pairs.
//!
//! The new version is a stage folder beside the old one, made by the commit protocol: a unit for
//! each metadata file, rewritten where a pair is taken out and taken over by a second name where
//! not, then the files beside them, then the mark on the old version. A purge that was killed is
//! gone on with by the same command, and ends with the same bytes.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use stage::{Context, Counts, Error, Result, ResultExt, in_parallel};
use store::parquet::{File, Pick};
use store::subset::{self, Uid};
use store::{Commit, Output, StageDir};

use super::finish::{Facts, SUBSET, finish};
use super::manifest::{MANIFEST, metadata_name};
use super::matching::Met;
use super::purge_unit::unit;
use super::text_column::{needed, value, values};
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
    /// What was named and met no pair: `uid:…`, `url:…`, `domain:…`, `sha256:…`.
    pub unmatched: Vec<String>,
    /// Hashes of lists that met no pair.
    pub unmatched_hashes: u64,
}

impl Purge {
    /// Takes the pairs that fit out of the release in `output/<id>`, into the next version beside it.
    ///
    /// # Errors
    /// When it is no release, when it was revoked already, when another purge of it was begun or
    /// something else lies where the next version belongs, when a file is not as the manifest says,
    /// or when the store fails.
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
            let next = check_mark(output, &old, &mark, &key)?;
            let found = Fitting::of(cx, &old, &manifest, selectors)?;
            return Self::done(
                &mark.replaced_by,
                &Manifest::read(&next)?,
                &next,
                &found,
                selectors,
            );
        }
        let found = Fitting::of(cx, &old, &manifest, selectors)?;
        if found.gone.is_empty() {
            return Ok(Self::nothing(manifest, &found, selectors));
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
        Self::done(&next_id, &made, &new, &found, selectors)
    }

    fn nothing(manifest: Manifest, found: &Fitting, selectors: &Selectors) -> Self {
        let (unmatched, unmatched_hashes) = selectors.unmet(&found.met);
        Self {
            folder: None,
            removed: 0,
            rewritten: 0,
            units: found.units.len(),
            merkle_root: manifest.merkle_root,
            unmatched,
            unmatched_hashes,
        }
    }

    fn done(
        folder: &str,
        made: &Manifest,
        dir: &StageDir,
        found: &Fitting,
        selectors: &Selectors,
    ) -> Result<Self> {
        let commits = dir.commits()?;
        let units = commits.values().filter(|commit| commit.unit != FINISHED);
        let rewritten =
            units.clone().filter(|c| c.info.get("rewritten") == Some(&Value::Bool(true)));
        let (unmatched, unmatched_hashes) = selectors.unmet(&found.met);
        Ok(Self {
            folder: Some(folder.to_owned()),
            removed: made.counts.dropped_total(),
            rewritten: rewritten.count(),
            units: units.count(),
            merkle_root: made.merkle_root.clone(),
            unmatched,
            unmatched_hashes,
        })
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

/// Writes what the version's key is made of. Another purge's folder is refused, and so is one that no
/// purge here began: it may be the version that was published, from which more was taken out.
fn begin(output: &Output, id: &str, identity: &Value) -> Result<()> {
    let name = format!("{id}/{STAGE}");
    match output.get(&name)? {
        None => {
            let manifest = output.get(&format!("{id}/{MANIFEST}"))?.map(|_| MANIFEST.to_owned());
            let Some(file) = manifest.or(output.stage(id).names()?.into_iter().next()) else {
                return output.put(&name, identity.to_string().into());
            };
            Err(Error::conflict("where the next version belongs lies what no purge here began")
                .at(output.locate(&format!("{id}/{file}")))
                .hint("purge that version if it is one, or move its folder away"))
        }
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

/// The version that replaced a revoked one, if this same purge made it.
fn check_mark(output: &Output, old: &StageDir, mark: &Revoked, key: &str) -> Result<StageDir> {
    let next = output.stage(&mark.replaced_by);
    let refused = || Error::conflict("this version is revoked").at(old.locate(""));
    if output.get(&format!("{}/{MANIFEST}", mark.replaced_by))?.is_none() {
        return Err(refused().hint(format!(
            "the version that replaces it, {}, is not there: bring it back, or remove {REVOKED} to purge this one again",
            next.locate("")
        )));
    }
    if mark.key != key {
        let hint = format!("purge the version that replaces it: {}", next.locate(""));
        return Err(refused().hint(hint));
    }
    Ok(next)
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
    /// The selectors that met a pair.
    met: Met,
}

impl Fitting {
    fn of(
        cx: &Context,
        dir: &StageDir,
        manifest: &Manifest,
        selectors: &Selectors,
    ) -> Result<Self> {
        let names = manifest.units();
        let found = in_parallel(cx.threads, names.len(), |i| {
            cx.cancel.check()?;
            let blob = dir.blob(&metadata_name(&names[i]))?;
            fitting(&File::open(&blob)?, selectors).map_err(|error| error.at(blob.name()))
        })?;
        let (mut gone, mut met) = (BTreeSet::new(), Met::new());
        for (uids, own) in found {
            gone.extend(uids);
            met.extend(own);
        }
        // A pair may stand in several units; one of them may have another URL beside the uid.
        let touched = in_parallel(cx.threads, names.len(), |i| {
            let blob = dir.blob(&metadata_name(&names[i]))?;
            if gone.is_empty() {
                return Ok(false);
            }
            holds(&File::open(&blob)?, &gone).map_err(|error| error.at(blob.name()))
        })?;
        Ok(Self { gone, units: names.into_iter().zip(touched).collect(), met })
    }
}

/// Uids of the rows that fit, and what they fit. A row fits by whatever stands in any of its columns:
/// what `verify-purge` would find there has to go. The shard's name alone is no fact of the pair.
fn fitting(table: &File, selectors: &Selectors) -> Result<(Vec<Uid>, Met)> {
    let (mut found, mut met, mut first) = (Vec::new(), Met::new(), 0);
    for batch in table.batches(&Pick::default())? {
        let batch = batch?;
        let mut fits = vec![false; batch.num_rows()];
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            if field.name() == "shard" {
                continue;
            }
            values(column, &mut |row, value| {
                selectors.find(value, |token| {
                    selectors.meet(token, &mut met);
                    if let Some(fits) = fits.get_mut(row) {
                        *fits = true;
                    }
                });
            })
            .map_err(|kind| {
                Error::input(format!(
                    "column `{}` is of the type {kind}, which is not read",
                    field.name()
                ))
                .hint("write it as text, numbers or lists of them")
            })?;
        }
        let uids = needed(&batch, "uid")?;
        for (row, fits) in fits.into_iter().enumerate() {
            let uid = value(&uids, row).and_then(Uid::parse);
            let uid = uid.ok_or_else(|| {
                Error::input(format!("row {} has no uid of 32 hex digits", first + row))
            })?;
            if fits {
                found.push(uid);
            }
        }
        first += batch.num_rows();
    }
    Ok((found, met))
}

/// Whether a table has one of these uids.
fn holds(table: &File, gone: &BTreeSet<Uid>) -> Result<bool> {
    for batch in table.batches(&Pick { columns: Some(&["uid"]), ..Pick::default() })? {
        let uids = needed(&batch?, "uid")?;
        let found = |row| value(&uids, row).and_then(Uid::parse).is_some_and(|u| gone.contains(&u));
        if (0..arrow_array::Array::len(&uids)).any(found) {
            return Ok(true);
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
