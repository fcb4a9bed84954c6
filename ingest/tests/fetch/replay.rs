//! The whole way on real records: WAT to links, links to pictures out of an archive.

use std::collections::BTreeSet;

use arrow_select::concat::concat_batches;
use bytes::Bytes;
use ingest::fetch::{FetchPlan, Fetcher};
use ingest::links::{WatSource, run_unit};
use ingest::replay::Archive;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use stage::{Context, Links};

use crate::run;
use crate::support::shared;

#[test]
fn a_2008_archive_gives_69_pairs_and_its_robots_txt_are_obeyed() {
    let Some(wat) = shared("data/warc-wat/derived.warc.wat.gz") else { return };
    let Some(warc) = shared("data/warc-wat/aut-example.warc.gz") else { return };
    let cx = Context { threads: 2, ..Context::default() };
    let mut file = Vec::new();
    run_unit(&[WatSource::new(wat.to_str().unwrap())], &mut file, &cx).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(file)).unwrap();
    let batches: Vec<_> = reader.build().unwrap().map(Result::unwrap).collect();
    let links = Links::try_new(concat_batches(&batches[0].schema(), &batches).unwrap()).unwrap();
    assert_eq!(links.len(), 153);

    let server = Archive::open(&[warc.to_str().unwrap()]).unwrap().serve().unwrap();
    let fetcher = Fetcher::new(&FetchPlan::default(), &server.dial_map(), &cx).unwrap();
    let fetched = run(&fetcher, &[links]);
    let kept: BTreeSet<String> = fetched
        .batches
        .iter()
        .flat_map(|pairs| {
            (0..pairs.len())
                .filter(|i| pairs.image(*i).is_some())
                .map(|i| pairs.urls().value(i).to_owned())
                .collect::<Vec<_>>()
        })
        .collect();
    // Of the links with a caption, 69 (24 URLs) have a picture in the archive; counting links
    // without one too it is 48 URLs. Counted with Python's gzip, json and urllib.
    assert_eq!((kept.len(), fetched.counts.kept), (24, 69));
    assert_eq!(fetched.counts.dropped["robots"], 28);
    assert_eq!(fetched.counts.failed["http_404"], 56);
}
