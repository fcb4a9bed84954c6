//! Pictures of a judge stage: the kept ones by score, the dropped ones by reason.

use std::collections::BTreeMap;
use std::sync::Arc;

use report::{Block, Section, Thumbnail};
use stage::Result;

use super::collect::{self, Scores};
use crate::stages::{Done, shards};

/// Pictures shown of each reason.
const SHOWN: usize = 12;
/// Reasons of which pictures are shown.
const REASONS: usize = 8;

/// Kept pictures by score, and dropped ones by reason.
pub(super) fn pictures(done: &Arc<Done>, scores: &Scores, album: &Album) -> Result<Section> {
    let mut section = Section::new(&format!("pictures-{}", done.id), "Pictures");
    let last = scores.names.len().checked_sub(1);
    let score = |row: &collect::Judged| last.and_then(|c| row.scores[c]);
    let name = last.map_or("", |c| scores.names[c].as_str());
    let mut kept: Vec<&collect::Judged> =
        scores.rows.iter().filter(|r| r.success && r.reason.is_none()).collect();
    kept.sort_by(|a, b| {
        score(b)
            .unwrap_or(f32::MIN)
            .total_cmp(&score(a).unwrap_or(f32::MIN))
            .then(a.uid.cmp(&b.uid))
    });
    let note = |row: &collect::Judged| match score(row) {
        Some(value) => format!("{name} {value:.3}"),
        None => String::new(),
    };
    let mut groups: Vec<(String, Vec<&collect::Judged>)> = vec![
        (format!("Passed all judges, best by {name}"), kept.iter().take(SHOWN).copied().collect()),
        (
            format!("Passed all judges, worst by {name}"),
            kept.iter().rev().take(SHOWN).copied().collect(),
        ),
    ];
    let mut by_reason: BTreeMap<&str, Vec<&collect::Judged>> = BTreeMap::new();
    for row in scores.rows.iter().filter(|r| r.success) {
        if let Some(reason) = &row.reason {
            by_reason.entry(reason).or_default().push(row);
        }
    }
    for (reason, rows) in by_reason.into_iter().take(REASONS) {
        groups.push((
            format!("Dropped: {reason} ({})", rows.len()),
            rows.into_iter().take(SHOWN).collect(),
        ));
    }
    for (title, rows) in groups.into_iter().filter(|(_, rows)| !rows.is_empty()) {
        let mut items = Vec::new();
        for row in rows {
            if let Some(picture) = album.picture(&row.key)? {
                items.push(Thumbnail::new(&picture, &row.caption, &note(row)));
            }
        }
        section.push(Block::Pictures { title, items });
    }
    Ok(section)
}

/// Pictures of some shards by key.
pub(super) struct Album {
    places: BTreeMap<String, (usize, u64, u64)>,
    tars: Vec<store::Blob>,
}

impl Album {
    pub(super) fn open(source: &Arc<Done>) -> Result<Self> {
        /// Pictures of the first shards are enough to look at.
        const SHARDS: usize = 20;
        let mut album = Self { places: BTreeMap::new(), tars: Vec::new() };
        for url in shards::tar_urls(source)?.iter().take(SHARDS) {
            let blob = store::Blob::open(url)?;
            for member in shard::index(&blob)? {
                let Some((key, suffix)) = shard::split_name(&member.name) else { continue };
                if matches!(suffix.as_str(), "jpg" | "jpeg" | "png" | "webp") {
                    album
                        .places
                        .insert(key.to_owned(), (album.tars.len(), member.offset, member.len));
                }
            }
            album.tars.push(blob);
        }
        Ok(album)
    }

    pub(super) fn picture(&self, key: &str) -> Result<Option<bytes::Bytes>> {
        /// A thumbnail larger than this would make the page heavy.
        const LARGEST: u64 = 256 << 10;
        let Some(&(tar, offset, len)) = self.places.get(key).filter(|p| p.2 <= LARGEST) else {
            return Ok(None);
        };
        self.tars[tar].read_at(offset, len as usize).map(Some)
    }
}
