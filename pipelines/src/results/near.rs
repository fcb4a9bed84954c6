//! What a `near_duplicates` stage took for one picture, side by side: the pair that was kept first.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, UInt32Type};
use arrow_array::{Array, RecordBatch};
use filter::near::DUPLICATES;
use report::{Block, Section, Table, Thumbnail};
use stage::Result;

use super::collect::{self, Judged};
use super::page::thousands;
use super::pictures::Album;
use crate::recipe::Noun;
use crate::stages::Done;

/// Groups of one kept pair that are shown, the largest first, and of the dropped pairs of each.
const GROUPS: usize = 4;
const OF_GROUP: usize = 5;
/// Pairs shown that are least alike: where a threshold is too wide, it shows there.
const FARTHEST: usize = 6;
/// Rows of `duplicates.parquet` that are held, of which the largest groups are found; all are counted.
const MOST_HELD: usize = 1 << 20;

/// A pair that went for another.
#[derive(Debug, Clone, PartialEq)]
struct Near {
    uid: String,
    kept: String,
    /// Bits in which the hashes differ.
    distance: u32,
    cosine: Option<f32>,
}

impl Near {
    /// `3 bits, cosine 0.987`
    fn say(&self) -> String {
        let bits =
            if self.distance == 1 { "1 bit".to_owned() } else { format!("{} bits", self.distance) };
        self.cosine.map_or(bits.clone(), |cosine| format!("{bits}, cosine {cosine:.3}"))
    }
}

/// The section, if a pair was dropped.
pub(super) fn near_duplicates(done: &Arc<Done>) -> Result<Option<Section>> {
    let rows = rows(done)?;
    if rows.count == 0 {
        return Ok(None);
    }
    let title = format!("Near-duplicates: {}", done.id);
    let mut section = Section::new(&format!("near-{}", done.id), &title);
    section.say("Each dropped pair beside the pair that was kept for it.");
    if let Some(note) = rows.note() {
        section.say(note);
    }
    let mut table = Table::new(&["bits that differ", "pairs dropped"]);
    for (distance, count) in &rows.by_distance {
        table = table.row(&[&distance.to_string(), &thousands(*count)]);
    }
    section.push(Block::Table(table));
    let judges = done.inputs.iter().filter(|input| input.noun == Noun::Scores);
    let mut judged: BTreeMap<String, (usize, Judged)> = BTreeMap::new();
    let mut albums = Vec::new();
    for judge in judges {
        let Some(shards) = judge.upstream(Noun::Shards) else { continue };
        for row in collect::scores(judge)?.rows {
            judged.entry(row.uid.clone()).or_insert((albums.len(), row));
        }
        albums.push(Album::open(&shards)?);
    }
    let shown = |uid: &str, note: &str| -> Result<Option<Thumbnail>> {
        let Some((album, row)) = judged.get(uid) else { return Ok(None) };
        let Some(album) = albums.get(*album) else { return Ok(None) };
        Ok(album.picture(&row.key)?.map(|picture| Thumbnail::new(&picture, &row.caption, note)))
    };
    for (kept, rows) in largest(&rows.held) {
        let Some(first) = shown(kept, "kept")? else { continue };
        let mut items = vec![first];
        for row in rows.iter().take(OF_GROUP) {
            items.extend(shown(&row.uid, &row.say())?);
        }
        let title = format!("{} pairs near one that was kept", thousands(rows.len() as u64));
        section.push(Block::Pictures { title, items });
    }
    let mut items = Vec::new();
    for row in &rows.farthest {
        if let (Some(kept), Some(gone)) = (shown(&row.kept, "kept")?, shown(&row.uid, &row.say())?)
        {
            items.extend([kept, gone]);
        }
    }
    if !items.is_empty() {
        let title = "The least alike, two by two".to_owned();
        section.push(Block::Pictures { title, items });
    }
    Ok(Some(section))
}

/// The kept pairs for which most were dropped; of as many, by uid.
fn largest(rows: &[Near]) -> Vec<(&str, Vec<&Near>)> {
    let mut groups: BTreeMap<&str, Vec<&Near>> = BTreeMap::new();
    rows.iter().for_each(|row| groups.entry(&row.kept).or_default().push(row));
    let mut sorted: Vec<(&str, Vec<&Near>)> = groups.into_iter().collect();
    sorted.sort_by(|a, b| b.1.len().cmp(&a.1.len()).then(a.0.cmp(b.0)));
    sorted.truncate(GROUPS);
    for (_, rows) in &mut sorted {
        rows.sort_by(|a, b| a.distance.cmp(&b.distance).then(a.uid.cmp(&b.uid)));
    }
    sorted
}

/// What `duplicates.parquet` says, in its order.
#[derive(Default)]
struct Rows {
    count: u64,
    by_distance: BTreeMap<u32, u64>,
    /// The first of them.
    held: Vec<Near>,
    /// The dropped pairs that differ most from what was kept, by bits, then by cosine.
    farthest: Vec<Near>,
}

impl Rows {
    fn add(&mut self, rows: Vec<Near>, most_held: usize) {
        for row in &rows {
            self.count += 1;
            *self.by_distance.entry(row.distance).or_default() += 1;
        }
        self.farthest.extend(rows.iter().cloned());
        let cosine = |row: &Near| row.cosine.unwrap_or(1.0);
        self.farthest.sort_by(|a, b| {
            let by_cosine = cosine(a).total_cmp(&cosine(b));
            b.distance.cmp(&a.distance).then(by_cosine).then_with(|| a.uid.cmp(&b.uid))
        });
        self.farthest.truncate(FARTHEST);
        self.held.extend(rows.into_iter().take(most_held.saturating_sub(self.held.len())));
    }

    /// That the groups are not of all rows, where they are not.
    fn note(&self) -> Option<String> {
        let held = self.held.len() as u64;
        (held < self.count).then(|| {
            format!(
                "The groups are those of the first {} of {} dropped pairs; the table counts all.",
                thousands(held),
                thousands(self.count)
            )
        })
    }
}

fn rows(done: &Done) -> Result<Rows> {
    let mut rows = Rows::default();
    for blob in done.blobs(DUPLICATES)? {
        for batch in store::parquet::read_parquet(&blob)? {
            rows.add(of_batch(&batch?), MOST_HELD);
        }
    }
    Ok(rows)
}

fn of_batch(batch: &RecordBatch) -> Vec<Near> {
    let text = |name: &str| batch.column_by_name(name)?.as_string_opt::<i32>();
    let distance =
        batch.column_by_name("distance").and_then(|c| c.as_primitive_opt::<UInt32Type>());
    let cosine = batch.column_by_name("cosine").and_then(|c| c.as_primitive_opt::<Float32Type>());
    let (Some(uids), Some(kept), Some(distance)) = (text("uid"), text("kept_uid"), distance) else {
        return Vec::new();
    };
    let row = |i: usize| Near {
        uid: uids.value(i).to_owned(),
        kept: kept.value(i).to_owned(),
        distance: distance.value(i),
        cosine: cosine.filter(|c| c.is_valid(i)).map(|c| c.value(i)),
    };
    (0..batch.num_rows()).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(uid: &str, kept: &str, distance: u32, cosine: Option<f32>) -> Near {
        Near { uid: uid.to_owned(), kept: kept.to_owned(), distance, cosine }
    }

    #[test]
    fn the_largest_groups_come_first_and_the_nearest_of_each() {
        let rows = [near("b", "a", 3, None), near("d", "c", 0, None), near("e", "a", 1, None)];
        let groups = largest(&rows);
        let told: Vec<(&str, Vec<&str>)> = groups
            .iter()
            .map(|(kept, rows)| (*kept, rows.iter().map(|row| row.uid.as_str()).collect()))
            .collect();
        assert_eq!(told, [("a", vec!["e", "b"]), ("c", vec!["d"])]);
    }

    #[test]
    fn the_least_alike_are_those_of_most_bits_then_of_the_smallest_cosine() {
        let rows =
            [near("a", "x", 2, Some(0.99)), near("b", "x", 4, None), near("c", "x", 2, Some(0.91))];
        let mut all = Rows::default();
        rows.iter().for_each(|row| all.add(vec![row.clone()], 9));
        let told: Vec<&str> = all.farthest.iter().map(|row| row.uid.as_str()).collect();
        assert_eq!(told, ["b", "c", "a"]);
        assert_eq!(
            (rows[0].say(), near("d", "x", 1, None).say()),
            ("2 bits, cosine 0.990".to_owned(), "1 bit".to_owned())
        );
    }

    #[test]
    fn every_row_is_counted_and_it_is_said_of_how_many_the_groups_are() {
        let mut rows = Rows::default();
        rows.add(vec![near("a", "x", 2, None), near("b", "x", 2, None)], 3);
        assert_eq!(rows.note(), None);
        rows.add(vec![near("c", "x", 4, None), near("d", "x", 2, None)], 3);
        assert_eq!((rows.count, rows.held.len()), (4, 3));
        assert_eq!(rows.by_distance, [(2, 3), (4, 1)].into());
        assert_eq!(rows.farthest[0].uid, "c");
        let note = rows.note().unwrap();
        assert!(note.starts_with("The groups are those of the first 3 of 4 dropped"), "{note}");
    }
}
