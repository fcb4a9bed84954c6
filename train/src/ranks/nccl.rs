//! Ranks with a GPU each: gradients are summed by NCCL from GPU to GPU, everything else goes over TCP.
//!
//! NCCL adds up in an order of its own, the same at every call with the same number of ranks and the
//! same GPUs: the bits are the same on each rank. A rank that dies while others sum leaves them
//! waiting in the GPU's queue; their exchange over TCP at the next step says so.

use candle_core::{Device, Tensor};
use kernels::nccl::{Id, Sums};
use stage::{Error, Result, ResultExt};

use super::Ranks;
use super::tcp::Tcp;

/// A rank's place in the ring.
pub struct Nccl {
    tcp: Tcp,
    sums: Sums,
}

impl Nccl {
    /// Joins the ranks that met over TCP; each needs a GPU of its own.
    ///
    /// # Errors
    /// Another rank failed, or NCCL did: two ranks on one GPU, no way between two machines.
    pub fn meet(mut tcp: Tcp, device: &Device) -> Result<Self> {
        let own = match tcp.rank() {
            0 => Id::new().map_err(failed)?.bytes(),
            _ => Vec::new(),
        };
        let first = tcp.gather(&own)?.swap_remove(0);
        let id = Id::from_bytes(&first).map_err(failed)?;
        let sums = Sums::join(device, &id, tcp.rank(), tcp.size()).map_err(failed)?;
        Ok(Self { tcp, sums })
    }
}

fn failed(cause: candle_core::Error) -> Error {
    Error::network("NCCL cannot connect the GPUs of the ranks")
        .because(cause)
        .hint("each rank needs a GPU of its own (LOCAL_RANK picks it); NCCL_DEBUG=INFO says more")
}

impl Ranks for Nccl {
    fn rank(&self) -> usize {
        self.tcp.rank()
    }

    fn size(&self) -> usize {
        self.tcp.size()
    }

    fn gather(&mut self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.tcp.gather(own)
    }

    fn sum(&mut self, values: &mut [f32]) -> Result<()> {
        self.tcp.sum(values)
    }

    fn sum_on_device(&mut self, tensors: &[&Tensor]) -> Result<bool> {
        // As many on every rank, or the ring would wait for ever.
        let lengths: Vec<u8> =
            tensors.iter().flat_map(|tensor| (tensor.elem_count() as u64).to_le_bytes()).collect();
        let all = self.tcp.gather(&lengths)?;
        if all.iter().any(|other| *other != lengths) {
            return Err(Error::internal("ranks have gradients of different parameters"));
        }
        self.sums.over_ranks(tensors).model("NCCL cannot sum the gradients")?;
        Ok(true)
    }

    fn broadcast(&mut self, values: &mut [f32]) -> Result<()> {
        self.tcp.broadcast(values)
    }

    fn leave(&mut self, error: Option<&Error>) {
        self.tcp.leave(error);
    }
}
