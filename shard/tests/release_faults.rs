//! Releases that are not what they seem: what a purge must find all the same, and what it refuses.

mod common;

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_schema::DataType;
use common::{PNG, tar};
use serde_json::{Value, json};
use shard::ReleasePlan;
use shard::release::{
    self, Absence, Facts, Manifest, Purge, ReleaseFile, ScoreTable, Selectors, diff, merkle_root,
    verify_purge,
};
use stage::{Context, Counts, Kind, Result};
use store::{Blob, Output, StageDir};

fn uid(number: usize) -> String {
    format!("{number:032x}")
}

fn named(fill: impl FnOnce(&mut Selectors)) -> Selectors {
    let mut selectors = Selectors::default();
    fill(&mut selectors);
    selectors
}

fn url(text: &str) -> Selectors {
    named(|s| s.url(text).unwrap())
}

fn domain(text: &str) -> Selectors {
    named(|s| s.domain(text).unwrap())
}

/// A release whose units are made by `make`, in memory.
fn release_with(
    plan: &ReleasePlan,
    units: usize,
    make: impl Fn(usize, &mut store::Attempt) -> Result<Counts>,
) -> Result<Output> {
    let output = Output::in_memory();
    let dir = output.stage("release");
    let (mut counts, mut commits) = (Counts::default(), Vec::new());
    for number in 0..units {
        let mut out = dir.begin(&format!("{number:05}"))?;
        let own = make(number, &mut out)?;
        counts.merge(&own);
        commits.push(out.commit("key", own, Value::Null)?);
    }
    let facts = Facts {
        name: "release",
        version: 1,
        parent: None,
        plan,
        counts,
        lineage: Vec::new(),
        subset: None,
        tombstones: None,
    };
    let mut out = dir.begin("_finished")?;
    release::finish(&dir, &commits, facts, &mut out)?;
    out.commit("key", Counts::default(), Value::Null)?;
    Ok(output)
}

/// A release of these tars.
fn of_tars(plan: &ReleasePlan, tars: &[Blob]) -> Result<Output> {
    release_with(plan, tars.len(), |number, out| {
        let (unit, blob) = (format!("{number:05}"), &tars[number]);
        let (cx, none) = (Context::default(), ScoreTable::empty());
        let counts = release::rows_of_shard(&cx, &unit, blob, &none, !plan.metadata_only, out)?;
        if !plan.metadata_only {
            release::copy_shard(&unit, blob, None, out)?;
        }
        Ok(counts)
    })
}

/// A release of one shard with these pairs: number, caption and json.
fn of_pairs(pairs: &[(usize, &str, &str)]) -> Result<Output> {
    of_tars(&ReleasePlan::new("cc-by-4.0"), &[shard_of(pairs)])
}

fn shard_of(pairs: &[(usize, &str, &str)]) -> Blob {
    let mut members: Vec<(String, &[u8])> = Vec::new();
    for (number, caption, json) in pairs {
        members.push((format!("{number:04}.png"), PNG));
        members.push((format!("{number:04}.txt"), caption.as_bytes()));
        members.push((format!("{number:04}.json"), json.as_bytes()));
    }
    let members: Vec<(&str, &[u8])> = members.iter().map(|(n, d)| (n.as_str(), *d)).collect();
    tar("x.tar", &members)
}

/// Two plain pairs of `a.example` and `b.example`.
fn plain() -> Output {
    let json =
        |number, host| format!(r#"{{"uid": "{}", "url": "http://{host}.example/1"}}"#, uid(number));
    of_pairs(&[(1, "one", &json(1, "a")), (2, "two", &json(2, "b"))]).unwrap()
}

fn purge(output: &Output, selectors: &Selectors) -> Result<Purge> {
    Purge::run(&Context::default(), output, "release", selectors)
}

fn scan(dir: &StageDir, selectors: &Selectors) -> Absence {
    verify_purge(&Context::default(), dir, selectors).unwrap()
}

/// Purges one pair and finds nothing of it afterwards.
fn purged_whole(output: &Output, selectors: &Selectors) {
    let done = purge(output, selectors).unwrap();
    assert_eq!(done.removed, 1);
    let absence = scan(&output.stage("release.v2"), selectors);
    assert_eq!((absence.found, absence.faults), (Vec::new(), Vec::<String>::new()));
}

/// Changes the manifest of the release and gives it the root of its files.
fn with_manifest(output: &Output, change: impl FnOnce(&mut Manifest)) {
    let mut manifest = Manifest::read(&output.stage("release")).unwrap();
    change(&mut manifest);
    manifest.merkle_root = merkle_root(&manifest.files);
    output.put("release/manifest.json", manifest.to_bytes().unwrap().into()).unwrap();
}

/// Puts a file in the place of one, with or without a word to the manifest.
fn replace(output: &Output, path: &str, bytes: Vec<u8>, say: bool) {
    let sha256 = Blob::from_bytes("x", bytes.clone().into()).sha256().unwrap();
    let len = bytes.len() as u64;
    output.put(&format!("release/{path}"), bytes.into()).unwrap();
    if say {
        with_manifest(output, |manifest| {
            let file = manifest.files.iter_mut().find(|file| file.path == path).unwrap();
            (file.sha256, file.bytes) = (sha256, len);
        });
    }
}

fn bytes_of(output: &Output, path: &str) -> Vec<u8> {
    output.stage("release").blob(path).unwrap().read_all().unwrap().to_vec()
}

fn parquet(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let (mut bytes, layout) = (Vec::new(), store::parquet::Layout::default());
    store::write_parquet(&mut bytes, &batch.schema(), [Ok(batch.clone())], &layout).unwrap();
    bytes
}

fn texts<const N: usize>(values: &[String; N]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn as_type(column: &ArrayRef, kind: &DataType) -> ArrayRef {
    arrow_cast::cast(column, kind).unwrap()
}

#[test]
fn a_json_with_nan_and_half_a_surrogate_is_released_with_its_url_and_purged() {
    let odd = format!(
        r#"{{"score": NaN, "author": "\ud83d", "uid": "{}", "url": "http://x.a.example/1"}}"#,
        uid(1)
    );
    let output = of_pairs(&[(1, "one", &odd), (2, "two", "{}")]).unwrap();
    let before = scan(&output.stage("release"), &domain("a.example"));
    let places: Vec<&str> = before.found.iter().map(|f| f.place.as_str()).collect();
    assert!(places.contains(&"row 0, column url"), "{places:?}");
    purged_whole(&output, &domain("a.example"));
}

#[test]
fn a_json_that_is_none_is_not_released() {
    let pairs = [(1, "one", r#"{"url": "http://a.example/1""#), (2, "two", "{}")];
    let error = of_pairs(&pairs).unwrap_err();
    let expected = "its json cannot be read, so that no purge by URL would find it";
    assert_eq!(error.to_string(), format!("shard x.tar: sample 0001: {expected}"));
    let plan = ReleasePlan { metadata_only: true, ..ReleasePlan::new("mit") };
    let output = of_tars(&plan, &[shard_of(&pairs)]).unwrap();
    let manifest = Manifest::read(&output.stage("release")).unwrap();
    assert_eq!((manifest.samples, manifest.counts.dropped["bad_json"]), (1, 1));
}

#[test]
fn verify_purge_says_which_json_it_cannot_read() {
    let output = plain();
    let broken = shard_of(&[(1, "one", r#"{"url": "http:\/\/a.exam"#), (2, "two", "{}")]);
    replace(&output, "shards/00000.tar", broken.read_all().unwrap().to_vec(), true);
    let faults = scan(&output.stage("release"), &domain("c.example")).faults;
    let told = "shards/00000.tar: member 0001.json cannot be read as JSON".to_owned();
    assert!(faults.contains(&told), "{faults:?}");
}

#[test]
fn metadata_of_any_type_of_text_is_released_as_text_and_purged() {
    let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    for kind in [DataType::LargeUtf8, DataType::Utf8View, dictionary, DataType::LargeBinary] {
        let column = |values| as_type(&texts(&values), &kind);
        let judged = parquet(vec![
            ("uid", column([uid(1), uid(2)])),
            ("url", column(["a", "b"].map(|host| format!("http://{host}.example/1")))),
            ("text", column(["one", "two"].map(str::to_owned))),
            ("sha256", column(["ab", "cd"].map(|two| two.repeat(32)))),
        ]);
        let judged = Blob::from_bytes("judged.parquet", judged.into());
        let plan = ReleasePlan { metadata_only: true, ..ReleasePlan::new("mit") };
        let make = |_: usize, out: &mut store::Attempt| {
            release::rows_of_scores(&Context::default(), "00000", &judged, None, out)
        };
        let output = release_with(&plan, 1, make).unwrap();
        let manifest = Manifest::read(&output.stage("release")).unwrap();
        for name in ["uid", "url", "text", "sha256"] {
            assert_eq!(manifest.columns[name], "Utf8", "{name} of {kind}");
        }
        purged_whole(&output, &domain("a.example"));
    }
}

#[test]
fn a_release_of_others_with_other_types_of_text_is_purged() {
    let output = plain();
    let view = |values| as_type(&texts(&values), &DataType::LargeUtf8);
    let rows = parquet(vec![
        ("uid", view([uid(1), uid(2)])),
        ("url", view(["a", "b"].map(|host| format!("http://{host}.example/1")))),
        ("text", view(["one", "two"].map(str::to_owned))),
        ("key", view(["0001", "0002"].map(str::to_owned))),
    ]);
    replace(&output, "metadata/00000.parquet", rows, true);
    purge(&output, &domain("a.example")).unwrap();
    let next = output.stage("release.v2");
    assert!(scan(&next, &domain("a.example")).found.is_empty());
    assert_eq!(Manifest::read(&next).unwrap().samples, 1);
}

#[test]
fn a_column_that_is_no_text_is_an_error_and_not_an_empty_answer() {
    let output = plain();
    let numbers: ArrayRef = Arc::new(arrow_array::Int64Array::from(vec![1, 2]));
    let rows = parquet(vec![("uid", numbers), ("url", texts(&[1, 2].map(|_| String::new())))]);
    replace(&output, "metadata/00000.parquet", rows, true);
    let error = purge(&output, &domain("a.example")).unwrap_err();
    assert!(error.to_string().contains("column `uid` is of the type Int64"), "{error}");
}

#[test]
fn verify_purge_reads_columns_of_every_type() {
    let link = "http://a.example/1";
    let link = || texts(&[link.to_owned(), String::new()]);
    let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    for kind in [
        DataType::LargeUtf8,
        DataType::Utf8View,
        DataType::Binary,
        DataType::LargeBinary,
        DataType::BinaryView,
        dictionary,
    ] {
        let output = plain();
        let rows = parquet(vec![("other", as_type(&link(), &kind))]);
        output.put("release/extra.parquet", rows.into()).unwrap();
        let found = scan(&output.stage("release"), &url("http://a.example/1")).found;
        let at = |f: &&release::Found| f.path == "extra.parquet" && f.place.starts_with("row 0");
        assert!(found.iter().any(|f| at(&f)), "{kind}: {found:?}");
    }
    // A uid as 16 raw bytes.
    let raw = arrow_array::FixedSizeBinaryArray::try_from_iter([1_u128.to_be_bytes()].iter());
    let output = plain();
    let rows = parquet(vec![("id", Arc::new(raw.unwrap()) as ArrayRef)]);
    output.put("release/extra.parquet", rows.into()).unwrap();
    let found = scan(&output.stage("release"), &named(|s| s.uid(&uid(1)).unwrap())).found;
    let at = |f: &release::Found| f.path == "extra.parquet" && f.place == "row 0, column id";
    assert!(found.iter().any(at), "{found:?}");
}

#[test]
fn what_verify_purge_cannot_look_into_is_a_fault() {
    let output = plain();
    let words =
        b"\x93NUMPY\x01\x00\x46\x00{'descr': '<U4', 'fortran_order': False, 'shape': (1,), }";
    let mut words = words.to_vec();
    words.resize(79, b' ');
    words.extend(b"\na\0\0\0b\0\0\0c\0\0\0d\0\0\0");
    output.put("release/words.npy", words.into()).unwrap();
    output.put("release/rows.csv.gz", vec![0x1f, 0x8b].into()).unwrap();
    let faults = scan(&output.stage("release"), &domain("c.example")).faults;
    for (path, told) in [
        ("words.npy", "it is neither uids nor numbers"),
        ("rows.csv.gz", "it is compressed: what it holds was not read"),
        ("rows.csv.gz", "is not in the manifest"),
    ] {
        let fault = faults.iter().find(|f| f.starts_with(path) && f.contains(told));
        assert!(fault.is_some(), "{told}: {faults:?}");
    }
    // Numbers are numbers.
    let mut numbers = Vec::new();
    store::npy::write(&mut numbers, &[2], &[0.5_f32, 1.0]).unwrap();
    output.put("release/words.npy", numbers.into()).unwrap();
    let faults = scan(&output.stage("release"), &domain("c.example")).faults;
    assert!(!faults.iter().any(|f| f.contains("neither uids nor numbers")), "{faults:?}");
}

#[test]
fn objects_that_no_manifest_lists_are_seen_in_a_bucket_too() {
    let output = plain();
    let dir = output.stage("release");
    assert_eq!(scan(&dir, &domain("c.example")).faults, [""; 0]);
    output.put("release/old/notes.txt", "see http://a.example/1".into()).unwrap();
    output.put("release/SHA256SUMS", "".into()).unwrap();
    let absence = scan(&dir, &domain("a.example"));
    assert!(absence.found.iter().any(|f| f.path == "old/notes.txt"), "{:?}", absence.found);
    let expected =
        ["SHA256SUMS does not say what the manifest says", "old/notes.txt is not in the manifest"];
    assert_eq!(absence.faults, expected);
}

#[test]
fn a_version_that_lies_there_already_is_not_overwritten() {
    for file in ["manifest.json", "shards/00000.tar"] {
        let output = plain();
        output.put(&format!("release.v2/{file}"), "published".into()).unwrap();
        let error = purge(&output, &domain("a.example")).unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict, "{error}");
        assert!(error.to_string().contains(&format!("release.v2/{file}")), "{error}");
        assert!(output.get("release.v2/_stage.json").unwrap().is_none());
        assert!(output.get("release/REVOKED.json").unwrap().is_none());
    }
}

#[test]
fn a_version_that_was_lost_after_its_purge_is_told_with_the_way_back() {
    let output = plain();
    purge(&output, &domain("a.example")).unwrap();
    let hidden = output.get("release/REVOKED.json").unwrap().unwrap();
    let other = plain();
    other.put("release/REVOKED.json", hidden).unwrap();
    for selectors in [domain("a.example"), domain("b.example")] {
        let error = purge(&other, &selectors).unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict);
        assert!(error.hint_text().unwrap().contains("remove REVOKED.json"), "{error}");
    }
}

#[test]
fn the_number_of_rows_is_the_files_own_and_not_the_manifests() {
    // Fewer rows would have dropped the whole unit.
    let output = plain();
    with_manifest(&output, |manifest| {
        let file = manifest.files.iter_mut().find(|f| f.path == "metadata/00000.parquet");
        file.unwrap().samples = Some(1);
    });
    let error = purge(&output, &domain("a.example")).unwrap_err();
    assert!(error.to_string().ends_with("2 rows, the manifest says 1"), "{error}");
    let output = plain();
    with_manifest(&output, |manifest| manifest.files.iter_mut().for_each(|f| f.samples = None));
    purged_whole(&output, &domain("a.example"));
    assert_eq!(Manifest::read(&output.stage("release.v2")).unwrap().samples, 1);
}

#[test]
fn a_shard_without_metadata_and_a_hash_that_is_none_are_refused() {
    let told = |change: &dyn Fn(&mut Manifest)| {
        let output = plain();
        with_manifest(&output, change);
        Manifest::read(&output.stage("release")).unwrap_err().to_string()
    };
    let odd = told(&|m| m.files.retain(|file| file.path != "metadata/00000.parquet"));
    assert!(
        odd.ends_with("shards/00000.tar has no metadata: nobody could say what is in it"),
        "{odd}"
    );
    for sha256 in ["", "AB", &"AB".repeat(32), &format!("{}  1  x\n", "ab".repeat(32))] {
        let file = |path: &str, sha256: &str| ReleaseFile {
            path: path.into(),
            bytes: 1,
            sha256: sha256.into(),
            samples: None,
        };
        let odd = told(&|m| m.files.push(file("notes", sha256)));
        assert!(odd.contains("is no sha256"), "{odd}");
    }
    let odd = told(&|m| m.plan.title = Some("a\n---\nlicense: mit".into()));
    assert!(odd.contains("its plan: title must not have the character '\\n'"), "{odd}");
}

#[test]
fn damage_in_a_unit_that_is_rewritten_is_not_given_a_new_hash() {
    let mut tar = bytes_of(&plain(), "shards/00000.tar");
    // A byte of the second picture.
    tar[512 * 7 + 20] ^= 1;
    let rows = parquet(vec![
        ("uid", texts(&[uid(1), uid(2)])),
        ("url", texts(&["a", "b"].map(|host| format!("http://{host}.example/1")))),
        ("key", texts(&["0001", "0002"].map(str::to_owned))),
    ]);
    for (path, bytes) in [("shards/00000.tar", tar), ("metadata/00000.parquet", rows)] {
        let output = plain();
        replace(&output, path, bytes, false);
        let error = purge(&output, &domain("a.example")).unwrap_err();
        let told = error.to_string();
        assert!(told.contains(path) && told.contains("the manifest says"), "{told}");
        assert!(output.get("release.v2/manifest.json").unwrap().is_none());
    }
}

#[test]
fn a_pair_whose_members_are_not_in_the_shard_stops_the_purge() {
    let output = plain();
    let other = shard_of(&[(7, "one", "{}"), (2, "two", "{}")]);
    replace(&output, "shards/00000.tar", other.read_all().unwrap().to_vec(), true);
    let error = purge(&output, &domain("a.example")).unwrap_err();
    assert!(error.to_string().ends_with("no member of the sample 0001, which the metadata names"));
}

#[test]
fn a_purge_finds_what_the_scan_finds_in_captions() {
    let json = format!(r#"{{"uid": "{}", "url": "http://a.example/1"}}"#, uid(1));
    let caption = "more at http://b.example/2.";
    let output = of_pairs(&[(1, caption, &json), (2, "two", "{}")]).unwrap();
    purged_whole(&output, &url("http://b.example/2"));
}

#[test]
fn what_only_the_shard_says_is_found_by_the_scan_and_taken_out_by_uid() {
    let json = format!(
        r#"{{"uid": "{}", "url": "http://a.example/1", "page": "http://p.example/"}}"#,
        uid(1)
    );
    let output = of_pairs(&[(1, "one", &json), (2, "two", "{}")]).unwrap();
    let done = purge(&output, &domain("p.example")).unwrap();
    assert_eq!((done.folder, done.unmatched), (None, vec!["domain:p.example".to_owned()]));
    let found = scan(&output.stage("release"), &domain("p.example")).found;
    assert!(found.iter().any(|f| f.place == "member 0001.json"), "{found:?}");
    purge(&output, &named(|s| s.uid(&uid(1)).unwrap())).unwrap();
    assert!(scan(&output.stage("release.v2"), &domain("p.example")).found.is_empty());
}

#[test]
fn the_licences_own_page_is_no_data_of_the_release() {
    let json = format!(r#"{{"uid": "{}", "url": "http://creativecommons.org/1.png"}}"#, uid(1));
    let output = of_pairs(&[(1, "one", &json), (2, "two", "{}")]).unwrap();
    let croissant = String::from_utf8(bytes_of(&output, "croissant.json")).unwrap();
    assert!(croissant.contains("https://creativecommons.org/licenses/by/4.0/"));
    for name in ["creativecommons.org", "schema.org"] {
        let found = scan(&output.stage("release"), &domain(name)).found;
        assert!(found.iter().all(|f| f.path.contains('/')), "{found:?}");
    }
    purged_whole(&output, &domain("creativecommons.org"));
}

#[test]
fn what_met_no_pair_is_named() {
    let output = plain();
    let selectors = named(|s| {
        s.uid(&uid(1)).unwrap();
        s.domain("a.example").unwrap();
        s.domain("z.example").unwrap();
        s.url("http://b.example/2").unwrap();
        s.sha256(&"ab".repeat(32)).unwrap();
    });
    let done = purge(&output, &selectors).unwrap();
    let hash = format!("sha256:{}", "ab".repeat(32));
    assert_eq!(done.unmatched, ["url:http://b.example/2", "domain:z.example", &hash]);
    // The same again says the same.
    assert_eq!(purge(&output, &selectors).unwrap(), done);
}

#[test]
fn copies_of_a_pair_are_compared_with_their_equals() {
    let of = |captions: &[&str]| {
        let json = format!(r#"{{"uid": "{}"}}"#, uid(1));
        let pairs: Vec<(usize, &str, &str)> =
            captions.iter().enumerate().map(|(i, text)| (i, *text, json.as_str())).collect();
        of_pairs(&pairs).unwrap()
    };
    let changes = |a: &[&str], b: &[&str]| {
        let (a, b) = (of(a), of(b));
        let changes = diff(&Context::default(), &a.stage("release"), &b.stage("release")).unwrap();
        (changes.same, changes.changed.0, changes.removed.0, changes.added.0)
    };
    assert_eq!(changes(&["a", "b", "c"], &["c", "a", "b"]), (3, 0, 0, 0));
    assert_eq!(changes(&["a", "b", "c"], &["b", "c"]), (2, 0, 1, 0));
    assert_eq!(changes(&["b", "c"], &["a", "b", "c", "d"]), (2, 0, 0, 2));
    assert_eq!(changes(&["a", "b"], &["b", "c"]), (1, 1, 0, 0));
}

#[test]
fn names_from_elsewhere_stay_inside_their_place_in_the_card() {
    let odd = "a|b`\n## c <i>";
    let scores: ArrayRef = Arc::new(arrow_array::Float32Array::from(vec![0.5]));
    let judged = parquet(vec![
        ("uid", texts(&[uid(1)])),
        ("url", texts(&["http://a.example/1".to_owned()])),
        ("text", texts(&["one".to_owned()])),
        (odd, scores),
    ]);
    let judged = Blob::from_bytes("judged.parquet", judged.into());
    let citation = Some("```\n# not a heading of ours\n```".to_owned());
    let plan = ReleasePlan { metadata_only: true, citation, ..ReleasePlan::new("mit") };
    let make = |_: usize, out: &mut store::Attempt| {
        release::rows_of_scores(&Context::default(), "00000", &judged, None, out)
    };
    let output = release_with(&plan, 1, make).unwrap();
    let card = String::from_utf8(bytes_of(&output, "README.md")).unwrap();
    assert!(card.contains("| `a¦b' ## c ‹i›` | Float32 |"), "{card}");
    assert!(card.contains("\n````\n```\n# not a heading of ours\n```\n````\n"), "{card}");
    assert!(card.starts_with("---\npretty_name: \"release\"\nlicense: \"mit\"\n"), "{card}");
    let manifest: Value = serde_json::from_slice(&bytes_of(&output, "manifest.json")).unwrap();
    assert_eq!(manifest["columns"][odd], json!("Float32"));
}

#[test]
fn members_of_a_shard_are_looked_into_as_files_of_their_names_are() {
    let output = plain();
    let rows = parquet(vec![("link", texts(&["http://a.example/1".to_owned(), String::new()]))]);
    let nested = tar("inner.tar", &[("deep.json", br#"{"u": "http:\/\/a.example\/1"}"#)]);
    let nested = nested.read_all().unwrap();
    let members: Vec<(&str, &[u8])> = vec![
        ("1.bin.npz", b"PK"),
        ("1.broken.parquet", b"PAR1"),
        ("1.json", b"{}"),
        ("1.meta.json.gz", &[0x1f, 0x8b]),
        ("1.png", PNG),
        ("1.rows.parquet", &rows),
        ("1.tar", &nested),
        ("1.words.npy", b"\x93NUMPY"),
    ];
    let shard = tar("x.tar", &members).read_all().unwrap().to_vec();
    replace(&output, "shards/00000.tar", shard, true);
    let absence = scan(&output.stage("release"), &url("http://a.example/1"));
    for told in [
        "shards/00000.tar: member 1.bin.npz is compressed: what it holds was not read",
        "shards/00000.tar: member 1.broken.parquet cannot be looked into: ",
        "shards/00000.tar: member 1.meta.json.gz is compressed: what it holds was not read",
        "shards/00000.tar: member 1.words.npy is neither uids nor numbers: ",
    ] {
        let fault = absence.faults.iter().find(|fault| fault.starts_with(told));
        assert!(fault.is_some(), "{told}: {:?}", absence.faults);
    }
    for place in ["member 1.rows.parquet, row 0, column link", "member 1.tar, member deep.json"] {
        let at = |found: &release::Found| found.place == place && found.kind == "url";
        assert!(absence.found.iter().any(at), "{place}: {:?}", absence.found);
    }
}
