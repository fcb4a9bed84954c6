//! A number from the picture's embedding by a small network: aesthetic predictors and the like.
//!
//! LAION's predictors are linear layers on the normalised features of CLIP ViT-L/14, and give
//! about 1 to 10.

use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_array::{ArrayRef, Float32Array};
use arrow_schema::{DataType, Field};
use models::{Between, Head};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stage::{Error, Pairs, Result};

use super::{Judge, JudgeContext, JudgePlan, Scored, is_success};
use crate::clip::{CPU_PASS, ClipEncoder, Precision};

/// A head on the picture's embedding. Reasons: `embedding_head` below `min`, `nonfinite`,
/// and the decoder's own words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingHead {
    /// The CLIP model that the head was trained on: the id of a stage, or a path.
    pub checkpoint: String,
    /// The head: safetensors or a PyTorch archive with `<layer>.weight` [out, in] and
    /// `<layer>.bias`, the last of one output.
    pub head: String,
    /// What stands between its layers; default nothing, as in LAION's.
    #[serde(default)]
    pub between: Activation,
    /// Smallest number that passes; default none, so that every one passes and `select` decides.
    /// Reason: `embedding_head`.
    #[serde(default)]
    pub min: Option<f32>,
    /// The score's column; default `aesthetic_score`. Two heads in one recipe need two names.
    #[serde(default = "default_column")]
    pub column: String,
}

/// What stands between two layers of a head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// Nothing.
    #[default]
    Nothing,
    /// max(x, 0).
    Relu,
}

fn default_column() -> String {
    "aesthetic_score".to_owned()
}

impl JudgePlan for EmbeddingHead {
    fn name(&self) -> &'static str {
        "embedding_head"
    }

    fn validate(&self) -> Result<()> {
        if self.min.is_some_and(|min| !min.is_finite()) {
            return Err(Error::recipe("min must be a finite number"));
        }
        if self.column.is_empty() {
            return Err(Error::recipe("column must not be empty"));
        }
        Ok(())
    }

    fn scores(&self) -> Vec<Field> {
        vec![Field::new(&self.column, DataType::Float32, true)]
    }

    fn scoring(&self) -> Value {
        let Self { checkpoint, head, between, min: _, column } = self;
        json!({"checkpoint": checkpoint, "head": head, "between": between, "column": column})
    }

    fn files(&self) -> Vec<&str> {
        vec![&self.head]
    }

    fn checkpoint(&self) -> Option<&str> {
        Some(&self.checkpoint)
    }

    fn reasons(&self, scores: &[ArrayRef]) -> Vec<Option<&'static str>> {
        let below = |score: f32| self.min.is_some_and(|min| score < min);
        let scores = scores[0].as_primitive::<Float32Type>().iter();
        scores.map(|score| score.filter(|s| below(*s)).map(|_| "embedding_head")).collect()
    }

    fn build(&self, cx: &JudgeContext<'_>) -> Result<Box<dyn Judge>> {
        self.validate()?;
        let between = match self.between {
            Activation::Nothing => Between::Nothing,
            Activation::Relu => Between::Relu,
        };
        let head = Head::open(Path::new(&self.head), between)?;
        let encoder = ClipEncoder::open(cx, &self.checkpoint, Precision::F32, CPU_PASS)?;
        if head.inputs() != encoder.dim() {
            let message =
                format!("it takes {} numbers, the model gives {}", head.inputs(), encoder.dim());
            return Err(Error::model(message)
                .at(self.head.clone())
                .hint("name the checkpoint that the head was trained on"));
        }
        Ok(Box::new(Scorer { encoder, head }))
    }
}

struct Scorer {
    encoder: ClipEncoder,
    head: Head,
}

impl Judge for Scorer {
    fn score(&mut self, pairs: &Pairs) -> Result<Scored> {
        let rows: Vec<usize> = (0..pairs.len()).filter(|&i| is_success(pairs, i)).collect();
        let mut scores = vec![None; pairs.len()];
        let mut refused = vec![None; pairs.len()];
        self.encoder.encode_images(pairs, &rows, |i, image| {
            (scores[i], refused[i]) = match image.map(|image| self.head.score(&unit_length(image)))
            {
                Ok(score) if score.is_finite() => (Some(score), None),
                Ok(_) => (None, Some("nonfinite")),
                Err(reason) => (None, Some(reason)),
            };
            Ok(())
        })?;
        Ok(Scored { scores: vec![Arc::new(Float32Array::from(scores))], refused })
    }
}

/// The embedding at length 1; no number where it has no direction.
fn unit_length(image: &[f32]) -> Vec<f32> {
    let norm = image.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    image.iter().map(|x| (f64::from(*x) / norm) as f32).collect()
}
