//! From ids and pixels to tokens.

use candle_core::{DType, Device, Result, Shape, Storage, Tensor, TensorId};

use super::launch::{Buffer, Memory};
use super::rows::indices;
use super::{calls, device};
use crate::collect_tensors::collect_tensor;
use crate::fused::{Fused, apply};

/// [`crate::embedding()`]; every id was looked at.
pub(crate) fn embedding(table: &Tensor, ids: &[u32], shape: &[usize]) -> Result<Tensor> {
    let sorted = match table.track_op() {
        true => Some(Sorted::new(ids, table.device())?),
        false => None,
    };
    let ids = indices(ids, table.device())?;
    apply(Embedding { ids, shape: shape.to_vec(), sorted }, &[table])
}

/// [`crate::patches()`]
pub(crate) fn patches(x: &Tensor, patch: usize) -> Result<Tensor> {
    apply(Patches { patch }, &[x])
}

/// [`crate::with_class_and_positions()`]
pub(crate) fn with_class_and_positions(
    class: &Tensor,
    tokens: &Tensor,
    positions: &Tensor,
) -> Result<Tensor> {
    apply(Sequence, &[class, tokens, positions])
}

struct Embedding {
    ids: Tensor,
    shape: Vec<usize>,
    /// Where the table has a gradient.
    sorted: Option<Sorted>,
}

/// Rows in the order of their ids.
struct Sorted {
    order: Tensor,
    /// Where each id that occurs begins in `order`, and the end.
    starts: Tensor,
    ids: Tensor,
}

impl Sorted {
    fn new(ids: &[u32], device: &Device) -> Result<Self> {
        // Each id with its row: the rows of an id stay in order.
        let mut pairs: Vec<u64> =
            ids.iter().enumerate().map(|(row, id)| u64::from(*id) << 32 | row as u64).collect();
        pairs.sort_unstable();
        let (mut starts, mut distinct) = (Vec::new(), Vec::<u32>::new());
        for (i, pair) in pairs.iter().enumerate() {
            let id = (pair >> 32) as u32;
            if distinct.last() != Some(&id) {
                distinct.push(id);
                starts.push(i as u32);
            }
        }
        starts.push(pairs.len() as u32);
        let order: Vec<u32> = pairs.into_iter().map(|pair| pair as u32).collect();
        Ok(Self {
            order: indices(&order, device)?,
            starts: indices(&starts, device)?,
            ids: indices(&distinct, device)?,
        })
    }
}

impl Fused for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn forward_anywhere(&self, inputs: &[Tensor]) -> Result<(Storage, Shape)> {
        let table = &inputs[0];
        let (entries, width) = table.dims2()?;
        let rows = self.ids.elem_count();
        let y = calls::rows_of(device(table)?, (table, entries), &self.ids, (rows, width))?;
        Ok(y.shaped(self.shape.clone())?.result())
    }

    fn backward(
        &self,
        inputs: &[Tensor],
        output: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        self.backward_collected(inputs, &[], output, grad)
    }

    fn backward_collected(
        &self,
        inputs: &[Tensor],
        ids: &[TensorId],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let table = &inputs[0];
        let device = device(table)?;
        let (entries, width) = table.dims2()?;
        let Some(Sorted { order, starts, ids: distinct }) = &self.sorted else {
            candle_core::bail!("embedding: this table was without gradient")
        };
        let lists: [&dyn Memory; 3] = [order, starts, distinct];
        let sizes = (order.elem_count(), distinct.elem_count(), width);
        let write = |before: Option<&Tensor>| match before {
            Some(sum) => {
                calls::rows_summed(device, grad, lists, (sum, entries), sizes, true)?;
                Ok(sum.clone())
            }
            None => {
                let new = Buffer::zeros(device, (entries, width), DType::F32)?;
                calls::rows_summed(device, grad, lists, (&new, entries), sizes, false)?;
                Ok(new.tensor())
            }
        };
        match collect_tensor(ids.first(), &(entries, width).into(), write) {
            Some(done) => done.map(|()| vec![None]),
            None => Ok(vec![Some(write(None)?)]),
        }
    }
}

struct Patches {
    patch: usize,
}

impl Fused for Patches {
    fn name(&self) -> &'static str {
        "patches"
    }

    fn forward_anywhere(&self, inputs: &[Tensor]) -> Result<(Storage, Shape)> {
        let (x, p) = (&inputs[0], self.patch);
        let (b, c, h, w) = x.dims4()?;
        let y = calls::patches(device(x)?, x, (b, c, h, w), p, false)?;
        Ok(y.shaped((b, (h / p) * (w / p), c * p * p))?.result())
    }

    fn backward(
        &self,
        inputs: &[Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let x = &inputs[0];
        let dx = calls::patches(device(x)?, grad, x.dims4()?, self.patch, true)?;
        Ok(vec![Some(dx.shaped(x.shape())?.tensor())])
    }
}

struct Sequence;

impl Fused for Sequence {
    fn name(&self) -> &'static str {
        "with_class_and_positions"
    }

    fn forward_anywhere(&self, inputs: &[Tensor]) -> Result<(Storage, Shape)> {
        let [class, tokens, positions] = inputs else { candle_core::bail!("takes 3 tensors") };
        let (batch, grid, width) = tokens.dims3()?;
        let all: [&dyn Memory; 3] = [class, tokens, positions];
        Ok(calls::sequence(device(tokens)?, all, (batch, grid + 1, width))?.result())
    }

    fn backward(
        &self,
        inputs: &[Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let (batch, grid, width) = inputs[1].dims3()?;
        let device = device(grad)?;
        let length = grid + 1;
        let tokens = calls::without_first(device, grad, (batch, length, width))?.tensor();
        let sizes = (batch, length * width);
        let positions = calls::column_sums(device, (grad, DType::F32), sizes)?;
        let positions = positions.shaped((length, width))?.tensor();
        let class = positions.get(0)?.force_contiguous()?;
        Ok(vec![Some(class), Some(tokens), Some(positions)])
    }
}
