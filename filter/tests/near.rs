//! Near-duplicates, decontamination, clusters: on pools of a handful of rows.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, UInt32Type};
use arrow_array::{ArrayRef, Float32Array, RecordBatch, StringArray};
use filter::near::features::{Features, L14_IMG, Partition, partitions};
use filter::near::{ClustersPlan, DecontaminatePlan, Found, NearDuplicatesPlan, SUBSET};
use parquet::arrow::ArrowWriter;
use stage::{Context, Counts, Kind};
use store::subset::{self, Uid};
use store::{Attempt, Output, StageDir, npy};

fn uid(i: u64) -> String {
    format!("{i:032x}")
}

fn write(path: &Path, columns: Vec<(&str, ArrayRef)>) -> String {
    let columns = columns.into_iter().map(|(name, column)| (name, column, true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let mut writer =
        ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    path.to_str().unwrap().to_owned()
}

/// Runs a stage in a folder of its own.
fn run(
    folder: &Path,
    work: impl FnOnce(&mut Attempt) -> stage::Result<Found>,
) -> (StageDir, Counts) {
    let (dir, found) = found(folder, work);
    (dir, found.counts)
}

/// As [`run`], with what else is told.
fn found(
    folder: &Path,
    work: impl FnOnce(&mut Attempt) -> stage::Result<Found>,
) -> (StageDir, Found) {
    let output = Output::open(folder.to_str().unwrap()).unwrap();
    let dir = output.stage("near");
    let mut attempt = dir.begin("all").unwrap();
    let found = work(&mut attempt).unwrap();
    attempt.commit("key", found.counts.clone(), found.info.clone()).unwrap();
    (dir, found)
}

/// The error of a stage in a folder of its own.
fn refused(folder: &Path, work: impl FnOnce(&mut Attempt) -> stage::Result<Found>) -> stage::Error {
    let output = Output::open(folder.to_str().unwrap()).unwrap();
    work(&mut output.stage("near").begin("all").unwrap()).unwrap_err()
}

fn kept(dir: &StageDir) -> Vec<u64> {
    let uids = subset::read(&dir.blob(SUBSET).unwrap()).unwrap();
    uids.into_iter().map(|Uid(_, low)| low).collect()
}

fn table(dir: &StageDir, name: &str) -> RecordBatch {
    let mut batches = store::parquet::read_parquet(&dir.blob(name).unwrap()).unwrap();
    batches.next().unwrap().unwrap()
}

/// A hash with structure.
const HASH: u64 = 0x0f0f_3333_5555_00ff;

/// Score tables of these hashes; the scores are 0.0, 0.1, 0.2 ...
fn hashes(path: &Path, hashes: &[Option<u64>]) -> String {
    let rows = hashes.len() as u64;
    let uids: StringArray = (0..rows).map(|i| Some(uid(i))).collect();
    let texts: StringArray = hashes.iter().map(|h| h.map(|h| format!("{h:016x}"))).collect();
    let scores: Float32Array = (0..rows).map(|i| Some(i as f32 / 10.0)).collect();
    let columns: Vec<(&str, ArrayRef)> =
        vec![("uid", Arc::new(uids)), ("phash", Arc::new(texts)), ("score", Arc::new(scores))];
    write(path, columns)
}

/// Embeddings of these rows, one partition.
fn features(folder: &Path, name: &str, rows: &[[f32; 2]]) -> Partition {
    let npy_path = folder.join(format!("img_emb_{name}.npy"));
    let numbers: Vec<f32> = rows.iter().flatten().copied().collect();
    npy::write(File::create(&npy_path).unwrap(), &[rows.len(), 2], &numbers).unwrap();
    let uids: StringArray = (0..rows.len() as u64).map(|i| Some(uid(i))).collect();
    let path = folder.join(format!("metadata_{name}.parquet"));
    let metadata = write(&path, vec![("uid", Arc::new(uids))]);
    Partition { features: npy_path.to_str().unwrap().to_owned(), array: None, metadata }
}

#[test]
fn of_near_hashes_the_preferred_one_stays_and_the_others_are_told() {
    let folder = tempfile::tempdir().unwrap();
    // 1 is 3 bits from 0, 2 is 3 more from 1: 6 from 0, so no chain takes it along.
    let rows = [
        Some(HASH),
        Some(HASH ^ 0b111),
        Some(HASH ^ 0b11_1111),
        Some(!HASH),
        Some(0),
        Some(0),
        None,
    ];
    let tables = [hashes(&folder.path().join("scores.parquet"), &rows)];
    let plan = NearDuplicatesPlan::default();
    let cx = Context::default();
    let (dir, counts) = run(&folder.path().join("a"), |out| plan.run(&cx, &tables, None, out));
    // Pictures of one colour (hash 0) and without a hash say nothing, and stay.
    assert_eq!(kept(&dir), [0, 2, 3, 4, 5, 6]);
    assert_eq!((counts.entered, counts.kept, counts.dropped["near_duplicate"]), (7, 6, 1));
    let told = table(&dir, "duplicates.parquet");
    assert_eq!(told.column(0).as_string::<i32>().value(0), uid(1));
    assert_eq!(told.column(1).as_string::<i32>().value(0), uid(0));
    assert_eq!(told.column(2).as_primitive::<UInt32Type>().values(), &[3]);

    // By score the last is the best: 2 stays, 1 goes for it, and 0 is too far from 2.
    let plan = NearDuplicatesPlan { prefer: Some("score".into()), ..plan };
    let (dir, _) = run(&folder.path().join("b"), |out| plan.run(&cx, &tables, None, out));
    assert_eq!(kept(&dir), [0, 2, 3, 4, 5, 6]);
    let told = table(&dir, "duplicates.parquet");
    assert_eq!(told.column(1).as_string::<i32>().value(0), uid(2));
}

#[test]
fn a_neighbour_by_hash_that_the_embeddings_tell_apart_stays() {
    let folder = tempfile::tempdir().unwrap();
    let tables =
        [hashes(&folder.path().join("scores.parquet"), &[Some(HASH), Some(HASH), Some(HASH)])];
    let partition = features(folder.path(), "0", &[[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]]);
    let features = Features::read(&[partition]).unwrap();
    let plan = NearDuplicatesPlan { embeddings: Some("e".into()), ..NearDuplicatesPlan::default() };
    let cx = Context::default();
    let (dir, _) =
        run(&folder.path().join("a"), |out| plan.run(&cx, &tables, Some(&features), out));
    assert_eq!(kept(&dir), [0, 1]);
    let told = table(&dir, "duplicates.parquet");
    assert!((told.column(3).as_primitive::<Float32Type>().value(0) - 0.995_04).abs() < 1e-5);
}

#[test]
fn pictures_near_an_evaluation_set_go_with_the_set_and_the_picture_named() {
    let folder = tempfile::tempdir().unwrap();
    let pool = features(folder.path(), "pool", &[[1.0, 0.0], [3.0, 3.1], [0.0, -2.0], [0.0, 0.0]]);
    let one = features(folder.path(), "one", &[[0.0, 5.0]]);
    let two = features(folder.path(), "two", &[[-1.0, 0.0], [1.0, 1.0]]);
    let read = |partition: Partition| Features::read(&[partition]).unwrap();
    let sets = [("one".to_owned(), read(one)), ("two".to_owned(), read(two))];
    let plan: DecontaminatePlan = serde_json::from_str(r#"{"against": ["one", "two"]}"#).unwrap();
    let cx = Context::default();
    let pool = read(pool);
    let (dir, counts) =
        run(&folder.path().join("a"), |out| plan.by_features(&cx, &pool, &sets, out));
    assert_eq!(kept(&dir), [0, 2]);
    assert_eq!((counts.dropped["contaminated"], counts.dropped["nonfinite"]), (1, 1));
    let hits = table(&dir, "contaminated.parquet");
    let text = |column: usize| hits.column(column).as_string::<i32>().value(0).to_owned();
    assert_eq!((text(0), text(1), text(2)), (uid(1), "two".to_owned(), uid(1)));

    let tables = [hashes(&folder.path().join("scores.parquet"), &[Some(HASH), Some(!HASH)])];
    let other = vec![hashes(&folder.path().join("eval.parquet"), &[Some(HASH ^ 1)])];
    let plan: DecontaminatePlan = serde_json::from_str(r#"{"against_hashes": ["eval"]}"#).unwrap();
    let sets = [("eval".to_owned(), other)];
    let (dir, _) = run(&folder.path().join("b"), |out| plan.by_hashes(&cx, &tables, &sets, out));
    assert_eq!(kept(&dir), [1]);
}

#[test]
fn clusters_rank_from_the_centroid_and_tell_the_nearest_pair_that_is_kept_before() {
    let folder = tempfile::tempdir().unwrap();
    let rows = [[1.0, 0.0], [1.0, 0.02], [1.0, 0.1], [-1.0, 0.0], [f32::NAN, 0.0]];
    let features = Features::read(&[features(folder.path(), "0", &rows)]).unwrap();
    let plan: ClustersPlan = serde_json::from_str(r#"{"k": 2}"#).unwrap();
    let cx = Context { seed: 1, ..Context::default() };
    let (dir, counts) = run(&folder.path().join("a"), |out| plan.run(&cx, &features, out));
    assert_eq!((counts.kept, counts.dropped["nonfinite"]), (4, 1));
    let told = table(&dir, "clusters.parquet");
    let cluster = told.column(1).as_primitive::<UInt32Type>().values().to_vec();
    assert!(cluster[0] == cluster[1] && cluster[1] == cluster[2] && cluster[2] != cluster[3]);
    // The mean of the three lies at 0.04: 1 is nearest to it, 2 farthest.
    assert_eq!(told.column(3).as_primitive::<UInt32Type>().values(), &[1, 0, 2, 0]);
    let duplicate = told.column(4).as_primitive::<Float32Type>().values();
    assert_eq!((duplicate[2], duplicate[3]), (-1.0, -1.0));
    assert!((duplicate[0] - 0.995_04).abs() < 1e-4 && (duplicate[1] - 0.9998).abs() < 1e-4);
    let centroids = npy::read_as_f32(&dir.blob("centroids.npy").unwrap()).unwrap();
    assert_eq!(centroids.shape, [2, 2]);
}

#[test]
fn embeddings_that_do_not_fit_their_metadata_are_refused_with_both_files_and_counts() {
    let folder = tempfile::tempdir().unwrap();
    let two = features(folder.path(), "two", &[[1.0, 0.0], [0.0, 1.0]]);
    let one = features(folder.path(), "one", &[[1.0, 0.0]]);
    let mixed = Partition { features: two.features.clone(), array: None, metadata: one.metadata };
    let error = Features::read(&[mixed]).unwrap_err();
    assert_eq!(error.kind(), Kind::Input);
    let message = error.to_string();
    assert!(
        message.contains("img_emb_two.npy: 2 rows, but 1 in")
            && message.contains("metadata_one.parquet"),
        "{message}"
    );
    assert!(partitions(&[], L14_IMG).is_err());
}

/// A zip of one stored member, as `numpy.savez` writes an array.
fn npz(name: &str, npy: &[u8]) -> Vec<u8> {
    let (name, len) = (format!("{name}.npy"), u32::try_from(npy.len()).unwrap().to_le_bytes());
    let name_len = [u8::try_from(name.len()).unwrap(), 0];
    let fields = [&[0; 2][..], &[0; 8], &len, &len, &name_len, &[0, 0]].concat();
    let local = [b"PK\x03\x04\x14\0\0\0", &fields[..], name.as_bytes(), npy].concat();
    let entry = [b"PK\x01\x02\x14\0\x14\0\0\0", &fields[..], &[0; 14], name.as_bytes()].concat();
    let sizes = [entry.len(), local.len()].map(|n| u32::try_from(n).unwrap().to_le_bytes());
    let end = [b"PK\x05\x06\0\0\0\0\x01\0\x01\0", &sizes.concat()[..], &[0, 0]].concat();
    [local, entry, end].concat()
}

#[test]
fn a_datacomp_pool_is_clustered_and_cleaned_by_the_embeddings_in_its_npz() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut array = Vec::new();
    npy::write(&mut array, &[3, 2], &[1.0_f32, 0.0, 0.0, 2.0, -3.0, 0.0]).unwrap();
    std::fs::write(path("0.npz"), npz("l14_img", &array)).unwrap();
    let uids: StringArray = (0..3).map(|i| Some(uid(i))).collect();
    let metadata = write(&path("0.parquet"), vec![("uid", Arc::new(uids))]);
    let files = [path("0.npz").to_str().unwrap().to_owned(), metadata];
    let pool = Features::read(&partitions(&files, L14_IMG).unwrap()).unwrap();
    assert_eq!((pool.len(), pool.dim, pool.row(2)), (3, 2, &[-1.0, 0.0][..]));
    let cx = Context::default();
    let plan: ClustersPlan = serde_json::from_str(r#"{"k": 3}"#).unwrap();
    let (_, counts) = run(&path("clusters"), |out| plan.run(&cx, &pool, out));
    assert_eq!(counts.kept, 3);
    let plan: DecontaminatePlan = serde_json::from_str(r#"{"against": ["set"]}"#).unwrap();
    let set = Features::read(&[features(folder.path(), "set", &[[0.0, 5.0]])]).unwrap();
    let sets = [("set".to_owned(), set)];
    let (dir, _) = run(&path("clean"), |out| plan.by_features(&cx, &pool, &sets, out));
    assert_eq!(kept(&dir), [0, 2]);
    let error = Features::read(&partitions(&files, "b32_img").unwrap()).unwrap_err();
    assert!(error.to_string().contains("no array `b32_img`; there are l14_img"), "{error}");
}

#[test]
fn a_recipe_that_means_the_impossible_is_refused_with_the_range() {
    let near: NearDuplicatesPlan = serde_json::from_str(r#"{"max_distance": 13}"#).unwrap();
    assert_eq!(near.validate().unwrap_err().to_string(), "max_distance must lie in 0..=12, got 13");
    let both: DecontaminatePlan =
        serde_json::from_str(r#"{"against": ["a"], "against_hashes": ["b"]}"#).unwrap();
    assert!(both.validate().is_err());
    let clusters: ClustersPlan = serde_json::from_str(r#"{"k": 0}"#).unwrap();
    assert_eq!(clusters.validate().unwrap_err().to_string(), "k must lie in 1..=1000000, got 0");
}

/// A score table with these uids, hashes, statuses and reasons.
fn judged(path: &Path, rows: &[(u64, Option<u64>, &str, Option<&str>)]) -> String {
    let uids: StringArray = rows.iter().map(|row| Some(uid(row.0))).collect();
    let hashes: StringArray = rows.iter().map(|row| row.1.map(|h| format!("{h:016x}"))).collect();
    let statuses: StringArray = rows.iter().map(|row| Some(row.2)).collect();
    let reasons: StringArray = rows.iter().map(|row| row.3).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("uid", Arc::new(uids)),
        ("phash", Arc::new(hashes)),
        ("status", Arc::new(statuses)),
        ("reason", Arc::new(reasons)),
    ];
    write(path, columns)
}

const OK: &str = "success";
const FAR: u64 = !HASH;

#[test]
fn a_picture_of_an_evaluation_set_counts_though_a_judge_turned_it_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let pool =
        [judged(&path("pool.parquet"), &[(1, Some(HASH), OK, None), (2, Some(FAR), OK, None)])];
    let rows = [
        (9, Some(HASH), OK, Some("caption_words")),
        (8, Some(0), OK, None),
        (7, None, "failed_to_download", Some("http_404")),
    ];
    let sets = [("eval".to_owned(), vec![judged(&path("eval.parquet"), &rows)])];
    let plan: DecontaminatePlan = serde_json::from_str(r#"{"against_hashes": ["eval"]}"#).unwrap();
    let cx = Context::default();
    let (dir, found) = found(&path("a"), |out| plan.by_hashes(&cx, &pool, &sets, out));
    assert_eq!(kept(&dir), [2]);
    assert_eq!(found.info["pictures_without_hash"]["eval"], 1);
    // A second set without a usable hash is an error of its own.
    let none = judged(&path("none.parquet"), &rows[1..]);
    let sets = [sets[0].clone(), ("none".to_owned(), vec![none])];
    let error = refused(&path("b"), |out| plan.by_hashes(&cx, &pool, &sets, out));
    let expected = "none: no usable hash among its 1 pictures (1 rows have no picture)";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn embeddings_of_another_pool_are_refused_and_those_that_miss_some_pairs_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let rows = [0xab, 0xcd, 0xef].map(|uid| (uid, Some(HASH), OK, None));
    let tables = [judged(&folder.path().join("s.parquet"), &rows)];
    let partition = features(folder.path(), "0", &[[1.0, 0.0], [1.0, 0.0]]);
    let mut two = Features::read(&[partition]).unwrap();
    let plan = NearDuplicatesPlan { embeddings: Some("e".into()), ..NearDuplicatesPlan::default() };
    let cx = Context::default();
    // Digits of either case are one uid.
    two.names = vec![uid(0xab).to_uppercase(), uid(0xcd).to_uppercase()];
    let (dir, told) =
        found(&folder.path().join("a"), |out| plan.run(&cx, &tables, Some(&two), out));
    assert_eq!(kept(&dir), [0xab, 0xef]);
    assert_eq!(told.info["without_embedding"], 1);

    two.names = vec!["a/0.jpg".into(), "a/1.jpg".into()];
    let error = refused(&folder.path().join("b"), |out| plan.run(&cx, &tables, Some(&two), out));
    assert_eq!(error.kind(), Kind::Input);
    assert!(error.to_string().contains("none of 3 pairs with a hash has an embedding"), "{error}");
    let clusters: ClustersPlan = serde_json::from_str(r#"{"k": 2}"#).unwrap();
    let error = refused(&folder.path().join("c"), |out| clusters.run(&cx, &two, out));
    assert_eq!(error.to_string(), "`a/0.jpg` is no uid");
}

#[test]
fn rows_of_one_uid_stay_or_go_together() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let other = 0x1234_5678_9abc_def0_u64;
    // 2 is a copy of 1 by its first row; its second looks like nothing, but has the same uid.
    let rows = [
        (1, Some(HASH), OK, None),
        (2, Some(HASH ^ 1), OK, None),
        (2, Some(FAR), OK, None),
        // 3 is twice the same picture, and 4 a copy of what looks like 2's second row.
        (3, Some(other), OK, None),
        (3, Some(other), OK, None),
        (4, Some(FAR ^ 1), OK, None),
    ];
    let tables = [judged(&path("pool.parquet"), &rows)];
    let cx = Context::default();
    let plan = NearDuplicatesPlan::default();
    let (dir, counts) = run(&path("a"), |out| plan.run(&cx, &tables, None, out));
    assert_eq!(kept(&dir), [1, 3, 4]);
    assert_eq!((counts.dropped["near_duplicate"], counts.dropped["same_uid"]), (2, 1));

    let sets = [("eval".to_owned(), vec![judged(&path("eval.parquet"), &rows[..1])])];
    let plan: DecontaminatePlan = serde_json::from_str(r#"{"against_hashes": ["eval"]}"#).unwrap();
    let (dir, counts) = run(&path("b"), |out| plan.by_hashes(&cx, &tables, &sets, out));
    assert_eq!(kept(&dir), [3, 3, 4]);
    assert_eq!((counts.dropped["contaminated"], counts.dropped["same_uid"]), (2, 1));
}

#[test]
fn what_is_preferred_is_a_number_and_a_missing_one_is_below_all() {
    let folder = tempfile::tempdir().unwrap();
    let uids: StringArray = (0..3).map(|i| Some(uid(i))).collect();
    let texts: StringArray = (0..3).map(|_| Some(format!("{HASH:016x}"))).collect();
    let scores = Float32Array::from(vec![None, Some(f32::INFINITY), Some(-5.0)]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("uid", Arc::new(uids)),
        ("phash", Arc::new(texts.clone())),
        ("score", Arc::new(scores)),
        ("word", Arc::new(texts)),
    ];
    let tables = [write(&folder.path().join("s.parquet"), columns)];
    let by = |name: &str| NearDuplicatesPlan {
        prefer: Some(name.to_owned()),
        ..NearDuplicatesPlan::default()
    };
    let cx = Context::default();
    let (dir, _) = run(&folder.path().join("a"), |out| by("score").run(&cx, &tables, None, out));
    assert_eq!(kept(&dir), [2]);
    let error = refused(&folder.path().join("b"), |out| by("word").run(&cx, &tables, None, out));
    assert_eq!(error.kind(), Kind::Input);
    assert!(error.to_string().ends_with("prefer: `word` is Utf8, not a number"), "{error}");
}

#[test]
fn a_threshold_of_the_other_comparison_is_refused() {
    let check = |text: &str| {
        let plan: DecontaminatePlan = serde_json::from_str(text).unwrap();
        plan.validate().map_err(|e| e.to_string())
    };
    check(r#"{"against": ["a"], "min_cosine": 0.9}"#).unwrap();
    check(r#"{"against_hashes": ["a"], "max_distance": 2}"#).unwrap();
    let message = check(r#"{"against_hashes": ["a"], "min_cosine": 0.9}"#).unwrap_err();
    assert_eq!(message, "min_cosine goes with against; hashes have max_distance");
    let message = check(r#"{"against": ["a"], "max_distance": 2}"#).unwrap_err();
    assert_eq!(message, "max_distance goes with against_hashes; embeddings have min_cosine");
    let near: NearDuplicatesPlan = serde_json::from_str(r#"{"min_cosine": 0.8}"#).unwrap();
    let message = near.validate().unwrap_err().to_string();
    assert_eq!(message, "min_cosine goes with embeddings, and none are named");
}
