//! Milliseconds a picture for decode, resize, encode and CLIP preprocessing, one thread.
//!
//! `cargo run --release -p clipmill-pixels --example speed`
#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use pixels::img2dataset::{Mode, resize};
use pixels::{
    Limits, Picture, clip_pixels, decode, encode_jpeg, encode_png, encode_webp, normalize,
    random_resized_crop,
};

fn main() {
    let picture = photo(512, 400);
    let limits = Limits::default();
    let jpeg = encode_jpeg(&picture, 90);
    let png = encode_png(&picture, 6);
    let webp = encode_webp(&picture);
    let gigantic = photo(2048, 1600);
    let big = encode_jpeg(&gigantic, 90);
    let crop = clip_pixels(&picture, 224, "shortest");
    println!("512x400 RGB: jpeg {}, png {}, webp {} bytes", jpeg.len(), png.len(), webp.len());
    time("decode jpeg", || decode(&jpeg, &limits));
    time("decode jpeg 2048x1600", || decode(&big, &limits));
    time("decode png", || decode(&png, &limits));
    time("decode webp lossless", || decode(&webp, &limits));
    time("resize to 256 keep_ratio (area)", || resize(&picture, 256, Mode::KeepRatio, true));
    time("resize 2048x1600 to 512 (area)", || resize(&gigantic, 512, Mode::KeepRatioLargest, true));
    time("resize 2048x1600 to 500 (area)", || resize(&gigantic, 500, Mode::KeepRatioLargest, true));
    time("resize to 600 keep_ratio (lanczos)", || resize(&picture, 600, Mode::KeepRatio, false));
    let small = resize(&picture, 256, Mode::KeepRatio, true).expect("a small picture");
    time("encode jpeg 328x256 quality 95", || encode_jpeg(&small, 95));
    time("encode jpeg 512x400 quality 95", || encode_jpeg(&picture, 95));
    time("encode png 328x256", || encode_png(&small, 6));
    time("encode webp 328x256", || encode_webp(&small));
    time("clip_pixels 224 shortest", || clip_pixels(&picture, 224, "shortest"));
    time("clip_pixels 224 of 2048x1600", || clip_pixels(&gigantic, 224, "shortest"));
    time("clip_pixels 224 of 328x256", || clip_pixels(&small, 224, "shortest"));
    time("random_resized_crop 224", || {
        random_resized_crop(&picture, 224, (0.9, 1.0), (0.75, 4.0 / 3.0), 1)
    });
    time("normalize 224", || normalize(&crop, 224, [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]));
}

/// Soft gradients and edges under noise of a few levels, from a fixed generator.
fn photo(width: u32, height: u32) -> Picture {
    let mut state = 1_u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state >> 24) / 255.0 - 0.5
    };
    let mut rgb = Vec::new();
    for y in 0..height {
        for x in 0..width {
            let (u, v) = (f64::from(x) / f64::from(width), f64::from(y) / f64::from(height));
            let stripe = if (u * 9.0 + v * 5.0).fract() < 0.4 { 40.0 } else { 0.0 };
            for phase in [0.0, 2.0, 4.0] {
                let base = 120.0 + 90.0 * (u * 6.0 + phase).sin() * (v * 5.0 + phase).cos();
                rgb.push((base + stripe + 16.0 * noise()).clamp(0.0, 255.0) as u8);
            }
        }
    }
    Picture { width, height, rgb }
}

fn time<T>(what: &str, mut work: impl FnMut() -> T) {
    let begun = Instant::now();
    let mut best = Duration::MAX;
    let mut rounds = 0;
    while rounds < 5 || begun.elapsed() < Duration::from_millis(400) {
        let round = Instant::now();
        black_box(work());
        best = best.min(round.elapsed());
        rounds += 1;
    }
    let mean = begun.elapsed().as_secs_f64() * 1e3 / f64::from(rounds);
    println!("{what:38} {mean:8.3} ms mean, {:8.3} ms best", best.as_secs_f64() * 1e3);
}
