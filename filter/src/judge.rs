//! Judges: one file a rule or model.
//!
//! A judge has two lives. Its plan is plain data from the recipe ([`JudgePlan`]); what is built
//! from the plan holds weights and memory ([`Judge`]). The plans that a recipe can name are the
//! rows of [`AnyJudge`].
//!
//! Scores and verdicts are two steps. Only the first needs pictures and models; the second reads
//! scores and thresholds alone, so that another threshold costs no second look at the pool.
//!
//! Reading order: the traits here, [`JudgeContext`], the judges, [`run_unit`], [`rejudge_unit`].

mod context;
mod pictures;

pub mod caption_length;
pub mod clip_score;
pub mod embedding_head;
pub mod faces;
pub mod image_size;
pub mod language;
pub mod nsfw;
pub mod phash;
pub mod pii;
pub mod text_rules;

mod score;
mod unit;
mod verdict;

use arrow_array::ArrayRef;
use arrow_schema::Field;
use serde_json::Value;
use stage::{Pairs, Result};

pub use context::JudgeContext;
pub use score::check_columns;
pub use unit::{rejudge_unit, run_unit};

/// A judge as the recipe describes it: its scores by name, and the thresholds on them.
pub trait JudgePlan {
    /// The key in the recipe.
    fn name(&self) -> &'static str;

    /// Checks the ranges of the fields, without opening anything; names the field.
    fn validate(&self) -> Result<()>;

    /// The score columns, all nullable, in the order of [`Scored::scores`].
    fn scores(&self) -> Vec<Field>;

    /// What of the plan changes a score. Thresholds are not in it: scores made under an equal
    /// value are used again.
    fn scoring(&self) -> Value;

    /// Files by path or URL that the scores depend on, checkpoints apart; they are looked for
    /// before anything runs, and another content makes other scores.
    fn files(&self) -> Vec<&str> {
        Vec::new()
    }

    /// The checkpoint that scoring opens: the id of a stage, or a path.
    fn checkpoint(&self) -> Option<&str> {
        None
    }

    /// Why a row is turned away, in one `snake_case` word, for each row of these score columns;
    /// `None` lets it pass. What it says of a row without a picture is not looked at.
    fn reasons(&self, scores: &[ArrayRef]) -> Vec<Option<&'static str>>;

    /// Opens what scoring needs.
    fn build(&self, cx: &JudgeContext<'_>) -> Result<Box<dyn Judge>>;
}

/// Gives every pair its scores.
pub trait Judge: Send {
    /// Scores a batch. A row whose status is not success passes through: its scores are null.
    ///
    /// # Errors
    /// When the judge itself breaks; a broken pair is a row that is refused.
    fn score(&mut self, pairs: &Pairs) -> Result<Scored>;
}

/// What a judge finds in a batch, row by row.
#[derive(Debug, Clone)]
pub struct Scored {
    /// One column a score, as [`JudgePlan::scores`] declares them.
    pub scores: Vec<ArrayRef>,
    /// Why a row has no score and is turned away whatever the thresholds, such as a picture that
    /// cannot be decoded.
    pub refused: Vec<Option<&'static str>>,
}

impl Scored {
    /// Scores that refuse nothing.
    #[must_use]
    pub fn of(scores: Vec<ArrayRef>) -> Self {
        let rows = scores.first().map_or(0, |column| column.len());
        Self { scores, refused: vec![None; rows] }
    }
}

stage::registry! {
    /// Every judge that a recipe can name.
    pub enum AnyJudge: JudgePlan {
        /// Words and characters of the caption.
        CaptionLength(caption_length::CaptionLength),
        /// Shorter side and aspect ratio of the original picture.
        ImageSize(image_size::ImageSize),
        /// Cosine between the picture's and the caption's CLIP features.
        ClipScore(clip_score::ClipScore),
        /// How likely the picture is not safe for work (open_nsfw).
        Nsfw(nsfw::Nsfw),
        /// Faces in the picture, their number and their boxes.
        Faces(faces::Faces),
        /// A number from the picture's embedding by a small network, such as an aesthetic score.
        EmbeddingHead(embedding_head::EmbeddingHead),
        /// A perceptual hash, by which `near_duplicates` finds copies.
        Phash(phash::Phash),
        /// The caption's language by a fastText model.
        Language(language::Language),
        /// Captions that no person wrote of a picture: repetition, capitals, addresses, boilerplate.
        TextRules(text_rules::TextRules),
        /// Personal data in captions: addresses, numbers of phones, cards and accounts.
        Pii(pii::Pii),
    }
}

/// Whether row `i` has a picture to judge.
pub(crate) fn is_success(pairs: &Pairs, i: usize) -> bool {
    pairs.statuses().value(i) == stage::Status::Success.as_str()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use stage::{PairRow, PairsBuilder, Status};

    /// One successful pair with this caption and original size.
    pub(crate) fn row(caption: &str, original_size: Option<(u32, u32)>) -> PairRow<'_> {
        PairRow {
            uid: "139e4a9b22a614771f06c700a8ebe150",
            key: "000000000",
            url: "http://a.example/1.jpg",
            caption,
            status: Status::Success,
            error_message: None,
            size: None,
            original_size,
            sha256: None,
            image: None,
        }
    }

    /// One pair that could not be fetched.
    pub(crate) fn failed_row() -> PairRow<'static> {
        PairRow {
            status: Status::FailedToDownload,
            error_message: Some("http_404"),
            ..row("", None)
        }
    }

    /// The scores of these rows and the first reason of each.
    pub(crate) fn check(
        plan: &dyn JudgePlan,
        rows: &[PairRow<'_>],
    ) -> (Vec<ArrayRef>, Vec<Option<&'static str>>) {
        let mut builder = PairsBuilder::default();
        for row in rows {
            builder.push(*row);
        }
        let cx = stage::Context::default();
        let mut judge = plan.build(&JudgeContext::new(&cx)).unwrap();
        let Scored { scores, refused } = judge.score(&builder.finish()).unwrap();
        assert_eq!(scores.len(), plan.scores().len());
        for (column, field) in scores.iter().zip(plan.scores()) {
            assert_eq!((column.data_type(), column.len()), (field.data_type(), rows.len()));
        }
        let success = rows.iter().map(|row| row.status == Status::Success);
        let reasons = refused.into_iter().zip(plan.reasons(&scores)).zip(success);
        let reasons = reasons.map(|((refused, reason), ok)| refused.or(reason).filter(|_| ok));
        (scores.clone(), reasons.collect())
    }

    #[test]
    fn a_threshold_is_no_part_of_what_makes_a_score() {
        let scoring = |text: &str| {
            let plan: AnyJudge = serde_json::from_str(text).unwrap();
            (plan.plan().name(), plan.plan().scoring())
        };
        let pairs = [
            (r#"{"caption_length": {"min_words": 1}}"#, r#"{"caption_length": {"min_chars": 9}}"#),
            (r#"{"image_size": {"min_side": 1}}"#, r#"{"image_size": {"max_aspect": 9.0}}"#),
            (
                r#"{"clip_score": {"checkpoint": "a", "min": 0.1}}"#,
                r#"{"clip_score": {"checkpoint": "a"}}"#,
            ),
        ];
        for (one, other) in pairs {
            assert_eq!(scoring(one), scoring(other));
        }
        let other_model = r#"{"clip_score": {"checkpoint": "b"}}"#;
        assert_ne!(scoring(pairs[2].0), scoring(other_model));
    }

    #[test]
    fn a_recipe_names_judges_by_key_and_a_misspelt_field_is_refused() {
        let text = r#"[{"caption_length": {}}, {"image_size": {"min_side": 64}}, {"clip_score": {"checkpoint": "scorer"}}]"#;
        let plans: Vec<AnyJudge> = serde_json::from_str(text).unwrap();
        assert!(plans.iter().all(|plan| plan.plan().validate().is_ok()));
        let text = r#"{"image_size": {"min_sise": 64}}"#;
        let message = serde_json::from_str::<AnyJudge>(text).unwrap_err().to_string();
        assert!(message.contains("min_sise") && message.contains("min_side"), "{message}");
    }
}
