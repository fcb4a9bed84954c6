//! The text tower's part of the configuration.

use serde_json::{Map, Value, json};
use stage::Result;

use super::fields::Fields;
use super::put_ratio;

/// The text tower: a pre-norm transformer, causal unless it says otherwise.
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
    /// Whether every token sees all others.
    pub no_causal_mask: bool,
    /// Which token's state becomes the feature.
    pub pool: TextPool,
    /// A tokenizer of Hugging Face's in place of CLIP's, by name.
    pub tokenizer: Option<String>,
    /// What the tokenizer is told, as the file has it; [`super::ClipConfig::check_tokenizer`] refuses
    /// what would change CLIP's.
    pub tokenizer_kwargs: Option<Value>,
}

/// The token whose state becomes a caption's feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextPool {
    /// The first place of the largest id: CLIP's end token.
    Argmax,
    /// The first place of this id, or the first token where it is missing.
    End(u32),
    /// The first token.
    First,
    /// The last position of the context.
    Last,
}

/// open_clip's default `eos_id`.
const DEFAULT_END: usize = 2;

impl TextConfig {
    /// Hidden width of the FFN.
    #[must_use]
    pub fn hidden(&self) -> usize {
        (self.width as f64 * self.mlp_ratio) as usize
    }

    pub(super) fn read(f: &mut Fields) -> Result<Self> {
        for (field, value) in [
            ("ls_init_value", Value::Null),
            ("proj_type", json!("linear")),
            ("proj_bias", json!(false)),
            ("embed_cls", json!(false)),
            ("final_ln_after_pool", json!(false)),
            ("output_tokens", json!(false)),
            ("hf_model_name", Value::Null),
            ("act_kwargs", Value::Null),
            ("norm_kwargs", Value::Null),
        ] {
            f.only(field, &value)?;
        }
        let end = f.size_or_zero("eos_id", DEFAULT_END)? as u32;
        let pool = match f.text("pool_type", "argmax")?.as_str() {
            "argmax" => TextPool::Argmax,
            "eos" => TextPool::End(end),
            "first" => TextPool::First,
            "last" => TextPool::Last,
            other => return Err(f.unsupported("pool_type", &json!(other))),
        };
        let config = Self {
            context_length: f.size("context_length", Some(77))?,
            vocab_size: f.size("vocab_size", Some(49408))?,
            width: f.size("width", Some(512))?,
            heads: f.size("heads", Some(8))?,
            layers: f.layers()?,
            mlp_ratio: f.ratio()?,
            no_causal_mask: f.switch("no_causal_mask")?,
            pool,
            tokenizer: f.optional_text("hf_tokenizer_name")?,
            tokenizer_kwargs: f.object("tokenizer_kwargs")?,
        };
        // What only `embed_cls` and token masks look at.
        f.ignore("pad_id");
        f.finish()?;
        Ok(config)
    }

    pub(super) fn write(&self) -> Value {
        let mut text = Map::new();
        text.insert("context_length".into(), json!(self.context_length));
        text.insert("vocab_size".into(), json!(self.vocab_size));
        if let Some(name) = &self.tokenizer {
            text.insert("hf_tokenizer_name".into(), json!(name));
        }
        if let Some(kwargs) = &self.tokenizer_kwargs {
            text.insert("tokenizer_kwargs".into(), kwargs.clone());
        }
        text.insert("width".into(), json!(self.width));
        text.insert("heads".into(), json!(self.heads));
        text.insert("layers".into(), json!(self.layers));
        put_ratio(&mut text, self.mlp_ratio);
        match self.pool {
            TextPool::Argmax => {}
            TextPool::End(id) => {
                text.insert("pool_type".into(), json!("eos"));
                text.insert("eos_id".into(), json!(id));
            }
            TextPool::First => drop(text.insert("pool_type".into(), json!("first"))),
            TextPool::Last => drop(text.insert("pool_type".into(), json!("last"))),
        }
        if self.no_causal_mask {
            text.insert("no_causal_mask".into(), json!(true));
        }
        Value::Object(text)
    }
}
