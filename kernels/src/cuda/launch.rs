//! Memory of a GPU and the launch of a kernel: the one place where pointers are handed over.
//!
//! A kernel gets pointers, and nothing in its signature says what they point to. So a launch is a
//! [`Call`]: every piece of memory is named with its dtype and its number of elements, and refused
//! where it is on another device, not contiguous or of another size. What is left to prove at a
//! call ([`Call::run`]) is that the arguments are those of the kernel's signature, in its order, and
//! that the kernel stays within the sizes that were named; the kernel's comment gives them.
//!
//! Memory is freed in the order of the stream on which all work of a device runs, so a tensor may be
//! dropped as soon as the kernels that use it are queued.

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::cuda_backend::cudarc::driver::sys::CUfunction_attribute;
use candle_core::cuda_backend::cudarc::driver::{
    CudaStream, DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::{CudaStorageSlice, DeviceId};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Error, Result, Shape, Storage, Tensor};

/// New memory, written by kernels before anyone reads it.
pub(crate) struct Buffer {
    storage: CudaStorage,
    shape: Shape,
}

impl Buffer {
    /// Not initialised: the kernel that it is made for writes every element.
    pub(crate) fn new(device: &CudaDevice, shape: impl Into<Shape>, dtype: DType) -> Result<Self> {
        let shape = shape.into();
        // SAFETY: numbers of any bits are numbers, and `calls` hands a buffer out only after the
        // launch of a kernel that writes all of it.
        let storage = unsafe { device.alloc_uninit(&shape, dtype)? };
        Ok(Self { storage, shape })
    }

    pub(crate) fn zeros(
        device: &CudaDevice,
        shape: impl Into<Shape>,
        dtype: DType,
    ) -> Result<Self> {
        let shape = shape.into();
        Ok(Self { storage: device.zeros_impl(&shape, dtype)?, shape })
    }

    /// The same memory in another shape of as many elements.
    pub(crate) fn shaped(mut self, shape: impl Into<Shape>) -> Result<Self> {
        let shape = shape.into();
        if shape.elem_count() != self.shape.elem_count() {
            candle_core::bail!("{:?} as {shape:?}", self.shape);
        }
        self.shape = shape;
        Ok(self)
    }

    /// As a tensor without history.
    pub(crate) fn tensor(self) -> Tensor {
        Tensor::from_storage(Storage::Cuda(self.storage), self.shape, BackpropOp::none(), false)
    }

    /// As the result of an operator.
    pub(crate) fn result(self) -> (Storage, Shape) {
        (Storage::Cuda(self.storage), self.shape)
    }
}

/// What has an address on a GPU.
pub(crate) trait Memory {
    /// Its dtype, number of elements, device and the address of the first element.
    fn at(&self) -> Result<(DType, usize, DeviceId, u64)>;
}

impl Memory for Buffer {
    fn at(&self) -> Result<(DType, usize, DeviceId, u64)> {
        let device = self.storage.device();
        let start = address(&self.storage, &device.cuda_stream())?;
        Ok((self.storage.dtype(), self.shape.elem_count(), device.id(), start))
    }
}

impl Memory for Tensor {
    fn at(&self) -> Result<(DType, usize, DeviceId, u64)> {
        let (storage, layout) = self.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else {
            candle_core::bail!("a tensor is not on a GPU")
        };
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("a tensor on a GPU is not contiguous")
        };
        let device = storage.device();
        let skipped = start * storage.dtype().size_in_bytes();
        let first = address(storage, &device.cuda_stream())? + skipped as u64;
        Ok((storage.dtype(), end - start, device.id(), first))
    }
}

fn address(storage: &CudaStorage, stream: &CudaStream) -> Result<u64> {
    // The guard beside the address records an event where several streams are in use: one is.
    Ok(match &storage.slice {
        CudaStorageSlice::F32(slice) => slice.device_ptr(stream).0,
        CudaStorageSlice::F64(slice) => slice.device_ptr(stream).0,
        CudaStorageSlice::BF16(slice) => slice.device_ptr(stream).0,
        CudaStorageSlice::U32(slice) => slice.device_ptr(stream).0,
        _ => candle_core::bail!("memory of another dtype than f32, f64, bf16 and u32"),
    })
}

/// The source of kernels: the name of its file and what became of it.
pub(crate) type Module = (&'static str, &'static str);

/// A kernel and its arguments.
pub(crate) struct Call<'a> {
    device: &'a CudaDevice,
    module: Module,
    name: &'static str,
    arguments: Vec<Argument>,
    /// Whether all memory lies at multiples of 16 bytes.
    aligned: bool,
}

enum Argument {
    Address(u64),
    Count(u64),
    Int(i32),
    Float(f32),
}

impl<'a> Call<'a> {
    pub(crate) fn new(device: &'a CudaDevice, module: Module, name: &'static str) -> Self {
        Self { device, module, name, arguments: Vec::new(), aligned: true }
    }

    /// Memory of `count` elements.
    pub(crate) fn of(mut self, memory: &dyn Memory, dtype: DType, count: usize) -> Result<Self> {
        let (got, elements, device, address) = memory.at()?;
        if got != dtype || elements != count || device != self.device.id() {
            candle_core::bail!(
                "{}: argument {} is {elements} numbers in {got:?}, expected {count} in {dtype:?} on \
                 one device",
                self.name,
                self.arguments.len()
            );
        }
        self.aligned &= address.is_multiple_of(16);
        self.arguments.push(Argument::Address(address));
        Ok(self)
    }

    /// The same, or a null pointer.
    pub(crate) fn perhaps(
        mut self,
        memory: Option<&dyn Memory>,
        dtype: DType,
        count: usize,
    ) -> Result<Self> {
        if let Some(memory) = memory {
            return self.of(memory, dtype, count);
        }
        self.arguments.push(Argument::Address(0));
        Ok(self)
    }

    pub(crate) fn int(mut self, number: usize) -> Result<Self> {
        let Ok(number) = i32::try_from(number) else {
            candle_core::bail!("{}: {number} is too large for a GPU's kernel", self.name)
        };
        self.arguments.push(Argument::Int(number));
        Ok(self)
    }

    pub(crate) fn count(mut self, number: usize) -> Self {
        self.arguments.push(Argument::Count(number as u64));
        self
    }

    pub(crate) fn float(mut self, number: f32) -> Self {
        self.arguments.push(Argument::Float(number));
        self
    }

    /// How many numbers a thread takes at once, if every row has `width` of them.
    pub(crate) fn at_once(&self, width: usize) -> usize {
        if self.aligned && width.is_multiple_of(4) { 4 } else { 1 }
    }

    /// Queues the kernel of this format and so many numbers at once.
    ///
    /// # Safety
    /// The arguments are those of the kernel's signature, and with them and this grid it reads and
    /// writes nothing outside the memory that was named.
    pub(crate) unsafe fn run(
        &self,
        form: Option<(DType, usize)>,
        grid: (usize, usize),
        block: (u32, u32),
    ) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.run_with(form, grid, block, 0) }
    }

    /// [`Call::run`] with so many bytes of shared memory beside what the kernel declares.
    ///
    /// # Safety
    /// As [`Call::run`], and the kernel uses no more.
    pub(crate) unsafe fn run_with(
        &self,
        form: Option<(DType, usize)>,
        grid: (usize, usize),
        block: (u32, u32),
        shared: usize,
    ) -> Result<()> {
        let format = |dtype| if dtype == DType::BF16 { "bf16" } else { "f32" };
        let name = match form {
            Some((dtype, at_once)) => format!("{}_{}_{at_once}", self.name, format(dtype)),
            None => self.name.to_owned(),
        };
        let function = self.device.get_or_load_custom_func(&name, self.module.0, self.module.1)?;
        let mut builder = function.builder();
        for argument in &self.arguments {
            match argument {
                Argument::Address(number) | Argument::Count(number) => builder.arg(number),
                Argument::Int(number) => builder.arg(number),
                Argument::Float(number) => builder.arg(number),
            };
        }
        let mut config = self.config(grid, block)?;
        if shared > 0 {
            config.shared_mem_bytes = shared as u32;
            let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(most, shared as i32).map_err(Error::wrap)?;
        }
        // SAFETY: the caller's.
        unsafe { builder.launch(config) }.map_err(Error::wrap)?;
        Ok(())
    }

    /// [`Call::run`] with a table in front of the other arguments.
    ///
    /// # Safety
    /// As [`Call::run`], and the table's addresses are of memory that the kernel may use so.
    pub(crate) unsafe fn run_on<T: DeviceRepr>(
        &self,
        table: &T,
        grid: (usize, usize),
        block: (u32, u32),
    ) -> Result<()> {
        let function =
            self.device.get_or_load_custom_func(self.name, self.module.0, self.module.1)?;
        let mut builder = function.builder();
        builder.arg(table);
        for argument in &self.arguments {
            match argument {
                Argument::Address(number) | Argument::Count(number) => builder.arg(number),
                Argument::Int(number) => builder.arg(number),
                Argument::Float(number) => builder.arg(number),
            };
        }
        // SAFETY: the caller's.
        unsafe { builder.launch(self.config(grid, block)?) }.map_err(Error::wrap)?;
        Ok(())
    }

    fn config(&self, (x, y): (usize, usize), block: (u32, u32)) -> Result<LaunchConfig> {
        // Limits of CUDA, also of compute capability 5.0.
        match (i32::try_from(x), u16::try_from(y)) {
            (Ok(x @ 1..), Ok(y @ 1..)) => Ok(LaunchConfig {
                grid_dim: (x as u32, u32::from(y), 1),
                block_dim: (block.0, block.1, 1),
                shared_mem_bytes: 0,
            }),
            _ => candle_core::bail!("{}: a grid of {x} x {y} blocks", self.name),
        }
    }
}
