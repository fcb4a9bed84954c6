//! Which files of a folder hold rows, and which hold pictures.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};
use shard::release::Manifest;
use stage::{Error, Result};
use store::Blob;

use crate::run::stage_file;

/// A parquet file of rows.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) path: String,
    /// The shard of its rows where no column says it: its name without `.parquet`.
    pub(super) shard: String,
}

/// The tars by the name of their shard.
pub(super) type Tars = BTreeMap<String, String>;

/// A folder of pairs.
pub(super) struct Source {
    folder: PathBuf,
    kind: &'static str,
    about: String,
    tables: Vec<Table>,
    tars: Tars,
}

impl Source {
    pub(super) fn open(folder: &str) -> Result<Self> {
        // A relative `.` has no neighbours to look among.
        let folder = std::fs::canonicalize(folder)
            .map_err(|e| Error::input("cannot open the folder").because(e).at(folder))?;
        let manifest = folder.join("manifest.json");
        if manifest.is_file() {
            return Self::release(folder, &manifest);
        }
        let tables = files(&folder, ".parquet")?;
        let mut tars = tars_of(&folder)?;
        let kind = if tars.is_empty() { "judged pairs" } else { "shards" };
        if tars.is_empty() {
            for above in stages_above(&folder)? {
                tars.extend(tars_of(&above)?);
            }
        }
        if tables.is_empty() {
            let inside = inside(&folder);
            let error = Error::input("no parquet file here").at(folder.display());
            return Err(if inside.is_empty() {
                error.hint("name a release, or the folder of a `fetch` or `judge` stage; shards of `reshard` are looked at through a release of them")
            } else {
                error.hint(format!("name one of the folders in it: {}", inside.join(", ")))
            });
        }
        Ok(Self { folder, kind, about: String::new(), tables, tars })
    }

    fn release(folder: PathBuf, manifest: &Path) -> Result<Self> {
        let manifest = Manifest::parse(&Blob::open(&manifest.display().to_string())?)
            .map_err(|e| e.at(manifest.display()))?;
        // What the manifest lists and nothing else: its paths stay in the folder, while a list of
        // shards that somebody put there could name any file or host.
        let of = |inside: &str, ending: &str| {
            let listed = manifest.files.iter().filter_map(|file| {
                let shard = file.path.strip_prefix(inside)?.strip_suffix(ending)?.to_owned();
                Some(Table { path: folder.join(&file.path).display().to_string(), shard })
            });
            listed.collect::<Vec<Table>>()
        };
        let tables = of("metadata/", ".parquet");
        let tars = of("shards/", ".tar").into_iter().map(|tar| (tar.shard, tar.path)).collect();
        let revoked = folder.join(shard::release::REVOKED).is_file();
        let about = format!(
            "version {} · {}{}",
            manifest.plan.version,
            manifest.plan.license,
            if revoked { " · REVOKED, look for the version after it" } else { "" }
        );
        Ok(Self { folder, kind: "release", about, tables, tars })
    }

    pub(super) fn title(&self) -> String {
        self.folder.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }

    pub(super) fn kind(&self) -> &'static str {
        self.kind
    }

    pub(super) fn about(&self) -> &str {
        &self.about
    }

    pub(super) fn tables(&self) -> &[Table] {
        &self.tables
    }

    pub(super) fn tars(&self) -> &Tars {
        &self.tars
    }

    /// An `embed` stage's folder beside this one.
    pub(super) fn embeddings(&self) -> Option<PathBuf> {
        let mut beside: Vec<PathBuf> = std::fs::read_dir(self.folder.parent()?)
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.join("img_emb").is_dir() && path.join("metadata").is_dir())
            .collect();
        beside.sort();
        beside.into_iter().next()
    }
}

/// Folders in this one that can be looked at.
fn inside(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let rows = files(&path, ".parquet").is_ok_and(|files| !files.is_empty());
            let looked_at = rows || path.join("manifest.json").is_file();
            let name = path.file_name()?.to_str()?.to_owned();
            (looked_at && !name.ends_with(".scores")).then_some(name)
        })
        .collect();
    names.sort();
    names
}

/// Files of a folder with this ending, sorted; none where there is no folder.
fn files(folder: &Path, ending: &str) -> Result<Vec<Table>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other
            .map_err(|e| Error::input("cannot list the folder").because(e).at(folder.display()))?,
    };
    let mut found: Vec<Table> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let shard = path.file_name()?.to_str()?.strip_suffix(ending)?.to_owned();
            path.is_file().then(|| Table { path: path.display().to_string(), shard })
        })
        .collect();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn tars_of(folder: &Path) -> Result<Tars> {
    let mut tars: Tars =
        files(folder, ".tar")?.into_iter().map(|table| (table.shard, table.path)).collect();
    // A `shards` stage has a list instead.
    if let Ok(bytes) = std::fs::read(folder.join("shards.json"))
        && let Ok(list) = serde_json::from_slice::<Vec<String>>(&bytes)
    {
        for url in list {
            let name = url.rsplit('/').next().unwrap_or(&url);
            tars.insert(name.strip_suffix(".tar").unwrap_or(name).to_owned(), url.clone());
        }
    }
    Ok(tars)
}

/// Folders of the stages that a stage took: neighbours whose key it names.
fn stages_above(folder: &Path) -> Result<Vec<PathBuf>> {
    let identity = |folder: &Path| -> Option<Vec<u8>> {
        std::fs::read(folder.join(stage_file("").trim_start_matches('/'))).ok()
    };
    let Some(own) = identity(folder) else { return Ok(Vec::new()) };
    let own: Value = serde_json::from_slice(&own)
        .map_err(|e| Error::input("broken _stage.json").because(e).at(folder.display()))?;
    let keys: Vec<&str> = own
        .get("inputs")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let Some(Ok(beside)) = folder.parent().map(std::fs::read_dir) else { return Ok(Vec::new()) };
    let mut above: Vec<PathBuf> = beside
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let key = identity(path).map(|bytes| format!("{:x}", Sha256::digest(bytes)));
            key.is_some_and(|key| keys.contains(&key.as_str()))
        })
        .collect();
    above.sort();
    Ok(above)
}
