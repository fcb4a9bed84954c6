//! Releases in a store without a disk: made, purged, scanned.

use serde_json::{Value, json};
use shard::release::{
    self, Facts, Manifest, Purge, ScoreTable, Selectors, Tombstones, verify_purge,
};
use shard::{ReleasePlan, TarWriter};
use stage::{Context, Counts};
use store::{Blob, Output};

fn uid(number: usize) -> String {
    format!("{number:032x}")
}

/// A URL that JSON writers escape and that no text would hold as one word.
fn url(number: usize) -> String {
    format!("http://h{number}.example/p\u{e9} {number}.png")
}

fn picture(number: usize) -> Vec<u8> {
    let rgb = vec![number as u8; 4 * 4 * 3];
    pixels::encode_png(&pixels::Picture { width: 4, height: 4, rgb }, 6)
}

/// A shard of these pairs, whose json escapes all that is not ASCII.
fn tar(pairs: &[usize]) -> Blob {
    let mut tar = TarWriter::new(Vec::new());
    for &number in pairs {
        let escaped = url(number).replace('\u{e9}', "\\u00e9");
        let json = format!(r#"{{"uid": "{}", "url": "{escaped}"}}"#, uid(number));
        tar.append(&format!("{number:09}.png"), &picture(number)).unwrap();
        tar.append(&format!("{number:09}.txt"), b"a picture").unwrap();
        tar.append(&format!("{number:09}.json"), json.as_bytes()).unwrap();
    }
    Blob::from_bytes("x.tar", tar.finish().unwrap().into())
}

/// A release of these shards in memory.
fn released(shards: &[&[usize]]) -> Output {
    let output = Output::in_memory();
    let (dir, plan) = (output.stage("release"), ReleasePlan::new("mit"));
    let (cx, mut counts, mut commits) = (Context::default(), Counts::default(), Vec::new());
    for (number, pairs) in shards.iter().enumerate() {
        let (unit, blob) = (format!("{number:05}"), tar(pairs));
        let mut out = dir.begin(&unit).unwrap();
        let none = ScoreTable::empty();
        let own = release::rows_of_shard(&cx, &unit, &blob, &none, true, &mut out).unwrap();
        release::copy_shard(&unit, &blob, None, &mut out).unwrap();
        counts.merge(&own);
        commits.push(out.commit("key", own, Value::Null).unwrap());
    }
    let facts = Facts {
        name: "release",
        version: 1,
        parent: None,
        plan: &plan,
        counts,
        lineage: Vec::new(),
        subset: None,
        tombstones: None,
    };
    let mut out = dir.begin("_finished").unwrap();
    release::finish(&dir, &commits, facts, &mut out).unwrap();
    out.commit("key", Counts::default(), json!({"units": ["00000", "00001"]})).unwrap();
    output
}

fn named(fill: impl FnOnce(&mut Selectors)) -> Selectors {
    let mut selectors = Selectors::default();
    fill(&mut selectors);
    selectors
}

#[test]
fn a_release_in_a_bucket_is_purged_and_scanned() {
    let output = released(&[&[1, 2], &[3, 4]]);
    let cx = Context::default();
    let third = named(|s| s.url(&url(3)).unwrap());
    let before = verify_purge(&cx, &output.stage("release"), &third).unwrap();
    let places: Vec<String> =
        before.found.iter().map(|f| format!("{}: {}", f.path, f.place)).collect();
    assert_eq!(
        places,
        ["metadata/00001.parquet: row 0, column url", "shards/00001.tar: member 000000003.json"]
    );
    let done = Purge::run(&cx, &output, "release", &third).unwrap();
    assert_eq!((done.removed, done.rewritten, done.units), (1, 1, 2));
    let next = output.stage(done.folder.as_deref().unwrap());
    let absence = verify_purge(&cx, &next, &third).unwrap();
    assert_eq!((absence.found.len(), absence.faults.len(), absence.rows), (0, 0, 3));
    // What stays is byte for byte what a release without that pair holds.
    let without = tar(&[4]).read_all().unwrap();
    assert_eq!(next.blob("shards/00001.tar").unwrap().read_all().unwrap(), without);
    let old = output.stage("release").blob("shards/00000.tar").unwrap().read_all().unwrap();
    assert_eq!(next.blob("shards/00000.tar").unwrap().read_all().unwrap(), old);
}

#[test]
fn a_shard_whose_last_pair_goes_is_left_out_and_a_release_may_end_empty() {
    let output = released(&[&[1], &[2]]);
    let cx = Context::default();
    let all = named(|s| {
        s.uid(&uid(1)).unwrap();
        s.domain("h2.example").unwrap();
    });
    let done = Purge::run(&cx, &output, "release", &all).unwrap();
    assert_eq!(done.removed, 2);
    let manifest = Manifest::read(&output.stage("release.v2")).unwrap();
    assert_eq!((manifest.samples, manifest.units().len()), (0, 0));
    assert_eq!(manifest.counts.dropped["purged"], 2);
    let absence = verify_purge(&cx, &output.stage("release.v2"), &all).unwrap();
    assert!(absence.found.is_empty() && absence.faults.is_empty(), "{absence:?}");
}

#[test]
fn a_picture_is_named_by_its_hash_wherever_it_stands() {
    let output = released(&[&[1, 257], &[2]]);
    let cx = Context::default();
    // 257 is 1 as a byte: the same picture under two uids.
    let hash = Blob::from_bytes("p", picture(1).into()).sha256().unwrap();
    let done = Purge::run(&cx, &output, "release", &named(|s| s.sha256(&hash).unwrap())).unwrap();
    assert_eq!((done.removed, done.rewritten), (2, 1));
    let next = output.stage("release.v2");
    let list = Tombstones::parse(&next.blob("tombstones.json").unwrap()).unwrap();
    assert_eq!((list.samples, list.uid.len(), list.sha256.len()), (2, 2, 1));
    assert!(list.uid.contains(&list.hash("uid", &uid(257))));
    assert!(verify_purge(&cx, &next, &Selectors::default()).unwrap().found.is_empty());
}

#[test]
fn a_key_that_two_pairs_have_would_take_both_out_and_is_refused() {
    let mut twice = TarWriter::new(Vec::new());
    for number in [1, 2] {
        twice.append("0.png", &picture(number)).unwrap();
    }
    let blob = Blob::from_bytes("x.tar", twice.finish().unwrap().into());
    let mut out = Output::in_memory().stage("release").begin("0").unwrap();
    let none = ScoreTable::empty();
    let error =
        release::rows_of_shard(&Context::default(), "0", &blob, &none, true, &mut out).unwrap_err();
    assert_eq!(error.to_string(), "shard x.tar: two pairs are called 0");
}

/// The manifest of a small release.
fn manifest() -> Vec<u8> {
    let output = released(&[&[1, 2]]);
    output.stage("release").blob("manifest.json").unwrap().read_all().unwrap().to_vec()
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(300))]

    #[test]
    fn a_manifest_with_other_bytes_in_it_is_read_or_refused(
        at: proptest::sample::Index,
        bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..6),
    ) {
        static WHOLE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(manifest);
        let at = at.index(WHOLE.len());
        let end = (at + bytes.len()).min(WHOLE.len());
        let changed = [&WHOLE[..at], &bytes[..], &WHOLE[end..]].concat();
        // What it says of files holds, or it is refused: the root is over them.
        if let Ok(read) = Manifest::parse(&Blob::from_bytes("m", changed.into())) {
            let whole = Manifest::parse(&Blob::from_bytes("m", WHOLE.clone().into())).unwrap();
            let facts = |m: &Manifest| {
                m.files.iter().map(|f| (f.path.clone(), f.bytes, f.sha256.clone())).collect::<Vec<_>>()
            };
            proptest::prop_assert_eq!(facts(&read), facts(&whole));
        }
    }

    #[test]
    fn a_list_of_any_text_names_things_or_is_refused(text in "(uid:|url:|#|\\{|[a-z.:/0-9é\"]|\n){0,60}") {
        let mut selectors = Selectors::default();
        let _ = selectors.list(&Blob::from_bytes("list", text.into()));
    }
}
