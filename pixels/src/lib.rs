//! From hostile bytes to pixels. SKELETON: signatures are the contract.
#![allow(missing_docs, unused)]
/// Interleaved 8-bit RGB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture { pub width: u32, pub height: u32, pub rgb: Vec<u8> }
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format { Jpeg, Png, WebP, Gif }
/// What the header says, before any decoding.
#[derive(Debug, Clone, Copy)]
pub struct Header { pub format: Format, pub width: u32, pub height: u32, pub orientation: u8 }
/// Caps of reliability A2.7; `Default` gives them.
#[derive(Debug, Clone, Copy)]
pub struct Limits { pub max_side: u32, pub max_pixels: u64, pub max_aspect: f64, pub max_scans: u32 }
/// Why a picture is refused: one stable snake_case word each (`truncated`, `too_many_scans`, `unsupported_format`, ...).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused { pub reason: &'static str, pub detail: String }
pub fn probe(bytes: &[u8], limits: &Limits) -> Result<Header, Refused> { todo!() }
/// Guarded decode to RGB on white, EXIF orientation applied.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Picture, Refused> { todo!() }
/// As PIL's `convert("RGB")` (alpha dropped, orientation ignored): what open_clip's training and evaluation see of a shard.
pub fn decode_rgb_first(bytes: &[u8], limits: &Limits) -> Result<Picture, Refused> { todo!() }
/// open_clip's evaluation transform to `size`: u8 [size*size*3] interleaved; resize_mode shortest|longest|squash.
pub fn clip_pixels(picture: &Picture, size: u32, resize_mode: &str) -> Vec<u8> { todo!() }
/// Normalised f32, channel-first [3*size*size].
pub fn normalize(pixels: &[u8], size: u32, mean: [f32; 3], std: [f32; 3]) -> Vec<f32> { todo!() }
pub fn encode_jpeg(picture: &Picture, quality: u8) -> Vec<u8> { todo!() }
