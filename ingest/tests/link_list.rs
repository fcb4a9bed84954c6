//! Link lists in all of img2dataset's formats, plain and packed.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{ArrayRef, Int64Array, ListArray, RecordBatch, StringArray};
use ingest::link_list::LinkListPlan;
use stage::{Context, Counts, Result};
use store::Output;

/// Writes a file, packed where its name says so.
fn write(folder: &Path, name: &str, text: &[u8]) -> String {
    let path = folder.join(name);
    let file = std::fs::File::create(&path).unwrap();
    if name.ends_with(".gz") {
        let mut gz = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        gz.write_all(text).unwrap();
        gz.finish().unwrap();
    } else {
        (&file).write_all(text).unwrap();
    }
    path.to_str().unwrap().to_owned()
}

fn run(plan: &str) -> Result<(Counts, RecordBatch)> {
    let plan: LinkListPlan = serde_json::from_str(plan).unwrap();
    plan.validate()?;
    let dir = Output::in_memory().stage("links");
    let mut attempt = dir.begin("all")?;
    let counts = plan.run(&Context::default(), &mut attempt)?;
    attempt.commit("key", counts.clone(), serde_json::Value::Null)?;
    let blob = dir.blob("links-00000.parquet")?;
    let batches: Vec<RecordBatch> = store::parquet::read_parquet(&blob)?.collect::<Result<_>>()?;
    Ok((counts, batches[0].clone()))
}

fn column(batch: &RecordBatch, name: &str) -> Vec<Option<String>> {
    let column = batch.column_by_name(name).unwrap().as_string::<i32>();
    column.iter().map(|value| value.map(str::to_owned)).collect()
}

fn texts(values: &[&str]) -> Vec<Option<String>> {
    values.iter().map(|value| Some((*value).to_owned())).collect()
}

const JSON: &str = r#" [ {"url": "http://a.example/1", "text": "one, \"two\"", "n": 3, "b": [[0, 0.5, 1, 1]]} ,
  {"text": "no link"},
{"url": "http://a.example/2", "text": null, "n": null, "b": []}]"#;

#[test]
fn every_format_plain_or_packed_gives_the_same_links() {
    let folder = tempfile::tempdir().unwrap();
    let jsonl = "{\"url\": \"http://a.example/1\", \"text\": \"one, \\\"two\\\"\"}\n\n\
                 {\"text\": \"no link\"}\n{\"url\": \"http://a.example/2\"}\n";
    let csv = "text,url\r\n\"one, \"\"two\"\"\",http://a.example/1\r\nno link,\r\n,http://a.example/2\r\n";
    let tsv =
        "url\ttext\nhttp://a.example/1\t\"one, \"\"two\"\"\"\n\tno link\nhttp://a.example/2\t\n";
    for (name, text) in [
        ("a.csv", csv),
        ("b.csv.gz", csv),
        ("c.tsv", tsv),
        ("d.tsv.gz", tsv),
        ("e.json", JSON),
        ("f.json.gz", JSON),
        ("g.jsonl", jsonl),
        ("h.jsonl.gz", jsonl),
    ] {
        let path = write(folder.path(), name, text.as_bytes());
        let plan = format!(r#"{{"url_list": "{path}", "caption_col": "text"}}"#);
        let (counts, links) = run(&plan).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((counts.kept, counts.failed["no_url"]), (2, 1), "{name}");
        assert_eq!(column(&links, "url"), texts(&["http://a.example/1", "http://a.example/2"]));
        assert_eq!(column(&links, "alt"), texts(&["one, \"two\"", ""]), "{name}");
    }
    let path = write(folder.path(), "i.txt.gz", b"http://a.example/1\r\n\nhttp://a.example/2");
    let (counts, links) = run(&format!(r#"{{"url_list": "{path}"}}"#)).unwrap();
    assert_eq!(counts.kept, 2);
    assert_eq!(column(&links, "url"), texts(&["http://a.example/1", "http://a.example/2"]));
}

#[test]
fn further_columns_keep_their_type_and_json_lists_become_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "a.json", JSON.as_bytes());
    let plan = format!(r#"{{"url_list": "{path}", "caption_col": "text", "columns": ["n", "b"]}}"#);
    let (_, links) = run(&plan).unwrap();
    assert_eq!(column(&links, "n"), [Some("3".to_owned()), None]);
    assert_eq!(column(&links, "b"), texts(&["[[0,0.5,1,1]]", "[]"]));

    let boxes = [Some(vec![Some(0.5), None]), None, Some(vec![])];
    let batch = RecordBatch::try_from_iter([
        ("url", Arc::new(StringArray::from(vec!["http://a/1", "", "http://a/3"])) as ArrayRef),
        ("n", Arc::new(Int64Array::from(vec![1, 2, 3]))),
        ("b", Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>(boxes))),
    ])
    .unwrap();
    let mut bytes = Vec::new();
    let layout = store::parquet::Layout::default();
    store::parquet::write_parquet(&mut bytes, &batch.schema(), [Ok(batch.clone())], &layout)
        .unwrap();
    let path = write(folder.path(), "a.parquet", &bytes);
    let plan = |columns: &str| format!(r#"{{"url_list": "{path}", "columns": [{columns}]}}"#);
    let (counts, links) = run(&plan(r#""b", "n""#)).unwrap();
    assert_eq!(counts.failed["no_url"], 1);
    let numbers =
        links.column_by_name("n").unwrap().as_primitive::<arrow_array::types::Int64Type>();
    assert_eq!(numbers.values(), &[1, 3]);
    assert_eq!(links.column_by_name("b").unwrap().as_list::<i32>().value_length(0), 2);
    let message = run(&plan(r#""faces""#)).unwrap_err().to_string();
    assert!(message.contains("no column `faces`; there are url, n, b"), "{message}");
    let message = run(&plan(r#""uid""#)).unwrap_err().to_string();
    assert_eq!(message, "columns: every link has a `uid` already");
}

#[test]
fn a_broken_list_is_an_error_and_an_empty_one_is_none() {
    let folder = tempfile::tempdir().unwrap();
    for text in ["", "{}", "[1]", "[{}", "[{}}", "[{},]", "[{} {}]", "[{\"url\": ]"] {
        let path = write(folder.path(), "a.json", text.as_bytes());
        assert!(run(&format!(r#"{{"url_list": "{path}"}}"#)).is_err(), "{text}");
    }
    let path = write(folder.path(), "b.json", b" [ ] ");
    let plan: LinkListPlan = serde_json::from_str(&format!(r#"{{"url_list": "{path}"}}"#)).unwrap();
    let dir = Output::in_memory().stage("links");
    let counts = plan.run(&Context::default(), &mut dir.begin("all").unwrap()).unwrap();
    assert_eq!(counts.entered, 0);
}

#[test]
fn a_broken_row_costs_itself_alone() {
    let folder = tempfile::tempdir().unwrap();
    let csv = b"\xef\xbb\xbfurl,text\nhttp://a.example/1,one\nhttp://a.example/2\nhttp://a.example/3,\xff\xfe,x\n\
        http://a.example/4,\xff\nhttp://a.example/5,five\n";
    let jsonl = b"{\"url\": \"http://a.example/1\", \"text\": \"one\"}\nnot json\n[1]\n{\"url\": \"http://a\n\
        {\"url\": \"http://a.example/5\", \"text\": \"five\"}\n";
    for (name, text) in [("a.csv", &csv[..]), ("b.jsonl", jsonl)] {
        let path = write(folder.path(), name, text);
        let plan = format!(r#"{{"url_list": "{path}", "caption_col": "text"}}"#);
        let (counts, links) = run(&plan).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((counts.kept, counts.failed["broken_row"]), (2, 3), "{name}");
        assert_eq!(column(&links, "alt"), texts(&["one", "five"]), "{name}");
    }
}

#[test]
fn a_field_without_end_and_a_header_without_end_are_refused_before_they_fill_the_memory() {
    let folder = tempfile::tempdir().unwrap();
    let open = [b"url,text\nhttp://a.example/1,\"".as_slice(), &vec![b'x'; 3 << 20]].concat();
    let path = write(folder.path(), "open.csv.gz", &open);
    let error = run(&format!(r#"{{"url_list": "{path}", "caption_col": "text"}}"#)).unwrap_err();
    assert!(format!("{error:?}").contains("a quote may be open"), "{error:?}");
    let wide = format!("url{}\n", ",c".repeat(200_000));
    let path = write(folder.path(), "wide.csv", wide.as_bytes());
    let error = run(&format!(r#"{{"url_list": "{path}"}}"#)).unwrap_err();
    assert!(error.to_string().contains("a header of 200001 columns"), "{error}");
    let path = write(folder.path(), "none.csv", b"");
    let error = run(&format!(r#"{{"url_list": "{path}"}}"#)).unwrap_err();
    assert!(error.to_string().contains("there is no header"), "{error}");
    let path = write(folder.path(), "other.csv", b"link,text\na,b\n");
    let error = run(&format!(r#"{{"url_list": "{path}"}}"#)).unwrap_err();
    assert!(error.to_string().contains("no column `url`; there are link, text"), "{error}");
}
