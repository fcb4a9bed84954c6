//! Processes that train one model together, and what they say to each other.
//!
//! Every rank has the whole model and its own samples. Each step they exchange features, so that the
//! loss is that of all samples, and sum their gradients, so that all take the same step. [`Ranks`] is
//! what an exchange must do: [`Alone`] for one process, [`tcp`] between processes; with the feature
//! `nccl` the gradients of GPUs go over NCCL beside it.

mod door;
pub mod environment;
mod frame;
mod link;
mod meet;
#[cfg(feature = "nccl")]
pub mod nccl;
mod patience;
pub mod tcp;

use candle_core::Tensor;
use stage::{Context, Error, Result};

/// The exchange between ranks. Every rank makes the same calls in the same order.
///
/// A rank that fails makes the calls of all others fail, with an error that names it.
pub trait Ranks: Send {
    /// This rank, from 0.
    fn rank(&self) -> usize;

    /// How many there are, at least 1.
    fn size(&self) -> usize;

    /// What every rank gave, in the order of ranks, the same on each.
    ///
    /// # Errors
    /// Another rank failed or is gone.
    fn gather(&mut self, own: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// Sums over the ranks, added in the order of ranks: the same bits on each.
    ///
    /// # Errors
    /// Another rank failed, is gone, or has another number of values.
    fn sum(&mut self, values: &mut [f32]) -> Result<()>;

    /// Sums contiguous f32 tensors of a GPU over the ranks, into themselves, if the exchange reaches
    /// it; false if not, and nothing is changed: then [`Ranks::sum`] it is, by way of main memory.
    ///
    /// # Errors
    /// As [`Ranks::sum`].
    fn sum_on_device(&mut self, _tensors: &[&Tensor]) -> Result<bool> {
        Ok(false)
    }

    /// Replaces `values` by those of rank 0.
    ///
    /// # Errors
    /// As [`Ranks::sum`].
    fn broadcast(&mut self, values: &mut [f32]) -> Result<()>;

    /// Says goodbye: with an error, it reaches the other ranks. Nothing may be called afterwards.
    fn leave(&mut self, error: Option<&Error>);
}

/// Ranks that met over TCP; where they train on GPUs, in a program that has NCCL, with sums from GPU
/// to GPU.
///
/// # Errors
/// A GPU that cannot be opened, or what NCCL says.
pub fn with_gpus(tcp: tcp::Tcp, cx: &Context) -> Result<Box<dyn Ranks>> {
    if cx.device != stage::Device::Cpu {
        #[cfg(feature = "nccl")]
        return Ok(Box::new(nccl::Nccl::meet(tcp, &models::device(cx.device)?)?));
        #[cfg(not(feature = "nccl"))]
        tracing::warn!("built without the feature nccl: gradients are summed in main memory");
    }
    Ok(Box::new(tcp))
}

/// One process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Ranks for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn gather(&mut self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        Ok(vec![own.to_vec()])
    }

    fn sum(&mut self, _values: &mut [f32]) -> Result<()> {
        Ok(())
    }

    fn broadcast(&mut self, _values: &mut [f32]) -> Result<()> {
        Ok(())
    }

    fn leave(&mut self, _error: Option<&Error>) {}
}

/// What every rank gave, as numbers.
///
/// # Errors
/// As [`Ranks::gather`], or when a rank gave another number of values.
pub fn gather_floats(ranks: &mut dyn Ranks, own: &[f32]) -> Result<Vec<Vec<f32>>> {
    let bytes: Vec<u8> = own.iter().flat_map(|value| value.to_le_bytes()).collect();
    let all = ranks.gather(&bytes)?;
    let floats = |(rank, bytes): (usize, Vec<u8>)| {
        if bytes.len() != own.len() * 4 {
            return Err(Error::model(format!(
                "rank {rank} gave {} values, this one {}",
                bytes.len() / 4,
                own.len()
            )));
        }
        let (numbers, _) = bytes.as_chunks::<4>();
        Ok(numbers.iter().map(|b| f32::from_le_bytes(*b)).collect())
    };
    all.into_iter().enumerate().map(floats).collect()
}
