//! What became of a unit's records and links.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stage::Counts;

use crate::warc::Damage;

/// What became of the records and links of some WAT files.
///
/// `image_links = rows + dropped + links that failed`, and `rows = distinct_uids + duplicates`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinksReport {
    /// WAT files read.
    pub wats: u64,
    /// Their bytes as stored.
    pub bytes: u64,
    /// Records that describe an HTML page.
    pub pages: u64,
    /// Links whose path is `IMG@/src`.
    pub image_links: u64,
    /// Links with an alt text and an http(s) address: what cc2dataset gives.
    pub rows: u64,
    /// Rows after equal uids within the unit have become one.
    pub distinct_uids: u64,
    /// Links turned away: `no_alt`, `not_http`.
    pub dropped: BTreeMap<String, u64>,
    /// What broke, by reason: links (`no_url`, `alt_not_text`, ...), records (`json_syntax`,
    /// `json_not_utf8`, ...) and what [`Damage`] names. A record counts as one, since nobody knows
    /// how many links it held; a broken gzip member counts beside the record that it cuts.
    pub failed: BTreeMap<String, u64>,
    /// The first places of damage, with file and byte.
    pub places: Vec<String>,
}

/// So many places are kept.
const MAX_PLACES: usize = 32;

impl LinksReport {
    /// Adds what became of other WAT files of the same unit or of another. Equal uids in both stay
    /// counted twice in `distinct_uids`.
    pub fn merge(&mut self, other: &Self) {
        self.wats += other.wats;
        self.bytes += other.bytes;
        self.pages += other.pages;
        self.image_links += other.image_links;
        self.rows += other.rows;
        self.distinct_uids += other.distinct_uids;
        for (to, from) in [(&mut self.dropped, &other.dropped), (&mut self.failed, &other.failed)] {
            for (reason, count) in from {
                *to.entry(reason.clone()).or_default() += count;
            }
        }
        let room = MAX_PLACES.saturating_sub(self.places.len());
        self.places.extend(other.places.iter().take(room).cloned());
    }

    /// The equation of the stage, in links: `duplicate_uid` is a reason to drop.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut dropped = self.dropped.clone();
        let duplicates = self.rows - self.distinct_uids;
        if duplicates > 0 {
            dropped.insert("duplicate_uid".to_owned(), duplicates);
        }
        let failed = self.failed.clone();
        let lost = dropped.values().sum::<u64>() + failed.values().sum::<u64>();
        Counts { entered: self.distinct_uids + lost, kept: self.distinct_uids, dropped, failed }
    }

    pub(crate) fn drop(&mut self, reason: &str) {
        add(&mut self.dropped, reason, 1);
    }

    pub(crate) fn fail(&mut self, reason: &str) {
        add(&mut self.failed, reason, 1);
    }

    pub(crate) fn fail_links(&mut self, reason: &str, links: usize) {
        if links > 0 {
            add(&mut self.failed, reason, links as u64);
        }
    }

    pub(crate) fn add_damage(&mut self, wat: &str, damage: &Damage) {
        for (reason, count) in damage.counts() {
            add(&mut self.failed, reason, *count);
        }
        let room = MAX_PLACES.saturating_sub(self.places.len());
        self.places
            .extend(damage.places().iter().take(room).map(|place| format!("{wat}: {place}")));
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
