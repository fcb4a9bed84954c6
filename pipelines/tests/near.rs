//! Stages over the whole pool in a recipe: near-duplicates, decontamination, clusters, selection.

mod common;

use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::{Float64Builder, ListBuilder};
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use common::{clipmill, run_well};
use pixels::{Picture, encode_jpeg};
use store::Blob;
use store::parquet::{Layout, write_parquet};
use store::subset::{self, Uid};

/// Waves of a direction and length of their own, at this side.
fn waves(number: u32, side: u32) -> Vec<u8> {
    let pixel = |i: u32| {
        let (x, y) = ((i % side) * 96 / side, (i / side) * 96 / side);
        let phase = x * (number % 3 + 1) + y * (number / 3 * 2 + 1) + number * 11;
        let light = (phase * 5 % 256).abs_diff(128) as u8 * 2;
        [light, light / 2, 255 - light]
    };
    let rgb = (0..side * side).flat_map(pixel).collect();
    encode_jpeg(&Picture { width: side, height: side, rgb }, 90)
}

/// A shard of these pictures; the uid of each is its place.
fn shard(path: &Path, pictures: &[Vec<u8>]) {
    let mut tar = shard::TarWriter::new(Vec::new());
    for (i, picture) in pictures.iter().enumerate() {
        let json = format!(r#"{{"uid": "{i:032x}"}}"#);
        tar.append(&format!("{i:05}.jpg"), picture).unwrap();
        tar.append(&format!("{i:05}.txt"), format!("waves number {i}").as_bytes()).unwrap();
        tar.append(&format!("{i:05}.json"), json.as_bytes()).unwrap();
    }
    std::fs::write(path, tar.finish().unwrap()).unwrap();
}

fn uids(file: &Path) -> Vec<u64> {
    let uids = subset::read(&Blob::open(file.to_str().unwrap()).unwrap()).unwrap();
    uids.into_iter().map(|Uid(_, low)| low).collect()
}

#[test]
fn copies_go_pictures_of_an_evaluation_set_go_and_clusters_can_be_capped() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    // 0 to 5 large, 6 to 11 the same at half the side.
    let pictures: Vec<Vec<u8>> =
        (0..12).map(|i| waves(i % 6, if i < 6 { 192 } else { 96 })).collect();
    shard(&folder.path().join("pool.tar"), &pictures);
    shard(&folder.path().join("evaluation.tar"), &[waves(3, 144)]);
    let model = r#"{"embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}}"#;
    std::fs::write(folder.path().join("model.json"), model).unwrap();
    let stages = format!(
        r#"
  - shards: {{urls: ["{pool}"]}}
    id: pool
  - judge: [{{phash: {{}}}}]
    id: hashed
  - near_duplicates: {{}}
    id: unique
  - shards: {{urls: ["{evaluation}"]}}
    id: evaluation
  - judge: [{{phash: {{}}}}]
    id: evaluation-hashed
  - decontaminate: {{against_hashes: [evaluation-hashed]}}
    id: clean
    from: hashed
  - train: {{model: "{model}", batch_size: 4, steps: 1, warmup: 0}}
    id: clip
    from: pool
  - embed: {{checkpoint: clip}}
    id: embedded
    from: pool
  - clusters: {{k: 2}}
    id: clusters
  - select: {{where: "cluster_rank < 1"}}
    id: prototypes
  - select: {{where: "cluster_rank >= 0", intersect: [unique, clean]}}
    id: both
    from: clusters
  - reshard: {{}}
    id: training
"#,
        pool = path("pool.tar"),
        evaluation = path("evaluation.tar"),
        model = path("model.json"),
    );
    let recipe = folder.path().join("near.yaml");
    let cost = "cost: {per_hour: 3600, currency: EUR}";
    let head = format!("version: 1\nname: near\noutput: {}\n{cost}\nstages:", path("out"));
    std::fs::write(&recipe, head + &stages).unwrap();
    run_well(&recipe, &[]);
    let out = folder.path().join("out");
    let report = std::fs::read_to_string(out.join("report.html")).unwrap();
    for part in ["Near-duplicates: unique", "The least alike, two by two", "Time and money"] {
        assert!(report.contains(part), "{part}");
    }
    assert!(report.contains("at 3600 EUR for an hour of the machine"));
    let planned = clipmill().args(["plan", "--json"]).arg(&recipe).output().unwrap();
    let planned: serde_json::Value = serde_json::from_slice(&planned.stdout).unwrap();
    assert_eq!(planned["cost"]["currency"], "EUR");
    let unique = planned["stages"].as_array().unwrap().iter().find(|s| s["id"] == "unique");
    // A second costs 1 here, and the stage is done: its price is that of its seconds.
    let unique = unique.unwrap();
    let seconds = unique["seconds"].as_f64().unwrap();
    assert!(
        seconds > 0.0 && (unique["cost"][1].as_f64().unwrap() - seconds).abs() < 1e-6 * seconds
    );
    assert_eq!(uids(&out.join("unique/subset.npy")), [0, 1, 2, 3, 4, 5]);
    assert_eq!(uids(&out.join("clean/subset.npy")), [0, 1, 2, 4, 5, 6, 7, 8, 10, 11]);
    assert_eq!(uids(&out.join("both/subset.npy")), [0, 1, 2, 4, 5]);
    assert_eq!(uids(&out.join("prototypes/subset.npy")).len(), 2);
    assert!(out.join("training/00000000.tar").is_file());

    // The same from files, as commands.
    let embeddings = path("out/embedded");
    let alone = path("alone");
    let mut command = clipmill();
    command.args(["clusters", "--folders", &embeddings, "--k", "2", "--output", &alone]);
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", common::stderr(&done));
    let read = |folder: &Path| std::fs::read(folder.join("clusters/centroids.npy")).unwrap();
    assert_eq!(read(Path::new(&alone)), read(&out));
    // Everything is near itself: nothing is left, which is an error and not an empty pool.
    let mut command = clipmill();
    command.args(["decontaminate", "--folders", &embeddings, "--against", &embeddings]);
    let none = command.args(["--output", &path("none")]).output().unwrap();
    assert_eq!(none.status.code(), Some(3), "{}", common::stderr(&none));
    assert!(common::stderr(&none).contains("no pair is left of 12"), "{}", common::stderr(&none));
}

/// Boxes of faces beside uids, as a judge or DataComp writes them.
fn boxes(path: &Path, faces: &[Option<[f64; 4]>]) {
    let mut lists = ListBuilder::new(ListBuilder::new(Float64Builder::new()));
    for face in faces {
        if let Some(face) = face {
            lists.values().values().append_slice(face);
            lists.values().append(true);
        }
        lists.append(true);
    }
    let uids: StringArray = (0..faces.len()).map(|i| Some(format!("{i:032x}"))).collect();
    let columns: [(&str, ArrayRef); 2] =
        [("uid", Arc::new(uids)), ("face_bboxes", Arc::new(lists.finish()))];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut file = Vec::new();
    write_parquet(&mut file, &batch.schema(), [Ok(batch.clone())], &Layout::default()).unwrap();
    std::fs::write(path, file).unwrap();
}

#[test]
fn a_recipe_masks_captions_and_blurs_faces_and_another_box_makes_it_another_stage() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let mut tar = shard::TarWriter::new(Vec::new());
    for i in 0..2 {
        let json = format!(r#"{{"uid": "{i:032x}", "caption": "mail me{i}@site.example"}}"#);
        tar.append(&format!("{i}.jpg"), &waves(i, 96)).unwrap();
        tar.append(&format!("{i}.json"), json.as_bytes()).unwrap();
    }
    std::fs::write(path("pool.tar"), tar.finish().unwrap()).unwrap();
    let face = Some([0.0, 0.0, 0.5, 0.5]);
    boxes(Path::new(&path("boxes.parquet")), &[None, face]);
    let text = format!(
        r#"version: 1
name: public
output: "{}"
stages:
  - pool: {{parquet: ["{}"]}}
    id: boxes
  - shards: {{urls: ["{}"]}}
    id: pool
  - reshard: {{mask_pii: [email, phone], blur_faces: boxes}}
    id: public
"#,
        path("out"),
        path("boxes.parquet"),
        path("pool.tar"),
    );
    let recipe = folder.path().join("public.yaml");
    std::fs::write(&recipe, &text).unwrap();
    run_well(&recipe, &[]);
    let stats = std::fs::read_to_string(path("out/public/00000000_stats.json")).unwrap();
    assert_eq!(
        stats,
        r#"{"successes": 2, "masked": {"email":2}, "masked_samples": 2, "blurred_samples": 1}"#
    );
    let shards = shard::Shards::open(&[path("out/public/00000000.tar")]).unwrap();
    let pairs = stage::PairSource::read(&shards, &[0, 1]).unwrap();
    assert_eq!(
        (pairs.captions().value(0), pairs.captions().value(1)),
        ("mail [EMAIL]", "mail [EMAIL]")
    );
    assert_eq!(pairs.image(0), Some(&waves(0, 96)[..]));
    assert_ne!(pairs.image(1), Some(&waves(1, 96)[..]));
    // Files by their path: other boxes are another key, which a run refuses without `--redo`.
    let named =
        text.replace("blur_faces: boxes", &format!("blur_faces: {}", path("boxes.parquet")));
    std::fs::write(&recipe, named.replace(&path("out"), &path("named"))).unwrap();
    run_well(&recipe, &[]);
    let tar = |folder: &str| std::fs::read(path(&format!("{folder}/public/00000000.tar"))).unwrap();
    assert_eq!(tar("named"), tar("out"));
    boxes(Path::new(&path("boxes.parquet")), &[face, face]);
    let again = clipmill().arg("run").arg(&recipe).output().unwrap();
    assert!(common::stderr(&again).contains("--redo"), "{}", common::stderr(&again));
}

#[test]
fn boxes_of_other_pictures_than_those_that_a_fetch_stored_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let tar = |seed| {
        let mut tar = shard::TarWriter::new(Vec::new());
        tar.append("0.jpg", &waves(seed, 96)).unwrap();
        tar.append("0.json", format!(r#"{{"uid": "{:032x}"}}"#, 0).as_bytes()).unwrap();
        tar.finish().unwrap()
    };
    for name in ["fetch", "other", "web", "judged"] {
        std::fs::create_dir(path(name)).unwrap();
    }
    let record = r#"{"kind":"fetch","inputs":[]}"#;
    std::fs::write(path("fetch/_stage.json"), record).unwrap();
    std::fs::write(path("fetch/0.tar"), tar(0)).unwrap();
    std::fs::write(path("other/0.tar"), tar(1)).unwrap();
    let face = [Some([0.0, 0.0, 0.5, 0.5])];
    boxes(Path::new(&path("web/0.parquet")), &face);
    boxes(Path::new(&path("judged/0.parquet")), &face);
    let key = format!("{:x}", <sha2::Sha256 as sha2::Digest>::digest(record));
    let judge = format!(r#"{{"kind":"judge","inputs":["{key}"]}}"#);
    std::fs::write(path("judged/_stage.json"), judge).unwrap();
    let reshard = |shards: &str, boxes: &str, output: &str| {
        let (shards, boxes, output) = (path(shards), path(boxes), path(output));
        let flags = ["reshard", "--urls", &shards, "--blur_faces", &boxes, "--output", &output];
        clipmill().args(flags).output().unwrap()
    };
    let refused = reshard("fetch", "web", "a");
    assert_eq!(refused.status.code(), Some(2), "{}", common::stderr(&refused));
    assert!(common::stderr(&refused).contains("bbox_col"), "{}", common::stderr(&refused));
    for (shards, boxes, output) in [("other", "web", "b"), ("fetch", "judged", "c")] {
        let done = reshard(shards, boxes, output);
        assert!(done.status.success(), "{}", common::stderr(&done));
    }
    // A judge of other shards.
    let recipe = folder.path().join("other.yaml");
    let text = format!(
        r#"version: 1
name: other
output: "{}"
stages:
  - shards: {{urls: ["{}"]}}
    id: others
  - judge: [caption_length: {{min_words: 0, min_chars: 0}}]
    id: faces
  - shards: {{urls: ["{}"]}}
    id: fetched
  - reshard: {{blur_faces: faces}}
"#,
        path("d"),
        path("other/0.tar"),
        path("fetch/0.tar"),
    );
    std::fs::write(&recipe, text).unwrap();
    let refused = clipmill().arg("run").arg(&recipe).output().unwrap();
    let said = common::stderr(&refused);
    assert!(said.contains("are of the pictures of `others`, not of those of `fetched`"), "{said}");
}
