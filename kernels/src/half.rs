//! Linear layers with bf16 weights, for inference.
//!
//! The activations are rounded to bf16 row by row, products of two bf16 numbers are exact in f32,
//! and sums are f32. The order is that of the instruction VDPBF16PS (Intel SDM): of each pair of
//! neighbours in the inner dimension the second product is added first. So machines with and
//! without the instruction give the same bits, numbers below the smallest normal one apart.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use crate::simd::{Level, Work};
use crate::slices::{tensor, values};

/// Columns of a panel: two AVX-512 registers of f32.
const WIDE: usize = 32;

/// Rows of a tile.
const TALL: usize = 12;

/// Pairs of the inner dimension in one block, so that a panel's part (32 KiB) stays in the
/// first-level cache.
const DEPTH: usize = 256;

/// A weight (N, K) in bf16, laid out for [`HalfLinear::forward`].
#[derive(Debug, Clone)]
pub struct HalfLinear {
    /// For each [`WIDE`] columns, for each pair of the inner dimension: the columns' pairs, zeros
    /// beyond the last column and the last number.
    panels: Vec<u32>,
    columns: usize,
    depth: usize,
}

/// The nearest bf16 number, ties to even; NaN stays NaN.
#[inline(always)]
fn rounded(value: f32) -> u32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    if value.is_nan() { (bits >> 16) | 0x40 } else { rounded }
}

/// Two neighbours as the instruction takes them: the first in the lower half.
#[inline(always)]
fn pair(first: f32, second: f32) -> u32 {
    rounded(first) | rounded(second) << 16
}

impl HalfLinear {
    /// Rounds and lays out a weight.
    ///
    /// # Shapes
    /// `weight` (N, K) f32
    ///
    /// # Errors
    /// Another shape or dtype, or devices than the CPU.
    pub fn new(weight: &Tensor) -> Result<Self> {
        let (columns, depth) = weight.dims2()?;
        let weight = weight.contiguous()?;
        let weight = values::<f32>(&weight, "half_linear")?;
        let pairs = depth.div_ceil(2);
        let mut panels = vec![0; columns.div_ceil(WIDE) * pairs * WIDE];
        panels.par_chunks_mut((pairs * WIDE).max(1)).enumerate().for_each(|(panel, packed)| {
            let rows = weight[panel * WIDE * depth..].chunks_exact(depth.max(1)).take(WIDE);
            for (column, row) in rows.enumerate() {
                for (to, two) in packed[column..].iter_mut().step_by(WIDE).zip(row.chunks(2)) {
                    *to = pair(two[0], two.get(1).copied().unwrap_or(0.0));
                }
            }
        });
        Ok(Self { panels, columns, depth })
    }

    /// `x weightᵀ + bias`; no gradient.
    ///
    /// # Shapes
    /// `x` (.., K) f32, `bias` (N) f32 → (.., N) f32
    ///
    /// # Errors
    /// Other shapes or dtypes, or devices than the CPU.
    pub fn forward(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let mut shape = x.dims().to_vec();
        if shape.pop() != Some(self.depth) || bias.is_some_and(|b| b.dims() != [self.columns]) {
            candle_core::bail!(
                "half_linear: x {:?}, bias {:?}; expected (.., {}), ({})",
                x.dims(),
                bias.map(Tensor::dims),
                self.depth,
                self.columns
            );
        }
        shape.push(self.columns);
        let x = x.contiguous()?;
        let xs = values::<f32>(&x, "half_linear")?;
        let bias = match bias {
            Some(bias) => values::<f32>(bias, "half_linear")?.to_vec(),
            None => vec![0.0; self.columns],
        };
        tensor(self.product(Level::best(), has_instruction(), &xs, &bias), shape)
    }

    fn product(&self, level: Level, instruction: bool, x: &[f32], bias: &[f32]) -> Vec<f32> {
        let rows = x.len() / self.depth.max(1);
        let mut y = Vec::with_capacity(rows * self.columns);
        for _ in 0..rows {
            y.extend_from_slice(bias);
        }
        if y.is_empty() || self.depth == 0 {
            return y;
        }
        let pairs = self.depth.div_ceil(2);
        let mut halves = vec![0; rows * pairs];
        halves.par_chunks_mut(pairs).zip(x.par_chunks(self.depth)).for_each(|(to, from)| {
            level.run(Round { from, to });
        });
        let tasks = 2 * rayon::current_num_threads().max(1);
        let task = rows.div_ceil(tasks).next_multiple_of(TALL).min(32 * TALL);
        y.par_chunks_mut(task * self.columns).zip(halves.par_chunks(task * pairs)).for_each(
            |(y, halves)| {
                for start in (0..pairs).step_by(DEPTH) {
                    let steps = DEPTH.min(pairs - start);
                    for (panel, b) in self.panels.chunks_exact(pairs * WIDE).enumerate() {
                        let b = &b[start * WIDE..(start + steps) * WIDE];
                        let first = panel * WIDE;
                        let count = WIDE.min(self.columns - first);
                        for (y, a) in
                            y.chunks_mut(TALL * self.columns).zip(halves.chunks(TALL * pairs))
                        {
                            let rows = y.len() / self.columns;
                            let tile = Tile {
                                a: &a[start..],
                                pairs,
                                b,
                                rows,
                                y: &mut y[first..],
                                columns: self.columns,
                                count,
                            };
                            tile.run(instruction, level);
                        }
                    }
                }
            },
        );
        y
    }
}

/// Whether this machine has the instruction.
fn has_instruction() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

struct Round<'a> {
    from: &'a [f32],
    to: &'a mut [u32],
}

impl Work for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let mut twos = self.from.chunks_exact(2);
        for (to, two) in self.to.iter_mut().zip(&mut twos) {
            *to = pair(two[0], two[1]);
        }
        if let ([last], Some(to)) = (twos.remainder(), self.to.last_mut()) {
            *to = pair(*last, 0.0);
        }
    }
}

/// `y += a b` for at most [`TALL`] rows and [`WIDE`] columns.
struct Tile<'a> {
    /// Pair l of row i is `a[i·pairs + l]`.
    a: &'a [u32],
    pairs: usize,
    /// Pair l of column j is `b[l·WIDE + j]`.
    b: &'a [u32],
    rows: usize,
    /// Element (i, j) is `y[i·columns + j]` for j < count.
    y: &'a mut [f32],
    columns: usize,
    count: usize,
}

impl Tile<'_> {
    fn run(self, instruction: bool, level: Level) {
        let steps = self.b.len() / WIDE;
        // What the loops read and write without a check.
        assert!((1..=TALL).contains(&self.rows) && (1..=WIDE).contains(&self.count));
        assert!(steps > 0 && self.b.len() == steps * WIDE);
        assert!(self.a.len() >= (self.rows - 1) * self.pairs + steps);
        assert!(self.y.len() >= (self.rows - 1) * self.columns + self.count);
        #[cfg(target_arch = "x86_64")]
        if instruction && has_instruction() {
            // SAFETY: the instruction is there, and the sizes were checked in the lines above.
            unsafe { tile_avx512(self, steps) };
            return;
        }
        let _ = instruction;
        level.run(Emulated { tile: self, steps });
    }
}

#[cfg(target_arch = "x86_64")]
/// # Safety
/// The machine has AVX-512 F and BF16; `a` holds `steps` pairs of every row, `b` holds
/// `steps · WIDE` pairs, `y` holds `count` elements of every row.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile_avx512(tile: Tile, steps: usize) {
    use std::arch::x86_64::{
        __m512, __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_loadu_si512,
        _mm512_set1_epi32, _mm512_setzero_ps, _mm512_storeu_ps,
    };
    let Tile { a, pairs, b, rows, y, columns, count } = tile;
    let mut values = [[0f32; WIDE]; TALL];
    let mut sums: [[__m512; 2]; TALL] = [[_mm512_setzero_ps(); 2]; TALL];
    let whole = count == WIDE;
    for (i, sums) in sums.iter_mut().enumerate().take(rows) {
        let from = if whole {
            y[i * columns..].as_ptr()
        } else {
            values[i][..count].copy_from_slice(&y[i * columns..][..count]);
            values[i].as_ptr()
        };
        // SAFETY: `from` points at WIDE = 32 elements: of `y` where all columns are there (checked
        // by the caller), of `values` where not.
        unsafe { *sums = [_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16))] };
    }
    // Rows beyond the last repeat it; their sums are not stored.
    let offsets: [usize; TALL] = std::array::from_fn(|i| i.min(rows - 1) * pairs);
    let bits = |v: __m512i| -> __m512bh {
        // SAFETY: both types are 512 bits without invalid patterns.
        unsafe { std::mem::transmute(v) }
    };
    for l in 0..steps {
        // SAFETY: l < steps, and b has steps·WIDE elements of 4 bytes.
        let b: [__m512bh; 2] = unsafe {
            let at = b.as_ptr().add(l * WIDE);
            [bits(_mm512_loadu_si512(at.cast())), bits(_mm512_loadu_si512(at.add(16).cast()))]
        };
        for i in 0..TALL {
            // SAFETY: offsets[i] + l ≤ (rows - 1)·pairs + steps - 1 < a.len().
            let a = unsafe { *a.get_unchecked(offsets[i] + l) };
            let a = bits(_mm512_set1_epi32(a.cast_signed()));
            sums[i][0] = _mm512_dpbf16_ps(sums[i][0], a, b[0]);
            sums[i][1] = _mm512_dpbf16_ps(sums[i][1], a, b[1]);
        }
    }
    for (i, sums) in sums.iter().enumerate().take(rows) {
        let to = if whole { y[i * columns..].as_mut_ptr() } else { values[i].as_mut_ptr() };
        // SAFETY: as for the loads.
        unsafe {
            _mm512_storeu_ps(to, sums[0]);
            _mm512_storeu_ps(to.add(16), sums[1]);
        }
        if !whole {
            y[i * columns..][..count].copy_from_slice(&values[i][..count]);
        }
    }
}

/// The instruction's arithmetic in plain steps.
struct Emulated<'a> {
    tile: Tile<'a>,
    steps: usize,
}

impl Work for Emulated<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Tile { a, pairs, b, rows, y, columns, count } = self.tile;
        let low = |pair: u32| f32::from_bits(pair << 16);
        let high = |pair: u32| f32::from_bits(pair & 0xffff_0000);
        for i in 0..rows {
            let mut sums = [0f32; WIDE];
            sums[..count].copy_from_slice(&y[i * columns..][..count]);
            for (a, b) in a[i * pairs..][..self.steps].iter().zip(b.chunks_exact(WIDE)) {
                let (first, second) = (low(*a), high(*a));
                for (sum, b) in sums.iter_mut().zip(b) {
                    // The products are exact.
                    let with_second = *sum + second * high(*b);
                    *sum = with_second + first * low(*b);
                }
            }
            y[i * columns..][..count].copy_from_slice(&sums[..count]);
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn noise(count: usize, seed: u32) -> Vec<f32> {
        let bits =
            |i: u32| i.wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(40_503)) >> 8;
        (0..count as u32).map(|i| bits(i) as f32 / (1 << 23) as f32 - 1.0).collect()
    }

    fn matrix(rows: usize, columns: usize, seed: u32) -> Tensor {
        Tensor::from_vec(noise(rows * columns, seed), (rows, columns), &Device::Cpu).unwrap()
    }

    #[test]
    fn bf16_is_rounded_to_the_nearest_even() {
        for (value, bits) in [
            (1.0, 0x3f80),
            (-2.5, 0xc020),
            (1.003_906_25, 0x3f80), // a tie, down to even
            (1.011_718_75, 0x3f82), // a tie, up to even
            (1.003_907, 0x3f81),
            (f32::INFINITY, 0x7f80),
            (f32::MAX, 0x7f80),
        ] {
            assert_eq!(rounded(value), bits, "{value}");
        }
        assert!(f32::from_bits(rounded(f32::NAN) << 16).is_nan());
        assert_eq!(rounded(1.1), 0x3f8d); // 1.1015625
    }

    #[test]
    fn the_product_is_that_of_the_rounded_numbers() {
        for (m, n, k) in [(1, 1, 1), (13, 33, 7), (25, 70, 1030), (12, 32, 512)] {
            let (x, w) = (matrix(m, k, 1), matrix(n, k, 2));
            let bias = Tensor::from_vec(noise(n, 3), n, &Device::Cpu).unwrap();
            let got = HalfLinear::new(&w).unwrap().forward(&x, Some(&bias)).unwrap();
            let round = |t: &Tensor| {
                let values: Vec<f64> = t
                    .flatten_all()
                    .unwrap()
                    .to_vec1::<f32>()
                    .unwrap()
                    .into_iter()
                    .map(|v| f64::from(f32::from_bits(rounded(v) << 16)))
                    .collect();
                Tensor::from_vec(values, t.dims(), &Device::Cpu).unwrap()
            };
            let exact = round(&x).matmul(&round(&w).t().unwrap()).unwrap();
            let exact =
                exact.broadcast_add(&bias.to_dtype(candle_core::DType::F64).unwrap()).unwrap();
            let got = got.to_dtype(candle_core::DType::F64).unwrap();
            let largest = |t: &Tensor| {
                let t = t.abs().unwrap().flatten_all().unwrap();
                t.max(0).unwrap().to_scalar::<f64>().unwrap()
            };
            let worst = largest(&(got - &exact).unwrap());
            assert!(worst < 1e-5 * largest(&exact), "{m} {n} {k}: {worst:e}");
        }
    }

    #[test]
    fn the_instruction_and_its_emulation_give_the_same_bits_at_every_level() {
        let (m, n, k) = (29, 45, 601);
        let (x, bias) = (noise(m * k, 5), noise(n, 6));
        let linear = HalfLinear::new(&matrix(n, k, 4)).unwrap();
        let baseline = linear.product(Level::Baseline, false, &x, &bias);
        for level in Level::available() {
            for instruction in [false, true] {
                assert_eq!(linear.product(*level, instruction, &x, &bias), baseline, "{level:?}");
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_the_rows_beside_it() {
        let x = matrix(40, 20, 1);
        let linear = HalfLinear::new(&matrix(9, 20, 2)).unwrap();
        let all = linear.forward(&x, None).unwrap();
        let one = linear.forward(&x.narrow(0, 31, 1).unwrap(), None).unwrap();
        assert_eq!(one.to_vec2::<f32>().unwrap()[0], all.to_vec2::<f32>().unwrap()[31]);
    }

    #[test]
    fn another_shape_is_refused_with_the_shapes() {
        let linear = HalfLinear::new(&matrix(9, 20, 2)).unwrap();
        let message = linear.forward(&matrix(2, 19, 1), None).unwrap_err().to_string();
        assert!(message.contains("[2, 19]") && message.contains("20"), "{message}");
    }
}
