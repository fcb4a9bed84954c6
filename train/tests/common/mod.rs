//! Where tests find the golden numbers.

use std::path::{Path, PathBuf};

/// A file of the shared data; `None`, said aloud, where there is none.
///
/// The folder is `CLIPMILL_SHARED`, or `../shared` beside the workspace.
///
/// # Panics
/// When `CLIPMILL_SHARED` is set and the file is missing.
pub(crate) fn shared(name: &str) -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("CLIPMILL_SHARED") {
        let path = Path::new(&dir).join(name);
        assert!(path.exists(), "CLIPMILL_SHARED is set, but {} is missing", path.display());
        return Some(path);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: no ../shared");
    None
}
