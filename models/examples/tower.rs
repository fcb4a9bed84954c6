//! Times the image tower on given weights and pictures and writes its features, for
//! `bench/embed_vs_onnxruntime.py`.
//!
//! `cargo run --release -p clipmill-models --example tower -- MODEL WEIGHTS.safetensors
//! PIXELS.safetensors OUT.f32 PASSES [bf16]`; the pictures are the tensor `pixels`, (B, 3, S, S).

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use candle_core::Device;
use models::{Mode, open_weights};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    kernels::keep_freed_memory();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, weights, pixels, out, passes, rest @ ..] = args.as_slice() else {
        return Err("MODEL WEIGHTS PIXELS OUT PASSES [bf16]".into());
    };
    let clip = open_weights(Path::new(weights), model, &Device::Cpu)?;
    let clip = match rest.first().map(String::as_str) {
        Some("bf16") => clip.with_half_weights()?,
        _ => clip.with_packed_weights()?,
    };
    let pixels = candle_core::safetensors::load(Path::new(pixels), &Device::Cpu)?;
    let Some(pixels) = pixels.get("pixels") else { return Err("no tensor `pixels`".into()) };
    let bytes: Vec<u8> = clip
        .encode_image(pixels, Mode::Eval)?
        .flatten_all()?
        .to_vec1::<f32>()?
        .into_iter()
        .flat_map(f32::to_le_bytes)
        .collect();
    std::fs::write(out, bytes)?;
    let mut seconds = Vec::new();
    for _ in 0..passes.parse::<usize>()? {
        let start = Instant::now();
        clip.encode_image(pixels, Mode::Eval)?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    writeln!(std::io::stdout(), "{seconds:?}")?;
    Ok(())
}
