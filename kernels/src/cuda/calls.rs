//! One function for each kernel of `kernels/cuda`: sizes in, memory out.
//!
//! Each names all memory with its size ([`Call`]), and covers the rows or numbers that it named with
//! its grid; so the proofs are alike: the arguments stand in the order of the signature, and the
//! kernel's comment gives the sizes that are checked here.

use std::sync::LazyLock;

use candle_core::DType::{BF16, F32, F64, U32};
use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::cuda_backend::cudarc::driver::sys::CUdevice_attribute;
use candle_core::{CudaDevice, DType, Error, Result};

use super::launch::{Buffer, Call, Memory, Module};

const LAYER_NORM: Module =
    ("layer_norm", include_str!(concat!(env!("OUT_DIR"), "/layer_norm.ptx")));
const COLUMNS: Module = ("columns", include_str!(concat!(env!("OUT_DIR"), "/columns.ptx")));
const ELEMENTS: Module = ("elements", include_str!(concat!(env!("OUT_DIR"), "/elements.ptx")));
const ATTENTION: Module = ("attention", include_str!(concat!(env!("OUT_DIR"), "/attention.ptx")));
const SHORT: Module =
    ("short_attention", include_str!(concat!(env!("OUT_DIR"), "/short_attention.ptx")));
const TOKENS: Module = ("tokens", include_str!(concat!(env!("OUT_DIR"), "/tokens.ptx")));
const LOSS: Module = ("loss", include_str!(concat!(env!("OUT_DIR"), "/loss.ptx")));
const OPTIMIZER: Module = ("optimizer", include_str!(concat!(env!("OUT_DIR"), "/optimizer.ptx")));

/// A block's threads where nothing else decides.
const THREADS: usize = 256;

/// (rows, width)
pub(crate) type Rows = (usize, usize);

fn warps(rows: usize) -> (usize, usize) {
    (rows.div_ceil(8), 1)
}

fn all(call: &Call, width: usize, count: usize) -> Result<(usize, (usize, usize))> {
    let at_once = call.at_once(width);
    let threads = count / at_once;
    if u32::try_from(threads).is_err() {
        candle_core::bail!("{count} numbers are too many for one kernel");
    }
    Ok((at_once, (threads.div_ceil(THREADS), 1)))
}

/// LayerNorm of f32 rows, in `to`; mean and scale of each row.
pub(crate) fn layer_norm(
    device: &CudaDevice,
    x: &dyn Memory,
    [gain, shift]: [&dyn Memory; 2],
    eps: f32,
    (rows, width): Rows,
    to: DType,
) -> Result<(Buffer, [Buffer; 2])> {
    let y = Buffer::new(device, (rows, width), to)?;
    let (mean, scale) = (Buffer::new(device, rows, F32)?, Buffer::new(device, rows, F32)?);
    let call = Call::new(device, LAYER_NORM, "layer_norm")
        .of(x, F32, rows * width)?
        .of(gain, F32, width)?
        .of(shift, F32, width)?
        .of(&y, to, rows * width)?
        .of(&mean, F32, rows)?
        .of(&scale, F32, rows)?
        .float(eps)
        .int(rows)?
        .int(width)?;
    // SAFETY: as the module says; a warp for each row.
    unsafe { call.run(Some((to, call.at_once(width))), warps(rows), (256, 1))? };
    Ok((y, [mean, scale]))
}

/// The gradients of x (plus `base`), gain and shift.
pub(crate) fn layer_norm_backward(
    device: &CudaDevice,
    (x, gain): (&dyn Memory, &dyn Memory),
    (dy, format): (&dyn Memory, DType),
    [mean, scale]: [&dyn Memory; 2],
    base: Option<&dyn Memory>,
    (rows, width): Rows,
) -> Result<[Buffer; 3]> {
    let dx = Buffer::new(device, (rows, width), F32)?;
    let call = Call::new(device, LAYER_NORM, "layer_norm_backward")
        .of(x, F32, rows * width)?
        .of(gain, F32, width)?
        .of(dy, format, rows * width)?
        .of(mean, F32, rows)?
        .of(scale, F32, rows)?
        .perhaps(base, F32, rows * width)?
        .of(&dx, F32, rows * width)?
        .int(rows)?
        .int(width)?;
    // SAFETY: as the module says; a warp for each row.
    unsafe { call.run(Some((format, call.at_once(width))), warps(rows), (256, 1))? };
    let chunks = Chunks::of(rows, width);
    let (gains, shifts) = (chunks.partial(device, width)?, chunks.partial(device, width)?);
    let call = Call::new(device, COLUMNS, "norm_sums")
        .of(x, F32, rows * width)?
        .of(dy, format, rows * width)?
        .of(mean, F32, rows)?
        .of(scale, F32, rows)?
        .of(&gains, F32, chunks.count * width)?
        .of(&shifts, F32, chunks.count * width)?
        .int(rows)?
        .int(width)?
        .int(chunks.rows)?;
    // SAFETY: as the module says; every column of every chunk.
    unsafe { chunks.run(&call, format, width)? };
    Ok([dx, chunks.total(device, gains, width)?, chunks.total(device, shifts, width)?])
}

/// How the rows of a column's sum are divided; the sizes alone decide.
#[derive(Clone, Copy)]
struct Chunks {
    count: usize,
    rows: usize,
}

impl Chunks {
    fn of(rows: usize, width: usize) -> Self {
        // Some thousand threads for each processor of a large GPU, and 8 rows or more for each thread.
        let wanted = 1024usize.div_ceil(width.div_ceil(128)).min(rows.div_ceil(64)).max(1);
        let each = rows.div_ceil(wanted);
        Self { count: rows.div_ceil(each), rows: each }
    }

    fn partial(self, device: &CudaDevice, width: usize) -> Result<Buffer> {
        Buffer::new(device, (self.count, width), F32)
    }

    /// Sums of the chunks' sums.
    fn total(self, device: &CudaDevice, partial: Buffer, width: usize) -> Result<Buffer> {
        if self.count == 1 {
            return partial.shaped(width);
        }
        let sums = Buffer::new(device, width, F32)?;
        let one = Self { count: 1, rows: self.count };
        let call = Call::new(device, COLUMNS, "column_sums")
            .of(&partial, F32, self.count * width)?
            .of(&sums, F32, width)?
            .int(self.count)?
            .int(width)?
            .int(one.rows)?;
        // SAFETY: as the module says; every column, one chunk.
        unsafe { one.run(&call, F32, width)? };
        Ok(sums)
    }

    /// # Safety
    /// As [`Call::run`] for a kernel of `columns.cu`.
    unsafe fn run(self, call: &Call, format: DType, width: usize) -> Result<()> {
        let at_once = call.at_once(width);
        let grid = ((width / at_once).div_ceil(32), self.count);
        // SAFETY: the caller's.
        unsafe { call.run(Some((format, at_once)), grid, (32, 8)) }
    }
}

/// Σ over rows.
pub(crate) fn column_sums(
    device: &CudaDevice,
    (x, format): (&dyn Memory, DType),
    (rows, width): Rows,
) -> Result<Buffer> {
    let chunks = Chunks::of(rows, width);
    let partial = chunks.partial(device, width)?;
    let call = Call::new(device, COLUMNS, "column_sums")
        .of(x, format, rows * width)?
        .of(&partial, F32, chunks.count * width)?
        .int(rows)?
        .int(width)?
        .int(chunks.rows)?;
    // SAFETY: as the module says; every column of every chunk.
    unsafe { chunks.run(&call, format, width)? };
    chunks.total(device, partial, width)
}

/// f32 rows rounded to bf16, and their sums.
pub(crate) fn rounded_sums(
    device: &CudaDevice,
    x: &dyn Memory,
    (rows, width): Rows,
) -> Result<(Buffer, Buffer)> {
    let y = Buffer::new(device, (rows, width), BF16)?;
    let chunks = Chunks::of(rows, width);
    let partial = chunks.partial(device, width)?;
    let call = Call::new(device, COLUMNS, "rounded_sums")
        .of(x, F32, rows * width)?
        .of(&y, BF16, rows * width)?
        .of(&partial, F32, chunks.count * width)?
        .int(rows)?
        .int(width)?
        .int(chunks.rows)?;
    // SAFETY: as the module says; every column of every chunk.
    unsafe { chunks.run(&call, BF16, width)? };
    Ok((y, chunks.total(device, partial, width)?))
}

/// dy gelu'(x + bias), and its sums over rows.
pub(crate) fn gelu_backward(
    device: &CudaDevice,
    (x, bias, dy): (&dyn Memory, &dyn Memory, &dyn Memory),
    format: DType,
    (rows, width): Rows,
    quick: bool,
) -> Result<(Buffer, Buffer)> {
    let dx = Buffer::new(device, (rows, width), format)?;
    let chunks = Chunks::of(rows, width);
    let partial = chunks.partial(device, width)?;
    let call = Call::new(device, COLUMNS, "gelu_backward")
        .of(x, format, rows * width)?
        .of(bias, F32, width)?
        .of(dy, format, rows * width)?
        .of(&dx, format, rows * width)?
        .of(&partial, F32, chunks.count * width)?
        .int(rows)?
        .int(width)?
        .int(chunks.rows)?
        .int(usize::from(quick))?;
    // SAFETY: as the module says; every column of every chunk.
    unsafe { chunks.run(&call, format, width)? };
    Ok((dx, chunks.total(device, partial, width)?))
}

/// gelu(x + bias) in the format of x.
pub(crate) fn gelu(
    device: &CudaDevice,
    (x, bias): (&dyn Memory, Option<&dyn Memory>),
    format: DType,
    (rows, width): Rows,
    quick: bool,
) -> Result<Buffer> {
    let y = Buffer::new(device, (rows, width), format)?;
    let call = Call::new(device, ELEMENTS, "gelu")
        .of(x, format, rows * width)?
        .perhaps(bias, F32, width)?
        .of(&y, format, rows * width)?
        .count(rows * width)
        .int(width)?
        .int(usize::from(quick))?;
    let (at_once, grid) = all(&call, width, rows * width)?;
    // SAFETY: as the module says; a thread for every `at_once` numbers.
    unsafe { call.run(Some((format, at_once)), grid, (THREADS as u32, 1))? };
    Ok(y)
}

/// dy gelu'(x), f32.
pub(crate) fn gelu_slopes(
    device: &CudaDevice,
    (x, dy): (&dyn Memory, &dyn Memory),
    count: usize,
    quick: bool,
) -> Result<Buffer> {
    let dx = Buffer::new(device, count, F32)?;
    let call = Call::new(device, ELEMENTS, "gelu_slopes")
        .of(x, F32, count)?
        .of(dy, F32, count)?
        .of(&dx, F32, count)?
        .count(count)
        .int(usize::from(quick))?;
    let (at_once, grid) = all(&call, count, count)?;
    // SAFETY: as the module says; a thread for every `at_once` numbers.
    unsafe { call.run(Some((F32, at_once)), grid, (THREADS as u32, 1))? };
    Ok(dx)
}

/// gelu(gate) value, f32.
pub(crate) fn geglu(
    device: &CudaDevice,
    (gate, value): (&dyn Memory, &dyn Memory),
    count: usize,
) -> Result<Buffer> {
    let y = Buffer::new(device, count, F32)?;
    let call = Call::new(device, ELEMENTS, "geglu")
        .of(gate, F32, count)?
        .of(value, F32, count)?
        .of(&y, F32, count)?
        .count(count);
    let (at_once, grid) = all(&call, count, count)?;
    // SAFETY: as the module says; a thread for every `at_once` numbers.
    unsafe { call.run(Some((F32, at_once)), grid, (THREADS as u32, 1))? };
    Ok(y)
}

/// Gradients of gate and value.
pub(crate) fn geglu_backward(
    device: &CudaDevice,
    (gate, value, dy): (&dyn Memory, &dyn Memory, &dyn Memory),
    count: usize,
) -> Result<[Buffer; 2]> {
    let (dgate, dvalue) = (Buffer::new(device, count, F32)?, Buffer::new(device, count, F32)?);
    let call = Call::new(device, ELEMENTS, "geglu_backward")
        .of(gate, F32, count)?
        .of(value, F32, count)?
        .of(dy, F32, count)?
        .of(&dgate, F32, count)?
        .of(&dvalue, F32, count)?
        .count(count);
    let (at_once, grid) = all(&call, count, count)?;
    // SAFETY: as the module says; a thread for every `at_once` numbers.
    unsafe { call.run(Some((F32, at_once)), grid, (THREADS as u32, 1))? };
    Ok([dgate, dvalue])
}

/// x + z + bias in f32, x and bias where there are any.
pub(crate) fn sum(
    device: &CudaDevice,
    x: Option<&dyn Memory>,
    (z, format): (&dyn Memory, DType),
    bias: Option<&dyn Memory>,
    (rows, width): Rows,
) -> Result<Buffer> {
    let y = Buffer::new(device, (rows, width), F32)?;
    let call = Call::new(device, ELEMENTS, "sum")
        .perhaps(x, F32, rows * width)?
        .of(z, format, rows * width)?
        .perhaps(bias, F32, width)?
        .of(&y, F32, rows * width)?
        .count(rows * width)
        .int(width)?;
    let (at_once, grid) = all(&call, width, rows * width)?;
    // SAFETY: as the module says; a thread for every `at_once` numbers.
    unsafe { call.run(Some((format, at_once)), grid, (THREADS as u32, 1))? };
    Ok(y)
}

/// f32 numbers rounded to bf16.
pub(crate) fn rounded(device: &CudaDevice, x: &dyn Memory, (rows, width): Rows) -> Result<Buffer> {
    let count = rows * width;
    let y = Buffer::new(device, (rows, width), BF16)?;
    let call = Call::new(device, ELEMENTS, "rounded").of(x, F32, count)?.of(&y, BF16, count)?;
    let call = call.count(count);
    let (at_once, grid) = all(&call, count, count)?;
    // SAFETY: as the module says; a thread for every `at_once` numbers.
    unsafe { call.run(Some((BF16, at_once)), grid, (THREADS as u32, 1))? };
    Ok(y)
}

/// Sequences, of which each head has `tokens` rows of its own when they are apart.
pub(crate) struct Heads<'a> {
    pub(crate) batch: usize,
    pub(crate) heads: usize,
    pub(crate) head: usize,
    pub(crate) tokens: usize,
    /// Rows of all sequences together.
    pub(crate) rows: usize,
    /// Where each begins, and where the last ends (B + 1); None where all have `tokens` rows.
    pub(crate) starts: Option<&'a dyn Memory>,
}

impl Heads<'_> {
    fn width(&self) -> usize {
        self.heads * self.head
    }

    /// Numbers of one part apart.
    fn apart_count(&self) -> usize {
        self.batch * self.tokens * self.width()
    }

    fn numbers<'c>(&self, call: Call<'c>, parts: usize) -> Result<Call<'c>> {
        let sizes = [self.batch, self.heads, parts, self.tokens, self.head];
        sizes.into_iter().try_fold(call, Call::int)
    }

    /// Rows (ΣN, parts, H, d) plus `bias` (parts, H, d) as (parts, B, H, tokens, d), the first part
    /// times `factor`.
    pub(crate) fn apart(
        &self,
        device: &CudaDevice,
        (x, bias, format): (&dyn Memory, Option<&dyn Memory>, DType),
        parts: usize,
        factor: f32,
    ) -> Result<Buffer> {
        let y = Buffer::new(device, parts * self.apart_count(), format)?;
        let call = Call::new(device, ATTENTION, "heads_apart")
            .of(x, format, self.rows * parts * self.width())?
            .perhaps(bias, F32, parts * self.width())?
            .of(&y, format, parts * self.apart_count())?
            .perhaps(self.starts, U32, self.batch + 1)?;
        let call = self.numbers(call, parts)?.float(factor);
        let grid = (parts * self.batch * self.heads, 1);
        // SAFETY: as the module says; a block for each part, sequence and head. `starts` rises to
        // `rows` in steps of at most `tokens`, which its maker (`attention::Sequences`) sees to.
        unsafe { call.run(Some((format, call.at_once(self.head))), grid, (256, 1))? };
        Ok(y)
    }

    /// The inverse of [`Heads::apart`].
    pub(crate) fn together(
        &self,
        device: &CudaDevice,
        (x, format): (&dyn Memory, DType),
        parts: usize,
        factor: f32,
    ) -> Result<Buffer> {
        let y = Buffer::new(device, (self.rows, parts * self.width()), format)?;
        let call = Call::new(device, ATTENTION, "heads_together")
            .of(x, format, parts * self.apart_count())?
            .of(&y, format, self.rows * parts * self.width())?
            .perhaps(self.starts, U32, self.batch + 1)?;
        let call = self.numbers(call, parts)?.float(factor);
        let grid = (parts * self.batch * self.heads, 1);
        // SAFETY: as for `apart`.
        unsafe { call.run(Some((format, call.at_once(self.head))), grid, (256, 1))? };
        Ok(y)
    }

    /// Softmax of scores (B, H, tokens, stride) f32 over what each query sees.
    pub(crate) fn softmax(
        &self,
        device: &CudaDevice,
        scores: &dyn Memory,
        stride: usize,
        causal: bool,
        to: DType,
    ) -> Result<Buffer> {
        let rows = self.batch * self.heads * self.tokens;
        let y = Buffer::new(device, (rows, stride), to)?;
        let call = Call::new(device, ATTENTION, "seen_softmax")
            .of(scores, F32, rows * stride)?
            .of(&y, to, rows * stride)?
            .perhaps(self.starts, U32, self.batch + 1)?
            .int(self.heads)?
            .int(self.tokens)?
            .int(stride)?
            .int(usize::from(causal))?
            .count(rows);
        // SAFETY: as the module says; a warp for each row.
        unsafe { call.run(Some((to, 1)), warps(rows), (256, 1))? };
        Ok(y)
    }

    /// The gradient of the scores.
    pub(crate) fn softmax_backward(
        &self,
        device: &CudaDevice,
        (weights, format): (&dyn Memory, DType),
        dp: &dyn Memory,
        stride: usize,
    ) -> Result<Buffer> {
        let rows = self.batch * self.heads * self.tokens;
        let ds = Buffer::new(device, (rows, stride), format)?;
        let call = Call::new(device, ATTENTION, "softmax_backward")
            .of(weights, format, rows * stride)?
            .of(dp, F32, rows * stride)?
            .of(&ds, format, rows * stride)?
            .int(self.tokens)?
            .int(stride)?
            .count(rows);
        // SAFETY: as the module says; a warp for each row.
        unsafe { call.run(Some((format, 1)), warps(rows), (256, 1))? };
        Ok(ds)
    }
}

/// How a head of a short sequence lies in the shared memory of a block.
#[derive(Clone, Copy)]
pub(crate) struct Short {
    forward: &'static str,
    backward: &'static str,
    tiles: usize,
    /// Bytes of both passes.
    shared: [usize; 2],
}

impl Heads<'_> {
    /// If one kernel takes these sequences, in bf16: heads of a width that it was made for, no
    /// sequence longer than 128, and a GPU with tensor cores and shared memory for it.
    pub(crate) fn short(&self, device: &CudaDevice) -> Result<Option<Short>> {
        /// The file is empty where it was compiled for a GPU whose tensor cores don't take bf16.
        static THERE: LazyLock<bool> = LazyLock::new(|| SHORT.1.contains("short_attention_64"));
        let (forward, backward) = match self.head {
            32 => ("short_attention_32", "short_attention_backward_32"),
            48 => ("short_attention_48", "short_attention_backward_48"),
            64 => ("short_attention_64", "short_attention_backward_64"),
            80 => ("short_attention_80", "short_attention_backward_80"),
            _ => return Ok(None),
        };
        let tiles = self.tokens.div_ceil(16);
        if tiles > 8 || !*THERE {
            return Ok(None);
        }
        // As the kernels lay it out.
        let (rows, width) = (16 * tiles, self.head + 8);
        let scores = rows * (rows + 4) * 4;
        let shared =
            [3 * rows * width * 2 + scores, 4 * rows * width * 2 + scores + rows * (rows + 8) * 2];
        let limit = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        let limit = device.cuda_stream().context().attribute(limit).map_err(Error::wrap)?;
        let fits = shared[1] <= limit as usize;
        Ok(fits.then_some(Short { forward, backward, tiles, shared }))
    }

    /// y (ΣN, H, d) of rows (ΣN, 3, H, d) plus `bias`, all bf16 but the bias.
    pub(crate) fn attend(
        &self,
        device: &CudaDevice,
        short: Short,
        (qkv, bias): (&dyn Memory, Option<&dyn Memory>),
        (causal, factor): (bool, f32),
    ) -> Result<Buffer> {
        let y = Buffer::new(device, (self.rows, self.width()), BF16)?;
        let call = Call::new(device, SHORT, short.forward)
            .of(qkv, BF16, self.rows * 3 * self.width())?
            .perhaps(bias, F32, 3 * self.width())?
            .of(&y, BF16, self.rows * self.width())?
            .perhaps(self.starts, U32, self.batch + 1)?;
        self.run_short(call, short.tiles, (causal, factor), short.shared[0])?;
        Ok(y)
    }

    /// The gradient (ΣN, 3, H, d) of the rows.
    pub(crate) fn attend_backward(
        &self,
        device: &CudaDevice,
        short: Short,
        (qkv, bias): (&dyn Memory, Option<&dyn Memory>),
        dy: &dyn Memory,
        (causal, factor): (bool, f32),
    ) -> Result<Buffer> {
        let dx = Buffer::new(device, (self.rows, 3 * self.width()), BF16)?;
        let call = Call::new(device, SHORT, short.backward)
            .of(qkv, BF16, self.rows * 3 * self.width())?
            .perhaps(bias, F32, 3 * self.width())?
            .of(dy, BF16, self.rows * self.width())?
            .of(&dx, BF16, self.rows * 3 * self.width())?
            .perhaps(self.starts, U32, self.batch + 1)?;
        self.run_short(call, short.tiles, (causal, factor), short.shared[1])?;
        Ok(dx)
    }

    fn run_short(
        &self,
        call: Call,
        tiles: usize,
        (causal, factor): (bool, f32),
        shared: usize,
    ) -> Result<()> {
        if call.at_once(self.head) != 4 {
            candle_core::bail!("attention: memory that does not begin at a multiple of 16 bytes");
        }
        let sizes = [self.heads, self.tokens, tiles, usize::from(causal)];
        let call = sizes.into_iter().try_fold(call, Call::int)?.float(factor);
        let grid = (self.batch * self.heads, 1);
        // SAFETY: as the module says; a block for each head of each sequence and a warp for each 16
        // queries, shared memory as `short` counts it, `starts` as for `apart`.
        unsafe { call.run_with(None, grid, (32 * tiles as u32, 1), shared) }
    }
}

/// table[ids], where every id was looked at: below `entries`.
pub(crate) fn rows_of(
    device: &CudaDevice,
    (table, entries): (&dyn Memory, usize),
    ids: &dyn Memory,
    (rows, width): Rows,
) -> Result<Buffer> {
    let y = Buffer::new(device, (rows, width), F32)?;
    let call = Call::new(device, TOKENS, "rows_of")
        .of(table, F32, entries * width)?
        .of(ids, U32, rows)?
        .of(&y, F32, rows * width)?
        .int(rows)?
        .int(width)?;
    let (at_once, grid) = all(&call, width, rows * width)?;
    // SAFETY: as the module says; a thread for every `at_once` numbers, and ids below `entries`.
    unsafe { call.run(Some((F32, at_once)), grid, (THREADS as u32, 1))? };
    Ok(y)
}

/// The rows of dy summed by id into a table; `order` (R) sorts the rows by id, `ids` (K) are those
/// that occur, `starts` (K + 1) says where each begins in `order`.
pub(crate) fn rows_summed(
    device: &CudaDevice,
    dy: &dyn Memory,
    [order, starts, ids]: [&dyn Memory; 3],
    (table, entries): (&dyn Memory, usize),
    (rows, distinct, width): (usize, usize, usize),
    add: bool,
) -> Result<()> {
    let call = Call::new(device, TOKENS, "rows_summed")
        .of(dy, F32, rows * width)?
        .of(order, U32, rows)?
        .of(starts, U32, distinct + 1)?
        .of(ids, U32, distinct)?
        .of(table, F32, entries * width)?
        .int(width)?
        .int(usize::from(add))?;
    let at_once = call.at_once(width);
    let grid = (distinct, (width / at_once).div_ceil(32));
    // SAFETY: as the module says; ids below `entries`, each once, and `order` a permutation of the
    // rows: their maker (`tokens::Sorted`) sees to it.
    unsafe { call.run(Some((F32, at_once)), grid, (32, 8)) }
}

/// Images (B, C, H, W) as rows of patches, or `back`; sides are multiples of `patch`.
pub(crate) fn patches(
    device: &CudaDevice,
    x: &dyn Memory,
    (batch, channels, height, width): (usize, usize, usize, usize),
    patch: usize,
    back: bool,
) -> Result<Buffer> {
    let count = batch * channels * height * width;
    let y = Buffer::new(device, count, F32)?;
    let (images, rows): (&dyn Memory, &dyn Memory) = if back { (&y, x) } else { (x, &y) };
    let call = Call::new(device, TOKENS, "patches")
        .of(images, F32, count)?
        .of(rows, F32, count)?
        .count(count)
        .int(channels)?
        .int(height)?
        .int(width)?
        .int(patch)?
        .int(usize::from(back))?;
    let (at_once, grid) = all(&call, patch, count)?;
    // SAFETY: as the module says; a thread for every `at_once` numbers, each of which lies in one
    // patch and one image.
    unsafe { call.run(Some((F32, at_once)), grid, (THREADS as u32, 1))? };
    Ok(y)
}

/// Class token and positions: (B, N, C).
pub(crate) fn sequence(
    device: &CudaDevice,
    [class, tokens, positions]: [&dyn Memory; 3],
    (batch, length, width): (usize, usize, usize),
) -> Result<Buffer> {
    let count = batch * length * width;
    let y = Buffer::new(device, (batch, length, width), F32)?;
    let call = Call::new(device, TOKENS, "sequence")
        .of(class, F32, width)?
        .of(tokens, F32, batch * (length - 1) * width)?
        .of(positions, F32, length * width)?
        .of(&y, F32, count)?
        .count(count)
        .int(length)?
        .int(width)?;
    let (at_once, grid) = all(&call, width, count)?;
    // SAFETY: as the module says; a thread for every `at_once` numbers.
    unsafe { call.run(Some((F32, at_once)), grid, (THREADS as u32, 1))? };
    Ok(y)
}

/// (B, N, C) without the first of each N; N > 1.
pub(crate) fn without_first(
    device: &CudaDevice,
    x: &dyn Memory,
    (batch, length, width): (usize, usize, usize),
) -> Result<Buffer> {
    let count = batch * (length - 1) * width;
    let y = Buffer::new(device, (batch, length - 1, width), F32)?;
    let call = Call::new(device, TOKENS, "without_first")
        .of(x, F32, batch * length * width)?
        .of(&y, F32, count)?
        .count(count)
        .int(length)?
        .int(width)?;
    let (at_once, grid) = all(&call, width, count)?;
    // SAFETY: as the module says; a thread for every `at_once` numbers.
    unsafe { call.run(Some((F32, at_once)), grid, (THREADS as u32, 1))? };
    Ok(y)
}

/// Rows of unit length.
pub(crate) fn unit_rows(
    device: &CudaDevice,
    x: &dyn Memory,
    (rows, width): Rows,
) -> Result<Buffer> {
    let y = Buffer::new(device, (rows, width), F32)?;
    let call = Call::new(device, LOSS, "unit_rows")
        .of(x, F32, rows * width)?
        .of(&y, F32, rows * width)?
        .int(rows)?
        .int(width)?;
    // SAFETY: as the module says; a warp for each row.
    unsafe { call.run(None, warps(rows), (256, 1))? };
    Ok(y)
}

/// Their gradient.
pub(crate) fn unit_rows_backward(
    device: &CudaDevice,
    all: [&dyn Memory; 3],
    (rows, width): Rows,
) -> Result<Buffer> {
    let dx = Buffer::new(device, (rows, width), F32)?;
    let call = Call::new(device, LOSS, "unit_rows_backward");
    let call = all.into_iter().try_fold(call, |call, one| call.of(one, F32, rows * width))?;
    let call = call.of(&dx, F32, rows * width)?.int(rows)?.int(width)?;
    // SAFETY: as the module says; a warp for each row.
    unsafe { call.run(None, warps(rows), (256, 1))? };
    Ok(dx)
}

/// The mean cross-entropy (), and log Σ e^x of each row; targets were looked at: below `classes`.
pub(crate) fn cross_entropy(
    device: &CudaDevice,
    (logits, targets): (&dyn Memory, &dyn Memory),
    (rows, classes): Rows,
) -> Result<(Buffer, Buffer)> {
    let (sums, losses) = (Buffer::new(device, rows, F32)?, Buffer::new(device, rows, F32)?);
    let call = Call::new(device, LOSS, "row_losses")
        .of(logits, F32, rows * classes)?
        .of(targets, U32, rows)?
        .of(&sums, F32, rows)?
        .of(&losses, F32, rows)?
        .int(classes)?;
    // SAFETY: as the module says; a block for each row, targets below `classes`.
    unsafe { call.run(None, (rows, 1), (256, 1))? };
    let mean = Buffer::new(device, (), F32)?;
    let call =
        Call::new(device, LOSS, "mean").of(&losses, F32, rows)?.of(&mean, F32, 1)?.int(rows)?;
    // SAFETY: as the module says; one warp.
    unsafe { call.run(None, (1, 1), (32, 1))? };
    Ok((mean, sums))
}

/// The gradient of the logits.
pub(crate) fn cross_entropy_backward(
    device: &CudaDevice,
    [logits, targets, sums, dy]: [&dyn Memory; 4],
    (rows, classes): Rows,
) -> Result<Buffer> {
    let dx = Buffer::new(device, (rows, classes), F32)?;
    let call = Call::new(device, LOSS, "row_losses_backward")
        .of(logits, F32, rows * classes)?
        .of(targets, U32, rows)?
        .of(sums, F32, rows)?
        .of(dy, F32, 1)?
        .of(&dx, F32, rows * classes)?
        .int(rows)?
        .int(classes)?;
    let grid = ((rows * classes).div_ceil(THREADS), 1);
    // SAFETY: as the module says; a thread for each number.
    unsafe { call.run(None, grid, (THREADS as u32, 1))? };
    Ok(dx)
}

/// Tensors of one launch of `optimizer.cu`, as its `Table`.
pub(crate) const TABLE: usize = 48;

/// Addresses and lengths of up to [`TABLE`] tensors.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Table {
    addresses: [[u64; TABLE]; 4],
    lengths: [u64; TABLE],
    keep: [f32; TABLE],
}

// SAFETY: `repr(C)`, of the same fields in the same order as the kernels' `Table`; addresses are 8
// bytes on both sides.
unsafe impl DeviceRepr for Table {}

impl Table {
    /// Of f32 memory: for each tensor parameter, gradient, first and second moment, all of one
    /// length, or the gradient in place of all four.
    pub(crate) fn new(device: &CudaDevice, tensors: &[([&dyn Memory; 4], f32)]) -> Result<Self> {
        let mut table =
            Self { addresses: [[0; TABLE]; 4], lengths: [0; TABLE], keep: [0.0; TABLE] };
        if tensors.len() > TABLE {
            candle_core::bail!("{} tensors in a table of {TABLE}", tensors.len());
        }
        for (i, (memory, keep)) in tensors.iter().enumerate() {
            let mut lengths = [0; 4];
            for (place, memory) in memory.iter().enumerate() {
                let (dtype, count, here, address) = memory.at()?;
                if dtype != F32 || here != device.id() {
                    candle_core::bail!("optimizer: f32 tensors of one device, got {dtype:?}");
                }
                table.addresses[place][i] = address;
                lengths[place] = count as u64;
            }
            if lengths != [lengths[0]; 4] {
                candle_core::bail!(
                    "optimizer: a parameter with gradient and moments of {lengths:?}"
                );
            }
            table.lengths[i] = lengths[0];
            table.keep[i] = *keep;
        }
        Ok(table)
    }

    /// One step of AdamW on the first `count` tensors; the numbers in the order of the kernel.
    pub(crate) fn adamw(&self, device: &CudaDevice, count: usize, numbers: [f32; 7]) -> Result<()> {
        let call = Call::new(device, OPTIMIZER, "adamw");
        let call = numbers.into_iter().fold(call, Call::float);
        // SAFETY: as the module says; tensors of one length each, and stream order keeps any other
        // kernel away from them.
        unsafe { call.run_on(self, (BLOCKS, count), (256, 1)) }
    }

    /// Sums of squares of the first `count` gradients, into `partial` (count, [`BLOCKS`]).
    pub(crate) fn squares(&self, device: &CudaDevice, count: usize) -> Result<Buffer> {
        let partial = Buffer::new(device, (count, BLOCKS), F64)?;
        let call = Call::new(device, OPTIMIZER, "squares").of(&partial, F64, count * BLOCKS)?;
        // SAFETY: as the module says.
        unsafe { call.run_on(self, (BLOCKS, count), (256, 1))? };
        Ok(partial)
    }
}

/// Blocks for each tensor of a table.
const BLOCKS: usize = 256;

/// Σ of f64 numbers of f64, ().
pub(crate) fn total(device: &CudaDevice, x: &dyn Memory, count: usize) -> Result<Buffer> {
    let y = Buffer::new(device, (), F64)?;
    let call =
        Call::new(device, OPTIMIZER, "total").of(x, F64, count)?.of(&y, F64, 1)?.int(count)?;
    // SAFETY: as the module says; one block.
    unsafe { call.run(None, (1, 1), (256, 1))? };
    Ok(y)
}
