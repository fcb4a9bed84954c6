//! Bootstrap intervals: how far a metric moves when the test set is drawn again from itself.
//!
//! Efron's percentile interval: units are drawn with replacement, the metric is computed on each
//! sample, and the 2.5 % and 97.5 % quantiles of these values are its interval. The draws are a
//! function of seed and sample number alone, so that any number of threads gives the same interval
//! and two checkpoints are measured on the same samples.

use stage::Dice;

use crate::measure::Measure;

/// Share of the samples beyond each end of an interval: 95 % lie within.
const BEYOND: f64 = 0.025;

/// How often each of `units` was drawn in sample `number`.
#[must_use]
pub fn weights(seed: u64, number: u64, units: usize) -> Vec<u32> {
    // Seeds that follow one another give unrelated sequences only after a first mixing.
    let mut mixed = Dice::new(seed ^ Dice::new(number).bits());
    let mut dice = Dice::new(mixed.bits());
    let mut weights = vec![0_u32; units];
    for _ in 0..units {
        weights[dice.below(units)] += 1;
    }
    weights
}

/// The metrics of each bootstrap sample: `samples` rows, one value a measure.
#[must_use]
pub fn replicate(
    measures: &[&Measure<'_>],
    units: usize,
    samples: u32,
    seed: u64,
    threads: usize,
) -> Vec<Vec<Option<f64>>> {
    let samples = samples as usize;
    let mut rows: Vec<Vec<Option<f64>>> = vec![Vec::new(); samples];
    if units == 0 || measures.is_empty() {
        return rows;
    }
    let share = samples.div_ceil(threads.max(1)).max(1);
    std::thread::scope(|scope| {
        for (part, rows) in rows.chunks_mut(share).enumerate() {
            scope.spawn(move || {
                for (i, row) in rows.iter_mut().enumerate() {
                    let weights = weights(seed, (part * share + i) as u64, units);
                    *row = measures.iter().map(|m| m.value(&weights)).collect();
                }
            });
        }
    });
    rows
}

/// The 95 % percentile interval of some values; none where a tenth of them and more have no meaning.
#[must_use]
pub fn interval(values: impl Iterator<Item = Option<f64>>) -> Option<[f64; 2]> {
    let all: Vec<Option<f64>> = values.collect();
    let mut values: Vec<f64> = all.iter().flatten().copied().collect();
    if values.is_empty() || values.len() * 10 < all.len() * 9 {
        return None;
    }
    values.sort_by(f64::total_cmp);
    let last = values.len() - 1;
    let low = (BEYOND * values.len() as f64).floor() as usize;
    Some([values[low.min(last)], values[last - low.min(last)]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::share;

    #[test]
    fn a_sample_has_as_many_draws_as_units_and_is_a_function_of_seed_and_number() {
        let once = weights(0, 5, 100);
        assert_eq!(once.iter().sum::<u32>(), 100);
        assert_eq!(once, weights(0, 5, 100));
        assert_ne!(once, weights(0, 6, 100));
        assert_ne!(once, weights(1, 5, 100));
    }

    #[test]
    fn the_interval_of_a_share_is_that_of_the_binomial() {
        // 400 units, half hit: standard error 0.025, so about 0.5 ± 0.049.
        let measure = Measure::new("acc1", |w| share(w, |i| i % 2 == 0));
        let rows = replicate(&[&measure], 400, 2000, 0, 2);
        let [low, high] = interval(rows.iter().map(|row| row[0])).unwrap();
        assert!((low - 0.451).abs() < 0.01 && (high - 0.549).abs() < 0.01, "{low} {high}");
        assert_eq!(rows, replicate(&[&measure], 400, 2000, 0, 1));
    }

    #[test]
    fn quantiles_leave_a_fortieth_beyond_each_end() {
        let [low, high] = interval((0..1000).map(|v| Some(f64::from(v)))).unwrap();
        assert_eq!((low, high), (25.0, 974.0));
        assert_eq!(interval([Some(1.0), None].into_iter()), None);
        assert_eq!(interval(std::iter::empty()), None);
    }
}
