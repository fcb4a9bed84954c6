//! A perceptual hash of the picture, for finding copies that were scaled or compressed again.
//!
//! The DCT hash of the pHash family: brightness (Pillow's `L`), 32 x 32 by area under a triangle,
//! two-dimensional DCT-II, the 8 x 8 lowest frequencies, one bit each: above their median without
//! the constant. Computed in integers, cosines rounded to 2^-14, so that the bits are the same on
//! every machine.

use std::sync::{Arc, OnceLock};

use arrow_array::{ArrayRef, StringArray};
use arrow_schema::{DataType, Field};
use pixels::{Picture, squash};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use stage::{Context, Pairs, Result};

use super::pictures::look_at;
use super::{Judge, JudgeContext, JudgePlan, Scored};

/// Score: `phash`, 16 hex digits. Turns away only what cannot be decoded, by the decoder's words;
/// `near_duplicates` compares.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Phash {}

const SIDE: usize = 32;
const LOW: usize = 8;

impl JudgePlan for Phash {
    fn name(&self) -> &'static str {
        "phash"
    }

    fn validate(&self) -> Result<()> {
        Ok(())
    }

    fn scores(&self) -> Vec<Field> {
        vec![Field::new("phash", DataType::Utf8, true)]
    }

    fn scoring(&self) -> Value {
        Value::Null
    }

    fn reasons(&self, scores: &[ArrayRef]) -> Vec<Option<&'static str>> {
        vec![None; scores.first().map_or(0, |column| column.len())]
    }

    fn build(&self, cx: &JudgeContext<'_>) -> Result<Box<dyn Judge>> {
        Ok(Box::new(Hasher { context: cx.stage.clone() }))
    }
}

struct Hasher {
    context: Context,
}

impl Judge for Hasher {
    fn score(&mut self, pairs: &Pairs) -> Result<Scored> {
        let found = look_at(pairs, &self.context, |picture| Ok(phash(picture)))?;
        let (mut hashes, mut refused) = (Vec::new(), Vec::new());
        for row in found {
            let row = row.transpose();
            refused.push(row.as_ref().err().copied());
            hashes.push(row.ok().flatten().map(|hash| format!("{hash:016x}")));
        }
        Ok(Scored { scores: vec![Arc::new(StringArray::from(hashes))], refused })
    }
}

/// The hash; the first bit is the lowest frequency.
#[must_use]
pub fn phash(picture: &Picture) -> u64 {
    let small = squash(picture, SIDE as u32, SIDE as u32);
    let light: Vec<i64> = small.rgb.chunks_exact(3).map(luma).collect();
    let cosines = cosines();
    // Rows, then columns; both sums are exact.
    let mut rows = [[0i64; LOW]; SIDE];
    for (line, out) in light.chunks_exact(SIDE).zip(&mut rows) {
        for (frequency, out) in cosines.iter().zip(out) {
            *out = line.iter().zip(frequency).map(|(x, c)| x * c).sum();
        }
    }
    let mut low = [0i64; LOW * LOW];
    for (v, frequency) in cosines.iter().enumerate() {
        for u in 0..LOW {
            low[v * LOW + u] = rows.iter().zip(frequency).map(|(row, c)| row[u] * c).sum();
        }
    }
    let mut sorted = low;
    sorted[1..].sort_unstable();
    let median = sorted[1 + (LOW * LOW - 1) / 2];
    low.iter().fold(0, |hash, value| hash << 1 | u64::from(*value > median))
}

/// Pillow's brightness.
fn luma(rgb: &[u8]) -> i64 {
    let [r, g, b] = [0, 1, 2].map(|i| i64::from(rgb.get(i).copied().unwrap_or(0)));
    (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16
}

/// cos(π (2x + 1) u / 64) · 2^14 for u < 8, rounded.
fn cosines() -> &'static [[i64; SIDE]; LOW] {
    static COSINES: OnceLock<[[i64; SIDE]; LOW]> = OnceLock::new();
    COSINES.get_or_init(|| {
        let angle = |u: usize, x: usize| std::f64::consts::PI * ((2 * x + 1) * u) as f64 / 64.0;
        std::array::from_fn(|u| {
            std::array::from_fn(|x| (angle(u, x).cos() * 16384.0).round() as i64)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pixels::{Limits, decode, encode_jpeg};

    /// A picture with structure: a bright disc on a slope.
    fn disc(side: u32, x: u32) -> Picture {
        let pixel = |i: u32| {
            let (px, py) = (
                i64::from(i % side) * 100 / i64::from(side),
                i64::from(i / side) * 100 / i64::from(side),
            );
            let inside = (px - i64::from(x)).pow(2) + (py - 40).pow(2) < 400;
            if inside { [240, 200, 40] } else { [(px * 2) as u8, py as u8, 60] }
        };
        Picture { width: side, height: side, rgb: (0..side * side).flat_map(pixel).collect() }
    }

    #[test]
    fn a_smaller_and_a_compressed_copy_hash_alike_and_another_picture_does_not() {
        let original = phash(&disc(400, 30));
        let distance = |picture: &Picture| (phash(picture) ^ original).count_ones();
        assert!(distance(&disc(150, 30)) <= 2, "{}", distance(&disc(150, 30)));
        let packed = decode(&encode_jpeg(&disc(400, 30), 40), &Limits::default()).unwrap();
        assert!(distance(&packed) <= 2, "{}", distance(&packed));
        assert!(distance(&disc(400, 70)) >= 16, "{}", distance(&disc(400, 70)));
    }

    #[test]
    fn a_picture_of_one_colour_has_one_bit() {
        for level in [0, 1, 128, 255] {
            let hash = phash(&Picture::filled(64, 48, [level; 3]));
            assert_eq!(hash, if level == 0 { 0 } else { 1 << 63 }, "{level}");
        }
    }
}
