//! Linear probe: multinomial logistic regression on frozen image features.
//!
//! The objective is the mean cross-entropy plus λ/2 ‖W‖² (the intercept is free), minimised over all
//! samples at once by L-BFGS, as in Radford et al. 2021 (A.3). λ is searched as CLIP_benchmark's
//! `linear_probe` does: 97 values from 1e-6 to 1e2, first every 16th, then 8, 4, 2 and 1 steps around
//! the best on the validation split; the final fit is on both. CLIP_benchmark itself fits with AdamW in
//! minibatches on a GPU, so its numbers are near these and not equal; scikit-learn's
//! `LogisticRegression(C = 1 / (λ n))` has the same minimum.

use candle_core::{Device, Tensor};
use stage::{Cancel, Error, Result, ResultExt};

use crate::classification::{Classified, best, rank};
use crate::lbfgs::{Minimum, minimise};
use crate::matrix::{Matrix, tile};

/// Samples whose logits are held at once.
const BLOCK: usize = 4096;
/// Largest component of the gradient at the minimum.
const TOLERANCE: f64 = 1e-6;
/// λ = 10^(-6 + 8 i / 96).
const VALUES: usize = 97;

/// A fitted probe.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// Features of a sample.
    width: usize,
    /// Number of classes.
    classes: usize,
    /// `classes` rows of `width` weights, then one intercept a class.
    parameters: Vec<f64>,
    /// λ of the fit.
    pub weight_decay: f64,
    /// Iterations of the last fit.
    pub iterations: usize,
    /// Whether the last fit came to its minimum.
    pub converged: bool,
}

/// Features with their classes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Samples {
    /// L2-normalised features.
    pub features: Matrix,
    /// The class of each.
    pub labels: Vec<u32>,
}

impl Samples {
    /// These and then those.
    #[must_use]
    pub fn joined(&self, other: &Self) -> Self {
        let rows = self.features.rows().chain(other.features.rows());
        let labels = self.labels.iter().chain(&other.labels).copied().collect();
        Self { features: Matrix::of_normalized(rows), labels }
    }

    /// The samples of these numbers.
    #[must_use]
    pub fn chosen(&self, numbers: &[usize]) -> Self {
        let features = Matrix::of_normalized(numbers.iter().map(|i| self.features.row(*i)));
        Self { features, labels: numbers.iter().map(|i| self.labels[*i]).collect() }
    }
}

impl Probe {
    /// Fits with λ found on `validation`, then on both with it.
    ///
    /// # Errors
    /// No sample, or an interruption.
    pub fn search(
        train: &Samples,
        validation: &Samples,
        classes: usize,
        most: usize,
        cancel: &Cancel,
    ) -> Result<Self> {
        if validation.labels.is_empty() {
            return Err(Error::input("no sample to validate on"));
        }
        let mut tried: Vec<Option<f64>> = vec![None; VALUES];
        let mut start: Option<Vec<f64>> = None;
        let mut peak: usize = 0;
        let rounds = [16, 8, 4, 2, 1];
        for (round, span) in rounds.into_iter().enumerate() {
            let candidates: Vec<usize> = if round == 0 {
                (0..VALUES).step_by(span).collect()
            } else {
                vec![peak.saturating_sub(span), peak, (peak + span).min(VALUES - 1)]
            };
            // From much decay to little, each from the one before: few iterations each.
            for i in candidates.into_iter().rev() {
                if tried[i].is_none() {
                    let fit = Self::fit(train, classes, value(i), most, start.take(), cancel)?;
                    let found = fit.classify(validation)?;
                    let right = found.ranks.iter().filter(|rank| **rank == 0).count();
                    tried[i] = Some(right as f64 / found.ranks.len() as f64);
                    start = Some(fit.parameters);
                }
            }
            // Of equal ones the least decay, as there.
            peak = (0..VALUES)
                .filter(|i| tried[*i].is_some())
                .fold(peak, |best, i| if tried[i] > tried[best] { i } else { best });
        }
        Self::fit(&train.joined(validation), classes, value(peak), most, start, cancel)
    }

    /// Fits with this λ, from `start` or from zero.
    ///
    /// # Errors
    /// No sample, or an interruption.
    pub fn fit(
        samples: &Samples,
        classes: usize,
        weight_decay: f64,
        most: usize,
        start: Option<Vec<f64>>,
        cancel: &Cancel,
    ) -> Result<Self> {
        let width = samples.features.width();
        if samples.labels.is_empty() || classes == 0 {
            return Err(Error::input("no sample to fit"));
        }
        let features = samples.features.tensor()?;
        let function =
            |at: &[f64]| loss(&features, &samples.labels, (classes, width), weight_decay, at);
        let start = start.unwrap_or_else(|| vec![0.0; classes * (width + 1)]);
        let Minimum { point, iterations, converged } =
            minimise(&function, start, TOLERANCE, most, cancel)?;
        Ok(Self { width, classes, parameters: point, weight_decay, iterations, converged })
    }

    /// The classes of these samples by this probe.
    ///
    /// # Errors
    /// When the widths differ.
    pub fn classify(&self, samples: &Samples) -> Result<Classified> {
        let mut found = Classified { labels: samples.labels.clone(), ..Classified::default() };
        if samples.labels.is_empty() {
            return Ok(found);
        }
        let features = samples.features.tensor()?;
        let (weights, intercepts) = split(&self.parameters, self.classes, self.width)?;
        for start in (0..samples.labels.len()).step_by(BLOCK) {
            let count = BLOCK.min(samples.labels.len() - start);
            let mut logits = tile(&features, &weights, (start, 0), (count, self.classes))?;
            for (i, row) in logits.chunks_exact_mut(self.classes).enumerate() {
                row.iter_mut().zip(&intercepts).for_each(|(logit, b)| *logit += b);
                found.predicted.push(best(row));
                found.ranks.push(rank(row, samples.labels[start + i] as usize) as u32);
            }
        }
        Ok(found)
    }
}

fn value(i: usize) -> f64 {
    10_f64.powf(-6.0 + 8.0 * i as f64 / (VALUES - 1) as f64)
}

fn split(at: &[f64], classes: usize, width: usize) -> Result<(Tensor, Vec<f32>)> {
    let numbers: Vec<f32> = at.iter().map(|v| *v as f32).collect();
    let (weights, intercepts) = numbers.split_at(classes * width);
    let weights = Tensor::from_slice(weights, (classes, width), &Device::Cpu).model("probe")?;
    Ok((weights, intercepts.to_vec()))
}

/// Mean cross-entropy plus λ/2 ‖W‖², and its gradient.
fn loss(
    features: &Tensor,
    labels: &[u32],
    (classes, width): (usize, usize),
    weight_decay: f64,
    at: &[f64],
) -> Result<(f64, Vec<f64>)> {
    let (weights, intercepts) = split(at, classes, width)?;
    let count = labels.len() as f64;
    let mut value = 0.0;
    let mut gradient = vec![0.0_f64; at.len()];
    for start in (0..labels.len()).step_by(BLOCK) {
        let rows = BLOCK.min(labels.len() - start);
        let mut logits = tile(features, &weights, (start, 0), (rows, classes))?;
        for (row, &label) in logits.chunks_exact_mut(classes).zip(&labels[start..]) {
            row.iter_mut().zip(&intercepts).for_each(|(logit, b)| *logit += b);
            value += softmax_less_label(row, label as usize);
            for (sum, p) in gradient[classes * width..].iter_mut().zip(row.iter()) {
                *sum += f64::from(*p) / count;
            }
        }
        let product = || -> candle_core::Result<Vec<f32>> {
            let errors = Tensor::from_vec(logits, (rows, classes), &Device::Cpu)?;
            errors.t()?.matmul(&features.narrow(0, start, rows)?)?.flatten_all()?.to_vec1()
        };
        let block = product().model("cannot fit the probe")?;
        for (sum, g) in gradient.iter_mut().zip(block) {
            *sum += f64::from(g) / count;
        }
    }
    let mut penalty = 0.0;
    for (sum, w) in gradient[..classes * width].iter_mut().zip(at) {
        *sum += weight_decay * w;
        penalty += w * w;
    }
    Ok((value / count + 0.5 * weight_decay * penalty, gradient))
}

/// Turns logits into probabilities less the label's one; gives the cross-entropy.
fn softmax_less_label(row: &mut [f32], label: usize) -> f64 {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0_f64;
    let own = f64::from(row[label] - most);
    for logit in row.iter_mut() {
        let e = f64::from(*logit - most).exp();
        sum += e;
        *logit = e as f32;
    }
    row.iter_mut().for_each(|e| *e = (f64::from(*e) / sum) as f32);
    row[label] -= 1.0;
    sum.ln() - own
}

#[cfg(test)]
mod tests {
    use stage::Dice;

    use super::*;

    /// Three classes around three directions of six.
    fn samples(seed: u64, count: usize) -> Samples {
        let mut dice = Dice::new(seed);
        let mut rows = Vec::new();
        let mut labels = Vec::new();
        for _ in 0..count {
            let label = dice.below(3);
            let mut row: Vec<f32> = (0..6).map(|_| dice.unit() as f32 - 0.5).collect();
            row[label] += 0.6;
            rows.push(row);
            labels.push(label as u32);
        }
        Samples { features: Matrix::of_normalized(rows.iter().map(Vec::as_slice)), labels }
    }

    #[test]
    fn the_gradient_is_that_of_finite_differences() {
        let samples = samples(1, 40);
        let features = samples.features.tensor().unwrap();
        let mut dice = Dice::new(2);
        let at: Vec<f64> = (0..21).map(|_| dice.unit() - 0.5).collect();
        let value = |at: &[f64]| loss(&features, &samples.labels, (3, 6), 0.1, at).unwrap();
        let (_, gradient) = value(&at);
        for i in 0..at.len() {
            // Logits are f32: a step of 1e-2 keeps their rounding below the curvature's share.
            let (mut up, mut down) = (at.clone(), at.clone());
            up[i] += 1e-2;
            down[i] -= 1e-2;
            let slope = (value(&up).0 - value(&down).0) / 2e-2;
            assert!((slope - gradient[i]).abs() < 2e-5, "{i}: {slope} and {}", gradient[i]);
        }
    }

    #[test]
    fn a_probe_learns_directions_and_much_decay_forgets_them() {
        let (train, test) = (samples(1, 300), samples(2, 300));
        let cancel = Cancel::default();
        let right = |probe: &Probe| {
            probe.classify(&test).unwrap().ranks.iter().filter(|r| **r == 0).count()
        };
        let good = Probe::fit(&train, 3, 1e-3, 1000, None, &cancel).unwrap();
        assert!(good.converged && right(&good) > 230, "{} of 300", right(&good));
        let weak = Probe::fit(&train, 3, 100.0, 1000, None, &cancel).unwrap();
        let largest = weak.parameters[..18].iter().fold(0.0_f64, |m, w| m.max(w.abs()));
        assert!(largest < 0.01);
    }

    #[test]
    fn the_search_is_at_least_as_good_as_its_ends() {
        let (train, validation, test) = (samples(1, 60), samples(3, 200), samples(2, 400));
        let cancel = Cancel::default();
        let found = Probe::search(&train, &validation, 3, 1000, &cancel).unwrap();
        let right = |probe: &Probe| {
            probe.classify(&test).unwrap().ranks.iter().filter(|r| **r == 0).count()
        };
        let strong = Probe::fit(&train, 3, 100.0, 1000, None, &cancel).unwrap();
        assert!(right(&found) >= right(&strong) && found.weight_decay < 100.0, "{found:?}");
        assert!(Probe::search(&train, &Samples::default(), 3, 10, &cancel).is_err());
    }
}
