//! `Blob`: random access to one file, local or remote.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use object_store::path::Path as Key;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt};
use sha2::{Digest, Sha256};
use stage::{Error, Kind, Result};
use url::Url;

use crate::runtime::{start, wait};
use crate::trouble::{bucket_error, disk_error, read_error};
use crate::web::{self, WebFile};
use crate::{bucket, cache, disk, fail, name, pipe};

/// Bytes that a sequential reader of a remote object asks for at once.
const REMOTE_CHUNK: usize = 8 << 20;
/// Characters of a copy's name: any of them fits into the 255 bytes that file systems allow.
const LONGEST_NAME: usize = 60;
/// Buffer of a sequential reader of a local file.
const LOCAL_CHUNK: usize = 256 << 10;

/// Random access to one file or object. Clone is cheap; all clones may read at once.
///
/// The length is taken when it is opened. Reading blocks.
#[derive(Clone)]
pub struct Blob(Arc<Inner>);

struct Inner {
    name: String,
    len: u64,
    source: Source,
}

enum Source {
    File {
        file: File,
        path: PathBuf,
    },
    /// What came whole from somewhere else, in a file without a name.
    Copy(File),
    Memory(Bytes),
    /// A range of another.
    Part {
        of: Blob,
        start: u64,
    },
    Web(Arc<WebFile>),
    Object {
        store: Arc<dyn ObjectStore>,
        key: Key,
        tag: Option<String>,
        version: String,
    },
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blob").field("name", &self.name()).field("len", &self.len()).finish()
    }
}

impl Blob {
    /// Opens a path, `file://`, `s3://`, `http(s)://` or the `memory://` URL of a test's store.
    ///
    /// From a web server it is read by ranges, or copied whole where the server has none; servers
    /// that nobody outside could reach are refused unless `CLIPMILL_PRIVATE_HOSTS` names them. With
    /// `CLIPMILL_PIPE=1`, `pipe:COMMAND` is what a shell's command writes to its standard output,
    /// taken whole before anything is read.
    ///
    /// # Errors
    /// [`Kind::Input`] when there is no such file or it is not a regular file,
    /// [`Kind::Recipe`] for another scheme, [`Kind::Network`] when the store cannot be reached.
    pub fn open(url: &str) -> Result<Self> {
        if let Some(command) = url.strip_prefix(pipe::PREFIX) {
            let (file, len) = pipe::run(command)?;
            return Ok(Self::of_copy(url, file, len));
        }
        match crate::address::parse(url)? {
            crate::address::Address::Local(path) => Self::open_file(&path, url),
            crate::address::Address::Remote(parsed)
                if matches!(parsed.scheme(), "http" | "https") =>
            {
                match wait(web::open(parsed))?? {
                    web::Opened::Whole(file, len) => Ok(Self::of_copy(url, file, len)),
                    web::Opened::Ranges(file, len) => {
                        let source = Source::Web(Arc::new(file));
                        Ok(Self(Arc::new(Inner { name: url.to_owned(), len, source })))
                    }
                }
            }
            crate::address::Address::Remote(parsed) => {
                let (store, key) = bucket::open(&parsed)?;
                Self::open_object(store, key, url.to_owned())
            }
        }
    }

    pub(crate) fn of_copy(name: &str, file: File, len: u64) -> Self {
        Self(Arc::new(Inner { name: name.to_owned(), len, source: Source::Copy(file) }))
    }

    /// Bytes that are already here, under a name for messages.
    #[must_use]
    pub fn from_bytes(name: &str, bytes: Bytes) -> Self {
        let (name, len) = (name.to_owned(), bytes.len() as u64);
        Self(Arc::new(Inner { name, len, source: Source::Memory(bytes) }))
    }

    /// A range of this file as a file of its own.
    ///
    /// # Errors
    /// [`Kind::Input`] when it does not lie within this one.
    pub(crate) fn part(&self, name: &str, start: u64, len: u64) -> Result<Self> {
        if start.checked_add(len).is_none_or(|end| end > self.len()) {
            let message = format!("truncated: {len} bytes wanted at {start} of {}", self.len());
            return Err(Error::input(message));
        }
        let source = Source::Part { of: self.clone(), start };
        Ok(Self(Arc::new(Inner { name: name.to_owned(), len, source })))
    }

    pub(crate) fn open_file(path: &Path, name: &str) -> Result<Self> {
        // Looked at before it is opened: opening a FIFO would wait for its writer.
        let meta = std::fs::metadata(path).map_err(|error| read_error(name, error))?;
        if !meta.is_file() {
            return Err(Error::input("not a regular file").at(name));
        }
        let file = File::open(path).map_err(|error| read_error(name, error))?;
        let source = Source::File { file, path: path.to_owned() };
        Ok(Self(Arc::new(Inner { name: name.to_owned(), len: meta.len(), source })))
    }

    pub(crate) fn open_object(store: Arc<dyn ObjectStore>, key: Key, name: String) -> Result<Self> {
        let (client, at) = (Arc::clone(&store), key.clone());
        let meta = wait(async move { client.head(&at).await })?.map_err(|error| match error {
            object_store::Error::NotFound { .. } => {
                Error::input("no such object").at(&name).hint("check the URL")
            }
            other => bucket_error(Kind::Input, &name, "cannot open", other),
        })?;
        let version = meta.e_tag.clone().unwrap_or_else(|| meta.last_modified.to_rfc3339());
        let source = Source::Object { store, key, tag: meta.e_tag, version };
        Ok(Self(Arc::new(Inner { name, len: meta.size, source })))
    }

    /// The path or URL it was opened with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.0.len
    }

    /// Exactly `len` bytes from `offset`.
    ///
    /// # Errors
    /// [`Kind::Input`] when they do not all lie within the file; nothing is allocated then.
    pub fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let end = self.check_range(offset, len)?;
        match &self.0.source {
            Source::File { file, .. } | Source::Copy(file) => {
                let mut bytes = vec![0; len];
                file.read_exact_at(&mut bytes, offset).map_err(|error| self.torn(error))?;
                Ok(bytes.into())
            }
            Source::Memory(bytes) => Ok(bytes.slice(offset as usize..end as usize)),
            // Cannot overflow: the range was checked against the whole.
            Source::Part { of, start } => of.read_at(start + offset, len),
            Source::Object { .. } | Source::Web(_) if len == 0 => Ok(Bytes::new()),
            Source::Object { .. } | Source::Web(_) => {
                self.request(offset, end)?.recv().map_err(|_| {
                    Error::internal("a request to the object store panicked").at(self.name())
                })?
            }
        }
    }

    /// Exactly as many bytes from `offset` as `buffer` holds: [`Blob::read_at`] without a new
    /// allocation.
    ///
    /// # Errors
    /// As [`Blob::read_at`]; what `buffer` holds then is unknown.
    pub fn read_into(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.check_range(offset, buffer.len())?;
        if let Source::File { file, .. } | Source::Copy(file) = &self.0.source {
            return file.read_exact_at(buffer, offset).map_err(|error| self.torn(error));
        }
        buffer.copy_from_slice(&self.read_at(offset, buffer.len())?);
        Ok(())
    }

    /// The whole file in memory. The caller answers for its size.
    pub fn read_all(&self) -> Result<Bytes> {
        let len = usize::try_from(self.len())
            .map_err(|_| Error::input("too large for memory").at(self.name()))?;
        self.read_at(0, len)
    }

    /// Reads from the start to the end, buffered; a remote object is fetched one chunk ahead.
    #[must_use]
    pub fn reader(&self) -> Box<dyn Read + Send> {
        if self.is_remote() {
            return Box::new(Ahead::new(self.clone()));
        }
        let here = Here { blob: self.clone(), offset: 0 };
        Box::new(BufReader::with_capacity(LOCAL_CHUNK, here))
    }

    /// A local path with these bytes: the file itself, or a copy in the cache folder
    /// (`CLIPMILL_CACHE`, else the user's) that later calls find again.
    pub fn local_path(&self) -> Result<PathBuf> {
        let version = match &self.0.source {
            Source::File { path, .. } => return Ok(path.clone()),
            Source::Memory(_) | Source::Copy(_) | Source::Part { .. } => self.sha256()?,
            Source::Web(file) => {
                let version = file.version.clone().map_or_else(|| self.sha256(), Ok)?;
                let identity = format!("{}\n{version}\n{}", self.name(), self.len());
                format!("{:x}", Sha256::digest(identity))
            }
            Source::Object { version, .. } => {
                let identity = format!("{}\n{version}\n{}", self.name(), self.len());
                format!("{:x}", Sha256::digest(identity))
            }
        };
        let folder = cache::folder().join("objects").join(version);
        let path = folder.join(base_name(self.name()));
        if std::fs::metadata(&path).is_ok_and(|meta| meta.len() == self.len()) {
            return Ok(path);
        }
        fail::point("cache.before_make")
            .map_err(|error| disk_error(folder.display(), "cannot make", error))?;
        disk::make_folder(&folder)?;
        let temporary = folder.join(format!(".{}.tmp", name::nonce()));
        let copied = (|| {
            fail::point("cache.before_copy")?;
            let mut file = File::create_new(&temporary)?;
            io::copy(&mut self.reader(), &mut file)?;
            fail::point("cache.before_sync")?;
            file.sync_all()?;
            fail::point("cache.before_rename")?;
            std::fs::rename(&temporary, &path)
        })();
        copied.map(|()| path).map_err(|error| {
            let _ = std::fs::remove_file(&temporary);
            disk_error(temporary.display(), "cannot copy the object here", error).at(self.name())
        })
    }

    /// Hex sha256 of the whole file, read once from start to end.
    pub fn sha256(&self) -> Result<String> {
        let mut hasher = Sha256::new();
        let mut reader = self.reader();
        let mut buffer = vec![0; LOCAL_CHUNK];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(format!("{:x}", hasher.finalize())),
                Ok(n) => hasher.update(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.torn(error)),
            }
        }
    }

    /// Whether each read is a request over the network.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        matches!(self.0.source, Source::Object { .. } | Source::Web(_))
    }

    fn check_range(&self, offset: u64, len: usize) -> Result<u64> {
        match offset.checked_add(len as u64) {
            Some(end) if end <= self.len() => Ok(end),
            _ => Err(Error::input(format!(
                "truncated: {len} bytes wanted at offset {offset}, the file has {}",
                self.len()
            ))
            .at(self.name())),
        }
    }

    fn torn(&self, error: io::Error) -> Error {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Error::input("the file became shorter while it was read").at(self.name());
        }
        read_error(self.name(), error)
    }

    /// Asks for a range of a remote object; the answer arrives in the channel.
    fn request(&self, offset: u64, end: u64) -> Result<mpsc::Receiver<Result<Bytes>>> {
        let (store, key, tag) = match &self.0.source {
            Source::Object { store, key, tag, .. } => (store, key, tag),
            Source::Web(file) => {
                let (file, len) = (Arc::clone(file), self.len());
                return start(async move { file.range(offset, end, len).await });
            }
            _ => return Err(Error::internal("only a remote file is requested").at(self.name())),
        };
        let (store, key, name) = (Arc::clone(store), key.clone(), self.name().to_owned());
        // Bytes of two versions of an object must never mix.
        let options = GetOptions {
            range: Some((offset..end).into()),
            if_match: tag.clone(),
            ..GetOptions::default()
        };
        start(async move {
            let got = match store.get_opts(&key, options).await {
                Ok(found) => found.bytes().await,
                Err(error) => Err(error),
            };
            let bytes = got.map_err(|error| match error {
                object_store::Error::Precondition { .. } => {
                    Error::input("the object changed while it was read").at(&name)
                }
                other => bucket_error(Kind::Input, &name, "cannot read", other),
            })?;
            if bytes.len() as u64 == end - offset {
                return Ok(bytes);
            }
            let got = bytes.len();
            Err(Error::input(format!("{got} bytes came for {}", end - offset)).at(name))
        })
    }
}

/// What a local copy is called: the last part of the path, without what a URL says behind it, which
/// may be a signature and longer than a name can be.
fn base_name(name: &str) -> String {
    let path = Url::parse(name).map_or_else(|_| name.to_owned(), |url| url.path().to_owned());
    let last = path.rsplit('/').find(|part| !part.is_empty()).unwrap_or_default();
    // The end of a long one, which tells what kind of file it is.
    let surplus = last.chars().count().saturating_sub(LONGEST_NAME);
    let kept: String = last.chars().skip(surplus).filter(|c| *c != '\0').collect();
    if matches!(kept.as_str(), "" | "." | "..") { "object".to_owned() } else { kept }
}

/// A cursor over a local file or memory.
struct Here {
    blob: Blob,
    offset: u64,
}

impl Read for Here {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.blob.len() - self.offset;
        let n = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if let Source::File { file, .. } | Source::Copy(file) = &self.blob.0.source {
            file.read_exact_at(&mut buffer[..n], self.offset)?;
        } else {
            let bytes = self.blob.read_at(self.offset, n).map_err(io::Error::other)?;
            buffer[..n].copy_from_slice(&bytes);
        }
        self.offset += n as u64;
        Ok(n)
    }
}

/// A cursor over a remote object that has the next chunk on its way.
struct Ahead {
    blob: Blob,
    /// First byte not yet asked for.
    asked: u64,
    chunk: Bytes,
    next: Option<mpsc::Receiver<Result<Bytes>>>,
}

impl Ahead {
    fn new(blob: Blob) -> Self {
        Self { blob, asked: 0, chunk: Bytes::new(), next: None }
    }

    fn ask(&mut self) -> Result<()> {
        let end = self.blob.len().min(self.asked.saturating_add(REMOTE_CHUNK as u64));
        self.next = if end > self.asked { Some(self.blob.request(self.asked, end)?) } else { None };
        self.asked = end;
        Ok(())
    }

    fn advance(&mut self) -> Result<()> {
        if self.asked == 0 {
            self.ask()?;
        }
        let Some(next) = self.next.take() else { return Ok(()) };
        self.chunk = next.recv().map_err(|_| {
            Error::internal("a request to the object store panicked").at(self.blob.name())
        })??;
        self.ask()
    }
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.chunk.is_empty() {
            self.advance().map_err(io::Error::other)?;
        }
        let n = buffer.len().min(self.chunk.len());
        buffer[..n].copy_from_slice(&self.chunk.split_to(n));
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_copy_is_named_by_the_path_alone() {
        for (name, copy) in [
            ("https://a.example/w/model.safetensors?X-Signature=a/b&c=d#e", "model.safetensors"),
            ("s3://bucket/w/model.safetensors", "model.safetensors"),
            ("https://a.example/?x=/etc/passwd", "object"),
            ("https://a.example", "object"),
            ("config.json", "config.json"),
            ("a/..", "object"),
        ] {
            assert_eq!(base_name(name), copy, "{name}");
        }
        let long = format!("https://a.example/{}.tar", "x".repeat(900));
        assert_eq!(base_name(&long), format!("{}.tar", "x".repeat(56)));
    }
}
