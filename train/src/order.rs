//! The order of the samples: a function of seed, pass and position alone.
//!
//! Each pass over the data is a keyed permutation, computed point by point: a balanced Feistel
//! network of eight rounds over the smallest even number of bits that holds every index, walked
//! along its cycle until the value is an index (Black and Rogaway, "Ciphers with arbitrary finite
//! domains", 2002; the walk takes fewer than four turns on average). So nothing is shuffled in
//! memory, no generator has a state to save, a resumed training needs only its step number, and
//! the number of threads cannot matter.

/// SplitMix64's output function: every input bit reaches every output bit.
#[must_use]
pub fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A stream of numbers that depends on its key alone.
#[derive(Debug, Clone)]
pub struct Counter {
    key: u64,
    next: u64,
}

impl Counter {
    /// The stream of this key: for instance seed, pass and sample.
    #[must_use]
    pub fn new(key: &[u64]) -> Self {
        Self { key: key.iter().fold(0, |hash, part| mix(hash ^ mix(*part))), next: 0 }
    }

    /// Uniform in 0..1, a multiple of 2⁻⁵³.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform in 0..`n`, for `n` ≥ 1; the bias is below `n` / 2⁶⁴.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(n)) >> 64) as u64
    }

    fn bits(&mut self) -> u64 {
        self.next += 1;
        mix(self.key ^ mix(self.next))
    }
}

/// The samples of a training by their place: a permutation for each pass, or draws with
/// replacement for each epoch.
#[derive(Debug, Clone)]
pub enum Places {
    /// Every sample once a pass.
    Permuted(Order),
    /// Each place draws on its own.
    Resampled {
        /// Number of samples, at least 1.
        samples: u64,
        /// Seed.
        seed: u64,
    },
    /// The same, with some sources oftener than others.
    Weighted {
        /// Of each source: its first sample, how many it has, at least 1, and the share of the draws
        /// that go to it or one before it.
        sources: Vec<(u64, u64, f64)>,
        /// Seed.
        seed: u64,
    },
}

impl Places {
    /// Draws with replacement from sources of so many samples, one after the other, each with its
    /// factor: a sample is drawn as often as its source's factor is to the others'.
    #[must_use]
    pub fn weighted(sources: &[(u64, f64)], seed: u64) -> Self {
        let weight = |(samples, factor): &(u64, f64)| *samples as f64 * factor;
        let all: f64 = sources.iter().map(weight).sum();
        let (mut first, mut so_far) = (0, 0.0);
        let mut drawn = Vec::new();
        for source in sources {
            if weight(source) > 0.0 {
                so_far += weight(source);
                drawn.push((first, source.0, so_far / all));
            }
            first += source.0;
        }
        Self::Weighted { sources: drawn, seed }
    }

    /// Samples that may come.
    #[must_use]
    pub fn samples(&self) -> u64 {
        match self {
            Self::Permuted(order) => order.samples,
            Self::Resampled { samples, .. } => *samples,
            Self::Weighted { sources, .. } => sources.iter().map(|(_, samples, _)| samples).sum(),
        }
    }

    /// The sample at `position` of a pass, and those that take its place in order where it is
    /// broken: of a permutation the ones at the next positions, else further draws. Without end.
    pub fn candidates(&self, pass: u64, position: u64) -> Box<dyn Iterator<Item = u64> + '_> {
        match self {
            Self::Permuted(order) => {
                let samples = order.samples;
                let first = position % samples;
                Box::new((0..).map(move |i| order.at(pass, (first + i % samples) % samples)))
            }
            Self::Resampled { samples, seed } => {
                let mut numbers = Counter::new(&[*seed, pass, position]);
                Box::new(std::iter::repeat_with(move || numbers.below(*samples)))
            }
            Self::Weighted { sources, seed } => {
                let mut numbers = Counter::new(&[*seed, pass, position]);
                Box::new(std::iter::repeat_with(move || {
                    let share = numbers.unit();
                    let found = sources.iter().find(|(.., upto)| share < *upto);
                    let (first, samples, _) =
                        found.or(sources.last()).copied().unwrap_or((0, 1, 1.0));
                    first + numbers.below(samples)
                }))
            }
        }
    }
}

/// The order of `samples` samples under one seed.
#[derive(Debug, Clone, Copy)]
pub struct Order {
    samples: u64,
    seed: u64,
    half_bits: u32,
}

const ROUNDS: u64 = 8;

impl Order {
    /// An order of `samples` samples.
    #[must_use]
    pub fn new(samples: u64, seed: u64) -> Self {
        let bits = 64 - samples.saturating_sub(1).leading_zeros();
        Self { samples, seed, half_bits: bits.div_ceil(2).max(1) }
    }

    /// The sample at `position` of pass `pass`. For a fixed pass this is a permutation of
    /// `0..samples`.
    ///
    /// # Panics
    /// When `position` is not below the number of samples.
    #[must_use]
    pub fn at(&self, pass: u64, position: u64) -> u64 {
        assert!(position < self.samples, "position {position} of {} samples", self.samples);
        let key = mix(self.seed ^ mix(pass));
        let mut value = position;
        loop {
            value = self.encrypt(key, value);
            if value < self.samples {
                return value;
            }
        }
    }

    fn encrypt(&self, key: u64, value: u64) -> u64 {
        let mask = (1_u64 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for round in 0..ROUNDS {
            let scrambled = mix(key ^ mix(right ^ (round << 56))) & mask;
            (left, right) = (right, left ^ scrambled);
        }
        (left << self.half_bits) | right
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the same bits or not")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RESAMPLED: [u64; 10] = [5, 5, 6, 2, 8, 3, 8, 8, 4, 0];

    fn pass(samples: u64, seed: u64, pass: u64) -> Vec<u64> {
        let order = Order::new(samples, seed);
        (0..samples).map(|position| order.at(pass, position)).collect()
    }

    proptest! {
        #[test]
        fn every_pass_is_a_permutation(samples in 1_u64..600, seed: u64, number: u64) {
            let mut seen = pass(samples, seed, number);
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..samples).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_order_is_written_down() {
        // A change of these figures is a change of every training's data order.
        assert_eq!(pass(10, 0, 0), [8, 7, 4, 5, 0, 9, 6, 2, 3, 1]);
    }

    #[test]
    fn draws_with_replacement_are_written_down() {
        let places = Places::Resampled { samples: 10, seed: 0 };
        let draw = |pass| -> Vec<u64> {
            (0..10).filter_map(|at| places.candidates(pass, at).next()).collect()
        };
        assert_eq!(draw(0), RESAMPLED);
        assert_ne!(draw(1), RESAMPLED);
    }

    #[test]
    fn every_sample_is_drawn_about_equally_often() {
        let places = Places::Resampled { samples: 10, seed: 3 };
        let mut drawn = [0_u32; 10];
        for at in 0..10_000 {
            let index = places.candidates(0, at).next().unwrap();
            drawn[index as usize] += 1;
        }
        assert!(drawn.iter().all(|count| (900..1100).contains(count)), "{drawn:?}");
    }

    #[test]
    fn a_source_with_a_factor_of_three_has_its_samples_three_times_as_often() {
        let places = Places::weighted(&[(4, 1.0), (3, 0.0), (2, 3.0)], 5);
        let mut drawn = [0_u32; 9];
        for at in 0..10_000 {
            let index = places.candidates(0, at).next().unwrap();
            drawn[index as usize] += 1;
        }
        // Weights 4, 0 and 6 of 10.
        assert!(drawn[..4].iter().all(|count| (900..1100).contains(count)), "{drawn:?}");
        assert_eq!(drawn[4..7], [0; 3]);
        assert!(drawn[7..].iter().all(|count| (2850..3150).contains(count)), "{drawn:?}");
    }

    #[test]
    fn the_next_position_stands_in_for_a_broken_sample() {
        let order = Order::new(10, 0);
        let places = Places::Permuted(order);
        let in_turn: Vec<u64> = places.candidates(0, 8).take(3).collect();
        assert_eq!(in_turn, [order.at(0, 8), order.at(0, 9), order.at(0, 0)]);
    }

    #[test]
    fn passes_and_seeds_differ() {
        assert_ne!(pass(100, 0, 0), pass(100, 0, 1));
        assert_ne!(pass(100, 0, 0), pass(100, 1, 0));
    }

    #[test]
    fn every_sample_comes_first_about_equally_often() {
        let mut first = [0_u32; 10];
        for seed in 0..10_000 {
            first[Order::new(10, seed).at(0, 0) as usize] += 1;
        }
        assert!(first.iter().all(|count| (850..1150).contains(count)), "{first:?}");
    }

    #[test]
    fn neighbours_do_not_stay_neighbours() {
        let order = pass(1000, 3, 0);
        let close = order.windows(2).filter(|w| w[0].abs_diff(w[1]) == 1).count();
        assert!(close < 10, "{close} of 999 neighbours stayed together");
    }

    #[test]
    fn a_counter_depends_on_its_key_alone_and_stays_in_range() {
        let draw = |key: &[u64]| {
            let mut counter = Counter::new(key);
            (counter.unit(), counter.below(7))
        };
        assert_eq!(draw(&[1, 2, 3]), draw(&[1, 2, 3]));
        assert_ne!(draw(&[1, 2, 3]).0, draw(&[1, 3, 2]).0);
        let mut counter = Counter::new(&[5]);
        assert!((0..1000).all(|_| (0.0..1.0).contains(&counter.unit()) && counter.below(3) < 3));
    }
}
