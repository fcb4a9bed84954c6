//! Scores of made-up pictures by a classifier with timm's weights, for comparison with timm:
//! `classify NAME WEIGHTS OUT.f32 [BATCH]`.
//!
//! Pixel i of the batch `[B, 3, S, S]` is `(i * 7919 mod 2048) / 1024 - 1`. `OUT.f32` holds the
//! scores. The best of three passes goes to stderr.

use std::path::Path;
use std::time::Instant;

use candle_core::{Device, Tensor};
use models::{Mode, Swin, SwinConfig, VitClassifier, VitClassifierConfig, Weights};
use stage::{Error, Result, ResultExt};

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let ([name, weights, out], batch) = match words.as_slice() {
        [name, weights, out] => ([name, weights, out], 4),
        [name, weights, out, batch] => {
            ([name, weights, out], batch.parse().map_err(|_| Error::recipe("BATCH is a number"))?)
        }
        _ => return Err(Error::recipe("classify NAME WEIGHTS OUT.f32 [BATCH]")),
    };
    let weights = Weights::open(Path::new(weights))?;
    eprintln!("{}", weights.summary());
    let (side, model) = if name.starts_with("swin") {
        let config = SwinConfig::named(name)?;
        let tensors = weights.tensors(config.parameters())?;
        (config.img_size, Model::Swin(Swin::from_tensors(&config, tensors, &Device::Cpu)?))
    } else {
        let config = VitClassifierConfig::named(name)?;
        let tensors = weights.tensors(config.parameters())?;
        (
            config.img_size,
            Model::VitClassifier(VitClassifier::from_tensors(&config, tensors, &Device::Cpu)?),
        )
    };
    let count = batch * 3 * side * side;
    let pixels: Vec<f32> = (0..count).map(|i| (i * 7919 % 2048) as f32 / 1024.0 - 1.0).collect();
    let pixels = Tensor::from_vec(pixels, (batch, 3, side, side), &Device::Cpu).model("pixels")?;
    let mut best = f64::INFINITY;
    let mut bytes = Vec::new();
    for _ in 0..3 {
        let start = Instant::now();
        let logits = match &model {
            Model::Swin(swin) => swin.logits(&pixels, Mode::Eval)?,
            Model::VitClassifier(vit) => vit.logits(&pixels, Mode::Eval)?,
        };
        let values: Vec<f32> =
            logits.flatten_all().and_then(|logits| logits.to_vec1()).model("scores")?;
        best = best.min(start.elapsed().as_secs_f64());
        bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    }
    eprintln!("{:.1} pictures a second in batches of {batch}", batch as f64 / best);
    std::fs::write(out, bytes).store("cannot write the scores")
}

enum Model {
    Swin(Swin),
    VitClassifier(VitClassifier),
}
