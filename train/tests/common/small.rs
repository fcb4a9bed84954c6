//! A small CLIP, its start weights and its samples, all by formula: what the literals of
//! `small_training.rs` were made from.

use candle_core::{Device, Tensor};
use models::{Clip, ClipConfig};
use train::trainer::Batch;

/// Steps of the training.
pub(crate) const STEPS: usize = 12;
/// Samples of a forward pass.
pub(crate) const BATCH: usize = 6;
/// Seed of the start weights.
const SEED: u64 = 11;

/// Its model JSON.
pub(crate) fn json() -> serde_json::Value {
    serde_json::json!({
        "embed_dim": 16,
        "vision_cfg": {"image_size": 16, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 2},
    })
}

/// Its start.
pub(crate) fn clip() -> Clip {
    let config = ClipConfig::from_json(&json()).unwrap();
    Clip::init(&config, &[], SEED, &Device::Cpu).unwrap()
}

/// Forward pass `pass`: pixel i of row r is `(131 p + 977 r + 7919 i mod 2048) / 1024 − 1`, the words
/// of its caption `(13 r + 5 j + p) mod 60 + 1` between 62 and 63.
pub(crate) fn batch(pass: usize) -> Batch {
    let pixel = |row: usize, i: usize| {
        let mixed = (pass * 131 + row * 977 + i * 7919) % 2048;
        mixed as f32 / 1024.0 - 1.0
    };
    let pixels: Vec<f32> =
        (0..BATCH).flat_map(|row| (0..3 * 16 * 16).map(move |i| pixel(row, i))).collect();
    let word = |row: usize, j: usize| ((13 * row + 5 * j + pass) % 60 + 1) as u32;
    let tokens: Vec<u32> = (0..BATCH)
        .flat_map(|row| [62, word(row, 0), word(row, 1), word(row, 2), 63, 0, 0, 0])
        .collect();
    Batch {
        pixels: Tensor::from_vec(pixels, (BATCH, 3, 16, 16), &Device::Cpu).unwrap(),
        tokens: Tensor::from_vec(tokens, (BATCH, 8), &Device::Cpu).unwrap(),
        uids: Vec::new(),
    }
}
