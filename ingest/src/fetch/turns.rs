//! Politeness that outlives one unit: the rhythm that a site asks for, and requests to one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Names after which those that no longer matter are forgotten.
const TIDY: usize = 1 << 16;

/// When a domain that asks for a crawl-delay may be asked again. The clock is monotonic: a change
/// of the wall clock makes no burst.
#[derive(Debug, Default)]
pub(super) struct Rhythm(Mutex<HashMap<String, Instant>>);

impl Rhythm {
    /// Takes the turn, or says when it comes. Nothing is reserved for whoever must wait.
    pub(super) fn take(&self, domain: &str, delay: Duration) -> Result<(), Instant> {
        let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(turn) = next.get(domain).filter(|turn| **turn > now) {
            return Err(*turn);
        }
        if next.len() >= TIDY {
            next.retain(|_, turn| *turn > now);
        }
        next.insert(domain.to_owned(), now + delay);
        Ok(())
    }
}

/// Requests in flight to one address, whatever the domain: a thousand small sites can live on one
/// machine.
#[derive(Debug)]
pub(super) struct AtAddress {
    limit: usize,
    by_address: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

impl AtAddress {
    pub(super) fn new(limit: u32) -> Self {
        Self { limit: (limit as usize).max(1), by_address: Mutex::default() }
    }

    /// Waits for a turn, which ends when it is dropped.
    pub(super) async fn turn(&self, address: IpAddr) -> Option<OwnedSemaphorePermit> {
        let turns = {
            let mut all = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
            if all.len() >= TIDY {
                all.retain(|_, turns| turns.available_permits() < self.limit);
            }
            let turns = all.entry(address).or_insert_with(|| Arc::new(Semaphore::new(self.limit)));
            Arc::clone(turns)
        };
        turns.acquire_owned().await.ok() // never closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_taken_once_in_a_delay() {
        let rhythm = Rhythm::default();
        let delay = Duration::from_hours(1);
        assert!(rhythm.take("a.example", delay).is_ok());
        let again = rhythm.take("a.example", delay).unwrap_err();
        assert!(again > Instant::now() + delay / 2);
        assert!(rhythm.take("b.example", Duration::ZERO).is_ok());
        assert!(rhythm.take("b.example", Duration::ZERO).is_ok());
    }
}
