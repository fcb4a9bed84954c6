//! CLIP models, tokenizer and checkpoint formats. SKELETON: signatures are the contract.
#![allow(missing_docs, unused)]
use candle_core::{Device, Tensor, Var};
use stage::{Change, Checkpoint, Result};
use std::{collections::BTreeMap, path::Path};

/// open_clip's model JSON.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ClipConfig { _p: () }
impl ClipConfig {
    /// A name of open_clip's (`ViT-B-32`), one of ours for CPUs (`tiny-32`, ...), or a path to a JSON file.
    pub fn named(name: &str) -> Result<Self> { todo!() }
    pub fn from_json(v: &serde_json::Value) -> Result<Self> { todo!() }
    pub fn to_json(&self) -> serde_json::Value { todo!() }
    pub fn image_size(&self) -> u32 { todo!() }
    pub fn context_length(&self) -> usize { todo!() }
    pub fn embed_dim(&self) -> usize { todo!() }
    /// Parameters from the configuration alone.
    pub fn parameters(&self) -> u64 { todo!() }
}
/// Named tensors of a model: trainable ones and buffers (BatchNorm statistics), in name order.
pub struct Params { _p: () }
impl Params {
    pub fn vars(&self) -> &BTreeMap<String, Var> { todo!() }
    pub fn buffers(&self) -> &BTreeMap<String, Var> { todo!() }
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode { Train, Eval }
pub struct Clip { _p: () }
impl Clip {
    /// open_clip's initialisation from a seed; `changes` picks the form of the FFN.
    pub fn init(config: &ClipConfig, changes: &[Change], seed: u64, device: &Device) -> Result<Self> { todo!() }
    /// From tensors by open_clip's names; missing, extra and misshapen ones are named.
    pub fn from_tensors(config: &ClipConfig, changes: &[Change], tensors: BTreeMap<String, Tensor>, device: &Device) -> Result<Self> { todo!() }
    pub fn config(&self) -> &ClipConfig { todo!() }
    pub fn changes(&self) -> &[Change] { todo!() }
    pub fn params(&self) -> &Params { todo!() }
    /// (B, 3, S, S) f32 normalised pixels -> (B, E), not normalised
    pub fn encode_image(&self, pixels: &Tensor, mode: Mode) -> Result<Tensor> { todo!() }
    /// (B, context) u32 -> (B, E), not normalised
    pub fn encode_text(&self, tokens: &Tensor, mode: Mode) -> Result<Tensor> { todo!() }
    /// the scalar parameter (before exp)
    pub fn logit_scale(&self) -> &Tensor { todo!() }
    pub fn save(&self, path: &Path) -> Result<()> { todo!() }
}
/// L2-normalised rows, with gradient.
pub fn normalize(x: &Tensor) -> Result<Tensor> { todo!() }
/// The only way from a handle to tensors. `base` resolves relative weights.
pub fn open(checkpoint: &Checkpoint, base: &Path, device: &Device) -> Result<Clip> { todo!() }
/// Writes weights.safetensors, open_clip_config.json and checkpoint.json into `dir`.
pub fn write_checkpoint(clip: &Clip, dir: &Path, lineage: BTreeMap<String, String>) -> Result<Checkpoint> { todo!() }
pub fn read_checkpoint(path: &Path) -> Result<Checkpoint> { todo!() }
pub struct Tokenizer { _p: () }
impl Tokenizer {
    pub fn clip() -> Self { todo!() }
    /// ids without start and end
    pub fn encode(&self, text: &str) -> Vec<u32> { todo!() }
    /// start, ids cut, end, zeros: exactly `context_length` ids
    pub fn context(&self, text: &str, context_length: usize) -> Vec<u32> { todo!() }
}
