//! How a score is distributed, exactly.

use serde::{Deserialize, Serialize};

/// Count, range, mean and deciles of a score. Values that are no numbers (NaN, infinite) count as
/// missing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Pairs that have a value.
    pub count: u64,
    /// Pairs that have none.
    pub missing: u64,
    /// Mean; 0 of nothing.
    pub mean: f64,
    /// Eleven values: the least, then the value of rank `ceil(q * count)` for q = 0.1, …, 0.9, then
    /// the greatest; empty of nothing.
    pub deciles: Vec<f64>,
}

impl Summary {
    /// Of these values; they are sorted on the way.
    #[must_use]
    pub fn of(mut values: Vec<f64>, mut missing: u64) -> Self {
        let all = values.len();
        values.retain(|value| value.is_finite());
        missing += (all - values.len()) as u64;
        values.sort_unstable_by(f64::total_cmp);
        let count = values.len();
        if count == 0 {
            return Self { count: 0, missing, mean: 0.0, deciles: Vec::new() };
        }
        // Added in ascending order, so that the order of the rows changes no bit.
        let mean = values.iter().sum::<f64>() / count as f64;
        let rank = |tenth: usize| (tenth * count).div_ceil(10).clamp(1, count) - 1;
        let deciles = (0..=10).filter_map(|tenth| values.get(rank(tenth)).copied()).collect();
        Self { count: count as u64, missing, mean, deciles }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deciles_are_values_that_occur() {
        let summary = Summary::of((1..=20).rev().map(f64::from).collect(), 3);
        let expected: [f64; 11] = [1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 18.0, 20.0];
        assert_eq!(summary.deciles, expected);
        assert_eq!((summary.count, summary.missing, summary.mean), (20, 3, 10.5));
    }

    #[test]
    fn what_is_no_number_is_missing() {
        let summary = Summary::of(vec![f64::NAN, 2.0, f64::INFINITY], 0);
        assert_eq!((summary.count, summary.missing), (1, 2));
        assert_eq!(summary.deciles, [2.0; 11]);
        assert!(Summary::of(Vec::new(), 1).deciles.is_empty());
    }
}
