//! Whole training steps (both towers, loss, backward, norm, AdamW) on one batch, for
//! `bench/train_step_vs_open_clip.py`: prints losses and seconds of each step as JSON.
//!
//! `cargo run --release -p clipmill-train --example train_step -- MODEL WEIGHTS.safetensors
//! BATCH.safetensors STEPS [recompute] [bf16]`; the batch holds `pixels` (B, 3, S, S) f32 and `tokens`
//! (B, N) u32.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use models::{Clip, ClipConfig};
use train::adamw::Constants;
use train::decay::Rule;
use train::schedule::{Cooldown, Schedule, Shape};
use train::trainer::{Batch, Choices, Trainer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    kernels::keep_freed_memory();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, weights, batch, steps, rest @ ..] = args.as_slice() else {
        return Err("MODEL WEIGHTS BATCH STEPS [recompute] [bf16] [cuda]".into());
    };
    let steps: u64 = steps.parse()?;
    let load = |path: &str| -> candle_core::Result<BTreeMap<String, Tensor>> {
        Ok(candle_core::safetensors::load(Path::new(path), &Device::Cpu)?.into_iter().collect())
    };
    let device = models::device(match rest.iter().any(|word| word == "cuda") {
        true => stage::Device::Cuda(None),
        false => stage::Device::Cpu,
    })?;
    let clip = Clip::from_tensors(&ClipConfig::named(model)?, &[], load(weights)?, &device)?;
    let inputs = load(batch)?;
    let batch = Batch {
        pixels: inputs["pixels"].to_device(&device)?,
        tokens: inputs["tokens"].to_dtype(DType::U32)?,
        uids: Vec::new(),
    };
    let constants = Constants { beta1: 0.9, beta2: 0.98, eps: 1e-6, wd: 0.2 };
    let cooldown = Cooldown::default();
    let schedule = Schedule { shape: Shape::Const, lr: 1e-5, warmup: 0, steps, cooldown };
    let choices = Choices {
        recompute: rest.iter().any(|word| word == "recompute"),
        products: match rest.iter().any(|word| word == "bf16") {
            true => kernels::Products::Bf16,
            false => kernels::Products::F32,
        },
        ..Choices::plain(constants, schedule)
    };
    let mut trainer = Trainer::new(clip, choices, |name, dims| Rule::Legacy.decays(name, dims))?;
    let (mut losses, mut seconds) = (Vec::new(), Vec::new());
    for step in 0..steps {
        let start = Instant::now();
        let done = trainer.step(step, std::slice::from_ref(&batch))?;
        seconds.push(start.elapsed().as_secs_f64());
        losses.push(done.loss);
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).map(str::trim);
    let row = serde_json::json!({"losses": losses, "seconds": seconds, "peak": peak});
    writeln!(std::io::stdout(), "{row}")?;
    Ok(())
}
