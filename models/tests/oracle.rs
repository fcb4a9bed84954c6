//! candle-transformers' CLIP on our weights: a third forward pass, by other hands.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::clip::text_model::{Activation, ClipTextConfig};
use candle_transformers::models::clip::vision_model::ClipVisionConfig;
use candle_transformers::models::clip::{ClipConfig as TheirConfig, ClipModel};
use models::{Clip, ClipConfig, Mode};

/// Our tensors under Hugging Face's names, packed matrices cut in three.
fn their_names(clip: &Clip) -> HashMap<String, Tensor> {
    let mut out = HashMap::new();
    for (name, tensor) in clip.params().tensors() {
        let (tower, rest) = match name.strip_prefix("visual.") {
            Some(rest) => ("vision_model", rest),
            None => ("text_model", name.as_str()),
        };
        let mut put = |to: &str, t: Tensor| out.insert(format!("{tower}.{to}"), t);
        if let Some(rest) = rest.strip_prefix("transformer.resblocks.") {
            let (layer, rest) = rest.split_once('.').unwrap();
            let at = format!("encoder.layers.{layer}");
            if let Some(kind) = rest.strip_prefix("attn.in_proj_") {
                for (part, which) in tensor.chunk(3, 0).unwrap().into_iter().zip(["q", "k", "v"]) {
                    put(&format!("{at}.self_attn.{which}_proj.{kind}"), part.contiguous().unwrap());
                }
                continue;
            }
            let rest = rest
                .replace("attn.out_proj", "self_attn.out_proj")
                .replace("ln_", "layer_norm")
                .replace("c_fc", "fc1")
                .replace("c_proj", "fc2");
            put(&format!("{at}.{rest}"), tensor);
            continue;
        }
        let to = match rest {
            "class_embedding" => "embeddings.class_embedding".to_owned(),
            "positional_embedding" => "embeddings.position_embedding.weight".to_owned(),
            "conv1.weight" => "embeddings.patch_embedding.weight".to_owned(),
            "token_embedding.weight" => "embeddings.token_embedding.weight".to_owned(),
            "proj" | "text_projection" => {
                let to = if rest == "proj" { "visual_projection" } else { "text_projection" };
                out.insert(format!("{to}.weight"), tensor.t().unwrap().contiguous().unwrap());
                continue;
            }
            "logit_scale" => {
                out.insert("logit_scale".to_owned(), tensor);
                continue;
            }
            other => other
                .replace("ln_pre", "pre_layrnorm")
                .replace("ln_post", "post_layernorm")
                .replace("ln_final", "final_layer_norm"),
        };
        put(&to, tensor);
    }
    out
}

#[test]
fn candle_transformers_gives_the_same_features() {
    let config = ClipConfig::from_json(&serde_json::json!({
        "embed_dim": 24,
        "quick_gelu": true,
        "vision_cfg": {"image_size": 24, "layers": 3, "width": 32, "patch_size": 8, "head_width": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 64, "width": 24, "heads": 3, "layers": 2}
    }))
    .unwrap();
    let clip = Clip::init(&config, &[], 11, &Device::Cpu).unwrap();
    let theirs = TheirConfig {
        text_config: ClipTextConfig {
            vocab_size: 64,
            embed_dim: 24,
            activation: Activation::QuickGelu,
            intermediate_size: 96,
            max_position_embeddings: 16,
            pad_with: None,
            num_hidden_layers: 2,
            num_attention_heads: 3,
            projection_dim: 24,
        },
        vision_config: ClipVisionConfig {
            embed_dim: 32,
            activation: Activation::QuickGelu,
            intermediate_size: 128,
            num_hidden_layers: 3,
            num_attention_heads: 4,
            projection_dim: 24,
            num_channels: 3,
            image_size: 24,
            patch_size: 8,
        },
        logit_scale_init_value: 2.6592,
        image_size: 24,
    };
    let builder = VarBuilder::from_tensors(their_names(&clip), DType::F32, &Device::Cpu);
    let model = ClipModel::new(builder, &theirs).unwrap();
    let pixels: Vec<f32> =
        (0..5 * 3 * 24 * 24).map(|i| (i * 31 % 97) as f32 / 40.0 - 1.2).collect();
    let pixels = Tensor::from_vec(pixels, (5, 3, 24, 24), &Device::Cpu).unwrap();
    let tokens: Vec<u32> = (0..5 * 16u32)
        .map(|i| match (i % 16, 3 + i / 16 * 3) {
            (0, _) => 62,
            (place, end) if place == end => 63,
            (place, end) if place > end => 0,
            _ => i * 7 % 61,
        })
        .collect();
    let tokens = Tensor::from_vec(tokens, (5, 16), &Device::Cpu).unwrap();
    let worst = |a: Tensor, b: Tensor| {
        (a - b)
            .unwrap()
            .abs()
            .unwrap()
            .flatten_all()
            .unwrap()
            .max(0)
            .unwrap()
            .to_scalar::<f32>()
            .unwrap()
    };
    let image = clip.encode_image(&pixels, Mode::Eval).unwrap();
    assert!(worst(image, model.get_image_features(&pixels).unwrap()) < 1e-5);
    let text = clip.encode_text(&tokens, Mode::Eval).unwrap();
    assert!(worst(text, model.get_text_features(&tokens).unwrap()) < 1e-5);
}
