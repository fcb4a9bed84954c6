//! The fetcher against servers that do everything right or wrong, on loopback.

mod bodies;
mod collapse;
mod order;
mod politeness;
mod redirects;
mod replay;
mod safety;
mod server;
mod soak;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use ingest::DialMap;
use ingest::fetch::{FetchPlan, Fetcher};
use pixels::{Picture, encode_jpeg};
use stage::{Context, Counts, Links, Pairs};

use server::Server;

/// A JPEG of 48 x 32 pixels in a colour of its own.
pub(crate) fn jpeg(colour: u8) -> Vec<u8> {
    encode_jpeg(&Picture::filled(48, 32, [colour, 255 - colour, 90]), 90)
}

/// Links with uids 0, 1, 2, ... in 32 hex digits and captions `caption 0`, ...
pub(crate) fn links(urls: &[impl AsRef<str>]) -> Links {
    let column = |values: Vec<String>| Arc::new(StringArray::from(values)) as ArrayRef;
    let urls: Vec<String> = urls.iter().map(|url| url.as_ref().to_owned()).collect();
    let batch = RecordBatch::try_from_iter([
        ("uid", column((0..urls.len()).map(|i| format!("{i:032x}")).collect())),
        ("alt", column((0..urls.len()).map(|i| format!("caption {i}")).collect())),
        ("page_url", column(urls.iter().map(|url| format!("page of {url}")).collect())),
        ("url", column(urls)),
    ]);
    Links::try_new(batch.unwrap()).unwrap()
}

/// A plan with short times, for tests that wait for them to pass.
pub(crate) fn impatient() -> FetchPlan {
    FetchPlan {
        connect_timeout: 0.5,
        first_byte_timeout: 0.5,
        timeout: 0.4,
        total_timeout: 1.5,
        min_rate: 1024,
        min_rate_window: 0.8,
        max_bytes: 50_000,
        ..FetchPlan::default()
    }
}

/// What one unit gave.
pub(crate) struct Fetched {
    pub(crate) counts: Counts,
    pub(crate) batches: Vec<Pairs>,
}

impl Fetched {
    /// `error_message` of each row, or `success`.
    pub(crate) fn words(&self) -> Vec<String> {
        let rows = self.batches.iter().flat_map(|pairs| {
            let (statuses, messages) = (pairs.statuses(), pairs.text("error_message"));
            (0..pairs.len()).map(move |i| match statuses.value(i) {
                "success" => "success".to_owned(),
                _ => messages.value(i).to_owned(),
            })
        });
        rows.collect()
    }
}

/// Runs one unit; every batch keeps the equation and the order.
pub(crate) fn run(fetcher: &Fetcher, links: &[Links]) -> Fetched {
    let mut batches = Vec::new();
    let counts = fetcher
        .run_unit(links, 0, &mut |pairs| {
            batches.push(pairs);
            Ok(())
        })
        .unwrap();
    counts.check().unwrap();
    let rows: usize = batches.iter().map(Pairs::len).sum();
    assert_eq!(counts.entered, rows as u64);
    Fetched { counts, batches }
}

/// One unit with every host at this server.
pub(crate) fn fetch(plan: &FetchPlan, server: &Server, urls: &[impl AsRef<str>]) -> Fetched {
    let dial = DialMap::everything_at(server.addr);
    let fetcher = Fetcher::new(plan, &dial, &Context { threads: 2, ..Context::default() }).unwrap();
    run(&fetcher, &[links(urls)])
}

/// The word for one URL.
pub(crate) fn word(plan: &FetchPlan, server: &Server, url: &str) -> String {
    fetch(plan, server, &[url]).words().remove(0)
}
