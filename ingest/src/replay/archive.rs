//! The archive: an index by address over WARC files, and its answers.

use std::collections::HashMap;
use std::io::{self, Read};

use stage::{Error, Result};
use store::Blob;

use super::address::{browser_key, key};
use super::http;
use crate::serve::{Request, Response, Server};
use crate::warc::Reader;

/// WARC files and where in them each address has its answer.
///
/// In memory is the index alone, about 200 bytes an address; answers are read when asked for.
/// Scheme, port and fragment of an address do not count. Of several captures of one address the
/// first with status 200 answers, else the first.
pub struct Archive {
    files: Vec<Blob>,
    index: HashMap<String, Place>,
    /// Addresses as a browser writes them, where they are written otherwise in the archive.
    browser_index: HashMap<String, Place>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    file: usize,
    offset: u64,
    nth: u64,
    status: u16,
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let files: Vec<&str> = self.files.iter().map(Blob::name).collect();
        f.debug_struct("Archive").field("files", &files).finish_non_exhaustive()
    }
}

impl Archive {
    /// Reads through WARC files (paths, URLs, or patterns of `store::expand`) and notes where each
    /// response lies. Broken records are passed over with a warning in the log.
    ///
    /// # Errors
    /// When a file cannot be read, or none of them holds a response.
    pub fn open<S: AsRef<str>>(paths: &[S]) -> Result<Self> {
        let mut archive =
            Self { files: Vec::new(), index: HashMap::new(), browser_index: HashMap::new() };
        for path in paths {
            for name in store::expand(path.as_ref())? {
                archive.add(Blob::open(&name)?)?;
            }
        }
        if archive.is_empty() {
            let names: Vec<&str> = paths.iter().map(AsRef::as_ref).collect();
            return Err(Error::input(format!("no response record in {}", names.join(", ")))
                .hint("name WARC files; WAT and WET files hold no responses"));
        }
        Ok(archive)
    }

    /// Number of addresses that have an answer.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether no address has an answer.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The archived answer to this request: status, headers and body of that day, the body without
    /// chunks and, unless the client takes it so, not packed. An address that is not in the archive
    /// is 404, a method other than GET and HEAD 405.
    ///
    /// # Errors
    /// When the file cannot be read any more.
    pub fn answer(&self, request: &Request) -> Result<Response> {
        if request.method != "GET" && request.method != "HEAD" {
            return Ok(Response::status(405));
        }
        let asked = format!("http://{}{}", request.host, request.path);
        let place = key(&asked)
            .and_then(|key| self.index.get(&key))
            .or_else(|| browser_key(&asked).and_then(|key| self.index.get(&key)))
            .or_else(|| browser_key(&asked).and_then(|key| self.browser_index.get(&key)));
        let Some(place) = place else { return Ok(Response::status(404)) };
        self.read(*place, |kind, body, content_type| match kind {
            Kind::Response => http::answer(body, request),
            Kind::Resource => Some(Response::ok(
                content_type.unwrap_or("application/octet-stream"),
                body.to_vec(),
            )),
        })
    }

    /// Serves the archive on loopback until the server is dropped.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn serve(self) -> Result<Server> {
        self.serve_at(0)
    }

    /// As [`Self::serve`] on this port.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn serve_at(self, port: u16) -> Result<Server> {
        Server::start_at(port, move |request| {
            self.answer(request).unwrap_or_else(|error| {
                tracing::warn!(%error, host = request.host, path = request.path, "cannot replay");
                Response::status(500)
            })
        })
    }

    fn add(&mut self, blob: Blob) -> Result<()> {
        let file = self.files.len();
        let mut reader = Reader::new(blob.name(), blob.reader());
        while let Some(record) = reader.next_record()? {
            let status = match Kind::of(&record) {
                Some(Kind::Response) => http::status(record.body),
                Some(Kind::Resource) => Some(200),
                None => None,
            };
            let Some(status) = status else { continue };
            let Some(target) = record.header("WARC-Target-URI") else { continue };
            // WARC/1.0 shows the address in angle brackets; some writers put them.
            let target = target.strip_prefix(b"<").unwrap_or(target);
            let target = String::from_utf8_lossy(target.strip_suffix(b">").unwrap_or(target));
            let place = Place { file, offset: record.offset, nth: record.nth, status };
            let Some(own) = key(&target) else { continue };
            if let Some(browsers) = browser_key(&target).filter(|browsers| *browsers != own) {
                insert(&mut self.browser_index, browsers, place);
            }
            insert(&mut self.index, own, place);
        }
        if !reader.damage().is_empty() {
            tracing::warn!(file = blob.name(), damage = ?reader.damage().places(), "damaged WARC");
        }
        self.files.push(blob);
        Ok(())
    }

    fn read(
        &self,
        place: Place,
        answer: impl Fn(Kind, &[u8], Option<&str>) -> Option<Response>,
    ) -> Result<Response> {
        let blob = &self.files[place.file];
        let moved = || Error::input("the archive has changed while it is served").at(blob.name());
        let mut reader = Reader::new(blob.name(), From { blob, at: place.offset });
        for _ in 0..place.nth {
            reader.next_record()?;
        }
        let record = reader.next_record()?.ok_or_else(moved)?;
        let kind = Kind::of(&record).ok_or_else(moved)?;
        let content_type = record.header("Content-Type").and_then(|v| std::str::from_utf8(v).ok());
        answer(kind, record.body, content_type).ok_or_else(moved)
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// An HTTP message.
    Response,
    /// A body alone.
    Resource,
}

impl Kind {
    fn of(record: &crate::warc::Record<'_>) -> Option<Self> {
        if record.is("response") {
            Some(Self::Response)
        } else {
            record.is("resource").then_some(Self::Resource)
        }
    }
}

fn insert(index: &mut HashMap<String, Place>, key: String, place: Place) {
    index
        .entry(key)
        .and_modify(|old| {
            if old.status != 200 && place.status == 200 {
                *old = place;
            }
        })
        .or_insert(place);
}

/// A blob from some byte on.
struct From<'a> {
    blob: &'a Blob,
    at: u64,
}

impl Read for From<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.blob.len().saturating_sub(self.at);
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let bytes = self.blob.read_at(self.at, wanted).map_err(io::Error::other)?;
        buffer[..bytes.len()].copy_from_slice(&bytes);
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }
}
