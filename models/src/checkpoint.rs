//! Checkpoints: a folder of `weights.safetensors`, `open_clip_config.json` and `checkpoint.json`;
//! and what others left: a hub's folder, or a bare file with the name of its configuration.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::Device;
use serde_json::json;
use sha2::{Digest, Sha256};
use stage::{Change, Checkpoint, Error, Preprocess, Result, ResultExt};

use crate::clip::Clip;
use crate::config::ClipConfig;
use crate::weights::{self, Weights};
use crate::{hub, names, shapes};

/// File of the tensors.
const WEIGHTS: &str = "weights.safetensors";
/// File of open_clip's configuration, so that its loaders open the folder.
const OPEN_CLIP: &str = "open_clip_config.json";
/// File of the handle.
const CHECKPOINT: &str = "checkpoint.json";
/// Largest JSON file that is read.
const MOST_JSON: u64 = 16 << 20;
/// Numbers that a file may carry beside its parameters: statistics, masks.
const SLACK: u64 = 8 << 20;
/// Bytes that a safetensors file may have beside 8 for each number: its header.
const HEADER: u64 = 64 << 20;

/// The only way from a handle to tensors. `base` is the folder that relative weights start from.
///
/// # Errors
/// A change, tokenizer or configuration that is not known, a file whose sha256 is not the
/// handle's, or tensors that do not fit.
pub fn open(checkpoint: &Checkpoint, base: &Path, device: &Device) -> Result<Clip> {
    if checkpoint.tokenizer != "clip" {
        return Err(Error::model(format!(
            "the tokenizer `{}` is not implemented; there is `clip`",
            checkpoint.tokenizer
        )));
    }
    if checkpoint.weights.contains("://") {
        return Err(Error::input(format!("the weights are at {}", checkpoint.weights))
            .hint("copy them beside checkpoint.json and name the file"));
    }
    let config = ClipConfig::from_json(&checkpoint.model)?;
    let path = base.join(&checkpoint.weights);
    let weights = open_file(&path, &config, &checkpoint.changes)?;
    let found = weights.sha256()?;
    if !found.eq_ignore_ascii_case(&checkpoint.sha256) {
        return Err(Error::input(format!(
            "sha256 is {found}, the checkpoint says {}",
            checkpoint.sha256
        ))
        .hint("fetch the weights again; they are damaged or of another model")
        .at(path.display()));
    }
    load(&weights, &config, &checkpoint.changes, device).map_err(|e| e.at(path.display()))
}

/// Opens bare weights of open_clip's plain form by the name of their configuration: a
/// `.safetensors`, a `.pt`, `.pth` or `.bin` of PyTorch's, or the `.index.json` of several.
///
/// # Errors
/// What [`ClipConfig::named`] and [`Weights::open`] refuse, or tensors that do not fit.
pub fn open_weights(path: &Path, model: &str, device: &Device) -> Result<Clip> {
    let config = ClipConfig::named(model)?;
    let weights = open_file(path, &config, &[])?;
    load(&weights, &config, &[], device).map_err(|e| e.at(path.display()))
}

/// A handle for bare weights and the name of their configuration; `weights` in it is relative to
/// the folder that holds the file.
///
/// # Errors
/// What [`ClipConfig::named`] and [`Weights::open`] refuse.
pub fn checkpoint_of(weights: &Path, model: &str) -> Result<Checkpoint> {
    hub::of_weights(weights, &ClipConfig::named(model)?, Preprocess::default())
}

/// The files that say which model a path is: our `checkpoint.json`, which has the digest of its
/// weights; of a hub's folder the configuration and all weights; of bare weights all their files.
///
/// # Errors
/// A folder without any, a file that is cut off, an index that is broken, a shard that is missing.
pub fn checkpoint_files(path: &Path) -> Result<Vec<PathBuf>> {
    let path = handle_of(path)?;
    let weights = if hub::is_config(&path) {
        hub::weights_beside(&path)?
    } else if is_weights(&path) {
        path.clone()
    } else {
        return Ok(vec![path]);
    };
    let mut files = vec![path, weights.clone()];
    files.extend(Weights::open(&weights)?.files().map(Path::to_owned));
    files.sort();
    files.dedup();
    Ok(files)
}

/// Whether a file holds tensors, or says which files do.
fn is_weights(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    path.is_file() && (!name.ends_with(".json") || name.ends_with(".index.json"))
}

fn load(
    weights: &Weights,
    config: &ClipConfig,
    changes: &[Change],
    device: &Device,
) -> Result<Clip> {
    let shapes = shapes::of(config, shapes::ffn(config, changes)?);
    let wanted = shapes.iter().map(|shape| shape.name.as_str()).collect();
    let most = numbers(config, changes)?.saturating_add(SLACK);
    let tensors = names::read(weights, &wanted, most)?;
    Clip::from_tensors(config, changes, tensors, device).map_err(|e| {
        if weights.naming() == names::Names::OpenClip { e } else { e.at(weights.summary()) }
    })
}

/// As [`write_checkpoint_for`], of a model whose pictures are prepared OpenAI's way.
///
/// # Errors
/// As [`write_checkpoint_for`].
pub fn write_checkpoint(
    clip: &Clip,
    dir: &Path,
    lineage: BTreeMap<String, String>,
) -> Result<Checkpoint> {
    write_checkpoint_for(&Preprocess::default(), clip, dir, lineage)
}

/// Writes `weights.safetensors`, `open_clip_config.json` and, last, `checkpoint.json` into `dir`,
/// each whole or not at all. The same model, preprocessing and lineage give the same bytes.
///
/// # Errors
/// When the folder or a file cannot be written.
pub fn write_checkpoint_for(
    preprocess: &Preprocess,
    clip: &Clip,
    dir: &Path,
    lineage: BTreeMap<String, String>,
) -> Result<Checkpoint> {
    fs::create_dir_all(dir).store("cannot make the folder").map_err(|e| e.at(dir.display()))?;
    let bytes = weights::to_bytes(&clip.params().tensors())?;
    let checkpoint = Checkpoint {
        weights: WEIGHTS.to_owned(),
        sha256: sha256(&bytes),
        model: clip.config().to_json(),
        changes: clip.changes().to_vec(),
        preprocess: preprocess.clone(),
        tokenizer: "clip".to_owned(),
        lineage,
    };
    let open_clip = json!({
        "model_cfg": checkpoint.model,
        "preprocess_cfg": {
            "mean": preprocess.mean,
            "std": preprocess.std,
            "interpolation": preprocess.interpolation,
            "resize_mode": preprocess.resize_mode,
        },
    });
    write_file(&dir.join(WEIGHTS), &bytes)?;
    write_file(&dir.join(OPEN_CLIP), &pretty(&open_clip)?)?;
    let handle = serde_json::to_value(&checkpoint).internal("cannot write the handle")?;
    write_file(&dir.join(CHECKPOINT), &pretty(&handle)?)?;
    Ok(checkpoint)
}

/// Reads a `checkpoint.json`, or the one in a folder. A folder of a hub's (`open_clip_config.json`
/// or a Hugging Face CLIP's `config.json` beside its weights) gets a handle made for it.
///
/// # Errors
/// A missing file, wrong JSON, a change that is not known, by its name, or an architecture that is
/// not implemented.
pub fn read_checkpoint(path: &Path) -> Result<Checkpoint> {
    let path = handle_of(path)?;
    if hub::is_config(&path) {
        return hub::handle(&path);
    }
    if is_weights(&path) {
        return Err(Error::input("these are weights without a configuration")
            .hint(
                "name the model beside them, or put them into a folder with open_clip_config.json",
            )
            .at(path.display()));
    }
    serde_json::from_str(&read_text(&path)?)
        .model("not a checkpoint")
        .map_err(|e| e.at(path.display()))
}

/// The file of a folder that says which model it is; any other path is that file.
fn handle_of(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let own = path.join(CHECKPOINT);
    if own.is_file() {
        return Ok(own);
    }
    hub::config_in(path).ok_or_else(|| {
        Error::input("the folder holds no checkpoint.json, open_clip_config.json or config.json")
            .hint("name the folder that holds one of them")
            .at(path.display())
    })
}

/// A small text file.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let read = || String::from_utf8(weights::read_whole(path, MOST_JSON)?).input("not UTF-8");
    read().map_err(|e| e.at(path.display()))
}

/// Writes a file whole or not at all: a neighbour, synced, then renamed.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&part, path)
    };
    write().store("cannot write").map_err(|e| {
        // The error in hand says more than a failure to clean up.
        let _ = fs::remove_file(&part);
        e.at(path.display())
    })
}

fn pretty(value: &serde_json::Value) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value).internal("cannot write JSON")?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Numbers of the model in this form.
fn numbers(config: &ClipConfig, changes: &[Change]) -> Result<u64> {
    let shapes = shapes::of(config, shapes::ffn(config, changes)?);
    Ok(shapes.iter().map(shapes::Shape::elements).fold(0u64, u64::saturating_add))
}

/// Opens weights, but none larger than the model can be: they would be hashed first. An archive may
/// hold an optimiser's state beside the model, which is not read.
fn open_file(path: &Path, config: &ClipConfig, changes: &[Change]) -> Result<Weights> {
    let model = numbers(config, changes)?.saturating_mul(8);
    let fits = |bytes: u64, copies: u64| {
        let most = model.saturating_mul(copies).saturating_add(HEADER);
        if bytes <= most {
            return Ok(());
        }
        Err(Error::input(format!("{bytes} bytes, more than the {most} expected"))
            .hint("name the configuration that belongs to these weights")
            .at(path.display()))
    };
    fits(fs::metadata(path).map_or(0, |m| m.len()), 6)?;
    let weights = Weights::open(path)?;
    fits(weights.bytes(), if weights.is_archive() { 6 } else { 1 })?;
    Ok(weights)
}

fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}
