//! 956 awkward and broken files: no crash, no hang, and our verdicts beside Pillow's and OpenCV's.

mod shared_data;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pixels::{Limits, decode, decode_rgb_first, probe};
use serde_json::Value;
use sha2::{Digest, Sha256};
use shared_data::shared;

/// The aspect cap is about what a recipe wants, not about what can be decoded.
const LIMITS: Limits =
    Limits { max_side: 16_384, max_pixels: 40_000_000, max_aspect: 1e9, max_scans: 20 };

fn sha16(rgb: &[u8]) -> String {
    Sha256::digest(rgb)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn no_file_crashes_or_hangs_and_accepted_sizes_equal_the_peers() {
    let Some(root) = shared("data/decode-torture") else { return };
    let verdicts: Value =
        serde_json::from_slice(&std::fs::read(root.join("peer_verdicts.json")).unwrap()).unwrap();
    let files = verdicts["files"].as_object().unwrap();
    assert_eq!(files.len(), 956);
    let mut table: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut slowest = (Duration::ZERO, String::new());
    for (name, peers) in files {
        let bytes = std::fs::read(root.join(name)).unwrap();
        let begun = Instant::now();
        let upright = decode(&bytes, &LIMITS);
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(2), "{name} took {took:?}");
        if took > slowest.0 {
            slowest = (took, name.clone());
        }
        let stored = decode_rgb_first(&bytes, &LIMITS);
        assert_eq!(upright.as_ref().err(), stored.as_ref().err(), "{name}");
        let mut row = |key: String| table.entry(key).or_default().push(name.clone());
        for peer in ["pillow", "opencv"] {
            let theirs = &peers[peer];
            let accepts = theirs["ok"].as_bool().unwrap();
            match &stored {
                Ok(picture) if accepts => {
                    row(format!("{peer}: both accept"));
                    let size = [picture.width, picture.height].map(u64::from);
                    let header = probe(&bytes, &LIMITS).unwrap();
                    assert_eq!((header.width, header.height), (picture.width, picture.height));
                    let other: Vec<u64> = theirs["size"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|side| side.as_u64().unwrap())
                        .collect();
                    if size[..] != other[..] {
                        row(format!("{peer}: SIZES DIFFER"));
                    }
                    if peer == "pillow" {
                        let format = theirs["format"].as_str().unwrap();
                        let same = theirs["rgb_sha256"] == sha16(&picture.rgb).as_str();
                        let mode = theirs["mode"].as_str().unwrap();
                        row(format!(
                            "pixels {format} {mode}: {}",
                            if same { "same" } else { "other" }
                        ));
                    }
                }
                Ok(_) => row(format!("{peer}: only we accept")),
                Err(refused) if accepts => {
                    row(format!("{peer}: only they accept: {}", refused.reason));
                }
                Err(_) => row(format!("{peer}: both refuse")),
            }
        }
    }
    for (key, names) in &table {
        let some = names.iter().take(12).map(|n| n.rsplit('/').next().unwrap());
        let few = names.len() <= 60 || key.contains("other");
        let few = if few && !key.contains("same") {
            some.collect::<Vec<_>>().join(" ")
        } else {
            String::new()
        };
        eprintln!("{:4} {key}  {few}", names.len());
    }
    eprintln!("slowest {:?} {}", slowest.0, slowest.1);
}
