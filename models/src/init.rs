//! How a model begins: open_clip's distributions from a seed.
//!
//! Each tensor has its own stream, a function of the seed and its name alone, so that adding a
//! tensor does not move the others. The generator is SplitMix64 (Steele, Lea, Flood, "Fast
//! splittable pseudorandom number generators", 2014), written out so that no library's next version
//! changes a model.

use candle_core::{Device, Tensor};
use stage::{Result, ResultExt};

use crate::shapes::{Role, Shape};

/// The first values of a tensor, f32.
pub(crate) fn tensor(shape: &Shape, seed: u64, device: &Device) -> Result<Tensor> {
    let count = shape.dims.iter().product();
    let mut stream = Stream::new(seed, &shape.name);
    let data: Vec<f32> = match shape.role {
        Role::Constant(value) | Role::Buffer(value) => vec![value as f32; count],
        Role::Normal(deviation) => {
            (0..count).map(|_| (stream.normal() * deviation) as f32).collect()
        }
        Role::Uniform(bound) => {
            (0..count).map(|_| ((2.0 * stream.uniform() - 1.0) * bound) as f32).collect()
        }
        Role::Grid(side) => sines(side, shape.dims.last().copied().unwrap_or(0)),
    };
    Tensor::from_vec(data, shape.dims.clone(), device).model("cannot place a tensor")
}

/// MAE's fixed positions (He et al., arXiv 2111.06377, code `pos_embed.py`): zeros for the class
/// token, then for the places of a square grid row by row sines and cosines of the column in the
/// first half and of the row in the second, with frequencies 10000^(-i / (width / 4)).
fn sines(side: usize, width: usize) -> Vec<f32> {
    let quarter = width / 4;
    let mut values = vec![0.0; width];
    for place in 0..side * side {
        for coordinate in [place % side, place / side] {
            let angles =
                (0..quarter).map(|i| coordinate as f64 / 10000f64.powf(i as f64 / quarter as f64));
            let angles: Vec<f64> = angles.collect();
            values.extend(angles.iter().map(|angle| angle.sin() as f32));
            values.extend(angles.iter().map(|angle| angle.cos() as f32));
        }
    }
    values
}

/// SplitMix64.
pub(crate) struct Stream {
    state: u64,
    spare: Option<f64>,
}

impl Stream {
    /// A function of the seed and the name alone.
    pub(crate) fn new(seed: u64, name: &str) -> Self {
        // FNV-1a over the seed and the name.
        let bytes = seed.to_le_bytes().into_iter().chain(name.bytes());
        let state = bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self { state, spare: None }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In 0..1, 53 bits.
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Box and Muller's transform, both numbers of a pair.
    fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        let (sine, cosine) = (2.0 * std::f64::consts::PI * self.uniform()).sin_cos();
        self.spare = Some(radius * sine);
        radius * cosine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(role: Role, seed: u64) -> Vec<f32> {
        let shape = Shape { name: "x".into(), dims: vec![10_000], role };
        tensor(&shape, seed, &Device::Cpu).unwrap().to_vec1().unwrap()
    }

    fn moments(values: &[f32]) -> (f64, f64) {
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64;
        let square = values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>();
        (mean, (square / values.len() as f64).sqrt())
    }

    #[test]
    fn normal_and_uniform_have_their_moments() {
        let (mean, deviation) = moments(&values(Role::Normal(0.02), 0));
        assert!(mean.abs() < 8e-4 && (deviation - 0.02).abs() < 6e-4, "{mean} {deviation}");
        let uniform = values(Role::Uniform(0.5), 0);
        let (mean, deviation) = moments(&uniform);
        assert!(mean.abs() < 0.012 && (deviation - 0.5 / 3f64.sqrt()).abs() < 0.006);
        assert!(uniform.iter().all(|v| v.abs() <= 0.5));
    }

    #[test]
    fn one_seed_gives_one_tensor_and_two_give_two() {
        assert_eq!(values(Role::Normal(1.0), 3), values(Role::Normal(1.0), 3));
        assert_ne!(values(Role::Normal(1.0), 3), values(Role::Normal(1.0), 4));
    }

    #[test]
    fn fixed_positions_are_maes() {
        let table = sines(2, 8);
        assert_eq!(table.len(), 5 * 8);
        assert_eq!(table[..8], [0.0; 8]); // class token
        assert_eq!(table[8..16], [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]); // column 0, row 0
        let (s, c) = (1f64.sin() as f32, 1f64.cos() as f32);
        let (s2, c2) = (0.01f64.sin() as f32, 0.01f64.cos() as f32);
        assert_eq!(table[16..24], [s, s2, c, c2, 0.0, 0.0, 1.0, 1.0]); // column 1, row 0
        assert_eq!(table[24..32], [0.0, 0.0, 1.0, 1.0, s, s2, c, c2]); // column 0, row 1
    }

    #[test]
    fn the_generator_is_splitmix64() {
        // First outputs from state 0, as in the reference implementation.
        let mut stream = Stream { state: 0, spare: None };
        assert_eq!(stream.next(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(stream.next(), 0x6e78_9e6a_a1b9_65f4);
    }
}
