//! Finds the data that is not committed: `CLIPMILL_SHARED`, or `../shared` beside the workspace.

use std::path::PathBuf;

/// The path of a shared file or folder, or nothing when there is no shared data at all.
///
/// # Panics
/// When `CLIPMILL_SHARED` is set and the file is missing.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    if let Some(root) = std::env::var_os("CLIPMILL_SHARED") {
        let path = PathBuf::from(root).join(path);
        assert!(path.exists(), "CLIPMILL_SHARED is set, but {} is missing", path.display());
        return Some(path);
    }
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(path);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: no ../shared");
    None
}
