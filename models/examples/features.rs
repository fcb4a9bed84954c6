//! Features of made-up pictures and captions, for comparison with open_clip on the same checkpoint:
//! `features CHECKPOINT_FOLDER OUT.f32`, or `features WEIGHTS OUT.f32 MODEL` for bare weights.
//!
//! Pixel i of the batch `[4, 3, S, S]` is `(i * 7919 mod 2048) / 1024 - 1`; the captions are the
//! four of `CAPTIONS`. `OUT.f32` holds the image features, then the text features, each `[4, D]`.

use std::path::Path;

use candle_core::{Device, Tensor};
use models::{Clip, Mode, Tokenizer};
use stage::{Error, Result, ResultExt};

const CAPTIONS: [&str; 4] =
    ["a photo of a cat", "", "two dogs on a beach, at sunset", "Überraschung 🎉 1234"];

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (checkpoint, out, model) = match words.as_slice() {
        [checkpoint, out] => (checkpoint, out, None),
        [weights, out, model] => (weights, out, Some(model)),
        _ => {
            return Err(Error::recipe(
                "features CHECKPOINT_FOLDER OUT.f32, or WEIGHTS OUT.f32 MODEL",
            ));
        }
    };
    let path = Path::new(checkpoint);
    let clip = match model {
        Some(model) => {
            eprintln!("{}", models::Weights::open(path)?.summary());
            models::open_weights(path, model, &Device::Cpu)?
        }
        None => {
            let handle = models::read_checkpoint(path)?;
            eprintln!("{}", handle.lineage.get("tensors").map_or("", String::as_str));
            models::open(&handle, path, &Device::Cpu)?
        }
    };
    let bytes = features(&clip).internal("features")?;
    std::fs::write(out, bytes).store("cannot write the features")
}

fn features(clip: &Clip) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    let side = clip.config().image_size() as usize;
    let count = CAPTIONS.len() * 3 * side * side;
    let pixels: Vec<f32> = (0..count).map(|i| (i * 7919 % 2048) as f32 / 1024.0 - 1.0).collect();
    let pixels = Tensor::from_vec(pixels, (CAPTIONS.len(), 3, side, side), &Device::Cpu)?;
    let context = clip.config().context_length();
    let tokenizer = Tokenizer::clip();
    let tokens: Vec<u32> =
        CAPTIONS.iter().flat_map(|caption| tokenizer.context(caption, context)).collect();
    let tokens = Tensor::from_vec(tokens, (CAPTIONS.len(), context), &Device::Cpu)?;
    let mut bytes = Vec::new();
    for features in
        [clip.encode_image(&pixels, Mode::Eval)?, clip.encode_text(&tokens, Mode::Eval)?]
    {
        for value in features.flatten_all()?.to_vec1::<f32>()? {
            bytes.extend(value.to_le_bytes());
        }
    }
    Ok(bytes)
}
