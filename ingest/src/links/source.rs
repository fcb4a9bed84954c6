//! Where WAT files and lists of them come from: local files, object stores, https.

use std::io::Read;

use serde::{Deserialize, Serialize};
use stage::Result;
use store::Blob;

use super::download::Download;

/// One WAT file: a path or a URL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WatSource(String);

impl WatSource {
    /// Names a WAT file; nothing is opened.
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// The path or URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.0
    }
}

/// Opens a file for one pass from its start.
pub(super) fn open(url: &str) -> Result<Box<dyn Read + Send>> {
    if is_http(url) {
        return Ok(Box::new(Download::start(url)?));
    }
    Ok(Blob::open(url)?.reader())
}

/// The files behind one entry of a plan.
pub(super) fn expand(entry: &str) -> Result<Vec<String>> {
    store::expand(entry)
}

fn is_http(url: &str) -> bool {
    url.starts_with("http://") || url.starts_with("https://")
}
