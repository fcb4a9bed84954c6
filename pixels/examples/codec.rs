//! Best milliseconds a picture for decode, resize and encode, one thread, over a folder of JPEGs.
//!
//! `cargo run --release -p clipmill-pixels --example codec -- FOLDER [--image_size 256]
//! [--mode keep_ratio] [--quality 95] [--rounds 9] [--write OUT]`
//!
//! Prints one line of JSON: means over the pictures of each one's best round. `scaled_ms` is decode
//! and resize together, large pictures decoded at a smaller scale. With `--write`, the
//! resized pixels (`.ppm`) and the encoded files (`.jpg`) are left in OUT for a comparison.
#![allow(clippy::print_stdout)]

use std::fs;
use std::hint::black_box;
use std::io::{Error, ErrorKind, Result};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pixels::img2dataset::{Means, Mode, decode_resized, resize};
use pixels::{Limits, decode, encode_jpeg};

struct Options {
    folder: PathBuf,
    image_size: u32,
    mode: Mode,
    quality: u8,
    rounds: u32,
    write: Option<PathBuf>,
}

fn wrong(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidInput, what.to_string())
}

fn options() -> Result<Options> {
    let mut folder = None;
    let (mut image_size, mut mode, mut quality, mut rounds, mut write) =
        (256, Mode::KeepRatio, 95, 9, None);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        if !arg.starts_with("--") {
            folder = Some(PathBuf::from(arg));
            continue;
        }
        let value = args.next().ok_or_else(|| wrong(format!("{arg} needs a value")))?;
        match arg.as_str() {
            "--image_size" => image_size = value.parse().map_err(wrong)?,
            "--mode" => mode = serde_json::from_value(value.into())?,
            "--quality" => quality = value.parse().map_err(wrong)?,
            "--rounds" => rounds = value.parse().map_err(wrong)?,
            "--write" => write = Some(PathBuf::from(value)),
            _ => return Err(wrong(format!("{arg} is not known"))),
        }
    }
    let folder = folder.ok_or_else(|| wrong("name a folder of JPEG files"))?;
    Ok(Options { folder, image_size, mode, quality, rounds, write })
}

fn best<T>(rounds: u32, mut work: impl FnMut() -> T) -> f64 {
    let mut best = Duration::MAX;
    for _ in 0..rounds {
        let begun = Instant::now();
        black_box(work());
        best = best.min(begun.elapsed());
    }
    best.as_secs_f64() * 1e3
}

fn main() -> Result<()> {
    let Options { folder, image_size, mode, quality, rounds, write } = options()?;
    let mut paths: Vec<PathBuf> =
        fs::read_dir(&folder)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "jpg"));
    paths.sort();
    if paths.is_empty() {
        return Err(wrong(format!("no .jpg in {}", folder.display())));
    }

    let limits = Limits::default();
    let mut ms = [0.0; 4];
    let (mut pixels_in, mut pixels_out, mut bytes_in, mut bytes_out) = (0, 0, 0, 0);
    for path in &paths {
        let refused = |refused: pixels::Refused| wrong(format!("{}: {refused}", path.display()));
        let file = fs::read(path)?;
        let picture = decode(&file, &limits).map_err(refused)?;
        let small = resize(&picture, image_size, mode, false).map_err(refused)?;
        let jpeg = encode_jpeg(&small, quality);
        ms[0] += best(rounds, || decode(&file, &limits));
        ms[1] += best(rounds, || resize(&picture, image_size, mode, false));
        ms[2] += best(rounds, || encode_jpeg(&small, quality));
        let scaled = || decode_resized(&file, &limits, image_size, mode, false, Means::LARGE);
        ms[3] += best(rounds, scaled);
        pixels_in += picture.rgb.len() / 3;
        pixels_out += small.rgb.len() / 3;
        bytes_in += file.len();
        bytes_out += jpeg.len();
        if let Some(out) = &write {
            fs::create_dir_all(out)?;
            let out = out.join(path.file_name().unwrap_or_default());
            let mut ppm = format!("P6\n{} {}\n255\n", small.width, small.height).into_bytes();
            ppm.extend(&small.rgb);
            fs::write(out.with_extension("ppm"), ppm)?;
            fs::write(out, jpeg)?;
        }
    }
    let [decode, resize, encode, scaled] = ms.map(|ms| ms / paths.len() as f64);
    let report = serde_json::json!({
        "pictures": paths.len(),
        "decode_ms": decode, "resize_ms": resize, "encode_ms": encode, "scaled_ms": scaled,
        "pixels_in": pixels_in, "pixels_out": pixels_out,
        "bytes_in": bytes_in, "bytes_out": bytes_out,
    });
    println!("{report}");
    Ok(())
}
