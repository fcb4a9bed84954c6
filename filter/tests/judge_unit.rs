//! One unit through the judges: rows, reasons, counts, bytes.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt32Type;
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow_schema::{Field, Schema};
use bytes::Bytes;
use filter::judge::{AnyJudge, JudgeContext, check_columns, rejudge_unit, run_unit};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use stage::{Context, Counts, PairRow, Pairs, PairsBuilder, Result, Status};

fn plans(text: &str) -> Vec<AnyJudge> {
    serde_json::from_str(text).unwrap()
}

/// Judges a unit; gives the table of scores and the output.
fn judge(
    text: &str,
    batches: impl IntoIterator<Item = Result<Pairs>>,
) -> Result<(Counts, Vec<u8>, Vec<u8>)> {
    let plans = plans(text);
    let cx = Context::default();
    let cx = JudgeContext::new(&cx);
    let mut judges: Vec<_> = plans.iter().map(|plan| plan.plan().build(&cx).unwrap()).collect();
    let (mut scores, mut out) = (Vec::new(), Vec::new());
    let counts = run_unit(&plans, &mut judges, batches, &mut scores, &mut out)?;
    Ok((counts, scores, out))
}

const BASIC: &str = r#"[{"caption_length": {}}, {"image_size": {}}]"#;

/// Five pairs: good, few words, small and few words, not fetched, not decoded.
fn pairs() -> Pairs {
    let mut builder = PairsBuilder::default();
    let ok = PairRow {
        uid: "139e4a9b22a614771f06c700a8ebe150",
        key: "000000000",
        url: "http://a.example/0.jpg",
        caption: "a red car",
        status: Status::Success,
        error_message: None,
        size: Some((512, 384)),
        original_size: Some((800, 600)),
        sha256: Some("00"),
        image: Some(b"not looked at"),
    };
    builder.push(ok);
    builder.push(PairRow { key: "000000001", caption: "red car", ..ok });
    builder.push(PairRow { key: "000000002", caption: "car", original_size: Some((99, 99)), ..ok });
    let failed = PairRow { size: None, original_size: None, sha256: None, image: None, ..ok };
    builder.push(PairRow {
        key: "000000003",
        status: Status::FailedToDownload,
        error_message: Some("http_404"),
        ..failed
    });
    builder.push(PairRow { key: "000000004", status: Status::FailedToResize, ..failed });
    builder.finish()
}

fn read(bytes: Vec<u8>) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(bytes)).unwrap();
    let schema = reader.schema().clone();
    let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
    arrow_select::concat::concat_batches(&schema, &batches).unwrap()
}

#[test]
fn every_pair_is_one_row_with_scores_and_the_first_reason() {
    let (counts, _, bytes) = judge(BASIC, [Ok(pairs())]).unwrap();
    let expected: Counts = serde_json::from_str(
        r#"{"in": 5, "kept": 1, "dropped": {"caption_words": 2},
            "failed": {"failed_to_resize": 1, "http_404": 1}}"#,
    )
    .unwrap();
    assert_eq!(counts, expected);
    counts.check().unwrap();

    let rows = read(bytes);
    let schema = rows.schema();
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    let expected = [
        "uid",
        "key",
        "url",
        "caption",
        "status",
        "error_message",
        "width",
        "height",
        "original_width",
        "original_height",
        "sha256",
        "caption_words",
        "caption_chars",
        "image_min_side",
        "image_aspect",
        "reason",
    ];
    assert_eq!(names, expected);
    let reasons: Vec<Option<&str>> =
        rows.column_by_name("reason").unwrap().as_string::<i32>().iter().collect();
    let expected = [
        None,
        Some("caption_words"),
        Some("caption_words"),
        Some("http_404"),
        Some("failed_to_resize"),
    ];
    assert_eq!(reasons, expected);
    let keys: Vec<&str> =
        rows.column_by_name("key").unwrap().as_string::<i32>().iter().flatten().collect();
    assert_eq!(keys, ["000000000", "000000001", "000000002", "000000003", "000000004"]);
    // Scores are there whatever the verdict, and null without a picture.
    let words = rows.column_by_name("caption_words").unwrap().as_primitive::<UInt32Type>();
    let words: Vec<Option<u32>> = words.iter().collect();
    assert_eq!(words, [Some(3), Some(2), Some(1), None, None]);
    let sides = rows.column_by_name("image_min_side").unwrap();
    assert_eq!((sides.null_count(), sides.is_valid(2)), (2, true));
}

#[test]
fn how_pairs_are_cut_into_batches_leaves_no_trace() {
    let whole = pairs();
    let bytes = |step: usize| {
        let batches = (0..whole.len()).step_by(step).map(|start| {
            let length = step.min(whole.len() - start);
            Pairs::try_new(whole.batch().slice(start, length))
        });
        let (_, scores, out) = judge(BASIC, batches).unwrap();
        (scores, out)
    };
    assert_eq!(bytes(5), bytes(1));
    assert_eq!(bytes(5), bytes(2));
}

#[test]
fn other_thresholds_on_the_same_scores_give_what_judging_anew_gives() {
    let text = r#"[{"caption_length": {"min_words": 2}}, {"image_size": {"min_side": 700}}]"#;
    let (_, scores, _) = judge(BASIC, [Ok(pairs())]).unwrap();
    let (anew, same_scores, expected) = judge(text, [Ok(pairs())]).unwrap();
    assert_eq!(scores, same_scores, "no threshold is in the scores");
    let table = read(scores);
    for step in [5, 2] {
        let batches = (0..5).step_by(step).map(|at| Ok(table.slice(at, step.min(5 - at))));
        let mut out = Vec::new();
        let again = rejudge_unit(&plans(text), &table.schema(), batches, &mut out).unwrap();
        assert_eq!(again, anew);
        assert_eq!(out, expected);
    }
    assert_eq!((anew.dropped["image_side"], anew.dropped["caption_words"]), (2, 1));
}

#[test]
fn scores_of_other_judges_are_refused() {
    let (_, scores, _) = judge(BASIC, [Ok(pairs())]).unwrap();
    let table = read(scores);
    for text in [r#"[{"caption_length": {}}]"#, r#"[{"image_size": {}}, {"caption_length": {}}]"#] {
        let error = rejudge_unit(&plans(text), &table.schema(), [], Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "these scores were made by other judges");
    }
}

#[test]
fn a_unit_without_pairs_is_a_file_with_columns_and_no_rows() {
    let (counts, _, bytes) = judge(BASIC, []).unwrap();
    assert_eq!(counts, Counts::default());
    let rows = read(bytes);
    assert_eq!((rows.num_rows(), rows.num_columns()), (0, 16));
}

#[test]
fn two_scores_of_one_name_are_refused() {
    let text = r#"[{"caption_length": {}}, {"caption_length": {"min_words": 5}}]"#;
    let error = judge(text, [Ok(pairs())]).unwrap_err();
    assert_eq!(error.to_string(), "caption_length: two columns would be called `caption_words`");
    assert_eq!(error.kind(), stage::Kind::Recipe);
    // A recipe is refused before anything runs.
    assert!(check_columns(&plans(text)).is_err());
    check_columns(&plans(BASIC)).unwrap();
    let text = r#"[{"clip_score": {"checkpoint": "a", "column": "uid"}}]"#;
    let error = check_columns(&plans(text)).unwrap_err();
    assert_eq!(error.to_string(), "clip_score: two columns would be called `uid`");
    assert!(error.hint_text().unwrap().contains("the field `column`"));
}

/// The pairs with further columns: what a list of links brought along.
fn with_columns(columns: &[(&str, ArrayRef)]) -> Pairs {
    let pairs = pairs();
    let schema = pairs.batch().schema();
    let mut fields: Vec<Arc<Field>> = schema.fields().iter().cloned().collect();
    let mut arrays = pairs.batch().columns().to_vec();
    for (name, array) in columns {
        fields.push(Arc::new(Field::new(*name, array.data_type().clone(), true)));
        arrays.push(Arc::clone(array));
    }
    Pairs::try_new(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()).unwrap()
}

#[test]
fn a_column_of_the_source_whose_name_a_judge_takes_is_kept_beside_it() {
    let words: ArrayRef = Arc::new(StringArray::from(vec!["theirs"; 5]));
    let pairs = || with_columns(&[("caption_words", words.clone()), ("reason", words.clone())]);
    let (_, scores, out) = judge(BASIC, [Ok(pairs()), Ok(pairs())]).unwrap();
    for table in [read(scores), read(out)] {
        let theirs = table.column_by_name("source_caption_words").unwrap();
        assert_eq!(theirs.as_string::<i32>().value(0), "theirs");
        assert_eq!(table.column_by_name("source_reason").unwrap().null_count(), 0);
        let ours = table.column_by_name("caption_words").unwrap();
        assert_eq!(ours.as_primitive::<UInt32Type>().value(5), 3);
    }
    let twice = with_columns(&[("reason", words.clone()), ("source_reason", words.clone())]);
    let error = judge(BASIC, [Ok(twice)]).unwrap_err();
    assert_eq!(error.to_string(), "two columns would be called `source_reason`");
}

#[test]
fn an_error_of_the_source_ends_the_unit() {
    let broken = Err(stage::Error::input("cut short").at("00000.tar"));
    let error = judge(BASIC, [Ok(pairs()), broken]).unwrap_err();
    assert_eq!(error.to_string(), "00000.tar: cut short");
}
