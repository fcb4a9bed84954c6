//! Near-duplicates, decontamination, clusters: on pools of a handful of rows.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, UInt32Type};
use arrow_array::{ArrayRef, Float32Array, RecordBatch, StringArray};
use filter::near::features::{Features, L14_IMG, Partition, partitions};
use filter::near::{ClustersPlan, DecontaminatePlan, NearDuplicatesPlan, SUBSET};
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
    work: impl FnOnce(&mut Attempt) -> stage::Result<Counts>,
) -> (StageDir, Counts) {
    let output = Output::open(folder.to_str().unwrap()).unwrap();
    let dir = output.stage("near");
    let mut attempt = dir.begin("all").unwrap();
    let counts = work(&mut attempt).unwrap();
    attempt.commit("key", counts.clone(), serde_json::Value::Null).unwrap();
    (dir, counts)
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
