//! WAT archives and the JSON of their records.

use ingest::links::of_record;
use ingest::warc::{Limits, Reader};

/// A first byte of `{` or a blank is a record's JSON, anything else an archive. Every link that
/// comes out has words, and an address that is http or https; every one that went in is counted.
pub fn run(data: &[u8]) {
    if matches!(data.first(), Some(b'{' | b' ' | b'\n')) {
        return record(data);
    }
    let mut archive = Reader::with_limits("fuzz.wat", data, small());
    while let Ok(Some(found)) = archive.next_record() {
        assert!(found.body.len() <= small().body_bytes);
        if found.is("metadata") {
            record(found.body);
        }
    }
    assert!(archive.damage().places().iter().all(|place| !place.is_empty()));
}

fn record(json: &[u8]) {
    let mut rows = 0;
    let report = of_record(json, |_page, url, alt| {
        rows += 1;
        assert!(!alt.is_empty());
        assert!(url.starts_with("http://") || url.starts_with("https://"), "{url:?}");
    });
    let lost = report.dropped.values().chain(report.failed.values()).sum::<u64>();
    assert_eq!(report.rows, rows);
    if report.pages > 0 {
        assert_eq!(report.image_links, rows + lost, "{report:?}");
    } else {
        assert_eq!(rows, 0);
    }
}

/// Caps that an input of a few kilobytes reaches.
fn small() -> Limits {
    Limits {
        header_bytes: 4 << 10,
        body_bytes: 64 << 10,
        member_bytes: 1 << 20,
        max_ratio: 50,
        ratio_from: 64 << 10,
    }
}
