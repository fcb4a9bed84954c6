//! How near a resize from means comes to one from all pixels, over a folder of JPEGs.
//!
//! `cargo run --release -p clipmill-pixels --example means -- FOLDER`
//!
//! For the shorter side made 2 to 24 times smaller: PSNR of [`decode_resized`] against decode and
//! area resize, by how many means fall on a pixel of the output.
#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use pixels::Limits;
use pixels::img2dataset::{Means, Mode, decode_resized};

fn psnr(a: &[u8], b: &[u8]) -> f64 {
    let squares: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum();
    if squares == 0.0 { 99.0 } else { 10.0 * (255.0 * 255.0 * a.len() as f64 / squares).log10() }
}

fn main() -> std::io::Result<()> {
    let folder = std::env::args().nth(1).map_or_else(|| PathBuf::from("."), PathBuf::from);
    let limits = Limits::default();
    // By (block, means on a pixel in quarters): dB of every picture.
    let mut found: BTreeMap<(u32, u32), Vec<f64>> = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let bytes = std::fs::read(entry?.path())?;
        let Ok(header) = pixels::probe(&bytes, &limits) else { continue };
        let short = header.width.min(header.height);
        let to = |size: u32, on_a_pixel: f64| {
            let means = Means { on_a_pixel, least_pixels: 0 };
            decode_resized(&bytes, &limits, size, Mode::KeepRatio, false, means)
        };
        for size in (short / 24).max(8)..=short / 2 {
            let ratio = f64::from(short) / f64::from(size);
            let Ok((whole, _)) = to(size, f64::INFINITY) else { continue };
            for by in [2, 4, 8] {
                let means = ratio / f64::from(by);
                // Both sides are rounded: the exact ratio of the other may be a little less.
                let Ok((small, _)) = to(size, means * 0.98) else { continue };
                if (1.0..6.0).contains(&means) {
                    let value = psnr(&whole.rgb, &small.rgb);
                    found.entry((by, (means * 4.0) as u32)).or_default().push(value);
                }
            }
        }
    }
    println!("block  means a pixel  pictures  least dB  mean dB");
    for ((by, quarters), values) in found {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let from = f64::from(quarters) / 4.0;
        println!("{by:5}  {from:13.2}  {:8}  {least:8.1}  {mean:7.1}", values.len());
    }
    Ok(())
}
