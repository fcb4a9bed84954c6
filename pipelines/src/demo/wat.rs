//! The WAT file that describes the world's pages, as Common Crawl's are: one gzip member a record.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use stage::{Result, ResultExt};

/// The name that the records give as their crawl file.
const CRAWL: &str = "demo.warc.gz";

/// A WAT file of these pages: URL, and (src, alt) of each picture.
pub(super) fn write(pages: &[(String, Vec<(String, String)>)]) -> Result<Vec<u8>> {
    let mut file = Vec::new();
    member(&mut file, "warcinfo", None, b"software: clipmill demo\r\n")?;
    for (url, pictures) in pages {
        let links: Vec<_> = pictures
            .iter()
            .map(|(src, alt)| json!({"path": "IMG@/src", "url": src, "alt": alt}))
            .collect();
        let record = json!({
            "Container": {"Filename": CRAWL, "Compressed": true, "Offset": "0"},
            "Envelope": {
                "Format": "WARC",
                "WARC-Header-Metadata": {"WARC-Type": "response", "WARC-Target-URI": url},
                "Payload-Metadata": {
                    "HTTP-Response-Metadata": {"HTML-Metadata": {"Head": {}, "Links": links}}
                }
            }
        });
        member(&mut file, "metadata", Some(url), record.to_string().as_bytes())?;
    }
    Ok(file)
}

fn member(file: &mut Vec<u8>, kind: &str, url: Option<&str>, body: &[u8]) -> Result<()> {
    let mut gz = GzEncoder::new(file, Compression::default());
    let target = url.map(|url| format!("WARC-Target-URI: {url}\r\n")).unwrap_or_default();
    let date = "2026-01-01T00:00:00Z";
    write!(
        gz,
        "WARC/1.0\r\nWARC-Type: {kind}\r\n{target}WARC-Date: {date}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .and_then(|()| gz.write_all(body))
    .and_then(|()| gz.write_all(b"\r\n\r\n"))
    .and_then(|()| gz.finish().map(drop))
    .internal("cannot pack a record")
}
