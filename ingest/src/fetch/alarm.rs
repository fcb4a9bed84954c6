//! Stops a run whose success rate has collapsed: a dead network must not write a pool of failures.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use stage::Error;

use super::reason::Class;
use super::{FetchPlan, Reason};

/// The last URLs that were asked for. What a rule turned away, or was not asked for in time, says
/// nothing about the network and does not count.
#[derive(Debug)]
pub(super) struct Alarm {
    least: f64,
    window: usize,
    recent: Mutex<Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    failures: VecDeque<Option<Reason>>,
    successes: usize,
}

impl Alarm {
    pub(super) fn new(plan: &FetchPlan) -> Self {
        Self {
            least: plan.min_success_rate,
            window: plan.alarm_window as usize,
            recent: Mutex::default(),
        }
    }

    /// Counts a URL that came to its end, and gives the error that ends the run when of the last
    /// `alarm_window` too few gave a picture. Then it starts anew.
    pub(super) fn note(&self, failure: Option<Reason>) -> Option<Error> {
        let says_nothing =
            |reason: Reason| reason.class() == Class::Dropped || reason == Reason::CrawlDelay;
        if self.least <= 0.0 || failure.is_some_and(says_nothing) {
            return None;
        }
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.successes += usize::from(failure.is_none());
        recent.failures.push_back(failure);
        if recent.failures.len() > self.window && recent.failures.pop_front() == Some(None) {
            recent.successes -= 1;
        }
        let rate = recent.successes as f64 / self.window as f64;
        if recent.failures.len() < self.window || rate >= self.least {
            return None;
        }
        let error = self.error(&recent);
        *recent = Recent::default();
        Some(error)
    }

    fn error(&self, recent: &Recent) -> Error {
        let mut counts = BTreeMap::new();
        for reason in recent.failures.iter().flatten() {
            *counts.entry(reason.word()).or_insert(0_usize) += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let most: Vec<String> =
            counts.iter().take(3).map(|(word, count)| format!("{count} {word}")).collect();
        Error::network(format!(
            "of the last {} URLs only {} gave a picture, less than min_success_rate ({}): {}",
            self.window,
            recent.successes,
            self.least,
            most.join(", ")
        ))
        .hint(
            "see whether network and DNS work, then run the same command to go on; where so few \
             are to be expected, set a smaller min_success_rate (0 for none)",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alarm() -> Alarm {
        let plan = FetchPlan { min_success_rate: 0.2, alarm_window: 10, ..FetchPlan::default() };
        Alarm::new(&plan)
    }

    #[test]
    fn a_full_window_with_too_few_successes_is_an_error_that_counts_the_reasons() {
        let alarm = alarm();
        assert!(alarm.note(None).is_none());
        for _ in 0..8 {
            assert!(alarm.note(Some(Reason::Dns)).is_none());
        }
        let error = alarm.note(Some(Reason::Http(503))).unwrap();
        assert_eq!(
            error.to_string(),
            "of the last 10 URLs only 1 gave a picture, less than min_success_rate (0.2): \
             8 dns, 1 http_503"
        );
        assert_eq!(error.kind().exit_code(), 6);
        assert!(alarm.note(Some(Reason::Dns)).is_none(), "it starts anew");
    }

    #[test]
    fn old_successes_are_forgotten_and_what_rules_drop_does_not_count() {
        let alarm = alarm();
        for _ in 0..100 {
            assert!(alarm.note(None).is_none());
            assert!(alarm.note(Some(Reason::Robots)).is_none());
        }
        let until = (0..).find(|_| alarm.note(Some(Reason::Connect)).is_some());
        assert_eq!(until, Some(8), "the ninth failure leaves one success of ten");
    }

    #[test]
    fn a_rate_of_zero_never_rings() {
        let plan = FetchPlan { min_success_rate: 0.0, alarm_window: 1, ..FetchPlan::default() };
        assert!(Alarm::new(&plan).note(Some(Reason::Dns)).is_none());
    }
}
