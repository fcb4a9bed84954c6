//! A permutation that is a function of its seed alone.

/// The numbers below `len` in an order that depends on `seed` alone: sorted by a counter-based
/// random number each.
///
/// The number of `i` is SplitMix64's output at counter `i` (Steele, Lea, Flood, "Fast splittable
/// pseudorandom number generators", 2014), so no state has to pass from one to the next.
pub(crate) fn permutation(len: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    order.sort_by_cached_key(|&i| (random_at(seed, i as u64), i));
    order
}

/// One seed of several numbers: each passes through SplitMix64's output function with what the
/// numbers before it gave.
pub(crate) fn seed_of(parts: &[u64]) -> u64 {
    parts.iter().fold(0, |seed, &part| random_at(seed, part))
}

fn random_at(seed: u64, counter: u64) -> u64 {
    let mut z = seed.wrapping_add(counter.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_gives_splitmix64s_published_numbers() {
        // First outputs for seed 1234567, as quoted by implementations of the generator.
        let first = [0, 1, 2].map(|i| random_at(1_234_567, i));
        let known =
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!(first, known);
    }

    #[test]
    fn seeds_of_neighbouring_numbers_have_nothing_in_common() {
        let seeds = [[0, 0], [0, 1], [1, 0], [1, 1]].map(|parts| seed_of(&parts));
        for (i, a) in seeds.iter().enumerate() {
            for b in &seeds[..i] {
                assert!((a ^ b).count_ones() > 16, "{a:x} {b:x}");
            }
        }
    }

    #[test]
    fn every_number_occurs_once_and_another_seed_gives_another_order() {
        let order = permutation(100, 7);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        assert_ne!(order, sorted);
        assert_ne!(order, permutation(100, 8));
        assert_eq!(order, permutation(100, 7));
    }
}
