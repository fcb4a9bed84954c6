//! Turns away pictures that are not safe for work, by Yahoo's open_nsfw.
//!
//! Source: yahoo/open_nsfw, `classify_nsfw.py`: 256 x 256 bilinear, through a JPEG of quality 75,
//! the middle 224 x 224, BGR less (104, 117, 123). The network's second output is the score. Yahoo
//! calls scores below 0.2 safe and above 0.8 very likely not safe.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_array::{ArrayRef, Float32Array};
use arrow_schema::{DataType, Field};
use models::onnx::{Array, Onnx};
use pixels::{Limits, Picture, cut_centre, decode, encode_jpeg, squash};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stage::{Context, Error, Pairs, Result};

use super::pictures::{look_at, open_network};
use super::{Judge, JudgeContext, JudgePlan, Scored};
use crate::asset::Asset;

/// How likely a picture is not safe for work. Score: `nsfw_score`, 0..=1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nsfw {
    /// `open-nsfw.onnx` (input [N, 224, 224, 3], output [N, 2]): a path or URL, or `{path, sha256}`.
    pub model: Asset,
    /// Largest score that passes, 0..=1; default 0.8. Reason: `nsfw`.
    #[serde(default = "default_max")]
    pub max: f32,
}

fn default_max() -> f32 {
    0.8
}

/// Side of the network's input, and of the picture from which it is cut.
const SIDE: usize = 224;
const BEFORE: u32 = 256;
/// Blue, green, red.
const MEAN: [f32; 3] = [104.0, 117.0, 123.0];

impl JudgePlan for Nsfw {
    fn name(&self) -> &'static str {
        "nsfw"
    }

    fn validate(&self) -> Result<()> {
        self.model.validate("model")?;
        if (0.0..=1.0).contains(&self.max) {
            return Ok(());
        }
        Err(Error::recipe(format!("max must lie in 0..=1, got {}", self.max)))
    }

    fn scores(&self) -> Vec<Field> {
        vec![Field::new("nsfw_score", DataType::Float32, true)]
    }

    fn scoring(&self) -> Value {
        json!({"model": self.model})
    }

    fn files(&self) -> Vec<&str> {
        vec![self.model.path()]
    }

    fn reasons(&self, scores: &[ArrayRef]) -> Vec<Option<&'static str>> {
        let scores = scores[0].as_primitive::<Float32Type>().iter();
        scores.map(|score| score.filter(|score| *score > self.max).map(|_| "nsfw")).collect()
    }

    fn build(&self, cx: &JudgeContext<'_>) -> Result<Box<dyn Judge>> {
        self.validate()?;
        let network = open_network(&self.model)?;
        let (_, shape) = network.input();
        if shape.get(1..) != Some(&[Some(SIDE), Some(SIDE), Some(3)]) {
            let message = format!("a network of input {shape:?}; open_nsfw takes [N, 224, 224, 3]");
            return Err(Error::model(message).at(self.model.path().to_owned()));
        }
        Ok(Box::new(Classifier { network, context: cx.stage.clone() }))
    }
}

struct Classifier {
    network: Onnx,
    context: Context,
}

impl Judge for Classifier {
    fn score(&mut self, pairs: &Pairs) -> Result<Scored> {
        let found = look_at(pairs, &self.context, |picture| {
            let outputs = self.network.run_until(pixels_of(picture)?, &self.context.cancel)?;
            match outputs.first().map(|scores| (scores.shape(), scores.floats())) {
                Some((&[1, 2], Ok(&[_, nsfw]))) => Ok(nsfw),
                _ => Err(Error::model("the network does not give two scores")),
            }
        })?;
        let (mut scores, mut refused) = (Vec::new(), Vec::new());
        for row in found {
            let (score, reason) = match row {
                None => (None, None),
                Some(Ok(score)) if score.is_finite() => (Some(score), None),
                Some(Ok(_)) => (None, Some("nonfinite")),
                Some(Err(reason)) => (None, Some(reason)),
            };
            scores.push(score);
            refused.push(reason);
        }
        Ok(Scored { scores: vec![Arc::new(Float32Array::from(scores))], refused })
    }
}

/// What the network sees of a picture, [1, 224, 224, 3].
fn pixels_of(picture: &Picture) -> Result<Array> {
    let small = cut_centre(&squash(picture, BEFORE, BEFORE), SIDE as u32);
    let small = decode(&encode_jpeg(&small, 75), &Limits::default())
        .map_err(|e| Error::internal(format!("our own JPEG is refused: {}", e.reason)))?;
    let bgr = small
        .rgb
        .chunks_exact(3)
        .flat_map(|rgb| [(rgb[2], MEAN[0]), (rgb[1], MEAN[1]), (rgb[0], MEAN[2])]);
    let pixels = bgr.map(|(value, mean)| f32::from(value) - mean).collect();
    Array::new(&[1, SIDE, SIDE, 3], pixels)
}
