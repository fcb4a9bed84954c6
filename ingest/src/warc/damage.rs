//! What a reader had to leave out of a broken file.

use std::collections::BTreeMap;

/// What was left out of a broken file, by reason, with the places of the first few.
///
/// | reason | meaning |
/// | --- | --- |
/// | `gzip_truncated` | the file ends inside a gzip member |
/// | `gzip_corrupt` | a member that does not inflate, or with an impossible header |
/// | `gzip_checksum` | a member whose CRC-32 or length differs from its trailer |
/// | `gzip_bomb` | a member that unpacks beyond the limits |
/// | `gzip_junk` | bytes between or after members that are neither gzip nor zeros |
/// | `not_a_record` | bytes where a record should start |
/// | `header_too_long` | a record header beyond the limit |
/// | `no_content_length` | a record header without a usable `Content-Length` |
/// | `content_length` | a `Content-Length` that does not end where a record ends |
/// | `record_too_long` | a record body beyond the limit |
/// | `record_truncated` | a record that its file or member does not hold whole |
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Damage {
    counts: BTreeMap<&'static str, u64>,
    places: Vec<String>,
}

/// So many places are kept; the rest is only counted.
const MAX_PLACES: usize = 16;

impl Damage {
    /// Whether the file was sound.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// How often each reason occurred.
    #[must_use]
    pub fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
    }

    /// How often this reason occurred.
    #[must_use]
    pub fn count(&self, reason: &str) -> u64 {
        self.counts.get(reason).copied().unwrap_or(0)
    }

    /// The first 16 places in words: `gzip_truncated at byte 5120`. Bytes count from the start of
    /// the file as it is stored; inside gzip they name the member's first byte.
    #[must_use]
    pub fn places(&self) -> &[String] {
        &self.places
    }

    pub(super) fn add(&mut self, reason: &'static str, offset: u64) {
        *self.counts.entry(reason).or_default() += 1;
        if self.places.len() < MAX_PLACES {
            self.places.push(format!("{reason} at byte {offset}"));
        }
    }
}
