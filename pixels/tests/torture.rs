//! 956 awkward and broken files: no crash, no hang, little memory, and our verdicts beside Pillow's
//! and OpenCV's.

mod shared_data;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pixels::{Limits, Picture, Refused, decode, decode_rgb_first, probe};
use serde_json::Value;
use sha2::{Digest, Sha256};
use shared_data::shared;

/// The aspect cap is about what a recipe wants, not about what can be decoded.
const LIMITS: Limits =
    Limits { max_side: 16_384, max_pixels: 40_000_000, max_aspect: 1e9, max_scans: 20 };

/// The first 16 hex digits of the sha256.
fn sha16(rgb: &[u8]) -> String {
    let digest = Sha256::digest(rgb);
    format!("{:016x}", u64::from_be_bytes(digest[..8].try_into().unwrap()))
}

#[test]
fn no_file_crashes_or_hangs_and_accepted_sizes_equal_the_peers() {
    let Some(root) = shared("data/decode-torture") else { return };
    let verdicts: Value =
        serde_json::from_slice(&std::fs::read(root.join("peer_verdicts.json")).unwrap()).unwrap();
    let files = verdicts["files"].as_object().unwrap();
    assert_eq!(files.len(), 956);
    let mut table = Table::default();
    let mut slowest = (Duration::ZERO, "");
    let mut largest = (0, "");
    for (name, peers) in files {
        let bytes = std::fs::read(root.join(name)).unwrap();
        reset_peak();
        let begun = Instant::now();
        let upright = decode(&bytes, &LIMITS);
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(2), "{name} took {took:?}");
        slowest = slowest.max((took, name));
        let peak = peak_mib();
        assert!(peak < 700, "{name}: a peak of {peak} MiB");
        largest = largest.max((peak, name));
        let stored = decode_rgb_first(&bytes, &LIMITS);
        assert_eq!(upright.as_ref().err(), stored.as_ref().err(), "{name}");
        if let Ok(picture) = &stored {
            let header = probe(&bytes, &LIMITS).unwrap();
            assert_eq!((header.width, header.height), (picture.width, picture.height), "{name}");
        }
        for peer in ["pillow", "opencv"] {
            table.add(peer, name, &stored, &peers[peer]);
        }
    }
    table.print();
    eprintln!("slowest: {:?} {}", slowest.0, slowest.1);
    eprintln!("largest: {} MiB {}", largest.0, largest.1);
    assert_eq!(table.names("sizes differ"), [""; 0]);
    // Colours hidden under transparency are lost where the decoder blends an animation's frame.
    assert_eq!(table.names("lossless pixels differ"), ["anim.webp"]);
    // Formats that we read and Pillow accepts, but we do not.
    assert_eq!(table.names("only they accept: broken"), [""; 0]);
    assert_eq!(table.names("decoder_panic"), [""; 0]);
    // The others are CMYK, progressive files that lack scans, or sampled in unusual ways.
    assert_eq!(table.names("pillow: JPEG pixels same").len(), 71);
}

/// Lets the process's peak begin again at what is in memory now. Where the system does not let it,
/// the peak is that of all files so far, and is held to the same limit.
fn reset_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// The process's peak of resident memory; 0 where the system does not tell it.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

/// Names of files by what happened with them.
#[derive(Default)]
struct Table(BTreeMap<String, Vec<String>>);

impl Table {
    fn add(&mut self, peer: &str, name: &str, ours: &Result<Picture, Refused>, theirs: &Value) {
        let accepts = theirs["ok"].as_bool().unwrap();
        match ours {
            Ok(picture) if accepts => {
                self.row(format!("{peer}: both accept"), name);
                let size = serde_json::json!([picture.width, picture.height]);
                if theirs["size"] != size {
                    self.row(format!("{peer}: sizes differ"), name);
                }
                if peer == "pillow" {
                    let format = theirs["format"].as_str().unwrap();
                    let lossy = matches!(format, "JPEG" | "MPO");
                    let kind = if lossy { "JPEG" } else { "lossless" };
                    let same = theirs["rgb_sha256"] == sha16(&picture.rgb).as_str();
                    let same = if same { "same" } else { "differ" };
                    self.row(format!("{peer}: {kind} pixels {same}"), name);
                }
            }
            Ok(_) => self.row(format!("{peer}: only we accept"), name),
            Err(refused) if accepts => {
                self.row(format!("{peer}: only they accept: {}", refused.reason), name);
            }
            Err(_) => self.row(format!("{peer}: both refuse"), name),
        }
    }

    fn row(&mut self, key: String, name: &str) {
        let file = name.rsplit('/').next().unwrap_or(name);
        self.0.entry(key).or_default().push(file.to_owned());
    }

    /// Files in all rows whose key contains `part`.
    fn names(&self, part: &str) -> Vec<&str> {
        let rows = self.0.iter().filter(|(key, _)| key.contains(part));
        rows.flat_map(|(_, names)| names.iter().map(String::as_str)).collect()
    }

    fn print(&self) {
        for (key, names) in &self.0 {
            let few = if names.len() <= 10 { names.join(" ") } else { String::new() };
            eprintln!("{:4} {key}  {few}", names.len());
        }
    }
}
