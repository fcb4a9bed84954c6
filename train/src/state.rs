//! The saved state of a training: weights, statistics, moments, and where the data stood.
//!
//! One safetensors file a state, `state-<step>.safetensors`, whose metadata carries the cursor, and
//! beside it `state-<step>.json` with its length and sha256. The json comes into being last, by a
//! rename after fsync; a state without it, or whose bytes differ from it, does not exist. The last
//! two states are kept.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use stage::{Error, Result, ResultExt};

use crate::slices;
use crate::trainer::Trainer;

/// Where a training stood.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    /// Steps done, skipped ones included: the next step's number.
    pub(crate) step: u64,
    /// Updates of the optimiser.
    pub(crate) updates: u64,
    /// Steps skipped for a loss or gradient that was not finite.
    pub(crate) skipped: u64,
    /// How many of the latest steps were skipped.
    pub(crate) bad_in_a_row: u64,
    /// Bytes of `metrics.jsonl` that belong to these steps.
    pub(crate) metrics_bytes: u64,
    /// Hex sha256 of those bytes.
    pub(crate) metrics_sha256: String,
    /// Sum of the losses of the current epoch's steps that counted.
    #[serde(with = "bits")]
    pub(crate) loss_sum: f64,
    /// How many they are.
    pub(crate) loss_count: u64,
    /// Mean loss of the last closed epoch.
    #[serde(with = "bits")]
    pub(crate) last_epoch_loss: f64,
    /// Lines of `results.jsonl` so far.
    pub(crate) results: Vec<String>,
    /// Samples found broken, with the reason.
    pub(crate) broken: BTreeMap<u64, String>,
    /// What must be equal for the state to continue a run, as JSON: settings, model, data.
    pub(crate) identity: String,
}

/// An f64 as its bits: JSON's decimal form may come back one unit in the last place off.
mod bits {
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(value: &f64, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_u64(value.to_bits())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<f64, D::Error> {
        u64::deserialize(input).map(f64::from_bits)
    }
}

/// A state read back.
pub(crate) struct Saved {
    pub(crate) cursor: Cursor,
    tensors: BTreeMap<String, Vec<f32>>,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    file: String,
    bytes: u64,
    sha256: String,
}

const KEEP: usize = 2;
const METADATA: &str = "clipmill_training_state";

/// Writes a state; afterwards either it or the previous one is whole, whenever the machine stops.
pub(crate) fn save(dir: &Path, trainer: &Trainer, cursor: &Cursor) -> Result<()> {
    let name = format!("state-{:012}", cursor.step);
    let file = format!("{name}.safetensors");
    let (bytes, sha256) = write_tensors(&dir.join(&file), trainer, cursor)?;
    let manifest = Manifest { file, bytes, sha256 };
    let text = serde_json::to_vec_pretty(&manifest).internal("state manifest")?;
    write_whole(&dir.join(format!("{name}.json")), |out| out.write_all(&text))?;
    sync_dir(dir)?;
    for old in manifests(dir)?.into_iter().skip(KEEP) {
        remove(&old);
        remove(&old.with_extension("safetensors"));
    }
    Ok(())
}

/// The newest state for which `usable` holds, and a sentence for each that was passed over.
///
/// # Errors
/// [`stage::Kind::Conflict`] when the newest whole state belongs to another training.
pub(crate) fn load(
    dir: &Path,
    identity: &str,
    usable: impl Fn(&Cursor) -> Result<()>,
) -> Result<(Option<Saved>, Vec<String>)> {
    let mut notes = Vec::new();
    for path in manifests(dir)? {
        let saved = match read(&path).and_then(|saved| usable(&saved.cursor).map(|()| saved)) {
            Ok(saved) => saved,
            Err(error) => {
                notes.push(format!("passed over {}: {error}", file_name(&path)));
                continue;
            }
        };
        if saved.cursor.identity != identity {
            let parse = |text| serde_json::from_str(text).unwrap_or_default();
            let fields = differences("", &parse(&saved.cursor.identity), &parse(identity));
            return Err(Error::conflict(format!(
                "the saved state belongs to another training: {}",
                fields.join("; ")
            ))
            .at(dir.display())
            .hint("restore these fields, or give the training an empty work folder"));
        }
        return Ok((Some(saved), notes));
    }
    Ok((None, notes))
}

impl Saved {
    /// Puts everything back where it was.
    pub(crate) fn restore(&self, trainer: &mut Trainer) -> Result<()> {
        let params = trainer.clip.params();
        let expected = params.vars().len() * 3 + params.buffers().len();
        if self.tensors.len() != expected {
            return Err(Error::model(format!(
                "the state has {} tensors, the model needs {expected}",
                self.tensors.len()
            )));
        }
        for (group, vars) in [("weight", params.vars()), ("buffer", params.buffers())] {
            for (name, var) in vars {
                let values = self.tensor(group, name, var.elem_count())?;
                let tensor = Tensor::from_slice(values, var.shape(), var.device())
                    .and_then(|tensor| var.set(&tensor));
                tensor.model(format!("cannot restore {name}"))?;
            }
        }
        for (name, var) in params.vars() {
            self.tensor("first", name, var.elem_count())?;
            self.tensor("second", name, var.elem_count())?;
        }
        trainer.optimizer.restore(self.cursor.updates, |name, slot| {
            slot.first.copy_from_slice(&self.tensors[&key("first", name)]);
            slot.second.copy_from_slice(&self.tensors[&key("second", name)]);
        });
        Ok(())
    }

    fn tensor(&self, group: &str, name: &str, count: usize) -> Result<&[f32]> {
        match self.tensors.get(&key(group, name)) {
            Some(values) if values.len() == count => Ok(values),
            Some(values) => Err(Error::model(format!(
                "{group} {name} has {} numbers in the state, {count} in the model",
                values.len()
            ))),
            None => Err(Error::model(format!("the state has no {group} {name}"))),
        }
    }
}

fn key(group: &str, name: &str) -> String {
    format!("{group}/{name}")
}

/// Writes all numbers as one safetensors file, hashing on the way.
fn write_tensors(path: &Path, trainer: &Trainer, cursor: &Cursor) -> Result<(u64, String)> {
    let params = trainer.clip.params();
    let slots = trainer.optimizer.slots();
    let mut header = Map::new();
    let cursor = serde_json::to_string(cursor).internal("state cursor")?;
    header.insert("__metadata__".to_owned(), json!({ METADATA: cursor }));
    let mut offset = 0;
    let mut announce = |name: String, shape: &[usize]| {
        let end = offset + shape.iter().product::<usize>() * 4;
        header.insert(name, json!({"dtype": "F32", "shape": shape, "data_offsets": [offset, end]}));
        offset = end;
    };
    for (name, var) in params.vars() {
        announce(key("weight", name), var.dims());
    }
    for (name, var) in params.buffers() {
        announce(key("buffer", name), var.dims());
    }
    for (name, slot) in slots {
        announce(key("first", name), &[slot.first.len()]);
        announce(key("second", name), &[slot.second.len()]);
    }
    let mut header = serde_json::to_vec(&header).internal("state header")?;
    header.resize(header.len().next_multiple_of(8), b' ');

    let mut hashed = (0, Sha256::new());
    write_whole(path, |file| {
        let mut out = Hashing { file, bytes: 0, sha256: Sha256::new() };
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for var in params.vars().values().chain(params.buffers().values()) {
            slices::with(var.as_tensor(), |values| write_floats(&mut out, values))
                .map_err(std::io::Error::other)??;
        }
        for slot in slots.values() {
            write_floats(&mut out, &slot.first)?;
            write_floats(&mut out, &slot.second)?;
        }
        hashed = (out.bytes, out.sha256);
        Ok(())
    })?;
    Ok((hashed.0, hex(hashed.1)))
}

fn read(manifest: &Path) -> Result<Saved> {
    let text = fs::read(manifest).input("cannot read the manifest")?;
    let Manifest { bytes, sha256, file } =
        serde_json::from_slice(&text).input("the manifest is broken")?;
    let path = manifest.with_extension("safetensors");
    if file != file_name(&path) {
        return Err(Error::input(format!("the manifest names {file}")));
    }
    let mut input = File::open(&path).input("cannot open the tensors")?;
    let length = input.metadata().input("cannot read the tensors")?.len();
    if length != bytes {
        return Err(Error::input(format!("{length} bytes, the manifest says {bytes}")));
    }
    let mut content = Vec::with_capacity(length as usize);
    input.read_to_end(&mut content).input("cannot read the tensors")?;
    if hex(Sha256::new().chain_update(&content)) != sha256 {
        return Err(Error::input("sha256 differs from the manifest's"));
    }
    parse(&content)
}

fn parse(content: &[u8]) -> Result<Saved> {
    let broken = |what: &str| Error::input(format!("broken state: {what}"));
    let (length, rest) = content.split_first_chunk::<8>().ok_or_else(|| broken("no header"))?;
    let length =
        usize::try_from(u64::from_le_bytes(*length)).map_err(|_| broken("header length"))?;
    let (header, body) = rest.split_at_checked(length).ok_or_else(|| broken("header length"))?;
    let mut header: Map<String, Value> = serde_json::from_slice(header).input("broken state")?;
    let metadata = header.remove("__metadata__").ok_or_else(|| broken("no metadata"))?;
    let cursor = metadata[METADATA].as_str().ok_or_else(|| broken("no cursor"))?;
    let cursor = serde_json::from_str(cursor).input("broken state: cursor")?;
    let mut tensors = BTreeMap::new();
    for (name, entry) in header {
        let offsets: [usize; 2] = serde_json::from_value(entry["data_offsets"].clone())
            .input(format!("broken state: {name}"))?;
        let bytes = body.get(offsets[0]..offsets[1]).ok_or_else(|| broken(&name))?;
        let (numbers, rest) = bytes.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(broken(&name));
        }
        tensors.insert(name, numbers.iter().map(|b| f32::from_le_bytes(*b)).collect());
    }
    Ok(Saved { cursor, tensors })
}

/// Manifests in the folder, the newest first.
fn manifests(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).store(format!("cannot list {}", dir.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.store(format!("cannot list {}", dir.display()))?.path();
        let name = file_name(&path);
        if name.starts_with("state-") && path.extension().is_some_and(|e| e == "json") {
            found.push(path);
        }
    }
    found.sort_unstable_by(|a, b| b.cmp(a)); // step numbers have leading zeros
    Ok(found)
}

/// Writes a file under a temporary name, syncs it, and gives it its name.
pub(crate) fn write_whole(
    path: &Path,
    fill: impl FnOnce(&mut File) -> std::io::Result<()>,
) -> Result<()> {
    let temporary = path.with_extension("partial");
    let write = || {
        let mut file = File::create(&temporary)?;
        fill(&mut file)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().store(format!("cannot write {}", path.display()))
}

fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).store(format!("cannot sync {}", dir.display()))
}

/// Best effort: an old state left behind costs room, nothing else.
fn remove(path: &Path) {
    let _gone = fs::remove_file(path);
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The fields in which two identities differ: `settings.lr was 0.1, is 0.2`.
fn differences(place: &str, was: &Value, is: &Value) -> Vec<String> {
    let (Value::Object(a), Value::Object(b)) = (was, is) else {
        return if was == is { Vec::new() } else { vec![format!("{place} was {was}, is {is}")] };
    };
    let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let below = |name: &String| {
        let place = if place.is_empty() { name.clone() } else { format!("{place}.{name}") };
        let null = Value::Null;
        differences(&place, a.get(name).unwrap_or(&null), b.get(name).unwrap_or(&null))
    };
    names.into_iter().flat_map(below).collect()
}

/// Counts and hashes what passes into the file.
struct Hashing<'a> {
    file: &'a mut File,
    bytes: u64,
    sha256: Sha256,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.bytes += written as u64;
        self.sha256.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

fn write_floats(out: &mut impl Write, values: &[f32]) -> std::io::Result<()> {
    let mut buffer = Vec::with_capacity(1 << 16);
    for chunk in values.chunks(1 << 14) {
        buffer.clear();
        buffer.extend(chunk.iter().flat_map(|value| value.to_le_bytes()));
        out.write_all(&buffer)?;
    }
    Ok(())
}

pub(crate) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}
