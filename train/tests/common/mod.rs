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

/// Where the tests of the optimiser's steps run: `CLIPMILL_TEST_DEVICE` (`cuda`, in a build with
/// that feature), or the CPU.
///
/// # Panics
/// When it names none that is here.
#[allow(dead_code, reason = "not every test binary that shares this file trains")]
pub(crate) fn device() -> candle_core::Device {
    let name = std::env::var("CLIPMILL_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    models::device(name.parse().unwrap()).unwrap()
}
