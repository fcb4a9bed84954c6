//! Memory that pictures may take together while they are decoded.

use std::sync::{Condvar, Mutex, PoisonError};

/// Lets work in as long as its bytes fit beside those of what is under way.
///
/// It cannot deadlock: what never fits goes alone.
#[derive(Debug)]
pub struct Gate {
    limit: u64,
    used: Mutex<u64>,
    freed: Condvar,
}

/// What one work holds; given back when dropped.
#[derive(Debug)]
pub struct Held<'a> {
    gate: &'a Gate,
    bytes: u64,
}

impl Gate {
    /// For this many bytes.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self { limit, used: Mutex::new(0), freed: Condvar::new() }
    }

    /// Waits until `bytes` more fit; what never fits goes alone.
    pub fn enter(&self, bytes: u64) -> Held<'_> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        while *used > 0 && used.saturating_add(bytes) > self.limit {
            used = self.freed.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
        *used = used.saturating_add(bytes);
        Held { gate: self, bytes }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut used = self.gate.used.lock().unwrap_or_else(PoisonError::into_inner);
        *used = used.saturating_sub(self.bytes);
        self.gate.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_the_limit_goes_alone_and_others_wait_for_it() {
        let gate = Gate::new(100);
        let big = gate.enter(1000);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let _small = gate.enter(1);
                *gate.used.lock().unwrap()
            });
            drop(big);
            assert_eq!(waiting.join().unwrap(), 1);
        });
        assert_eq!(*gate.used.lock().unwrap(), 0);
    }
}
