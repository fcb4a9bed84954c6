//! From hostile bytes to pixels and back: probe, guarded decode, resize, encode, CLIP preprocessing.
//!
//! ```
//! use pixels::{Limits, Picture, clip_pixels, decode, encode_jpeg, img2dataset};
//!
//! let download = encode_jpeg(&Picture::filled(640, 480, [200, 30, 30]), 95);
//! let picture = decode(&download, &Limits::default())?;
//! let small = img2dataset::resize(&picture, 256, img2dataset::Mode::KeepRatioLargest, true)?;
//! assert_eq!((small.width, small.height), (256, 192));
//! assert_eq!(clip_pixels(&small, 224, "shortest").len(), 224 * 224 * 3);
//!
//! let refused = decode(&download[..download.len() / 2], &Limits::default()).unwrap_err();
//! assert_eq!(refused.reason, "truncated");
//! # Ok::<(), pixels::Refused>(())
//! ```

pub mod blur;
mod clip;
mod decode;
mod encode;
pub mod img2dataset;
mod limits;
mod picture;
mod pil;
mod probe;
mod squash;

pub use clip::{ResizeMode, clip_pixels, normalize, random_resized_crop};
pub(crate) use decode::decode_means;
pub use decode::{decode, decode_rgb_first};
pub use encode::{encode_jpeg, encode_png, encode_webp};
pub use limits::{Limits, Refused};
pub use picture::Picture;
pub use probe::{Format, Header, probe};
pub use squash::{cut_centre, squash};
