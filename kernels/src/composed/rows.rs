//! What works row by row.

use candle_core::{D, DType, Device, Result, Tensor};

use crate::linear::Products;

/// [`crate::layer_norm()`]
pub(crate) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let width = weight.elem_count();
    let rows = x.reshape(((), width))?;
    let share = 1.0 / width as f64;
    let centred = (&rows - stretch(&(row_sums(&rows)? * share)?, width)?)?;
    let variance = (row_sums(&centred.sqr()?)? * share)?;
    let scale = stretch(&(variance + eps)?.sqrt()?.recip()?, width)?;
    let count = rows.dim(0)?;
    (((centred * scale)? * spread(weight, count)?)? + spread(bias, count)?)?.reshape(x.shape())
}

/// Sums (R, 1) of rows (R, C), as a product with ones, as all here that is the same along an axis:
/// candle's own broadcasts and sums count out the place of every number.
fn row_sums(x: &Tensor) -> Result<Tensor> {
    x.matmul(&Tensor::ones((x.dim(1)?, 1), x.dtype(), x.device())?)
}

/// A column (R, 1), `width` times beside itself.
fn stretch(column: &Tensor, width: usize) -> Result<Tensor> {
    column.matmul(&Tensor::ones((1, width), column.dtype(), column.device())?)
}

/// A row (C), `rows` times below itself.
pub(super) fn spread(row: &Tensor, rows: usize) -> Result<Tensor> {
    Tensor::ones((rows, 1), row.dtype(), row.device())?.matmul(&row.reshape((1, ()))?)
}

/// [`crate::linear_in()`]
pub(crate) fn linear(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    products: Products,
) -> Result<Tensor> {
    let y = product(x, &weight.t()?, products)?;
    match bias {
        Some(bias) => with_bias(&y, bias),
        None => Ok(y),
    }
}

/// y (.., C) plus a row (C).
pub(super) fn with_bias(y: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let rows = y.reshape(((), bias.elem_count()))?;
    (&rows + spread(bias, rows.dim(0)?)?)?.reshape(y.shape())
}

/// x (.., K) times w (K, N).
pub(crate) fn product(x: &Tensor, w: &Tensor, products: Products) -> Result<Tensor> {
    let (k, n) = w.dims2()?;
    let mut shape = x.dims().to_vec();
    shape.pop();
    shape.push(n);
    let rows = x.elem_count() / k.max(1);
    let x = x.reshape((rows, k))?;
    let y = match products {
        Products::F32 => x.matmul(w)?,
        Products::Bf16 => {
            x.to_dtype(DType::BF16)?.matmul(&w.to_dtype(DType::BF16)?)?.to_dtype(x.dtype())?
        }
    };
    y.reshape(shape)
}

/// [`crate::gelu()`]
pub(crate) fn gelu(x: &Tensor) -> Result<Tensor> {
    x.gelu_erf()
}

/// [`crate::quick_gelu()`]; σ by way of tanh, whose slope is a number for every x.
pub(crate) fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    let sigmoid = ((x * 0.851)?.tanh()? * 0.5)? + 0.5;
    x * sigmoid?
}

/// [`crate::gelu_first()`]
pub(crate) fn gelu_first(x: &Tensor, active: usize, quick: bool) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    if active == 0 {
        return Ok(x.clone());
    }
    let first = x.narrow(D::Minus1, 0, active)?.contiguous()?;
    let first = if quick { quick_gelu(&first)? } else { gelu(&first)? };
    if active == width {
        return Ok(first);
    }
    Tensor::cat(&[first, x.narrow(D::Minus1, active, width - active)?.contiguous()?], D::Minus1)
}

/// [`crate::geglu()`]
pub(crate) fn geglu(gate: &Tensor, value: &Tensor) -> Result<Tensor> {
    gelu(gate)? * value
}

/// [`crate::softmax()`]
pub(crate) fn softmax(x: &Tensor) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    let rows = x.reshape(((), width))?;
    let e = (&rows - stretch(&rows.max_keepdim(1)?.detach(), width)?)?.exp()?;
    let share = stretch(&row_sums(&e)?.recip()?, width)?;
    (e * share)?.reshape(x.shape())
}

/// [`crate::cross_entropy()`]
pub(crate) fn cross_entropy(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let rows = logits.dim(0)?;
    let moved = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
    let sums = moved.exp()?.sum_keepdim(D::Minus1)?.log()?; // (R, 1)
    let targets = Tensor::from_slice(targets, (rows, 1), logits.device())?;
    (sums - moved.gather(&targets, 1)?)?.mean_all()
}

/// [`crate::embedding()`]
pub(crate) fn embedding(table: &Tensor, ids: &[u32], shape: &[usize]) -> Result<Tensor> {
    let ids = Tensor::from_slice(ids, ids.len(), table.device())?;
    table.contiguous()?.index_select(&ids, 0)?.reshape(shape)
}

/// [`crate::l2_normalize()`]
pub(crate) fn l2_normalize(x: &Tensor) -> Result<Tensor> {
    let squares = x.sqr()?.sum_keepdim(D::Minus1)?;
    // 1e-12 squared: the shortest length that is divided by.
    let shortest = Tensor::new(1e-24f32, x.device())?.to_dtype(x.dtype())?;
    let length = squares.broadcast_maximum(&shortest)?.sqrt()?;
    x.broadcast_mul(&length.recip()?)
}

/// [`crate::patches()`]
pub(crate) fn patches(x: &Tensor, patch: usize) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    let (rows, columns) = (h / patch, w / patch);
    x.reshape(vec![b, c, rows, patch, columns, patch])?
        .permute(vec![0, 2, 4, 1, 3, 5])?
        .contiguous()?
        .reshape((b, rows * columns, c * patch * patch))
}

/// [`crate::with_class_and_positions()`]
pub(crate) fn with_class_and_positions(
    class: &Tensor,
    tokens: &Tensor,
    positions: &Tensor,
) -> Result<Tensor> {
    let (batch, _, width) = tokens.dims3()?;
    let class = spread(class, batch)?.reshape((batch, 1, width))?;
    let all = Tensor::cat(&[&class, tokens], 1)?;
    let positions = spread(&positions.flatten_all()?, batch)?;
    &all + positions.reshape(all.shape())?
}

/// Mean and biased variance (C) of the rows, through which the gradient flows.
pub(crate) fn moments(x: &Tensor) -> Result<(Tensor, Tensor)> {
    let rows = x.flatten_to(D::Minus2)?;
    let mean = rows.mean(0)?;
    let variance = rows.broadcast_sub(&mean)?.sqr()?.mean(0)?;
    Ok((mean, variance))
}

/// [`crate::batch_norm()`]
pub(crate) fn batch_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    mean: &Tensor,
    variance: &Tensor,
    eps: f64,
) -> Result<Tensor> {
    let scale = ((variance + eps)?.sqrt()?.recip()? * weight)?;
    x.broadcast_sub(mean)?.broadcast_mul(&scale)?.broadcast_add(bias)
}

/// 0 where a query sees a key, -∞ where it does not: (B, 1, N, N), or (1, 1, N, N) where all
/// sequences have all `tokens`.
pub(super) fn mask(
    lengths: &[usize],
    tokens: usize,
    causal: bool,
    dtype: DType,
    device: &Device,
) -> Result<Option<Tensor>> {
    let full = lengths.iter().all(|n| *n == tokens);
    if full && !causal {
        return Ok(None);
    }
    let lengths = if full { &lengths[..lengths.len().min(1)] } else { lengths };
    let mut values = Vec::with_capacity(lengths.len() * tokens * tokens);
    for n in lengths {
        for query in 0..tokens {
            // A query of the padding sees the first key: a row with nothing to see is no number.
            let end = if causal { query + 1 } else { tokens };
            let end = end.min(*n).max(1);
            values.extend((0..tokens).map(|key| if key < end { 0f32 } else { f32::NEG_INFINITY }));
        }
    }
    let shape = (lengths.len(), 1, tokens, tokens);
    Tensor::from_vec(values, shape, device)?.to_dtype(dtype).map(Some)
}
