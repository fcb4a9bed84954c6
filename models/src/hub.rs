//! Folders as model hubs lay them: a configuration and weights, without our handle.
//!
//! open_clip: `open_clip_config.json` beside `open_clip_model.safetensors` or
//! `open_clip_pytorch_model.bin`. Hugging Face's transformers: `config.json` of a `CLIPModel`,
//! `preprocessor_config.json`, `model.safetensors` or `pytorch_model.bin`, cut into shards or whole.

mod preprocessor;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use stage::{Checkpoint, Error, Preprocess, Result, ResultExt};

use crate::checkpoint::read_text;
use crate::config::ClipConfig;
use crate::weights::Weights;

/// open_clip's configuration.
const OPEN_CLIP: &str = "open_clip_config.json";
/// transformers' configuration.
const HUGGING_FACE: &str = "config.json";
/// Names of weights, the first that exists is taken.
const WEIGHTS: &[&str] = &[
    "open_clip_model.safetensors",
    "open_clip_model.safetensors.index.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "weights.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// The configuration file of such a folder, if it is one.
pub(crate) fn config_in(folder: &Path) -> Option<PathBuf> {
    [OPEN_CLIP, HUGGING_FACE].iter().map(|name| folder.join(name)).find(|path| path.is_file())
}

/// Whether a file is the configuration of such a folder.
pub(crate) fn is_config(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == OPEN_CLIP || name == HUGGING_FACE)
}

/// The weights beside a configuration.
pub(crate) fn weights_beside(config: &Path) -> Result<PathBuf> {
    let found = WEIGHTS.iter().map(|name| config.with_file_name(name)).find(|path| path.is_file());
    found.ok_or_else(|| {
        Error::input("there are no weights beside the configuration")
            .hint(format!("put one of {} there", WEIGHTS.join(", ")))
            .at(config.display())
    })
}

/// A handle for the weights beside this configuration.
pub(crate) fn handle(config: &Path) -> Result<Checkpoint> {
    let at = |e: Error| e.at(config.display());
    let value: Value = serde_json::from_str(&read_text(config)?).model("not JSON").map_err(at)?;
    let (model, preprocess) = if config.file_name().is_some_and(|name| name == OPEN_CLIP) {
        open_clip(&value).map_err(at)?
    } else {
        let beside = config.with_file_name("preprocessor_config.json");
        let there = |e: Error| e.at(beside.display());
        let pictures: Option<Value> = match beside.is_file() {
            true => {
                let text = read_text(&beside)?;
                Some(serde_json::from_str(&text).model("not JSON").map_err(there)?)
            }
            false => None,
        };
        let model = hugging_face(&value).map_err(at)?;
        let preprocess = preprocessor::preprocess(pictures.as_ref(), model.image_size());
        (model, preprocess.map_err(there)?)
    };
    of_weights(&weights_beside(config)?, &model, preprocess)
}

/// A handle for a file of weights; relative to the folder that holds it.
pub(crate) fn of_weights(
    path: &Path,
    config: &ClipConfig,
    preprocess: Preprocess,
) -> Result<Checkpoint> {
    let weights = Weights::open(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let lineage = BTreeMap::from([
        ("source".to_owned(), name.clone()),
        ("tensors".to_owned(), weights.summary()),
    ]);
    Ok(Checkpoint {
        weights: name,
        sha256: weights.sha256()?,
        model: config.to_json(),
        changes: Vec::new(),
        preprocess,
        tokenizer: "clip".to_owned(),
        lineage,
    })
}

/// open_clip's `{"model_cfg": .., "preprocess_cfg": ..}`.
fn open_clip(value: &Value) -> Result<(ClipConfig, Preprocess)> {
    let model = ClipConfig::from_json(value.get("model_cfg").unwrap_or(value))?;
    let mut preprocess = serde_json::to_value(Preprocess::default()).internal("preprocessing")?;
    if let (Some(Value::Object(given)), Some(fields)) =
        (value.get("preprocess_cfg"), preprocess.as_object_mut())
    {
        let longest = given.get("resize_mode") == Some(&json!("longest"));
        for (field, value) in given {
            match field.as_str() {
                // The size is the model's, as there. A border is left by one mode alone, and is
                // black here.
                "size" => {}
                "mode" if *value == json!("RGB") => {}
                "fill_color" if !longest || *value == json!(0) => {}
                "mode" => {
                    return Err(Error::model(format!("`{field}` is {value}, expected \"RGB\"")));
                }
                "fill_color" => {
                    return Err(Error::model(format!(
                        "`{field}` is {value} with `resize_mode` \"longest\", expected 0"
                    ))
                    .hint("borders are black here: choose shortest or squash, or a fill of 0"));
                }
                _ => drop(fields.insert(field.clone(), value.clone())),
            }
        }
    }
    let preprocess = serde_json::from_value(preprocess).model("preprocess_cfg")?;
    Ok((model, preprocess))
}

/// The configuration of a `CLIPModel`; what is missing has the library's defaults.
fn hugging_face(value: &Value) -> Result<ClipConfig> {
    let kind = value.get("model_type").and_then(Value::as_str).unwrap_or("none");
    if kind != "clip" {
        return Err(Error::model(format!("`model_type` is {kind}, expected clip"))
            .hint("a plain CLIPModel is read, or a folder with open_clip_config.json"));
    }
    let empty = Value::Object(Map::new());
    let side = |name: &str| value.get(name).filter(|side| side.is_object()).unwrap_or(&empty);
    let (vision, text) = (side("vision_config"), side("text_config"));
    let (v, t) =
        (Side { at: "vision_config", value: vision }, Side { at: "text_config", value: text });
    let vision_act = v.word("hidden_act", "quick_gelu")?;
    let text_act = t.word("hidden_act", "quick_gelu")?;
    let quick = match (vision_act, text_act) {
        ("quick_gelu", "quick_gelu") => true,
        ("gelu", "gelu") => false,
        _ => {
            return Err(Error::model(format!(
                "`hidden_act` is {vision_act} and {text_act}; expected gelu or quick_gelu in both"
            )));
        }
    };
    for side in [&v, &t] {
        let eps = side.value.get("layer_norm_eps").and_then(Value::as_f64).unwrap_or(1e-5);
        if (eps - 1e-5).abs() > 1e-9 {
            return Err(Error::model(format!(
                "`{}.layer_norm_eps` is {eps}, expected 1e-5",
                side.at
            )));
        }
    }
    let (width, text_width) = (v.size("hidden_size", 768)?, t.size("hidden_size", 512)?);
    let vocabulary = t.size("vocab_size", 49408)?;
    // The library takes the state at the first end token; for 2, a value of old files, at the
    // largest id. Ours is the largest id, so the end token has to be the last of the vocabulary.
    let end = t.size("eos_token_id", vocabulary.saturating_sub(1))?;
    if end != 2 && end + 1 != vocabulary {
        return Err(Error::model(format!(
            "`text_config.eos_token_id` is {end}, expected the last of {vocabulary} tokens"
        )));
    }
    let heads = v.size("num_attention_heads", 12)?.max(1);
    if !width.is_multiple_of(heads) {
        return Err(Error::model(format!(
            "`vision_config.hidden_size` {width} is not a multiple of {heads} heads"
        )));
    }
    let embed = value.get("projection_dim").cloned().unwrap_or(json!(512));
    let scale = value.get("logit_scale_init_value").cloned().unwrap_or(json!(2.6592));
    ClipConfig::from_json(&json!({
        "embed_dim": embed,
        "quick_gelu": quick,
        "init_logit_scale": scale,
        "vision_cfg": {
            "image_size": v.size("image_size", 224)?,
            "patch_size": v.size("patch_size", 32)?,
            "layers": v.size("num_hidden_layers", 12)?,
            "width": width,
            "head_width": width / heads,
            "mlp_ratio": ratio(v.size("intermediate_size", 3072)?, width),
        },
        "text_cfg": {
            "context_length": t.size("max_position_embeddings", 77)?,
            "vocab_size": vocabulary,
            "width": text_width,
            "heads": t.size("num_attention_heads", 8)?,
            "layers": t.size("num_hidden_layers", 12)?,
            "mlp_ratio": ratio(t.size("intermediate_size", 2048)?, text_width),
        },
    }))
}

/// A ratio whose product with `width`, cut to a whole number, is `hidden`.
fn ratio(hidden: usize, width: usize) -> f64 {
    let ratio = hidden as f64 / width.max(1) as f64;
    if (width as f64 * ratio) as usize == hidden { ratio } else { ratio.next_up() }
}

/// One of the two tower configurations.
struct Side<'a> {
    at: &'static str,
    value: &'a Value,
}

impl<'a> Side<'a> {
    fn size(&self, field: &str, default: usize) -> Result<usize> {
        match self.value.get(field) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value
                .as_u64()
                .and_then(|n| usize::try_from(n).ok())
                .filter(|n| *n <= 1 << 20)
                .ok_or_else(|| self.wrong(field, value)),
        }
    }

    fn word(&self, field: &str, default: &'a str) -> Result<&'a str> {
        match self.value.get(field) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value.as_str().ok_or_else(|| self.wrong(field, value)),
        }
    }

    fn wrong(&self, field: &str, value: &Value) -> Error {
        Error::model(format!("`{}.{field}` is {value}", self.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hugging_face_configuration_without_fields_is_vit_b_32_with_quick_gelu() {
        let config = hugging_face(&json!({"model_type": "clip"})).unwrap();
        let mut expected = ClipConfig::named("ViT-B-32-quickgelu").unwrap();
        expected.init_logit_scale = 2.6592;
        assert_eq!(config, expected);
    }

    #[test]
    fn what_would_change_the_numbers_is_refused_by_field() {
        let check = |value: Value, expected: &str| {
            let message = hugging_face(&value).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        check(json!({"model_type": "siglip"}), "`model_type` is siglip, expected clip");
        check(json!({"architecture": "vit_base_patch16_224"}), "`model_type` is none");
        check(
            json!({"model_type": "clip", "text_config": {"hidden_act": "relu"}}),
            "`hidden_act` is quick_gelu and relu",
        );
        check(
            json!({"model_type": "clip", "vision_config": {"layer_norm_eps": 1e-6}}),
            "`vision_config.layer_norm_eps` is 0.000001, expected 1e-5",
        );
        check(
            json!({"model_type": "clip", "text_config": {"eos_token_id": 7}}),
            "`text_config.eos_token_id` is 7, expected the last of 49408 tokens",
        );
        check(
            json!({"model_type": "clip", "vision_config": {"hidden_size": "wide"}}),
            "`vision_config.hidden_size` is \"wide\"",
        );
    }

    #[test]
    fn a_fill_is_refused_where_a_border_would_show_it() {
        let of = |mode: &str, fill: Value| {
            let preprocess = json!({"resize_mode": mode, "fill_color": fill, "size": 96});
            let model = ClipConfig::named("tiny-32").unwrap().to_json();
            open_clip(&json!({"model_cfg": model, "preprocess_cfg": preprocess}))
        };
        assert_eq!(of("longest", json!(0)).unwrap().1.resize_mode, "longest");
        assert_eq!(of("squash", json!(127)).unwrap().1.resize_mode, "squash");
        let message = of("longest", json!(127)).unwrap_err().to_string();
        let expected = "`fill_color` is 127 with `resize_mode` \"longest\", expected 0";
        assert!(message.contains(expected), "{message}");
    }

    #[test]
    fn a_hidden_width_comes_back_through_its_ratio() {
        for (hidden, width) in [(3072, 768), (6144, 1408), (8192, 1664), (5120, 1280), (7, 3)] {
            assert_eq!((width as f64 * ratio(hidden, width)) as usize, hidden);
        }
    }
}
