//! Memory that bodies may take together.
//!
//! The gate cannot deadlock: one holder at a time may overdraw, and goes on to its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

/// Bytes of bodies that are in memory, downloading or waiting to be decoded.
pub(super) struct Bodies {
    kib: Arc<Semaphore>,
    overdraft: Arc<AsyncMutex<()>>,
}

/// What one body holds; given back when dropped.
pub(super) struct Hold {
    bodies: Arc<Bodies>,
    permit: Option<OwnedSemaphorePermit>,
    overdraft: Option<OwnedMutexGuard<()>>,
    paid: usize,
}

impl Bodies {
    pub(super) fn new(bytes: u64) -> Arc<Self> {
        let kib =
            usize::try_from(bytes / 1024).unwrap_or(usize::MAX).clamp(1, u32::MAX as usize >> 4);
        Arc::new(Self { kib: Arc::new(Semaphore::new(kib)), overdraft: Arc::default() })
    }

    /// A body of no bytes yet.
    pub(super) fn hold(self: &Arc<Self>) -> Hold {
        Hold { bodies: Arc::clone(self), permit: None, overdraft: None, paid: 0 }
    }
}

impl Hold {
    /// Pays for a body of `bytes` bytes in all, and says how long it had to wait: time for which
    /// the server is not to blame.
    pub(super) async fn grow_to(&mut self, bytes: usize) -> Duration {
        let want = bytes.div_ceil(1024).saturating_sub(self.paid);
        if want == 0 || self.overdraft.is_some() {
            return Duration::ZERO;
        }
        let count = u32::try_from(want).unwrap_or(u32::MAX);
        if let Ok(permit) = Arc::clone(&self.bodies.kib).try_acquire_many_owned(count) {
            self.keep(permit, want);
            return Duration::ZERO;
        }
        let began = Instant::now();
        tokio::select! {
            permit = Arc::clone(&self.bodies.kib).acquire_many_owned(count) => {
                if let Ok(permit) = permit {
                    self.keep(permit, want);
                }
            }
            guard = Arc::clone(&self.bodies.overdraft).lock_owned() => {
                self.overdraft = Some(guard);
            }
        }
        began.elapsed()
    }

    fn keep(&mut self, permit: OwnedSemaphorePermit, kib: usize) {
        self.paid += kib;
        match &mut self.permit {
            Some(held) => held.merge(permit),
            None => self.permit = Some(permit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_bodies_larger_than_the_budget_all_end() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let bodies = Bodies::new(64 << 10);
            let tasks: Vec<_> = (0..50)
                .map(|_| {
                    let mut hold = bodies.hold();
                    tokio::spawn(async move {
                        for kib in 1..=100 {
                            hold.grow_to(kib << 10).await;
                            tokio::task::yield_now().await;
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            assert_eq!(bodies.kib.available_permits(), 64);
        });
    }
}
