//! One shard of a pool: the triple that img2dataset writes, from a stream of pairs.

use std::sync::Arc;

use arrow_array::{ArrayRef, Float32Array, RecordBatch, StringArray};
use shard::{PoolSummary, PoolWriter, Samples, TarReader};
use stage::{PairRow, Pairs, PairsBuilder, Status};
use store::Blob;
use store::parquet::{File, Pick};

const JPG: &[u8] = b"\xff\xd8\xff\xe0 not decoded here";
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n not decoded here";

/// Keys 000000000 and 000000003 are pictures, 1 and 2 failed.
fn rows() -> Pairs {
    let mut builder = PairsBuilder::default();
    let failed = PairRow {
        uid: "b5f1e8a1f0d34cf1b0ad4a3c1d0f0001",
        key: "000000001",
        url: "http://a.example/1.jpg",
        caption: "gone",
        status: Status::FailedToDownload,
        error_message: Some("http_404"),
        size: None,
        original_size: None,
        sha256: None,
        image: None,
    };
    builder.push(PairRow {
        uid: "139e4a9b22a614771f06c700a8ebe150",
        key: "000000000",
        url: "http://a.example/0.jpg",
        caption: "a \"café\"",
        status: Status::Success,
        error_message: None,
        size: Some((256, 171)),
        original_size: Some((1024, 683)),
        sha256: Some("ab"),
        image: Some(JPG),
    });
    builder.push(failed);
    builder.push(PairRow {
        key: "000000002",
        status: Status::FailedToResize,
        error_message: Some("truncated"),
        sha256: Some("cd"),
        ..failed
    });
    builder.push(PairRow {
        key: "000000003",
        caption: "",
        status: Status::Success,
        error_message: None,
        size: Some((1, 1)),
        original_size: Some((1, 1)),
        sha256: Some("ef"),
        image: Some(PNG),
        ..failed
    });
    builder.finish()
}

struct Triple {
    tar: Vec<u8>,
    parquet: Vec<u8>,
    stats: String,
    summary: PoolSummary,
}

fn write(batches: &[Pairs], json_columns: &[&str]) -> Triple {
    let mut writer = PoolWriter::new(Vec::new()).with_json_columns(json_columns);
    for batch in batches {
        writer.push(batch).unwrap();
    }
    let (mut parquet, mut stats) = (Vec::new(), Vec::new());
    let (tar, summary) = writer.finish(&mut parquet, &mut stats).unwrap();
    Triple { tar, parquet, stats: String::from_utf8(stats).unwrap(), summary }
}

fn slice(pairs: &Pairs, start: usize, len: usize) -> Pairs {
    Pairs::try_new(pairs.batch().slice(start, len)).unwrap()
}

#[test]
fn the_tar_holds_the_successes_in_key_order() {
    let triple = write(&[rows()], &[]);
    let names: Vec<String> =
        TarReader::new("00000.tar", &triple.tar[..]).map(|e| e.unwrap().0.name).collect();
    assert_eq!(
        names,
        [
            "000000000.jpg",
            "000000000.json",
            "000000000.txt",
            "000000003.json",
            "000000003.png",
            "000000003.txt"
        ]
    );
    assert_eq!(triple.summary.tar_bytes, triple.tar.len() as u64);
}

#[test]
fn the_json_is_img2datasets_byte_for_byte() {
    let triple = write(&[rows()], &[]);
    let sample = Samples::new(TarReader::new("a.tar", &triple.tar[..])).next().unwrap().unwrap();
    let expected = r#"{
    "uid": "139e4a9b22a614771f06c700a8ebe150",
    "caption": "a \"caf\u00e9\"",
    "url": "http://a.example/0.jpg",
    "key": "000000000",
    "status": "success",
    "error_message": null,
    "width": 256,
    "height": 171,
    "original_width": 1024,
    "original_height": 683,
    "sha256": "ab"
}"#;
    assert_eq!(std::str::from_utf8(sample.part("json").unwrap()).unwrap(), expected);
    assert_eq!(&sample.part("txt").unwrap()[..], "a \"café\"".as_bytes());
    assert_eq!(&sample.part("jpg").unwrap()[..], JPG);
}

#[test]
fn the_parquet_has_a_row_for_every_input_row() {
    let triple = write(&[rows()], &[]);
    let reader = File::open(&Blob::from_bytes("0.parquet", triple.parquet.into())).unwrap();
    assert_eq!(reader.metadata().num_row_groups(), 1);
    assert_eq!(reader.metadata().file_metadata().created_by(), Some("clipmill"));
    let batches = reader.batches(&Pick::default()).unwrap();
    let batches: Vec<RecordBatch> = batches.map(Result::unwrap).collect();
    let schema = batches[0].schema();
    let columns: Vec<(&str, String)> =
        schema.fields().iter().map(|f| (f.name().as_str(), f.data_type().to_string())).collect();
    let text = |name| (name, "Utf8".to_owned());
    let int = |name| (name, "Int32".to_owned());
    assert_eq!(
        columns,
        [
            text("uid"),
            text("caption"),
            text("url"),
            text("key"),
            text("status"),
            text("error_message"),
            int("width"),
            int("height"),
            int("original_width"),
            int("original_height"),
            text("sha256"),
        ]
    );
    assert_eq!(batches[0].num_rows(), 4);
    let status = batches[0].column(4).as_any().downcast_ref::<StringArray>().unwrap();
    let status: Vec<&str> = status.iter().map(Option::unwrap).collect();
    assert_eq!(status, ["success", "failed_to_download", "failed_to_resize", "success"]);
}

#[test]
fn the_statistics_add_up_and_hold_no_clock() {
    let triple = write(&[rows()], &[]);
    let expected = r#"{
    "count": 4,
    "successes": 2,
    "failed_to_download": 1,
    "failed_to_resize": 1,
    "duration": 0.0,
    "start_time": 0.0,
    "end_time": 0.0,
    "status_dict": {
        "http_404": 1,
        "success": 2,
        "truncated": 1
    }
}"#;
    assert_eq!(triple.stats, expected);
    assert_eq!(triple.summary.counts.kept, 2);
    assert_eq!(triple.summary.counts.failed["http_404"], 1);
}

#[test]
fn how_the_rows_were_batched_does_not_change_a_byte() {
    let all = rows();
    let whole = write(std::slice::from_ref(&all), &[]);
    let parts = write(&[slice(&all, 0, 1), slice(&all, 1, 0), slice(&all, 1, 3)], &[]);
    assert_eq!(whole.tar, parts.tar);
    assert_eq!(whole.parquet, parts.parquet);
    assert_eq!(whole.stats, parts.stats);
}

#[test]
fn further_columns_go_to_the_parquet_and_to_the_json_only_when_asked() {
    let score: ArrayRef =
        Arc::new(Float32Array::from(vec![Some(0.3), None, Some(f32::NAN), Some(f32::NAN)]));
    let category: ArrayRef = Arc::new(StringArray::from(vec![Some("x"), None, None, None]));
    let pairs = rows().with_column("clip_score", score).unwrap();
    let pairs = pairs.with_column("category", category).unwrap();
    let plain = write(std::slice::from_ref(&pairs), &[]);
    assert_eq!(plain.tar, write(&[rows()], &[]).tar);
    let reader = File::open(&Blob::from_bytes("0.parquet", plain.parquet.into())).unwrap();
    let names: Vec<&str> =
        reader.schema().fields().iter().skip(11).map(|f| f.name().as_str()).collect();
    assert_eq!(names, ["clip_score", "category"]);

    let asked = write(&[pairs], &["category", "clip_score"]);
    let jsons: Vec<String> = Samples::new(TarReader::new("a.tar", &asked.tar[..]))
        .map(|s| String::from_utf8(s.unwrap().part("json").unwrap().to_vec()).unwrap())
        .collect();
    assert!(
        jsons[0]
            .ends_with("\"sha256\": \"ab\",\n    \"category\": \"x\",\n    \"clip_score\": 0.3\n}")
    );
    assert!(jsons[1].ends_with("\"category\": null,\n    \"clip_score\": null\n}"));
}

#[test]
fn no_rows_give_an_empty_shard_with_its_columns() {
    let triple = write(&[], &[]);
    assert_eq!(triple.tar, vec![0; 1024]);
    assert!(triple.stats.contains("\"count\": 0"));
    assert!(triple.stats.ends_with("\"status_dict\": {}\n}"));
    let reader = File::open(&Blob::from_bytes("0.parquet", triple.parquet.into())).unwrap();
    assert_eq!(reader.schema().fields().len(), 11);
}

#[test]
fn broken_promises_of_the_caller_are_internal_errors() {
    let refused = |pairs: &Pairs, expected: &str| {
        let error = PoolWriter::new(Vec::new()).push(pairs).unwrap_err();
        assert_eq!(error.kind(), stage::Kind::Internal);
        assert!(error.to_string().contains(expected), "{error}");
    };
    let mut builder = PairsBuilder::default();
    let row = PairRow {
        uid: "139e4a9b22a614771f06c700a8ebe150",
        key: "000000007",
        url: "",
        caption: "",
        status: Status::Success,
        error_message: None,
        size: None,
        original_size: None,
        sha256: None,
        image: Some(JPG),
    };
    builder.push(row);
    builder.push(row);
    refused(&builder.finish(), "sample 000000007: keys of a shard must ascend");
    builder.push(PairRow { image: None, ..row });
    refused(&builder.finish(), "a success without a picture");
    builder.push(PairRow { image: Some(b"GIF89a"), ..row });
    refused(&builder.finish(), "no JPEG, PNG or WebP");
}

#[test]
fn a_full_disk_is_a_store_error() {
    #[derive(Debug)]
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut writer = PoolWriter::new(Full);
    writer.push(&rows()).unwrap();
    let error = writer.finish(Vec::new(), Vec::new()).unwrap_err();
    assert_eq!(error.kind(), stage::Kind::Store);
}
