//! Training shards from a pool.

mod common;

use std::collections::HashSet;

use common::{PNG, shared, tar};
use shard::{
    Edits, PoolWriter, ReshardPlan, Resharding, Samples, Selection, Shards, TarReader, Truncated,
    finish, run_unit, write_tar,
};
use stage::{Context, Kind, PairSource};
use store::subset::Uid;
use store::{Blob, Output};

const A: &str = "0000000000000000000000000000000a";
const B: &str = "0000000000000000000000000000000b";
const C: &str = "0000000000000000000000000000000c";

fn uid(hex: &str) -> Uid {
    Uid::parse(hex).unwrap()
}

fn json(uid: &str) -> String {
    format!("{{\"uid\": \"{uid}\"}}")
}

/// Shard 0 holds A and B, shard 1 holds C and A once more.
fn pool() -> Shards {
    let [a, b, c] = [A, B, C].map(json);
    let blobs = vec![
        tar(
            "00000.tar",
            &[
                ("0000.txt", b"a"),
                ("0000.json", a.as_bytes()),
                ("0000.png", PNG),
                ("0007.jpg", PNG),
                ("0007.json", b.as_bytes()),
                ("0007.txt", b"b"),
            ],
        ),
        tar(
            "00001.tar",
            &[
                ("0001.jpg", PNG),
                ("0001.json", c.as_bytes()),
                ("0001.cls.txt", b"3"),
                ("0002.jpg", PNG),
                ("0002.json", a.as_bytes()),
            ],
        ),
    ];
    Shards::from_blobs(&blobs, Truncated::Refuse).unwrap()
}

fn names(sources: &Shards, planned: &Resharding) -> Vec<Vec<String>> {
    let names = |tar: Vec<u8>| {
        TarReader::new("out.tar", &tar[..]).map(|entry| entry.unwrap().0.name).collect()
    };
    let tar = |shard| {
        let mut tar = Vec::new();
        let counts = write_tar(&Context::default(), shard, sources, &mut tar).unwrap();
        counts.check().unwrap();
        tar
    };
    planned.shards.iter().map(|shard| names(tar(shard))).collect()
}

#[test]
fn members_are_copied_under_the_uid_in_input_order() {
    let sources = pool();
    let all = HashSet::new();
    let planned = ReshardPlan::default()
        .plan(&Context::default(), &sources, Selection::AllBut(&all))
        .unwrap();
    let expected = [
        format!("{A}-0.json"),
        format!("{A}-0.png"),
        format!("{A}-0.txt"),
        format!("{B}-0.jpg"),
        format!("{B}-0.json"),
        format!("{B}-0.txt"),
        format!("{C}-0.cls.txt"),
        format!("{C}-0.jpg"),
        format!("{C}-0.json"),
    ];
    assert_eq!(names(&sources, &planned), [expected]);
    assert_eq!(planned.shards[0].tar_name(), "00000000.tar");
    // The second A is one uid twice in the pool.
    assert_eq!(planned.counts.dropped["duplicate_uid"], 1);
    assert_eq!((planned.counts.entered, planned.counts.kept), (4, 3));
}

#[test]
fn a_uid_that_stands_twice_in_the_subset_is_written_twice() {
    let sources = pool();
    let absent = uid("ffffffffffffffffffffffffffffffff");
    let subset = [uid(A), uid(C), uid(C), absent, absent];
    let planned = ReshardPlan { samples_per_shard: 2, ..ReshardPlan::default() }
        .plan(&Context::default(), &sources, Selection::Subset(&subset))
        .unwrap();
    let keys: Vec<Vec<String>> = names(&sources, &planned)
        .into_iter()
        .map(|names| {
            let pictures = names.into_iter().filter(|n| n.ends_with("json"));
            pictures.map(|name| name.replace(".json", "")).collect()
        })
        .collect();
    assert_eq!(keys, [vec![format!("{A}-0"), format!("{C}-0")], vec![format!("{C}-1")]]);
    assert_eq!(planned.missing, 1);
    let dropped = [("duplicate_uid".to_owned(), 1), ("not_selected".to_owned(), 1)];
    assert_eq!(planned.counts.dropped, dropped.into());
}

#[test]
fn pairs_with_a_reason_are_passed_over() {
    let sources = pool();
    let skip = HashSet::from([uid(A)]);
    let planned = ReshardPlan::default()
        .plan(&Context::default(), &sources, Selection::AllBut(&skip))
        .unwrap();
    assert_eq!(planned.counts.dropped["judged_out"], 2);
    assert_eq!(planned.counts.kept, 2);
}

#[test]
fn the_counts_of_the_units_add_up_to_those_of_the_plan() {
    let sources = pool();
    let subset = [uid(A), uid(C), uid(C)];
    let planned = ReshardPlan { samples_per_shard: 1, ..ReshardPlan::default() }
        .plan(&Context::default(), &sources, Selection::Subset(&subset))
        .unwrap();
    let mut total = stage::Counts::default();
    for shard in &planned.shards {
        let cx = Context::default();
        total.merge(&write_tar(&cx, shard, &sources, std::io::sink()).unwrap());
    }
    assert_eq!(planned.shards.len(), 3);
    assert_eq!(total, planned.counts);
}

#[test]
fn a_shard_that_is_full_of_bytes_takes_no_further_sample() {
    let sources = pool();
    let none = HashSet::new();
    let bytes_per_shard = sources.sample_bytes(0) + 1;
    let plan = ReshardPlan { bytes_per_shard, first_shard: 7, ..ReshardPlan::default() };
    let planned = plan.plan(&Context::default(), &sources, Selection::AllBut(&none)).unwrap();
    let cut: Vec<(String, usize)> =
        planned.shards.iter().map(|s| (s.tar_name(), s.picks.len())).collect();
    assert_eq!(cut, [("00000007.tar".to_owned(), 2), ("00000008.tar".to_owned(), 1)]);
}

#[test]
fn shuffling_is_a_function_of_the_seed() {
    let members: Vec<(String, &[u8])> = (0..50).map(|i| (format!("{i:04}.jpg"), PNG)).collect();
    let members: Vec<(&str, &[u8])> = members.iter().map(|(n, d)| (n.as_str(), *d)).collect();
    let sources = Shards::from_blobs(&[tar("0.tar", &members)], Truncated::Refuse).unwrap();
    let order = |seed, shuffle| {
        let plan = ReshardPlan { shuffle, samples_per_shard: 20, ..ReshardPlan::default() };
        let cx = Context { seed, ..Context::default() };
        let none = HashSet::new();
        let planned = plan.plan(&cx, &sources, Selection::AllBut(&none)).unwrap();
        names(&sources, &planned).concat()
    };
    let plain = order(0, false);
    let mut sorted = order(1, true);
    assert_ne!(order(1, true), plain);
    assert_ne!(order(1, true), order(2, true));
    assert_eq!(order(1, true), order(1, true));
    sorted.sort();
    let mut expected = plain;
    expected.sort();
    assert_eq!(sorted, expected);
}

#[test]
fn nothing_left_to_write_is_an_error_that_says_why() {
    let subset = [uid("ffffffffffffffffffffffffffffffff")];
    let error = ReshardPlan::default()
        .plan(&Context::default(), &pool(), Selection::Subset(&subset))
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Input);
    assert!(error.to_string().contains("4 entered, 4 not_selected"), "{error}");
    let unsorted = [uid(B), uid(A)];
    let error = ReshardPlan::default()
        .plan(&Context::default(), &pool(), Selection::Subset(&unsorted))
        .unwrap_err();
    assert!(error.to_string().contains("not sorted"), "{error}");
}

#[test]
fn a_suffix_that_ustar_cannot_hold_costs_its_sample_only() {
    let long = format!("0.{}", "x".repeat(70));
    let blob = tar("0.tar", &[("0.jpg", PNG), (&long, b""), ("1.jpg", PNG)]);
    let sources = Shards::from_blobs(&[blob], Truncated::Refuse).unwrap();
    let none = HashSet::new();
    let planned = ReshardPlan::default()
        .plan(&Context::default(), &sources, Selection::AllBut(&none))
        .unwrap();
    assert_eq!(planned.counts.dropped["bad_member_name"], 1);
    assert_eq!(planned.counts.kept, 1);
}

#[test]
fn resharded_shards_keep_their_uids_even_without_a_json() {
    let blob = tar("0.tar", &[("0.jpg", PNG), ("1.jpg", PNG)]);
    let sources = Shards::from_blobs(&[blob], Truncated::Refuse).unwrap();
    let none = HashSet::new();
    let planned = ReshardPlan::default()
        .plan(&Context::default(), &sources, Selection::AllBut(&none))
        .unwrap();
    let mut tar = Vec::new();
    write_tar(&Context::default(), &planned.shards[0], &sources, &mut tar).unwrap();
    let again =
        Shards::from_blobs(&[Blob::from_bytes("x.tar", tar.into())], Truncated::Refuse).unwrap();
    assert_eq!(again.uids().unwrap(), sources.uids().unwrap());
}

#[test]
fn a_unit_is_a_tar_and_its_count_and_the_end_is_three_files() {
    let folder = tempfile::tempdir().unwrap();
    let output = Output::open(folder.path().to_str().unwrap()).unwrap();
    let stage = output.stage("reshard");
    let sources = pool();
    let subset = [uid(A), uid(C), uid(C)];
    let cx = Context::default();
    let planned = ReshardPlan { samples_per_shard: 2, ..ReshardPlan::default() }
        .plan(&cx, &sources, Selection::Subset(&subset))
        .unwrap();
    for shard in &planned.shards {
        let mut attempt = stage.begin(&shard.unit()).unwrap();
        let (counts, _) = run_unit(&cx, shard, &sources, &Edits::default(), &mut attempt).unwrap();
        attempt.commit("key", counts, serde_json::Value::Null).unwrap();
    }
    let mut attempt = stage.begin("finish").unwrap();
    finish(&planned, &sources, Some(&subset), &mut attempt).unwrap();
    attempt.commit("key", stage::Counts::default(), serde_json::Value::Null).unwrap();

    let text = |name| String::from_utf8(stage.blob(name).unwrap().read_all().unwrap().to_vec());
    assert_eq!(text("00000000_stats.json").unwrap(), "{\"successes\": 2}");
    assert_eq!(text("sizes.json").unwrap(), "{\"00000000.tar\":2,\"00000001.tar\":1}\n");
    let meta: serde_json::Value = serde_json::from_str(&text("meta.json").unwrap()).unwrap();
    assert_eq!(meta["output_shard_count"], 2);
    assert_eq!(meta["output_count"], 3);
    assert_eq!(meta["processed_count"], 4);
    assert_eq!(meta["first_shard"], "0");
    assert_eq!(meta["output_shard_format"], "{:08d}.tar");
    assert!(meta.get("cwd").is_none());
    let ids = store::subset::read(&stage.blob("sample_ids.npy").unwrap()).unwrap();
    assert_eq!(ids, subset);
    let read = Shards::open(&[stage.locate("00000001.tar")]).unwrap();
    assert_eq!((read.len(), read.uids().unwrap()), (1, &[uid(C)][..]));
}

#[test]
fn uids_come_from_the_parquet_beside_the_tar() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut builder = stage::PairsBuilder::default();
    for (key, uid, status) in
        [("0", A, stage::Status::Success), ("1", C, stage::Status::FailedToDownload)]
    {
        builder.push(stage::PairRow {
            uid,
            key,
            url: "",
            caption: "",
            status,
            error_message: None,
            size: Some((1, 1)),
            original_size: None,
            sha256: None,
            image: (status == stage::Status::Success).then_some(PNG),
        });
    }
    let mut writer = PoolWriter::new(Vec::new());
    writer.push(&builder.finish()).unwrap();
    let mut parquet = Vec::new();
    writer.finish(&mut parquet, Vec::new()).unwrap();
    std::fs::write(path("0.parquet"), &parquet).unwrap();
    // The json says B where the parquet says A: who is asked can be seen. Key 1 failed, key 2 is
    // not in the parquet.
    let json = json(B);
    let members = [
        ("0.jpg", PNG),
        ("0.json", json.as_bytes()),
        ("1.jpg", PNG),
        ("1.json", json.as_bytes()),
        ("2.jpg", PNG),
        ("2.json", json.as_bytes()),
    ];
    std::fs::write(path("0.tar"), tar("0.tar", &members).read_all().unwrap()).unwrap();
    let open = || Shards::open(&[path("0.tar").to_str().unwrap().to_owned()]).unwrap();
    assert_eq!(open().uids().unwrap(), [uid(A), uid(B), uid(B)]);
    // A parquet that cannot be read is only a lost shortcut.
    std::fs::write(path("0.parquet"), &parquet[..parquet.len() - 9]).unwrap();
    assert_eq!(open().uids().unwrap(), [uid(B); 3]);
}

#[test]
fn a_real_shard_passes_through_unchanged() {
    let Some(path) = shared("data/emoji-pairs/noto-00000.tar") else { return };
    let sources = Shards::open(&[path.to_str().unwrap().to_owned()]).unwrap();
    let none = HashSet::new();
    let plan = ReshardPlan { samples_per_shard: 1000, shuffle: true, ..ReshardPlan::default() };
    let planned = plan.plan(&Context::default(), &sources, Selection::AllBut(&none)).unwrap();
    let tars: Vec<Blob> = planned
        .shards
        .iter()
        .map(|shard| {
            let mut tar = Vec::new();
            write_tar(&Context::default(), shard, &sources, &mut tar).unwrap();
            Blob::from_bytes(&shard.tar_name(), tar.into())
        })
        .collect();
    let contents = |blobs: &[Blob]| {
        let samples = blobs.iter().flat_map(|blob| {
            Samples::new(TarReader::new(blob.name(), blob.reader())).map(Result::unwrap)
        });
        let mut parts: Vec<_> = samples
            .map(|mut sample| {
                sample.parts.sort();
                sample.parts
            })
            .collect();
        parts.sort();
        parts
    };
    let original = [Blob::open(path.to_str().unwrap()).unwrap()];
    assert!(contents(&original) == contents(&tars));
    assert_eq!(planned.shards.iter().map(|s| s.picks.len()).collect::<Vec<_>>(), [1000, 911]);
}

/// The tar of a writer that is given the members one by one.
fn by_hand(members: &[(String, &[u8])]) -> Vec<u8> {
    let mut tar = shard::TarWriter::new(Vec::new());
    for (name, data) in members {
        tar.append(name, data).unwrap();
    }
    tar.finish().unwrap()
}

#[test]
fn the_bytes_are_a_plain_writers_at_any_number_of_threads() {
    // More than a block of samples, members that follow each other as they will in the output and
    // members that do not, lengths around a whole number of tar's blocks.
    let data: Vec<Vec<u8>> = (0..60_u8).map(|i| vec![i; 511 + usize::from(i % 3)]).collect();
    let large = vec![7; 50_000];
    let uids: Vec<String> = (0..60).map(|i| format!("{i:032x}")).collect();
    let jsons: Vec<String> = uids.iter().map(|uid| json(uid)).collect();
    let mut source = Vec::new();
    let mut expected = Vec::new();
    for i in 0..60 {
        let mut members =
            [("jpg", &large[..]), ("json", jsons[i].as_bytes()), ("txt", &data[i][..])];
        expected.extend(members.map(|(suffix, data)| (format!("{}-0.{suffix}", uids[i]), data)));
        if i % 2 == 1 {
            members.reverse();
        }
        source.extend(members.map(|(suffix, data)| (format!("{i:04}.{suffix}"), data)));
    }
    let mut source = by_hand(&source);
    // Nobody promises zeros behind a member: the first json starts behind the jpg and two headers.
    let padding = 512 + 50_000_usize.next_multiple_of(512) + 512 + jsons[0].len();
    assert_eq!(source[padding], 0);
    source[padding] = b'!';
    let sources =
        Shards::from_blobs(&[Blob::from_bytes("0.tar", source.into())], Truncated::Refuse).unwrap();
    let none = HashSet::new();
    let planned = ReshardPlan::default()
        .plan(&Context::default(), &sources, Selection::AllBut(&none))
        .unwrap();
    let expected = by_hand(&expected);
    for threads in [1, 2, 5] {
        let cx = Context { threads, ..Context::default() };
        let mut tar = Vec::new();
        write_tar(&cx, &planned.shards[0], &sources, &mut tar).unwrap();
        assert!(tar == expected, "{threads} threads");
    }
}

#[test]
fn a_source_that_shrinks_meanwhile_and_an_output_that_fails_are_errors_and_not_hangs() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("full"))
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.tar");
    let samples: Vec<String> = (0..50).map(|i| format!("{i:04}.png")).collect();
    let large = [PNG, &vec![0; 100_000][..]].concat();
    let members: Vec<_> = samples.iter().map(|name| (&**name, &large[..])).collect();
    std::fs::write(&path, tar("0.tar", &members).read_all().unwrap()).unwrap();
    let sources = Shards::open(&[path.to_str().unwrap().to_owned()]).unwrap();
    let none = HashSet::new();
    let planned = ReshardPlan::default()
        .plan(&Context::default(), &sources, Selection::AllBut(&none))
        .unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    for threads in [1, 3] {
        let cx = Context { threads, ..Context::default() };
        let error = write_tar(&cx, &planned.shards[0], &sources, Full).unwrap_err();
        assert_eq!(error.kind(), Kind::Store, "{error}");
    }
    file.set_len(3_000_000).unwrap();
    for threads in [1, 3] {
        let cx = Context { threads, ..Context::default() };
        let error = write_tar(&cx, &planned.shards[0], &sources, std::io::sink()).unwrap_err();
        assert_eq!(error.kind(), Kind::Input, "{error}");
        assert!(error.to_string().contains("became shorter"), "{error}");
    }
}
