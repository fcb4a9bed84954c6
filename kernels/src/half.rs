//! Linear layers with bf16 weights, for inference.
//!
//! The activations are rounded to bf16 row by row, products of two bf16 numbers are exact in f32,
//! and sums are f32. The order is that of the instruction VDPBF16PS (Intel SDM): of each pair of
//! neighbours in the inner dimension the second product is added first. So machines with and
//! without the instruction give the same bits, numbers below the smallest normal one and beyond the
//! largest finite one apart.

use candle_core::{Result, Tensor};

use crate::gemm::Matrix;
use crate::half_layout::pack_right;
use crate::half_product::{has_instruction, packed_half_product};
use crate::simd::Level;
use crate::slices::{tensor, values};
use crate::strip::Start;

/// A weight (N, K) in bf16, laid out for [`HalfLinear::forward`].
#[derive(Debug, Clone)]
pub struct HalfLinear {
    /// For each 32 columns, for each pair of the inner dimension: the columns' pairs, zeros
    /// beyond the last column and the last number.
    panels: Vec<u32>,
    columns: usize,
    depth: usize,
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
        let panels = pack_right(Level::best(), Matrix::new(&weight, columns, depth).transposed());
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
        let x = Matrix::new(x, rows, self.depth);
        packed_half_product(level, instruction, x, &self.panels, self.columns, Start::Row(bias))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::half_layout::rounded;

    fn noise(count: usize, seed: u32) -> Vec<f32> {
        let bits =
            |i: u32| i.wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(40_503)) >> 8;
        (0..count as u32).map(|i| bits(i) as f32 / (1 << 23) as f32 - 1.0).collect()
    }

    fn matrix(rows: usize, columns: usize, seed: u32) -> Tensor {
        Tensor::from_vec(noise(rows * columns, seed), (rows, columns), &Device::Cpu).unwrap()
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
