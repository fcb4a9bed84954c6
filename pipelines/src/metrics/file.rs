//! The page as a file that is always whole, as node-exporter's textfile collector wants it: a batch
//! job may end before anybody scrapes it.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use stage::{Error, Result};

/// How often the file is replaced.
const EVERY: Duration = Duration::from_secs(15);

/// Writes until dropped, and then once more.
pub(super) struct Textfile {
    stop: Option<Sender<()>>,
    writing: Option<JoinHandle<()>>,
}

impl Textfile {
    pub(super) fn start(path: PathBuf, page: impl Fn() -> String + Send + 'static) -> Result<Self> {
        replace(&path, &page()).map_err(|error| {
            Error::recipe("--metrics_file: cannot write").because(error).at(path.display()).hint(
                "name a file in a folder that is there; node-exporter wants `.prom` at its end",
            )
        })?;
        let (stop, stopped) = channel::<()>();
        let writing = std::thread::spawn(move || {
            loop {
                let waited = stopped.recv_timeout(EVERY);
                // A run does not end because nobody can be told about it.
                if let Err(error) = replace(&path, &page()) {
                    tracing::warn!(%error, path = %path.display(), "cannot write metrics");
                }
                if waited != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        });
        Ok(Self { stop: Some(stop), writing: Some(writing) })
    }
}

impl Drop for Textfile {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(writing) = self.writing.take() {
            let _ended = writing.join();
        }
    }
}

/// Not synced: after a crash of the machine nobody wants yesterday's figures.
fn replace(path: &Path, page: &str) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Another ending than `.prom`, so that the collector does not read it.
    let new = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = File::create(&new)
        .and_then(|mut file| file.write_all(page.as_bytes()))
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _gone = fs::remove_file(&new);
    }
    written
}
