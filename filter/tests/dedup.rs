//! Exact duplicates: which row stays, and that nothing but the rows decides.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use bytes::Bytes;
use filter::dedup::{DedupPlan, Deduplicated};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use stage::Context;

const COLUMNS: [&str; 5] = ["uid", "url", "alt", "cc_filename", "page_url"];

fn write(path: &Path, rows: &[[Option<&str>; 5]]) -> String {
    let column =
        |i: usize| -> ArrayRef { Arc::new(rows.iter().map(|row| row[i]).collect::<StringArray>()) };
    let columns = COLUMNS.iter().enumerate().map(|(i, name)| (*name, column(i), true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    write_batch(path, &batch)
}

fn write_batch(path: &Path, batch: &RecordBatch) -> String {
    let mut writer =
        ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    path.to_str().unwrap().to_owned()
}

fn dedup(links: &[String], threads: usize, memory_mb: u32) -> (Deduplicated, Vec<u8>) {
    let spill = tempfile::tempdir().unwrap();
    let cx = Context { threads, ..Context::default() };
    let plan = DedupPlan { memory_mb, ..DedupPlan::default() };
    let mut bytes = Vec::new();
    let done = plan.write(&cx, links, spill.path(), &mut bytes).unwrap();
    (done, bytes)
}

fn read(bytes: Vec<u8>) -> Vec<RecordBatch> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(bytes)).unwrap();
    reader.build().unwrap().map(Result::unwrap).collect()
}

#[test]
fn of_equal_uids_the_smallest_file_name_then_url_stays_and_unknown_comes_last() {
    let folder = tempfile::tempdir().unwrap();
    let first = write(
        &folder.path().join("a[1].parquet"),
        &[
            [Some("b"), Some("u1"), Some("x"), Some("f2"), Some("p1")],
            [Some("a"), Some("u2"), Some("x"), None, Some("p1")],
            [Some("c"), Some("u9"), Some("x"), Some("f1"), Some("p1")],
        ],
    );
    let second = write(
        &folder.path().join("b.parquet"),
        &[
            [Some("a"), Some("u2"), Some("x"), Some("f9"), Some("p2")],
            [Some("b"), Some("u1"), Some("x"), Some("f1"), Some("p3")],
            [Some("c"), Some("u8"), Some("x"), Some("f1"), Some("p4")],
            [None, Some("u7"), Some("x"), Some("f1"), Some("p5")],
            [Some("a"), Some("u2"), Some("x"), Some("f9"), Some("p1")],
        ],
    );
    let (done, bytes) = dedup(&[first, second], 2, 1024);
    assert_eq!((done.counts.entered, done.counts.kept), (8, 3));
    assert_eq!((done.counts.dropped["duplicate"], done.counts.failed["no_uid"]), (4, 1));
    let rows = read(bytes);
    let rows = &rows[0];
    let column = |name: &str| -> Vec<String> {
        let column = rows.column_by_name(name).unwrap().as_string::<i32>();
        column.iter().map(|value| value.unwrap().to_owned()).collect()
    };
    assert_eq!(column("uid"), ["a", "b", "c"]);
    assert_eq!(column("cc_filename"), ["f9", "f1", "f1"]);
    assert_eq!(column("page_url"), ["p1", "p3", "p4"]);
    assert_eq!(column("url"), ["u2", "u1", "u8"]);
}

/// A million links with half a million uids, in four files.
fn many(folder: &Path) -> Vec<String> {
    let mut state = 1_u64;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    (0..4)
        .map(|file| {
            let rows: Vec<[String; 5]> = (0..250_000)
                .map(|_| {
                    let n = next() % 500_000;
                    let uid = format!("{:016x}{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15), n);
                    let page =
                        format!("http://host-{}.example/page/{}", next() % 1000, next() % 97);
                    let url = format!("http://host.example/picture/{n}.jpg");
                    [uid, url, format!("picture number {n}"), format!("wat-{}", next() % 3), page]
                })
                .collect();
            let column = |i: usize| -> ArrayRef {
                Arc::new(rows.iter().map(|row| Some(row[i].as_str())).collect::<StringArray>())
            };
            let columns = COLUMNS.iter().enumerate().map(|(i, name)| (*name, column(i), true));
            let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
            write_batch(&folder.join(format!("{file}.parquet")), &batch)
        })
        .collect()
}

#[test]
fn threads_memory_spills_and_file_order_leave_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    let mut links = many(folder.path());
    let (roomy, expected) = dedup(&links, 1, 4096);
    assert_eq!(roomy.spilled_bytes, 0);
    assert_eq!(roomy.counts.entered, 1_000_000);
    let uids: Vec<String> = read(expected.clone())
        .iter()
        .flat_map(|batch| batch.column(0).as_string::<i32>().iter().flatten())
        .map(str::to_owned)
        .collect();
    assert_eq!(uids.len() as u64, roomy.counts.kept);
    assert!(uids.windows(2).all(|pair| pair[0] < pair[1]));

    let (tight, bytes) = dedup(&links, 1, 64);
    assert!(tight.spilled_bytes > 0, "64 MiB must not suffice without spilling");
    assert!(bytes == expected, "a spill changed the bytes");
    let (parallel, bytes) = dedup(&links, 4, 128);
    assert!(parallel.spilled_bytes > 0);
    assert!(bytes == expected, "four partitions changed the bytes");
    assert_eq!((&tight.counts, &parallel.counts), (&roomy.counts, &roomy.counts));
    links.reverse();
    let (_, bytes) = dedup(&links, 4, 4096);
    assert!(bytes == expected, "the order of the files changed the bytes");
}

#[test]
fn an_empty_pool_is_said_with_the_stage() {
    let folder = tempfile::tempdir().unwrap();
    let links = [write(&folder.path().join("a.parquet"), &[])];
    let plan = DedupPlan::default();
    let error = plan.write(&Context::default(), &links, folder.path(), Vec::new()).unwrap_err();
    assert_eq!(error.kind(), stage::Kind::Input);
    assert_eq!(error.to_string(), format!("dedup: no link in {}", links[0]));
}

#[test]
fn a_missing_file_a_broken_file_and_a_missing_column_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let message = |file: &str| {
        let plan = DedupPlan::default();
        let links = [file.to_owned()];
        let error = plan.write(&Context::default(), &links, folder.path(), Vec::new()).unwrap_err();
        assert_eq!(error.kind(), stage::Kind::Input);
        error.to_string()
    };
    let missing = folder.path().join("no.parquet");
    let missing = missing.to_str().unwrap();
    assert!(message(missing).starts_with(&format!("{missing}: ")), "{}", message(missing));
    let broken = folder.path().join("broken.parquet");
    std::fs::write(&broken, b"PAR1 and no footer").unwrap();
    let broken = broken.to_str().unwrap();
    assert!(message(broken).starts_with(&format!("{broken}: ")), "{}", message(broken));
    let column: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    let batch = RecordBatch::try_from_iter([("uid", column.clone()), ("url", column)]).unwrap();
    let narrow = write_batch(&folder.path().join("narrow.parquet"), &batch);
    assert_eq!(message(&narrow), "dedup: links have no column `alt`; there are uid, url");
}

#[test]
fn a_plan_names_the_field_that_is_out_of_range() {
    let plan: DedupPlan = serde_json::from_str(r#"{"by": "uid", "memory_mb": 8}"#).unwrap();
    let message = plan.validate().unwrap_err().to_string();
    assert_eq!(message, "memory_mb must lie in 16..=1048576, got 8");
}
