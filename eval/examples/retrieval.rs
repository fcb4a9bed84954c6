//! How long recall@1, 5 and 10 of N pairs take, and how much memory:
//! `cargo run --release -p clipmill-eval --example retrieval -- 100000 512`.

use std::time::Instant;

use eval::matrix::Matrix;
use eval::retrieval::retrieve;
use stage::{Cancel, Dice};

fn main() -> Result<(), stage::Error> {
    let mut arguments = std::env::args().skip(1).filter_map(|a| a.parse::<usize>().ok());
    let (pairs, width) = (arguments.next().unwrap_or(10_000), arguments.next().unwrap_or(512));
    let mut dice = Dice::new(0);
    let mut row = |near: Option<&[f32]>| -> Vec<f32> {
        let noise = (0..width).map(|_| dice.unit() as f32 - 0.5);
        match near {
            Some(near) => near.iter().zip(noise).map(|(v, n)| v + 0.15 * n).collect(),
            None => noise.collect(),
        }
    };
    let (mut images, mut texts) = (Matrix::default(), Matrix::default());
    for i in 0..pairs {
        images.push_normalized(&row(None));
        texts.push_normalized(&row(Some(images.row(i))));
    }
    let started = Instant::now();
    let owners = (0..pairs as u32).collect();
    let found = retrieve(&images, &texts, owners, 10, &Cancel::default())?;
    let seconds = started.elapsed().as_secs_f64();
    let ones = vec![1; pairs];
    for measure in found.measures(&[1, 5, 10]) {
        eprintln!("{} {:.4}", measure.name, measure.value(&ones).unwrap_or(f64::NAN));
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("VmHWM unknown");
    eprintln!("{pairs} pairs of {width}: {seconds:.1} s, {peak}");
    Ok(())
}
