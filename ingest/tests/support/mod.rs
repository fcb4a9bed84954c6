//! What several tests need: archives made on the spot, and the way to data that may be absent.
#![allow(dead_code, reason = "each test file uses its part")]

use std::io::Write;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;

/// A file of `../shared`; `None` (said on stderr) where there is no such folder.
///
/// # Panics
/// When `CLIPMILL_SHARED` names a folder without the file.
pub(crate) fn shared(file: &str) -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("CLIPMILL_SHARED") {
        let path = PathBuf::from(folder).join(file);
        assert!(path.exists(), "CLIPMILL_SHARED is set, but there is no {}", path.display());
        return Some(path);
    }
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(file);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: no ../shared");
    None
}

/// One gzip member.
pub(crate) fn member(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// A sound WARC record.
pub(crate) fn record(warc_type: &str, target: &str, body: &[u8]) -> Vec<u8> {
    claiming(warc_type, target, body.len() as u64, body)
}

/// A WARC record that claims this length.
pub(crate) fn claiming(warc_type: &str, target: &str, length: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "WARC/1.0\r\nWARC-Type: {warc_type}\r\nWARC-Target-URI: {target}\r\n\
         Content-Length: {length}\r\n\r\n"
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes.extend_from_slice(b"\r\n\r\n");
    bytes
}

/// The JSON of a WAT record: a page with these links, each `{"path":..,"url":..,"alt":..}`.
pub(crate) fn wat_json(filename: &str, page: &str, head: &str, links: &[&str]) -> String {
    format!(
        "{{\"Container\":{{\"Filename\":\"{filename}\"}},\"Envelope\":{{\"WARC-Header-Metadata\":\
         {{\"WARC-Target-URI\":\"{page}\"}},\"Payload-Metadata\":{{\"HTTP-Response-Metadata\":\
         {{\"HTML-Metadata\":{{\"Head\":{head},\"Links\":[{}]}}}}}}}}}}",
        links.join(",")
    )
}

/// An `IMG@/src` link.
pub(crate) fn img(url: &str, alt: &str) -> String {
    format!(r#"{{"path":"IMG@/src","url":"{url}","alt":"{alt}"}}"#)
}

/// A gzipped WAT file with one record for each JSON text.
pub(crate) fn wat(jsons: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let one = |json: &[u8]| member(&record("metadata", "http://a.example/", json));
    jsons.iter().flat_map(|json| one(json.as_ref())).collect()
}
