//! As much of HTTP as a browser on this machine needs: GET, one answer a connection.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stage::{Error, Result};

/// Longest head of a request.
const HEAD: usize = 16 << 10;
/// How long a client may take to read what it asked for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to ask: it is on this machine, and holds one of few places meanwhile.
const ASKING: Duration = Duration::from_secs(2);
/// Connections that are answered at once; more wait to be taken.
const AT_ONCE: usize = 16;

/// What a page of ours may load: itself, nothing else, from nowhere else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A question.
pub(crate) struct Request {
    pub(super) path: String,
    query: Vec<(String, String)>,
}

impl Request {
    /// A field of the query.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn number(&self, name: &str) -> Option<f64> {
        self.text(name)?.parse().ok().filter(|number: &f64| number.is_finite())
    }
}

/// What is given back.
pub(crate) struct Answer {
    status: &'static str,
    kind: &'static str,
    body: Vec<u8>,
}

impl Answer {
    pub(super) fn text(kind: &'static str, text: &str) -> Self {
        Self { status: "200 OK", kind, body: text.as_bytes().to_vec() }
    }

    pub(super) fn page(html: &str) -> Self {
        Self::text("text/html", html)
    }

    pub(super) fn json(value: &Value) -> Self {
        Self::text("application/json", &value.to_string())
    }

    pub(super) fn missing() -> Self {
        Self { status: "404 Not Found", ..Self::text("text/plain", "not here\n") }
    }

    pub(super) fn failed(error: &Error) -> Self {
        let body = json!({"error": error.to_string(), "hint": error.hint_text()});
        Self { status: "400 Bad Request", ..Self::json(&body) }
    }

    /// Bytes of a picture; what is none is not shown as anything else.
    pub(super) fn picture(bytes: &[u8]) -> Self {
        let kind = match bytes {
            [0xff, 0xd8, ..] => "image/jpeg",
            [0x89, b'P', b'N', b'G', ..] => "image/png",
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "image/webp",
            _ => return Self::missing(),
        };
        Self { status: "200 OK", kind, body: bytes.to_vec() }
    }
}

/// Serves until dropped.
pub(crate) struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    pub(super) fn start(
        address: SocketAddr,
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Result<Self> {
        let refuse = |error| {
            Error::recipe(format!("cannot listen on {address}"))
                .because(error)
                .hint("another process has the port: choose another with --port, or 0 for any")
        };
        let listener = TcpListener::bind(address).map_err(refuse)?;
        let address = listener.local_addr().map_err(refuse)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, answer) = (Arc::clone(&stop), Arc::new(answer));
        let open = Arc::new(AtomicUsize::new(0));
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else {
                    std::thread::sleep(Duration::from_millis(100));
                    continue;
                };
                while open.load(Ordering::SeqCst) >= AT_ONCE {
                    std::thread::sleep(Duration::from_millis(2));
                }
                open.fetch_add(1, Ordering::SeqCst);
                let (answer, own) = (Arc::clone(&answer), Open(Arc::clone(&open)));
                let converse = move || {
                    // A browser that went away is no trouble of ours.
                    let _ = converse(stream, address.port(), &*answer);
                    drop(own);
                };
                // Without a thread to be had the connection is closed, and the browser asks again.
                drop(std::thread::Builder::new().name("view".to_owned()).spawn(converse));
            }
        });
        Ok(Self { address, stop, accepting: Some(accepting) })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// One connection; counted until it ends, in whatever way.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if TcpStream::connect_timeout(&self.address, PATIENCE).is_ok()
            && let Some(accepting) = self.accepting.take()
        {
            let _ended = accepting.join();
        }
    }
}

fn converse(
    mut stream: TcpStream,
    port: u16,
    answer: &dyn Fn(&Request) -> Answer,
) -> std::io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let (mut head, began) = (Vec::new(), Instant::now());
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let left = ASKING.saturating_sub(began.elapsed());
        if left.is_zero() || head.len() > HEAD {
            return Ok(());
        }
        stream.set_read_timeout(Some(left))?;
        let mut some = [0; 2048];
        let read = stream.read(&mut some)?;
        if read == 0 {
            return Ok(());
        }
        head.extend_from_slice(&some[..read]);
    }
    let head = String::from_utf8_lossy(&head);
    let given = match read(&head, port) {
        Ok(request) => answer(&request),
        Err(status) => Answer { status, ..Answer::text("text/plain", "refused\n") },
    };
    // Nothing is kept: another folder may be served on this port next, with a picture of that name.
    write!(
        stream,
        "HTTP/1.1 {}\r\nContent-Type: {}{}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         Content-Security-Policy: {POLICY}\r\nX-Content-Type-Options: nosniff\r\n\
         Cross-Origin-Resource-Policy: same-origin\r\nReferrer-Policy: no-referrer\r\nConnection: close\r\n\r\n",
        given.status,
        given.kind,
        if given.kind.starts_with("image/") { "" } else { "; charset=utf-8" },
        given.body.len()
    )?;
    stream.write_all(&given.body)?;
    stream.flush()
}

/// The question, or the status with which it is refused. A page from elsewhere reaches loopback by
/// a name of its own; only our own names are answered.
fn read(head: &str, port: u16) -> std::result::Result<Request, &'static str> {
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if method != "GET" {
        return Err("405 Method Not Allowed");
    }
    let host = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("host"))
        .map(|(_, value)| value.trim().to_ascii_lowercase());
    let own = ["127.0.0.1", "localhost"].iter().any(|name| {
        let rest = host.as_deref().and_then(|host| host.strip_prefix(name));
        // A browser leaves the port out where it is the scheme's own.
        rest.is_some_and(|rest| *rest == format!(":{port}") || (rest.is_empty() && port == 80))
    });
    if !own {
        return Err("403 Forbidden");
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (unescape(name), unescape(value))
    });
    Ok(Request { path: path.to_owned(), query: pairs.collect() })
}

/// `%41+b` is `A b`; what is no escape stays.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while let Some(&byte) = bytes.get(i) {
        let hex = bytes.get(i + 1..i + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        let escaped = hex.filter(|_| byte == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match escaped {
            Some(value) => {
                out.push(value);
                i += 3;
            }
            None => {
                out.push(if byte == b'+' { b' ' } else { byte });
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_taken_apart_and_unescaped() {
        let head = "GET /api/rows?q=a%20cat+x&domain=%C3%A9.example&page=2&odd=%zz HTTP/1.1\r\nHost: localhost:7\r\n\r\n";
        let request = read(head, 7).ok().unwrap();
        assert_eq!(request.path, "/api/rows");
        assert_eq!(request.text("q"), Some("a cat x"));
        assert_eq!(request.text("domain"), Some("é.example"));
        assert_eq!(request.text("odd"), Some("%zz"));
        assert_eq!(request.number("page"), Some(2.0));
    }

    #[test]
    fn only_our_own_names_and_get_are_answered() {
        let ask = |method: &str, host: &str| {
            read(&format!("{method} / HTTP/1.1\r\n{host}\r\n\r\n"), 7).err()
        };
        assert_eq!(ask("GET", "Host: 127.0.0.1:7"), None);
        assert_eq!(ask("GET", "Host: evil.example:7"), Some("403 Forbidden"));
        assert_eq!(ask("GET", "X: y"), Some("403 Forbidden"));
        assert_eq!(ask("GET", "Host: localhost"), Some("403 Forbidden"));
        let default =
            |host: &str| read(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), 80).err();
        assert_eq!((default("localhost"), default("127.0.0.1:80")), (None, None));
        assert_eq!(default("localhost.evil.example"), Some("403 Forbidden"));
        assert_eq!(ask("POST", "Host: 127.0.0.1:7"), Some("405 Method Not Allowed"));
    }
}
