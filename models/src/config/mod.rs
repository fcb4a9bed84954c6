//! open_clip's model JSON.
//!
//! Field names and defaults as in open_clip's `CLIPVisionCfg` and `CLIPTextCfg`. A field that would
//! change the architecture in a way that is not implemented is refused by name.

mod fields;
mod near;
mod presets;
mod text;
mod vit;
mod vitamin;

use std::path::Path;

use serde_json::{Map, Value, json};
use stage::{Error, Result, ResultExt};

use crate::shapes;
use fields::Fields;

pub use text::{TextConfig, TextPool};
pub use vit::{Pool, VitConfig};
pub use vitamin::VitaminConfig;

/// Most tokens of a picture or a caption: a side of 16,384 pixels has a million at patch 16.
const MOST_TOKENS: usize = 1 << 21;
/// Most parameters, ten times those of the largest CLIP; so no count of a model overflows.
const MOST_PARAMETERS: u64 = 1 << 35;

/// A CLIP of two towers.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipConfig {
    /// Width of the space that both towers project to.
    pub embed_dim: usize,
    /// x·σ(1.702 x) instead of the exact GELU, in the text tower and in a plain ViT.
    pub quick_gelu: bool,
    /// Initial logit scale before exp; ln(1 / 0.07) unless the file says otherwise.
    pub init_logit_scale: f64,
    /// Whether the text tower's tensors are named `text.…`, as open_clip does for all ViTamin.
    pub custom_text: bool,
    /// The image tower.
    pub vision: VisionConfig,
    /// The text tower.
    pub text: TextConfig,
}

/// The image tower.
#[derive(Debug, Clone, PartialEq)]
pub enum VisionConfig {
    /// A plain ViT.
    Vit(VitConfig),
    /// A ViTamin.
    Vitamin(VitaminConfig),
}

impl VisionConfig {
    /// Side of the square input, pixels.
    #[must_use]
    pub fn image_size(&self) -> usize {
        match self {
            Self::Vit(vit) => vit.image_size,
            Self::Vitamin(vitamin) => vitamin.image_size,
        }
    }

    /// Width of a token.
    #[must_use]
    pub fn width(&self) -> usize {
        match self {
            Self::Vit(vit) => vit.width,
            Self::Vitamin(vitamin) => vitamin.width(),
        }
    }

    /// Patches of a picture.
    #[must_use]
    pub fn tokens(&self) -> usize {
        match self {
            Self::Vit(vit) => vit.patches(),
            Self::Vitamin(vitamin) => vitamin.tokens(),
        }
    }

    /// The plain ViT, if it is one.
    #[must_use]
    pub fn vit(&self) -> Option<&VitConfig> {
        match self {
            Self::Vit(vit) => Some(vit),
            Self::Vitamin(_) => None,
        }
    }

    fn read(f: &mut Fields) -> Result<Self> {
        if f.has("timm_model_name") || f.has("vitamin") {
            return VitaminConfig::read(f).map(Self::Vitamin);
        }
        f.ignore("timm_model_name");
        VitConfig::read(f).map(Self::Vit)
    }
}

impl ClipConfig {
    /// A name of open_clip's (`ViT-B-32`), one of ours for CPUs (`tiny-32`, `tiny-64`,
    /// `tiny-vitamin-32`), or the path of a JSON file.
    ///
    /// # Errors
    /// An unknown name (the hint has the nearest), or what [`ClipConfig::from_json`] refuses.
    pub fn named(name: &str) -> Result<Self> {
        if let Some(value) = presets::json(name) {
            return Self::from_json(&value).map_err(|e| e.at(name));
        }
        if !Path::new(name).extension().is_some_and(|e| e.eq_ignore_ascii_case("json")) {
            let near = near::nearest(name, Self::names());
            let meant = match near.is_empty() {
                true => String::new(),
                false => format!("did you mean {}? ", near.join(", ")),
            };
            return Err(Error::recipe(format!("no model named `{name}`")).hint(format!(
                "{meant}`clipmill model` lists all {} names; the path of a .json file is taken too",
                Self::names().count()
            )));
        }
        let text = crate::checkpoint::read_text(Path::new(name))?;
        let value: Value = serde_json::from_str(&text).model("not JSON").map_err(|e| e.at(name))?;
        // A release's open_clip_config.json holds the model beside its preprocessing.
        Self::from_json(value.get("model_cfg").unwrap_or(&value)).map_err(|e| e.at(name))
    }

    /// The names that [`ClipConfig::named`] knows.
    pub fn names() -> impl Iterator<Item = String> {
        presets::names()
    }

    /// Reads open_clip's model JSON.
    ///
    /// # Errors
    /// A missing, unknown or ill-typed field, a size out of range, or an architecture that is not
    /// implemented; each by the field's name.
    pub fn from_json(value: &Value) -> Result<Self> {
        let mut top = Fields::new(value, "")?;
        top.only("init_logit_bias", &Value::Null)?;
        top.only("multimodal_cfg", &Value::Null)?;
        let vision =
            VisionConfig::read(&mut Fields::new(&top.required("vision_cfg")?, "vision_cfg.")?)?;
        let text = TextConfig::read(&mut Fields::new(&top.required("text_cfg")?, "text_cfg.")?)?;
        let config = Self {
            embed_dim: top.size("embed_dim", None)?,
            quick_gelu: top.switch("quick_gelu")?,
            init_logit_scale: top.number("init_logit_scale", (1.0f64 / 0.07).ln())?,
            custom_text: top.switch("custom_text")?,
            vision,
            text,
        };
        top.finish()?;
        config.check()?;
        Ok(config)
    }

    /// The model JSON, which [`ClipConfig::from_json`] and open_clip read; defaults are left out.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut top = Map::new();
        top.insert("embed_dim".into(), json!(self.embed_dim));
        if self.quick_gelu {
            top.insert("quick_gelu".into(), json!(true));
        }
        if (self.init_logit_scale - (1.0f64 / 0.07).ln()).abs() > 1e-12 {
            top.insert("init_logit_scale".into(), json!(self.init_logit_scale));
        }
        let vision = match &self.vision {
            VisionConfig::Vit(vit) => vit.write(),
            VisionConfig::Vitamin(vitamin) => vitamin.write(),
        };
        top.insert("vision_cfg".into(), vision);
        top.insert("text_cfg".into(), self.text.write());
        if self.custom_text {
            top.insert("custom_text".into(), json!(true));
        }
        Value::Object(top)
    }

    /// The same model for pictures of another side; [`crate::Clip::fitted`] makes its tensors.
    ///
    /// # Errors
    /// A side that its patches do not fill.
    pub fn with_image_size(&self, side: usize) -> Result<Self> {
        let mut config = self.clone();
        match &mut config.vision {
            VisionConfig::Vit(vit) => vit.image_size = side,
            VisionConfig::Vitamin(vitamin) if vitamin.image_size != side => {
                vitamin.image_size = side;
                vitamin.name = vitamin.name.and_then(|name| vitamin::of_size(name, side));
            }
            VisionConfig::Vitamin(_) => {}
        }
        config.check()?;
        Ok(config)
    }

    /// Side of the square input, pixels.
    #[must_use]
    pub fn image_size(&self) -> u32 {
        self.vision.image_size() as u32
    }

    /// Number of positions of the text tower.
    #[must_use]
    pub fn context_length(&self) -> usize {
        self.text.context_length
    }

    /// Width of the space that both towers project to.
    #[must_use]
    pub fn embed_dim(&self) -> usize {
        self.embed_dim
    }

    /// Refuses a model whose captions CLIP's tokenizer cannot write.
    ///
    /// # Errors
    /// Another tokenizer, by its name, something that CLIP's is told and ours does not do, by its
    /// field, or a vocabulary that is too small, with both numbers.
    pub fn check_tokenizer(&self, tokens: usize) -> Result<()> {
        if let Some(name) = &self.text.tokenizer {
            return Err(Error::model(format!("the model's tokenizer is `{name}`"))
                .hint("only CLIP's own tokenizer is implemented: choose a model without hf_tokenizer_name"));
        }
        for (field, value) in
            self.text.tokenizer_kwargs.iter().filter_map(Value::as_object).flatten()
        {
            // open_clip's SimpleTokenizer's own defaults.
            let default = match field.as_str() {
                "clean" => *value == json!("lower"),
                "reduction_mask" => *value == json!(""),
                "additional_special_tokens" => value.is_null() || *value == json!([]),
                _ => false,
            };
            if !default {
                let message = format!("`text_cfg.tokenizer_kwargs.{field}` is {value}");
                return Err(Error::model(message).hint(
                    "only CLIP's tokenizer with `clean` \"lower\" and nothing more is implemented",
                ));
            }
        }
        if self.text.vocab_size < tokens {
            return Err(Error::model(format!(
                "the model has {} token embeddings, the clip tokenizer {tokens} tokens",
                self.text.vocab_size
            ))
            .hint("set text_cfg.vocab_size to 49408"));
        }
        Ok(())
    }

    /// Parameters of the plain form, from the configuration alone: those that open_clip counts, so
    /// with fixed positions.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        shapes::of(self, None).iter().map(shapes::Shape::elements).sum()
    }

    /// Names and shapes of all tensors, in the order of the forward pass.
    #[must_use]
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        shapes::of(self, None).into_iter().map(|shape| (shape.name, shape.dims)).collect()
    }

    /// Parameters of the image tower with its projection.
    #[must_use]
    pub fn image_parameters(&self) -> u64 {
        let shapes = shapes::of(self, None);
        let image = shapes.iter().filter(|shape| shape.name.starts_with("visual."));
        image.map(shapes::Shape::elements).sum()
    }

    fn check(&self) -> Result<()> {
        match &self.vision {
            VisionConfig::Vit(vit) => vit.check()?,
            VisionConfig::Vitamin(vitamin) => vitamin.check()?,
        }
        let t = &self.text;
        if !t.width.is_multiple_of(t.heads) {
            return Err(Error::model(format!(
                "text_cfg.width {} is not a multiple of heads {}",
                t.width, t.heads
            )));
        }
        let tokens = self.vision.tokens().max(t.context_length);
        if tokens > MOST_TOKENS {
            return Err(Error::model(format!("{tokens} tokens, at most {MOST_TOKENS}")));
        }
        let parameters = self.parameters();
        if parameters > MOST_PARAMETERS {
            return Err(Error::model(format!(
                "the model has {parameters} parameters, at most {MOST_PARAMETERS}"
            )));
        }
        Ok(())
    }
}

fn put_ratio(map: &mut Map<String, Value>, ratio: f64) {
    if (ratio - 4.0).abs() > 0.0 {
        map.insert("mlp_ratio".into(), json!(ratio));
    }
}

#[cfg(test)]
mod tests;
