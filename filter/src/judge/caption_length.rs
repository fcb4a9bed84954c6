//! Turns away captions too short to describe a picture.
//!
//! The defaults are the caption rule of DataComp's basic filter, `mlfoundations/datacomp`,
//! `baselines/apply_filter.py`: more than 2 words and more than 5 characters, both as Python
//! counts them (see [`crate::words`]).

use std::sync::Arc;

use arrow_array::UInt32Array;
use arrow_schema::{DataType, Field};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage::{Pairs, Result};

use super::{Judge, JudgeContext, JudgePlan, Verdicts, is_success};
use crate::words::{count_chars, count_words};

/// Fewest words and characters of a caption. Scores: `caption_words`, `caption_chars`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CaptionLength {
    /// Fewest words, separated by white space; 0 or more, default 3. Reason: `caption_words`.
    pub min_words: u32,
    /// Fewest characters (Unicode scalar values); 0 or more, default 6. Reason: `caption_chars`.
    pub min_chars: u32,
}

impl Default for CaptionLength {
    fn default() -> Self {
        Self { min_words: 3, min_chars: 6 }
    }
}

impl JudgePlan for CaptionLength {
    /// Every number is allowed: 0 switches a rule off and leaves its score.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    fn build(&self, _cx: &JudgeContext<'_>) -> Result<Box<dyn Judge>> {
        Ok(Box::new(self.clone()))
    }
}

impl Judge for CaptionLength {
    fn name(&self) -> &'static str {
        "caption_length"
    }

    fn scores(&self) -> Vec<Field> {
        ["caption_words", "caption_chars"].map(|n| Field::new(n, DataType::UInt32, true)).to_vec()
    }

    fn judge(&mut self, pairs: &Pairs) -> Result<Verdicts> {
        let count = |counter: fn(&str) -> usize| -> UInt32Array {
            let captions = pairs.captions();
            (0..pairs.len())
                .map(|i| is_success(pairs, i).then(|| saturating(counter(captions.value(i)))))
                .collect()
        };
        let (words, chars) = (count(count_words), count(count_chars));
        let reasons = words.iter().zip(&chars).map(|(words, chars)| self.reason(words?, chars?));
        Ok(Verdicts { reasons: reasons.collect(), scores: vec![Arc::new(words), Arc::new(chars)] })
    }
}

impl CaptionLength {
    fn reason(&self, words: u32, chars: u32) -> Option<&'static str> {
        if words < self.min_words {
            Some("caption_words")
        } else if chars < self.min_chars {
            Some("caption_chars")
        } else {
            None
        }
    }
}

fn saturating(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_array::types::UInt32Type;

    use super::*;
    use crate::judge::tests::{check, failed_row, row};

    #[test]
    fn datacomp_keeps_three_words_and_six_chars() {
        let rows =
            [row("a red car", None), row("red cars", None), row("a b c", None), row("", None)];
        let verdicts = check(&CaptionLength::default(), &rows);
        let expected = [None, Some("caption_words"), Some("caption_chars"), Some("caption_words")];
        assert_eq!(verdicts.reasons, expected);
        assert_eq!(verdicts.scores[0].as_primitive::<UInt32Type>().values(), &[3, 2, 3, 0]);
        assert_eq!(verdicts.scores[1].as_primitive::<UInt32Type>().values(), &[9, 8, 5, 0]);
    }

    #[test]
    fn a_failed_download_gets_no_score_and_no_reason() {
        let verdicts = check(&CaptionLength::default(), &[failed_row()]);
        assert_eq!(verdicts.reasons, [None]);
        assert!(verdicts.scores.iter().all(|column| column.is_null(0)));
    }
}
