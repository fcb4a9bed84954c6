//! How many requests are in flight at once: less when this machine runs short, more again later.

use std::time::Duration;

use tokio::time::Instant;

/// Additive increase and multiplicative decrease, as TCP does it.
#[derive(Debug)]
pub(super) struct InFlight {
    limit: usize,
    most: usize,
    least: usize,
    /// Answers since the limit last changed.
    answers: usize,
    cut: Option<Instant>,
}

/// Shortages that come together are one: all were caused by the same limit.
const TOGETHER: Duration = Duration::from_millis(200);
/// Requests that every machine must be able to make at once.
const LEAST: usize = 8;

impl InFlight {
    pub(super) fn new(most: u32) -> Self {
        let most = (most as usize).max(1);
        Self { limit: most, most, least: most.min(LEAST), answers: 0, cut: None }
    }

    /// Requests in flight, at most.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// No descriptor, port or memory was left. False when the limit is as small as it gets.
    pub(super) fn shortage(&mut self) -> bool {
        let now = Instant::now();
        if self.cut.is_some_and(|cut| now < cut + TOGETHER) {
            return true;
        }
        let lower = self.limit > self.least;
        self.limit = (self.limit / 2).max(self.least);
        self.cut = Some(now);
        self.answers = 0;
        lower
    }

    /// A request was answered.
    pub(super) fn answer(&mut self) {
        self.answers += 1;
        if self.answers >= self.limit && self.limit < self.most {
            self.limit += 1;
            self.answers = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortages_that_come_together_halve_it_once_and_answers_bring_it_back() {
        let mut flight = InFlight::new(100);
        for _ in 0..50 {
            assert!(flight.shortage());
        }
        assert_eq!(flight.limit(), 50);
        for _ in 0..50 {
            flight.answer();
        }
        assert_eq!(flight.limit(), 51);
        for _ in 0..10_000 {
            flight.answer();
        }
        assert_eq!(flight.limit(), 100);
    }

    #[test]
    fn it_never_falls_below_eight_or_what_the_plan_wants() {
        let mut flight = InFlight::new(10);
        assert!(flight.shortage());
        flight.cut = None;
        assert!(!flight.shortage());
        assert_eq!(flight.limit(), 8);
        assert_eq!(InFlight::new(2).least, 2);
    }
}
