//! What changed between two releases.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use arrow_array::RecordBatch;
use sha2::{Digest, Sha256};
use stage::{Context, Error, Result, ResultExt, in_parallel};
use store::StageDir;
use store::parquet::{File, Pick};
use store::subset::Uid;

use super::manifest::metadata_name;
use super::text_column::{needed, value};
use super::{Manifest, Summary};

/// Columns that say where a pair lies rather than what it is.
const PLACES: [&str; 2] = ["shard", "key"];
/// Uids that are named of each kind.
const NAMED: usize = 20;

/// What changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Changes {
    /// The manifest of the first and of the second.
    pub manifests: [Manifest; 2],
    /// Uids of the second that the first lacks: how many, and the first twenty.
    pub added: (u64, Vec<String>),
    /// Uids of the first that the second lacks.
    pub removed: (u64, Vec<String>),
    /// Uids of both whose row differs (place in the shards aside).
    pub changed: (u64, Vec<String>),
    /// Uids of both with the same row.
    pub same: u64,
    /// Of how many changed pairs each column differs; a column that one of both lacks is not counted.
    pub columns: BTreeMap<String, u64>,
    /// Each score of either.
    pub scores: BTreeMap<String, ScoreChange>,
}

/// A score in both releases.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreChange {
    /// How it is distributed in the first and in the second; `None` where there is none.
    pub summaries: [Option<Summary>; 2],
}

/// A row in short: its uid, and a hash for each column.
type Row = (Uid, Vec<u64>);

/// Compares two releases row by row. Held in memory: 16 bytes and 8 for each column, of each pair of
/// both.
///
/// # Errors
/// When one is no release or cannot be read.
pub fn diff(cx: &Context, first: &StageDir, second: &StageDir) -> Result<Changes> {
    let manifests = [Manifest::read(first)?, Manifest::read(second)?];
    // Columns of both, by name: only those can be compared.
    let names: Vec<String> = manifests[0]
        .columns
        .keys()
        .filter(|name| {
            manifests[1].columns.contains_key(*name)
                && *name != "uid"
                && !PLACES.contains(&name.as_str())
        })
        .cloned()
        .collect();
    let before = rows(cx, first, &manifests[0], &names)?;
    let after = rows(cx, second, &manifests[1], &names)?;
    let mut changes = Changes {
        scores: scores(&manifests),
        manifests,
        added: (0, Vec::new()),
        removed: (0, Vec::new()),
        changed: (0, Vec::new()),
        same: 0,
        columns: BTreeMap::new(),
    };
    let (mut a, mut b) = (&before[..], &after[..]);
    while let Some(uid) = a.first().into_iter().chain(b.first()).map(|(uid, _)| *uid).min() {
        changes.of_uid(uid, take_rows(&mut a, uid), take_rows(&mut b, uid), &names);
    }
    Ok(changes)
}

/// Takes the rows of this uid from the beginning of a sorted list.
fn take_rows<'r>(rows: &mut &'r [Row], uid: Uid) -> &'r [Row] {
    let (own, rest) = rows.split_at(rows.iter().take_while(|row| row.0 == uid).count());
    *rows = rest;
    own
}

impl Changes {
    /// Counts the rows of one uid. Equal ones of both belong together; of the rest one of each is a
    /// change, in their order, and what is left over was added or removed.
    fn of_uid(&mut self, uid: Uid, before: &[Row], after: &[Row], names: &[String]) {
        let count = |list: &mut (u64, Vec<String>)| {
            list.0 += 1;
            if list.1.len() < NAMED {
                list.1.push(uid.to_string());
            }
        };
        // Both are sorted.
        let (mut a, mut b, mut old, mut new) = (before, after, Vec::new(), Vec::new());
        while let (Some((x, before)), Some((y, after))) = (a.split_first(), b.split_first()) {
            match x.cmp(y) {
                Ordering::Equal => {
                    self.same += 1;
                    (a, b) = (before, after);
                }
                Ordering::Less => {
                    old.push(x);
                    a = before;
                }
                Ordering::Greater => {
                    new.push(y);
                    b = after;
                }
            }
        }
        old.extend(a);
        new.extend(b);
        for ((_, old), (_, new)) in old.iter().zip(&new) {
            count(&mut self.changed);
            let differ = names.iter().zip(old.iter().zip(new)).filter(|(_, (o, n))| o != n);
            for (name, _) in differ {
                *self.columns.entry(name.clone()).or_default() += 1;
            }
        }
        let both = old.len().min(new.len());
        old.iter().skip(both).for_each(|_| count(&mut self.removed));
        new.iter().skip(both).for_each(|_| count(&mut self.added));
    }
}

fn scores(manifests: &[Manifest; 2]) -> BTreeMap<String, ScoreChange> {
    let names = manifests.iter().flat_map(|manifest| manifest.scores.keys());
    let of = |name: &String| manifests.each_ref().map(|m| m.scores.get(name).cloned());
    names.map(|name| (name.clone(), ScoreChange { summaries: of(name) })).collect()
}

/// All rows by uid; of copies of one pair every one.
fn rows(cx: &Context, dir: &StageDir, manifest: &Manifest, names: &[String]) -> Result<Vec<Row>> {
    let units = manifest.units();
    let parts = in_parallel(cx.threads, units.len(), |i| {
        cx.cancel.check()?;
        let blob = dir.blob(&metadata_name(&units[i]))?;
        let mut columns: Vec<&str> = names.iter().map(String::as_str).collect();
        columns.push("uid");
        let mut rows = Vec::new();
        let pick = Pick { columns: Some(&columns), ..Pick::default() };
        for batch in File::open(&blob)?.batches(&pick)? {
            append(&batch?, names, &mut rows).map_err(|e| e.at(blob.name()))?;
        }
        Ok(rows)
    })?;
    let mut rows = parts.concat();
    rows.sort_unstable();
    Ok(rows)
}

fn append(batch: &RecordBatch, names: &[String], rows: &mut Vec<Row>) -> Result<()> {
    let uids = needed(batch, "uid")?;
    let options = arrow_cast::display::FormatOptions::default().with_null("\0");
    let columns = names.iter().map(|name| {
        let column = batch.column_by_name(name);
        let column = column.ok_or_else(|| Error::internal("a picked column"))?;
        arrow_cast::display::ArrayFormatter::try_new(column, &options)
            .internal("cannot show values")
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    for row in 0..batch.num_rows() {
        let Some(uid) = value(&uids, row).and_then(Uid::parse) else { continue };
        let hashes = columns.iter().map(|column| {
            let digest = Sha256::digest(column.value(row).to_string());
            let head = digest.first_chunk::<8>();
            head.map_or(0, |head| u64::from_le_bytes(*head))
        });
        rows.push((uid, hashes.collect()));
    }
    Ok(())
}
