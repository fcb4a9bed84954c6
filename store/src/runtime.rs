//! The small tokio runtime behind the blocking calls of this crate.

use std::future::Future;
use std::sync::{OnceLock, mpsc};

use stage::{Error, Result};
use tokio::runtime::{Builder, Runtime};

/// Starts `future` on the runtime; its result arrives in the channel.
///
/// One runtime serves the process: object store clients hold connections that belong to a runtime,
/// and a blob is opened far more often than a client is made.
pub(crate) fn start<T, F>(future: F) -> Result<mpsc::Receiver<T>>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    static RUNTIME: OnceLock<std::io::Result<Runtime>> = OnceLock::new();
    let runtime = RUNTIME
        .get_or_init(|| {
            Builder::new_multi_thread().worker_threads(2).thread_name("store").enable_all().build()
        })
        .as_ref()
        .map_err(|error| Error::store(format!("cannot start the store's threads: {error}")))?;
    let (sender, receiver) = mpsc::sync_channel(1);
    runtime.spawn(async move {
        // The receiver may be gone: a reader that was dropped wants no more.
        let _ = sender.send(future.await);
    });
    Ok(receiver)
}

/// Runs `future` to its end. Waits on a channel rather than with `block_on`, which panics when an
/// async caller forgot `spawn_blocking`.
pub(crate) fn wait<T, F>(future: F) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    start(future)?.recv().map_err(|_| Error::internal("a request to the object store panicked"))
}
