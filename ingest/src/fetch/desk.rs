//! What is finished but not yet handed on, and how a unit ends before its time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use stage::{Error, Result};
use tokio::sync::Notify;

/// What is finished but not yet handed on.
pub(super) struct Desk {
    pub(super) bytes: AtomicUsize,
    limit: usize,
    /// The row that is wanted next.
    pub(super) next_row: AtomicUsize,
    pub(super) stop: AtomicBool,
    /// What ends the unit.
    trouble: Mutex<Option<Error>>,
    /// There may be room again, or nothing more to do.
    pub(super) wake: Notify,
}

impl Desk {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            bytes: AtomicUsize::new(0),
            limit,
            next_row: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            trouble: Mutex::default(),
            wake: Notify::new(),
        }
    }

    pub(super) fn release(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::SeqCst);
        self.wake.notify_one();
    }

    /// Ends the unit with this error; the first one counts.
    pub(super) fn fail(&self, error: Error) {
        self.stop.store(true, Ordering::SeqCst);
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    /// The error that ends the unit, if there is one.
    pub(super) fn check(&self) -> Result<()> {
        if !self.is_stopped() {
            return Ok(());
        }
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.take().map_or(Ok(()), Err)
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.load(Ordering::SeqCst) >= self.limit
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}
