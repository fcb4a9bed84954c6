//! What becomes of each picture below a folder: one line of JSON a file.
//!
//! `cargo run --release -p clipmill-pixels --example verdicts -- FOLDER > ours.jsonl`
//!
//! Fields: `file`, `ok`, then `size`, `format` and `rgb_sha256` (first 16 hex digits) or `reason`
//! and `detail`; `ms`, and `peak_kib`: the process's peak of resident memory while that file was
//! decoded, where the system lets it be reset. `bench/interop/torture_verdicts.py` lays the lines
//! beside other decoders' verdicts.
#![allow(clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::time::Instant;

use pixels::{Format, Limits, decode_rgb_first};
use serde_json::json;
use sha2::{Digest, Sha256};

/// The aspect cap is about what a recipe wants, not about what can be decoded.
const LIMITS: Limits =
    Limits { max_side: 16_384, max_pixels: 40_000_000, max_aspect: 1e9, max_scans: 20 };

fn main() -> std::io::Result<()> {
    let Some(root) = std::env::args().nth(1).map(PathBuf::from) else {
        eprintln!("give a folder");
        std::process::exit(2);
    };
    for path in files(&root)? {
        let bytes = std::fs::read(&path)?;
        let file = path.strip_prefix(&root).unwrap_or(&path).display().to_string();
        reset_peak();
        let began = Instant::now();
        let decoded = decode_rgb_first(&bytes, &LIMITS);
        let ms = began.elapsed().as_secs_f64() * 1000.0;
        let peak = peak_kib();
        let line = match decoded {
            Ok(picture) => {
                let digest = Sha256::digest(&picture.rgb);
                let first = digest[..8].iter().fold(0_u64, |sum, &byte| sum << 8 | u64::from(byte));
                let format = Format::sniff(&bytes).map(Format::extension);
                let size = [picture.width, picture.height];
                json!({"file": file, "ok": true, "size": size, "format": format,
                       "rgb_sha256": format!("{first:016x}"), "ms": ms, "peak_kib": peak})
            }
            Err(refused) => json!({"file": file, "ok": false, "reason": refused.reason,
                                   "detail": refused.detail, "ms": ms, "peak_kib": peak}),
        };
        println!("{line}");
    }
    Ok(())
}

/// Every file below a folder, in order of its name, but those that describe the others.
fn files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let other = path.extension().is_some_and(|e| e == "md" || e == "json");
        if path.is_dir() {
            found.extend(files(&path)?);
        } else if !other {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Lets the peak begin again at what is in memory now (Linux; elsewhere nothing).
fn reset_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

fn peak_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}
