//! The proof that something is absent: every file of a release is read to its end.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use serde_json::Value;
use sha2::{Digest, Sha256};
use stage::{Context, Error, Result, ResultExt, in_parallel};
use store::parquet::{File, Pick};
use store::subset::{self, Uid};
use store::{Blob, StageDir};

use super::manifest::{MANIFEST, SUMS};
use super::purge::tombstones_of;
use super::scan_tokens::{LONGEST, Token, tokens};
use super::{Manifest, REVOKED, Selectors};
use crate::tar_name::is_tar;
use crate::tar_read::TarReader;

/// Bytes of a file that are looked through at once.
const PIECE: usize = 4 << 20;
/// Places that are named one by one.
const NAMED: usize = 100;

/// What was read, and that nothing was found; [`Absence::found`] is empty then.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Absence {
    /// Files read, all of the folder: also those that the manifest does not list.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Members of shards.
    pub members: u64,
    /// Rows of metadata and of other parquet files.
    pub rows: u64,
    /// Things that were looked for.
    pub sought: u64,
    /// Where something is, at most 100 places.
    pub found: Vec<Found>,
    /// What is not as the manifest says: a file missing, of another hash, or not listed.
    pub faults: Vec<String>,
}

/// A place where something is that should not be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// The file.
    pub path: String,
    /// Member, row or offset.
    pub place: String,
    /// `uid`, `url` or `sha256`.
    pub kind: String,
}

/// Reads every file of a release: names, texts and pictures of shards, every text of every parquet
/// column, uids of npy files, and the raw bytes of all of them; looks for what the selectors name
/// and for everything on the release's own list of tombstones. Each file is held against the
/// manifest on the way.
///
/// # Errors
/// When the release cannot be read. That something was found is no error here but an answer.
pub fn verify_purge(cx: &Context, dir: &StageDir, selectors: &Selectors) -> Result<Absence> {
    let manifest = Manifest::read(dir)?;
    let mut sought = selectors.clone();
    sought.hashed(tombstones_of(dir, &manifest)?);
    if sought.is_empty() {
        return Err(Error::input("nothing was purged from this release and nothing is named")
            .at(dir.locate(""))
            .hint("name what to look for: --uid, --url, --domain, --sha256 or --list"));
    }
    let names = files_of(dir, &manifest)?;
    let all = Mutex::new(Absence { sought: sought.len() as u64, ..Absence::default() });
    in_parallel(cx.threads, names.len(), |i| {
        cx.cancel.check()?;
        let mut scan = Scan { sought: &sought, path: &names[i], own: Absence::default() };
        let blob = match dir.blob(&names[i]) {
            Ok(blob) => blob,
            Err(_) => blob_of(dir, &names[i])?,
        };
        scan.file(&blob)?;
        let mut own = scan.own;
        held(&manifest, &names[i], &blob, &mut own.faults)?;
        let mut all = all.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.files += 1;
        all.bytes += blob.len();
        all.members += own.members;
        all.rows += own.rows;
        all.found.extend(own.found);
        all.faults.extend(own.faults);
        cx.progress.update(all.files, names.len() as u64, "files");
        Ok(())
    })?;
    let mut all = all.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    all.found.sort();
    all.found.dedup();
    all.found.truncate(NAMED);
    let there: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let missing = manifest.files.iter().filter(|file| !there.contains(file.path.as_str()));
    all.faults.extend(missing.map(|file| format!("{} is missing", file.path)));
    all.faults.sort();
    Ok(all)
}

/// Holds a file against the manifest; what belongs to the commit protocol is not listed there.
fn held(manifest: &Manifest, name: &str, blob: &Blob, faults: &mut Vec<String>) -> Result<()> {
    let own = [MANIFEST, SUMS, REVOKED].contains(&name) || name.starts_with('_');
    match manifest.file(name) {
        Some(file) => {
            let sha256 = blob.sha256()?;
            if file.sha256 != sha256 {
                faults.push(format!("{name}: sha256 {sha256}, the manifest says {}", file.sha256));
            }
        }
        None if own => {}
        None => faults.push(format!("{name} is not in the manifest")),
    }
    Ok(())
}

/// All files of the folder; of a release in a bucket, those that the manifest lists and the two
/// beside them.
fn files_of(dir: &StageDir, manifest: &Manifest) -> Result<Vec<String>> {
    let root = dir.locate("");
    let mut names: BTreeSet<String> = BTreeSet::new();
    if root.contains("://") {
        names.extend(manifest.files.iter().map(|file| file.path.clone()));
        names.extend([MANIFEST, SUMS].map(str::to_owned));
        return Ok(names.into_iter().collect());
    }
    let mut folders = vec![std::path::PathBuf::from(&root)];
    let trouble = |e| Error::input("cannot list").because(e).at(&root);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(trouble)? {
            let path = entry.map_err(trouble)?.path();
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else if let Ok(name) = path.strip_prefix(&root) {
                names.insert(name.to_string_lossy().into_owned());
            }
        }
    }
    Ok(names.into_iter().collect())
}

/// A file among those of the commit protocol, which a stage does not hand out.
fn blob_of(dir: &StageDir, name: &str) -> Result<Blob> {
    let path = Path::new(&dir.locate("")).join(name);
    Blob::open(&path.display().to_string())
}

/// The look through one file.
struct Scan<'a> {
    sought: &'a Selectors,
    path: &'a str,
    own: Absence,
}

impl Scan<'_> {
    fn file(&mut self, blob: &Blob) -> Result<()> {
        self.raw(blob)?;
        if is_tar(self.path) {
            self.tar(blob)
        } else if self.path.ends_with(".parquet") {
            self.parquet(blob)
        } else if self.path.ends_with(".npy") {
            self.npy(blob);
            Ok(())
        } else {
            if self.path.ends_with(".json") {
                self.json(&blob.read_all()?, "json");
            }
            self.picture(&blob.sha256()?, "the file");
            Ok(())
        }
    }

    /// Everything as bytes, in pieces that overlap.
    fn raw(&mut self, blob: &Blob) -> Result<()> {
        let mut at = 0;
        while at < blob.len() {
            let from = at.saturating_sub(LONGEST as u64);
            let len = (blob.len() - from).min(PIECE as u64) as usize;
            let bytes = blob.read_at(from, len)?;
            self.bytes(&bytes, &format!("bytes from {from}"));
            at = from + len as u64;
        }
        Ok(())
    }

    fn tar(&mut self, blob: &Blob) -> Result<()> {
        for entry in TarReader::new(self.path, blob.reader()) {
            let (member, data) = entry?;
            let place = format!("member {}", member.name);
            self.own.members += 1;
            self.bytes(member.name.as_bytes(), &place);
            if member.name.ends_with(".json") {
                self.json(&data, &place);
            }
            self.picture(&format!("{:x}", Sha256::digest(&data)), &place);
        }
        Ok(())
    }

    fn parquet(&mut self, blob: &Blob) -> Result<()> {
        let table = File::open(blob)?;
        for batch in table.batches(&Pick::default())? {
            let batch = batch?;
            for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
                let place = |row: usize| format!("row {row}, column {}", field.name());
                self.column(column, self.own.rows as usize, &place)?;
            }
            self.own.rows += batch.num_rows() as u64;
        }
        Ok(())
    }

    fn column(
        &mut self,
        column: &ArrayRef,
        first: usize,
        place: &dyn Fn(usize) -> String,
    ) -> Result<()> {
        let column = match column.data_type() {
            DataType::Utf8 => column.clone(),
            DataType::LargeUtf8 | DataType::Utf8View => {
                arrow_cast::cast(column, &DataType::Utf8).internal("cannot read text")?
            }
            DataType::Binary => {
                let column = column.as_binary::<i32>();
                for (row, bytes) in column.iter().enumerate() {
                    let Some(bytes) = bytes else { continue };
                    self.bytes(bytes, &place(first + row));
                    self.picture(&format!("{:x}", Sha256::digest(bytes)), &place(first + row));
                }
                return Ok(());
            }
            // Lists and structures, spelt out.
            kind if kind.is_nested() => {
                for row in 0..column.len() {
                    let text = arrow_cast::display::array_value_to_string(column, row)
                        .internal("cannot show a value")?;
                    self.bytes(text.as_bytes(), &place(first + row));
                }
                return Ok(());
            }
            _ => return Ok(()),
        };
        for (row, text) in column.as_string::<i32>().iter().enumerate() {
            if let Some(text) = text {
                self.text(text, &place(first + row));
            }
        }
        Ok(())
    }

    /// Subset files hold uids; other arrays hold numbers.
    fn npy(&mut self, blob: &Blob) {
        for (row, uid) in subset::read(blob).unwrap_or_default().into_iter().enumerate() {
            if self.sought.has_uid(uid) {
                self.report(&format!("row {row}"), "uid");
            }
        }
    }

    /// The strings of a JSON text, without their escapes; what is none was read as bytes already.
    fn json(&mut self, bytes: &[u8], place: &str) {
        let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return };
        let mut open = vec![&value];
        while let Some(value) = open.pop() {
            match value {
                Value::String(text) => self.text(text, place),
                Value::Array(items) => open.extend(items),
                Value::Object(map) => {
                    map.keys().for_each(|key| self.text(key, place));
                    open.extend(map.values());
                }
                _ => {}
            }
        }
    }

    fn text(&mut self, text: &str, place: &str) {
        // A value that is a URL as a whole may hold what would end one in a text.
        if text.contains("://") && self.sought.has_url(text) {
            self.report(place, "url");
        }
        self.bytes(text.as_bytes(), place);
    }

    fn bytes(&mut self, bytes: &[u8], place: &str) {
        let (sought, mut kinds) = (self.sought, [false; 3]);
        tokens(bytes, |token| match token {
            Token::Uid(hex) => {
                kinds[0] |= Uid::parse(hex).is_some_and(|uid| sought.has_uid(uid));
            }
            Token::Url(url) => kinds[1] |= sought.has_url(url),
            Token::Hash(hex) => kinds[2] |= sought.has_sha256(&hex.to_ascii_lowercase()),
        });
        for (kind, _) in ["uid", "url", "sha256"].into_iter().zip(kinds).filter(|(_, found)| *found)
        {
            self.report(place, kind);
        }
    }

    fn picture(&mut self, sha256: &str, place: &str) {
        if self.sought.has_sha256(sha256) {
            self.report(place, "sha256");
        }
    }

    fn report(&mut self, place: &str, kind: &str) {
        if self.own.found.len() < NAMED {
            let (path, place, kind) = (self.path.to_owned(), place.to_owned(), kind.to_owned());
            self.own.found.push(Found { path, place, kind });
        }
    }
}
