//! ViTamin's part of the configuration.
//!
//! Chen et al., "ViTamin: Designing Scalable Vision Models in the Vision-Language Era", CVPR 2024,
//! arXiv 2404.02132; sizes as timm's `vitamin.py` has them. open_clip names a trunk by timm's name;
//! a trunk of other sizes is written out here as `vitamin`, which open_clip does not read.

use serde_json::{Map, Value, json};
use stage::{Error, Result};

use super::fields::{Fields, MOST_LAYERS};

/// A ViTamin: a convolutional stem, two stages of MBConv blocks, a stage of transformer blocks.
#[derive(Debug, Clone, PartialEq)]
pub struct VitaminConfig {
    /// timm's name; None for sizes of one's own.
    pub name: Option<&'static str>,
    /// Side of the square input, pixels; a multiple of 16.
    pub image_size: usize,
    /// Width of the stem.
    pub stem_width: usize,
    /// Widths of the two convolutional stages and of a token.
    pub widths: [usize; 3],
    /// Blocks of the two convolutional stages and of the transformer.
    pub depths: [usize; 3],
    /// Number of attention heads.
    pub heads: usize,
    /// Hidden width of the gated FFN over the width of a token.
    pub mlp_ratio: f64,
    /// Whether there is a learned table of positions; XL has none.
    pub positions: bool,
    /// Largest share of samples that skip a half block of the transformer in training, 0..1; it
    /// grows from 0 at the first block.
    pub drop_path: f64,
}

/// A row of timm's registry.
struct Trunk {
    name: &'static str,
    image_size: usize,
    size: Size,
}

#[derive(Clone, Copy)]
enum Size {
    Small,
    Base,
    Large,
    XLarge,
}

const TRUNKS: &[Trunk] = &[
    Trunk { name: "vitamin_small_224", image_size: 224, size: Size::Small },
    Trunk { name: "vitamin_base_224", image_size: 224, size: Size::Base },
    Trunk { name: "vitamin_large_224", image_size: 224, size: Size::Large },
    Trunk { name: "vitamin_large_256", image_size: 256, size: Size::Large },
    Trunk { name: "vitamin_large_336", image_size: 336, size: Size::Large },
    Trunk { name: "vitamin_large_384", image_size: 384, size: Size::Large },
    Trunk { name: "vitamin_large2_224", image_size: 224, size: Size::Large },
    Trunk { name: "vitamin_large2_256", image_size: 256, size: Size::Large },
    Trunk { name: "vitamin_large2_336", image_size: 336, size: Size::Large },
    Trunk { name: "vitamin_large2_384", image_size: 384, size: Size::Large },
    Trunk { name: "vitamin_xlarge_256", image_size: 256, size: Size::XLarge },
    Trunk { name: "vitamin_xlarge_336", image_size: 336, size: Size::XLarge },
    Trunk { name: "vitamin_xlarge_384", image_size: 384, size: Size::XLarge },
];

/// timm's name of the same trunk for another side, if there is one.
pub(super) fn of_size(name: &str, side: usize) -> Option<&'static str> {
    let (family, _) = name.rsplit_once('_')?;
    let wanted = format!("{family}_{side}");
    TRUNKS.iter().map(|trunk| trunk.name).find(|name| *name == wanted)
}

/// Pixels of a side that one token stands for.
pub(crate) const STRIDE: usize = 16;

impl VitaminConfig {
    /// Of timm's name.
    pub(super) fn named(name: &str) -> Option<Self> {
        let trunk = TRUNKS.iter().find(|trunk| trunk.name == name)?;
        let (widths, depth, heads) = match trunk.size {
            Size::Small => ([64, 128, 384], 14, 6),
            Size::Base => ([128, 256, 768], 14, 12),
            Size::Large => ([160, 320, 1024], 31, 16),
            Size::XLarge => ([192, 384, 1152], 32, 16),
        };
        Some(Self {
            name: Some(trunk.name),
            image_size: trunk.image_size,
            stem_width: widths[0],
            widths,
            depths: [2, 4, depth],
            heads,
            mlp_ratio: 2.0,
            positions: !matches!(trunk.size, Size::XLarge),
            drop_path: 0.0,
        })
    }

    /// timm's names.
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        TRUNKS.iter().map(|trunk| trunk.name)
    }

    /// Tokens of one side: one for each 16 pixels.
    #[must_use]
    pub fn grid(&self) -> usize {
        self.image_size / STRIDE
    }

    /// Tokens of a picture.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.grid() * self.grid()
    }

    /// Width of a token.
    #[must_use]
    pub fn width(&self) -> usize {
        self.widths[2]
    }

    /// Hidden width of the gated FFN.
    #[must_use]
    pub fn hidden(&self) -> usize {
        (self.width() as f64 * self.mlp_ratio) as usize
    }

    /// Reads a `vision_cfg` with `timm_model_name` or with the sizes in `vitamin`.
    pub(super) fn read(f: &mut Fields) -> Result<Self> {
        let mut config = match f.object("vitamin")? {
            Some(sizes) => Self::sizes(&mut Fields::new(&sizes, "vision_cfg.vitamin.")?)?,
            None => {
                let name = f.text("timm_model_name", "")?;
                Self::named(&name).ok_or_else(|| {
                    f.unsupported("timm_model_name", &json!(name)).hint(format!(
                        "name one of {}, or a plain ViT CLIP configuration",
                        Self::names().collect::<Vec<_>>().join(", ")
                    ))
                })?
            }
        };
        for (field, value) in [
            ("timm_model_pretrained", json!(false)),
            ("timm_pool", json!("")),
            ("timm_proj", json!("linear")),
            ("timm_proj_bias", json!(false)),
            ("timm_drop", json!(0.0)),
            ("patch_dropout", json!(0.0)),
        ] {
            f.only(field, &value)?;
        }
        config.drop_path = f.share("timm_drop_path")?;
        // The trunk's own size decides: open_clip's ViTamin-XL-384 says 256 here. A table of
        // positions has one size; without one any multiple of 16 will do.
        let said = f.side("image_size", config.image_size)?;
        if config.name.is_none() {
            config.image_size = said;
        }
        f.finish()?;
        Ok(config)
    }

    fn sizes(f: &mut Fields) -> Result<Self> {
        let widths = f.sizes("embed_dim")?;
        let depths = f.sizes("depths")?;
        let positions = match f.text("pos_embed", "learn")?.as_str() {
            "learn" => true,
            "none" => false,
            other => return Err(f.unsupported("pos_embed", &json!(other))),
        };
        let config = Self {
            name: None,
            image_size: 224,
            stem_width: f.size("stem_width", None)?,
            widths,
            depths,
            heads: f.size("heads", None)?,
            mlp_ratio: f.number("mlp_ratio", 2.0)?,
            positions,
            drop_path: 0.0,
        };
        f.finish()?;
        Ok(config)
    }

    pub(super) fn write(&self) -> Value {
        let mut vision = Map::new();
        match self.name {
            Some(name) => {
                vision.insert("timm_model_name".into(), json!(name));
                vision.insert("timm_model_pretrained".into(), json!(false));
                vision.insert("timm_pool".into(), json!(""));
                vision.insert("timm_proj".into(), json!("linear"));
                vision.insert("timm_drop".into(), json!(0.0));
                vision.insert("timm_drop_path".into(), json!(self.drop_path));
            }
            None => {
                let sizes = json!({
                    "stem_width": self.stem_width,
                    "embed_dim": self.widths,
                    "depths": self.depths,
                    "heads": self.heads,
                    "mlp_ratio": self.mlp_ratio,
                    "pos_embed": if self.positions { "learn" } else { "none" },
                });
                vision.insert("vitamin".into(), sizes);
                if self.drop_path > 0.0 {
                    vision.insert("timm_drop_path".into(), json!(self.drop_path));
                }
            }
        }
        vision.insert("image_size".into(), json!(self.image_size));
        Value::Object(vision)
    }

    pub(super) fn check(&self) -> Result<()> {
        let refuse = |message: String| Err(Error::model(message));
        if !self.width().is_multiple_of(self.heads) {
            return refuse(format!(
                "ViTamin's width {} is not a multiple of heads {}",
                self.width(),
                self.heads
            ));
        }
        if let Some(depth) = self.depths.iter().find(|depth| **depth > MOST_LAYERS) {
            return refuse(format!("a stage of ViTamin has {depth} blocks, at most {MOST_LAYERS}"));
        }
        if !self.image_size.is_multiple_of(STRIDE) {
            return refuse(format!(
                "vision_cfg.image_size {} is not a multiple of {STRIDE}",
                self.image_size
            ));
        }
        if !(0.01..=64.0).contains(&self.mlp_ratio) {
            return refuse(format!(
                "vitamin.mlp_ratio must lie in 0.01..=64, got {}",
                self.mlp_ratio
            ));
        }
        // timm's stage without a change of width has no convolution in its shortcut.
        if self.widths[0] != self.stem_width {
            return refuse(format!(
                "ViTamin's first stage must be as wide as its stem: {} and {}",
                self.widths[0], self.stem_width
            ));
        }
        Ok(())
    }
}
