//! Files over http and https: read by range from addresses that were vetted, or taken whole where
//! the server has no ranges.
//!
//! What holds for a URL holds for every redirect, which are followed by hand: no password, no
//! address that is not public unless its host was named ([`allow_private_host`]), five hops. Nothing
//! is unpacked, nothing longer than what was asked for is read, and bytes of two versions of a file
//! never mix: every later request says which version it wants. What was asked for under https never
//! comes over http. An answer has to begin and to keep up ([`WebLimits`]), and a file that is taken
//! whole has a largest size.

mod limits;
mod vetted;

use std::fs::File;
use std::io::{Seek, Write};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, IF_RANGE,
    LAST_MODIFIED, LOCATION, RANGE, RETRY_AFTER,
};
use reqwest::{Response, StatusCode};
use stage::{Error, Kind, Result};
use tokio::time::timeout;
use url::Url;

use limits::{FIRST_BYTE, MAX_COPY, Pace, Stopped};
pub use limits::{WebLimits, set_web_limits};
pub use vetted::allow_private_host;
use vetted::{check, client};

use crate::trouble::disk_error;

/// Redirects that are followed for one request.
const MAX_HOPS: usize = 5;
/// Longest pause between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Bytes for which memory is taken before they come.
const TRUST: usize = 8 << 20;

/// A file on a web server.
#[derive(Debug)]
pub(crate) struct WebFile {
    /// As it was named; a redirect's place may hold for minutes only.
    url: Url,
    /// The header that names the version, if the server has one.
    pub(crate) version: Option<String>,
}

/// What a URL leads to.
pub(crate) enum Opened {
    /// A server that gives ranges, and the file's length.
    Ranges(WebFile, u64),
    /// A server that does not: the whole file, without a name.
    Whole(File, u64),
}

/// Asks for the first byte; where the whole file comes instead, takes it.
pub(crate) async fn open(url: Url) -> Result<Opened> {
    let file = WebFile { url, version: None };
    let mut tries = Tries::new()?;
    loop {
        match file.open_once().await {
            Err(error) if tries.again(&error).await => {}
            other => return other,
        }
    }
}

/// How often something was tried, of how often it is.
struct Tries {
    made: u32,
    most: u32,
}

impl Tries {
    fn new() -> Result<Self> {
        Ok(Self { made: 1, most: WebLimits::of_process()?.tries })
    }

    /// Whether to try again what failed on the way, after a pause that grows.
    async fn again(&mut self, error: &Error) -> bool {
        if error.kind() != Kind::Network || self.made >= self.most {
            return false;
        }
        let pause = Duration::from_millis(250).saturating_mul(4_u32.saturating_pow(self.made - 1));
        tracing::debug!(%error, tries = self.made, "asked again after {pause:?}");
        tokio::time::sleep(pause.min(MAX_PAUSE)).await;
        self.made += 1;
        true
    }
}

impl WebFile {
    async fn open_once(&self) -> Result<Opened> {
        let mut answer = self.ask(0, 1).await?;
        match answer.status() {
            StatusCode::PARTIAL_CONTENT => {
                let (_, _, len) = content_range(answer.headers())
                    .ok_or_else(|| self.wrong("206 without a usable Content-Range"))?;
                let version = version(answer.headers());
                Ok(Opened::Ranges(Self { url: self.url.clone(), version }, len))
            }
            // Of an empty file no byte can be given.
            StatusCode::RANGE_NOT_SATISFIABLE => {
                tempfile::tempfile().map(|file| Opened::Whole(file, 0)).map_err(|e| self.disk(e))
            }
            StatusCode::OK => {
                let mut copy = tempfile::tempfile().map_err(|e| self.disk(e))?;
                let len = self.copy(&mut answer, &mut copy).await?;
                copy.rewind().map_err(|e| self.disk(e))?;
                Ok(Opened::Whole(copy, len))
            }
            other => Err(self.refused(other)),
        }
    }

    /// Takes a whole body; gives how many bytes it has.
    async fn copy(&self, answer: &mut Response, copy: &mut File) -> Result<u64> {
        let limits = WebLimits::of_process()?;
        let announced = answer.content_length();
        let too_large = || {
            let most = limits.max_copy;
            Error::input(format!(
                "the server gives no ranges, and its file has more than {most} bytes to copy here"
            ))
            .at(self.place())
            .hint(format!("download it by other means and name the file, or raise {MAX_COPY}"))
        };
        if announced.is_some_and(|announced| announced > limits.max_copy) {
            return Err(too_large());
        }
        let mut pace = Pace::new(limits, announced.unwrap_or(limits.max_copy));
        let mut len = 0;
        while let Some(piece) = pace.next(answer).await.map_err(|why| self.stopped(why))? {
            len += piece.len() as u64;
            if len > limits.max_copy {
                return Err(too_large());
            }
            let began = Instant::now();
            copy.write_all(&piece).map_err(|e| self.disk(e))?;
            pace.forgive(began.elapsed());
        }
        if announced.is_some_and(|announced| announced != len) {
            return Err(self.network(&format!("{len} bytes came, others were announced")));
        }
        Ok(len)
    }

    /// Exactly these bytes of the version that was opened, of a file of this length.
    pub(crate) async fn range(&self, start: u64, end: u64, len: u64) -> Result<Bytes> {
        let mut tries = Tries::new()?;
        loop {
            match self.range_once(start, end, len).await {
                Err(error) if tries.again(&error).await => {}
                other => return other,
            }
        }
    }

    async fn range_once(&self, start: u64, end: u64, len: u64) -> Result<Bytes> {
        let mut answer = self.ask(start, end).await?;
        match answer.status() {
            StatusCode::PARTIAL_CONTENT => {}
            StatusCode::OK | StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(Error::input("the file changed while it was read").at(self.place()));
            }
            other => return Err(self.refused(other)),
        }
        if content_range(answer.headers()) != Some((start, end, len)) {
            return Err(self.wrong("another range came than was asked for"));
        }
        let wanted = (end - start) as usize;
        let mut bytes = BytesMut::with_capacity(wanted.min(TRUST));
        let mut pace = Pace::new(WebLimits::of_process()?, end - start);
        while let Some(piece) = pace.next(&mut answer).await.map_err(|why| self.stopped(why))? {
            if bytes.len() + piece.len() > wanted {
                return Err(self.wrong("more bytes came than were asked for"));
            }
            bytes.extend_from_slice(&piece);
        }
        if bytes.len() == wanted {
            return Ok(bytes.freeze());
        }
        Err(self.network(&format!("{} bytes came for {wanted}", bytes.len())))
    }

    /// One request, through its redirects; 429 and 5xx are errors of the network.
    async fn ask(&self, start: u64, end: u64) -> Result<Response> {
        let (client, limits) = (client()?, WebLimits::of_process()?);
        let mut url = self.url.clone();
        for _ in 0..=MAX_HOPS {
            check(&url)?;
            let mut request = client
                .get(url.clone())
                .header(ACCEPT_ENCODING, "identity")
                .header(RANGE, format!("bytes={start}-{}", end - 1));
            if let Some(version) = &self.version {
                request = request.header(IF_RANGE, version);
            }
            let Ok(answer) = timeout(limits.first_byte, request.send()).await else {
                let seconds = limits.first_byte.as_secs_f64();
                return Err(self
                    .network(&format!("no answer began within {seconds} s"))
                    .hint(format!("raise {FIRST_BYTE} if the server needs longer")));
            };
            let answer = answer.map_err(|e| self.lost(&e))?;
            let status = answer.status();
            if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
                let place = text(answer.headers(), &LOCATION);
                let next = place
                    .and_then(|place| url.join(place).ok())
                    .ok_or_else(|| self.wrong("a redirect without a place"))?;
                if url.scheme() == "https" && next.scheme() == "http" {
                    return Err(self
                        .wrong("a redirect from https to http, on which anybody could change bytes")
                        .hint("name the http URL itself if that is meant"));
                }
                url = next;
                continue;
            }
            if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
                let pause = text(answer.headers(), &RETRY_AFTER).and_then(|s| s.parse().ok());
                tokio::time::sleep(Duration::from_secs(pause.unwrap_or(0)).min(MAX_PAUSE)).await;
                return Err(self.network(&format!("the server answered {status}")));
            }
            let packed = text(answer.headers(), &CONTENT_ENCODING);
            if packed.is_some_and(|coding| !coding.eq_ignore_ascii_case("identity")) {
                return Err(self.wrong("the answer is packed, which nobody asked for"));
            }
            return Ok(answer);
        }
        Err(self.wrong(&format!("more than {MAX_HOPS} redirects")))
    }

    /// Without its query, which may hold a signature.
    fn place(&self) -> Url {
        let mut url = self.url.clone();
        url.set_query(None);
        url
    }

    fn refused(&self, status: StatusCode) -> Error {
        let error = Error::input(format!("the server answered {status}")).at(self.place());
        match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => error.hint("check the URL"),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                error.hint("a URL that is signed has to be signed again")
            }
            _ => error,
        }
    }

    fn wrong(&self, why: &str) -> Error {
        Error::input(why).at(self.place())
    }

    fn network(&self, why: &str) -> Error {
        Error::new(Kind::Network, why).at(self.place())
    }

    fn stopped(&self, why: Stopped) -> Error {
        match why {
            Stopped::Lost(error) => self.lost(&error),
            Stopped::Slow(error) => error.at(self.place()),
        }
    }

    fn lost(&self, error: &reqwest::Error) -> Error {
        // The refusal of an address or a certificate comes back inside the client's own error.
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            if let Some(refused) = cause.downcast_ref::<vetted::NoPublicAddress>() {
                return refused.error().at(self.place());
            }
            if let Some(why) = vetted::untrusted(cause) {
                return self
                    .wrong("the server's certificate is not trusted")
                    .because(why)
                    .hint("name the certificate of your own authority in SSL_CERT_FILE");
            }
            source = cause.source();
        }
        self.network("the connection failed").because(error.to_string())
    }

    fn disk(&self, error: std::io::Error) -> Error {
        kept_in(&std::env::temp_dir(), error).at(self.place())
    }
}

/// What goes wrong where downloads are kept.
fn kept_in(folder: &std::path::Path, error: std::io::Error) -> Error {
    use std::io::ErrorKind::{NotFound, QuotaExceeded, StorageFull};
    let elsewhere = matches!(error.kind(), StorageFull | QuotaExceeded | NotFound);
    let error = disk_error(folder.display(), "cannot keep the download", error);
    if elsewhere {
        return error.hint("free space there, or name a folder with more in TMPDIR");
    }
    error
}

/// `bytes 0-99/1234` as start, end (exclusive) and length.
fn content_range(headers: &HeaderMap) -> Option<(u64, u64, u64)> {
    let text = text(headers, &CONTENT_RANGE)?.trim().strip_prefix("bytes ")?;
    let (range, len) = text.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, len): (u64, u64, u64) =
        (first.trim().parse().ok()?, last.trim().parse().ok()?, len.trim().parse().ok()?);
    (first <= last && last < len).then_some((first, last + 1, len))
}

/// A strong tag, else the date: what `If-Range` takes.
fn version(headers: &HeaderMap) -> Option<String> {
    let tag = text(headers, &ETAG).filter(|tag| !tag.starts_with("W/"));
    tag.or_else(|| text(headers, &LAST_MODIFIED)).map(str::to_owned)
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_must_say_all_three_numbers_and_hold_together() {
        let read = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_RANGE, value.parse().unwrap());
            content_range(&headers)
        };
        assert_eq!(read("bytes 0-0/1234"), Some((0, 1, 1234)));
        assert_eq!(read("bytes 5-9/10"), Some((5, 10, 10)));
        for wrong in ["bytes */10", "bytes 0-0/*", "bytes 5-4/10", "bytes 0-10/10", "items 0-1/2"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(read("bytes 0-18446744073709551615/18446744073709551615"), None);
    }

    #[test]
    fn a_full_disk_names_the_folder_and_another_way() {
        let full = std::io::Error::from_raw_os_error(libc::ENOSPC);
        let error = kept_in("/var/tmp".as_ref(), full);
        assert_eq!(error.kind(), Kind::Store);
        assert!(error.to_string().starts_with("/var/tmp: cannot keep the download: No space left"));
        assert!(error.hint_text().unwrap().contains("TMPDIR"));
    }
}
