//! A metric as a function of weights: the same code gives the value and, with resampled weights,
//! its intervals.

use std::collections::BTreeMap;

/// A number with its name, computed over weighted units (pictures, or a picture with its captions).
///
/// All weights 1 give the metric itself; a bootstrap sample is the weights of how often each unit
/// was drawn.
pub struct Measure<'a> {
    /// The field's standard name.
    pub name: String,
    /// What guessing gives.
    pub chance: Option<f64>,
    /// A number beside the metrics (one group's share, a count): it gets no interval.
    pub detail: bool,
    of: Box<Metric<'a>>,
}

/// From weights to a value.
type Metric<'a> = dyn Fn(&[u32]) -> Option<f64> + Send + Sync + 'a;

impl std::fmt::Debug for Measure<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Measure").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<'a> Measure<'a> {
    /// A metric.
    pub fn new(
        name: impl Into<String>,
        of: impl Fn(&[u32]) -> Option<f64> + Send + Sync + 'a,
    ) -> Self {
        Self { name: name.into(), chance: None, detail: false, of: Box::new(of) }
    }

    /// With what guessing gives.
    #[must_use]
    pub fn chance(mut self, chance: f64) -> Self {
        self.chance = Some(chance);
        self
    }

    /// As a number beside the metrics.
    #[must_use]
    pub fn detail(mut self) -> Self {
        self.detail = true;
        self
    }

    /// The metric under these weights; none where it has no meaning (nothing to divide by).
    #[must_use]
    pub fn value(&self, weights: &[u32]) -> Option<f64> {
        (self.of)(weights)
    }
}

/// Weighted share of the units that hit.
pub(crate) fn share(weights: &[u32], hit: impl Fn(usize) -> bool) -> Option<f64> {
    let (mut hits, mut all) = (0_u64, 0_u64);
    for (i, &weight) in weights.iter().enumerate() {
        all += u64::from(weight);
        hits += if hit(i) { u64::from(weight) } else { 0 };
    }
    (all > 0).then(|| hits as f64 / all as f64)
}

/// Weighted share by group, for the groups that occur.
pub(crate) fn share_by<G: Ord>(
    weights: &[u32],
    group: impl Fn(usize) -> G,
    hit: impl Fn(usize) -> bool,
) -> BTreeMap<G, f64> {
    let mut tallies: BTreeMap<G, (u64, u64)> = BTreeMap::new();
    for (i, &weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0) {
        let (hits, all) = tallies.entry(group(i)).or_default();
        *all += u64::from(weight);
        *hits += if hit(i) { u64::from(weight) } else { 0 };
    }
    tallies.into_iter().map(|(g, (hits, all))| (g, hits as f64 / all as f64)).collect()
}

/// The smallest value.
pub(crate) fn worst<G>(shares: &BTreeMap<G, f64>) -> Option<f64> {
    shares.values().copied().min_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_that_was_drawn_twice_counts_twice() {
        let measure = Measure::new("acc1", |w| share(w, |i| i == 0));
        assert_eq!(measure.value(&[1, 1, 1, 1]), Some(0.25));
        assert_eq!(measure.value(&[2, 1, 1, 0]), Some(0.5));
        assert_eq!(measure.value(&[0, 0, 0, 0]), None);
    }

    #[test]
    fn the_worst_group_is_among_those_that_occur() {
        let hit = |i: usize| i != 3;
        let groups = [7, 7, 9, 9];
        let shares = share_by(&[1, 1, 1, 1], |i| groups[i], hit);
        assert_eq!((shares[&7], shares[&9], worst(&shares)), (1.0, 0.5, Some(0.5)));
        assert_eq!(worst(&share_by(&[1, 1, 0, 0], |i| groups[i], hit)), Some(1.0));
    }
}
