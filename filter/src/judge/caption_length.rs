//! Turns away captions too short to describe a picture.
//!
//! The defaults are the caption rule of DataComp's basic filter, `mlfoundations/datacomp`,
//! `baselines/apply_filter.py`: more than 2 words and more than 5 characters, both as Python
//! counts them (see [`crate::words`]).

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt32Type;
use arrow_array::{ArrayRef, UInt32Array};
use arrow_schema::{DataType, Field};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use stage::{Pairs, Result};

use super::{Judge, JudgeContext, JudgePlan, Scored, is_success};
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
    fn name(&self) -> &'static str {
        "caption_length"
    }

    /// Every number is allowed: 0 switches a rule off and leaves its score.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    fn scores(&self) -> Vec<Field> {
        ["caption_words", "caption_chars"].map(|n| Field::new(n, DataType::UInt32, true)).to_vec()
    }

    fn scoring(&self) -> Value {
        Value::Null
    }

    fn reasons(&self, scores: &[ArrayRef]) -> Vec<Option<&'static str>> {
        let [words, chars] = [0, 1].map(|i| scores[i].as_primitive::<UInt32Type>());
        let rows = words.iter().zip(chars);
        rows.map(|(words, chars)| {
            if words? < self.min_words {
                Some("caption_words")
            } else if chars? < self.min_chars {
                Some("caption_chars")
            } else {
                None
            }
        })
        .collect()
    }

    fn build(&self, _cx: &JudgeContext<'_>) -> Result<Box<dyn Judge>> {
        Ok(Box::new(Counter))
    }
}

struct Counter;

impl Judge for Counter {
    fn score(&mut self, pairs: &Pairs) -> Result<Scored> {
        let count = |counter: fn(&str) -> usize| -> ArrayRef {
            let captions = pairs.captions();
            let counts: UInt32Array = (0..pairs.len())
                .map(|i| is_success(pairs, i).then(|| saturating(counter(captions.value(i)))))
                .collect();
            Arc::new(counts)
        };
        Ok(Scored::of(vec![count(count_words), count(count_chars)]))
    }
}

fn saturating(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::tests::{check, failed_row, row};

    #[test]
    fn datacomp_keeps_three_words_and_six_chars() {
        let rows =
            [row("a red car", None), row("red cars", None), row("a b c", None), row("", None)];
        let (scores, reasons) = check(&CaptionLength::default(), &rows);
        let expected = [None, Some("caption_words"), Some("caption_chars"), Some("caption_words")];
        assert_eq!(reasons, expected);
        assert_eq!(scores[0].as_primitive::<UInt32Type>().values(), &[3, 2, 3, 0]);
        assert_eq!(scores[1].as_primitive::<UInt32Type>().values(), &[9, 8, 5, 0]);
    }

    #[test]
    fn a_failed_download_gets_no_score_and_no_reason() {
        let (scores, reasons) = check(&CaptionLength::default(), &[failed_row()]);
        assert_eq!(reasons, [None]);
        assert!(scores.iter().all(|column| column.is_null(0)));
    }
}
