//! Keeping the table of failure reasons small whatever a foreign file says.

use stage::Counts;

/// More distinct reasons than this are one: `other`. Our own fetcher knows a few dozen.
const MAX_REASONS: usize = 1000;
/// Longer messages are cut here; they carry addresses and numbers, not kinds of failure.
const MAX_CHARS: usize = 100;

/// Counts a pair without a picture under its error message. Messages of other programs are free
/// text, so that both their length and their number are capped.
pub(crate) fn count_failure(counts: &mut Counts, message: &str) {
    let end = message.char_indices().nth(MAX_CHARS).map_or(message.len(), |(at, _)| at);
    let reason = &message[..end];
    if counts.failed.len() < MAX_REASONS || counts.failed.contains_key(reason) {
        counts.fail(reason);
    } else {
        counts.fail("other");
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
        }
        assert_eq!(counts.failed.len(), 1001);
        assert_eq!(counts.failed["other"], 2000);
        assert!(counts.failed.keys().all(|reason| reason.chars().count() <= 100));
        counts.check().unwrap();
    }
}
