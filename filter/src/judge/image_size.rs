//! Turns away pictures that are small or elongated.
//!
//! The defaults are the picture rule of DataComp's basic filter, `mlfoundations/datacomp`,
//! `baselines/apply_filter.py`: the shorter side is at least 200 pixels and the longer side at
//! most 3 times the shorter, both of the picture as downloaded. Where a source does not know that
//! size, the size of the stored picture is judged.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int32Type};
use arrow_array::{Array, ArrayRef, Float64Array, Int32Array};
use arrow_schema::{DataType, Field};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use stage::{Error, Pairs, Result};

use super::{Judge, JudgeContext, JudgePlan, Scored, is_success};

/// Smallest side and largest aspect ratio. Scores: `image_min_side` (pixels), `image_aspect`
/// (longer side over shorter side).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ImageSize {
    /// Fewest pixels of the shorter side; 0 or more, default 200. Reason: `image_side`.
    pub min_side: u32,
    /// Largest ratio of the longer to the shorter side; at least 1, default 3. Reason:
    /// `image_aspect`.
    pub max_aspect: f64,
}

impl Default for ImageSize {
    fn default() -> Self {
        Self { min_side: 200, max_aspect: 3.0 }
    }
}

impl JudgePlan for ImageSize {
    fn name(&self) -> &'static str {
        "image_size"
    }

    fn validate(&self) -> Result<()> {
        if self.max_aspect >= 1.0 {
            return Ok(());
        }
        Err(Error::recipe(format!("max_aspect must be at least 1, got {}", self.max_aspect)))
    }

    fn scores(&self) -> Vec<Field> {
        vec![
            Field::new("image_min_side", DataType::Int32, true),
            Field::new("image_aspect", DataType::Float64, true),
        ]
    }

    fn scoring(&self) -> Value {
        Value::Null
    }

    fn reasons(&self, scores: &[ArrayRef]) -> Vec<Option<&'static str>> {
        let sides = scores[0].as_primitive::<Int32Type>();
        let aspects = scores[1].as_primitive::<Float64Type>();
        let rows = sides.iter().zip(aspects);
        rows.map(|(side, aspect)| match (side, aspect) {
            (Some(side), Some(aspect)) => self.reason(side, aspect),
            _ => Some("image_size_unknown"),
        })
        .collect()
    }

    fn build(&self, _cx: &JudgeContext<'_>) -> Result<Box<dyn Judge>> {
        Ok(Box::new(Measure))
    }
}

struct Measure;

impl Judge for Measure {
    fn score(&mut self, pairs: &Pairs) -> Result<Scored> {
        let original = (pairs.int("original_width"), pairs.int("original_height"));
        let stored = (pairs.int("width"), pairs.int("height"));
        let mut sides = Vec::with_capacity(pairs.len());
        let mut aspects = Vec::with_capacity(pairs.len());
        for i in 0..pairs.len() {
            let judged = is_success(pairs, i);
            let size = judged.then(|| size(original, i).or_else(|| size(stored, i))).flatten();
            sides.push(size.map(|(w, h)| w.min(h)));
            aspects.push(size.map(|(w, h)| f64::from(w.max(h)) / f64::from(w.min(h))));
        }
        let (sides, aspects) = (Int32Array::from(sides), Float64Array::from(aspects));
        Ok(Scored::of(vec![Arc::new(sides), Arc::new(aspects)]))
    }
}

impl ImageSize {
    fn reason(&self, side: i32, aspect: f64) -> Option<&'static str> {
        if i64::from(side) < i64::from(self.min_side) {
            Some("image_side")
        } else if aspect > self.max_aspect {
            Some("image_aspect")
        } else {
            None
        }
    }
}

/// Width and height of row `i`, where both are known and there is at least one pixel.
fn size((widths, heights): (&Int32Array, &Int32Array), i: usize) -> Option<(i32, i32)> {
    let known = widths.is_valid(i) && heights.is_valid(i);
    known.then(|| (widths.value(i), heights.value(i))).filter(|&(w, h)| w > 0 && h > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::tests::{check, failed_row, row};

    #[test]
    fn datacomp_keeps_200_pixels_and_3_to_1() {
        let sizes = [(200, 600), (199, 400), (200, 601), (601, 200)];
        let rows: Vec<_> = sizes.iter().map(|size| row("a", Some(*size))).collect();
        let (scores, reasons) = check(&ImageSize::default(), &rows);
        let expected = [None, Some("image_side"), Some("image_aspect"), Some("image_aspect")];
        assert_eq!(reasons, expected);
        let sides = scores[0].as_primitive::<Int32Type>();
        assert_eq!(sides.values(), &[200, 199, 200, 200]);
        let aspects = scores[1].as_primitive::<Float64Type>();
        assert_eq!(aspects.values(), &[3.0, 400.0 / 199.0, 3.005, 3.005]);
    }

    #[test]
    fn without_an_original_size_the_stored_one_counts_and_without_both_it_is_unknown() {
        let stored = stage::PairRow { size: Some((256, 256)), ..row("a", None) };
        let (scores, reasons) =
            check(&ImageSize::default(), &[stored, row("a", None), failed_row()]);
        assert_eq!(reasons, [None, Some("image_size_unknown"), None]);
        assert!(scores[0].is_valid(0) && scores[0].is_null(1));
    }

    #[test]
    fn an_aspect_below_one_is_refused() {
        for max_aspect in [0.5, f64::NAN] {
            let message = ImageSize { max_aspect, ..Default::default() }.validate().unwrap_err();
            assert_eq!(
                message.to_string(),
                format!("max_aspect must be at least 1, got {max_aspect}")
            );
        }
    }
}
