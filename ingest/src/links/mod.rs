//! Image links out of WAT files, with cc2dataset's rules and columns.
//!
//! ```
//! use ingest::links::{LinksPlan, run_unit};
//!
//! # fn main() -> stage::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("a.wat").display().to_string();
//! # let json = concat!(
//! #     r#"{"Container":{"Filename":"a.warc.gz"},"Envelope":{"WARC-Header-Metadata":{"#,
//! #     r#""WARC-Target-URI":"http://a.example/"},"Payload-Metadata":{"HTTP-Response-Metadata":"#,
//! #     r#"{"HTML-Metadata":{"Links":[{"path":"IMG@/src","url":"cat.jpg","alt":"a cat"}]}}}}}"#,
//! # );
//! # let head = format!("WARC/1.0\r\nWARC-Type: metadata\r\nContent-Length: {}\r\n\r\n", json.len());
//! # std::fs::write(&path, head + json + "\r\n\r\n").unwrap();
//! let cx = stage::Context::default();
//! for unit in LinksPlan::of(vec![path]).units(&cx)? {
//!     let mut parquet = Vec::new();
//!     let report = run_unit(&unit.wats, &mut parquet, &cx)?;
//!     assert_eq!((report.pages, report.rows), (1, 1));
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A unit's WAT files are read on all threads; each gives runs of rows sorted by uid, which are
//! merged into one parquet file. Memory: the rows of the unit, up to half of `Context::memory` and
//! to 96 MiB; beyond it runs go to temporary files. A row costs 40 bytes and its text, so that a WAT
//! file of Common Crawl (about 300,000 rows) takes 50 to 80 MB. To that comes the longest record of
//! each thread, at most 64 MiB and its links.
//!
//! Reading order: [`LinksPlan`], [`run_unit`], [`LinksReport`]; `page` has the rules, `quotes` and
//! `cursor` read the JSON.

mod cursor;
mod download;
mod merge;
#[cfg(test)]
mod oracle;
mod page;
#[cfg(test)]
mod page_tests;
mod plan;
mod quotes;
mod report;
mod rows;
mod source;
mod unit;
mod urljoin;
#[cfg(test)]
mod urljoin_cases;
mod write;

/// The links of one WAT record, in order, as `link(page, url, alt)`; [`run_unit`]'s rows before equal
/// uids have become one.
///
/// ```
/// let json = br#"{"Container":{"Filename":"a.warc.gz"},"Envelope":{"WARC-Header-Metadata":
///     {"WARC-Target-URI":"http://a.example/"},"Payload-Metadata":{"HTTP-Response-Metadata":
///     {"HTML-Metadata":{"Links":[{"path":"IMG@/src","url":"cat.jpg","alt":"a cat"}]}}}}}"#;
/// let mut links = Vec::new();
/// let report = ingest::links::of_record(json, |_, url, alt| links.push(format!("{alt}: {url}")));
/// assert_eq!((links, report.rows), (vec!["a cat: http://a.example/cat.jpg".to_owned()], 1));
/// ```
pub fn of_record(json: &[u8], mut link: impl FnMut(&str, &str, &str)) -> LinksReport {
    let mut report = LinksReport::default();
    let give = |place: page::Place<'_>, found: page::Found<'_>| {
        link(place.page_url, found.url, found.alt);
    };
    page::PageReader::default().read(json, &mut report, give);
    report
}

pub use plan::{DocumentType, LinksPlan, LinksUnit};
pub use report::LinksReport;
pub use source::WatSource;
pub use unit::run_unit;
