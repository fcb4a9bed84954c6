//! DataComp's baselines by name, over the columns of its pool.
//!
//! Source of every rule: `mlfoundations/datacomp`, `baselines/apply_filter.py`. Baselines that need
//! a language test, WordNet or embeddings come with the judges that they need; until then they
//! have no name here rather than a name for something else.

use arrow_schema::DataType;
use datafusion::prelude::{Expr, lit};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage::{Error, Result};

use super::expression::{Condition, column};
use super::functions::top_fraction;

/// A baseline of DataComp's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Baseline {
    /// Every pair.
    NoFilter,
    /// DataComp's `basic_filter` without its language test, and so NOT DataComp's basic filter:
    /// more than 2 words, more than 5 characters, shorter side at least 200 pixels, aspect ratio
    /// at most 3.
    BasicFilterWithoutLanguage,
    /// CLIP similarity as the pool has it, at or above a threshold.
    ClipScore(ClipScoreBaseline),
}

/// DataComp's `clip_score`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClipScoreBaseline {
    /// Whose similarity: `b32` or `l14`.
    pub arch: Arch,
    /// Smallest similarity that is kept, in -1..=1. Either this or `fraction`.
    #[serde(default)]
    pub threshold: Option<f32>,
    /// Share of the pool, in 0..1 without 1: the threshold is the value at index `int(n * f)` of
    /// the descending sort, so that one pair more than the share is kept, and all ties. Either
    /// this or `threshold`.
    #[serde(default)]
    pub fraction: Option<f64>,
}

/// A column of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Arch {
    /// OpenAI's ViT-B/32: `clip_b32_similarity_score`.
    B32,
    /// OpenAI's ViT-L/14: `clip_l14_similarity_score`.
    L14,
}

impl Baseline {
    /// Checks the ranges of the fields.
    pub fn validate(&self) -> Result<()> {
        let Self::ClipScore(plan) = self else { return Ok(()) };
        match (plan.threshold, plan.fraction) {
            (Some(t), None) if (-1.0..=1.0).contains(&t) => Ok(()),
            (Some(t), None) => {
                Err(Error::recipe(format!("clip_score: threshold must lie in -1..=1, got {t}")))
            }
            (None, Some(f)) if (0.0..1.0).contains(&f) => Ok(()),
            (None, Some(f)) => {
                let message = format!("clip_score: fraction must lie in 0..1 without 1, got {f}");
                Err(Error::recipe(message).hint("name no_filter to keep all"))
            }
            _ => Err(Error::recipe("clip_score needs either threshold or fraction")),
        }
    }

    /// Adds the baseline's rule to a condition.
    pub(super) fn add_to(&self, condition: &mut Condition<'_>) -> Result<()> {
        match self {
            Self::NoFilter => Ok(()),
            Self::BasicFilterWithoutLanguage => {
                let text = condition.first_column(&["text", "caption"])?;
                // Division in floating point, as numpy's.
                condition.and_text(&format!(
                    "words(\"{text}\") > 2 AND character_length(\"{text}\") > 5 \
                     AND least(original_width, original_height) >= 200 \
                     AND CAST(greatest(original_width, original_height) AS DOUBLE) \
                         / least(original_width, original_height) <= 3.0"
                ))
            }
            Self::ClipScore(plan) => plan.add_to(condition),
        }
    }
}

impl ClipScoreBaseline {
    fn add_to(&self, condition: &mut Condition<'_>) -> Result<()> {
        let name = match self.arch {
            Arch::B32 => "clip_b32_similarity_score",
            Arch::L14 => "clip_l14_similarity_score",
        };
        let name = condition.first_column(&[name])?;
        let score = column(&name);
        let least: Expr = match (self.threshold, self.fraction) {
            (_, Some(fraction)) => top_fraction(score.clone(), fraction),
            // pandas compares a column of float32 with the threshold rounded to float32.
            (Some(t), None) if condition.type_of(&name)? == DataType::Float32 => lit(t),
            (Some(t), None) => lit(decimal(t)),
            (None, None) => return self.missing(),
        };
        condition.and(score.gt_eq(least));
        Ok(())
    }

    fn missing(&self) -> Result<()> {
        Baseline::ClipScore(self.clone()).validate()
    }
}

/// The f64 nearest to what was written: 0.3, not the f32 next to it.
fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or_else(|_| f64::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_names_a_baseline_as_a_word_or_with_fields() {
        let parse = serde_json::from_str::<Baseline>;
        assert_eq!(parse(r#""no_filter""#).unwrap(), Baseline::NoFilter);
        let clip = parse(r#"{"clip_score": {"arch": "l14", "fraction": 0.3}}"#).unwrap();
        clip.validate().unwrap();
        let message = parse(r#""basic_filter""#).unwrap_err().to_string();
        assert!(message.contains("basic_filter_without_language"), "{message}");
    }

    #[test]
    fn clip_score_takes_a_threshold_or_a_fraction_in_range() {
        let check = |threshold, fraction| {
            Baseline::ClipScore(ClipScoreBaseline { arch: Arch::B32, threshold, fraction })
                .validate()
                .map_err(|e| e.to_string())
        };
        assert_eq!(check(Some(0.28), None), Ok(()));
        assert_eq!(check(None, None), Err("clip_score needs either threshold or fraction".into()));
        assert!(check(Some(0.28), Some(0.3)).is_err());
        // DataComp's own code fails here: there is no value at index n.
        let message = "clip_score: fraction must lie in 0..1 without 1, got 1";
        assert_eq!(check(None, Some(1.0)), Err(message.into()));
    }
}
