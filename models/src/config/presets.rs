//! The configurations that have a name: open_clip's, and small ones for CPUs.

use serde_json::{Value, json};

/// Image towers by letter: width, blocks, width of a head, FFN ratio.
const S: Body = (384, 12, 64, 4.0);
const M: Body = (512, 12, 64, 4.0);
const B: Body = (768, 12, 64, 4.0);
const B_PLUS: Body = (896, 12, 64, 4.0);
const L: Body = (1024, 24, 64, 4.0);
const H: Body = (1280, 32, 80, 4.0);
const G: Body = (1408, 40, 88, 4.3637);
const BIG_G: Body = (1664, 48, 104, 4.9231);
const E: Body = (1792, 56, 112, 8.5715);

type Body = (usize, usize, usize, f64);

/// Text towers: width, heads, blocks.
type Text = (usize, usize, usize);

/// What sets a family apart.
#[derive(Clone, Copy, PartialEq)]
enum Family {
    Plain,
    /// With layer scale from 1e-4.
    Scaled,
    /// CLIPA: BERT's tokens, mean pooling, no mask.
    Clipa,
    /// Tokens of XLM-V.
    XlmV,
    /// Tokens of mT5.
    Mt5,
}

use Family::{Clipa, Mt5, Plain, Scaled, XlmV};

/// Name, width of the common space, image size, patch, image tower, text tower, family.
type Row = (&'static str, usize, usize, usize, Body, Text, Family);

/// open_clip's plain ViTs (3.3.0, `model_configs`).
const VITS: &[Row] = &[
    ("ViT-S-32", 384, 224, 32, S, (384, 6, 12), Plain),
    ("ViT-S-32-alt", 256, 224, 32, S, (256, 4, 10), Plain),
    ("ViT-S-16", 384, 224, 16, S, (384, 6, 12), Plain),
    ("ViT-S-16-alt", 256, 224, 16, S, (256, 4, 10), Plain),
    ("ViT-M-32", 512, 224, 32, M, (512, 8, 12), Plain),
    ("ViT-M-32-alt", 384, 224, 32, M, (384, 6, 12), Plain),
    ("ViT-M-16", 512, 224, 16, M, (512, 8, 12), Plain),
    ("ViT-M-16-alt", 384, 224, 16, M, (384, 6, 12), Scaled),
    ("ViT-B-32", 512, 224, 32, B, (512, 8, 12), Plain),
    ("ViT-B-32-256", 512, 256, 32, B, (512, 8, 12), Plain),
    ("ViT-B-32-plus-256", 640, 256, 32, B_PLUS, (640, 10, 12), Plain),
    ("ViT-B-16", 512, 224, 16, B, (512, 8, 12), Plain),
    ("ViT-B-16-plus", 640, 224, 16, B_PLUS, (640, 10, 12), Plain),
    ("ViT-B-16-plus-240", 640, 240, 16, B_PLUS, (640, 10, 12), Plain),
    ("ViT-L-16", 768, 224, 16, L, (768, 12, 12), Plain),
    ("ViT-L-16-320", 768, 320, 16, L, (768, 12, 12), Plain),
    ("ViT-L-14", 768, 224, 14, L, (768, 12, 12), Plain),
    ("ViT-L-14-280", 768, 280, 14, L, (768, 12, 12), Plain),
    ("ViT-L-14-336", 768, 336, 14, L, (768, 12, 12), Plain),
    ("ViT-L-14-CLIPA", 768, 224, 14, L, (768, 12, 12), Clipa),
    ("ViT-L-14-CLIPA-336", 768, 336, 14, L, (768, 12, 12), Clipa),
    ("ViT-L-14-worldwide", 768, 224, 14, L, (768, 12, 12), Mt5),
    ("ViT-H-16", 1024, 224, 16, H, (1024, 16, 24), Plain),
    ("ViT-H-14", 1024, 224, 14, H, (1024, 16, 24), Plain),
    ("ViT-H-14-378", 1024, 378, 14, H, (1024, 16, 24), Plain),
    ("ViT-H-14-CLIPA", 1024, 224, 14, H, (1024, 16, 24), Clipa),
    ("ViT-H-14-CLIPA-336", 1024, 336, 14, H, (1024, 16, 24), Clipa),
    ("ViT-H-14-worldwide", 1024, 224, 14, H, (1024, 16, 24), XlmV),
    ("ViT-H-14-worldwide-378", 1024, 378, 14, H, (1024, 16, 24), XlmV),
    ("ViT-g-14", 1024, 224, 14, G, (1024, 16, 24), Plain),
    ("ViT-bigG-14", 1280, 224, 14, BIG_G, (1280, 20, 32), Plain),
    ("ViT-bigG-14-CLIPA", 1280, 224, 14, BIG_G, (1280, 20, 32), Clipa),
    ("ViT-bigG-14-CLIPA-336", 1280, 336, 14, BIG_G, (1280, 20, 32), Clipa),
    ("ViT-bigG-14-worldwide", 1280, 224, 14, BIG_G, (1280, 20, 32), XlmV),
    ("ViT-bigG-14-worldwide-378", 1280, 378, 14, BIG_G, (1280, 20, 32), XlmV),
    ("ViT-e-14", 1280, 224, 14, E, (1280, 20, 36), Plain),
];

/// Those of [`VITS`] that open_clip has with OpenAI's activation too, as `NAME-quickgelu`.
const QUICK: &[&str] = &[
    "ViT-B-32",
    "ViT-B-16",
    "ViT-L-14",
    "ViT-L-14-336",
    "ViT-L-14-worldwide",
    "ViT-H-14",
    "ViT-H-14-378",
    "ViT-H-14-worldwide",
    "ViT-bigG-14",
];

/// open_clip's ViTamins: name, width of the common space, timm's trunk, text tower.
const VITAMINS: &[(&str, usize, &str, Text)] = &[
    ("ViTamin-S", 384, "vitamin_small_224", (384, 6, 12)),
    ("ViTamin-S-LTT", 768, "vitamin_small_224", (768, 12, 12)),
    ("ViTamin-B", 512, "vitamin_base_224", (512, 8, 12)),
    ("ViTamin-B-LTT", 768, "vitamin_base_224", (768, 12, 12)),
    ("ViTamin-L", 768, "vitamin_large_224", (768, 12, 12)),
    ("ViTamin-L-256", 768, "vitamin_large_256", (768, 12, 12)),
    ("ViTamin-L-336", 768, "vitamin_large_336", (768, 12, 12)),
    ("ViTamin-L-384", 768, "vitamin_large_384", (768, 12, 12)),
    ("ViTamin-L2", 1024, "vitamin_large2_224", (1024, 16, 24)),
    ("ViTamin-L2-256", 1024, "vitamin_large2_256", (1024, 16, 24)),
    ("ViTamin-L2-336", 1024, "vitamin_large2_336", (1024, 16, 24)),
    ("ViTamin-L2-384", 1024, "vitamin_large2_384", (1024, 16, 24)),
    ("ViTamin-XL-256", 1152, "vitamin_xlarge_256", (1152, 16, 27)),
    ("ViTamin-XL-336", 1152, "vitamin_xlarge_336", (1152, 16, 27)),
    ("ViTamin-XL-384", 1152, "vitamin_xlarge_384", (1152, 16, 27)),
];

/// Small ones of our own, for CPUs and tests.
const SMALL: &[&str] = &["tiny-32", "tiny-64", "tiny-vitamin-32", "tiny-vitamin-64"];

/// All names, small ones first.
pub(super) fn names() -> impl Iterator<Item = String> {
    let vits = VITS.iter().flat_map(|row| {
        let quick = QUICK.contains(&row.0).then(|| format!("{}-quickgelu", row.0));
        std::iter::once(row.0.to_owned()).chain(quick)
    });
    let small = SMALL.iter().map(|name| (*name).to_owned());
    small.chain(vits).chain(VITAMINS.iter().map(|row| row.0.to_owned()))
}

/// The configuration of this name.
pub(super) fn json(name: &str) -> Option<Value> {
    if SMALL.contains(&name) {
        return small(name);
    }
    if let Some((_, embed_dim, trunk, body)) = VITAMINS.iter().find(|row| row.0 == name) {
        return Some(json!({
            "embed_dim": embed_dim,
            "vision_cfg": {"timm_model_name": trunk, "timm_drop_path": 0.1},
            "text_cfg": text(*body, Plain),
            "custom_text": true,
        }));
    }
    let plain = name.strip_suffix("-quickgelu");
    if plain.is_some_and(|plain| !QUICK.contains(&plain)) {
        return None;
    }
    let row = VITS.iter().find(|row| row.0 == plain.unwrap_or(name))?;
    let (_, embed_dim, image_size, patch_size, body, towers_text, family) = *row;
    let (width, layers, head_width, mlp_ratio) = body;
    let mut vision = json!({
        "image_size": image_size,
        "layers": layers,
        "width": width,
        "head_width": head_width,
        "patch_size": patch_size,
        "mlp_ratio": mlp_ratio,
    });
    match family {
        Scaled => vision["ls_init_value"] = json!(1e-4),
        Clipa => {
            vision["no_ln_pre"] = json!(true);
            vision["pool_type"] = json!("avg");
            vision["final_ln_after_pool"] = json!(true);
        }
        Plain | XlmV | Mt5 => {}
    }
    Some(json!({
        "embed_dim": embed_dim,
        "quick_gelu": plain.is_some(),
        "vision_cfg": vision,
        "text_cfg": text(towers_text, family),
    }))
}

fn text((width, heads, layers): Text, family: Family) -> Value {
    let mut text = json!({"width": width, "heads": heads, "layers": layers});
    let more = match family {
        Plain | Scaled => json!({"context_length": 77, "vocab_size": 49408}),
        Clipa => json!({
            "context_length": 32,
            "vocab_size": 32000,
            "hf_tokenizer_name": "bert-base-uncased",
            "tokenizer_kwargs": {"strip_sep_token": true},
            "pool_type": "last",
            "no_causal_mask": true,
        }),
        XlmV => json!({
            "vocab_size": 901_629,
            "hf_tokenizer_name": "facebook/xlm-v-base",
            "pool_type": "eos",
            "eos_id": 2,
        }),
        Mt5 => json!({
            "vocab_size": 250_100,
            "hf_tokenizer_name": "google/mt5-base",
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "pool_type": "eos",
            "eos_id": 1,
        }),
    };
    if let (Value::Object(text), Value::Object(more)) = (&mut text, more) {
        text.extend(more);
    }
    text
}

fn small(name: &str) -> Option<Value> {
    let vision = match name {
        "tiny-32" => {
            json!({"image_size": 32, "layers": 4, "width": 128, "head_width": 32, "patch_size": 8})
        }
        "tiny-64" => {
            json!({"image_size": 64, "layers": 4, "width": 128, "head_width": 32, "patch_size": 8})
        }
        "tiny-vitamin-32" | "tiny-vitamin-64" => json!({
            "image_size": if name.ends_with("32") { 32 } else { 64 },
            "vitamin": {
                "stem_width": 24, "embed_dim": [24, 48, 128], "depths": [1, 2, 3], "heads": 4,
            },
        }),
        _ => return None,
    };
    let custom = name.starts_with("tiny-vitamin");
    Some(json!({
        "embed_dim": 64,
        "vision_cfg": vision,
        "text_cfg": {
            "context_length": 32, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 2,
        },
        "custom_text": custom,
    }))
}
