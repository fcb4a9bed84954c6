//! What a client asked.

use crate::warc::{header, headers};

/// A request without its body (a body is read and thrown away).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `HEAD`, ...
    pub method: String,
    /// The `Host` header in lower case, without a port; empty when there is none.
    pub host: String,
    /// The path with its query, as asked: `/a%20b?c=d`.
    pub path: String,
    /// All headers in order, as sent.
    pub headers: Vec<(String, String)>,
}

impl Request {
    /// The first value of this header, whatever the case of its name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Reads a header block, its empty line included; `None` when it is not HTTP/1.
    pub(super) fn parse(block: &[u8]) -> Option<Self> {
        let end = memchr::memchr(b'\n', block)?;
        let line = std::str::from_utf8(&block[..end]).ok()?;
        let mut words = line.split_ascii_whitespace();
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        if !version.starts_with("HTTP/1.") || words.next().is_some() {
            return None;
        }
        let lines = &block[end + 1..];
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut host = header(lines, "Host").map(text).unwrap_or_default();
        let mut path = target.to_owned();
        // A client that thinks we are its proxy names the host in the target.
        if let Some(absolute) = target.strip_prefix("http://") {
            let cut = absolute.find(['/', '?']).unwrap_or(absolute.len());
            let root = if absolute[cut..].starts_with('/') { "" } else { "/" };
            (host, path) = (absolute[..cut].to_owned(), format!("{root}{}", &absolute[cut..]));
        }
        Some(Self {
            method: method.to_owned(),
            host: without_port(&host).to_ascii_lowercase(),
            path,
            headers: headers(lines).map(|(key, value)| (text(key), text(value))).collect(),
        })
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => {
            name
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_loses_its_port_and_its_case() {
        let request = Request::parse(b"GET /a?b HTTP/1.1\r\nHost: A.Example:8080\r\n\r\n").unwrap();
        assert_eq!((request.host.as_str(), request.path.as_str()), ("a.example", "/a?b"));
    }

    #[test]
    fn a_request_to_a_proxy_is_understood() {
        let request = Request::parse(b"GET http://a.example?b HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!((request.host.as_str(), request.path.as_str()), ("a.example", "/?b"));
    }

    #[test]
    fn what_is_not_http_1_is_no_request() {
        assert_eq!(Request::parse(b"PRI * HTTP/2.0\r\n\r\n"), None);
        assert_eq!(Request::parse(b"\x16\x03\x01\x00\n\r\n"), None);
    }
}
