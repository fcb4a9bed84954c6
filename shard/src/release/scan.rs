//! The proof that something is absent: every file of a release is read to its end.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;

use sha2::{Digest, Sha256};
use stage::{Context, Error, Result, in_parallel};
use store::parquet::{File, Pick};
use store::{Blob, StageDir, npy, subset};

use super::croissant::own_urls;
use super::manifest::{MANIFEST, SUMS, sums};
use super::purge::tombstones_of;
use super::scan_tokens::{LONGEST, Token};
use super::text_column::{Value, values};
use super::{Manifest, REVOKED, Selectors};
use crate::sample_json::strings;
use crate::tar_name::is_tar;
use crate::tar_read::TarReader;

/// Bytes of a file that are looked through at once.
const PIECE: usize = 4 << 20;
/// Places that are named one by one.
const NAMED: usize = 100;
/// Files that a release's own hand writes: URLs of its licence and vocabularies stand there.
const GENERATED: [&str; 4] = ["README.md", "croissant.json", "LICENSE", MANIFEST];
/// Endings of files whose bytes hide what they hold.
const PACKED: [&str; 12] =
    ["gz", "tgz", "bz2", "xz", "lzma", "zst", "lz4", "br", "zip", "npz", "7z", "rar"];

/// Tars within each other that are looked into.
const DEEPEST: u32 = 2;

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
    /// What is not as the manifest says (a file missing, of another hash, or not listed), and what
    /// could not be looked into: a json, an array or a column that cannot be read.
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
/// column, uids of npy files, members of shards as files of their names, and the raw bytes of all; looks for what the selectors name
/// and for everything on the release's own list of tombstones. Each file is held against the
/// manifest on the way, and SHA256SUMS too. URLs that our own hand writes into the card, the licence
/// of the release among them, are not looked for.
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
    let names = files_of(dir)?;
    let own_urls = own_urls(&manifest);
    let all = Mutex::new(Absence { sought: sought.len() as u64, ..Absence::default() });
    in_parallel(cx.threads, names.len(), |i| {
        cx.cancel.check()?;
        let ours = GENERATED.contains(&names[i].as_str()).then_some(&own_urls);
        let mut scan = Scan { sought: &sought, path: &names[i], ours, own: Absence::default() };
        let blob = dir.blob(&names[i]).or_else(|_| blob_of(dir, &names[i]))?;
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
    all.faults.extend(fault_of_sums(dir, &manifest)?);
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

/// What is wrong with the list for `sha256sum -c`.
fn fault_of_sums(dir: &StageDir, manifest: &Manifest) -> Result<Option<String>> {
    let Ok(blob) = dir.blob(SUMS) else { return Ok(Some(format!("{SUMS} is missing"))) };
    let expected = sums(&manifest.files, &dir.blob(MANIFEST)?.sha256()?);
    let same = blob.len() == expected.len() as u64 && *blob.read_all()? == *expected.as_bytes();
    Ok((!same).then(|| format!("{SUMS} does not say what the manifest says")))
}

/// All files of the folder or below the bucket's prefix, whoever put them there.
fn files_of(dir: &StageDir) -> Result<Vec<String>> {
    let root = dir.locate("");
    if root.contains("://") {
        return dir.names();
    }
    let mut names: BTreeSet<String> = BTreeSet::new();
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

/// A file among those of the commit protocol, or with a name that we would not give.
fn blob_of(dir: &StageDir, name: &str) -> Result<Blob> {
    let root = dir.locate("");
    if root.contains("://") {
        return dir.any_blob(name);
    }
    Blob::open(&Path::new(&root).join(name).display().to_string())
}

/// A place within another one.
fn inside(place: &str, inner: &str) -> String {
    if place.is_empty() { inner.to_owned() } else { format!("{place}, {inner}") }
}

/// A file, which is named anyway, or a member.
fn it(place: &str) -> &str {
    if place.is_empty() { "it" } else { place }
}

/// The look through one file.
struct Scan<'a> {
    sought: &'a Selectors,
    path: &'a str,
    /// URLs that stand in this file without being anybody's data.
    ours: Option<&'a BTreeSet<String>>,
    own: Absence,
}

impl Scan<'_> {
    fn file(&mut self, blob: &Blob) -> Result<()> {
        self.raw(blob)?;
        let path = self.path.to_ascii_lowercase();
        if is_tar(&path) {
            return self.tar(blob, "", 1);
        }
        if path.ends_with(".parquet") {
            return self.parquet(blob, "");
        }
        self.content(blob, &path, "")?;
        let hash = blob.sha256()?;
        self.token(Token::Hash(&hash), "the file");
        Ok(())
    }

    /// What the ending of a name in small letters says that there is beside the raw bytes; `place` is
    /// empty for a file, or `member x`.
    fn content(&mut self, blob: &Blob, name: &str, place: &str) -> Result<()> {
        match name.rsplit('.').next().unwrap_or_default() {
            "npy" => self.npy(blob, place),
            "json" => self.json(&blob.read_all()?, place),
            packed if PACKED.contains(&packed) => {
                self.fault(&format!("{} is compressed: what it holds was not read", it(place)));
            }
            _ => {}
        }
        Ok(())
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

    /// The members, each as a file of its name. `place` is that of a tar within a tar.
    fn tar(&mut self, blob: &Blob, place: &str, depth: u32) -> Result<()> {
        for entry in TarReader::new(self.path, blob.reader()) {
            let (member, data) = entry?;
            let place = inside(place, &format!("member {}", member.name));
            self.own.members += 1;
            self.bytes(member.name.as_bytes(), &place);
            // Its bytes were looked through with those of the whole file.
            self.token(Token::Hash(&format!("{:x}", Sha256::digest(&data))), &place);
            let (name, blob) =
                (member.name.to_ascii_lowercase(), Blob::from_bytes(self.path, data));
            let looked = if name.ends_with(".tar") {
                match depth {
                    0..DEEPEST => self.tar(&blob, &place, depth + 1),
                    _ => Err(Error::input("it is a tar in a tar in a tar")),
                }
            } else if name.ends_with(".parquet") {
                self.parquet(&blob, &place)
            } else {
                self.content(&blob, &name, &place)
            };
            if let Err(error) = looked {
                self.fault(&format!("{place} cannot be looked into: {error}"));
            }
        }
        Ok(())
    }

    fn parquet(&mut self, blob: &Blob, place: &str) -> Result<()> {
        let table = File::open(blob)?;
        let mut first = 0;
        for batch in table.batches(&Pick::default())? {
            let batch = batch?;
            for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
                let seen = values(column, &mut |row, value| {
                    let row = format!("row {}, column {}", first + row, field.name());
                    self.value(value, &inside(place, &row));
                });
                if let Err(kind) = seen {
                    let column = field.name();
                    let column = inside(place, &format!("column {column}"));
                    self.fault(&format!("{column} is of the type {kind}, which is not read"));
                }
            }
            first += batch.num_rows();
            self.own.rows += batch.num_rows() as u64;
        }
        Ok(())
    }

    /// Subset files hold uids; other arrays have to hold numbers.
    fn npy(&mut self, blob: &Blob, place: &str) {
        let plain = |header: &npy::Header| {
            let kind = header.descr().trim_matches('\'').trim_start_matches(['<', '>', '|', '=']);
            let (letter, size) = kind.split_at_checked(1).unwrap_or_default();
            "biufc".contains(letter) && !letter.is_empty() && size.parse::<u8>().is_ok()
        };
        if npy::Header::read(blob).is_ok_and(|header| plain(&header)) {
            return;
        }
        match subset::read(blob) {
            Ok(uids) => {
                for (row, uid) in uids.into_iter().enumerate() {
                    if self.sought.has_uid(uid) {
                        self.report(&inside(place, &format!("row {row}")), "uid");
                    }
                }
            }
            Err(error) => {
                self.fault(&format!("{} is neither uids nor numbers: {error}", it(place)));
            }
        }
    }

    /// The strings of a JSON text, without their escapes.
    fn json(&mut self, bytes: &[u8], place: &str) {
        let inside = if place.is_empty() { "json" } else { place };
        if !strings(bytes, &mut |text| self.value(Value::Text(text), inside)) {
            self.fault(&format!("{} cannot be read as JSON", it(place)));
        }
    }

    fn bytes(&mut self, bytes: &[u8], place: &str) {
        let sought = self.sought;
        sought.find_tokens(bytes, |token| self.token_found(token, place));
    }

    fn value(&mut self, value: Value<'_>, place: &str) {
        let sought = self.sought;
        sought.find(value, |token| self.token_found(token, place));
    }

    fn token(&mut self, token: Token<'_>, place: &str) {
        if self.sought.has(token) {
            self.token_found(token, place);
        }
    }

    fn token_found(&mut self, token: Token<'_>, place: &str) {
        let kind = match token {
            Token::Uid(_) => "uid",
            Token::Hash(_) => "sha256",
            Token::Url(url) if self.ours.is_some_and(|ours| ours.contains(url)) => return,
            Token::Url(_) => "url",
        };
        self.report(place, kind);
    }

    fn report(&mut self, place: &str, kind: &str) {
        let same = |found: &Found| found.place == place && found.kind == kind;
        if self.own.found.len() < NAMED && !self.own.found.last().is_some_and(same) {
            let (path, place, kind) = (self.path.to_owned(), place.to_owned(), kind.to_owned());
            self.own.found.push(Found { path, place, kind });
        }
    }

    fn fault(&mut self, what: &str) {
        if self.own.faults.len() < NAMED {
            self.own.faults.push(format!("{}: {what}", self.path));
        }
    }
}
