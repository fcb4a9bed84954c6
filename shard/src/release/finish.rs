//! The files that stand once beside shards and metadata.

use std::io::{self, Write};

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use sha2::{Digest, Sha256};
use stage::{Counts, Error, Result, ResultExt};
use store::parquet::{File, Pick};
use store::subset::{self, Uid};
use store::{Attempt, Commit, StageDir};

use super::manifest::{FORMAT, MANIFEST, SUMS, shard_name, sums, unit_of};
use super::merkle::merkle_root;
use super::score_table::score_fields;
use super::text_column::{needed, value};
use super::tombstones::{TOMBSTONES, Tombstones};
use super::{Manifest, Parent, ReleaseFile, ReleasePlan, StageRecord, Summary};
use super::{card, croissant, hub};

/// The uids of a release, as DataComp's subset files have them.
pub const SUBSET: &str = "subset.npy";

/// What only the caller of [`finish`] knows.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// Id of the stage that made the first version.
    pub name: &'a str,
    /// Version, from 1.
    pub version: u32,
    /// The version before.
    pub parent: Option<Parent>,
    /// The plan.
    pub plan: &'a ReleasePlan,
    /// What became of the samples that entered.
    pub counts: Counts,
    /// The stages behind it, sources first.
    pub lineage: Vec<StageRecord>,
    /// The uids as often as they are wanted, sorted; without, one for each row of the metadata.
    pub subset: Option<Vec<Uid>>,
    /// What was taken out, of this version and those before.
    pub tombstones: Option<Tombstones>,
}

/// Writes `subset.npy`, `LICENSE`, `README.md`, `croissant.json`, where something was purged
/// `tombstones.json`, then `manifest.json` and `SHA256SUMS` into an attempt. `commits` are the
/// records of all units, whose files lie in `dir`. The uids and, one after another, the numeric
/// scores are held in memory: 16 and 8 bytes a pair.
///
/// # Errors
/// When a metadata file cannot be read, when there is no pair and the plan does not allow that, and
/// when the hub's limits are broken and the plan does not allow that.
pub fn finish(
    dir: &StageDir,
    commits: &[Commit],
    facts: Facts<'_>,
    out: &mut Attempt,
) -> Result<Manifest> {
    let mut files: Vec<ReleaseFile> = Vec::new();
    let mut rows = Rows::default();
    for commit in commits {
        for file in &commit.files {
            let mut samples = None;
            if unit_of(&file.name).is_some() {
                samples = Some(rows.add(&File::open(&dir.blob(&file.name)?)?, &file.name)?);
            }
            let path = file.name.clone();
            files.push(ReleaseFile {
                path,
                bytes: file.bytes,
                sha256: file.sha256.clone(),
                samples,
            });
        }
    }
    let of_unit = |files: &[ReleaseFile], path: &str| {
        let metadata = |f: &&ReleaseFile| unit_of(&f.path).map(shard_name).as_deref() == Some(path);
        files.iter().find(metadata).and_then(|f| f.samples)
    };
    for at in 0..files.len() {
        if files[at].samples.is_none() {
            files[at].samples = of_unit(&files, &files[at].path);
        }
    }
    let Facts { name, version, parent, plan, counts, lineage, subset, tombstones } = facts;
    rows.uids.sort_unstable();
    let samples = rows.uids.len() as u64;
    if samples == 0 && !plan.allow_empty {
        return Err(Error::input(format!(
            "the release is empty: {} samples entered and none is left",
            counts.entered
        ))
        .hint("loosen the selection before it, or write `allow_empty: true`"));
    }
    let repeated = rows.uids.windows(2).filter(|pair| pair[0] == pair[1]).count() as u64;
    let chosen = match subset {
        Some(wanted) => {
            wanted.into_iter().filter(|uid| rows.uids.binary_search(uid).is_ok()).collect()
        }
        None => rows.uids,
    };
    let scores = rows.scores;
    let scores = scores.into_iter().map(|name| Ok((name.clone(), of_column(dir, &files, &name)?)));
    let scores = scores.collect::<Result<_>>()?;
    files.push(write(out, SUBSET, |out| subset::write(out, &chosen))?);
    drop(chosen);
    if let Some(tombstones) = &tombstones {
        let bytes = tombstones.to_bytes()?;
        files.push(put(out, TOMBSTONES, &bytes)?);
    }
    let mut manifest = Manifest {
        format: FORMAT.to_owned(),
        name: name.to_owned(),
        version,
        parent,
        merkle_root: String::new(),
        samples,
        repeated_uids: repeated,
        bytes: 0,
        counts,
        lineage,
        columns: rows.columns.into_iter().collect(),
        scores,
        hub: Vec::new(),
        plan: plan.clone(),
        files,
    };
    manifest.counts.check()?;
    let gone = tombstones.as_ref().map_or(0, |t| t.samples);
    manifest.files.push(put(out, "LICENSE", card::license(&manifest).as_bytes())?);
    manifest.files.push(put(out, "README.md", card::readme(&manifest, gone).as_bytes())?);
    let described = croissant::croissant(&manifest, gone);
    let mut json = serde_json::to_vec_pretty(&described).internal("cannot write croissant.json")?;
    json.push(b'\n');
    manifest.files.push(put(out, "croissant.json", &json)?);
    manifest.files.sort_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
    manifest.bytes = manifest.files.iter().map(|file| file.bytes).sum();
    manifest.merkle_root = merkle_root(&manifest.files);
    manifest.hub = hub::lint(&manifest.files);
    if let Some(first) = manifest.hub.first()
        && plan.hub_limits
    {
        let more = manifest.hub.len() - 1;
        return Err(Error::input(format!("the Hugging Face hub would refuse this: {first}")).hint(
            format!(
                "{more} more of this kind; reshard into fewer files, or write `hub_limits: false`"
            ),
        ));
    }
    let bytes = manifest.to_bytes()?;
    let own = put(out, MANIFEST, &bytes)?;
    out.put(SUMS, sums(&manifest.files, &own.sha256).as_bytes())?;
    Ok(manifest)
}

/// What all metadata files say together.
#[derive(Default)]
struct Rows {
    uids: Vec<Uid>,
    columns: Vec<(String, String)>,
    /// Numeric score columns.
    scores: Vec<String>,
}

impl Rows {
    /// Takes the uids of a metadata file; its number of rows.
    fn add(&mut self, table: &File, name: &str) -> Result<u64> {
        let schema = table.schema();
        let columns: Vec<(String, String)> =
            schema.fields().iter().map(|f| (f.name().clone(), f.data_type().to_string())).collect();
        if self.columns.is_empty() {
            self.columns = columns;
            let scores = score_fields(schema);
            let numeric = scores.iter().filter(|field| field.data_type().is_numeric());
            self.scores = numeric.map(|field| field.name().clone()).collect();
        } else if self.columns != columns {
            return Err(Error::input("other columns than the metadata before")
                .at(name)
                .hint("release what one judge stage made"));
        }
        let before = self.uids.len();
        for batch in table.batches(&Pick { columns: Some(&["uid"]), ..Pick::default() })? {
            let batch = batch?;
            let uids = needed(&batch, "uid").map_err(|error| error.at(name))?;
            for row in 0..uids.len() {
                let uid = value(&uids, row).and_then(Uid::parse);
                self.uids.push(uid.ok_or_else(|| {
                    Error::input(format!("row {row} has no uid of 32 hex digits")).at(name)
                })?);
            }
        }
        Ok((self.uids.len() - before) as u64)
    }
}

/// One score over all metadata files.
fn of_column(dir: &StageDir, files: &[ReleaseFile], name: &str) -> Result<Summary> {
    let (mut values, mut missing) = (Vec::new(), 0);
    for file in files.iter().filter(|file| unit_of(&file.path).is_some()) {
        let table = File::open(&dir.blob(&file.path)?)?;
        for batch in table.batches(&Pick { columns: Some(&[name]), ..Pick::default() })? {
            missing += numbers(&batch?, name, &mut values)?;
        }
    }
    Ok(Summary::of(values, missing))
}

/// Appends the numbers of a column; how many rows have none.
pub(crate) fn numbers(batch: &RecordBatch, name: &str, values: &mut Vec<f64>) -> Result<u64> {
    let column = batch.column_by_name(name).ok_or_else(|| Error::internal("a picked column"))?;
    let column = arrow_cast::cast(column, &DataType::Float64).internal("cannot read a number")?;
    let column = column.as_primitive::<Float64Type>();
    let before = values.len();
    values.extend(column.iter().flatten());
    Ok((column.len() - (values.len() - before)) as u64)
}

fn put(out: &mut Attempt, name: &str, bytes: &[u8]) -> Result<ReleaseFile> {
    write(out, name, |out| out.write_all(bytes).map_err(store::write_error))
}

/// Writes a file and says what the manifest says of it.
fn write(
    out: &mut Attempt,
    name: &str,
    fill: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<ReleaseFile> {
    let mut file = Counting { file: out.file(name)?, hash: Sha256::new(), bytes: 0 };
    fill(&mut file)?;
    let Counting { file, hash, bytes } = file;
    file.finish()?;
    let sha256 = format!("{:x}", hash.finalize());
    Ok(ReleaseFile { path: name.to_owned(), bytes, sha256, samples: None })
}

struct Counting {
    file: store::AttemptFile,
    hash: Sha256,
    bytes: u64,
}

impl Write for Counting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
