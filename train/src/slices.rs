//! Plain f32 slices out of tensors, for loops that touch every number once.

use candle_core::{CpuStorage, Error, Layout, Result, Storage, Tensor};

/// The numbers of a contiguous f32 tensor on the CPU.
pub(crate) fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let (start, end) = offsets(layout)?;
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// Calls `look` with the numbers of a contiguous f32 tensor, copied where it is not in main memory.
pub(crate) fn with<T>(tensor: &Tensor, look: impl FnOnce(&[f32]) -> T) -> Result<T> {
    if !tensor.device().is_cpu() {
        return Ok(look(&tensor.flatten_all()?.to_vec1::<f32>()?));
    }
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => contiguous(storage, layout).map(look),
        _ => Err(Error::Msg("expected a tensor in main memory".into())),
    }
}

fn offsets(layout: &Layout) -> Result<(usize, usize)> {
    layout.contiguous_offsets().ok_or_else(|| Error::Msg("expected a contiguous tensor".into()))
}
