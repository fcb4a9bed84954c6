//! Times a training step (both towers, loss, backward) and says where the time goes.
//!
//! `cargo run --release -p clipmill-models --example step -- [config] [batch] [steps] [idle ratio or -]
//! [words of a caption] [dense]`

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use models::{Clip, ClipConfig, Mode, normalize};
use stage::Change;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    kernels::keep_freed_memory();
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_else(|| "tiny-32".to_owned());
    let batch: usize = args.next().map_or(Ok(128), |v| v.parse())?;
    let steps: usize = args.next().map_or(Ok(20), |v| v.parse())?;
    let ratio: Option<f64> = args.next().filter(|v| v != "-").map(|v| v.parse()).transpose()?;
    let words: u32 = args.next().map_or(Ok(12), |v| v.parse())?;
    let sparse = args.next().is_none_or(|v| v != "dense");
    let changes: Vec<Change> =
        ratio.map(|ratio| Change::IdleChannels { ratio }).into_iter().collect();
    let config = ClipConfig::named(&name)?;
    let clip = Clip::init(&config, &changes, 0, &Device::Cpu)?;
    let side = config.image_size() as usize;
    let pixels = Tensor::randn(0f32, 1f32, (batch, 3, side, side), &Device::Cpu)?;
    // Captions of 1 to 2·words words.
    let context = config.context_length();
    let tokens: Vec<u32> = (0..batch as u32)
        .flat_map(|i| {
            let length = (2 + i * 7 % (2 * words)).min(context as u32 - 1);
            (0..context as u32).map(move |j| match j {
                0 => 49406,
                j if j < length => 300 + (i * 31 + j * 17) % 4000,
                j if j == length => 49407,
                _ => 0,
            })
        })
        .collect();
    let tokens = Tensor::from_vec(tokens, (batch, context), &Device::Cpu)?;
    let targets = Tensor::arange(0u32, batch as u32, &Device::Cpu)?;
    let means: Vec<_> = clip
        .params()
        .vars()
        .values()
        .map(|v| {
            let zero = || candle_core::Var::zeros(v.dims(), DType::F32, &Device::Cpu);
            Ok((zero()?, zero()?))
        })
        .collect::<candle_core::Result<_>>()?;
    let mut times = [0.0; 5];
    let mut best = f64::INFINITY;
    for step in 0..steps + 2 {
        let mut clock = Instant::now();
        let mut lap = |i: usize| {
            if step >= 2 {
                times[i] += clock.elapsed().as_secs_f64();
            }
            clock = Instant::now();
        };
        let start = Instant::now();
        let image = normalize(&clip.encode_image(&pixels, Mode::Train)?)?;
        lap(0);
        let text = match sparse {
            true => clip.encode_text_rows(&tokens)?.0,
            false => clip.encode_text(&tokens, Mode::Train)?,
        };
        let text = normalize(&text)?;
        lap(1);
        let logits = image.matmul(&text.t()?)?.broadcast_mul(&clip.logit_scale().exp()?)?;
        let there = kernels::cross_entropy(&logits, &targets)?;
        let loss = ((there + kernels::cross_entropy(&logits.t()?, &targets)?)? * 0.5)?;
        lap(2);
        let grads = loss.backward()?;
        lap(3);
        best = if step >= 2 { start.elapsed().as_secs_f64().min(best) } else { best };
        let settings = kernels::AdamW {
            lr: 1e-4,
            beta1: 0.9,
            beta2: 0.98,
            eps: 1e-6,
            weight_decay: 0.2,
            step: step as u64 + 1,
        };
        for (var, (m, v)) in clip.params().vars().values().zip(&means) {
            if let Some(grad) = grads.get(var) {
                kernels::adamw_step(var, grad, m, v, &settings)?;
            }
        }
        drop(grads);
        lap(4);
        if step == steps + 1 {
            let ms = |t: f64| t / steps as f64 * 1e3;
            eprintln!(
                "{name}, batch {batch}: image {:.1} ms, text {:.1}, loss {:.1}, backward {:.1}, AdamW {:.1}; \
                 step without AdamW {:.1} (best {:.1}), loss {:.4}",
                ms(times[0]),
                ms(times[1]),
                ms(times[2]),
                ms(times[3]),
                ms(times[4]),
                ms(times[..4].iter().sum()),
                best * 1e3,
                loss.to_scalar::<f32>()?
            );
        }
    }
    Ok(())
}
