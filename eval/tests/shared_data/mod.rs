//! Finds the shared reference data; tests that need it pass without it.

use std::path::{Path, PathBuf};

/// The path of a shared file, or None where there is no shared folder.
///
/// # Panics
/// When `CLIPMILL_SHARED` is set and the file is missing.
pub(crate) fn shared(file: &str) -> Option<PathBuf> {
    if let Some(root) = std::env::var_os("CLIPMILL_SHARED") {
        let path = PathBuf::from(root).join(file);
        assert!(path.exists(), "CLIPMILL_SHARED is set, but {} is missing", path.display());
        return Some(path);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(file);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: no ../shared");
    None
}
