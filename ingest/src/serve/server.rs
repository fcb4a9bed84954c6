//! The server: a thread of its own that listens until it is dropped.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use stage::{Error, Result, ResultExt};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::connection::{Handler, serve_connection};
use super::{Request, Response};
use crate::DialMap;

/// Listens on a free port of 127.0.0.1 until dropped. Blocking and asynchronous code may use it: it
/// runs on threads of its own.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    requests: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Connections at a time; further ones wait in the system's queue.
const MAX_CONNECTIONS: usize = 4096;
/// Handlers that run at a time.
const WORKERS: usize = 2;
/// Threads for handlers that read files.
const MAX_BLOCKING: usize = 4;

impl Server {
    /// Starts to listen on a free port. `handler` runs on a worker thread and should be quick: read
    /// a file, not wait.
    ///
    /// # Errors
    /// When no port or no thread can be had.
    pub fn start<F>(handler: F) -> Result<Self>
    where
        F: Fn(&Request) -> Response + Send + Sync + 'static,
    {
        Self::start_at(0, handler)
    }

    /// As [`Self::start`] on this port; 0 is a free one.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start_at<F>(port: u16, handler: F) -> Result<Self>
    where
        F: Fn(&Request) -> Response + Send + Sync + 'static,
    {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .max_blocking_threads(MAX_BLOCKING)
            .thread_name("serve")
            .enable_all()
            .build()
            .internal("cannot start the server's threads")?;
        let listener = runtime
            .block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, port)))
            .map_err(|error| Error::input("cannot listen").because(error))
            .map_err(|error| error.at(format!("127.0.0.1:{port}")))?;
        let address = listener.local_addr().internal("no local address")?;
        let requests = Arc::new(AtomicU64::new(0));
        let handler: Handler = {
            let requests = Arc::clone(&requests);
            Arc::new(move |request: &Request| {
                requests.fetch_add(1, Ordering::Relaxed);
                handler(request)
            })
        };
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("serve".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = accept(listener, handler) => {}
                        _ = stopped => {}
                    }
                });
                // Connections that never end are ended here.
                runtime.shutdown_timeout(Duration::from_secs(1));
            })
            .internal("cannot start the server's thread")?;
        Ok(Self { address, requests, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A dial map that sends every host here.
    #[must_use]
    pub fn dial_map(&self) -> DialMap {
        DialMap::everything_at(self.address)
    }

    /// Requests that were handled so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A handler that panicked took its connection with it and nothing else.
            let _ended = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, handler: Handler) {
    let slots = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let handler = Arc::clone(&handler);
                tokio::spawn(async move {
                    // A client that goes away is the client's business.
                    let _gone = serve_connection(stream, &handler).await;
                    drop(slot);
                });
            }
            // No file descriptor left, say: the next moment may have one.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}
