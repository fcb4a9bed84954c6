//! Times the image tower: pictures a second without gradient, and the share of the machine's peak
//! in matrix products.
//!
//! `cargo run --release -p clipmill-models --example embed -- [config,...] [batch] [passes] [bf16]`

use std::time::Instant;

use candle_core::{Device, Tensor};
use models::{Clip, ClipConfig, Mode, count};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    kernels::keep_freed_memory();
    let mut args = std::env::args().skip(1);
    let names = args.next().unwrap_or_else(|| "ViT-B-32,ViTamin-S".to_owned());
    let batch: usize = args.next().map_or(Ok(16), |v| v.parse())?;
    let passes: usize = args.next().map_or(Ok(8), |v| v.parse())?;
    let half = args.next().is_some_and(|v| v == "bf16");
    let kind = if half { "bf16 weights" } else { "f32" };
    for name in names.split(',') {
        let config = ClipConfig::named(name)?;
        let clip = Clip::init(&config, &[], 0, &Device::Cpu)?;
        let clip = if half { clip.with_half_weights()? } else { clip.with_packed_weights()? };
        let side = config.image_size() as usize;
        let pixels = Tensor::randn(0f32, 1f32, (batch, 3, side, side), &Device::Cpu)?;
        let mut times = Vec::new();
        for pass in 0..passes + 2 {
            let start = Instant::now();
            clip.encode_image(&pixels, Mode::Eval)?;
            if pass >= 2 {
                times.push(start.elapsed().as_secs_f64());
            }
        }
        times.sort_unstable_by(f64::total_cmp);
        let median = times[times.len() / 2];
        let flops = count::image(&config).flops() as f64 * batch as f64;
        eprintln!(
            "clipmill {name} fwd {kind} batch {batch}: {:.1} samples/s, {:.1} ms, {:.1} GFLOP/s",
            batch as f64 / median,
            median * 1e3,
            flops / median / 1e9
        );
    }
    Ok(())
}
