//! Gradients of parameters in buffers that live from step to step.
//!
//! candle's backward pass makes a zeroed tensor for every gradient, adds to it into a third one,
//! and frees all of them after the step. For the weights of a model that is five times the memory
//! traffic of the gradient itself, and again for every pass of an accumulation. The operators with
//! large weights ([`crate::linear()`], the halves of a block, [`crate::embedding()`]) write or add
//! their gradients straight into the buffers here instead.

use std::cell::RefCell;
use std::collections::HashMap;

use candle_core::{Result, Tensor, TensorId};
use rayon::prelude::*;

use crate::elementary::Float;
use crate::rows::{ELEMENTS, add_to};
use crate::slices::values;

/// The gradients of some f32 parameters, summed over backward passes until [`Collected::clear`].
#[derive(Debug, Default)]
pub struct Collected {
    slots: HashMap<TensorId, Slot>,
}

#[derive(Debug)]
struct Slot {
    parameter: Tensor,
    /// Empty before the first gradient.
    values: Vec<f32>,
    /// Whether `values` count; old numbers are overwritten, not cleared.
    filled: bool,
}

thread_local! {
    /// What collects in the backward pass that runs on this thread.
    static COLLECTING: RefCell<Option<HashMap<TensorId, Slot>>> = const { RefCell::new(None) };
}

impl Collected {
    /// Buffers for these parameters, made when a gradient comes.
    pub fn new<'a>(parameters: impl IntoIterator<Item = &'a Tensor>) -> Self {
        let slot = |parameter: &Tensor| {
            let slot = Slot { parameter: parameter.clone(), values: Vec::new(), filled: false };
            (parameter.id(), slot)
        };
        Self { slots: parameters.into_iter().map(slot).collect() }
    }

    /// Forgets all gradients and keeps the buffers.
    pub fn clear(&mut self) {
        for slot in self.slots.values_mut() {
            slot.filled = false;
        }
    }

    /// Adds the gradients of a loss.
    ///
    /// # Errors
    /// candle's, or a gradient that is not f32.
    pub fn backward(&mut self, loss: &Tensor) -> Result<()> {
        let before =
            COLLECTING.with_borrow_mut(|slots| slots.replace(std::mem::take(&mut self.slots)));
        let outcome = loss.backward();
        self.slots = COLLECTING
            .with_borrow_mut(|slots| std::mem::replace(slots, before))
            .unwrap_or_default();
        let mut store = outcome?;
        for slot in self.slots.values_mut() {
            let Some(gradient) = store.remove(&slot.parameter) else { continue };
            let gradient = gradient.contiguous()?;
            let gradient = values::<f32>(&gradient, "collected gradients")?;
            slot.take(gradient.len(), |into, add| {
                into.par_chunks_mut(ELEMENTS).zip(gradient.par_chunks(ELEMENTS)).for_each(
                    |(into, from)| match add {
                        true => add_to(into, from),
                        false => into.copy_from_slice(from),
                    },
                );
            });
        }
        Ok(())
    }

    /// The gradient of a parameter, row after row; None where no loss reached it.
    #[must_use]
    pub fn get(&self, parameter: &Tensor) -> Option<&[f32]> {
        let slot = self.slots.get(&parameter.id()).filter(|slot| slot.filled)?;
        Some(&slot.values)
    }

    /// The same, to write to.
    pub fn get_mut(&mut self, parameter: &Tensor) -> Option<&mut [f32]> {
        let slot = self.slots.get_mut(&parameter.id()).filter(|slot| slot.filled)?;
        Some(&mut slot.values)
    }
}

impl Slot {
    /// Calls `write(buffer, whether to add)`.
    fn take<R>(&mut self, len: usize, write: impl FnOnce(&mut [f32], bool) -> R) -> R {
        if self.values.len() != len {
            self.values = vec![0.0; len];
            self.filled = false;
        }
        let result = write(&mut self.values, self.filled);
        self.filled = true;
        result
    }
}

/// Calls `write(buffer of len numbers, whether to add)` if the gradient of this parameter is being
/// collected.
pub(crate) fn collect<T: Float>(
    id: Option<&TensorId>,
    len: usize,
    write: impl FnOnce(&mut [T], bool) -> Result<()>,
) -> Option<Result<()>> {
    // Taken out, since `write` runs parallel work, in which this thread may do anything.
    let mut slot = COLLECTING.with_borrow_mut(|slots| slots.as_mut()?.remove_entry(id?))?;
    let mut outcome = None;
    if slot.1.parameter.elem_count() == len && T::of_single_mut(&mut []).is_some() {
        outcome = Some(slot.1.take(len, |into, add| match T::of_single_mut(into) {
            Some(into) => write(into, add),
            None => Ok(()),
        }));
    }
    COLLECTING.with_borrow_mut(|slots| {
        if let Some(slots) = slots.as_mut() {
            slots.insert(slot.0, slot.1);
        }
    });
    outcome
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::{embedding, linear};

    fn var(values: &[f32], shape: (usize, usize)) -> Var {
        Var::from_slice(values, shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn collected_gradients_are_candles_and_add_up_until_cleared() {
        let (w, table) = (var(&[1., 2., 3., 4.], (2, 2)), var(&[1., 0., 2., 5., 3., 1.], (3, 2)));
        let scale = var(&[2.0], (1, 1));
        let ids = Tensor::new(&[2u32, 0, 2], &Device::Cpu).unwrap();
        let loss = || {
            let x = embedding(&table, &ids).unwrap();
            let y = linear(&x, &w, None).unwrap().broadcast_mul(&scale).unwrap();
            y.sqr().unwrap().sum_all().unwrap()
        };
        let store = loss().backward().unwrap();
        let expected =
            |t: &Var| store.get(t).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let all = [&w, &table, &scale];
        let mut collected = Collected::new(all.map(Var::as_tensor));
        assert!(collected.get(&w).is_none());
        for _ in 0..2 {
            collected.backward(&loss()).unwrap();
            for t in all {
                assert_eq!(collected.get(t).unwrap(), expected(t));
            }
            collected.backward(&loss()).unwrap();
            for t in all {
                let twice: Vec<f32> = expected(t).iter().map(|g| g + g).collect();
                assert_eq!(collected.get(t).unwrap(), twice);
            }
            collected.clear();
            assert!(all.iter().all(|t| collected.get(t).is_none()));
        }
    }

    #[test]
    fn a_parameter_in_two_places_gets_both_gradients() {
        let w = var(&[1., 2., 3., 4.], (2, 2));
        let loss = || {
            let y = linear(&linear(&w, &w, None).unwrap(), &w, None).unwrap();
            y.sum_all().unwrap()
        };
        let expected = loss().backward().unwrap();
        let expected = expected.get(&w).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let mut collected = Collected::new([w.as_tensor()]);
        collected.backward(&loss()).unwrap();
        let got = collected.get(&w).unwrap();
        assert!(got.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-4 * b.abs()), "{got:?}");
    }

    #[test]
    fn outside_of_a_collection_gradients_go_to_candle() {
        let w = var(&[1., 2., 3., 4.], (2, 2));
        let collected = Collected::new([w.as_tensor()]);
        let store = linear(&w, &w, None).unwrap().sum_all().unwrap().backward().unwrap();
        assert!(store.get(&w).is_some() && collected.get(&w).is_none());
    }
}
