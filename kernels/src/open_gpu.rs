//! Opening a GPU.

use candle_core::{Device, Result};

/// The GPU of this number; with the feature `cuda` set up for what happens here: one stream for all
/// threads, and freed memory that stays with the process.
///
/// # Errors
/// The driver's, or a program without the feature.
pub fn open_gpu(number: usize) -> Result<Device> {
    #[cfg(feature = "cuda")]
    return crate::cuda::open_gpu(number);
    #[cfg(not(feature = "cuda"))]
    Device::new_cuda(number)
}
