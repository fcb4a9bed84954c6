//! Elementary functions that compilers can vectorise: exponential and normal distribution.

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

use candle_core::{CpuStorage, WithDType};

/// f32 or f64, with the functions that the operators need.
pub(crate) trait Float:
    WithDType
    + Copy
    + Default
    + Debug
    + PartialOrd
    + Send
    + Sync
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + 'static
{
    const ZERO: Self;
    const ONE: Self;
    const LOWEST: Self;
    fn of(value: f64) -> Self;
    fn wide(self) -> f64;
    fn root(self) -> Self;
    /// e^x; 0 below the smallest normal number, NaN for NaN.
    fn exponential(self) -> Self;
    /// Natural logarithm.
    fn logarithm(self) -> Self;
    /// Cumulative distribution and density of the standard normal distribution.
    fn normal(self) -> (Self, Self);
    /// The elements of a storage of this type.
    fn slice(storage: &CpuStorage) -> Option<&[Self]>;
    /// The elements of a storage of this type, to write.
    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]>;
    /// The slice itself, if this type is f32.
    fn single(_: &[Self]) -> Option<&[f32]> {
        None
    }
    /// The slice itself, if this type is f32.
    fn single_mut(_: &mut [Self]) -> Option<&mut [f32]> {
        None
    }
    /// The slice itself, if this type is f32.
    fn of_single_mut(_: &mut [f32]) -> Option<&mut [Self]> {
        None
    }

    /// The vector itself, if this type is f32.
    fn of_singles(_: Vec<f32>) -> Option<Vec<Self>> {
        None
    }

    /// The larger; of a number and a NaN either.
    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
}

impl Float for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const LOWEST: Self = f32::NEG_INFINITY;

    #[inline(always)]
    fn of(value: f64) -> Self {
        value as f32
    }

    #[inline(always)]
    fn wide(self) -> f64 {
        f64::from(self)
    }

    #[inline(always)]
    fn root(self) -> Self {
        self.sqrt()
    }

    /// e^x = 2^n e^r with n = round(x / ln 2), |r| ≤ ln 2 / 2, and e^r by its series up to r^7
    /// (truncation below 6e-9, so rounding dominates).
    #[inline(always)]
    fn exponential(self) -> Self {
        // Adding 1.5·2^23 rounds to the nearest whole number, whose bits are then in the mantissa.
        const MAGIC: f32 = 12_582_912.0;
        // ln 2 in two parts, the first with 9 trailing zero bits, so that n·HIGH is exact.
        const HIGH: f32 = 0.693_359_375;
        const LOW: f32 = -2.121_944_4e-4;
        const LARGEST: f32 = 88.0;
        const SMALLEST: f32 = -87.3;
        let x = if self > LARGEST { LARGEST } else { self };
        let x = if x < SMALLEST { SMALLEST } else { x };
        let shifted = x * std::f32::consts::LOG2_E + MAGIC;
        let n = shifted - MAGIC;
        let r = (x - n * HIGH) - n * LOW;
        let p = 1.0 / 5040.0;
        let p = p * r + 1.0 / 720.0;
        let p = p * r + 1.0 / 120.0;
        let p = p * r + 1.0 / 24.0;
        let p = p * r + 1.0 / 6.0;
        let p = p * r + 0.5;
        let p = p * r + 1.0;
        let p = p * r + 1.0;
        let power = f32::from_bits(
            (shifted.to_bits().wrapping_sub(MAGIC.to_bits()).wrapping_add(127)) << 23,
        );
        let y = if self < SMALLEST { 0.0 } else { p * power };
        if self.is_nan() { self } else { y }
    }

    #[inline(always)]
    fn logarithm(self) -> Self {
        self.ln()
    }

    /// Φ(-a) = e^(-a²/2)·P(t), t = 1 / (1 + a/4), for a ≥ 0, P a polynomial of degree 9: exact in
    /// the tail, where 1 + erf would cancel, and the exponential serves the density too.
    #[inline(always)]
    fn normal(self) -> (Self, Self) {
        let a = self.abs();
        let e = (-0.5 * a * a).exponential();
        let t = 1.0 / (1.0 + 0.25 * a);
        let mut p = NORMAL[9];
        p = p * t + NORMAL[8];
        p = p * t + NORMAL[7];
        p = p * t + NORMAL[6];
        p = p * t + NORMAL[5];
        p = p * t + NORMAL[4];
        p = p * t + NORMAL[3];
        p = p * t + NORMAL[2];
        p = p * t + NORMAL[1];
        p = p * t + NORMAL[0];
        let tail = e * p;
        let cdf = if self > 0.0 { 1.0 - tail } else { tail };
        (cdf, e * DENSITY_AT_ZERO)
    }

    fn single(slice: &[Self]) -> Option<&[f32]> {
        Some(slice)
    }

    fn single_mut(slice: &mut [Self]) -> Option<&mut [f32]> {
        Some(slice)
    }

    fn of_single_mut(slice: &mut [f32]) -> Option<&mut [Self]> {
        Some(slice)
    }

    fn of_singles(values: Vec<f32>) -> Option<Vec<Self>> {
        Some(values)
    }

    fn slice(storage: &CpuStorage) -> Option<&[Self]> {
        match storage {
            CpuStorage::F32(data) => Some(data),
            _ => None,
        }
    }

    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        match storage {
            CpuStorage::F32(data) => Some(data),
            _ => None,
        }
    }
}

/// P of [`Float::normal`] in f32: a least-squares fit of Φ(-a)·e^(a²/2) in relative error,
/// reweighted to its largest, on 1,501 Chebyshev nodes of t for 0 ≤ a ≤ 13, made in f64 from 40
/// digits of the complementary error function. Relative error of the fit 1.1e-8.
const NORMAL: [f32; 10] = [
    -2.567_145_9e-5,
    0.100_305_84,
    0.094_196_006,
    0.124_433_39,
    -0.028_579_733,
    0.319_648_4,
    -0.351_632_64,
    0.408_608_34,
    -0.201_970_06,
    0.035_016_125,
];

/// 1 / √(2π).
const DENSITY_AT_ZERO: f32 = 0.398_942_3;

impl Float for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const LOWEST: Self = f64::NEG_INFINITY;

    #[inline(always)]
    fn of(value: f64) -> Self {
        value
    }

    #[inline(always)]
    fn wide(self) -> f64 {
        self
    }

    #[inline(always)]
    fn root(self) -> Self {
        self.sqrt()
    }

    fn exponential(self) -> Self {
        self.exp()
    }

    fn logarithm(self) -> Self {
        self.ln()
    }

    fn normal(self) -> (Self, Self) {
        let z = self * std::f64::consts::FRAC_1_SQRT_2;
        let density = (-z * z).exp() / (2.0 * std::f64::consts::PI).sqrt();
        (0.5 * (1.0 + candle_core::cpu::erf::erf_f64(z)), density)
    }

    fn slice(storage: &CpuStorage) -> Option<&[Self]> {
        match storage {
            CpuStorage::F64(data) => Some(data),
            _ => None,
        }
    }

    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        match storage {
            CpuStorage::F64(data) => Some(data),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_right_to_one_part_in_four_million() {
        let worst = (-8700..8800)
            .map(|i| f64::from(i) / 100.0)
            .map(|x| (f64::from((x as f32).exponential()) / f64::from(x as f32).exp() - 1.0).abs())
            .fold(0.0, f64::max);
        assert!(worst < 2.5e-7, "{worst:e}");
    }

    #[test]
    fn the_exponential_knows_its_ends() {
        assert!((f32::NEG_INFINITY).exponential().abs() < f32::MIN_POSITIVE);
        assert!((-100f32).exponential().abs() < f32::MIN_POSITIVE);
        assert!((1000f32).exponential() > 1e38);
        assert!(f32::NAN.exponential().is_nan());
        assert!(((0f32).exponential() - 1.0).abs() < f32::EPSILON);
    }

    #[test]
    fn the_normal_distribution_agrees_with_f64() {
        for i in -1300..=1300 {
            let x = f64::from(i) / 100.0;
            let (cdf, density) = (x as f32).normal();
            let (exact, exact_density) = f64::from(x as f32).normal();
            assert!((f64::from(cdf) - exact).abs() < 2e-7, "{x}: {cdf} {exact}");
            assert!((f64::from(density) - exact_density).abs() < 6e-8, "{x}");
        }
        assert!(f32::NAN.normal().0.is_nan());
    }

    #[test]
    fn the_tail_of_the_normal_distribution_keeps_its_digits() {
        // Φ(-6) = 9.865876450376981e-10 (any table)
        let tail = f64::from((-6f32).normal().0);
        assert!((tail / 9.865_876_450_376_981e-10 - 1.0).abs() < 1e-6, "{tail:e}");
    }
}
