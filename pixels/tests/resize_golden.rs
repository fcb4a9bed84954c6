//! img2dataset's resize: the same sizes, and pixels as near as two JPEG decoders allow.

mod shared_data;

use std::collections::HashMap;
use std::path::Path;

use pixels::img2dataset::{Mode, resize};
use pixels::{Limits, decode, decode_rgb_first};
use shared_data::shared;

/// The members of a plain ustar file: 512-byte headers, name at 0, octal size at 124.
fn members(path: &Path) -> HashMap<String, Vec<u8>> {
    let bytes = std::fs::read(path).unwrap();
    let text = |field: &[u8]| {
        String::from_utf8(field.iter().copied().take_while(|&byte| byte != 0).collect()).unwrap()
    };
    let mut members = HashMap::new();
    let mut at = 0;
    while at + 512 <= bytes.len() && bytes[at] != 0 {
        let name = text(&bytes[at..at + 100]);
        let size = usize::from_str_radix(text(&bytes[at + 124..at + 136]).trim(), 8).unwrap();
        members.insert(name, bytes[at + 512..at + 512 + size].to_vec());
        at += 512 + size.div_ceil(512) * 512;
    }
    members
}

fn psnr(a: &[u8], b: &[u8]) -> f64 {
    let squares: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum();
    if squares == 0.0 { 99.0 } else { 10.0 * (255.0 * 255.0 * a.len() as f64 / squares).log10() }
}

#[test]
fn sizes_are_identical_and_pixels_within_40_db() {
    let Some(golden) = shared("data/resize-golden") else { return };
    let Some(pairs) = shared("data/openclipart-pairs") else { return };
    let limits = Limits { max_aspect: 100.0, ..Limits::default() };
    let mut shards = HashMap::new();
    let mut found: HashMap<String, Vec<f64>> = HashMap::new();
    let index = std::fs::read_to_string(golden.join("index.csv")).unwrap();
    for line in index.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let [shard, member, mode, _, _, width, height] = fields[..] else { panic!("{line}") };
        let shard = shards.entry(shard.to_owned()).or_insert_with(|| members(&pairs.join(shard)));
        let input = decode(&shard[member], &limits).unwrap();
        let word = format!("\"{mode}\"");
        let ours = resize(&input, 64, serde_json::from_str(&word).unwrap(), false).unwrap();
        let key = member.split('.').next().unwrap();
        let theirs = std::fs::read(golden.join(format!("{key}.{mode}.png"))).unwrap();
        let theirs = decode_rgb_first(&theirs, &limits).unwrap();
        assert_eq!(width, theirs.width.to_string());
        assert_eq!((ours.width, ours.height), (theirs.width, theirs.height), "{key} {mode}");
        assert_eq!(height, ours.height.to_string());
        let quality = psnr(&ours.rgb, &theirs.rgb);
        assert!(quality >= 40.0, "{key} {mode}: {quality:.1} dB");
        found.entry(mode.to_owned()).or_default().push(quality);
    }
    assert_eq!(found.values().map(Vec::len).sum::<usize>(), 80);
    for (mode, values) in found {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        eprintln!("{mode}: least {least:.1} dB, mean {mean:.1} dB");
    }
}

#[test]
fn the_words_of_a_recipe_are_img2datasets() {
    let words = ["no", "keep_ratio", "keep_ratio_largest", "center_crop", "border"];
    let modes = words.map(|word| serde_json::from_value::<Mode>(word.into()).unwrap());
    assert_eq!(
        modes,
        [Mode::No, Mode::KeepRatio, Mode::KeepRatioLargest, Mode::CenterCrop, Mode::Border]
    );
}
