//! The ViTamin image tower (timm's `vitamin.py` in open_clip's `TimmModel`), channels last.
//!
//! Chen et al., "ViTamin: Designing Scalable Vision Models in the Vision-Language Era", CVPR 2024,
//! arXiv 2404.02132. Stem, two stages of MBConv blocks with one LayerNorm each, a stage of
//! transformer blocks with a gated FFN, mean pooling, LayerNorm, a projection without bias. The FFN
//! has a LayerNorm of its own behind the block's second one: both are in the checkpoints.

use candle_core::{Result, Tensor};
use kernels::Products;

use super::{Step, dropped};
use crate::block::{Norm, Pair, Replaced, Source};
use crate::config::VitaminConfig;
use crate::linear::{Layout, Linear};

/// LayerNorm's eps, everywhere in timm's ViTamin.
const EPS: f64 = 1e-6;

#[derive(Debug, Clone)]
pub(crate) struct Vitamin {
    stem: (Pair, Norm, Pair),
    stages: [Vec<MbConv>; 2],
    pool: (Norm, Pair),
    /// (1, N, C)
    positions: Option<Tensor>,
    blocks: Vec<GatedBlock>,
    fc_norm: Norm,
    head: Tensor,
    drop_path: f64,
    /// Whether convolutions round to bf16, as the linear layers do.
    half: bool,
}

/// An inverted bottleneck with a depthwise convolution and one LayerNorm before it.
#[derive(Debug, Clone)]
struct MbConv {
    stride: usize,
    expand: Option<Linear>,
    pre_norm: Norm,
    conv1: Linear,
    conv2: Pair,
    conv3: Linear,
}

/// `x + attention(norm1 x)`, then `x + W2(GELU(W0 z) · W1 z)` with `z = norm(norm2 x)`.
#[derive(Debug, Clone)]
struct GatedBlock {
    norm1: Norm,
    qkv: Linear,
    proj: Linear,
    norm2: Norm,
    norm: Norm,
    gate: Linear,
    value: Linear,
    out: Linear,
    heads: usize,
}

impl Vitamin {
    pub(crate) fn new(source: &Source, config: &VitaminConfig) -> Result<Self> {
        let at = |name: &str| format!("visual.trunk.patch_embed.backbone.{name}");
        let norm = |at: &str| source.norm(at, EPS);
        let stage = |stage: usize| -> Result<Vec<MbConv>> {
            (0..config.depths[stage])
                .map(|i| MbConv::new(source, &at(&format!("stages.{stage}.{i}")), i == 0))
                .collect()
        };
        let blocks = (0..config.depths[2])
            .map(|i| GatedBlock::new(source, &format!("visual.trunk.blocks.{i}"), config.heads))
            .collect::<Result<_>>()?;
        Ok(Self {
            stem: (
                source.pair(&at("stem.conv1"))?,
                norm(&at("stem.norm1"))?,
                source.pair(&at("stem.conv2"))?,
            ),
            stages: [stage(0)?, stage(1)?],
            pool: (norm(&at("pool.norm"))?, source.pair(&at("pool.proj"))?),
            positions: match config.positions {
                true => Some(source.get("visual.trunk.pos_embed")?),
                false => None,
            },
            blocks,
            fc_norm: norm("visual.trunk.fc_norm")?,
            head: source.get("visual.head.proj.weight")?,
            drop_path: config.drop_path,
            half: source.layout == Layout::Half,
        })
    }

    /// (B, 3, S, S) → (B, E)
    pub(crate) fn forward(&self, pixels: &Tensor, step: Step) -> Result<Tensor> {
        kernels::linear(&self.features(pixels, step, &mut |_, _| ())?, &self.head, None)
    }

    /// Shows what lies between the layers: pictures (B, H, W, C), tokens (B, N, C).
    pub(crate) fn states(
        &self,
        pixels: &Tensor,
        seen: &mut dyn FnMut(String, &Tensor),
    ) -> Result<()> {
        self.features(pixels, Step::default(), seen).map(drop)
    }

    /// (B, 3, S, S) → (B, C), before the projection.
    fn features(
        &self,
        pixels: &Tensor,
        step: Step,
        seen: &mut dyn FnMut(String, &Tensor),
    ) -> Result<Tensor> {
        let (conv1, norm1, conv2) = &self.stem;
        // Of three channels the first convolution reads the pixels: it stays f32.
        let products = if self.half { Products::Bf16 } else { step.products };
        let x = kernels::conv3x3(&pixels.permute((0, 2, 3, 1))?, &conv1.0, &conv1.1, 2)?;
        let x = kernels::gelu_over(norm1.forward(&x)?, false)?;
        seen("stem.norm1_gelu".to_owned(), &x);
        let mut x = kernels::conv3x3_in(&x, &conv2.0, &conv2.1, 1, products)?;
        seen("stem".to_owned(), &x);
        for (s, stage) in self.stages.iter().enumerate() {
            for (i, block) in stage.iter().enumerate() {
                let shortcut = block.shortcut(&x, step.products)?;
                if block.expand.is_some() {
                    seen(format!("stages.{s}.{i}.shortcut"), &shortcut);
                }
                x = kernels::add_over(block.branch(&x, step.products)?, &shortcut)?;
                seen(format!("stages.{s}.{i}"), &x);
            }
        }
        let (norm, proj) = &self.pool;
        let x = norm.forward(&x)?;
        seen("pool.norm".to_owned(), &x);
        let x = kernels::conv3x3_in(&x, &proj.0, &proj.1, 2, products)?;
        seen("pool".to_owned(), &x);
        let x = x.flatten(1, 2)?; // (B, N, C)
        seen("tokens_before_pos".to_owned(), &x);
        let mut x = match &self.positions {
            Some(positions) => x.broadcast_add(positions)?,
            None => x,
        };
        let depth = self.blocks.len();
        for (i, block) in self.blocks.iter().enumerate() {
            let share = dropped::share(self.drop_path, i, depth);
            let drop = step.noise.map(|seed| Drop { share, seed, block: i });
            x = block.forward_or_again(&x, drop, step)?;
            seen(format!("blocks.{i}"), &x);
        }
        // The mean comes first, the norm after it.
        let pooled = self.fc_norm.forward(&x.mean(1)?)?;
        seen("fc_norm".to_owned(), &pooled);
        Ok(pooled)
    }
}

impl MbConv {
    fn new(source: &Source, at: &str, first: bool) -> Result<Self> {
        let expand = format!("{at}.shortcut.expand");
        let has_expand = source.has(&format!("{expand}.weight"));
        Ok(Self {
            stride: if first { 2 } else { 1 },
            expand: if has_expand { Some(source.linear(&expand)?) } else { None },
            pre_norm: source.norm(&format!("{at}.pre_norm"), EPS)?,
            conv1: source.linear(&format!("{at}.conv1_1x1"))?,
            conv2: source.pair(&format!("{at}.conv2_kxk"))?,
            conv3: source.linear(&format!("{at}.conv3_1x1"))?,
        })
    }

    fn shortcut(&self, x: &Tensor, products: Products) -> Result<Tensor> {
        let x = if self.stride == 2 { kernels::avg_pool3x3(x)? } else { x.clone() };
        match &self.expand {
            Some(expand) => expand.forward(&x, products),
            None => Ok(x),
        }
    }

    fn branch(&self, x: &Tensor, products: Products) -> Result<Tensor> {
        let h = self.conv1.forward(&self.pre_norm.forward(x)?, products)?;
        let h = kernels::gelu_over(h, false)?;
        let (w, b) = &self.conv2;
        let h = kernels::gelu_over(kernels::depthwise3x3(&h, w, b, self.stride)?, false)?;
        self.conv3.forward(&h, products)
    }
}

/// Drop path of one block.
#[derive(Debug, Clone, Copy)]
struct Drop {
    share: f64,
    seed: u64,
    block: usize,
}

impl GatedBlock {
    fn new(source: &Source, at: &str, heads: usize) -> Result<Self> {
        let linear = |name: &str| source.linear(&format!("{at}.{name}"));
        let norm = |name: &str| source.norm(&format!("{at}.{name}"), EPS);
        Ok(Self {
            norm1: norm("norm1")?,
            qkv: linear("attn.qkv")?,
            proj: linear("attn.proj")?,
            norm2: norm("norm2")?,
            norm: norm("mlp.norm")?,
            gate: linear("mlp.w0")?,
            value: linear("mlp.w1")?,
            out: linear("mlp.w2")?,
            heads,
        })
    }

    /// (B, N, C) → (B, N, C)
    fn forward(&self, x: &Tensor, drop: Option<Drop>, products: Products) -> Result<Tensor> {
        let path = |y: Tensor, half: &str| match drop {
            Some(Drop { share, seed, block }) => {
                dropped::paths(&y, share, seed, &format!("blocks.{block}.{half}"))
            }
            None => Ok(y),
        };
        let qkv = self.qkv.forward(&self.norm1.forward(x)?, products)?;
        let y = self.proj.forward(&kernels::attention(&qkv, self.heads, false)?, products)?;
        let x = kernels::add_over(path(y, "attn")?, x)?;
        let z = self.norm.forward(&self.norm2.forward(&x)?)?;
        let (gate, value) = (self.gate.forward(&z, products)?, self.value.forward(&z, products)?);
        let h = kernels::geglu_over(gate, &value)?;
        let y = path(self.out.forward(&h, products)?, "mlp")?;
        kernels::add_over(y, &x)
    }

    /// [`GatedBlock::forward`], or where the step computes again the same with all but its input forgotten until
    /// the backward pass.
    fn forward_or_again(&self, x: &Tensor, drop: Option<Drop>, step: Step) -> Result<Tensor> {
        let products = step.products;
        if !step.recompute {
            return self.forward(x, drop, products);
        }
        let mut inputs = vec![x];
        inputs.extend(self.tensors());
        let block = self.clone();
        kernels::recompute(&inputs, move |tensors| {
            let Some((x, rest)) = tensors.split_first() else {
                candle_core::bail!("a block without input")
            };
            block.replaced(&mut Replaced::new(rest))?.forward(x, drop, products)
        })
    }

    fn tensors(&self) -> Vec<&Tensor> {
        let mut all = Vec::new();
        for norm in [&self.norm1, &self.norm2, &self.norm] {
            all.extend(norm.tensors());
        }
        for linear in [&self.qkv, &self.proj, &self.gate, &self.value, &self.out] {
            all.extend(linear.tensors());
        }
        all
    }

    fn replaced(&self, tensors: &mut Replaced) -> Result<Self> {
        Ok(Self {
            norm1: self.norm1.replaced(tensors)?,
            norm2: self.norm2.replaced(tensors)?,
            norm: self.norm.replaced(tensors)?,
            qkv: Linear::taken(tensors)?,
            proj: Linear::taken(tensors)?,
            gate: Linear::taken(tensors)?,
            value: Linear::taken(tensors)?,
            out: Linear::taken(tensors)?,
            heads: self.heads,
        })
    }
}
