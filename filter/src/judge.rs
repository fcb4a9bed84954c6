//! Judges: one file a rule or model.
//!
//! A judge has two lives. Its plan is plain data from the recipe ([`JudgePlan`]); what is built
//! from the plan holds weights and memory ([`Judge`]). The plans that a recipe can name are the
//! rows of [`AnyJudge`].
//!
//! Reading order: the traits here, [`JudgeContext`], the judges, [`run_unit`].

mod context;

pub mod caption_length;
pub mod clip_score;
pub mod image_size;

mod unit;

use arrow_array::ArrayRef;
use arrow_schema::Field;
use stage::{Pairs, Result};

pub use context::JudgeContext;
pub use unit::{KeepPairs, run_unit};

/// A judge as the recipe describes it.
pub trait JudgePlan {
    /// Checks the ranges of the fields, without opening anything; names the field.
    fn validate(&self) -> Result<()>;

    /// Opens what the judge needs.
    fn build(&self, cx: &JudgeContext<'_>) -> Result<Box<dyn Judge>>;
}

/// Gives every pair its scores, and a reason where a threshold fails.
pub trait Judge: Send {
    /// The key in the recipe.
    fn name(&self) -> &'static str;

    /// The score columns, all nullable, in the order of [`Verdicts::scores`].
    fn scores(&self) -> Vec<Field>;

    /// Judges a batch. A row whose status is not success passes through: its scores are null and
    /// it gets no reason here, for it has one already.
    ///
    /// # Errors
    /// When the judge itself breaks; a broken pair is a row with a reason.
    fn judge(&mut self, pairs: &Pairs) -> Result<Verdicts>;
}

/// What a judge says about a batch, row by row.
#[derive(Debug, Clone)]
pub struct Verdicts {
    /// One column a score, as [`Judge::scores`] declares them; written whatever the verdict.
    pub scores: Vec<ArrayRef>,
    /// Why a row is turned away, in one snake_case word; `None` lets it pass.
    pub reasons: Vec<Option<&'static str>>,
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

    /// Judges these rows.
    pub(crate) fn check(plan: &dyn JudgePlan, rows: &[PairRow<'_>]) -> Verdicts {
        let mut builder = PairsBuilder::default();
        for row in rows {
            builder.push(*row);
        }
        let cx = stage::Context::default();
        let mut judge = plan.build(&JudgeContext::new(&cx)).unwrap();
        let verdicts = judge.judge(&builder.finish()).unwrap();
        assert_eq!(verdicts.scores.len(), judge.scores().len());
        for (column, field) in verdicts.scores.iter().zip(judge.scores()) {
            assert_eq!((column.data_type(), column.len()), (field.data_type(), rows.len()));
        }
        verdicts
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
