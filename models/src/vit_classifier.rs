//! The plain ViT as a classifier, by timm's names: DeiT and `vit_*`.
//!
//! Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv 2010.11929; Touvron et al., "Training
//! data-efficient image transformers", arXiv 2012.12877 (the form without distillation token); as
//! timm builds them (`vision_transformer.py`): a class token, no LayerNorm before the blocks, one
//! behind them, eps 1e-6, exact GELU. No stochastic depth.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use stage::{Error, Result, ResultExt};

use crate::clip::Mode;
use crate::layers::{self, Layout, Linear, Mlp, Norm, get};
use crate::params::Params;
use crate::shapes::Role;

/// LayerNorm's eps in timm's ViT.
const EPS: f64 = 1e-6;

/// The arguments of timm's `VisionTransformer`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VitClassifierConfig {
    /// Side of the square input, pixels, a multiple of `patch_size`.
    pub img_size: usize,
    /// Side of a patch, pixels.
    pub patch_size: usize,
    /// Classes of the head; 0 for none.
    pub num_classes: usize,
    /// Width of a token.
    pub embed_dim: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Number of attention heads.
    pub num_heads: usize,
    /// Hidden width of the FFN over the token's.
    pub mlp_ratio: f64,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
}

impl Default for VitClassifierConfig {
    /// ViT-B/16.
    fn default() -> Self {
        Self {
            img_size: 224,
            patch_size: 16,
            num_classes: 1000,
            embed_dim: 768,
            depth: 12,
            num_heads: 12,
            mlp_ratio: 4.0,
            qkv_bias: true,
        }
    }
}

/// Name, width, depth, heads; all of patch 16 at 224 pixels.
const NAMED: &[(&str, usize, usize, usize)] = &[
    ("deit_tiny_patch16_224", 192, 12, 3),
    ("deit_small_patch16_224", 384, 12, 6),
    ("deit_base_patch16_224", 768, 12, 12),
    ("vit_tiny_patch16_224", 192, 12, 3),
    ("vit_small_patch16_224", 384, 12, 6),
    ("vit_base_patch16_224", 768, 12, 12),
    ("vit_large_patch16_224", 1024, 24, 16),
];

/// Largest value of any size; keeps a hostile file from asking for all memory.
const LARGEST: usize = 1 << 14;

impl VitClassifierConfig {
    /// A model of timm's, such as `deit_small_patch16_224`.
    ///
    /// # Errors
    /// An unknown name; the hint lists all.
    pub fn named(name: &str) -> Result<Self> {
        match NAMED.iter().find(|(known, ..)| *known == name) {
            Some((_, embed_dim, depth, num_heads)) => Ok(Self {
                embed_dim: *embed_dim,
                depth: *depth,
                num_heads: *num_heads,
                ..Self::default()
            }),
            None => Err(Error::recipe(format!("no ViT named `{name}`"))
                .hint(format!("name one of {}", Self::names().collect::<Vec<_>>().join(", ")))),
        }
    }

    /// The names that [`VitClassifierConfig::named`] knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMED.iter().map(|(name, ..)| *name)
    }

    /// Reads the JSON form: an object with the fields of this type, all optional.
    ///
    /// # Errors
    /// An unknown or ill-typed field, or sizes that do not go together.
    pub fn from_json(value: &Value) -> Result<Self> {
        let config: Self = serde_json::from_value(value.clone()).model("not a ViT")?;
        config.check()?;
        Ok(config)
    }

    /// Trainable parameters, from the configuration alone.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.layout().parameters()
    }

    fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::model(what));
        let sizes = [self.img_size, self.patch_size, self.embed_dim, self.depth, self.num_heads];
        if let Some(size) = sizes.iter().find(|size| !(1..=LARGEST).contains(*size)) {
            return wrong(format!("a size is {size}, expected 1..={LARGEST}"));
        }
        if self.num_classes > 1 << 20 || !(0.01..=64.0).contains(&self.mlp_ratio) {
            return wrong(format!(
                "num_classes {} and mlp_ratio {}, expected 0..=1048576 and 0.01..=64",
                self.num_classes, self.mlp_ratio
            ));
        }
        if !self.img_size.is_multiple_of(self.patch_size) {
            return wrong(format!(
                "img_size {} is not a multiple of patch_size {}",
                self.img_size, self.patch_size
            ));
        }
        if !self.embed_dim.is_multiple_of(self.num_heads) {
            return wrong(format!(
                "embed_dim {} is not a multiple of num_heads {}",
                self.embed_dim, self.num_heads
            ));
        }
        Ok(())
    }

    /// All tensors by timm's names.
    fn layout(&self) -> Layout {
        let mut list = Layout::default();
        let (width, side) = (self.embed_dim, self.img_size / self.patch_size.max(1));
        let bound = Role::Uniform(1.0 / ((3 * self.patch_size * self.patch_size) as f64).sqrt());
        list.push("cls_token", &[1, 1, width], Role::Normal(1e-6));
        list.push("pos_embed", &[1, side * side + 1, width], Role::Normal(0.02));
        let kernel = [width, 3, self.patch_size, self.patch_size];
        list.push("patch_embed.proj.weight", &kernel, bound);
        list.push("patch_embed.proj.bias", &[width], bound);
        for i in 0..self.depth {
            let at = format!("blocks.{i}");
            list.norm(&format!("{at}.norm1"), width);
            list.linear(&format!("{at}.attn.qkv"), 3 * width, width, self.qkv_bias);
            list.linear(&format!("{at}.attn.proj"), width, width, true);
            list.norm(&format!("{at}.norm2"), width);
            list.mlp(&format!("{at}.mlp"), width, (width as f64 * self.mlp_ratio) as usize);
        }
        list.norm("norm", width);
        if self.num_classes > 0 {
            list.linear("head", self.num_classes, width, true);
        }
        list
    }
}

/// A ViT classifier with its tensors.
#[derive(Debug, Clone)]
pub struct VitClassifier {
    config: VitClassifierConfig,
    params: Params,
    /// The layers over the trainable tensors, and over the same values without history.
    train: Layers,
    eval: Layers,
}

#[derive(Debug, Clone)]
struct Layers {
    patch: usize,
    heads: usize,
    class: Tensor,
    positions: Tensor,
    embed: Linear,
    blocks: Vec<Block>,
    norm: Norm,
    head: Option<Linear>,
}

#[derive(Debug, Clone)]
struct Block {
    norm1: Norm,
    qkv: Linear,
    proj: Linear,
    norm2: Norm,
    mlp: Mlp,
}

impl VitClassifier {
    /// timm's initialisation from a seed.
    ///
    /// # Errors
    /// When the tensors cannot be placed on the device.
    pub fn init(config: &VitClassifierConfig, seed: u64, device: &Device) -> Result<Self> {
        Self::from_tensors(config, config.layout().init(seed, device)?, device)
    }

    /// From tensors by timm's names, converted to f32 unless they are f64.
    ///
    /// # Errors
    /// Names all missing and extra tensors and all of another shape, with both shapes.
    pub fn from_tensors(
        config: &VitClassifierConfig,
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
    pub fn config(&self) -> &VitClassifierConfig {
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

    /// The class token after the last LayerNorm.
    ///
    /// # Shapes
    /// `pixels` (B, 3, S, S), normalised → (B, C)
    ///
    /// # Errors
    /// Another shape.
    pub fn pooled(&self, pixels: &Tensor, mode: Mode) -> Result<Tensor> {
        layers::check_pixels(pixels, self.config.img_size)?;
        let layers = self.layers(mode);
        let pooled = || {
            let x = layers.forward(pixels, &mut |_, _| {})?;
            // LayerNorm works row by row, so only the class token's row is needed.
            layers.norm.forward(&x.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?)
        };
        pooled().model("the ViT failed")
    }

    /// The tokens after each step, without gradient: `pos_embed` (with class token and positions),
    /// `blocks.{i}` and `norm`, each (B, N + 1, C).
    ///
    /// # Errors
    /// As [`VitClassifier::logits`].
    pub fn states(&self, pixels: &Tensor) -> Result<BTreeMap<String, Tensor>> {
        layers::check_pixels(pixels, self.config.img_size)?;
        let mut states = BTreeMap::new();
        let mut seen = |name: String, x: &Tensor| drop(states.insert(name, x.clone()));
        let last = self.eval.forward(pixels, &mut seen).and_then(|x| self.eval.norm.forward(&x));
        let last = last.model("the ViT failed")?;
        states.insert("norm".to_owned(), last);
        Ok(states)
    }

    fn layers(&self, mode: Mode) -> &Layers {
        if mode == Mode::Train { &self.train } else { &self.eval }
    }
}

impl Layers {
    fn new(
        tensors: &BTreeMap<String, Tensor>,
        config: &VitClassifierConfig,
    ) -> candle_core::Result<Self> {
        let block = |i: usize| {
            let at = |part: &str| format!("blocks.{i}.{part}");
            Ok(Block {
                norm1: Norm::new(tensors, &at("norm1"), EPS)?,
                qkv: Linear::new(tensors, &at("attn.qkv"), config.qkv_bias)?,
                proj: Linear::new(tensors, &at("attn.proj"), true)?,
                norm2: Norm::new(tensors, &at("norm2"), EPS)?,
                mlp: Mlp::new(tensors, &at("mlp"))?,
            })
        };
        let head = match config.num_classes {
            0 => None,
            _ => Some(Linear::new(tensors, "head", true)?),
        };
        Ok(Self {
            patch: config.patch_size,
            heads: config.num_heads,
            class: get(tensors, "cls_token")?.flatten_all()?,
            positions: get(tensors, "pos_embed")?.squeeze(0)?,
            embed: Linear::new(tensors, "patch_embed.proj", true)?,
            blocks: (0..config.depth).map(block).collect::<candle_core::Result<_>>()?,
            norm: Norm::new(tensors, "norm", EPS)?,
            head,
        })
    }

    /// (B, 3, S, S) → (B, N + 1, C), before the last LayerNorm
    fn forward(
        &self,
        pixels: &Tensor,
        seen: &mut dyn FnMut(String, &Tensor),
    ) -> candle_core::Result<Tensor> {
        let tokens = self.embed.forward(&kernels::patches(pixels, self.patch)?)?;
        let mut x = kernels::with_class_and_positions(&self.class, &tokens, &self.positions)?;
        seen("pos_embed".to_owned(), &x);
        for (i, block) in self.blocks.iter().enumerate() {
            let qkv = block.qkv.forward(&block.norm1.forward(&x)?)?;
            let y = kernels::attention(&qkv, self.heads, false)?;
            x = (x + block.proj.forward(&y)?)?;
            x = (&x + block.mlp.forward(&block.norm2.forward(&x)?)?)?;
            seen(format!("blocks.{i}"), &x);
        }
        Ok(x)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_are_those_of_timm() {
        // timm 1.0.31: sum(p.numel() for p in create_model(name).parameters())
        let count = |name| VitClassifierConfig::named(name).unwrap().parameters();
        assert_eq!(count("deit_tiny_patch16_224"), 5_717_416);
        assert_eq!(count("deit_small_patch16_224"), 22_050_664);
        assert_eq!(count("deit_base_patch16_224"), 86_567_656);
        assert_eq!(count("vit_large_patch16_224"), 304_326_632);
    }

    #[test]
    fn sizes_that_do_not_go_together_are_refused() {
        let check = |value: Value, expected: &str| {
            let message = VitClassifierConfig::from_json(&value).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        check(json!({"img_size": 225}), "img_size 225 is not a multiple of patch_size 16");
        check(json!({"num_heads": 5}), "embed_dim 768 is not a multiple of num_heads 5");
        check(json!({"depth": 0}), "a size is 0");
        check(json!({"heads": 7}), "unknown field `heads`");
        assert!(
            VitClassifierConfig::named("vit")
                .unwrap_err()
                .hint_text()
                .unwrap()
                .contains("deit_small")
        );
    }
}
