//! Stages over the whole pool in a recipe: near-duplicates, decontamination, clusters, selection.

mod common;

use std::path::Path;

use common::{clipmill, run_well};
use pixels::{Picture, encode_jpeg};
use store::Blob;
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
    let head = format!("version: 1\nname: near\noutput: {}\nstages:", path("out"));
    std::fs::write(&recipe, head + &stages).unwrap();
    run_well(&recipe, &[]);
    let out = folder.path().join("out");
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
