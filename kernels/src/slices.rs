//! Tensors as slices: the elements of a contiguous CPU tensor, in f32 or f64.

use std::ops::{Deref, Range};

use candle_core::{CpuStorage, DType, Device, Layout, Result, Shape, Storage, StorageRef, Tensor};

use crate::elementary::Float;

/// The elements of a contiguous CPU tensor, read-locked.
pub(crate) struct Values<'a, T> {
    storage: StorageRef<'a>,
    range: Range<usize>,
    marker: std::marker::PhantomData<T>,
}

impl<T: Float> Deref for Values<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &*self.storage {
            Storage::Cpu(storage) => &T::slice(storage).unwrap_or_default()[self.range.clone()],
            _ => &[], // `values` refused every other device
        }
    }
}

/// The elements of `tensor`, which must be contiguous.
pub(crate) fn values<'a, T: Float>(tensor: &'a Tensor, op: &'static str) -> Result<Values<'a, T>> {
    let (storage, layout) = tensor.storage_and_layout();
    let range = match &*storage {
        Storage::Cpu(storage) => span::<T>(storage, layout, op)?,
        _ => candle_core::bail!("{op} runs on the CPU only, got {:?}", tensor.device().location()),
    };
    Ok(Values { storage, range, marker: std::marker::PhantomData })
}

/// The elements of a contiguous storage.
pub(crate) fn slice<'a, T: Float>(
    storage: &'a CpuStorage,
    layout: &Layout,
    op: &'static str,
) -> Result<&'a [T]> {
    let range = span::<T>(storage, layout, op)?;
    Ok(&T::slice(storage).unwrap_or_default()[range])
}

fn span<T: Float>(storage: &CpuStorage, layout: &Layout, op: &'static str) -> Result<Range<usize>> {
    if T::slice(storage).is_none() {
        candle_core::bail!("{op} takes tensors of one dtype, f32 or f64");
    }
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(start..end),
        None => candle_core::bail!("{op}: a tensor is not contiguous"),
    }
}

/// The u32 elements of a contiguous CPU tensor.
pub(crate) fn indices(tensor: &Tensor, op: &'static str) -> Result<Vec<u32>> {
    if tensor.dtype() != DType::U32 {
        candle_core::bail!("{op}: indices are u32, got {:?}", tensor.dtype());
    }
    tensor.flatten_all()?.to_vec1::<u32>()
}

/// A CPU tensor without history.
pub(crate) fn tensor<T: Float>(data: Vec<T>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(data, shape.into(), &Device::Cpu)
}

/// Refuses all but f32 and f64, in words that name the operator.
pub(crate) fn check(op: &'static str, tensor: &Tensor) -> Result<()> {
    if !matches!(tensor.dtype(), DType::F32 | DType::F64) {
        candle_core::bail!("{op} takes f32 or f64, got {:?}", tensor.dtype());
    }
    Ok(())
}

/// Runs `$body` with `$T` = f32 or f64, whichever the dtype says; refuses others.
macro_rules! with_float {
    ($op:expr, $dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                type $T = f32;
                $body
            }
            candle_core::DType::F64 => {
                type $T = f64;
                $body
            }
            other => candle_core::bail!("{} takes f32 or f64, got {other:?}", $op),
        }
    };
}
pub(crate) use with_float;
