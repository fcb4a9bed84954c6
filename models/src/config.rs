//! open_clip's model JSON.
//!
//! Field names and defaults as in open_clip's `CLIPVisionCfg` and `CLIPTextCfg`. A field that would
//! change the architecture in a way that is not implemented is refused by name.

use std::path::Path;

use serde_json::{Map, Value, json};
use stage::{Error, Result, ResultExt};

use crate::shapes;

/// A CLIP of two towers.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipConfig {
    /// Width of the space that both towers project to.
    pub embed_dim: usize,
    /// x·σ(1.702 x) instead of the exact GELU, in both towers.
    pub quick_gelu: bool,
    /// Initial logit scale before exp; ln(1 / 0.07) unless the file says otherwise.
    pub init_logit_scale: f64,
    /// The image tower.
    pub vision: VisionConfig,
    /// The text tower.
    pub text: TextConfig,
}

/// The image tower: a pre-norm ViT with a class token.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
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
    /// Whether the LayerNorm before the blocks is missing.
    pub no_ln_pre: bool,
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

/// The text tower: a causal pre-norm transformer, pooled at the end token.
#[derive(Debug, Clone, PartialEq)]
pub struct TextConfig {
    /// Number of positions.
    pub context_length: usize,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Width of a token.
    pub width: usize,
    /// Number of attention heads.
    pub heads: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Hidden width of the FFN over `width`.
    pub mlp_ratio: f64,
}

/// Largest value of any size in a configuration; keeps a hostile file from asking for all memory.
const LARGEST: usize = 1 << 20;

const BUILT_IN: &[(&str, &str)] = &[
    ("tiny-32", include_str!("configs/tiny-32.json")),
    ("tiny-64", include_str!("configs/tiny-64.json")),
    ("ViT-S-32", include_str!("configs/ViT-S-32.json")),
    ("ViT-S-16", include_str!("configs/ViT-S-16.json")),
    ("ViT-B-32", include_str!("configs/ViT-B-32.json")),
    ("ViT-B-32-quickgelu", include_str!("configs/ViT-B-32-quickgelu.json")),
    ("ViT-B-16", include_str!("configs/ViT-B-16.json")),
    ("ViT-B-16-quickgelu", include_str!("configs/ViT-B-16-quickgelu.json")),
    ("ViT-L-16", include_str!("configs/ViT-L-16.json")),
    ("ViT-L-14", include_str!("configs/ViT-L-14.json")),
    ("ViT-L-14-quickgelu", include_str!("configs/ViT-L-14-quickgelu.json")),
    ("ViT-H-14", include_str!("configs/ViT-H-14.json")),
];

impl ClipConfig {
    /// A name of open_clip's (`ViT-B-32`), one of ours for CPUs (`tiny-32`, `tiny-64`), or the path
    /// of a JSON file.
    ///
    /// # Errors
    /// An unknown name (the hint lists all), or what [`ClipConfig::from_json`] refuses.
    pub fn named(name: &str) -> Result<Self> {
        let text = match BUILT_IN.iter().find(|(known, _)| *known == name) {
            Some((_, text)) => (*text).to_owned(),
            None if Path::new(name).extension().is_some_and(|e| e.eq_ignore_ascii_case("json")) => {
                crate::checkpoint::read_text(Path::new(name))?
            }
            None => {
                return Err(Error::recipe(format!("no model named `{name}`")).hint(format!(
                    "name one of {}, or a .json file",
                    Self::names().collect::<Vec<_>>().join(", ")
                )));
            }
        };
        let value: Value = serde_json::from_str(&text).model("not JSON").map_err(|e| e.at(name))?;
        // A release's open_clip_config.json holds the model beside its preprocessing.
        Self::from_json(value.get("model_cfg").unwrap_or(&value)).map_err(|e| e.at(name))
    }

    /// The names that [`ClipConfig::named`] knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// Reads open_clip's model JSON.
    ///
    /// # Errors
    /// A missing, unknown or ill-typed field, a size out of range, or an architecture that is not
    /// implemented; each by the field's name.
    pub fn from_json(value: &Value) -> Result<Self> {
        let mut top = Fields::new(value, "")?;
        top.only("custom_text", &json!(false))?;
        top.only("init_logit_bias", &Value::Null)?;
        top.only("multimodal_cfg", &Value::Null)?;
        let vision = vision(&mut Fields::new(&top.required("vision_cfg")?, "vision_cfg.")?)?;
        let text = text(&mut Fields::new(&top.required("text_cfg")?, "text_cfg.")?)?;
        let config = Self {
            embed_dim: top.size("embed_dim", None)?,
            quick_gelu: top.switch("quick_gelu")?,
            init_logit_scale: top.number("init_logit_scale", (1.0f64 / 0.07).ln())?,
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
        let v = &self.vision;
        let mut vision = Map::new();
        vision.insert("image_size".into(), json!(v.image_size));
        vision.insert("layers".into(), json!(v.layers));
        vision.insert("width".into(), json!(v.width));
        if v.head_width != 64 {
            vision.insert("head_width".into(), json!(v.head_width));
        }
        vision.insert("patch_size".into(), json!(v.patch_size));
        put_ratio(&mut vision, v.mlp_ratio);
        if v.no_ln_pre {
            vision.insert("no_ln_pre".into(), json!(true));
        }
        if v.pool == Pool::Average {
            vision.insert("pool_type".into(), json!("avg"));
        }
        top.insert("vision_cfg".into(), Value::Object(vision));
        let t = &self.text;
        let mut text = Map::new();
        text.insert("context_length".into(), json!(t.context_length));
        text.insert("vocab_size".into(), json!(t.vocab_size));
        text.insert("width".into(), json!(t.width));
        text.insert("heads".into(), json!(t.heads));
        text.insert("layers".into(), json!(t.layers));
        put_ratio(&mut text, t.mlp_ratio);
        top.insert("text_cfg".into(), Value::Object(text));
        Value::Object(top)
    }

    /// Side of the square input, pixels.
    #[must_use]
    pub fn image_size(&self) -> u32 {
        self.vision.image_size as u32
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

    /// Trainable parameters of the plain form, from the configuration alone.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        shapes::of(self, None).iter().map(shapes::Shape::elements).sum()
    }

    fn check(&self) -> Result<()> {
        let (v, t) = (&self.vision, &self.text);
        if !v.width.is_multiple_of(v.head_width) {
            return Err(Error::model(format!(
                "vision_cfg.width {} is not a multiple of head_width {}",
                v.width, v.head_width
            )));
        }
        if !t.width.is_multiple_of(t.heads) {
            return Err(Error::model(format!(
                "text_cfg.width {} is not a multiple of heads {}",
                t.width, t.heads
            )));
        }
        if !v.image_size.is_multiple_of(v.patch_size) {
            return Err(Error::model(format!(
                "vision_cfg.image_size {} is not a multiple of patch_size {}",
                v.image_size, v.patch_size
            )));
        }
        Ok(())
    }
}

impl VisionConfig {
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
        let side = self.image_size / self.patch_size;
        side * side
    }
}

impl TextConfig {
    /// Hidden width of the FFN.
    #[must_use]
    pub fn hidden(&self) -> usize {
        (self.width as f64 * self.mlp_ratio) as usize
    }
}

fn put_ratio(map: &mut Map<String, Value>, ratio: f64) {
    if (ratio - 4.0).abs() > 0.0 {
        map.insert("mlp_ratio".into(), json!(ratio));
    }
}

fn vision(f: &mut Fields) -> Result<VisionConfig> {
    for (field, value) in [
        ("ls_init_value", Value::Null),
        ("patch_dropout", json!(0)),
        ("attentional_pool", json!(false)),
        ("pos_embed_type", json!("learnable")),
        ("final_ln_after_pool", json!(false)),
        ("output_tokens", json!(false)),
        ("act_kwargs", Value::Null),
        ("norm_kwargs", Value::Null),
        ("timm_model_name", Value::Null),
    ] {
        f.only(field, &value)?;
    }
    let pool = match f.text("pool_type", "tok")?.as_str() {
        "tok" => Pool::Token,
        "avg" => Pool::Average,
        other => return Err(f.unsupported("pool_type", &json!(other))),
    };
    let config = VisionConfig {
        image_size: f.side("image_size", 224)?,
        layers: f.size("layers", Some(12))?,
        width: f.size("width", Some(768))?,
        patch_size: f.side("patch_size", 16)?,
        head_width: f.size("head_width", Some(64))?,
        mlp_ratio: f.ratio()?,
        no_ln_pre: f.switch("no_ln_pre")?,
        pool,
    };
    // What only matters beside a `timm_model_name`, attentional pooling or a token output.
    for field in ["attn_pooler_queries", "attn_pooler_heads", "timm_pool", "timm_proj"] {
        f.ignore(field);
    }
    for field in ["timm_proj_bias", "timm_drop", "timm_drop_path", "timm_model_pretrained"] {
        f.ignore(field);
    }
    f.finish()?;
    Ok(config)
}

fn text(f: &mut Fields) -> Result<TextConfig> {
    for (field, value) in [
        ("ls_init_value", Value::Null),
        ("pool_type", json!("argmax")),
        ("proj_type", json!("linear")),
        ("proj_bias", json!(false)),
        ("embed_cls", json!(false)),
        ("no_causal_mask", json!(false)),
        ("final_ln_after_pool", json!(false)),
        ("output_tokens", json!(false)),
        ("hf_model_name", Value::Null),
        ("hf_tokenizer_name", Value::Null),
        ("tokenizer_kwargs", Value::Null),
        ("act_kwargs", Value::Null),
        ("norm_kwargs", Value::Null),
    ] {
        f.only(field, &value)?;
    }
    let config = TextConfig {
        context_length: f.size("context_length", Some(77))?,
        vocab_size: f.size("vocab_size", Some(49408))?,
        width: f.size("width", Some(512))?,
        heads: f.size("heads", Some(8))?,
        layers: f.size("layers", Some(12))?,
        mlp_ratio: f.ratio()?,
    };
    // Ids that only `embed_cls` and other poolings look at.
    f.ignore("pad_id");
    f.ignore("eos_id");
    f.finish()?;
    Ok(config)
}

/// The fields of a JSON object, taken one by one; what is left at the end is unknown.
struct Fields {
    map: Map<String, Value>,
    place: &'static str,
}

impl Fields {
    fn new(value: &Value, place: &'static str) -> Result<Self> {
        match value {
            Value::Object(map) => Ok(Self { map: map.clone(), place }),
            other => Err(Error::model(format!(
                "{} is not an object but {other}",
                if place.is_empty() { "the model configuration" } else { place }
            ))),
        }
    }

    fn required(&mut self, field: &str) -> Result<Value> {
        self.map
            .remove(field)
            .ok_or_else(|| Error::model(format!("the field `{}{field}` is missing", self.place)))
    }

    fn wrong(&self, field: &str, value: &Value, expected: &str) -> Error {
        Error::model(format!("`{}{field}` must be {expected}, got {value}", self.place))
    }

    fn unsupported(&self, field: &str, value: &Value) -> Error {
        Error::model(format!("`{}{field}: {value}` is not implemented", self.place))
            .hint("use a plain ViT CLIP configuration")
    }

    fn size(&mut self, field: &str, default: Option<usize>) -> Result<usize> {
        let value = match (self.map.remove(field), default) {
            (Some(value), _) => value,
            (None, Some(default)) => return Ok(default),
            (None, None) => return self.required(field).map(|_| 0),
        };
        match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) if (1..=LARGEST).contains(&n) => Ok(n),
            _ => Err(self.wrong(field, &value, &format!("a whole number in 1..={LARGEST}"))),
        }
    }

    /// A number, or a list of two equal ones.
    fn side(&mut self, field: &str, default: usize) -> Result<usize> {
        if let Some(Value::Array(sides)) = self.map.get(field) {
            match sides.as_slice() {
                [a, b] if a == b => {
                    let side = a.clone();
                    self.map.insert(field.to_owned(), side);
                }
                _ => {
                    let value = self.required(field)?;
                    return Err(self.wrong(field, &value, "one number or two equal ones"));
                }
            }
        }
        self.size(field, Some(default))
    }

    fn number(&mut self, field: &str, default: f64) -> Result<f64> {
        match self.map.remove(field) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => match value.as_f64() {
                Some(number) if number.is_finite() => Ok(number),
                _ => Err(self.wrong(field, &value, "a finite number")),
            },
        }
    }

    fn ratio(&mut self) -> Result<f64> {
        let ratio = self.number("mlp_ratio", 4.0)?;
        if (0.01..=64.0).contains(&ratio) {
            return Ok(ratio);
        }
        Err(self.wrong("mlp_ratio", &json!(ratio), "in 0.01..=64"))
    }

    fn switch(&mut self, field: &str) -> Result<bool> {
        match self.map.remove(field) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(value)) => Ok(value),
            Some(other) => Err(self.wrong(field, &other, "true or false")),
        }
    }

    fn text(&mut self, field: &str, default: &str) -> Result<String> {
        match self.map.remove(field) {
            None => Ok(default.to_owned()),
            Some(Value::String(value)) => Ok(value),
            Some(other) => Err(self.wrong(field, &other, "a string")),
        }
    }

    /// A field of which only one value is implemented. An empty object, `null`, 0 and `false` are
    /// one and the same "not used".
    fn only(&mut self, field: &str, implemented: &Value) -> Result<()> {
        let unused = |v: &Value| match v {
            Value::Null | Value::Bool(false) => true,
            Value::Object(map) => map.is_empty(),
            Value::Number(n) => n.as_f64() == Some(0.0),
            _ => false,
        };
        match self.map.remove(field) {
            None => Ok(()),
            Some(value) if value == *implemented => Ok(()),
            Some(value) if unused(&value) && unused(implemented) => Ok(()),
            Some(value) => Err(self.unsupported(field, &value)),
        }
    }

    fn ignore(&mut self, field: &str) {
        self.map.remove(field);
    }

    fn finish(&self) -> Result<()> {
        match self.map.iter().next() {
            None => Ok(()),
            Some((field, value)) => {
                Err(Error::model(format!("unknown field `{}{field}: {value}`", self.place))
                    .hint("remove it, or use a configuration of open_clip's plain ViT models"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_equal_open_clips() {
        for (name, parameters) in [
            ("ViT-S-32", 63_085_825),
            ("ViT-S-16", 62_257_537),
            ("ViT-B-32", 151_277_313),
            ("ViT-B-16", 149_620_737),
            ("ViT-L-16", 427_739_393),
            ("ViT-L-14", 427_616_513),
            ("ViT-H-14", 986_109_441),
        ] {
            assert_eq!(ClipConfig::named(name).unwrap().parameters(), parameters, "{name}");
        }
    }

    #[test]
    fn image_tower_parameters_equal_open_clips() {
        for (name, parameters) in [
            ("ViT-S-32", 22_641_792),
            ("ViT-S-16", 21_813_504),
            ("ViT-B-32", 87_849_216),
            ("ViT-B-16", 86_192_640),
            ("ViT-L-16", 304_089_088),
            ("ViT-L-14", 303_966_208),
            ("ViT-H-14", 632_076_800),
        ] {
            let config = ClipConfig::named(name).unwrap();
            let shapes = shapes::of(&config, None);
            let image = shapes.iter().filter(|s| s.name.starts_with("visual."));
            assert_eq!(image.map(shapes::Shape::elements).sum::<u64>(), parameters, "{name}");
        }
    }

    #[test]
    fn every_built_in_configuration_survives_a_round_trip() {
        for name in ClipConfig::names() {
            let config = ClipConfig::named(name).unwrap();
            assert_eq!(ClipConfig::from_json(&config.to_json()).unwrap(), config, "{name}");
            assert_eq!(config.quick_gelu, name.ends_with("-quickgelu"));
        }
    }

    #[test]
    fn defaults_are_open_clips() {
        let config =
            ClipConfig::from_json(&json!({"embed_dim": 512, "vision_cfg": {}, "text_cfg": {}}));
        let mut expected = ClipConfig::named("ViT-B-16").unwrap();
        expected.init_logit_scale = (1.0f64 / 0.07).ln();
        assert_eq!(config.unwrap(), expected);
    }

    fn refused(change: impl FnOnce(&mut Value)) -> String {
        let mut value = ClipConfig::named("tiny-32").unwrap().to_json();
        change(&mut value);
        ClipConfig::from_json(&value).unwrap_err().to_string()
    }

    #[test]
    fn what_would_change_the_architecture_is_refused_by_name() {
        let message = refused(|v| v["vision_cfg"]["ls_init_value"] = json!(1e-5));
        assert_eq!(message, "`vision_cfg.ls_init_value: 0.00001` is not implemented");
        let message = refused(|v| v["text_cfg"]["hf_model_name"] = json!("roberta-base"));
        assert!(message.contains("text_cfg.hf_model_name"), "{message}");
        let message = refused(|v| v["vision_cfg"]["timm_model_name"] = json!("vitamin_small"));
        assert!(message.contains("vision_cfg.timm_model_name"), "{message}");
        let message = refused(|v| v["vision_cfg"]["widht"] = json!(3));
        assert_eq!(message, "unknown field `vision_cfg.widht: 3`");
    }

    #[test]
    fn sizes_out_of_range_are_refused_with_field_and_value() {
        let message = refused(|v| v["vision_cfg"]["layers"] = json!(0));
        assert_eq!(message, "`vision_cfg.layers` must be a whole number in 1..=1048576, got 0");
        let message = refused(|v| v["text_cfg"]["vocab_size"] = json!(1e30));
        assert!(message.contains("text_cfg.vocab_size"), "{message}");
        let message = refused(|v| v["vision_cfg"]["head_width"] = json!(48));
        assert_eq!(message, "vision_cfg.width 128 is not a multiple of head_width 48");
        let message = refused(|v| drop(v.as_object_mut().unwrap().remove("embed_dim")));
        assert_eq!(message, "the field `embed_dim` is missing");
    }

    #[test]
    fn neutral_fields_of_published_files_are_accepted() {
        let mut value = ClipConfig::named("ViT-B-32").unwrap().to_json();
        value["custom_text"] = json!(false);
        value["vision_cfg"]["ls_init_value"] = Value::Null;
        value["vision_cfg"]["patch_dropout"] = json!(0.0);
        value["vision_cfg"]["norm_kwargs"] = json!({});
        value["text_cfg"]["pad_id"] = json!(0);
        assert_eq!(ClipConfig::from_json(&value).unwrap(), ClipConfig::named("ViT-B-32").unwrap());
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let error = ClipConfig::named("ViT-B-33").unwrap_err();
        assert_eq!(error.to_string(), "no model named `ViT-B-33`");
        assert!(error.hint_text().unwrap().contains("ViT-B-32, "));
    }
}
