//! `Resize` and `Upsample` by whole factors to the nearest number: what detectors use.
//!
//! An output at x of a side lies at (x + 1/2)/f - 1/2 of the input (`half_pixel`) or at x/f
//! (`asymmetric`), and takes the number there by `nearest_mode`. With whole factors both are
//! fractions of small integers, so nothing is left to rounding.

use stage::{Error, Result};

use super::array::{Array, count};
use super::attributes::Attributes;
use super::budget::{Budget, steps};

/// Largest factor.
const MOST: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Nearest {
    /// Ties go down.
    Round,
    /// Ties go up.
    RoundUp,
    Floor,
    Ceil,
}

#[derive(Debug, Clone)]
pub(super) struct Resize {
    nearest: Nearest,
    half_pixel: bool,
    /// In the order of the inputs: where the scales stand, and where the sizes.
    scales: usize,
    sizes: Option<usize>,
    /// `Upsample` of operator set 7.
    fixed: Option<Vec<f32>>,
}

impl Resize {
    /// `Resize` of operator set 10 and up: other inputs in 10, other defaults since 11.
    pub(super) fn of(opset: i64, attributes: &mut Attributes) -> Result<Self> {
        only("mode", &attributes.text("mode", "nearest")?, "nearest")?;
        if opset < 11 {
            return Ok(Self::upsample_of(None));
        }
        let coordinates = attributes.text("coordinate_transformation_mode", "half_pixel")?;
        let half_pixel = match coordinates.as_str() {
            // They differ where the output has one number, which whole factors make of one.
            "half_pixel" | "pytorch_half_pixel" => true,
            "asymmetric" => false,
            other => {
                let message = format!("coordinates {other}; half_pixel and asymmetric are known");
                return Err(Error::model(message));
            }
        };
        let nearest = match attributes.text("nearest_mode", "round_prefer_floor")?.as_str() {
            "round_prefer_floor" => Nearest::Round,
            "round_prefer_ceil" => Nearest::RoundUp,
            "floor" => Nearest::Floor,
            "ceil" => Nearest::Ceil,
            other => return Err(Error::model(format!("nearest_mode {other}"))),
        };
        let policy = attributes.text("keep_aspect_ratio_policy", "stretch")?;
        only("keep_aspect_ratio_policy", &policy, "stretch")?;
        if attributes.flag("antialias")? {
            return Err(Error::model("antialias; only the nearest number is known"));
        }
        // Of other modes and coordinates.
        for name in ["cubic_coeff_a", "exclude_outside", "extrapolation_value"] {
            attributes.ignore(name);
        }
        Ok(Self { nearest, half_pixel, scales: 2, sizes: Some(3), fixed: None })
    }

    /// `Upsample`: scales as an attribute in operator sets 7 and 8, as an input in 9.
    pub(super) fn upsample(opset: i64, attributes: &mut Attributes) -> Result<Self> {
        only("mode", &attributes.text("mode", "nearest")?, "nearest")?;
        if opset > 9 {
            return Err(Error::model(format!("Upsample in operator set {opset}")));
        }
        let fixed = if opset < 9 {
            let scales = attributes.floats("scales")?;
            Some(scales.ok_or_else(|| Error::model("an Upsample without scales"))?)
        } else {
            None
        };
        Ok(Self::upsample_of(fixed))
    }

    fn upsample_of(fixed: Option<Vec<f32>>) -> Self {
        Self { nearest: Nearest::Floor, half_pixel: false, scales: 1, sizes: None, fixed }
    }

    /// `inputs` behind the first.
    pub(super) fn run(
        &self,
        x: &Array,
        inputs: &[Option<&Array>],
        budget: &mut Budget<'_>,
    ) -> Result<Array> {
        let input = |i: usize| inputs.get(i - 1).copied().flatten();
        let scales = match &self.fixed {
            Some(scales) => scales.as_slice(),
            None => input(self.scales).map(Array::floats).transpose()?.unwrap_or(&[]),
        };
        let sizes = self.sizes.and_then(input).map(Array::integers).transpose()?.unwrap_or(&[]);
        let [n, c, h, w] = x.picture_shape()?;
        let factors = match (scales, sizes) {
            (&[1.0, 1.0, down, right], []) => {
                let factor = |f: f32| (f.fract() == 0.0).then_some(f as usize);
                factor(down).zip(factor(right))
            }
            ([], &[sn, sc, sh, sw]) if sn == n as i64 && sc == c as i64 => {
                let factor = |size: i64, side: usize| {
                    let size = usize::try_from(size).ok()?;
                    (size.checked_rem(side)? == 0).then(|| size / side)
                };
                factor(sh, h).zip(factor(sw, w))
            }
            _ => None,
        };
        let whole = factors.filter(|(a, b)| (1..=MOST).contains(a) && (1..=MOST).contains(b));
        let Some((down, right)) = whole else {
            return Err(Error::model(format!(
                "scales {:?}, sizes {:?} of {:?}; whole factors of height and width up to {MOST} are known",
                &scales[..scales.len().min(8)],
                &sizes[..sizes.len().min(8)],
                x.shape()
            )));
        };
        let shape = [n, c, h * down, w * right];
        let total = count(&shape)?;
        budget.take(steps(&shape), total)?;
        let (lines, columns) = (self.places(h, down), self.places(w, right));
        let mut out = Vec::with_capacity(total);
        for plane in x.floats()?.chunks_exact((h * w).max(1)) {
            for line in &lines {
                let line = &plane[line * w..][..w];
                out.extend(columns.iter().map(|column| line[*column]));
            }
        }
        Array::new(&shape, out)
    }

    /// Which number of a side each output takes.
    fn places(&self, side: usize, factor: usize) -> Vec<usize> {
        // Twice the factor is the denominator of every place and of a half.
        let (side, factor) = (side as i64, factor as i64);
        let place = |x: i64| {
            let (over, under) =
                (if self.half_pixel { 2 * x + 1 - factor } else { 2 * x }, 2 * factor);
            let up = |over: i64| -(-over).div_euclid(under);
            let place = match self.nearest {
                Nearest::Floor => over.div_euclid(under),
                Nearest::Ceil => up(over),
                Nearest::RoundUp => (over + factor).div_euclid(under),
                Nearest::Round => up(over - factor),
            };
            place.clamp(0, side - 1) as usize
        };
        (0..side * factor).map(place).collect()
    }
}

fn only(name: &str, is: &str, known: &str) -> Result<()> {
    if is == known {
        return Ok(());
    }
    Err(Error::model(format!("{name} {is}; only {known} is known")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_that_an_output_takes() {
        let places = |half_pixel, nearest, factor| {
            let resize = Resize { nearest, half_pixel, ..Resize::upsample_of(None) };
            resize.places(2, factor)
        };
        // onnxruntime 1.32's, operator set 13, input [0, 1].
        assert_eq!(places(false, Nearest::Floor, 2), [0, 0, 1, 1]);
        assert_eq!(places(false, Nearest::Ceil, 2), [0, 1, 1, 1]);
        assert_eq!(places(false, Nearest::Round, 2), [0, 0, 1, 1]);
        assert_eq!(places(false, Nearest::RoundUp, 2), [0, 1, 1, 1]);
        assert_eq!(places(false, Nearest::Round, 3), [0, 0, 1, 1, 1, 1]);
        assert_eq!(places(true, Nearest::Round, 2), [0, 0, 1, 1]);
        assert_eq!(places(true, Nearest::Floor, 2), [0, 0, 0, 1]);
        assert_eq!(places(true, Nearest::Ceil, 2), [0, 1, 1, 1]);
    }
}
