//! The corpora of the fuzz targets, each file through its target: what once was found stays found.

#![allow(unreachable_pub, reason = "the targets call them from another crate")]

#[path = "../../fuzz/src/fasttext.rs"]
mod fasttext;
#[path = "../../fuzz/src/image.rs"]
mod image;
#[path = "../../fuzz/src/manifest.rs"]
mod manifest;
#[path = "../../fuzz/src/npy.rs"]
mod npy;
#[path = "../../fuzz/src/npz.rs"]
mod npz;
#[path = "../../fuzz/src/onnx.rs"]
mod onnx;
#[path = "../../fuzz/src/recipe.rs"]
mod recipe;
#[path = "../../fuzz/src/tar.rs"]
mod tar;
#[path = "../../fuzz/src/url.rs"]
mod url;
#[path = "../../fuzz/src/wat.rs"]
mod wat;

use std::path::Path;

/// Runs every file, and names the one that panics.
fn check(name: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
    let mut files: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 5, "only {} files in {}", files.len(), folder.display());
    for file in files {
        let data = std::fs::read(&file).unwrap();
        assert!(std::panic::catch_unwind(|| run(&data)).is_ok(), "{}", file.display());
    }
}

#[test]
fn fasttext_files() {
    check("fasttext", fasttext::run);
}

#[test]
fn image_files() {
    check("image", image::run);
}

#[test]
fn manifest_files() {
    check("manifest", manifest::run);
}

#[test]
fn npy_files() {
    check("npy", npy::run);
}

#[test]
fn npz_files() {
    check("npz", npz::run);
}

#[test]
fn onnx_files() {
    check("onnx", onnx::run);
}

#[test]
fn recipe_files() {
    check("recipe", recipe::run);
}

#[test]
fn tar_files() {
    check("tar", tar::run);
}

#[test]
fn url_files() {
    check("url", url::run);
}

#[test]
fn wat_files() {
    check("wat", wat::run);
}
