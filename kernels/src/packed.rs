//! Linear layers with f32 weights that are laid out once, for inference.

use candle_core::{Result, Tensor};

use crate::gemm::Matrix;
use crate::panels::Panels;
use crate::slices::{tensor, values};

/// A weight (N, K) in f32, laid out for [`PackedLinear::forward`]; the same bits as
/// [`crate::linear()`], without the copy of the weight that every call makes there.
#[derive(Debug, Clone)]
pub struct PackedLinear {
    panels: Panels,
    columns: usize,
    depth: usize,
}

impl PackedLinear {
    /// Lays out a weight; None on machines whose products are not this crate's own, and for a weight
    /// without numbers.
    ///
    /// # Shapes
    /// `weight` (N, K) f32
    ///
    /// # Errors
    /// Another shape or dtype, or devices than the CPU.
    pub fn new(weight: &Tensor) -> Result<Option<Self>> {
        let (columns, depth) = weight.dims2()?;
        let weight = weight.contiguous()?;
        let weight = values::<f32>(&weight, "packed_linear")?;
        if weight.is_empty() {
            return Ok(None);
        }
        let panels = Panels::new(Matrix::new(&weight, columns, depth).transposed());
        Ok(panels.map(|panels| Self { panels, columns, depth }))
    }

    /// `x weightᵀ + bias`; no gradient.
    ///
    /// # Shapes
    /// `x` (.., K) f32, `bias` (N) f32 → (.., N) f32
    ///
    /// # Errors
    /// Other shapes or dtypes, or devices than the CPU.
    pub fn forward(&self, x: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let mut shape = x.dims().to_vec();
        if shape.pop() != Some(self.depth) || bias.dims() != [self.columns] {
            candle_core::bail!(
                "packed_linear: x {:?}, bias {:?}; expected (.., {}), ({})",
                x.dims(),
                bias.dims(),
                self.depth,
                self.columns
            );
        }
        let rows = shape.iter().product::<usize>();
        shape.push(self.columns);
        let x = x.contiguous()?;
        let (xs, bias) =
            (values::<f32>(&x, "packed_linear")?, values::<f32>(bias, "packed_linear")?);
        tensor(self.panels.product(Matrix::new(&xs, rows, self.depth), &bias), shape)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn a_weight_without_numbers_is_not_laid_out() {
        for shape in [(5, 0), (0, 5), (0, 0)] {
            let w = Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
            assert!(PackedLinear::new(&w).unwrap().is_none());
        }
    }

    #[test]
    fn laid_out_once_gives_the_bits_of_every_time() {
        for (m, n, k) in [(1, 1, 1), (25, 70, 530), (13, 33, 7)] {
            let noise = |count: usize, seed: usize| -> Vec<f32> {
                (0..count).map(|i| ((i * 37 + seed) % 101) as f32 / 50.0 - 1.0).collect()
            };
            let of = |rows, columns, seed| {
                Tensor::from_vec(noise(rows * columns, seed), (rows, columns), &Device::Cpu)
                    .unwrap()
            };
            let (x, w) = (of(m, k, 1), of(n, k, 2));
            let bias = Tensor::from_vec(noise(n, 3), n, &Device::Cpu).unwrap();
            let Some(packed) = PackedLinear::new(&w).unwrap() else { return };
            let got = packed.forward(&x, &bias).unwrap().to_vec2::<f32>().unwrap();
            let expected = crate::linear(&x, &w, Some(&bias)).unwrap().to_vec2::<f32>().unwrap();
            assert_eq!(got, expected, "{m} {n} {k}");
            assert!(packed.forward(&of(m, k + 1, 1), &bias).is_err());
        }
    }
}
