//! The cosine between a picture's and its caption's CLIP features.
//!
//! The score of CLIP filtering (DataComp's `clip_score` baseline, LAION's 0.28): with a checkpoint
//! that a recipe has trained on clean pairs it is a data-filtering network.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_array::{ArrayRef, Float32Array};
use arrow_schema::{DataType, Field};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stage::{Error, Pairs, Result};

use super::{Judge, JudgeContext, JudgePlan, Scored, is_success};
use crate::clip::{ClipEncoder, Precision, cosine};

/// Cosine of picture and caption under a CLIP model.
///
/// Reasons: `clip_score` below `min`, `nonfinite` where the score is no number (the column is null
/// then), and the decoder's own word for a picture that it refuses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClipScore {
    /// The model: the id of a stage that makes a checkpoint, or a path.
    pub checkpoint: String,
    /// Smallest cosine that passes, in -1..=1; default none, so that every score passes and
    /// `select` decides.
    #[serde(default)]
    pub min: Option<f32>,
    /// Pairs in one forward pass on an accelerator, in 1..=4096; default 32. On the CPU a pass
    /// always has 32, so that no setting changes the last bits of the result.
    #[serde(default = "default_batch_size")]
    pub batch_size: u32,
    /// The numbers that the weights are used in: `f32` (default), or `bf16` for speed.
    #[serde(default, skip_serializing_if = "Precision::is_f32")]
    pub precision: Precision,
    /// The score's column; default `clip_score`. Two scorers in one recipe need two names.
    #[serde(default = "default_column")]
    pub column: String,
}

fn default_batch_size() -> u32 {
    32
}

fn default_column() -> String {
    "clip_score".to_owned()
}

impl JudgePlan for ClipScore {
    fn name(&self) -> &'static str {
        "clip_score"
    }

    fn validate(&self) -> Result<()> {
        if let Some(min) = self.min
            && !(-1.0..=1.0).contains(&min)
        {
            let error = Error::recipe(format!("min must lie in -1..=1, got {min}"));
            return Err(if (1.0..=100.0).contains(&min) {
                error.hint(format!("write {} if you mean {min} %", min / 100.0))
            } else {
                error
            });
        }
        crate::clip::validate_batch_size(self.batch_size)?;
        if self.column.is_empty() {
            return Err(Error::recipe("column must not be empty"));
        }
        Ok(())
    }

    fn scores(&self) -> Vec<Field> {
        vec![Field::new(&self.column, DataType::Float32, true)]
    }

    fn scoring(&self) -> Value {
        let Self { checkpoint, min: _, batch_size, precision, column } = self;
        let mut scoring =
            json!({"checkpoint": checkpoint, "batch_size": batch_size, "column": column});
        if !precision.is_f32() {
            scoring["precision"] = json!(precision);
        }
        scoring
    }

    fn checkpoint(&self) -> Option<&str> {
        Some(&self.checkpoint)
    }

    fn reasons(&self, scores: &[ArrayRef]) -> Vec<Option<&'static str>> {
        let below = |score: f32| self.min.is_some_and(|min| score < min);
        let scores = scores[0].as_primitive::<Float32Type>().iter();
        scores.map(|score| score.filter(|&score| below(score)).map(|_| "clip_score")).collect()
    }

    fn build(&self, cx: &JudgeContext<'_>) -> Result<Box<dyn Judge>> {
        self.validate()?;
        let encoder = ClipEncoder::open(cx, &self.checkpoint, self.precision, self.batch_size)?;
        Ok(Box::new(Scorer { encoder }))
    }
}

struct Scorer {
    encoder: ClipEncoder,
}

impl Judge for Scorer {
    fn score(&mut self, pairs: &Pairs) -> Result<Scored> {
        let rows: Vec<usize> = (0..pairs.len()).filter(|&i| is_success(pairs, i)).collect();
        let mut scores = vec![None; pairs.len()];
        let mut refused = vec![None; pairs.len()];
        self.encoder.encode(pairs, &rows, |i, features| {
            (scores[i], refused[i]) = match features {
                Ok(features) => finite(cosine(features.image, features.text)),
                Err(reason) => (None, Some(reason)),
            };
            Ok(())
        })?;
        Ok(Scored { scores: vec![Arc::new(Float32Array::from(scores))], refused })
    }
}

/// A score, or why there is none.
fn finite(score: f32) -> (Option<f32>, Option<&'static str>) {
    if score.is_finite() { (Some(score), None) } else { (None, Some("nonfinite")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(min: Option<f32>) -> ClipScore {
        let precision = Precision::F32;
        let column = "clip_score".into();
        ClipScore { checkpoint: "x".into(), min, batch_size: 32, precision, column }
    }

    #[test]
    fn a_score_below_min_has_a_reason_and_no_score_none() {
        let scores: ArrayRef = Arc::new(Float32Array::from(vec![Some(0.28), Some(0.279), None]));
        let expected = [None, Some("clip_score"), None];
        assert_eq!(plan(Some(0.28)).reasons(std::slice::from_ref(&scores)), expected);
        assert_eq!(plan(None).reasons(&[scores]), [None, None, None]);
    }

    #[test]
    fn a_score_that_is_no_number_is_null_with_its_own_reason() {
        assert_eq!(finite(-0.9), (Some(-0.9), None));
        assert_eq!(finite(f32::NAN), (None, Some("nonfinite")));
        assert_eq!(finite(f32::INFINITY), (None, Some("nonfinite")));
    }

    #[test]
    fn thirty_for_thirty_percent_is_told_the_plausible_value() {
        let error = plan(Some(30.0)).validate().unwrap_err();
        assert_eq!(error.to_string(), "min must lie in -1..=1, got 30");
        assert_eq!(error.hint_text(), Some("write 0.3 if you mean 30 %"));
        assert!(plan(Some(f32::NAN)).validate().is_err());
    }
}
