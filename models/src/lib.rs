//! CLIP models, tokenizer and checkpoint formats.
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use models::{Clip, ClipConfig, Mode, Tokenizer, normalize};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = ClipConfig::named("tiny-32")?;
//! let clip = Clip::init(&config, &[], 0, &Device::Cpu)?;
//! let tokens = Tokenizer::clip().context("a red car", config.context_length());
//! let tokens = Tensor::from_vec(tokens, (1, config.context_length()), &Device::Cpu)?;
//! let text = normalize(&clip.encode_text(&tokens, Mode::Eval)?)?;
//! assert_eq!(text.dims(), [1, config.embed_dim()]);
//! # Ok(())
//! # }
//! ```
//!
//! Every block that a checkpoint can contain lives here, in training and in inference form.
//! [`open()`] is the only way from a [`stage::Checkpoint`] to tensors.
//!
//! Reading order: [`ClipConfig`], [`Clip`], `vision` and `text` (the towers), `block` (their
//! layers), [`repavit`] (idle channels and their fold), [`Params`], `init`, [`Tokenizer`],
//! [`Encoder`], [`Swin`] and [`VitClassifier`] with their `layers`; `checkpoint` and `hub`
//! (folders), [`Weights`] (files), `names` (whose).

mod block;
mod checkpoint;
mod clip;
mod config;
pub mod count;
mod device;
mod encode;
mod head;
mod hub;
mod init;
mod layers;
mod linear;
mod names;
pub mod onnx;
mod params;
mod parts;
mod positions;
pub mod repavit;
mod shapes;
mod swin;
mod text;
mod tokenizer;
mod vectors;
mod vision;
mod vit_classifier;
mod weights;

pub use checkpoint::{
    checkpoint_files, checkpoint_of, open, open_weights, read_checkpoint, write_checkpoint,
    write_checkpoint_for,
};
pub use clip::{Clip, Mode, normalize};
pub use config::{ClipConfig, Pool, TextConfig, TextPool, VisionConfig, VitConfig, VitaminConfig};
pub use device::device;
pub use encode::Encoder;
pub use head::{Between, Head};
pub use names::Names;
pub use params::Params;
pub use swin::{Swin, SwinConfig};
pub use text::TokenRows;
pub use tokenizer::Tokenizer;
pub use vectors::inner_products;
pub use vision::Step;
pub use vit_classifier::{VitClassifier, VitClassifierConfig};
pub use weights::Weights;

#[cfg(test)]
mod golden_repavit;
