//! Two checkpoints on the same samples: is the difference more than the test set's chance?
//!
//! The paired bootstrap draws the same units for both and looks at the difference; the p-value is
//! twice the smaller share of samples on one side of zero, with one added to count and total (Davison
//! and Hinkley 1997, 4.11). For accuracy also McNemar's exact test: of the pictures that only one of
//! the two gets right, each side is binomial with probability one half (McNemar 1947).

use stage::{Error, Result};

use crate::bootstrap::{interval, replicate};
use crate::outcome::{Answers, Outcome, Shape};

/// One metric of two checkpoints.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// The second's value less the first's.
    pub value: f64,
    /// 95 % interval.
    pub interval: Option<[f64; 2]>,
    /// Two-sided p-value of the paired bootstrap.
    pub p: f64,
}

/// McNemar's exact test on acc1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct McNemar {
    /// Pictures that only the first gets right.
    pub only_first: u64,
    /// Pictures that only the second gets right.
    pub only_second: u64,
    /// Two-sided p-value.
    pub p: f64,
}

/// A metric of one checkpoint: its value, and its value in each bootstrap sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Drawn {
    /// The metric itself.
    pub value: f64,
    /// The metric in each sample.
    pub samples: Vec<Option<f64>>,
}

/// Draws a metric of an outcome. The same seed draws the same units of two outcomes of one test set.
#[must_use]
pub fn draw(
    outcome: &Outcome,
    shape: &Shape,
    name: &str,
    samples: u32,
    seed: u64,
    threads: usize,
) -> Option<Drawn> {
    let measures = outcome.measures(shape);
    let measure = measures.iter().find(|m| m.name == name)?;
    let value = measure.value(&vec![1; outcome.len()])?;
    let rows = replicate(&[measure], outcome.len(), samples, seed, threads);
    let samples = rows.into_iter().map(|row| row.first().copied().flatten()).collect();
    Some(Drawn { value, samples })
}

/// The second less the first, both drawn with one seed from the same samples.
#[must_use]
pub fn difference(first: &Drawn, second: &Drawn) -> Difference {
    let pairs = first.samples.iter().zip(&second.samples);
    let samples: Vec<Option<f64>> = pairs.map(|(a, b)| Some((*b)? - (*a)?)).collect();
    Difference {
        value: second.value - first.value,
        interval: interval(samples.iter().copied()),
        p: two_sided(&samples),
    }
}

/// The mean of several metrics of one checkpoint, sample by sample.
#[must_use]
pub fn mean(drawn: &[&Drawn]) -> Option<Drawn> {
    let count = drawn.len() as f64;
    let first = drawn.first()?;
    let samples = (0..first.samples.len()).map(|b| {
        drawn
            .iter()
            .try_fold(0.0, |sum, d| Some(sum + d.samples.get(b).copied().flatten()? / count))
    });
    let value = drawn.iter().map(|d| d.value).sum::<f64>() / count;
    Some(Drawn { value, samples: samples.collect() })
}

/// Two-sided p-value of a bootstrap's differences.
#[must_use]
pub fn two_sided(samples: &[Option<f64>]) -> f64 {
    let known = || samples.iter().flatten();
    let all = known().count() as f64;
    let up = known().filter(|d| **d >= 0.0).count() as f64;
    let down = known().filter(|d| **d <= 0.0).count() as f64;
    (2.0 * (up.min(down) + 1.0) / (all + 1.0)).min(1.0)
}

/// McNemar's exact test, for two classifications of the same pictures.
#[must_use]
pub fn mcnemar(first: &Outcome, second: &Outcome) -> Option<McNemar> {
    same_samples(first, second).ok()?;
    let (Answers::Classified(a), Answers::Classified(b)) = (&first.answers, &second.answers) else {
        return None;
    };
    let (mut only_first, mut only_second) = (0_u64, 0_u64);
    for (a, b) in a.ranks.iter().zip(&b.ranks) {
        only_first += u64::from(*a == 0 && *b != 0);
        only_second += u64::from(*a != 0 && *b == 0);
    }
    let p = exact_binomial(only_first.min(only_second), only_first + only_second);
    Some(McNemar { only_first, only_second, p })
}

/// Twice the probability of at most `k` of `n` throws of a fair coin, at most 1.
fn exact_binomial(k: u64, n: u64) -> f64 {
    // Terms relative to the last one keep their precision where 2^-n has none left.
    let (mut term, mut sum) = (1.0_f64, 1.0_f64);
    for i in (1..=k).rev() {
        term *= i as f64 / (n - i + 1) as f64;
        sum += term;
    }
    let mut log = -(n as f64) * std::f64::consts::LN_2;
    for i in 1..=k {
        log += ((n - k + i) as f64 / i as f64).ln();
    }
    (2.0 * (log + sum.ln()).exp()).min(1.0)
}

/// Holm's adjustment of p-values of several tests; in the order given.
#[must_use]
pub fn holm(ps: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..ps.len()).collect();
    order.sort_by(|a, b| ps[*a].total_cmp(&ps[*b]));
    let mut adjusted = vec![0.0; ps.len()];
    let mut largest = 0.0_f64;
    for (place, i) in order.into_iter().enumerate() {
        largest = largest.max(ps[i] * (ps.len() - place) as f64).min(1.0);
        adjusted[i] = largest;
    }
    adjusted
}

/// Refuses two outcomes that are not of the same samples in the same order.
///
/// # Errors
/// [`stage::Kind::Input`] with both numbers.
pub fn same_samples(first: &Outcome, second: &Outcome) -> Result<()> {
    let labels = match (&first.answers, &second.answers) {
        (Answers::Classified(a), Answers::Classified(b)) => a.labels == b.labels,
        (Answers::Labelled(a), Answers::Labelled(b)) => a.targets == b.targets,
        (Answers::Retrieved(a), Answers::Retrieved(b)) => a.owners == b.owners,
        (Answers::Associated(a), Answers::Associated(b)) => a.candidates == b.candidates,
        (Answers::Answered(_), Answers::Answered(_)) => true,
        _ => false,
    };
    if labels && first.keys == second.keys {
        return Ok(());
    }
    Err(Error::input(format!(
        "{} samples and {} samples, which are not the same",
        first.len(),
        second.len()
    ))
    .hint("evaluate both checkpoints on the same test set"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classification::Classified;

    fn outcome(right: impl Fn(usize) -> bool) -> Outcome {
        let ranks: Vec<u32> = (0..400).map(|i| u32::from(!right(i))).collect();
        let found = Classified { labels: vec![0; 400], predicted: ranks.clone(), ranks };
        Outcome {
            keys: (0..400).map(|i| i.to_string()).collect(),
            metadata: Vec::new(),
            answers: Answers::Classified(found),
        }
    }

    fn shape() -> Shape {
        Shape { classes: vec!["a".into(), "b".into()], ..Shape::default() }
    }

    fn between(a: &Outcome, b: &Outcome, samples: u32) -> Difference {
        let drawn = |outcome| draw(outcome, &shape(), "acc1", samples, 0, 2).unwrap();
        difference(&drawn(a), &drawn(b))
    }

    #[test]
    fn a_mean_is_taken_sample_by_sample() {
        let a = Drawn { value: 0.2, samples: vec![Some(0.1), Some(0.3), None] };
        let b = Drawn { value: 0.4, samples: vec![Some(0.3), Some(0.5), Some(0.4)] };
        let found = mean(&[&a, &b]).unwrap();
        assert!((found.value - 0.3).abs() < 1e-12);
        assert_eq!(found.samples, [Some(0.2), Some(0.4), None]);
        assert_eq!(mean(&[]), None);
    }

    #[test]
    fn a_paired_test_sees_what_two_intervals_cannot() {
        // 200 of 400 against 212 of 400: the intervals overlap widely, but the second gets right all
        // that the first does, and 12 more.
        let (a, b) = (outcome(|i| i < 200), outcome(|i| i < 212));
        let found = between(&a, &b, 1000);
        assert!((found.value - 0.03).abs() < 1e-12);
        let [low, high] = found.interval.unwrap();
        assert!(low > 0.01 && high < 0.05, "{low} {high}");
        assert!(found.p < 0.01);
        let test = mcnemar(&a, &b).unwrap();
        assert_eq!((test.only_first, test.only_second), (0, 12));
        assert!((test.p - 2.0 / 4096.0).abs() < 1e-12);
    }

    #[test]
    fn equal_checkpoints_differ_by_nothing_with_p_one() {
        let a = outcome(|i| i % 3 == 0);
        let found = between(&a, &a, 200);
        assert_eq!((found.value, found.interval, found.p), (0.0, Some([0.0, 0.0]), 1.0));
        assert_eq!(mcnemar(&a, &a).unwrap().p, 1.0);
    }

    #[test]
    fn other_samples_are_not_compared() {
        let a = outcome(|_| true);
        let mut b = a.clone();
        b.keys[7] = "other".into();
        assert!(same_samples(&a, &b).unwrap_err().to_string().contains("400 samples"));
        assert_eq!(mcnemar(&a, &b), None);
    }

    #[test]
    fn the_binomial_is_exact_for_small_and_large_counts() {
        assert!((exact_binomial(2, 10) - 2.0 * (1.0 + 10.0 + 45.0) / 1024.0).abs() < 1e-12);
        assert_eq!(exact_binomial(5, 10), 1.0);
        assert_eq!(exact_binomial(0, 0), 1.0);
        // Normal approximation with continuity correction: z = 99.5 / 50, p = 0.0466.
        assert!((exact_binomial(4900, 10_000) - 0.0466).abs() < 5e-4);
    }

    #[test]
    fn holm_multiplies_by_the_tests_that_are_left_and_never_falls() {
        let got = holm(&[0.01, 0.04, 0.03, 0.005]);
        for (value, expected) in got.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            assert!((value - expected).abs() < 1e-12, "{got:?}");
        }
    }
}
