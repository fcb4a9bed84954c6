//! Trains a tiny CLIP on coloured shapes and says where the time of a step goes.
//!
//! `cargo run --release -p clipmill-train --example toy [model] [batch] [steps]`

#[path = "../tests/common/shapes.rs"]
mod shapes;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use stage::{Context, Progress};
use train::{Job, TrainPlan};

struct Print(AtomicU64);

impl Progress for Print {
    fn update(&self, done: u64, total: u64, note: &str) {
        if self.0.fetch_add(1, Ordering::Relaxed) % 10 == 9 {
            eprintln!("step {done} of {total}: {note}");
        }
    }
}

fn main() -> stage::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().unwrap_or_else(|| "tiny-32".to_owned());
    let mut number = |default| arguments.next().and_then(|a| a.parse().ok()).unwrap_or(default);
    let (batch, steps) = (number(128), u64::from(number(50)));
    let plan = TrainPlan {
        model: Some(model),
        batch_size: Some(batch),
        steps: Some(steps),
        lr: Some(1e-3),
        ..TrainPlan::default()
    };
    let folder = std::env::temp_dir().join(format!("clipmill-toy-{}", std::process::id()));
    let output = store::Output::open(&folder.to_string_lossy())?;
    let stage = output.stage("train");
    let mut out = stage.begin("all")?;
    let data = shapes::Shapes::new(1000, 72);
    let cx = Context { progress: Arc::new(Print(AtomicU64::new(0))), ..Context::default() };
    let started = Instant::now();
    let outcome = train::run(Job::new(&plan, &data), &stage.work_dir()?, &mut out, &cx)?;
    let all = started.elapsed().as_secs_f64();
    eprintln!(
        "{steps} steps of {batch}: {:.1} ms a step, {:.0} samples/s, {:.1} % waiting for data, {all:.2} s in all",
        outcome.seconds * 1e3 / steps as f64,
        outcome.samples_per_second,
        outcome.data_share * 100.0,
    );
    drop(out);
    let _left_behind = std::fs::remove_dir_all(folder);
    Ok(())
}
