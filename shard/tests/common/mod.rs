//! Shards that tests make themselves, and the shared data where it is at hand.

#![allow(dead_code, reason = "each test file uses some of it")]

use std::path::{Path, PathBuf};

use shard::TarWriter;
use store::Blob;

/// A picture of 1 × 1 pixel.
pub(crate) const PNG: &[u8] =
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\0\0\0\0:~\x9bU\0\0\0\n\
IDATx\x9cc`\0\0\0\x02\0\x01H\xaf\xa4q\0\0\0\0IEND\xaeB`\x82";

/// A tar of these members.
pub(crate) fn tar(name: &str, members: &[(&str, &[u8])]) -> Blob {
    let mut tar = TarWriter::new(Vec::new());
    for (name, data) in members {
        tar.append(name, data).unwrap();
    }
    Blob::from_bytes(name, tar.finish().unwrap().into())
}

/// A file of the shared data. `None`, and a line that says so, where there is none; a panic where
/// `CLIPMILL_SHARED` promises it.
pub(crate) fn shared(name: &str) -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("CLIPMILL_SHARED") {
        let path = Path::new(&folder).join(name);
        assert!(path.exists(), "CLIPMILL_SHARED is set, but there is no {}", path.display());
        return Some(path);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: no ../shared");
    None
}
