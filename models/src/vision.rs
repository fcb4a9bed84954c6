//! The image tower, of whichever kind.

mod dropped;
mod vit;
mod vitamin;

use candle_core::{Result, Tensor};

use crate::block::Source;
use crate::config::VisionConfig;
use crate::shapes::Ffn;
use vit::Vit;
use vitamin::Vitamin;

/// What a training step adds to the forward pass of a tower.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Step {
    /// Seed of what is left out at random (patch dropout, drop path); None leaves nothing out.
    pub noise: Option<u64>,
    /// Whether the blocks keep only their inputs and are computed again in the backward pass:
    /// gradient checkpointing, less memory for a second forward pass of the blocks.
    pub recompute: bool,
    /// Format of the products of the linear layers in the blocks.
    pub products: kernels::Products,
}

/// How a forward pass of a tower runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    /// Whether batch statistics are taken and updated.
    pub(crate) train: bool,
    pub(crate) quick: bool,
    pub(crate) step: Step,
}

#[derive(Debug, Clone)]
pub(crate) enum Vision {
    Vit(Box<Vit>),
    Vitamin(Box<Vitamin>),
}

impl Vision {
    pub(crate) fn new(source: &Source, config: &VisionConfig, ffn: Option<Ffn>) -> Result<Self> {
        Ok(match config {
            VisionConfig::Vit(vit) => Self::Vit(Box::new(Vit::new(source, vit, ffn)?)),
            VisionConfig::Vitamin(vitamin) => {
                Self::Vitamin(Box::new(Vitamin::new(source, vitamin)?))
            }
        })
    }

    /// (B, 3, S, S) → (B, E)
    pub(crate) fn forward(&self, pixels: &Tensor, run: Run) -> Result<Tensor> {
        match self {
            Self::Vit(vit) => vit.forward(pixels, run),
            Self::Vitamin(vitamin) => vitamin.forward(pixels, run.step),
        }
    }

    /// Shows what lies between the layers, by name.
    pub(crate) fn states(
        &self,
        pixels: &Tensor,
        quick: bool,
        seen: &mut dyn FnMut(String, &Tensor),
    ) -> Result<()> {
        match self {
            Self::Vit(vit) => vit.states(pixels, quick, seen),
            Self::Vitamin(vitamin) => vitamin.states(pixels, seen),
        }
    }

    /// The plain ViT, if it is one.
    pub(crate) fn vit(&self) -> Option<&Vit> {
        match self {
            Self::Vit(vit) => Some(vit),
            Self::Vitamin(_) => None,
        }
    }
}
