//! A raw TCP server on loopback that does whatever a test wants, right or wrong.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) path: String,
    /// The `Host` header.
    pub(crate) host: String,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    /// How often this host and path were asked for before.
    pub(crate) before: usize,
}

type Handler = dyn Fn(&Request, &mut TcpStream) -> std::io::Result<()> + Send + Sync;

/// Stops when dropped.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    handler: Box<Handler>,
    keeps_log: bool,
    stop: AtomicBool,
    open: AtomicUsize,
    log: Mutex<Vec<Request>>,
}

impl Server {
    /// One request a connection; robots.txt is 404 unless the handler of [`Server::with_robots`]
    /// is used.
    pub(crate) fn start(
        handler: impl Fn(&Request, &mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::with_robots(move |request, stream| match request.path.as_str() {
            "/robots.txt" => respond(stream, "404 Not Found", "", b""),
            _ => handler(request, stream),
        })
    }

    /// As [`Server::start`], and robots.txt is the handler's too.
    pub(crate) fn with_robots(
        handler: impl Fn(&Request, &mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::open(handler, true)
    }

    /// As [`Server::start`], for so many requests that a list of them would grow large.
    pub(crate) fn without_log(
        handler: impl Fn(&Request, &mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let handler = move |request: &Request, stream: &mut TcpStream| match request.path.as_str() {
            "/robots.txt" => respond(stream, "404 Not Found", "", b""),
            _ => handler(request, stream),
        };
        Self::open(handler, false)
    }

    fn open(
        handler: impl Fn(&Request, &mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
        keeps_log: bool,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            handler: Box::new(handler),
            keeps_log,
            stop: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            log: Mutex::default(),
        });
        let accepting = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || accept(&listener, &shared))
        };
        Self { addr, shared, accepting: Some(accepting) }
    }

    /// Requests so far, robots.txt left out.
    pub(crate) fn log(&self) -> Vec<Request> {
        let log = self.shared.log.lock().unwrap();
        log.iter().filter(|request| request.path != "/robots.txt").cloned().collect()
    }

    /// How often `host/path` was asked for.
    pub(crate) fn hits(&self, host_path: &str) -> usize {
        let log = self.shared.log.lock().unwrap();
        log.iter().filter(|r| format!("{}{}", r.host, r.path) == host_path).count()
    }

    /// Whether all connections are closed within a few seconds.
    pub(crate) fn all_closed(&self) -> bool {
        self.closed_within(Duration::from_secs(5))
    }

    /// Whether all connections are closed within this time.
    pub(crate) fn closed_within(&self, time: Duration) -> bool {
        let began = Instant::now();
        while began.elapsed() < time {
            if self.shared.open.load(Ordering::SeqCst) == 0 {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let _wakes_accept = TcpStream::connect(self.addr);
        if let Some(accepting) = self.accepting.take() {
            accepting.join().unwrap();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let shared = Arc::clone(shared);
        shared.open.fetch_add(1, Ordering::SeqCst);
        std::thread::spawn(move || {
            let _client_left = serve(stream, &shared);
            shared.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

fn serve(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    if path.is_empty() {
        return Ok(());
    }
    let host = headers.get("host").cloned().unwrap_or_default();
    let request = {
        let mut log = shared.log.lock().unwrap();
        let before = log.iter().filter(|r| r.host == host && r.path == path).count();
        let request = Request { path, host, headers, before };
        if shared.keeps_log {
            log.push(request.clone());
        }
        request
    };
    (shared.handler)(&request, &mut stream)
}

/// A whole answer with its length. `headers` are lines that end in `\r\n`.
pub(crate) fn respond(
    stream: &mut TcpStream,
    status: &str,
    headers: &str,
    body: &[u8],
) -> std::io::Result<()> {
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n"
    )?;
    stream.write_all(body)
}

/// The body with 200.
pub(crate) fn ok(stream: &mut TcpStream, body: &[u8]) -> std::io::Result<()> {
    respond(stream, "200 OK", "", body)
}

/// Head of an answer whose body the test writes itself.
pub(crate) fn head(stream: &mut TcpStream, headers: &str) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n{headers}\r\n")
}

/// One chunk of a chunked body.
pub(crate) fn chunk(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    write!(stream, "{:x}\r\n", bytes.len())?;
    stream.write_all(bytes)?;
    stream.write_all(b"\r\n")
}

/// A redirect to `location`.
pub(crate) fn redirect(stream: &mut TcpStream, location: &str) -> std::io::Result<()> {
    respond(stream, "302 Found", &format!("Location: {location}\r\n"), b"")
}
