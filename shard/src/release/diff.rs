//! What changed between two releases.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use sha2::{Digest, Sha256};
use stage::{Context, Error, Result, ResultExt, in_parallel};
use store::StageDir;
use store::parquet::{File, Pick};
use store::subset::Uid;

use super::manifest::metadata_name;
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
    let (mut a, mut b) = (before.iter().peekable(), after.iter().peekable());
    let count = |list: &mut (u64, Vec<String>), uid: Uid| {
        list.0 += 1;
        if list.1.len() < NAMED {
            list.1.push(uid.to_string());
        }
    };
    loop {
        match (a.peek(), b.peek()) {
            (None, None) => return Ok(changes),
            (Some((x, _)), Some((y, _))) if x == y => {
                let (Some((uid, old)), Some((_, new))) = (a.next(), b.next()) else { continue };
                if old == new {
                    changes.same += 1;
                    continue;
                }
                count(&mut changes.changed, *uid);
                for (name, _) in names.iter().zip(old.iter().zip(new)).filter(|(_, (o, n))| o != n)
                {
                    *changes.columns.entry(name.clone()).or_default() += 1;
                }
            }
            (Some((x, _)), y) if y.is_none_or(|(y, _)| x < y) => {
                count(&mut changes.removed, *x);
                a.next();
            }
            (_, Some((y, _))) => {
                count(&mut changes.added, *y);
                b.next();
            }
            (Some(_), None) => {
                a.next();
            }
        }
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
    let uids = batch.column_by_name("uid").and_then(|c| c.as_string_opt::<i32>());
    let uids = uids.ok_or_else(|| Error::input("`uid` is no text"))?;
    let options = arrow_cast::display::FormatOptions::default().with_null("\0");
    let columns = names.iter().map(|name| {
        let column = batch.column_by_name(name);
        let column = column.ok_or_else(|| Error::internal("a picked column"))?;
        arrow_cast::display::ArrayFormatter::try_new(column, &options)
            .internal("cannot show values")
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    for row in 0..batch.num_rows() {
        let uid = uids.is_valid(row).then(|| Uid::parse(uids.value(row))).flatten();
        let Some(uid) = uid else { continue };
        let hashes = columns.iter().map(|column| {
            let digest = Sha256::digest(column.value(row).to_string());
            let head = digest.first_chunk::<8>();
            head.map_or(0, |head| u64::from_le_bytes(*head))
        });
        rows.push((uid, hashes.collect()));
    }
    Ok(())
}
