//! Rows come in input order, the same at any concurrency; a unit ends, is stopped, and hands on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use ingest::DialMap;
use ingest::fetch::{FetchPlan, Fetcher, Hooks};
use md5::Digest as _;
use pixels::{Picture, encode_png};
use stage::{Context, Error, Kind, Pairs};

use crate::server::{Server, ok, respond};
use crate::{fetch, impatient, jpeg, links, run};

#[test]
fn one_url_with_five_captions_is_fetched_once_and_gives_five_rows() {
    let server = Server::start(|_, stream| ok(stream, &jpeg(1)));
    let urls = [
        "http://a.example/1.jpg",
        "http://A.EXAMPLE/1.jpg#top",
        "http://a.example/2.jpg",
        "http://a.example:80/1.jpg",
        " http://a.example/1.jpg",
        "http://a.example/1.jpg",
    ];
    let fetched = fetch(&impatient(), &server, &urls);
    assert_eq!(fetched.counts.kept, 6);
    assert_eq!(server.hits("a.example/1.jpg"), 1);
    assert_eq!(server.hits("a.example/2.jpg"), 1);
    let pairs = &fetched.batches[0];
    for (row, url) in urls.iter().enumerate() {
        assert_eq!(pairs.keys().value(row), format!("{row:09}"));
        assert_eq!(pairs.uids().value(row), format!("{row:032x}"));
        assert_eq!(pairs.captions().value(row), format!("caption {row}"));
        assert_eq!(pairs.urls().value(row), *url);
        assert_eq!(pairs.image(row), pairs.image([0, 2][usize::from(row == 2)]));
    }
}

/// A server whose answers depend on the path alone, and come in an order of their own.
fn shuffling() -> Server {
    Server::start(|request, stream| {
        let number: u64 = request.path[1..].parse().unwrap();
        std::thread::sleep(Duration::from_millis(number * 7919 % 23));
        match number % 7 {
            3 => respond(stream, "404 Not Found", "", b""),
            5 => ok(stream, b"<html>"),
            _ => {
                let noise = (0..64 * 48 * 3).map(|i: u64| ((i * i * (number + 3)) >> 4) as u8);
                let picture = Picture { width: 64, height: 48, rgb: noise.collect() };
                ok(stream, &encode_png(&picture, 1))
            }
        }
    })
}

fn batches(server: &Server, threads: usize, plan: &FetchPlan, memory: u64) -> Vec<RecordBatch> {
    let cx = Context { threads, memory, ..Context::default() };
    let fetcher = Fetcher::new(plan, &DialMap::everything_at(server.addr), &cx).unwrap();
    let url = |i: usize| format!("http://h{}.example/{}", i % 11, i % 250);
    let first = links(&(0..100).map(url).collect::<Vec<_>>());
    let second = links(&(100..400).map(url).collect::<Vec<_>>());
    let fetched = run(&fetcher, &[first, second]);
    fetched.batches.into_iter().map(Pairs::into_batch).collect()
}

#[test]
fn the_output_is_the_same_at_any_concurrency_thread_count_and_memory() {
    let server = shuffling();
    let plan = |thread_count| FetchPlan { thread_count, ..FetchPlan::default() };
    let calm = batches(&server, 1, &plan(16), 1 << 30);
    assert_eq!(calm.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [128, 128, 128, 16]);
    assert_eq!(calm, batches(&server, 4, &plan(16), 1 << 30));
    assert_eq!(calm, batches(&server, 2, &plan(256), 1 << 30));
    // Room for a handful of pictures: most of the time only what is wanted next is asked for.
    assert_eq!(calm, batches(&server, 2, &plan(64), 256 << 10));
}

#[test]
fn one_request_at_a_time_gives_the_same_output() {
    let server = Server::start(|request, stream| ok(stream, &jpeg(request.path.len() as u8)));
    let urls: Vec<String> = (0..150).map(|i| format!("http://h{}.example/{i}", i % 5)).collect();
    let take = |thread_count| {
        let plan = FetchPlan { thread_count, ..FetchPlan::default() };
        let fetched = fetch(&plan, &server, &urls);
        fetched.batches.into_iter().map(Pairs::into_batch).collect::<Vec<_>>()
    };
    assert_eq!(take(1), take(16));
}

#[test]
fn a_cancelled_unit_ends_within_a_second() {
    let server = Server::start(|_, stream| {
        std::io::copy(stream, &mut std::io::sink())?;
        Ok(())
    });
    let cx = Context::default();
    let fetcher =
        Fetcher::new(&FetchPlan::default(), &DialMap::everything_at(server.addr), &cx).unwrap();
    let urls: Vec<String> = (0..50).map(|i| format!("http://h{i}.example/1.jpg")).collect();
    let cancel = cx.cancel.clone();
    let stopper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        cancel.cancel();
        Instant::now()
    });
    let error = fetcher.run_unit(&[links(&urls)], 0, &mut |_| Ok(())).unwrap_err();
    let ended = Instant::now();
    assert_eq!(error.kind(), Kind::Interrupted);
    assert!(ended - stopper.join().unwrap() < Duration::from_millis(1500));
    assert!(server.all_closed(), "a connection outlived the unit");
}

#[test]
fn what_a_hook_left_unanswered_while_the_run_was_stopped_is_no_row() {
    let server = Server::start(|_, stream| ok(stream, &jpeg(1)));
    let hooks = Hooks { before_store: vec!["false".to_owned()], ..Hooks::default() };
    let plan = FetchPlan { hooks, ..impatient() };
    let cx = Context::default();
    let fetcher = Fetcher::new(&plan, &DialMap::everything_at(server.addr), &cx).unwrap();
    // The stop comes with the last row: nothing is waited for any more.
    let stopped = fetcher.run_unit(&[links(&["http://a.example/1.jpg"])], 0, &mut |_| {
        cx.cancel.cancel();
        Ok(())
    });
    assert_eq!(stopped.unwrap_err().kind(), Kind::Interrupted);
}

#[test]
fn an_error_of_the_sink_ends_the_unit() {
    let server = Server::start(|_, stream| ok(stream, &jpeg(1)));
    let dial = DialMap::everything_at(server.addr);
    let fetcher = Fetcher::new(&FetchPlan::default(), &dial, &Context::default()).unwrap();
    let urls: Vec<String> = (0..300).map(|i| format!("http://h{i}.example/1.jpg")).collect();
    let full = &mut |_| Err(Error::store("disk full"));
    let error = fetcher.run_unit(&[links(&urls)], 0, full).unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Store, "disk full"));
}

#[test]
fn keys_begin_with_the_shard_and_columns_are_carried_over_batches() {
    let server = Server::start(|_, stream| ok(stream, &jpeg(1)));
    let plan = FetchPlan {
        save_additional_columns: vec!["uid".into(), "page_url".into()],
        oom_shard_count: 8,
        ..FetchPlan::default()
    };
    let dial = DialMap::everything_at(server.addr);
    let fetcher = Fetcher::new(&plan, &dial, &Context::default()).unwrap();
    let input = [links(&["http://a.example/1"]), links(&["http://a.example/2", "bad"])];
    let mut rows = Vec::new();
    fetcher
        .run_unit(&input, 42, &mut |pairs| {
            let column = pairs.batch().column_by_name("page_url").unwrap();
            let pages: &arrow_array::StringArray = column.as_any().downcast_ref().unwrap();
            rows.extend(
                (0..pairs.len())
                    .map(|i| (pairs.keys().value(i).to_owned(), pages.value(i).to_owned())),
            );
            Ok(())
        })
        .unwrap();
    let expected = [
        ("000000420000", "page of http://a.example/1"),
        ("000000420001", "page of http://a.example/2"),
        ("000000420002", "page of bad"),
    ];
    let expected: Vec<_> = expected.map(|(k, p)| (k.to_owned(), p.to_owned())).into();
    assert_eq!(rows, expected);
}

#[test]
fn a_unit_larger_than_a_shard_and_a_missing_column_are_errors() {
    let plan = FetchPlan { number_sample_per_shard: 2, ..FetchPlan::default() };
    let run = |plan: &FetchPlan| {
        let fetcher = Fetcher::new(plan, &DialMap::default(), &Context::default()).unwrap();
        let error = fetcher.run_unit(&[links(&["x", "y", "z"])], 0, &mut |_| Ok(())).unwrap_err();
        error.to_string()
    };
    assert_eq!(run(&plan), "a unit has 3 links, more than number_sample_per_shard (2)");
    let plan = FetchPlan { save_additional_columns: vec!["faces".into()], ..FetchPlan::default() };
    assert_eq!(run(&plan), "save_additional_columns: the links have no column `faces`");
}

#[test]
fn an_empty_unit_is_no_row_and_no_batch() {
    let fetcher =
        Fetcher::new(&FetchPlan::default(), &DialMap::default(), &Context::default()).unwrap();
    let fetched = run(&fetcher, &[links(&[] as &[&str])]);
    assert!(fetched.batches.is_empty() && fetched.counts.entered == 0);
}

#[test]
fn links_without_uid_or_caption_get_cc2datasets_uid() {
    let server = Server::start(|_, stream| ok(stream, &jpeg(1)));
    let none: arrow_array::ArrayRef = Arc::new(arrow_array::StringArray::from(vec![None::<&str>]));
    let url: arrow_array::ArrayRef =
        Arc::new(arrow_array::StringArray::from(vec!["http://a.example/1.jpg"]));
    let batch =
        RecordBatch::try_from_iter([("uid", Arc::clone(&none)), ("alt", none), ("url", url)]);
    let dial = DialMap::everything_at(server.addr);
    let fetcher = Fetcher::new(&impatient(), &dial, &Context::default()).unwrap();
    let fetched = run(&fetcher, &[stage::Links::try_new(batch.unwrap()).unwrap()]);
    // md5 of "http://a.example/1.jpg"
    assert_eq!(fetched.batches[0].uids().value(0), "775c00eac22de99a51e6959f9e2f4f0e");
    assert_eq!(fetched.batches[0].captions().value(0), "");
}

#[test]
fn one_url_with_two_expected_digests_gives_each_row_its_own_answer() {
    let noise = (0..64 * 48 * 3).map(|i: u32| ((i * i * 7) >> 4) as u8).collect();
    let png = encode_png(&Picture { width: 64, height: 48, rgb: noise }, 1);
    let digest = format!("{:x}", md5::Md5::digest(&png));
    let server = Server::start(move |_, stream| ok(stream, &png));
    let text = |values: Vec<Option<&str>>| -> arrow_array::ArrayRef {
        Arc::new(arrow_array::StringArray::from(values))
    };
    let batch = RecordBatch::try_from_iter([
        ("uid", text(vec![Some("a"), Some("b"), Some("c"), Some("d")])),
        ("alt", text(vec![Some(""); 4])),
        ("url", text(vec![Some("http://a.example/1.jpg"); 4])),
        ("sum", text(vec![Some(&digest), Some("0123"), None, Some(&digest.to_uppercase())])),
        ("faces", text(vec![Some("[]"), Some("[]"), Some("[]"), Some("[[0, 0, 1, 1]]")])),
    ]);
    let plan: FetchPlan = serde_json::from_str(
        r#"{"verify_hash": ["sum", "md5"], "compute_hash": "md5", "bbox_col": "faces",
            "extract_exif": true}"#,
    )
    .unwrap();
    let fetcher =
        Fetcher::new(&plan, &DialMap::everything_at(server.addr), &Context::default()).unwrap();
    let fetched = run(&fetcher, &[stage::Links::try_new(batch.unwrap()).unwrap()]);
    assert_eq!(fetched.words(), ["success", "hash_mismatch", "hash_mismatch", "success"]);
    assert_eq!(server.log().len(), 3);
    let pairs = &fetched.batches[0];
    assert!(pairs.image(0) != pairs.image(3), "the face was not blurred");
    let column = |name: &str| -> Vec<Option<&str>> {
        let column = pairs.batch().column_by_name(name).unwrap();
        let column: &arrow_array::StringArray = column.as_any().downcast_ref().unwrap();
        column.iter().collect()
    };
    let digest = digest.as_str();
    assert_eq!(column("md5"), [Some(digest), Some(digest), None, Some(digest)]);
    assert_eq!(column("exif"), [Some("{}"), None, None, Some("{}")]);
    assert_eq!(column("sha256"), [None; 4]);
}
