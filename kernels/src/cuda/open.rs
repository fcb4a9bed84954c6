//! Opening a GPU.

use candle_core::cuda_backend::cudarc::driver::sys;
use candle_core::{Device, Error, Result};

/// The GPU of this number, set up for what happens here: all threads work on one stream, and freed
/// memory stays with the process for the next allocation.
///
/// A step allocates and frees some thousand tensors; the driver's pool gives what is free back to the
/// system at every synchronisation if it is not told otherwise.
///
/// # Errors
/// The driver's.
pub(crate) fn open_gpu(number: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(number)?;
    let cuda = device.as_cuda_device()?;
    // SAFETY: events keep several streams of a context apart. All work on this device, its
    // allocations and its frees are of the one stream that was just made.
    unsafe { cuda.disable_event_tracking() };
    let stream = cuda.cuda_stream();
    let context = stream.context();
    context.bind_to_thread().map_err(Error::wrap)?;
    if context.has_async_alloc() {
        let mut pool = std::ptr::null_mut();
        let mut threshold = u64::MAX;
        let what = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: the device is open; the pool is written before it is used, and the threshold, a
        // 64-bit number as this attribute wants, is read during the call.
        unsafe {
            sys::cuDeviceGetDefaultMemPool(&raw mut pool, context.cu_device())
                .result()
                .map_err(Error::wrap)?;
            sys::cuMemPoolSetAttribute(pool, what, (&raw mut threshold).cast())
                .result()
                .map_err(Error::wrap)?;
        }
    }
    Ok(device)
}
