//! Links out of WAT files: cc2dataset's rules, its rows, and files with everything wrong.

mod support;

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use bytes::Bytes;
use ingest::links::{LinksPlan, LinksReport, WatSource, run_unit};
use ingest::serve::{Response, Server};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::RowGroupMetaData;
use stage::{Context, Kind};
use support::{img, member, record, shared, wat, wat_json};

/// `uid, url, alt, cc_filename, page_url` of each row.
type Row = [String; 5];

fn rows(parquet: &[u8]) -> Vec<Row> {
    let builder =
        ParquetRecordBatchReaderBuilder::try_new(Bytes::copy_from_slice(parquet)).unwrap();
    let mut rows = Vec::new();
    for batch in builder.build().unwrap() {
        let batch = batch.unwrap();
        let names = batch.schema();
        let names: Vec<_> = names.fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names, ["uid", "url", "alt", "cc_filename", "page_url"]);
        for i in 0..batch.num_rows() {
            rows.push(
                [0, 1, 2, 3, 4].map(|c| batch.column(c).as_string::<i32>().value(i).to_owned()),
            );
        }
    }
    rows
}

/// Runs one unit over these WAT files' bytes.
fn run_with(wats: &[Vec<u8>], cx: &Context) -> (LinksReport, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let sources: Vec<WatSource> = wats
        .iter()
        .enumerate()
        .map(|(i, bytes)| {
            let path = folder.path().join(format!("{i:03}.warc.wat.gz"));
            std::fs::write(&path, bytes).unwrap();
            WatSource::new(path.display().to_string())
        })
        .collect();
    let mut parquet = Vec::new();
    let report = run_unit(&sources, &mut parquet, cx).unwrap();
    report.counts().check().unwrap();
    (report, parquet)
}

fn run(wats: &[Vec<u8>]) -> (LinksReport, Vec<Row>) {
    let (report, parquet) = run_with(wats, &Context { threads: 2, ..Context::default() });
    (report, rows(&parquet))
}

fn page(links: &[String]) -> String {
    let links: Vec<&str> = links.iter().map(String::as_str).collect();
    wat_json("a.warc.gz", "http://a.example/dir/page.html", "{}", &links)
}

fn urls(rows: &[Row]) -> Vec<&str> {
    let mut urls: Vec<&str> = rows.iter().map(|row| row[1].as_str()).collect();
    urls.sort_unstable();
    urls
}

#[test]
fn a_row_is_cc2datasets() {
    let (report, rows) = run(&[wat(&[page(&[img("cat.jpg", "a cat")])])]);
    assert_eq!((report.pages, report.image_links, report.rows, report.distinct_uids), (1, 1, 1, 1));
    let expected = [
        // python3 -c 'import hashlib; print(hashlib.md5(b"a cathttp://a.example/dir/cat.jpg").hexdigest())'
        "f5a358d4404281f2893bfe141abcbe54",
        "http://a.example/dir/cat.jpg",
        "a cat",
        "a.warc.gz",
        "http://a.example/dir/page.html",
    ];
    assert_eq!(rows, [expected.map(str::to_owned)]);
}

#[test]
fn only_img_src_links_with_an_alt_text_and_an_http_address_are_rows() {
    let links = [
        img("1.jpg", "kept"),
        img("2.jpg", " "),
        img("data:image/png;base64,AAAA", "data"),
        img("ftp://b.example/3.jpg", "ftp"),
        img("4.jpg", ""),
        r#"{"path":"IMG@/src","url":"5.jpg"}"#.to_owned(),
        r#"{"path":"img@/src","url":"6.jpg","alt":"lower case"}"#.to_owned(),
        r#"{"path":"IMG@/srcset","url":"7.jpg","alt":"srcset"}"#.to_owned(),
        r#"{"path":"A@/href","url":"8.jpg","text":"a link"}"#.to_owned(),
        r#"{"url":"9.jpg","alt":"no path"}"#.to_owned(),
        r#"{"path":"IMG@\/src","url":"\/10.jpg","alt":"caf\u00e9 \ud83d\ude00"}"#.to_owned(),
    ];
    let (report, rows) = run(&[wat(&[page(&links)])]);
    assert_eq!(
        urls(&rows),
        ["http://a.example/10.jpg", "http://a.example/dir/1.jpg", "http://a.example/dir/2.jpg"]
    );
    assert!(rows.iter().any(|row| row[2] == "café 😀"));
    assert_eq!(report.image_links, 7);
    assert_eq!(report.dropped, counts(&[("no_alt", 2), ("not_http", 2)]));
    assert_eq!(report.failed, counts(&[]));
}

fn counts(counts: &[(&str, u64)]) -> BTreeMap<String, u64> {
    counts.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect()
}

#[test]
fn relative_and_protocol_relative_addresses_are_joined_to_the_base_tag() {
    let links = ["x.jpg", "/x.jpg", "//b.example/x.jpg", "?x", "https://c.example/x y.jpg#z"];
    let links: Vec<String> = links.iter().map(|url| img(url, "alt")).collect();
    let links: Vec<&str> = links.iter().map(String::as_str).collect();
    let based = |base: &str| {
        let head = format!(r#"{{"Base":"{base}"}}"#);
        wat_json("a.warc.gz", "https://a.example/dir/page.html", &head, &links)
    };
    let (_, rows) = run(&[wat(&[based("../other/")])]);
    assert_eq!(
        urls(&rows),
        [
            "https://a.example/other/?x",
            "https://a.example/other/x.jpg",
            "https://a.example/x.jpg",
            "https://b.example/x.jpg",
            "https://c.example/x y.jpg#z",
        ]
    );
    // A base that Python's urljoin refuses is passed over.
    let (_, rows) = run(&[wat(&[based("http://[bad/")])]);
    assert!(urls(&rows).contains(&"https://a.example/dir/x.jpg"));
}

#[test]
fn line_ends_and_tabs_vanish_from_joined_addresses_and_stay_in_absolute_ones() {
    let links = [img("a\\nb\\tc.jpg", "joined"), img("http://b.example/a\\nb.jpg", "absolute")];
    let (_, rows) = run(&[wat(&[page(&links)])]);
    assert_eq!(urls(&rows), ["http://a.example/dir/abc.jpg", "http://b.example/a\nb.jpg"]);
}

#[test]
fn a_broken_record_costs_itself_only() {
    let good = |n: u32| page(&[img(&format!("{n}.jpg"), "alt")]);
    let whole = good(7);
    let broken: Vec<(&str, Vec<u8>)> = vec![
        ("json_syntax", whole.as_bytes()[..whole.len() - 3].to_vec()),
        ("json_syntax", Vec::new()),
        ("json_syntax", b"not json".to_vec()),
        ("json_syntax", [whole.as_bytes(), b" {}"].concat()),
        ("json_not_utf8", whole.replace("alt\":\"alt", "alt\":\"XX").into_bytes()),
        // Lone surrogates, in a field that is used and in one that is not.
        ("json_syntax", page(&[img("8.jpg", "\\ud800")]).into_bytes()),
        ("json_syntax", page(&[r#"{"path":"A@/href","text":"\udc00"}"#.to_owned()]).into_bytes()),
        (
            "json_syntax",
            whole.replacen("{}", &format!("{{\"x\":{}", "[".repeat(100_000)), 1).into_bytes(),
        ),
        (
            "json_syntax",
            whole.replacen("{}", &format!("{{\"x\":{}}}", nested(100_000)), 1).into_bytes(),
        ),
        ("json_syntax", whole.replacen("{}", "{\"n\":1e999}", 1).into_bytes()),
        ("json_shape", b"[]".to_vec()),
        ("json_shape", whole.replace("[{", "{\"a\":{").replace("}]", "}}").into_bytes()),
        ("no_envelope", b"{}".to_vec()),
        ("no_envelope", b"{\"Envelope\":{}}".to_vec()),
        ("no_filename", whole.replace("Filename", "Filename2").into_bytes()),
        ("no_target_uri", whole.replace("WARC-Target-URI", "Target").into_bytes()),
        ("no_url", whole.replace("\"url\"", "\"href\"").into_bytes()),
        ("url_not_text", whole.replace("\"7.jpg\"", "[7]").into_bytes()),
        ("alt_not_text", whole.replace("\"alt\":\"alt\"", "\"alt\":null").into_bytes()),
    ];
    for (reason, mut json) in broken {
        if let Some(at) = json.windows(2).position(|w| w == b"XX") {
            json[at] = 0xff;
        }
        let shown = String::from_utf8_lossy(&json[..json.len().min(120)]).into_owned();
        let (report, rows) = run(&[wat(&[good(1).into_bytes(), json, good(2).into_bytes()])]);
        assert_eq!(report.failed, counts(&[(reason, 1)]), "{shown}");
        let expected = ["http://a.example/dir/1.jpg", "http://a.example/dir/2.jpg"];
        assert_eq!(urls(&rows), expected, "{shown}");
    }
}

fn nested(depth: usize) -> String {
    "[".repeat(depth) + &"]".repeat(depth)
}

#[test]
fn of_equal_keys_the_last_counts() {
    let json =
        page(&[r#"{"path":"A@/href","path":"IMG@/src","url":"1.jpg","url":"2.jpg","alt":"x"}"#
            .to_owned()]);
    assert_eq!(urls(&run(&[wat(&[json])]).1), ["http://a.example/dir/2.jpg"]);
}

#[test]
fn records_that_describe_no_page_are_neither_pages_nor_failures() {
    let request =
        br#"{"Envelope":{"Payload-Metadata":{"HTTP-Request-Metadata":{}}},"Container":{}}"#;
    let picture = br#"{"Envelope":{"Payload-Metadata":{"HTTP-Response-Metadata":{}}}}"#;
    let no_links =
        br#"{"Envelope":{"Payload-Metadata":{"HTTP-Response-Metadata":{"HTML-Metadata":{}}}}}"#;
    let (report, rows) = run(&[wat(&[&request[..], picture, no_links])]);
    assert_eq!((report.pages, rows.len()), (1, 0));
    assert_eq!(report.failed, counts(&[]));
}

#[test]
fn an_alt_text_of_a_mebibyte_and_one_with_controls_are_kept_as_they_are() {
    let long = "x".repeat(1 << 20);
    let (_, rows) =
        run(&[wat(&[page(&[img("1.jpg", &long), img("2.jpg", "\\u0000\\u001b[31m")])])]);
    let mut alts: Vec<&str> = rows.iter().map(|row| row[2].as_str()).collect();
    alts.sort_unstable();
    assert_eq!(alts, ["\0\u{1b}[31m", long.as_str()]);
}

#[test]
fn broken_gzip_is_counted_by_reason_with_file_and_byte() {
    let first = wat(&[page(&[img("1.jpg", "one")])]);
    let second = wat(&[page(&[img("2.jpg", "two")])]);
    let cut = [&first[..], &second[..second.len() / 2]].concat();
    let (report, rows) = run(&[cut, second]);
    assert_eq!(urls(&rows), ["http://a.example/dir/1.jpg", "http://a.example/dir/2.jpg"]);
    assert_eq!(report.failed, counts(&[("gzip_truncated", 1), ("record_truncated", 1)]));
    let place = format!("000.warc.wat.gz: gzip_truncated at byte {}", first.len());
    assert!(report.places[0].ends_with(&place), "{:?}", report.places);
}

#[test]
fn a_file_that_is_no_warc_is_counted() {
    let (report, rows) = run(&[b"<html>503</html>".to_vec(), wat(&[page(&[img("1.jpg", "a")])])]);
    assert_eq!(rows.len(), 1);
    assert_eq!(report.failed, counts(&[("no_record", 1), ("not_a_record", 1)]));
}

#[test]
fn of_equal_uids_the_smallest_archive_name_then_the_first_record_stays() {
    let at = |file: &str, page: &str| {
        wat_json(file, page, "{}", &[&img("http://i.example/1.jpg", "same")])
    };
    let wats = [
        wat(&[at("c.warc.gz", "http://a.example/1"), at("b.warc.gz", "http://a.example/2")]),
        wat(&[at("b.warc.gz", "http://a.example/4"), at("b.warc.gz", "http://a.example/3")]),
    ];
    let (report, rows) = run(&wats);
    assert_eq!((report.rows, report.distinct_uids), (4, 1));
    assert_eq!(report.counts().dropped["duplicate_uid"], 3);
    // Record 1 of the second file comes before record 2 of the first.
    assert_eq!(&rows[0][3..], ["b.warc.gz", "http://a.example/4"]);
}

#[test]
fn the_bytes_are_the_same_at_any_thread_count_file_order_and_memory() {
    let wats: Vec<Vec<u8>> = (0..6)
        .map(|file| {
            let pages: Vec<String> = (0..20)
                .map(|n| {
                    let shared = img(&format!("http://i.example/{n}.jpg"), "shared");
                    let own = img(&format!("{file}-{n}.jpg"), "own");
                    wat_json(
                        &format!("{file}.warc.gz"),
                        "http://a.example/",
                        "{}",
                        &[&shared, &own],
                    )
                })
                .collect();
            wat(&pages)
        })
        .collect();
    let base = run_with(&wats, &Context { threads: 1, ..Context::default() });
    assert_eq!(base.0.distinct_uids, 20 + 120);
    for (threads, memory) in [(2, 2 << 30), (4, 20_000), (1, 0)] {
        let cx = Context { threads, memory, ..Context::default() };
        assert!(run_with(&wats, &cx) == base, "threads {threads}, memory {memory}");
    }
    // One file of more rows than a run holds: runs of it are written aside, and merged again.
    let caption = "long ".repeat(20);
    let large: Vec<String> = (0..3000)
        .map(|n| {
            let name = |i| format!("{}.jpg", (n * i) % 7000);
            page(&(0..5).map(|i| img(&name(i), &caption)).collect::<Vec<_>>())
        })
        .collect();
    let large = [wat(&large)];
    let whole = run_with(&large, &Context { threads: 1, ..Context::default() });
    let pieces = run_with(&large, &Context { threads: 1, memory: 0, ..Context::default() });
    assert!(whole == pieces);
    assert_eq!(whole.0.rows, 15_000);
    let reversed: Vec<_> = wats.iter().rev().cloned().collect();
    assert!(run_with(&reversed, &Context::default()).1 == base.1);
}

#[test]
fn rows_are_sorted_by_uid_and_row_groups_are_cut_where_its_first_bits_change() {
    let links: Vec<String> = (0..140_000).map(|i| img(&format!("{i}.jpg"), "alt")).collect();
    let pages: Vec<String> = links.chunks(1000).map(page).collect();
    let (_, parquet) = run_with(&[wat(&pages)], &Context::default());
    let uids: Vec<String> = rows(&parquet).into_iter().map(|[uid, ..]| uid).collect();
    assert_eq!(uids.len(), 140_000);
    assert!(uids.is_sorted());
    let builder = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(parquet)).unwrap();
    let groups: Vec<i64> =
        builder.metadata().row_groups().iter().map(RowGroupMetaData::num_rows).collect();
    let low = uids.iter().filter(|uid| uid.as_str() < "8").count() as i64;
    assert_eq!(groups, [low, 140_000 - low]);
}

#[test]
fn no_link_at_all_is_an_empty_parquet_file() {
    let (report, parquet) = run_with(&[wat(&[page(&[])])], &Context::default());
    assert_eq!((report.pages, report.distinct_uids), (1, 0));
    assert_eq!(rows(&parquet).len(), 0);
}

#[test]
fn a_cancelled_run_is_an_interruption() {
    let cx = Context::default();
    cx.cancel.cancel();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.wat.gz");
    std::fs::write(&path, wat(&vec![page(&[]); 300])).unwrap();
    let error =
        run_unit(&[WatSource::new(path.display().to_string())], Vec::new(), &cx).unwrap_err();
    assert_eq!(error.kind(), Kind::Interrupted);
}

#[test]
fn a_missing_file_is_an_input_error_with_its_name() {
    let wats = [WatSource::new("/nowhere/a.wat.gz")];
    let error = run_unit(&wats, Vec::new(), &Context::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::Input);
    assert!(error.to_string().contains("/nowhere/a.wat.gz"), "{error}");
}

#[test]
fn a_wat_file_is_read_over_http_and_a_missing_one_named() {
    let bytes = wat(&[page(&[img("1.jpg", "alt")])]);
    let server = Server::start(move |request| match request.path.as_str() {
        "/a.wat.gz" => Response::ok("application/gzip", bytes.clone()),
        _ => Response::status(404),
    })
    .unwrap();
    let get = |path: &str| {
        let source = WatSource::new(format!("http://{}{path}", server.address()));
        run_unit(&[source], Vec::new(), &Context::default())
    };
    assert_eq!(get("/a.wat.gz").unwrap().rows, 1);
    let error = get("/b.wat.gz").unwrap_err();
    assert_eq!(error.kind(), Kind::Input);
    assert!(error.to_string().contains("/b.wat.gz: the server answered 404 Not Found"), "{error}");
}

#[test]
fn lists_are_read_prefixed_and_cut_into_units() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("wat.paths.gz");
    let lines: Vec<String> = (0..130).map(|i| format!("crawl-data/{i:05}.wat.gz")).collect();
    // The crawl's lists are gzip; two members, to be sure.
    let (a, b) = lines.split_at(64);
    let bytes =
        [member((a.join("\n") + "\n").as_bytes()), member(b.join("\n").as_bytes())].concat();
    std::fs::write(&list, bytes).unwrap();
    let mut plan = LinksPlan::of(vec![list.display().to_string(), "own.wat.gz".to_owned()]);
    plan.prefix = "https://data.example/".to_owned();
    let cx = Context::default();
    let units = plan.units(&cx).unwrap();
    let sizes: Vec<_> = units.iter().map(|unit| (unit.name.as_str(), unit.wats.len())).collect();
    assert_eq!(sizes, [("00000", 64), ("00001", 64), ("00002", 3)]);
    assert_eq!(units[0].wats[0].url(), "https://data.example/crawl-data/00000.wat.gz");
    assert_eq!(units[2].wats[2].url(), "own.wat.gz");

    let sample = |count, seed| {
        let plan = LinksPlan { sample: Some(count), ..plan.clone() };
        let units = plan.units(&Context { seed, ..Context::default() }).unwrap();
        units.into_iter().flat_map(|unit| unit.wats).collect::<Vec<_>>()
    };
    let twenty = sample(20, 0);
    assert_eq!(twenty.len(), 20);
    assert_eq!(twenty, sample(20, 0));
    assert_ne!(twenty, sample(20, 1));
    assert!(twenty.is_sorted_by_key(|wat| wat.url().replace("own", "z")));
    let thirty = sample(30, 0);
    assert!(twenty.iter().all(|wat| thirty.contains(wat)));
    assert_eq!(sample(500, 0).len(), 131);
}

#[test]
fn a_plan_is_refused_with_field_and_range() {
    let cases = [
        (r#"{"wat": []}"#, "`wat` must name at least one WAT file or list"),
        (r#"{"wat": ["a"], "sample": 0}"#, "`sample` must be at least 1, got 0"),
        (r#"{"wat": ["a"], "wats_per_unit": 0}"#, "`wats_per_unit` must lie in 1..=4096, got 0"),
    ];
    for (json, message) in cases {
        let plan: LinksPlan = serde_json::from_str(json).unwrap();
        assert_eq!(plan.validate().unwrap_err().to_string(), message);
    }
    assert!(serde_json::from_str::<LinksPlan>(r#"{"wat": ["a"], "samples": 3}"#).is_err());
}

#[test]
fn an_empty_list_is_an_input_error() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("wat.paths");
    std::fs::write(&list, "\n").unwrap();
    let plan = LinksPlan::of(vec![list.display().to_string()]);
    let error = plan.units(&Context::default()).unwrap_err();
    assert!(error.to_string().starts_with("no WAT file in "), "{error}");
}

#[test]
fn the_derived_wat_gives_the_issues_figures() {
    let Some(path) = shared("data/warc-wat/derived.warc.wat.gz") else { return };
    let (report, parquet) = run_with(&[std::fs::read(path).unwrap()], &Context::default());
    assert_eq!(
        (report.pages, report.image_links, report.rows, report.distinct_uids),
        (169, 1080, 757, 153)
    );
    assert_eq!(report.failed, counts(&[]));
    assert_eq!(rows(&parquet).len(), 153);
}

#[test]
fn a_genuine_wat_file_of_requests_has_no_pages() {
    let Some(path) = shared("data/warc-wat/whirlwind.warc.wat.gz") else { return };
    let (report, _) = run_with(&[std::fs::read(path).unwrap()], &Context::default());
    assert_eq!((report.pages, report.failed.len()), (0, 0));
}

#[test]
fn a_wat_file_may_be_plain() {
    let json = page(&[img("1.jpg", "alt")]);
    let (report, _) = run(&[record("metadata", "http://a.example/", json.as_bytes())]);
    assert_eq!(report.rows, 1);
}
