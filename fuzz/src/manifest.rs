//! Manifests of releases from elsewhere.

use shard::release::{Manifest, merkle_root};
use store::Blob;

/// A manifest that is taken holds against itself, and what is written of it is taken again.
pub fn run(data: &[u8]) {
    let Ok(manifest) = Manifest::parse(&Blob::from_bytes("manifest.json", data.to_vec().into()))
    else {
        return;
    };
    assert_eq!(merkle_root(&manifest.files), manifest.merkle_root);
    for file in &manifest.files {
        let leaves = file.path.starts_with('/') || file.path.split('/').any(|part| part == "..");
        assert!(!leaves && !file.path.is_empty(), "{:?} was taken", file.path);
        assert!(manifest.file(&file.path).is_some());
    }
    assert!(manifest.units().len() <= manifest.files.len());
    let written = manifest.to_bytes().expect("a manifest that was read");
    let again = Manifest::parse(&Blob::from_bytes("manifest.json", written.into()));
    let again = again.expect("our own manifest");
    assert_eq!(
        (again.files, again.counts, again.columns),
        (manifest.files, manifest.counts, manifest.columns)
    );
}
