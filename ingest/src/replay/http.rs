//! An archived HTTP answer: head and body as they went over the wire.

use std::io::Read;

use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

use crate::serve::{Request, Response};
use crate::warc::{header, header_block, headers};

/// Longest body after unpacking; a longer one stays packed.
const MAX_UNPACKED: u64 = 64 << 20;
/// Headers that describe the connection of that day or the length on its wire (RFC 9110, 7.6.1).
const NOT_SERVED: [&str; 9] = [
    "Connection",
    "Content-Length",
    "Keep-Alive",
    "Proxy-Connection",
    "Proxy-Authenticate",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
];

/// The status of an archived message; `None` when it is no HTTP answer with a whole head.
pub(super) fn status(message: &[u8]) -> Option<u16> {
    header_block(message)?;
    let line = message.split(|&b| b == b'\n').next()?;
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    words.next().filter(|version| version.starts_with(b"HTTP/"))?;
    let status = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
    (100..=599).contains(&status).then_some(status)
}

/// The archived message as an answer to this request.
pub(super) fn answer(message: &[u8], request: &Request) -> Option<Response> {
    let status = status(message)?;
    let (head, payload) = message.split_at(header_block(message)?);
    let chunked = header(head, "Transfer-Encoding")
        .is_some_and(|value| value.to_ascii_lowercase().ends_with(b"chunked"));
    // Some archives keep the header but store the body without its chunks.
    let body = if chunked { dechunk(payload) } else { None };
    let mut body = body.unwrap_or_else(|| payload.to_vec());
    let mut packed = header(head, "Content-Encoding").map(<[u8]>::to_ascii_lowercase);
    if let Some(coding) = &packed
        && !accepts(request, coding)
        && let Some(plain) = unpack(&body, coding)
    {
        body = plain;
        packed = None;
    }
    let mut response = Response::Full { status, headers: Vec::new(), body: body.into() };
    let lines = &head[head.iter().position(|&b| b == b'\n')? + 1..];
    for (name, value) in headers(lines) {
        let (Ok(name), value) = (std::str::from_utf8(name), String::from_utf8_lossy(value)) else {
            continue;
        };
        let coding = name.eq_ignore_ascii_case("Content-Encoding") && packed.is_none();
        if !coding && is_token(name) && !NOT_SERVED.iter().any(|n| n.eq_ignore_ascii_case(name)) {
            response = response.with(name, &value);
        }
    }
    Some(response)
}

/// The bytes of a chunked body (RFC 9112, 7.1); `None` when it is not one.
fn dechunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::with_capacity(rest.len());
    loop {
        let end = memchr::memchr(b'\n', rest)?;
        let line = std::str::from_utf8(&rest[..end]).ok()?;
        let digits = line.split(';').next()?.trim();
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let length = usize::from_str_radix(digits, 16).ok()?;
        rest = &rest[end + 1..];
        if length == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..length)?);
        rest = &rest[length..];
        rest = rest.strip_prefix(b"\r").unwrap_or(rest).strip_prefix(b"\n")?;
    }
}

fn accepts(request: &Request, coding: &[u8]) -> bool {
    let Some(accepted) = request.header("Accept-Encoding") else { return false };
    accepted.split(',').any(|entry| {
        let mut parts = entry.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let refused = parts.any(|p| matches!(p, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
        !refused && (name.as_bytes() == coding || name == "*")
    })
}

/// The body without this coding; `None` when it is unknown, broken or too long.
fn unpack(body: &[u8], coding: &[u8]) -> Option<Vec<u8>> {
    let read = |reader: &mut dyn Read| {
        let mut plain = Vec::new();
        let read = reader.take(MAX_UNPACKED + 1).read_to_end(&mut plain).ok()?;
        (read as u64 <= MAX_UNPACKED).then_some(plain)
    };
    match coding {
        b"gzip" | b"x-gzip" => read(&mut MultiGzDecoder::new(body)),
        // RFC 9110 means zlib; some servers send raw deflate.
        b"deflate" => {
            read(&mut ZlibDecoder::new(body)).or_else(|| read(&mut DeflateDecoder::new(body)))
        }
        b"identity" => Some(body.to_vec()),
        _ => None,
    }
}

fn is_token(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn ask(accept_encoding: &str) -> Request {
        Request {
            method: "GET".to_owned(),
            host: "a.example".to_owned(),
            path: "/".to_owned(),
            headers: vec![("Accept-Encoding".to_owned(), accept_encoding.to_owned())],
        }
    }

    #[track_caller]
    fn check(message: &[u8], accept_encoding: &str, names: &[&str], expected: &[u8]) {
        let response = answer(message, &ask(accept_encoding)).unwrap();
        let Response::Full { headers, body, .. } = response else { panic!("a whole answer") };
        assert_eq!(headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), names);
        assert_eq!(body, expected);
    }

    #[test]
    fn chunks_are_joined_and_the_header_goes() {
        let message = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nA: b\r\n\r\n\
                        3;x=y\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        check(message, "identity", &["A"], b"abcde");
    }

    #[test]
    fn a_body_stored_without_its_chunks_is_taken_as_it_is() {
        let message = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n<html>";
        check(message, "identity", &[], b"<html>");
    }

    #[test]
    fn a_packed_body_is_unpacked_unless_the_client_takes_it_packed() {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(b"picture").unwrap();
        let packed = gzip.finish().unwrap();
        let mut message = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n".to_vec();
        message.extend_from_slice(&packed);
        check(&message, "identity", &[], b"picture");
        check(&message, "gzip;q=0", &[], b"picture");
        check(&message, "br, gzip", &["Content-Encoding"], &packed);
    }

    #[test]
    fn a_coding_nobody_knows_stays() {
        let message = b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\n\r\nx";
        check(message, "identity", &["Content-Encoding"], b"x");
    }

    #[test]
    fn what_is_no_http_answer_has_no_status() {
        assert_eq!(status(b"HTTP/1.0 404 Not Found\r\n\r\n"), Some(404));
        assert_eq!(status(b"HTTP/1.0 9999 x\r\n\r\n"), None);
        assert_eq!(status(b"20080430 a.example\r\n\r\n"), None);
        assert_eq!(status(b"HTTP/1.0 200 OK\r\nContent-"), None);
    }
}
