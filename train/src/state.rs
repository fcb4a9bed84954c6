//! The saved state of a training: weights, statistics, moments, and where the data stood.
//!
//! One safetensors file a state, `state-<step>.safetensors`, whose metadata carries the cursor, and
//! beside it `state-<step>.json` with its length and sha256. The json comes into being last, by a
//! rename after fsync; a state without it, or whose bytes differ from it, does not exist. The last
//! two states are kept.

mod file;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use stage::{Error, Result, ResultExt};

use self::file::{Manifest, read, write_tensors};
pub(crate) use self::file::{hex, write_whole};
use crate::trainer::Trainer;

/// Where a training stood.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    /// Steps done, skipped ones included: the next step's number.
    pub(crate) step: u64,
    /// The step at which this training began: above 0 where it went on from another's state.
    pub(crate) began: u64,
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

impl Cursor {
    /// Mean loss of the current epoch so far.
    pub(crate) fn mean_loss(&self) -> f64 {
        self.loss_sum / self.loss_count.max(1) as f64
    }
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
    tensors: BTreeMap<String, Numbers>,
}

struct Numbers {
    shape: Vec<usize>,
    values: Vec<f32>,
}

const KEEP: usize = 2;

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

/// Writes a state of its own, without a manifest: beside a kept checkpoint.
pub(crate) fn write_to(path: &Path, trainer: &Trainer, cursor: &Cursor) -> Result<()> {
    write_tensors(path, trainer, cursor).map(drop)
}

/// Reads a state by its path: the tensors, or the manifest beside them.
///
/// # Errors
/// When it cannot be read or is broken.
pub(crate) fn open(path: &Path) -> Result<Saved> {
    let manifest = path.with_extension("json");
    let saved = if manifest.is_file() {
        read(&manifest)
    } else {
        fs::read(path).input("cannot read the state").and_then(|bytes| file::parse(&bytes))
    };
    saved.map_err(|e| {
        e.at(path.display()).hint("name a state: `checkpoints/epoch_K.state.safetensors`, or `state-*.safetensors` of a work folder; for weights alone there is `pretrained`")
    })
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
        let trained = trainer.trained();
        let expected = params.vars().len() + trained.len() * 2 + params.buffers().len();
        for (group, vars) in [("weight", params.vars()), ("buffer", params.buffers())] {
            for (name, var) in vars {
                let numbers = self.tensor(group, name, var.dims())?;
                let tensor = Tensor::from_slice(&numbers.values, var.shape(), var.device())
                    .and_then(|tensor| var.set(&tensor));
                tensor.model(format!("cannot restore {name}"))?;
            }
        }
        for (name, var) in trained {
            self.tensor("first", name, &[var.elem_count()])?;
            self.tensor("second", name, &[var.elem_count()])?;
        }
        if self.tensors.len() != expected {
            return Err(Error::model(format!(
                "the state has {} tensors, the training needs {expected}",
                self.tensors.len()
            ))
            .hint("the state belongs to another model, or to one with other locked towers"));
        }
        let restored = trainer.optimizer.restore(self.cursor.updates, |name, slot| {
            let moment = |which| self.tensors[&key(which, name)].values.as_slice();
            slot.set([moment("first"), moment("second")])
        });
        restored.model("cannot restore the moments")
    }

    fn tensor(&self, group: &str, name: &str, shape: &[usize]) -> Result<&Numbers> {
        match self.tensors.get(&key(group, name)) {
            Some(numbers) if numbers.shape == shape => Ok(numbers),
            Some(numbers) => Err(Error::model(format!(
                "{group} {name} has shape {:?} in the state, {shape:?} in the model",
                numbers.shape
            ))),
            None => Err(Error::model(format!("the state has no {group} {name}"))),
        }
    }
}

fn key(group: &str, name: &str) -> String {
    format!("{group}/{name}")
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
pub(crate) fn differences(place: &str, was: &Value, is: &Value) -> Vec<String> {
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
