//! Checkpoints: a folder of `weights.safetensors`, `open_clip_config.json` and `checkpoint.json`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::Device;
use serde_json::json;
use sha2::{Digest, Sha256};
use stage::{Checkpoint, Error, Preprocess, Result, ResultExt};

use crate::clip::Clip;
use crate::config::ClipConfig;
use crate::{shapes, weights};

/// File of the tensors.
const WEIGHTS: &str = "weights.safetensors";
/// File of open_clip's configuration, so that its loaders open the folder.
const OPEN_CLIP: &str = "open_clip_config.json";
/// File of the handle.
const CHECKPOINT: &str = "checkpoint.json";
/// Largest JSON file that is read.
const MOST_JSON: u64 = 16 << 20;
/// Room for a safetensors header and for statistics that a file may carry beside its parameters.
const SLACK: u64 = 64 << 20;

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
    let bytes = weights::read_file(&path, most_bytes(&config, checkpoint)?)?;
    let found = sha256(&bytes);
    if !found.eq_ignore_ascii_case(&checkpoint.sha256) {
        return Err(Error::input(format!(
            "sha256 is {found}, the checkpoint says {}",
            checkpoint.sha256
        ))
        .hint("fetch the weights again; they are damaged or of another model")
        .at(path.display()));
    }
    let tensors = weights::from_bytes(&bytes).map_err(|e| e.at(path.display()))?;
    Clip::from_tensors(&config, &checkpoint.changes, tensors, device)
        .map_err(|e| e.at(path.display()))
}

/// Opens a bare `.safetensors` file of open_clip's plain form by the name of its configuration.
///
/// # Errors
/// What [`ClipConfig::named`] refuses, or tensors that do not fit.
pub fn open_weights(path: &Path, model: &str, device: &Device) -> Result<Clip> {
    let config = ClipConfig::named(model)?;
    let most = config.parameters() * 8 + SLACK;
    let tensors = weights::from_bytes(&weights::read_file(path, most)?);
    tensors
        .and_then(|tensors| Clip::from_tensors(&config, &[], tensors, device))
        .map_err(|e| e.at(path.display()))
}

/// Writes `weights.safetensors`, `open_clip_config.json` and, last, `checkpoint.json` into `dir`,
/// each whole or not at all. The same model and lineage give the same bytes.
///
/// # Errors
/// When the folder or a file cannot be written.
pub fn write_checkpoint(
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
        preprocess: Preprocess::default(),
        tokenizer: "clip".to_owned(),
        lineage,
    };
    let preprocess = &checkpoint.preprocess;
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

/// Reads a `checkpoint.json`, or the one in a folder.
///
/// # Errors
/// A missing file, wrong JSON, or a change that is not known, by its name.
pub fn read_checkpoint(path: &Path) -> Result<Checkpoint> {
    let path: PathBuf = if path.is_dir() { path.join(CHECKPOINT) } else { path.to_owned() };
    serde_json::from_str(&read_text(&path)?)
        .model("not a checkpoint")
        .map_err(|e| e.at(path.display()))
}

/// A small text file.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let bytes = weights::read_file(path, MOST_JSON)?;
    String::from_utf8(bytes).input("not UTF-8").map_err(|e| e.at(path.display()))
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

/// Bytes that a file of this model can have, at 8 a number.
fn most_bytes(config: &ClipConfig, checkpoint: &Checkpoint) -> Result<u64> {
    let shapes = shapes::of(config, shapes::ffn(config, &checkpoint.changes)?);
    let elements = shapes.iter().map(shapes::Shape::elements).fold(0u64, u64::saturating_add);
    Ok(elements.saturating_mul(8).saturating_add(SLACK))
}

fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}
