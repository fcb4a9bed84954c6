//! Swin: a hierarchical transformer with attention inside shifted windows.
//!
//! Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
//! arXiv 2103.14030; as timm builds it (`swin_transformer.py`): patch merging before a stage, not
//! behind it; windows that shrink to a small grid and then do not shift; grids that do not divide
//! are padded with zeros. No stochastic depth.

mod block;
mod config;
mod windows;

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use stage::{Result, ResultExt};

pub use config::SwinConfig;

use crate::clip::Mode;
use crate::layers::{self, Linear, Norm};
use crate::params::Params;
use block::{Block, Merging};

/// LayerNorm's eps everywhere in Swin.
const EPS: f64 = 1e-5;

/// A Swin with its tensors.
#[derive(Debug, Clone)]
pub struct Swin {
    config: SwinConfig,
    params: Params,
    /// The layers over the trainable tensors, and over the same values without history.
    train: Layers,
    eval: Layers,
}

impl Swin {
    /// timm's initialisation from a seed.
    ///
    /// # Errors
    /// When the tensors cannot be placed on the device.
    pub fn init(config: &SwinConfig, seed: u64, device: &Device) -> Result<Self> {
        Self::from_tensors(config, config.layout().init(seed, device)?, device)
    }

    /// From tensors by timm's names, converted to f32 unless they are f64.
    ///
    /// # Errors
    /// Names all missing and extra tensors and all of another shape, with both shapes.
    pub fn from_tensors(
        config: &SwinConfig,
        tensors: BTreeMap<String, Tensor>,
        device: &Device,
    ) -> Result<Self> {
        let params = config.layout().params(tensors, device)?;
        let (trained, constant) = layers::both(&params);
        let build = |tensors| Layers::new(tensors, config).model("cannot build the model");
        let (train, eval) = (build(&trained)?, build(&constant)?);
        Ok(Self { config: config.clone(), params, train, eval })
    }

    /// Its configuration.
    #[must_use]
    pub fn config(&self) -> &SwinConfig {
        &self.config
    }

    /// Its tensors.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Scores of the classes; without a head the pooled features.
    ///
    /// # Shapes
    /// `pixels` (B, 3, S, S), normalised → (B, classes)
    ///
    /// # Errors
    /// Another shape.
    pub fn logits(&self, pixels: &Tensor, mode: Mode) -> Result<Tensor> {
        let pooled = self.pooled(pixels, mode)?;
        match &self.layers(mode).head {
            Some(head) => head.forward(&pooled).model("the head failed"),
            None => Ok(pooled),
        }
    }

    /// The mean of the last tokens after the last LayerNorm.
    ///
    /// # Shapes
    /// `pixels` (B, 3, S, S), normalised → (B, C)
    ///
    /// # Errors
    /// Another shape.
    pub fn pooled(&self, pixels: &Tensor, mode: Mode) -> Result<Tensor> {
        layers::check_pixels(pixels, self.config.img_size)?;
        let x = self.layers(mode).forward(pixels, &mut |_, _| Ok(())).model("Swin failed")?;
        x.mean(1).model("Swin failed")
    }

    /// The tokens after each step, without gradient: `patch_embed`, `layers.{i}.downsample` (for the
    /// first stage its input), `layers.{i}.blocks.{j}` and `norm`, each (B, H, W, C).
    ///
    /// # Errors
    /// As [`Swin::logits`].
    pub fn states(&self, pixels: &Tensor) -> Result<BTreeMap<String, Tensor>> {
        layers::check_pixels(pixels, self.config.img_size)?;
        let mut states = BTreeMap::new();
        let mut seen = |name: String, x: &Tensor| {
            let (batch, tokens, width) = x.dims3()?;
            let side = tokens.isqrt();
            states.insert(name, x.reshape((batch, side, side, width))?);
            Ok(())
        };
        self.eval.forward(pixels, &mut seen).model("Swin failed")?;
        Ok(states)
    }

    fn layers(&self, mode: Mode) -> &Layers {
        if mode == Mode::Train { &self.train } else { &self.eval }
    }
}

#[derive(Debug, Clone)]
struct Layers {
    patch: usize,
    embed: Linear,
    embed_norm: Norm,
    stages: Vec<Stage>,
    norm: Norm,
    head: Option<Linear>,
}

#[derive(Debug, Clone)]
struct Stage {
    merging: Option<Merging>,
    blocks: Vec<Block>,
}

/// Shows (B, H·W, C) after a step, by name.
type Seen<'a> = dyn FnMut(String, &Tensor) -> candle_core::Result<()> + 'a;

impl Layers {
    fn new(tensors: &BTreeMap<String, Tensor>, config: &SwinConfig) -> candle_core::Result<Self> {
        let mut stages = Vec::new();
        for (i, stage) in config.stages().iter().enumerate() {
            let merging = match stage.merged {
                Some(grid) => Some(Merging::new(tensors, &format!("layers.{i}.downsample"), grid)?),
                None => None,
            };
            let blocks = (0..stage.depth)
                .map(|j| Block::new(tensors, &format!("layers.{i}.blocks.{j}"), stage, j))
                .collect::<candle_core::Result<_>>()?;
            stages.push(Stage { merging, blocks });
        }
        let head = match config.num_classes {
            0 => None,
            _ => Some(Linear::new(tensors, "head.fc", true)?),
        };
        Ok(Self {
            patch: config.patch_size,
            embed: Linear::new(tensors, "patch_embed.proj", true)?,
            embed_norm: Norm::new(tensors, "patch_embed.norm", EPS)?,
            stages,
            norm: Norm::new(tensors, "norm", EPS)?,
            head,
        })
    }

    /// (B, 3, S, S) → (B, H·W, C)
    fn forward(&self, pixels: &Tensor, seen: &mut Seen) -> candle_core::Result<Tensor> {
        let patches = kernels::patches(pixels, self.patch)?;
        let mut x = self.embed_norm.forward(&self.embed.forward(&patches)?)?;
        seen("patch_embed".to_owned(), &x)?;
        for (i, stage) in self.stages.iter().enumerate() {
            if let Some(merging) = &stage.merging {
                x = merging.forward(&x)?;
            }
            seen(format!("layers.{i}.downsample"), &x)?;
            for (j, block) in stage.blocks.iter().enumerate() {
                x = block.forward(&x)?;
                seen(format!("layers.{i}.blocks.{j}"), &x)?;
            }
        }
        let x = self.norm.forward(&x)?;
        seen("norm".to_owned(), &x)?;
        Ok(x)
    }
}
