//! Rows of a table by index.

use candle_core::{CpuStorage, Result, Shape, Tensor, TensorId};

use crate::collect::collect;
use crate::composed;
use crate::elementary::Float;
use crate::fused::{Fused, apply};
use crate::rows::add_to;
use crate::slices::{check, indices, tensor, values, with_float};

/// The rows `ids` of `table`, with a dense gradient for the table.
///
/// # Shapes
/// `table` (V, C), `ids` u32 (..) → (.., C)
///
/// # Errors
/// An id ≥ V, another rank of the table, or other dtypes than f32 and f64.
pub fn embedding(table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    check("embedding", table)?;
    let (entries, width) = table.dims2()?;
    let flat = indices(ids, "embedding")?;
    if let Some(id) = flat.iter().find(|id| **id as usize >= entries) {
        candle_core::bail!("embedding: id {id} of a table of {entries} rows");
    }
    let mut shape = ids.dims().to_vec();
    shape.push(width);
    if composed::takes(table) {
        return composed::embedding(table, &flat, &shape);
    }
    apply(Embedding { ids: flat, shape }, &[table])
}

struct Embedding {
    ids: Vec<u32>,
    shape: Vec<usize>,
}

impl Fused for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn forward(&self, inputs: &[Tensor]) -> Result<(CpuStorage, Shape)> {
        let [table] = inputs else { candle_core::bail!("embedding takes 1 table") };
        let (_, width) = table.dims2()?;
        with_float!("embedding", table.dtype(), T => {
            let rows = values::<T>(table, "embedding")?;
            let mut y: Vec<T> = Vec::with_capacity(self.ids.len() * width);
            for id in &self.ids {
                y.extend_from_slice(&rows[*id as usize * width..][..width]);
            }
            let y = <T as candle_core::WithDType>::to_cpu_storage_owned(y);
            Ok((y, Shape::from(self.shape.clone())))
        })
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
        let [table] = inputs else { candle_core::bail!("embedding takes 1 table") };
        let (entries, width) = table.dims2()?;
        with_float!("embedding", table.dtype(), T => {
            let dy = values::<T>(grad, "embedding")?;
            let rows = |into: &mut [T]| {
                for (id, dy) in self.ids.iter().zip(dy.chunks_exact(width.max(1))) {
                    add_to(&mut into[*id as usize * width..][..width], dy);
                }
            };
            let collected = collect(ids.first(), entries * width, |into: &mut [T], add| {
                if !add {
                    into.fill(<T as Float>::ZERO);
                }
                rows(into);
                Ok(())
            });
            if let Some(done) = collected {
                return done.map(|()| vec![None]);
            }
            let mut table: Vec<T> = vec![<T as Float>::ZERO; entries * width];
            rows(&mut table);
            Ok(vec![Some(tensor(table, (entries, width))?)])
        })
    }
}
