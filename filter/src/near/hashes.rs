//! Neighbours of 64-bit hashes by Hamming distance.
//!
//! Two hashes at distance d agree in at least one of d + 1 bands of their bits (pigeonhole), so
//! that only hashes that share a band are compared.

use std::collections::HashMap;

/// Largest distance: beyond it bands are so narrow that every hash meets every other.
pub const MOST_DISTANCE: u32 = 12;
/// A hash with fewer bits than this is of a picture without structure and says nothing.
pub const LEAST_BITS: u32 = 8;

/// Whether a hash says anything of its picture.
#[must_use]
pub fn says_something(hash: u64) -> bool {
    (LEAST_BITS..=64 - LEAST_BITS).contains(&hash.count_ones())
}

/// Hashes that are looked up by distance.
#[derive(Debug)]
pub struct Index {
    distance: u32,
    hashes: Vec<u64>,
    bands: Vec<Band>,
}

#[derive(Debug)]
struct Band {
    shift: u32,
    mask: u64,
    places: HashMap<u64, Vec<u32>>,
}

impl Index {
    /// An empty index for distances up to `distance`, at most [`MOST_DISTANCE`].
    #[must_use]
    pub fn new(distance: u32) -> Self {
        let distance = distance.min(MOST_DISTANCE);
        let count = distance + 1;
        let band = |i: u32| {
            let (from, to) = (64 * i / count, 64 * (i + 1) / count);
            let mask = u64::MAX >> (64 - (to - from));
            Band { shift: from, mask, places: HashMap::new() }
        };
        Self { distance, hashes: Vec::new(), bands: (0..count).map(band).collect() }
    }

    /// Adds a hash and gives its number, counted from 0.
    pub fn add(&mut self, hash: u64) -> u32 {
        let number = self.hashes.len() as u32;
        self.hashes.push(hash);
        for band in &mut self.bands {
            band.places.entry(hash >> band.shift & band.mask).or_default().push(number);
        }
        number
    }

    /// The nearest hashes within the distance that `accept` takes: the least distance, of equal
    /// ones the lowest number.
    pub fn nearest(&self, hash: u64, mut accept: impl FnMut(u32) -> bool) -> Option<(u32, u32)> {
        let mut near: Vec<(u32, u32)> = Vec::new();
        for band in &self.bands {
            for &number in band.places.get(&(hash >> band.shift & band.mask)).into_iter().flatten()
            {
                let Some(other) = self.hashes.get(number as usize) else { continue };
                let distance = (other ^ hash).count_ones();
                if distance <= self.distance {
                    near.push((distance, number));
                }
            }
        }
        near.sort_unstable();
        near.dedup();
        near.into_iter().find(|(_, number)| accept(*number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stage::Dice;

    #[test]
    fn every_hash_within_the_distance_is_found_and_none_beyond() {
        let mut dice = Dice::new(1);
        let hashes: Vec<u64> = (0..300).map(|_| dice.bits()).collect();
        for distance in [0, 1, 4, 7, MOST_DISTANCE] {
            let mut index = Index::new(distance);
            hashes.iter().for_each(|hash| {
                index.add(*hash);
            });
            for (number, hash) in hashes.iter().enumerate() {
                let mut other = *hash;
                for bit in 0..distance {
                    other ^= 1 << (bit * 5 % 64);
                }
                assert_eq!(index.nearest(other, |_| true), Some((distance, number as u32)));
                let beyond = other ^ 1 << 63;
                assert_eq!(index.nearest(beyond, |n| n == number as u32), None);
            }
        }
    }
}
