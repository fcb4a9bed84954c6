//! The equation that holds at every stage: `in = kept + dropped(by reason) + failed(by reason)`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How many samples entered a stage and what became of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Samples that entered.
    #[serde(rename = "in")]
    pub entered: u64,
    /// Samples that go on.
    pub kept: u64,
    /// Samples that a rule turned away, by reason.
    #[serde(default)]
    pub dropped: BTreeMap<String, u64>,
    /// Samples that broke, by reason.
    #[serde(default)]
    pub failed: BTreeMap<String, u64>,
}

impl Counts {
    /// Counts one sample that goes on.
    pub fn keep(&mut self) {
        self.entered += 1;
        self.kept += 1;
    }

    /// Counts one sample that a rule turned away.
    pub fn drop(&mut self, reason: &str) {
        self.entered += 1;
        add(&mut self.dropped, reason, 1);
    }

    /// Counts one sample that broke.
    pub fn fail(&mut self, reason: &str) {
        self.entered += 1;
        add(&mut self.failed, reason, 1);
    }

    /// Adds the counts of another unit of the same stage.
    pub fn merge(&mut self, other: &Self) {
        self.entered += other.entered;
        self.kept += other.kept;
        for (reason, count) in &other.dropped {
            add(&mut self.dropped, reason, *count);
        }
        for (reason, count) in &other.failed {
            add(&mut self.failed, reason, *count);
        }
    }

    /// Samples turned away, for any reason.
    #[must_use]
    pub fn dropped_total(&self) -> u64 {
        self.dropped.values().sum()
    }

    /// Samples that broke, for any reason.
    #[must_use]
    pub fn failed_total(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Checks the equation.
    ///
    /// # Errors
    /// An internal error that shows both sides when they differ.
    pub fn check(&self) -> Result<()> {
        let out = self.kept + self.dropped_total() + self.failed_total();
        if self.entered == out {
            return Ok(());
        }
        Err(Error::internal(format!(
            "samples were lost or doubled: in {} ≠ kept {} + dropped {} + failed {}",
            self.entered,
            self.kept,
            self.dropped_total(),
            self.failed_total()
        )))
    }
}

fn add(map: &mut BTreeMap<String, u64>, reason: &str, count: u64) {
    match map.get_mut(reason) {
        Some(total) => *total += count,
        None => {
            map.insert(reason.to_owned(), count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_dropped_and_failed_add_up_to_in() {
        let mut counts = Counts::default();
        counts.keep();
        counts.drop("caption_words");
        counts.fail("http_404");
        counts.check().unwrap();
        assert_eq!(counts.entered, 3);
    }

    #[test]
    fn a_lost_sample_breaks_the_equation() {
        let mut counts = Counts::default();
        counts.keep();
        counts.entered += 1;
        let message = counts.check().unwrap_err().to_string();
        assert!(message.contains("in 2 ≠ kept 1 + dropped 0 + failed 0"), "{message}");
    }

    #[test]
    fn merging_adds_reason_by_reason() {
        let (mut a, mut b) = (Counts::default(), Counts::default());
        a.drop("small");
        b.drop("small");
        b.keep();
        a.merge(&b);
        assert_eq!(a.dropped["small"], 2);
        assert_eq!(a.entered, 3);
    }
}
