//! The plain ViT's part of the configuration.

use serde_json::{Map, Value, json};
use stage::{Error, Result};

use super::fields::Fields;
use super::put_ratio;

/// A pre-norm ViT with a class token (open_clip's `VisionTransformer`).
#[derive(Debug, Clone, PartialEq)]
pub struct VitConfig {
    /// Side of the square input, pixels.
    pub image_size: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Width of a token.
    pub width: usize,
    /// Side of a patch, pixels.
    pub patch_size: usize,
    /// Width of an attention head.
    pub head_width: usize,
    /// Hidden width of the FFN over `width`.
    pub mlp_ratio: f64,
    /// First value of the learned scale of each half block; None without such scales.
    pub ls_init_value: Option<f64>,
    /// Share of the patch tokens that a training step leaves out, 0..1.
    pub patch_dropout: f64,
    /// Whether the LayerNorm before the blocks is missing.
    pub no_ln_pre: bool,
    /// Whether the last LayerNorm follows the pooling, not the blocks.
    pub final_ln_after_pool: bool,
    /// Whether the positions are the fixed sines and cosines of MAE and not learned.
    pub fixed_positions: bool,
    /// Which token, or which mean, becomes the feature.
    pub pool: Pool,
}

/// How the tokens of a picture become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// The class token.
    Token,
    /// The mean of the patch tokens.
    Average,
}

impl VitConfig {
    /// Number of attention heads.
    #[must_use]
    pub fn heads(&self) -> usize {
        self.width / self.head_width
    }

    /// Hidden width of the FFN.
    #[must_use]
    pub fn hidden(&self) -> usize {
        (self.width as f64 * self.mlp_ratio) as usize
    }

    /// Patches of a picture.
    #[must_use]
    pub fn patches(&self) -> usize {
        self.grid() * self.grid()
    }

    /// Patches of one side.
    #[must_use]
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    pub(super) fn read(f: &mut Fields) -> Result<Self> {
        for (field, value) in [
            ("attentional_pool", json!(false)),
            ("output_tokens", json!(false)),
            ("act_kwargs", Value::Null),
            ("norm_kwargs", Value::Null),
            ("block_type", Value::Null),
            ("qk_norm", json!(false)),
            ("scaled_cosine_attn", json!(false)),
            ("scale_heads", json!(false)),
            ("scale_attn_inner", json!(false)),
            ("scale_attn", json!(false)),
            ("scale_fc", json!(false)),
        ] {
            f.only(field, &value)?;
        }
        let pool = match f.text("pool_type", "tok")?.as_str() {
            "tok" => Pool::Token,
            "avg" => Pool::Average,
            other => return Err(f.unsupported("pool_type", &json!(other))),
        };
        let fixed_positions = match f.text("pos_embed_type", "learnable")?.as_str() {
            "learnable" => false,
            "sin_cos_2d" => true,
            other => return Err(f.unsupported("pos_embed_type", &json!(other))),
        };
        let ls_init_value = f.number("ls_init_value", 0.0)?;
        let config = Self {
            image_size: f.side("image_size", 224)?,
            layers: f.layers()?,
            width: f.size("width", Some(768))?,
            patch_size: f.side("patch_size", 16)?,
            head_width: f.size("head_width", Some(64))?,
            mlp_ratio: f.ratio()?,
            ls_init_value: (ls_init_value != 0.0).then_some(ls_init_value),
            patch_dropout: f.share("patch_dropout")?,
            no_ln_pre: f.switch("no_ln_pre")?,
            final_ln_after_pool: f.switch("final_ln_after_pool")?,
            fixed_positions,
            pool,
        };
        // What only matters beside a `timm_model_name` or attentional pooling.
        for field in ["attn_pooler_queries", "attn_pooler_heads", "timm_pool", "timm_proj"] {
            f.ignore(field);
        }
        for field in ["timm_proj_bias", "timm_drop", "timm_drop_path", "timm_model_pretrained"] {
            f.ignore(field);
        }
        f.finish()?;
        Ok(config)
    }

    pub(super) fn write(&self) -> Value {
        let mut vision = Map::new();
        vision.insert("image_size".into(), json!(self.image_size));
        vision.insert("layers".into(), json!(self.layers));
        vision.insert("width".into(), json!(self.width));
        if self.head_width != 64 {
            vision.insert("head_width".into(), json!(self.head_width));
        }
        vision.insert("patch_size".into(), json!(self.patch_size));
        put_ratio(&mut vision, self.mlp_ratio);
        if let Some(value) = self.ls_init_value {
            vision.insert("ls_init_value".into(), json!(value));
        }
        if self.patch_dropout > 0.0 {
            vision.insert("patch_dropout".into(), json!(self.patch_dropout));
        }
        if self.no_ln_pre {
            vision.insert("no_ln_pre".into(), json!(true));
        }
        if self.fixed_positions {
            vision.insert("pos_embed_type".into(), json!("sin_cos_2d"));
        }
        if self.pool == Pool::Average {
            vision.insert("pool_type".into(), json!("avg"));
        }
        if self.final_ln_after_pool {
            vision.insert("final_ln_after_pool".into(), json!(true));
        }
        Value::Object(vision)
    }

    pub(super) fn check(&self) -> Result<()> {
        if !self.width.is_multiple_of(self.head_width) {
            return Err(Error::model(format!(
                "vision_cfg.width {} is not a multiple of head_width {}",
                self.width, self.head_width
            )));
        }
        if !self.image_size.is_multiple_of(self.patch_size) {
            return Err(Error::model(format!(
                "vision_cfg.image_size {} is not a multiple of patch_size {}",
                self.image_size, self.patch_size
            )));
        }
        if self.fixed_positions && !self.width.is_multiple_of(4) {
            return Err(Error::model(format!(
                "vision_cfg.width {} is not a multiple of 4, which sin_cos_2d needs",
                self.width
            )));
        }
        Ok(())
    }
}
