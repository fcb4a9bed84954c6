//! The plain image tower: a ViT as open_clip builds it (`transformer.py`, `VisionTransformer`).

use std::sync::Arc;

use candle_core::{Device, Result, Tensor};
use kernels::{PackedLinear, Products};

use super::{Run, Step, dropped};
use crate::block::{Block, LAYER_NORM_EPS, Norm, Pass, Source};
use crate::config::{Pool, VitConfig};
use crate::linear::Layout;
use crate::shapes::Ffn;

#[derive(Debug, Clone)]
pub(crate) struct Vit {
    class: Tensor,
    positions: Tensor,
    /// (C, 3·p·p)
    kernel: Tensor,
    /// The kernel laid out, and its bias of zeros, in a tower for inference alone.
    packed: Option<(Arc<PackedLinear>, Tensor)>,
    patch: usize,
    patch_dropout: f64,
    ln_pre: Option<Norm>,
    pub(crate) blocks: Vec<Block>,
    ln_post: Norm,
    ln_post_after_pool: bool,
    proj: Tensor,
    pool: Pool,
    heads: usize,
}

/// The patches' kernel (C, 3·p·p) laid out once; in f32 for every layout but the parameters' own, and
/// on the CPU.
fn packed(kernel: &Tensor, layout: Layout) -> Result<Option<(Arc<PackedLinear>, Tensor)>> {
    if layout == Layout::Plain || !kernel.device().is_cpu() {
        return Ok(None);
    }
    let zeros = Tensor::zeros(kernel.dim(0)?, kernel.dtype(), kernel.device())?;
    Ok(PackedLinear::new(kernel)?.map(|packed| (Arc::new(packed), zeros)))
}

impl Vit {
    pub(crate) fn new(source: &Source, config: &VitConfig, ffn: Option<Ffn>) -> Result<Self> {
        let norm = |at: &str| source.norm(at, LAYER_NORM_EPS);
        let ln_pre = if config.no_ln_pre { None } else { Some(norm("visual.ln_pre")?) };
        let blocks = (0..config.layers)
            .map(|i| Block::new(source, &format!("visual.transformer.resblocks.{i}"), ffn))
            .collect::<Result<_>>()?;
        let kernel = source.get("visual.conv1.weight")?.flatten_from(1)?;
        Ok(Self {
            packed: packed(&kernel, source.layout)?,
            class: source.get("visual.class_embedding")?,
            positions: source.any("visual.positional_embedding")?,
            kernel,
            patch: config.patch_size,
            patch_dropout: config.patch_dropout,
            ln_pre,
            blocks,
            ln_post: norm("visual.ln_post")?,
            ln_post_after_pool: config.final_ln_after_pool,
            proj: source.get("visual.proj")?,
            pool: config.pool,
            heads: config.heads(),
        })
    }

    /// (B, 3, S, S) → (B, E)
    pub(crate) fn forward(&self, pixels: &Tensor, run: Run) -> Result<Tensor> {
        let pass = self.pass(run.train, run.quick, run.step.products);
        let x = self.embed(pixels, run.step)?;
        let Some((last, blocks)) = self.blocks.split_last() else {
            candle_core::bail!("a tower without blocks")
        };
        let x = Block::forward_all(blocks, &x, pass, run.step.recompute)?;
        let pooled = match self.pool {
            // LayerNorm works row by row, so only the class token's row is needed.
            Pool::Token => {
                let (batch, tokens, _) = x.dims3()?;
                let rows: Vec<u32> = (0..batch).map(|i| (i * tokens) as u32).collect();
                let rows = Tensor::new(rows, &Device::Cpu)?;
                let class = if last.works_by_rows(pass) {
                    last.forward_rows(&x, &rows, pass)?
                } else {
                    kernels::embedding(&last.forward(&x, pass)?.flatten_to(1)?, &rows)?
                };
                self.ln_post.forward(&class)? // (B, C)
            }
            Pool::Average => {
                let x = last.forward_or_again(&x, pass, run.step.recompute)?;
                let x = x.narrow(1, 1, x.dim(1)? - 1)?;
                if self.ln_post_after_pool {
                    self.ln_post.forward(&x.mean(1)?)?
                } else {
                    self.ln_post.forward(&x)?.mean(1)?
                }
            }
        };
        kernels::project(&pooled, &self.proj)
    }

    /// Shows the tokens (B, G + 1, C) of all places after each step, by name.
    pub(crate) fn states(
        &self,
        pixels: &Tensor,
        quick: bool,
        seen: &mut dyn FnMut(String, &Tensor),
    ) -> Result<()> {
        let pass = self.pass(false, quick, Products::F32);
        let mut x = self.embed(pixels, Step::default())?;
        seen("ln_pre".to_owned(), &x);
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x, pass)?;
            seen(format!("resblocks.{i}"), &x);
        }
        seen("ln_post".to_owned(), &self.ln_post.forward(&x)?);
        Ok(())
    }

    fn pass(&self, train: bool, quick: bool, products: Products) -> Pass<'static> {
        Pass { train, quick, heads: self.heads, causal: false, products, lengths: None }
    }

    /// Patches, class token, positions, patch dropout, the first LayerNorm: (B, G + 1, C)
    fn embed(&self, pixels: &Tensor, step: Step) -> Result<Tensor> {
        let rows = kernels::patches(pixels, self.patch)?; // (B, G, 3·p·p)
        // On the CPU, where it is a small part, this product is f32; under torch's autocast it is not.
        let products = if rows.device().is_cpu() { Products::F32 } else { step.products };
        let tokens = match &self.packed {
            Some((kernel, zeros)) => kernel.forward(&rows, zeros)?,
            None => kernels::linear_in(&rows, &self.kernel, None, products)?,
        }; // (B, G, C)
        let mut x = kernels::with_class_and_positions(&self.class, &tokens, &self.positions)?;
        if let Some(seed) = step.noise.filter(|_| self.patch_dropout > 0.0) {
            x = dropped::patches(&x, self.patch_dropout, seed)?;
        }
        match &self.ln_pre {
            Some(norm) => norm.forward(&x),
            None => Ok(x),
        }
    }
}
