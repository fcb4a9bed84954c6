//! Matrix products by cuBLAS.

use std::ffi::{c_longlong, c_void};

use candle_core::cuda_backend::cudarc::cublas::{result, sys};
use candle_core::{CudaDevice, DType, Error, Result};

use super::launch::{Buffer, Memory};

/// A factor: `batch` matrices row after row, each `step` elements behind the one before it.
pub(crate) struct Factor<'a> {
    memory: &'a dyn Memory,
    first: usize,
    /// Elements from a row to the next.
    row: usize,
    step: usize,
    turned: bool,
}

impl<'a> Factor<'a> {
    /// Matrices whose rows have `row` elements.
    pub(crate) fn new(memory: &'a dyn Memory, row: usize) -> Self {
        Self { memory, first: 0, row, step: 0, turned: false }
    }

    /// Transposed: what lies there is the other way round.
    pub(crate) fn turned(self) -> Self {
        Self { turned: !self.turned, ..self }
    }

    /// From this element on.
    pub(crate) fn from(self, first: usize) -> Self {
        Self { first, ..self }
    }

    /// So many elements between the matrices of a batch.
    pub(crate) fn step(self, step: usize) -> Self {
        Self { step, ..self }
    }

    /// Dtype and address, if (rows, columns) of each matrix of the batch lie inside.
    fn at(
        &self,
        device: &CudaDevice,
        batch: usize,
        (rows, columns): (usize, usize),
    ) -> Result<(DType, u64)> {
        let (rows, columns) = if self.turned { (columns, rows) } else { (rows, columns) };
        let (dtype, elements, here, address) = self.memory.at()?;
        let end = self.first + (batch - 1) * self.step + (rows - 1) * self.row + columns;
        if columns > self.row || end > elements || here != device.id() {
            candle_core::bail!("product: {rows} x {columns} outside of {elements} elements");
        }
        Ok((dtype, address + (self.first * dtype.size_in_bytes()) as u64))
    }

    fn operation(&self) -> sys::cublasOperation_t {
        match self.turned {
            true => sys::cublasOperation_t::CUBLAS_OP_T,
            false => sys::cublasOperation_t::CUBLAS_OP_N,
        }
    }
}

/// `c = a b`, or `c += a b` if `add`, for each matrix of a batch: a (m, k), b (k, n), c (m, n). Both
/// factors f32 or both bf16, c either; sums are f32.
///
/// # Errors
/// Sizes of 0, memory that is too short, other dtypes, or cuBLAS's.
pub(crate) fn product(
    device: &CudaDevice,
    (a, b): (&Factor, &Factor),
    c: &Factor,
    (batch, m, n, k): (usize, usize, usize, usize),
    add: bool,
) -> Result<()> {
    let sizes = [batch, m, n, k, a.row, b.row, c.row].map(i32::try_from);
    let [
        Ok(count @ 1..),
        Ok(rows @ 1..),
        Ok(columns @ 1..),
        Ok(depth @ 1..),
        Ok(a_row),
        Ok(b_row),
        Ok(c_row),
    ] = sizes
    else {
        candle_core::bail!("product: {batch} of {m} x {k} x {n}")
    };
    let (a_type, a_at) = a.at(device, batch, (m, k))?;
    let (b_type, b_at) = b.at(device, batch, (k, n))?;
    let (c_type, c_at) = c.at(device, batch, (m, n))?;
    if a_type != b_type || c.turned {
        candle_core::bail!("product: factors in {a_type:?} and {b_type:?}");
    }
    let (alpha, beta) = (1f32, if add { 1f32 } else { 0f32 });
    let scalar = |number: &f32| std::ptr::from_ref(number).cast::<c_void>();
    let algorithm = sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT;
    let handle = *device.cublas_handle().handle();
    let (a_at, b_at, c_at) = (a_at as *const c_void, b_at as *const c_void, c_at as *mut c_void);
    let (one, other) = (scalar(&alpha), scalar(&beta));
    let (a_type, b_type, c_type) = (data_type(a_type)?, data_type(b_type)?, data_type(c_type)?);
    let sums = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
    let (turned_a, turned_b) = (a.operation(), b.operation());
    // Our rows are cuBLAS's columns, so it gets cᵀ = bᵀ aᵀ.
    // SAFETY, of both: the handle is the device's; the three addresses are of memory that the caller
    // keeps alive until the work is queued, and `at` looked that all elements lie inside it; the
    // scalars are read during the call.
    let status = if batch == 1 {
        unsafe {
            result::gemm_ex(
                handle, turned_b, turned_a, columns, rows, depth, one, b_at, b_type, b_row, a_at,
                a_type, a_row, other, c_at, c_type, c_row, sums, algorithm,
            )
        }
    } else {
        let [a_step, b_step, c_step] = [a.step, b.step, c.step].map(|step| step as c_longlong);
        unsafe {
            result::gemm_strided_batched_ex(
                handle, turned_b, turned_a, columns, rows, depth, one, b_at, b_type, b_row, b_step,
                a_at, a_type, a_row, a_step, other, c_at, c_type, c_row, c_step, count, sums,
                algorithm,
            )
        }
    };
    status.map_err(Error::wrap)
}

fn data_type(dtype: DType) -> Result<sys::cudaDataType_t> {
    Ok(match dtype {
        DType::F32 => sys::cudaDataType_t::CUDA_R_32F,
        DType::BF16 => sys::cudaDataType_t::CUDA_R_16BF,
        other => candle_core::bail!("product: factors in {other:?}"),
    })
}

/// x (m, k) wᵀ for w (n, k), as (m, n) in `to`.
pub(crate) fn by_rows(
    device: &CudaDevice,
    (x, w): (&dyn Memory, &dyn Memory),
    (m, n, k): (usize, usize, usize),
    to: DType,
) -> Result<Buffer> {
    let y = Buffer::new(device, (m, n), to)?;
    let factors = (&Factor::new(x, k), &Factor::new(w, k).turned());
    product(device, factors, &Factor::new(&y, n), (1, m, n, k), false)?;
    Ok(y)
}

/// x (m, k) w for w (k, n), as (m, n) in `to`.
pub(crate) fn by_columns(
    device: &CudaDevice,
    (x, w): (&dyn Memory, &dyn Memory),
    (m, n, k): (usize, usize, usize),
    to: DType,
) -> Result<Buffer> {
    let y = Buffer::new(device, (m, n), to)?;
    let factors = (&Factor::new(x, k), &Factor::new(w, n));
    product(device, factors, &Factor::new(&y, n), (1, m, n, k), false)?;
    Ok(y)
}

/// xᵀ y for x (k, m) and y (k, n), into f32 memory (m, n), added to it if `add`.
pub(crate) fn of_columns(
    device: &CudaDevice,
    (x, y): (&dyn Memory, &dyn Memory),
    (m, n, k): (usize, usize, usize),
    into: &dyn Memory,
    add: bool,
) -> Result<()> {
    let factors = (&Factor::new(x, m).turned(), &Factor::new(y, n));
    product(device, factors, &Factor::new(into, n), (1, m, n, k), add)
}
