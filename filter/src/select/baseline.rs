//! DataComp's baselines by name, over the columns of its pool.
//!
//! Source of every rule: `mlfoundations/datacomp`, `baselines/apply_filter.py`. The files that they
//! need are not ours to ship and are given by path or URL, with a checksum where it is to be
//! checked. One rule has a substitute: `laion2b` asks gcld3 for English, here the same fastText
//! model answers as for the others.

use arrow_schema::DataType;
use datafusion::prelude::{Expr, lit};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage::{Error, Result};

use super::basic::{CaptionAndSize, CaptionOfImageBased, English};
use super::centroids::{Centroids, NearWanted};
use super::expression::{Condition, column};
use super::functions::top_fraction;
use super::wordnet::{self, Entity, WordNet};
use crate::asset::Asset;
use crate::judge::language::Identifier;

/// A baseline of DataComp's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Baseline {
    /// Every pair.
    NoFilter,
    /// English, more than 2 words, more than 5 characters, shorter side at least 200 pixels, aspect
    /// ratio at most 3.
    BasicFilter(WithLanguage),
    /// DataComp's `basic_filter` without its language test, and so NOT DataComp's basic filter.
    BasicFilterWithoutLanguage,
    /// CLIP similarity as the pool has it, at or above a threshold.
    ClipScore(ClipScoreBaseline),
    /// ViT-B/32 similarity at least 0.28, and English (by fastText, where DataComp asks gcld3).
    #[serde(rename = "laion2b")]
    Laion2b(WithLanguage),
    /// English, and a word whose first WordNet synset is one of ImageNet-21k's.
    TextBased(TextBased),
    /// English, more than 1 word, more than 5 characters, and the nearest centroid of the pool is
    /// the nearest one to a picture of ImageNet-1k.
    ImageBased(ImageBased),
    /// `clip_score`, then `image_based`. With l14 and 0.3 on the largest pool it is DataComp-1B.
    ImageBasedIntersectClipScore(ImageAndClipScore),
}

/// A baseline that asks for the caption's language.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WithLanguage {
    /// fastText's lid.176, `.ftz` or `.bin` (DataComp's is `.bin`): a path or URL, or
    /// `{path, sha256}`.
    pub language_model: Asset,
}

/// DataComp's `text_based`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TextBased {
    /// fastText's lid.176: a path or URL, or `{path, sha256}`.
    pub language_model: Asset,
    /// Folder with WordNet 3.0's dictionary files `index.*` and `*.exc` (path or URL).
    pub wordnet: String,
    /// List of synsets, one a line, such as `n01440764`: DataComp's `imagenet21k_wordnet_ids.txt`.
    pub synsets: Asset,
}

/// DataComp's `image_based`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageBased {
    /// fastText's lid.176: a path or URL, or `{path, sha256}`.
    pub language_model: Asset,
    /// Centroids of the pool, `.npy` (K, D).
    pub centroids: Asset,
    /// Embeddings of the pictures that are wanted, `.npy` (N, D) each: for DataComp ImageNet-1k's
    /// by ViT-L/14.
    pub targets: Vec<Asset>,
}

/// DataComp's `image_based_intersect_clip_score`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageAndClipScore {
    /// The picture's rule.
    pub image_based: ImageBased,
    /// The threshold.
    pub clip_score: ClipScoreBaseline,
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
    /// Checks the ranges of the fields, without opening anything.
    pub fn validate(&self) -> Result<()> {
        match self {
            Self::NoFilter | Self::BasicFilterWithoutLanguage => Ok(()),
            Self::BasicFilter(plan) | Self::Laion2b(plan) => {
                plan.language_model.validate("language_model")
            }
            Self::ClipScore(plan) => plan.validate(),
            Self::TextBased(plan) => {
                plan.language_model.validate("language_model")?;
                plan.synsets.validate("synsets")?;
                if plan.wordnet.is_empty() {
                    return Err(Error::recipe("wordnet must name a folder"));
                }
                Ok(())
            }
            Self::ImageBased(plan) => plan.validate(),
            Self::ImageBasedIntersectClipScore(plan) => {
                plan.image_based.validate()?;
                plan.clip_score.validate()
            }
        }
    }

    /// The files that it needs beside the pool.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        let path = |asset: &Asset| asset.path().to_owned();
        match self {
            Self::NoFilter | Self::BasicFilterWithoutLanguage | Self::ClipScore(_) => Vec::new(),
            Self::BasicFilter(plan) | Self::Laion2b(plan) => vec![path(&plan.language_model)],
            Self::TextBased(plan) => {
                let own = [path(&plan.language_model), path(&plan.synsets)];
                own.into_iter().chain(wordnet::files(&plan.wordnet)).collect()
            }
            Self::ImageBased(plan) => plan.files(),
            Self::ImageBasedIntersectClipScore(plan) => plan.image_based.files(),
        }
    }

    /// Adds the baseline's rule to a condition: what costs little first.
    pub(super) fn add_to(&self, condition: &mut Condition<'_>) -> Result<()> {
        match self {
            Self::NoFilter => Ok(()),
            Self::BasicFilter(plan) => {
                let text = basic_columns(condition)?;
                condition.and_test(CaptionAndSize { text: text.clone() });
                condition.and_test(english(&plan.language_model, text)?);
                Ok(())
            }
            Self::BasicFilterWithoutLanguage => {
                let text = basic_columns(condition)?;
                condition.and_test(CaptionAndSize { text });
                Ok(())
            }
            Self::ClipScore(plan) => plan.add_to(condition),
            Self::Laion2b(plan) => {
                let text = caption(condition)?;
                let arch = Arch::B32;
                ClipScoreBaseline { arch, threshold: Some(0.28), fraction: None }
                    .add_to(condition)?;
                condition.and_test(english(&plan.language_model, text)?);
                Ok(())
            }
            Self::TextBased(plan) => {
                let text = caption(condition)?;
                let words = WordNet::open(&plan.wordnet).map_err(|e| e.at("wordnet"))?;
                let synsets = plan.synsets.open().and_then(|blob| wordnet::synsets(&blob));
                let synsets = synsets.map_err(|e| e.at("synsets"))?;
                condition.and_test(Entity { text: text.clone(), words, synsets });
                condition.and_test(english(&plan.language_model, text)?);
                Ok(())
            }
            Self::ImageBased(plan) => plan.add_to(condition),
            Self::ImageBasedIntersectClipScore(plan) => {
                plan.clip_score.add_to(condition)?;
                plan.image_based.add_to(condition)
            }
        }
    }
}

fn caption(condition: &Condition<'_>) -> Result<String> {
    condition.first_column(&["text", "caption"])
}

/// The caption's column, where sizes are known too.
fn basic_columns(condition: &Condition<'_>) -> Result<String> {
    condition.first_column(&["original_width"])?;
    condition.first_column(&["original_height"])?;
    caption(condition)
}

fn english(model: &Asset, text: String) -> Result<English> {
    let identifier = Identifier::open(model).map_err(|e| e.at("language_model"))?;
    Ok(English { text, identifier })
}

impl ImageBased {
    fn validate(&self) -> Result<()> {
        self.language_model.validate("language_model")?;
        self.centroids.validate("centroids")?;
        if self.targets.is_empty() {
            return Err(Error::recipe("targets must name at least one file"));
        }
        self.targets.iter().try_for_each(|target| target.validate("targets"))
    }

    fn files(&self) -> Vec<String> {
        let assets = [&self.language_model, &self.centroids].into_iter().chain(&self.targets);
        assets.map(|asset| asset.path().to_owned()).collect()
    }

    fn add_to(&self, condition: &mut Condition<'_>) -> Result<()> {
        let text = caption(condition)?;
        let centroids = self.centroids.open().and_then(|blob| Centroids::read(&blob));
        let centroids = centroids.map_err(|e| e.at("centroids"))?;
        let targets = self.targets.iter().map(Asset::open).collect::<Result<Vec<_>>>();
        let wanted = targets.and_then(|targets| centroids.wanted(&targets));
        let wanted = wanted.map_err(|e| e.at("targets"))?;
        condition.and_test(CaptionOfImageBased { text: text.clone() });
        condition.and_test(english(&self.language_model, text)?);
        condition.and_test(NearWanted::new(centroids, wanted));
        Ok(())
    }
}

impl ClipScoreBaseline {
    fn validate(&self) -> Result<()> {
        match (self.threshold, self.fraction) {
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
            (None, None) => return self.validate(),
        };
        condition.and(score.gt_eq(least));
        Ok(())
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
        let message = parse(r#"{"basic_filter": {}}"#).unwrap_err().to_string();
        assert!(message.contains("missing field `language_model`"), "{message}");
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
