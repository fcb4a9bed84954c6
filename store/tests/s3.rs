//! The same promises on a real S3 server.
//!
//! Runs when `CLIPMILL_S3_TEST` holds an `s3://bucket/prefix` to write to, with object_store's own
//! variables for the server (`AWS_ENDPOINT`, `AWS_ALLOW_HTTP`, `AWS_ACCESS_KEY_ID`, ...).

use std::sync::Barrier;

use serde_json::json;
use stage::{Counts, Kind};
use store::{Blob, Output};

#[test]
fn an_s3_server_keeps_the_promises() {
    let Ok(url) = std::env::var("CLIPMILL_S3_TEST") else {
        eprintln!("skipped: no CLIPMILL_S3_TEST");
        return;
    };
    let output = Output::open(&url).unwrap();
    let lease = output.lock("s3 test").unwrap();
    assert_eq!(output.lock("another").unwrap_err().kind(), Kind::Conflict);
    let stage = output.stage("links");
    stage.clear().unwrap();

    for round in 0..20 {
        let unit = format!("{round:05}");
        let start = Barrier::new(16);
        let commits: Vec<store::Commit> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..16)
                .map(|racer| {
                    let (stage, unit, start) = (&stage, &unit, &start);
                    scope.spawn(move || {
                        let mut attempt = stage.begin(unit).unwrap();
                        attempt.put(&format!("{unit}.txt"), format!("{racer}").as_bytes()).unwrap();
                        start.wait();
                        attempt.commit("key", Counts::default(), json!(racer)).unwrap()
                    })
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        assert!(commits.iter().all(|commit| commit == &commits[0]));
        let text = stage.blob(&format!("{unit}.txt")).unwrap().read_all().unwrap();
        assert_eq!(text, commits[0].info.to_string());
    }
    assert_eq!(stage.commits().unwrap().len(), 20);

    let bytes: Vec<u8> = (0..(40 << 20)).map(|i: u32| (i / 9) as u8).collect();
    let mut attempt = stage.begin("large").unwrap();
    attempt.put("large.bin", &bytes).unwrap();
    let commit = attempt.commit("key", Counts::default(), json!(null)).unwrap();
    let blob = Blob::open(&stage.locate("large.bin")).unwrap();
    assert_eq!(blob.sha256().unwrap(), commit.files[0].sha256);
    assert_eq!(blob.read_at(33 << 20, 7).unwrap(), bytes[33 << 20..(33 << 20) + 7]);
    assert_eq!(store::expand(&stage.locate("*.txt")).unwrap().len(), 20);

    assert_eq!(output.gc_older_than(std::time::Duration::ZERO).unwrap(), 0);
    stage.clear().unwrap();
    drop(lease);
    drop(output.lock("after").unwrap());
}
