//! `Checkpoint`: a handle on a trained model, small enough to pass through a recipe.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A trained model: where its tensors are and everything needed to use them.
///
/// Written as `checkpoint.json` beside the weights. `models::open` is the only way from it to
/// tensors; a change that it does not know is refused by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// The safetensors file: a path relative to `checkpoint.json`, or absolute, or a URL.
    pub weights: String,
    /// Hex sha256 of that file.
    pub sha256: String,
    /// The model configuration in open_clip's JSON (`embed_dim`, `vision_cfg`, `text_cfg`, ...).
    pub model: serde_json::Value,
    /// What compression did to the plain architecture, in order; empty for open_clip's own form.
    #[serde(default)]
    pub changes: Vec<Change>,
    /// How pictures become pixels.
    #[serde(default)]
    pub preprocess: Preprocess,
    /// The tokenizer by name: `clip` (CLIP's BPE).
    #[serde(default = "clip")]
    pub tokenizer: String,
    /// Where it came from: stage keys, data fingerprints, seed; for people and releases.
    #[serde(default)]
    pub lineage: BTreeMap<String, String>,
}

fn clip() -> String {
    "clip".to_owned()
}

/// One change of architecture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// RePaViT's training form: BatchNorm in the FFN, and this share of hidden channels idle.
    IdleChannels {
        /// Share of hidden channels without activation, 0..=1.
        ratio: f64,
    },
    /// RePaViT's inference form, folded from idle channels of this ratio.
    Folded {
        /// Share of hidden channels that was folded away, 0..=1.
        ratio: f64,
    },
}

/// How pictures become pixels: open_clip's `preprocess_cfg`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    /// Mean of R, G, B in 0..1.
    pub mean: [f32; 3],
    /// Standard deviation of R, G, B in 0..1.
    pub std: [f32; 3],
    /// `bicubic` (Pillow's).
    pub interpolation: String,
    /// `shortest`, `longest` or `squash`.
    pub resize_mode: String,
}

impl Default for Preprocess {
    /// OpenAI's constants (open_clip `constants.py`).
    fn default() -> Self {
        Self {
            mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            std: [0.268_629_54, 0.261_302_58, 0.275_777_11],
            interpolation: "bicubic".to_owned(),
            resize_mode: "shortest".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_change_is_refused_by_name() {
        let text = r#"{"weights":"w","sha256":"0","model":{},"changes":[{"magic":{}}]}"#;
        let message = serde_json::from_str::<Checkpoint>(text).unwrap_err().to_string();
        assert!(message.contains("unknown variant `magic`"), "{message}");
    }

    #[test]
    fn defaults_are_open_clips_preprocessing_and_tokenizer() {
        let text = r#"{"weights":"w","sha256":"0","model":{}}"#;
        let checkpoint: Checkpoint = serde_json::from_str(text).unwrap();
        assert_eq!(checkpoint.preprocess, Preprocess::default());
        assert_eq!(checkpoint.tokenizer, "clip");
    }
}
