//! A file over http(s) as a stream of bytes, which goes on where it was cut off.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use bytes::{Buf, Bytes};
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderValue, IF_RANGE, RANGE, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode};
use stage::{Error, Result, ResultExt};

/// Tries without a byte of progress, before the download is given up.
const TRIES: u32 = 10;
/// Wait before the second try; it doubles each time.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_mins(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest silence in the middle of a body.
const READ_TIMEOUT: Duration = Duration::from_mins(1);
/// Pieces of a body that wait to be read; one has at most some 100 KB.
const PIECES: usize = 16;

/// Reads a body while it arrives. Common Crawl's servers answer 503 when they are busy and cut long
/// downloads: both are tried again, from the byte reached. A file that changes meanwhile (another
/// ETag) is an error.
pub(super) struct Download {
    pieces: Receiver<Result<Bytes>>,
    current: Bytes,
}

impl Download {
    /// Starts to download on a thread of its own, which ends when this is dropped.
    ///
    /// # Errors
    /// When there is no thread to be had. What the server does wrong is told by `read`.
    pub(super) fn start(url: &str) -> Result<Self> {
        let (sender, pieces) = sync_channel(PIECES);
        let url = url.to_owned();
        std::thread::Builder::new()
            .name("download".to_owned())
            .spawn(move || {
                if let Err(error) = download(&url, &sender) {
                    // A reader that has gone does not care.
                    let _gone = sender.send(Err(error.at(url)));
                }
            })
            .internal("cannot start a thread")?;
        Ok(Self { pieces, current: Bytes::new() })
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.recv() {
                Ok(Ok(piece)) => self.current = piece,
                Ok(Err(error)) => return Err(io::Error::other(error)),
                Err(_ended) => return Ok(0),
            }
        }
        let n = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..n]);
        Ok(n)
    }
}

fn download(url: &str, pieces: &SyncSender<Result<Bytes>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .internal("cannot start a runtime")?;
    let client = client()?;
    runtime.block_on(async {
        let mut progress = Progress::default();
        let mut tries = 0;
        loop {
            let before = progress.bytes;
            let wait = match attempt(&client, url, pieces, &mut progress).await {
                Ok(()) => return Ok(()),
                Err(Trouble::Final(error)) => return Err(error),
                Err(Trouble::Passing(error, wait)) => {
                    tries = if progress.bytes > before { 1 } else { tries + 1 };
                    if tries >= TRIES {
                        return Err(error);
                    }
                    tracing::info!(url, %error, bytes = progress.bytes, "download goes on soon");
                    wait.unwrap_or(FIRST_WAIT * 2u32.pow(tries - 1)).min(LONGEST_WAIT)
                }
            };
            tokio::time::sleep(wait).await;
        }
    })
}

#[derive(Default)]
struct Progress {
    bytes: u64,
    etag: Option<HeaderValue>,
}

enum Trouble {
    /// Worth another try, after this long if the server said so.
    Passing(Error, Option<Duration>),
    Final(Error),
}

async fn attempt(
    client: &Client,
    url: &str,
    pieces: &SyncSender<Result<Bytes>>,
    progress: &mut Progress,
) -> Result<(), Trouble> {
    let passing = |error: reqwest::Error| {
        Trouble::Passing(Error::network("cannot download").because(error), None)
    };
    let mut request = client.get(url);
    if progress.bytes > 0 {
        request = request.header(RANGE, format!("bytes={}-", progress.bytes));
        if let Some(etag) = &progress.etag {
            request = request.header(IF_RANGE, etag);
        }
    }
    let mut response = request.send().await.map_err(passing)?;
    check_status(&response, progress.bytes)?;
    let etag = response.headers().get(ETAG).cloned();
    if progress.bytes > 0 && etag != progress.etag {
        return Err(Trouble::Final(Error::input("the file changed while it was downloaded")));
    }
    progress.etag = etag;
    // A server that knows no ranges sends the file again.
    let mut skip = if response.status() == StatusCode::OK { progress.bytes } else { 0 };
    while let Some(mut piece) = response.chunk().await.map_err(passing)? {
        let skipped = skip.min(piece.len() as u64);
        piece.advance(skipped as usize);
        skip -= skipped;
        progress.bytes += piece.len() as u64;
        if !piece.is_empty() && pieces.send(Ok(piece)).is_err() {
            return Ok(());
        }
    }
    // hyper itself refuses a body shorter than its Content-Length.
    Ok(())
}

fn check_status(response: &Response, from: u64) -> Result<(), Trouble> {
    let status = response.status();
    match status {
        StatusCode::OK => Ok(()),
        StatusCode::PARTIAL_CONTENT if from > 0 => {
            let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
            let start = format!("bytes {from}-");
            if range.is_some_and(|range| range.starts_with(&start)) {
                Ok(())
            } else {
                Err(Trouble::Final(Error::network("the server sent another range than asked")))
            }
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => Err(busy(response)),
        _ if status.is_server_error() => Err(busy(response)),
        _ => Err(Trouble::Final(Error::input(format!("the server answered {status}")))),
    }
}

fn busy(response: &Response) -> Trouble {
    let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let wait = seconds.and_then(|s| s.parse().ok()).map(Duration::from_secs);
    Trouble::Passing(Error::network(format!("the server answered {}", response.status())), wait)
}

fn client() -> Result<Client> {
    // A default provider is a property of the process; where the program has chosen one, it stays.
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        let _raced = rustls::crypto::ring::default_provider().install_default();
    }
    let builder = || {
        Client::builder()
            .user_agent(concat!("clipmill/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
    };
    // A machine without certificates can still read over plain http.
    let client = builder().build().or_else(|_| builder().tls_certs_only([]).build());
    client.internal("cannot build an HTTP client")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::serve::{self, Request, Server};

    /// What a download from this server gives.
    fn get<F>(handler: F) -> io::Result<String>
    where
        F: Fn(&Request, u32) -> serve::Response + Send + Sync + 'static,
    {
        let asked = AtomicU32::new(0);
        let server =
            Server::start(move |request| handler(request, asked.fetch_add(1, Ordering::SeqCst)))
                .unwrap();
        let mut text = String::new();
        let mut download = Download::start(&format!("http://{}/x", server.address())).unwrap();
        download.read_to_string(&mut text).map(|_| text)
    }

    const BODY: &str = "0123456789";

    fn cut() -> serve::Response {
        let head =
            format!("HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: {}\r\n\r\n", BODY.len());
        serve::Response::Raw((head + &BODY[..4]).into())
    }

    #[test]
    fn a_sound_download_is_read_whole() {
        assert_eq!(get(|_, _| serve::Response::ok("text/plain", BODY)).unwrap(), BODY);
    }

    #[test]
    fn a_cut_download_goes_on_from_the_byte_reached() {
        let text = get(|request, nth| {
            if nth == 0 {
                return cut();
            }
            assert_eq!(request.header("Range"), Some("bytes=4-"));
            assert_eq!(request.header("If-Range"), Some("\"1\""));
            serve::Response::Full { status: 206, headers: Vec::new(), body: BODY[4..].into() }
                .with("Content-Range", "bytes 4-9/10")
                .with("ETag", "\"1\"")
        });
        assert_eq!(text.unwrap(), BODY);
    }

    #[test]
    fn a_server_without_ranges_sends_the_file_again() {
        let text = get(|_, nth| {
            if nth == 0 {
                cut()
            } else {
                serve::Response::ok("text/plain", BODY).with("ETag", "\"1\"")
            }
        });
        assert_eq!(text.unwrap(), BODY);
    }

    #[test]
    fn a_file_that_changed_meanwhile_is_an_error() {
        let error = get(|_, nth| {
            if nth == 0 {
                cut()
            } else {
                serve::Response::ok("text/plain", BODY).with("ETag", "\"2\"")
            }
        });
        let message = error.unwrap_err().to_string();
        assert!(message.ends_with("the file changed while it was downloaded"), "{message}");
    }

    #[test]
    fn a_busy_server_is_asked_again_and_a_missing_file_is_not() {
        let text = get(|_, nth| match nth {
            0 => serve::Response::status(503).with("Retry-After", "0"),
            1 => serve::Response::ok("text/plain", BODY),
            _ => serve::Response::status(500),
        });
        assert_eq!(text.unwrap(), BODY);
        let error = get(|_, nth| {
            assert_eq!(nth, 0);
            serve::Response::status(404)
        });
        assert!(error.unwrap_err().to_string().ends_with("the server answered 404 Not Found"));
    }
}
