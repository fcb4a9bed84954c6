//! What the pairs of a judge stage are about: words, domains, languages, and pictures that occur
//! several times.

use std::collections::BTreeMap;

use report::{Block, Figure, Section, Table, Thumbnail, pie};
use shard::release::host_of;
use stage::Result;

use super::collect::{Judged, Scores};
use super::page::thousands;
use super::pictures::Album;

/// Rows of a table.
const ROWS: usize = 15;
/// Different words and hosts that are counted; what comes first after that is not.
const DIFFERENT: usize = 1 << 20;
/// Pictures that occur several times: groups shown, and pictures of each.
const GROUPS: usize = 4;
const OF_GROUP: usize = 4;

/// Of how many pairs, and of how many kept ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    all: u64,
    kept: u64,
}

/// The section, if there is a pair with a picture.
pub(super) fn about(id: &str, scores: &Scores, album: Option<&Album>) -> Result<Option<Section>> {
    let rows: Vec<&Judged> = scores.rows.iter().filter(|row| row.success).collect();
    if rows.is_empty() {
        return Ok(None);
    }
    let mut section =
        Section::new(&format!("about-{id}"), &format!("What the pairs are about: {id}"));
    section.say("Pairs with a picture; kept are those without a reason against them.");
    let languages = count(rows.iter().filter_map(|row| Some((row.language.clone()?, row))));
    if !languages.is_empty() {
        let shares: Vec<(String, u64)> =
            languages.iter().map(|(name, tally)| (name.clone(), tally.all)).collect();
        let svg = pie("languages", &shares);
        section.push(Block::Figures(vec![Figure { title: "Languages".to_owned(), svg }]));
    }
    let words =
        count(rows.iter().flat_map(|row| words(&row.caption).into_iter().map(move |w| (w, row))));
    section.push(Block::Heading("Words of the captions".to_owned()));
    section.push(Block::Table(table("word", words)));
    let hosts = count(rows.iter().filter_map(|row| Some((host_of(&row.url)?, row))));
    if !hosts.is_empty() {
        section.push(Block::Heading(format!(
            "Hosts of the pictures ({})",
            thousands(hosts.len() as u64)
        )));
        section.push(Block::Table(table("host", hosts)));
    }
    duplicates(&mut section, &rows, album)?;
    Ok(Some(section))
}

fn count<'a>(names: impl Iterator<Item = (String, &'a &'a Judged)>) -> BTreeMap<String, Tally> {
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    for (name, row) in names {
        if tallies.len() >= DIFFERENT && !tallies.contains_key(&name) {
            continue;
        }
        let tally = tallies.entry(name).or_default();
        tally.all += 1;
        tally.kept += u64::from(row.reason.is_none());
    }
    tallies
}

/// The different words of a caption: runs of letters and digits, in small letters, of two and more.
fn words(caption: &str) -> Vec<String> {
    let parts = caption.split(|c: char| !c.is_alphanumeric());
    let long = parts.filter(|word| word.chars().nth(1).is_some());
    let mut words: Vec<String> = long.map(str::to_lowercase).collect();
    words.sort_unstable();
    words.dedup();
    words
}

fn table(what: &str, tallies: BTreeMap<String, Tally>) -> Table {
    let mut sorted: Vec<(String, Tally)> = tallies.into_iter().collect();
    sorted.sort_by(|a, b| b.1.all.cmp(&a.1.all).then(a.0.cmp(&b.0)));
    let mut table = Table::new(&[what, "pairs", "kept", "share kept"]);
    for (name, Tally { all, kept }) in sorted.into_iter().take(ROWS) {
        let name: String = name.chars().take(60).collect();
        let share = format!("{:.3}", kept as f64 / all.max(1) as f64);
        table = table.row(&[&name, &thousands(all), &thousands(kept), &share]);
    }
    table
}

/// Pictures that several pairs have, by the hash of what was downloaded.
fn duplicates(section: &mut Section, rows: &[&Judged], album: Option<&Album>) -> Result<()> {
    let mut groups: BTreeMap<&str, Vec<&Judged>> = BTreeMap::new();
    for row in rows {
        if let Some(hash) = &row.sha256 {
            groups.entry(hash).or_default().push(row);
        }
    }
    if groups.is_empty() {
        return Ok(());
    }
    let mut several: Vec<Vec<&Judged>> = groups.into_values().filter(|g| g.len() > 1).collect();
    several.sort_by(|a, b| b.len().cmp(&a.len()).then(a[0].uid.cmp(&b[0].uid)));
    section.push(Block::Heading("Pictures that occur several times".to_owned()));
    let more: usize = several.iter().map(|group| group.len() - 1).sum();
    section.push(Block::Note(format!(
        "{} pictures occur in several pairs, with {} pairs more than pictures (the same bytes as downloaded).",
        thousands(several.len() as u64),
        thousands(more as u64)
    )));
    let Some(album) = album else { return Ok(()) };
    for group in several.iter().take(GROUPS) {
        let mut items = Vec::new();
        for row in group.iter().take(OF_GROUP) {
            if let Some(picture) = album.picture(&row.key)? {
                let note = row.reason.as_deref().unwrap_or("kept");
                items.push(Thumbnail::new(&picture, &row.caption, note));
            }
        }
        if !items.is_empty() {
            section.push(Block::Pictures { title: format!("{} pairs", group.len()), items });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_counted_once_a_caption_and_without_single_letters() {
        assert_eq!(words("A cat, a CAT & two dogs' x"), ["cat", "dogs", "two"]);
        assert_eq!(words("— – 1 22"), ["22"]);
    }

    #[test]
    fn a_table_has_the_most_frequent_first_with_the_share_that_was_kept() {
        let tallies = BTreeMap::from([
            ("b".to_owned(), Tally { all: 4, kept: 1 }),
            ("a".to_owned(), Tally { all: 2, kept: 2 }),
        ]);
        let table = table("word", tallies);
        assert_eq!(table.rows[0], ["b", "4", "1", "0.250"]);
        assert_eq!(table.rows[1], ["a", "2", "2", "1.000"]);
    }
}
