//! The cursor's reading of records against serde_json's: the same rows, counts and faults.

use proptest::prelude::*;

use super::LinksReport;
use super::oracle;
use super::page::{Found, PageReader, Place};
use crate::warc::Reader;

/// The counts and rows of one record, by the cursor and by serde_json.
fn both(reader: &mut PageReader, json: &[u8]) -> [(LinksReport, Vec<[String; 5]>); 2] {
    let row = |place: Place<'_>, found: &Found<'_>| {
        let uid = format!("{:032x}", u128::from_be_bytes(found.uid));
        let [cc_filename, page_url] = [place.cc_filename, place.page_url].map(str::to_owned);
        [uid, found.url.to_owned(), found.alt.to_owned(), cc_filename, page_url]
    };
    let [mut ours, mut theirs] = <[(LinksReport, Vec<_>); 2]>::default();
    reader.read(json, &mut ours.0, |place, found| ours.1.push(row(place, &found)));
    oracle::read_page(json, &mut theirs.0, |place, found| theirs.1.push(row(place, &found)));
    [ours, theirs]
}

#[track_caller]
fn check(reader: &mut PageReader, json: &[u8]) -> (LinksReport, Vec<[String; 5]>) {
    let [ours, theirs] = both(reader, json);
    assert_eq!(ours, theirs, "{}", String::from_utf8_lossy(json));
    ours
}

fn page(links: &str) -> String {
    format!(
        r#"{{"Container":{{"Filename":"a.warc.gz"}},"Envelope":{{"WARC-Header-Metadata":{{
        "WARC-Target-URI":"http://a.example/"}},"Payload-Metadata":{{"HTTP-Response-Metadata":
        {{"HTML-Metadata":{{"Head":{{"Base":"b/"}},"Links":{links}}}}}}}}}}}"#
    )
}

#[test]
fn a_record_is_read_as_serde_json_reads_it_whatever_its_faults() {
    let reader = &mut PageReader::default();
    let link = r#"{"path":"IMG@/src","url":"c.jpg","alt":"a cat"}"#;
    assert_eq!(check(reader, page(&format!("[{link}]")).as_bytes()).0.rows, 1);
    // Values of a link, of a key that matters and of one that does not.
    let values = [
        "",
        "null",
        "nul",
        "nullx",
        "true",
        "falsey",
        "0",
        "-0",
        "00",
        "01",
        "-",
        "+1",
        ".5",
        "1.",
        "1.5",
        "1.e5",
        "1e5",
        "1E+5",
        "1e-5",
        "1e",
        "1e+",
        "1e308",
        "1e309",
        "-1e309",
        "0e999",
        "1.7976931348623157e308",
        "1.7976931348623158e308",
        "1.7976931348623159e308",
        "1e-999",
        "1e99999999999",
        "0e99999999999",
        "1e-99999999999",
        "18446744073709551616",
        "1 2",
        "\"",
        "\"x",
        "\"\\\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u00e9\"",
        "\"\\ud83d\\ude00\"",
        "\"\\ud83d\"",
        "\"\\ude00\"",
        "\"\\ud83d\\ud83d\\ude00\"",
        "\"\\ud83d\\u0041\"",
        "\"a\tb\"",
        "\"a\u{7f}b\"",
        "\"\u{0}\"",
        "[",
        "[]",
        "[ ]",
        "[,]",
        "[1,]",
        "[1,2]",
        "[1 2]",
        "[1}",
        "{",
        "{}",
        "{ }",
        "{,}",
        "{1:2}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{\"a\":1 \"b\":2}",
        "{\"a\":1]",
        "{\"a\":[{\"b\":[]},{}]}",
        "//",
        "'x'",
        "\u{a0}1",
        "\u{feff}1",
        "\\\"",
        "\\u0022x\\u0022",
    ];
    let long = ["9".repeat(308), "9".repeat(309), format!("0.{}1", "0".repeat(400))];
    for value in values.into_iter().chain(long.iter().map(String::as_str)) {
        for key in ["path", "url", "alt", "text", "\\u0061lt", "p\\u0061th", "x"] {
            for link in [
                format!(r#"[{{"path":"IMG@/src","url":"u","alt":"a","{key}":{value}}}]"#),
                format!(r#"[{{"{key}" : {value},"path":"IMG@/src" ,"alt":"a", "url":"u" }}]"#),
            ] {
                check(reader, page(&link).as_bytes());
            }
        }
        check(reader, page(value).as_bytes());
        check(reader, page(&format!("[{value}]")).as_bytes());
        check(reader, value.as_bytes());
        check(reader, format!("{} {value}", page("[]")).as_bytes());
        for name in [
            "Container",
            "Filename",
            "Envelope",
            "WARC-Header-Metadata",
            "WARC-Target-URI",
            "Payload-Metadata",
            "HTTP-Response-Metadata",
            "HTML-Metadata",
            "Head",
            "Base",
            "Links",
        ] {
            let whole = page(&format!("[{link}]"));
            let at = whole.find(&format!("\"{name}\":")).unwrap();
            // Before the true value, and so not counting, or failing first.
            let before = format!("{}\"{name}\":{value},{}", &whole[..at], &whole[at..]);
            check(reader, before.as_bytes());
            check(
                reader,
                whole.replace(&format!("\"{name}\""), &format!("\"{name}2\"")).as_bytes(),
            );
        }
    }
}

#[test]
fn of_equal_objects_the_last_counts_with_nothing_of_the_first() {
    let reader = &mut PageReader::default();
    let whole = page(r#"[{"path":"IMG@/src","url":"c.jpg","alt":"a cat"}]"#);
    for name in ["Container", "Envelope", "Payload-Metadata", "HTML-Metadata", "Head"] {
        let at = whole.find(&format!("\"{name}\":")).unwrap() + name.len() + 3;
        // The value's end: the bracket that closes it.
        let mut depth = 0;
        let end = whole[at..].find(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            depth == 0 && c == '}'
        });
        let end = at + end.unwrap() + 1;
        let json = format!("{},\"{name}\":{{}}{}", &whole[..end], &whole[end..]);
        check(reader, json.as_bytes());
    }
    let twice = whole.replace("\"Links\"", "\"Links\":[{}],\"Links\"");
    assert_eq!(check(reader, twice.as_bytes()).0.rows, 1);
}

#[test]
fn depth_ends_where_serde_jsons_does() {
    let reader = &mut PageReader::default();
    for depth in 110..135 {
        for (open, close) in [("[", "]"), (r#"{"x":"#, "}"), (r#"[{"x":"#, "}]")] {
            let value = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            check(reader, page(&format!(r#"[{{"x":{value}}}]"#)).as_bytes());
            check(reader, page(&value).replace("Links", "Other").as_bytes());
            check(reader, format!(r#"{{"x":{value}}}"#).as_bytes());
            let value = open.repeat(depth / 2);
            check(reader, format!(r#"{{"x":{value}}}"#).as_bytes());
        }
    }
    assert_eq!(check(reader, "[".repeat(1 << 20).as_bytes()).0.failed["json_shape"], 1);
    let deep = format!("{{\"x\":{}", "[".repeat(1 << 20));
    assert_eq!(check(reader, deep.as_bytes()).0.failed["json_syntax"], 1);
}

#[test]
fn a_text_that_is_no_utf8_is_that_before_all() {
    let reader = &mut PageReader::default();
    for json in
        [&b"{\"a\":\"\xff\"}"[..], b"[\"\xff\"]", b"{]\xff", b"{\"\xf0\x9f\x98\"", b"{}\xff"]
    {
        assert_eq!(check(reader, json).0.failed["json_not_utf8"], 1);
    }
}

#[test]
fn every_record_of_the_derived_wat_is_read_as_serde_json_reads_it() {
    let place = "data/warc-wat/derived.warc.wat.gz";
    let folder = std::env::var_os("CLIPMILL_SHARED").map(std::path::PathBuf::from);
    let required = folder.is_some();
    let beside = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let path = folder.unwrap_or(beside).join(place);
    if !path.exists() {
        assert!(!required, "{} is missing", path.display());
        eprintln!("skipped: no {place} beside the checkout");
        return;
    }
    let mut records = Reader::new(place, std::fs::File::open(path).unwrap());
    let (mut reader, mut rows) = (PageReader::default(), 0);
    while let Some(record) = records.next_record().unwrap() {
        rows += check(&mut reader, record.body).1.len();
        let cut = &record.body[..record.body.len() / 2];
        check(&mut reader, cut);
    }
    assert_eq!(rows, 757);
}

/// JSON values, now and then with faults in strings and numbers, with the keys that matter.
fn value() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        4 => string(),
        1 => "(null|true|false|-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?)",
        1 => "[-+0-9.eEnulxtr]{1,6}",
    ];
    scalar.prop_recursive(8, 64, 5, |inner| {
        let pair = (blank(), key(), blank(), inner.clone())
            .prop_map(|(a, key, b, value)| format!("{a}{key}{b}:{value}"));
        let list = prop::collection::vec((blank(), inner, blank()), 0..5).prop_map(|values| {
            let values: Vec<_> = values.into_iter().map(|(a, v, b)| a + &v + &b).collect();
            format!("[{}]", values.join(","))
        });
        let object =
            prop::collection::vec(pair, 0..5).prop_map(|pairs| format!("{{{}}}", pairs.join(",")));
        prop_oneof![list, object]
    })
}

fn blank() -> impl Strategy<Value = String> {
    prop_oneof![9 => Just(String::new()), 1 => "[ \\t\\r\\n]{1,70}"]
}

fn string() -> impl Strategy<Value = String> {
    let plain = "[ -!#-\\[\\]-~é😀\u{7f}]{0,70}".prop_map(|text| format!("\"{text}\""));
    let words = prop::sample::select(vec!["IMG@/src", "http://b.example/1.jpg", "a cat", "2.jpg"]);
    let escape = "(\\\\[\"\\\\/bfnrt]|\\\\u00[0-9a-fA-F]{2}|\\\\ud83d\\\\ude0[0-9])";
    let fault = "(\\\\.|\\\\u[0-9a-g]{2,4}|\\\\u[dD][89a-fA-F]00|[\\x00-\\x1f]|\\\\)";
    let faulty = ("[a-z]{0,3}", prop_oneof![6 => escape, 1 => fault], "[a-z]{0,3}");
    let faulty = prop::collection::vec(faulty, 1..20).prop_map(|parts| {
        format!("\"{}\"", parts.into_iter().map(|(a, b, c)| a + &b + &c).collect::<String>())
    });
    prop_oneof![3 => plain, 3 => words.prop_map(|word| format!("\"{word}\"")), 1 => faulty]
}

fn key() -> impl Strategy<Value = String> {
    let names = vec![
        "path",
        "url",
        "alt",
        "text",
        "path",
        "url",
        "alt",
        "Links",
        "Head",
        "Base",
        "p\\u0061th",
    ];
    let names = prop::sample::select(names).prop_map(|name| format!("\"{name}\""));
    prop_oneof![9 => names, 1 => string()]
}

fn links() -> impl Strategy<Value = String> {
    let field = (key(), prop_oneof![8 => string(), 1 => value()])
        .prop_map(|(key, value)| format!("{key}:{value}"));
    let fields = prop::collection::vec(field, 0..4);
    let link = fields.prop_map(|fields| {
        let fields: String = fields.into_iter().map(|field| ",".to_owned() + &field).collect();
        format!("{{\"path\":\"IMG@/src\"{fields}}}")
    });
    prop::collection::vec(prop_oneof![8 => link, 1 => value()], 0..12)
        .prop_map(|links| format!("[{}]", links.join(",")))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_record_is_read_as_serde_json_reads_it(
        links in prop_oneof![6 => links(), 1 => value()],
        other in value(),
        head in prop_oneof![value(), Just("{}".to_owned())],
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..4u8, any::<u8>()), 0..4),
    ) {
        let reader = &mut PageReader::default();
        let json = page(&links)
            .replacen("\"Head\"", &format!("\"Head\":{head},\"Head\""), 1)
            .replacen("{\"WARC-H", &format!("{{\"x\":{other},\"WARC-H"), 1);
        check(reader, json.as_bytes());
        let mut bytes = json.into_bytes();
        for (at, how, byte) in edits {
            let at = at.index(bytes.len());
            const OFTEN: &[u8] = b"\"\\{}[]:, u";
            let byte = OFTEN.get(usize::from(byte) % 16).copied().unwrap_or(byte);
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 if bytes.len() > 1 => drop(bytes.remove(at)),
                _ => bytes.truncate(at.max(1)),
            }
            check(reader, &bytes);
        }
    }

    #[test]
    fn any_value_at_all_is_read_as_serde_json_reads_it(json in value()) {
        check(&mut PageReader::default(), json.as_bytes());
    }
}
