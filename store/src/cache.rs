//! The user's cache folder: copies of remote objects, and work folders of remote outputs.

use std::path::PathBuf;

/// `CLIPMILL_CACHE`, else `XDG_CACHE_HOME/clipmill`, else `~/.cache/clipmill`, else the folder for
/// temporary files.
pub(crate) fn folder() -> PathBuf {
    let named = |variable| std::env::var_os(variable).filter(|value| !value.is_empty());
    if let Some(folder) = named("CLIPMILL_CACHE") {
        return folder.into();
    }
    let base = named("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| named("HOME").map(|home| PathBuf::from(home).join(".cache")));
    base.unwrap_or_else(std::env::temp_dir).join("clipmill")
}
