//! Sums over the GPUs of several processes: NVIDIA's NCCL, on the stream that candle works on.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::nccl::{result::NcclError, safe as nccl};
use candle_core::{CpuStorage, CudaStorage, Device, Error, InplaceOp1, Layout, Result, Tensor};

/// What the processes of one ring have in common; made by one of them.
#[derive(Debug, Clone, Copy)]
pub struct Id(nccl::Id);

impl Id {
    /// # Errors
    /// NCCL's.
    pub fn new() -> Result<Self> {
        nccl::Id::new().map(Self).map_err(|e| failed("ncclGetUniqueId", e))
    }

    /// As it travels: 128 bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.0.internal().iter().map(|byte| *byte as u8).collect()
    }

    /// # Errors
    /// Another number of bytes than 128.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let Ok(bytes) = <[u8; 128]>::try_from(bytes) else {
            candle_core::bail!("NCCL's id has 128 bytes, got {}", bytes.len());
        };
        Ok(Self(nccl::Id::uninit(bytes.map(|byte| byte as _))))
    }
}

/// A place in the ring.
pub struct Sums(nccl::Comm);

// SAFETY: a `ncclComm_t` may be handed from thread to thread, but used by one at a time (NCCL user
// guide, "Thread safety"). It is used in `over_ranks` alone, which takes `&mut self`.
unsafe impl Send for Sums {}

impl Sums {
    /// Waits until all `size` processes have come with the same id, each with its own rank and GPU.
    ///
    /// # Errors
    /// Another device than a GPU, or NCCL's.
    pub fn join(device: &Device, id: &Id, rank: usize, size: usize) -> Result<Self> {
        let stream = device.as_cuda_device()?.cuda_stream();
        // NCCL takes the GPU that this thread works with.
        stream.context().bind_to_thread().map_err(Error::wrap)?;
        let comm = nccl::Comm::from_rank(stream, rank, size, id.0);
        comm.map(Self).map_err(|e| failed("ncclCommInitRank", e))
    }

    /// Sums contiguous f32 tensors over the ring, into themselves; every process gives the same
    /// lengths in the same order.
    ///
    /// # Errors
    /// A view, another dtype than f32 or device than the ring's, or NCCL's.
    pub fn over_ranks(&mut self, tensors: &[&Tensor]) -> Result<()> {
        nccl::group_start().map_err(|e| failed("ncclGroupStart", e))?;
        let queued = tensors.iter().try_for_each(|tensor| tensor.inplace_op1(&Sum(&self.0)));
        nccl::group_end().map_err(|e| failed("ncclGroupEnd", e))?;
        queued
    }
}

struct Sum<'a>(&'a nccl::Comm);

impl InplaceOp1 for Sum<'_> {
    fn name(&self) -> &'static str {
        "sum over ranks"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        candle_core::bail!("NCCL sums on GPUs only")
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> Result<()> {
        let count = layout.shape().elem_count();
        let dtype = storage.dtype();
        let whole = storage.as_cuda_slice_mut::<f32>()?;
        if layout.contiguous_offsets() != Some((0, count)) || whole.len() != count {
            candle_core::bail!("NCCL sums whole tensors, got a view of {dtype:?}");
        }
        let status = self.0.all_reduce_in_place(whole, &nccl::ReduceOp::Sum);
        status.map(drop).map_err(|e| failed("ncclAllReduce", e))
    }
}

fn failed(call: &str, cause: NcclError) -> Error {
    Error::Msg(format!("{call}: {cause:?}"))
}
