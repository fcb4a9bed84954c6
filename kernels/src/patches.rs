//! From pixels to tokens: patches as rows, and the token sequence of a vision transformer.
//!
//! Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv 2010.11929, Eq. 1. A convolution
//! whose stride is its kernel is a product of patch rows with the flattened kernel.

use candle_core::{CpuStorage, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::composed;
use crate::elementary::Float;
use crate::fused::{Fused, apply};
use crate::rows::add_to;
use crate::slices::{check, tensor, values, with_float};

/// Cuts images into square patches, row by row, each flattened as (channel, y, x), with gradient.
///
/// # Shapes
/// `x` (B, C, H, W), both sides multiples of `patch` → (B, H/patch · W/patch, C · patch²)
///
/// # Errors
/// Other shapes, or other dtypes than f32 and f64.
pub fn patches(x: &Tensor, patch: usize) -> Result<Tensor> {
    check("patches", x)?;
    let (_, _, height, width) = x.dims4()?;
    if patch == 0 || !height.is_multiple_of(patch) || !width.is_multiple_of(patch) {
        candle_core::bail!("patches: {height} x {width} pixels in patches of {patch}");
    }
    if composed::takes(x) {
        return composed::patches(x, patch);
    }
    apply(Patches { patch }, &[x])
}

/// Puts the class token before the patch tokens and adds the positions, with all gradients.
///
/// # Shapes
/// `class` (C), `tokens` (B, G, C), `positions` (G + 1, C) → (B, G + 1, C)
///
/// # Errors
/// Other shapes, or dtypes than one of f32 and f64.
pub fn with_class_and_positions(
    class: &Tensor,
    tokens: &Tensor,
    positions: &Tensor,
) -> Result<Tensor> {
    check("with_class_and_positions", tokens)?;
    let (_, grid, width) = tokens.dims3()?;
    if class.dims() != [width] || positions.dims() != [grid + 1, width] {
        candle_core::bail!(
            "with_class_and_positions: class {:?}, tokens {:?}, positions {:?}; expected (C), \
             (B, G, C), (G + 1, C)",
            class.dims(),
            tokens.dims(),
            positions.dims()
        );
    }
    if composed::takes(tokens) {
        return composed::with_class_and_positions(class, tokens, positions);
    }
    apply(Sequence, &[class, tokens, positions])
}

struct Patches {
    patch: usize,
}

impl Patches {
    /// Calls `copy(offset in x, offset in the patch rows)` for each run of `patch` pixels of an
    /// image.
    fn runs(&self, (c, h, w): (usize, usize, usize), mut copy: impl FnMut(usize, usize)) {
        let p = self.patch;
        let mut to = 0;
        for top in (0..h).step_by(p) {
            for left in (0..w).step_by(p) {
                for channel in 0..c {
                    for y in top..top + p {
                        copy((channel * h + y) * w + left, to);
                        to += p;
                    }
                }
            }
        }
    }
}

impl Fused for Patches {
    fn name(&self) -> &'static str {
        "patches"
    }

    fn forward(&self, inputs: &[Tensor]) -> Result<(CpuStorage, Shape)> {
        let (b, c, h, w) = inputs[0].dims4()?;
        let p = self.patch;
        with_float!("patches", inputs[0].dtype(), T => {
            let x = values::<T>(&inputs[0], "patches")?;
            let mut y = vec![<T as Float>::ZERO; x.len()];
            let image = (c * h * w).max(1);
            y.par_chunks_mut(image).zip(x.par_chunks(image)).for_each(|(y, x)| {
                self.runs((c, h, w), |from, to| y[to..to + p].copy_from_slice(&x[from..from + p]));
            });
            let y = <T as candle_core::WithDType>::to_cpu_storage_owned(y);
            Ok((y, Shape::from((b, (h / p) * (w / p), c * p * p))))
        })
    }

    fn backward(
        &self,
        inputs: &[Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let (_, c, h, w) = inputs[0].dims4()?;
        let p = self.patch;
        with_float!("patches", grad.dtype(), T => {
            let dy = values::<T>(grad, "patches")?;
            let mut dx = vec![<T as Float>::ZERO; dy.len()];
            let image = (c * h * w).max(1);
            dx.par_chunks_mut(image).zip(dy.par_chunks(image)).for_each(|(dx, dy)| {
                self.runs((c, h, w), |to, from| dx[to..to + p].copy_from_slice(&dy[from..from + p]));
            });
            Ok(vec![Some(tensor(dx, inputs[0].shape())?)])
        })
    }
}

struct Sequence;

impl Fused for Sequence {
    fn name(&self) -> &'static str {
        "with_class_and_positions"
    }

    fn forward(&self, inputs: &[Tensor]) -> Result<(CpuStorage, Shape)> {
        let [class, tokens, positions] = inputs else { candle_core::bail!("takes 3 tensors") };
        let (batch, grid, width) = tokens.dims3()?;
        with_float!("with_class_and_positions", tokens.dtype(), T => {
            let (class, all) = (values::<T>(class, self.name())?, values::<T>(tokens, self.name())?);
            let positions = values::<T>(positions, self.name())?;
            let mut y: Vec<T> = Vec::with_capacity(batch * (grid + 1) * width);
            for tokens in all.chunks_exact((grid * width).max(1)) {
                let sequence = class.iter().chain(tokens);
                y.extend(sequence.zip(positions.iter()).map(|(a, b)| *a + *b));
            }
            let y = <T as candle_core::WithDType>::to_cpu_storage_owned(y);
            Ok((y, Shape::from((batch, grid + 1, width))))
        })
    }

    fn backward(
        &self,
        inputs: &[Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let (batch, grid, width) = inputs[1].dims3()?;
        with_float!("with_class_and_positions", grad.dtype(), T => {
            let dy = values::<T>(grad, self.name())?;
            let mut positions = vec![<T as Float>::ZERO; (grid + 1) * width];
            let mut tokens: Vec<T> = Vec::with_capacity(batch * grid * width);
            for dy in dy.chunks_exact((grid + 1) * width) {
                add_to(&mut positions, dy);
                tokens.extend_from_slice(&dy[width..]);
            }
            let class = positions[..width].to_vec();
            Ok(vec![
                Some(tensor(class, width)?),
                Some(tensor(tokens, (batch, grid, width))?),
                Some(tensor(positions, (grid + 1, width))?),
            ])
        })
    }
}
