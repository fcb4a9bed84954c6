//! Keeping the table of reasons small whatever a foreign file says.
//!
//! Which reasons stay does not depend on the order in which rows come: of too many those that are
//! first in the alphabet. A reason among them is never put out, whatever part of the rows is looked
//! at, so that its count is whole, and all others are `other`.

use std::collections::BTreeMap;

use stage::Counts;

/// More distinct reasons than this are one: `other`. Our own fetcher knows a few dozen.
const MAX_REASONS: usize = 1000;
/// Longer messages are cut here; they carry addresses and numbers, not kinds of failure.
const MAX_CHARS: usize = 100;
const OTHER: &str = "other";

/// Counts a pair without a picture under its error message. Messages of other programs are free
/// text, so that both their length and their number are capped.
pub(crate) fn count_failure(counts: &mut Counts, message: &str) {
    counts.fail(cut(message));
    cap_table(&mut counts.failed);
}

/// Counts a pair that was turned away before, under the reason that a file gives; capped alike.
pub(crate) fn count_drop(counts: &mut Counts, reason: &str) {
    counts.drop(cut(reason));
    cap_table(&mut counts.dropped);
}

/// The cap for counts that were added up of several.
pub(crate) fn cap(counts: &mut Counts) {
    cap_table(&mut counts.failed);
    cap_table(&mut counts.dropped);
}

fn cut(message: &str) -> &str {
    let end = message.char_indices().nth(MAX_CHARS).map_or(message.len(), |(at, _)| at);
    &message[..end]
}

fn cap_table(reasons: &mut BTreeMap<String, u64>) {
    while reasons.len() > MAX_REASONS + usize::from(reasons.contains_key(OTHER)) {
        let last = reasons.keys().rev().find(|reason| *reason != OTHER).cloned();
        let Some(count) = last.and_then(|last| reasons.remove(&last)) else { return };
        *reasons.entry(OTHER.to_owned()).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_different_messages_are_a_thousand_reasons_and_other() {
        let mut counts = Counts::default();
        for i in 0..3000 {
            count_failure(&mut counts, &format!("{i} {}", "ä".repeat(500)));
            count_drop(&mut counts, &format!("{i} {}", "ä".repeat(500)));
        }
        for table in [&counts.failed, &counts.dropped] {
            assert_eq!(table.len(), 1001);
            assert_eq!(table["other"], 2000);
            assert!(table.keys().all(|reason| reason.chars().count() <= 100));
        }
        counts.check().unwrap();
    }

    #[test]
    fn which_reasons_stay_depends_neither_on_their_order_nor_on_who_counts_them() {
        let count = |order: &mut dyn Iterator<Item = u32>| {
            let mut counts = Counts::default();
            order.for_each(|i| count_failure(&mut counts, &format!("reason {:04}", i % 2500)));
            counts
        };
        let forward = count(&mut (0..5000));
        assert_eq!((forward.failed["reason 0999"], forward.failed["other"]), (2, 3000));
        assert_eq!(count(&mut (0..5000).rev()), forward);
        let mut halves = count(&mut (0..5000).filter(|i| i % 3 == 0));
        halves.merge(&count(&mut (0..5000).filter(|i| i % 3 != 0)));
        cap(&mut halves);
        assert_eq!(halves, forward);
    }
}
