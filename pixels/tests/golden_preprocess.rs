//! open_clip's evaluation transform: byte for byte from the same decoded pixels. The pictures of the
//! shared data, and pictures of formulas beside this file (`bench/interop/make_small_goldens.py`, with
//! Pillow 12: 13 resizes some tall pictures in another order).

mod shared_data;

use std::path::Path;

use pixels::{Limits, Picture, clip_pixels, decode_rgb_first, normalize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use shared_data::shared;

const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// A safetensors file: 8 bytes of header length, a JSON header, then the data.
struct Tensors {
    header: Value,
    data: Vec<u8>,
}

impl Tensors {
    fn open(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        Self { header, data: bytes[8 + length..].to_vec() }
    }

    fn shape(&self, name: &str) -> Option<Vec<u64>> {
        let shape = self.header.get(name)?["shape"].as_array()?;
        Some(shape.iter().map(|side| side.as_u64().unwrap()).collect())
    }

    fn bytes(&self, name: &str) -> &[u8] {
        let offsets = &self.header[name]["data_offsets"];
        let at = |index: usize| offsets[index].as_u64().unwrap() as usize;
        &self.data[at(0)..at(1)]
    }
}

fn files(folder: &Path) -> Vec<String> {
    let meta: Value =
        serde_json::from_slice(&std::fs::read(folder.join("meta.json")).unwrap()).unwrap();
    let files = meta["files"].as_array().unwrap();
    files.iter().map(|file| file["file"].as_str().unwrap().to_owned()).collect()
}

/// The decoded pixels: those in the folder, or our own of a lossless file.
fn source(decoded: &Tensors, torture: &Path, file: &str) -> Picture {
    stored(decoded, file).unwrap_or_else(|| decode_file(torture, file))
}

/// Pixels as Pillow decoded them, of the lossy files.
fn stored(decoded: &Tensors, file: &str) -> Option<Picture> {
    let name = format!("{file}/rgb");
    let [height, width, 3] = decoded.shape(&name)?[..] else { panic!("{name}") };
    let rgb = decoded.bytes(&name).to_vec();
    Some(Picture { width: width as u32, height: height as u32, rgb })
}

fn decode_file(torture: &Path, file: &str) -> Picture {
    let limits = Limits { max_aspect: 100.0, ..Limits::default() };
    decode_rgb_first(&std::fs::read(torture.join(file)).unwrap(), &limits).unwrap()
}

#[test]
fn every_mode_equals_open_clip_byte_for_byte() {
    let Some(folder) = shared("data/golden/preprocess") else { return };
    let Some(torture) = shared("data/decode-torture/pillow") else { return };
    let decoded = Tensors::open(&folder.join("decoded.safetensors"));
    let golden = Tensors::open(&folder.join("pixels.safetensors"));
    let normalized = Tensors::open(&folder.join("normalized.safetensors"));
    let files = files(&folder);
    assert_eq!(files.len(), 14);
    for file in &files {
        let picture = source(&decoded, &torture, file);
        for mode in ["shortest", "squash", "longest"] {
            let ours = clip_pixels(&picture, 64, mode);
            let theirs = golden.bytes(&format!("{file}/rgb-first/{mode}"));
            let worst = ours.iter().zip(theirs).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            assert!(ours == theirs, "{file} {mode}: off by up to {worst}");
        }
        let ours = normalize(&clip_pixels(&picture, 64, "shortest"), 64, MEAN, STD);
        let theirs = normalized.bytes(&format!("{file}/rgb-first"));
        assert_eq!(theirs.len(), ours.len() * 4);
        for (ours, theirs) in ours.iter().zip(theirs.chunks_exact(4)) {
            let theirs = f32::from_le_bytes(theirs.try_into().unwrap());
            assert!((ours - theirs).abs() <= 1e-6, "{file}: {ours} against {theirs}");
        }
    }
}

#[test]
fn our_decoders_give_pillows_pixels_but_cmyk_within_two_levels() {
    let Some(folder) = shared("data/golden/preprocess") else { return };
    let Some(torture) = shared("data/decode-torture/pillow") else { return };
    let decoded = Tensors::open(&folder.join("decoded.safetensors"));
    let mut compared = 0;
    for file in files(&folder) {
        let Some(theirs) = stored(&decoded, &file) else { continue };
        let ours = decode_file(&torture, &file);
        assert_eq!((ours.width, ours.height), (theirs.width, theirs.height), "{file}");
        let worst = ours.rgb.iter().zip(&theirs.rgb).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        let most = if file.contains("cmyk") { 2 } else { 0 };
        assert!(worst <= most, "{file}: off by {worst} levels");
        compared += 1;
    }
    assert_eq!(compared, 6);
}

const SMALL: &str = include_str!("preprocess_small.json");

fn digest(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))[..32].to_owned()
}

fn from_hex(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap().as_bytes();
    let digit = |byte: u8| (byte as char).to_digit(16).unwrap() as u8;
    hex.as_chunks::<2>().0.iter().map(|[a, b]| digit(*a) << 4 | digit(*b)).collect()
}

/// The script's slopes with noise on them.
fn made(width: u32, height: u32) -> Picture {
    let at = |x: u32, y: u32, c: u32| {
        let noise = (x * x * 7 + y * 13 + x * y * 3 + c * 57) * 31 % 97;
        ((x * 5 + y * 3 + c * 40 + noise) % 256) as u8
    };
    let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let rgb = places.flat_map(|(x, y)| [at(x, y, 0), at(x, y, 1), at(x, y, 2)]).collect();
    Picture { width, height, rgb }
}

fn size(case: &Value) -> (u32, u32) {
    serde_json::from_value(case["size"].clone()).unwrap()
}

fn check_modes(name: &str, picture: &Picture, case: &Value, target: u32) {
    assert_eq!((picture.width, picture.height), size(case), "{name}");
    assert_eq!(digest(&picture.rgb), case["rgb"], "{name} as opened");
    for mode in ["shortest", "longest", "squash"] {
        let ours = clip_pixels(picture, target, mode);
        if let Some(theirs) = case["pixels"].get(mode) {
            assert_eq!(ours, from_hex(theirs), "{name} {mode}");
        }
        assert_eq!(digest(&ours), case[mode], "{name} {mode}");
    }
    let ours = normalize(&clip_pixels(picture, target, "shortest"), target, MEAN, STD);
    let theirs: Vec<f32> = serde_json::from_value(case["normalized"].clone()).unwrap();
    for (i, theirs) in theirs.iter().enumerate() {
        let ours = ours[i * 97 % ours.len()];
        assert!((ours - theirs).abs() <= 1e-6, "{name}: {ours} against {theirs}");
    }
}

#[test]
fn pictures_of_formulas_become_open_clips_bytes_at_every_odd_size_and_mode() {
    let golden: Value = serde_json::from_str(SMALL).unwrap();
    let target = golden["target"].as_u64().unwrap() as u32;
    let cases = golden["made"].as_array().unwrap();
    assert_eq!(cases.len(), 10);
    for case in cases {
        let (width, height) = size(case);
        check_modes(&format!("{width} x {height}"), &made(width, height), case, target);
    }
}

#[test]
fn small_files_of_every_kind_become_open_clips_bytes() {
    let golden: Value = serde_json::from_str(SMALL).unwrap();
    let target = golden["target"].as_u64().unwrap() as u32;
    let cases = golden["files"].as_array().unwrap();
    assert_eq!(cases.len(), 11);
    for case in cases {
        let picture = decode_rgb_first(&from_hex(&case["bytes"]), &Limits::default()).unwrap();
        check_modes(case["name"].as_str().unwrap(), &picture, case, target);
    }
}
