//! A block of Swin (window attention and FFN, each with its residual) and patch merging.

use std::collections::BTreeMap;

use candle_core::{D, Result, Tensor};

use super::EPS;
use super::config::StageSizes;
use super::windows::{Quads, Windows, relative_positions};
use crate::layers::{Linear, Mlp, Norm, get};

#[derive(Debug, Clone)]
pub(super) struct Block {
    norm1: Norm,
    qkv: Linear,
    /// ((2w - 1)², heads)
    table: Tensor,
    /// (tokens²), rows of the table
    positions: Tensor,
    proj: Linear,
    norm2: Norm,
    mlp: Mlp,
    windows: Windows,
    heads: usize,
}

impl Block {
    /// The block `index` of its stage; odd ones shift.
    pub(super) fn new(
        tensors: &BTreeMap<String, Tensor>,
        at: &str,
        stage: &StageSizes,
        index: usize,
    ) -> Result<Self> {
        let table = get(tensors, &format!("{at}.attn.relative_position_bias_table"))?;
        let shift = if index.is_multiple_of(2) { 0 } else { stage.shift };
        Ok(Self {
            norm1: Norm::new(tensors, &format!("{at}.norm1"), EPS)?,
            qkv: Linear::new(tensors, &format!("{at}.attn.qkv"), stage.qkv_bias)?,
            positions: Tensor::new(relative_positions(stage.window), table.device())?,
            table,
            proj: Linear::new(tensors, &format!("{at}.attn.proj"), true)?,
            norm2: Norm::new(tensors, &format!("{at}.norm2"), EPS)?,
            mlp: Mlp::new(tensors, &format!("{at}.mlp"))?,
            windows: Windows::new(stage.grid, stage.window, shift),
            heads: stage.heads,
        })
    }

    /// (B, H·W, C) → (B, H·W, C)
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let windows = self.windows.cut(&self.norm1.forward(x)?)?;
        let x = (x + self.windows.join(&self.attend(&windows)?)?)?;
        &x + self.mlp.forward(&self.norm2.forward(&x)?)?
    }

    /// (B·windows, tokens, C) → (B·windows, tokens, C)
    fn attend(&self, x: &Tensor) -> Result<Tensor> {
        let (all, tokens, width) = x.dims3()?;
        let head = width / self.heads;
        let qkv = self.qkv.forward(x)?.reshape((all, tokens, 3, self.heads, head))?;
        let part = |i: usize| qkv.narrow(2, i, 1)?.squeeze(2)?.transpose(1, 2)?.contiguous();
        let q = (part(0)? * (head as f64).powf(-0.5))?; // (B·windows, heads, tokens, head)
        let scores = q.matmul(&part(1)?.t()?)?;
        let weights = kernels::softmax(&self.biased(&scores)?)?;
        let y = weights.matmul(&part(2)?)?; // (B·windows, heads, tokens, head)
        self.proj.forward(&y.transpose(1, 2)?.reshape((all, tokens, width))?)
    }

    /// Scores with the relative position bias, and the mask of a shifted block.
    ///
    /// (B·windows, heads, tokens, tokens) → the same
    fn biased(&self, scores: &Tensor) -> Result<Tensor> {
        let (all, heads, tokens, _) = scores.dims4()?;
        let bias = kernels::embedding(&self.table, &self.positions)?; // (tokens², heads)
        let bias = bias.t()?.reshape((1, heads, tokens, tokens))?;
        let Some(mask) = self.windows.mask(scores)? else { return scores.broadcast_add(&bias) };
        let bias = bias.broadcast_add(&mask)?; // (windows, heads, tokens, tokens)
        let count = self.windows.count;
        let scores = scores.reshape((all / count, count, heads, tokens, tokens))?;
        scores.broadcast_add(&bias.unsqueeze(0)?)?.reshape((all, heads, tokens, tokens))
    }
}

/// Four tokens become one of twice the width.
#[derive(Debug, Clone)]
pub(super) struct Merging {
    norm: Norm,
    reduction: Linear,
    quads: Quads,
}

impl Merging {
    /// Of a grid of `grid` × `grid` tokens.
    pub(super) fn new(tensors: &BTreeMap<String, Tensor>, at: &str, grid: usize) -> Result<Self> {
        Ok(Self {
            norm: Norm::new(tensors, &format!("{at}.norm"), EPS)?,
            reduction: Linear::new(tensors, &format!("{at}.reduction"), false)?,
            quads: Quads::new(grid),
        })
    }

    /// (B, H·W, C) → (B, H/2·W/2, 2·C)
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let quads = self.quads.gather(x)?;
        debug_assert_eq!(quads.dim(D::Minus1)?, 4 * x.dim(D::Minus1)?);
        self.reduction.forward(&self.norm.forward(&quads)?)
    }
}
