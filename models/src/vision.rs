//! The image tower: a ViT as open_clip builds it (`transformer.py`, `VisionTransformer`).

use candle_core::{Result, Tensor};

use crate::block::{Block, Norm, Pass, Source};
use crate::config::{Pool, VisionConfig};
use crate::shapes::Ffn;

#[derive(Debug, Clone)]
pub(crate) struct Vision {
    class: Tensor,
    positions: Tensor,
    /// (C, 3·p·p)
    kernel: Tensor,
    patch: usize,
    ln_pre: Option<Norm>,
    pub(crate) blocks: Vec<Block>,
    ln_post: Norm,
    proj: Tensor,
    pool: Pool,
    heads: usize,
}

impl Vision {
    pub(crate) fn new(source: &Source, config: &VisionConfig, ffn: Option<Ffn>) -> Result<Self> {
        let ln_pre = if config.no_ln_pre { None } else { Some(source.norm("visual.ln_pre")?) };
        let blocks = (0..config.layers)
            .map(|i| Block::new(source, &format!("visual.transformer.resblocks.{i}"), ffn))
            .collect::<Result<_>>()?;
        Ok(Self {
            class: source.get("visual.class_embedding")?,
            positions: source.get("visual.positional_embedding")?,
            kernel: source.get("visual.conv1.weight")?.flatten_from(1)?,
            patch: config.patch_size,
            ln_pre,
            blocks,
            ln_post: source.norm("visual.ln_post")?,
            proj: source.get("visual.proj")?,
            pool: config.pool,
            heads: config.heads(),
        })
    }

    /// (B, 3, S, S) → (B, E); `seen` is shown the tokens after each step, by name.
    pub(crate) fn forward(
        &self,
        pixels: &Tensor,
        train: bool,
        quick: bool,
        seen: &mut dyn FnMut(String, &Tensor),
    ) -> Result<Tensor> {
        let pass = Pass { train, quick, heads: self.heads, causal: false, lengths: None };
        let rows = kernels::patches(pixels, self.patch)?; // (B, G, 3·p·p)
        let tokens = kernels::linear(&rows, &self.kernel, None)?; // (B, G, C)
        let mut x = kernels::with_class_and_positions(&self.class, &tokens, &self.positions)?;
        if let Some(norm) = &self.ln_pre {
            x = norm.forward(&x)?; // (B, G + 1, C)
        }
        seen("ln_pre".to_owned(), &x);
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x, pass)?;
            seen(format!("resblocks.{i}"), &x);
        }
        let pooled = match self.pool {
            // LayerNorm works row by row, so only the class token's row is needed.
            Pool::Token => self.ln_post.forward(&x.narrow(1, 0, 1)?.squeeze(1)?)?,
            Pool::Average => {
                let tokens = x.dim(1)? - 1;
                self.ln_post.forward(&x.narrow(1, 1, tokens)?)?.mean(1)?
            }
        };
        kernels::project(&pooled, &self.proj)
    }

    /// `ln_post` of all tokens (B, G + 1, C), which [`Vision::forward`] takes of the class token
    /// alone.
    pub(crate) fn ln_post(&self, x: &Tensor) -> Result<Tensor> {
        self.ln_post.forward(x)
    }
}
