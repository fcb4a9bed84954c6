//! Gradients of parameters on a device, summed over backward passes.
//!
//! The counterpart of [`crate::Collected`] where parameters do not lie in main memory: candle's
//! backward pass makes zeros for every gradient and adds to them, which for the weights of a model is
//! several passes over memory. The operators with weights hand their gradients over here instead, and
//! those of a second pass are added by the product that makes them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use candle_core::{Result, Shape, Tensor, TensorId};

/// The gradients of some parameters, summed over backward passes until
/// [`CollectedTensors::clear`].
///
/// While it lives, an operator with many parameters, all of them collected here, hands their gradients
/// over here alone: such a graph has to go backward by [`CollectedTensors::backward`], and says so
/// otherwise.
#[derive(Debug, Default)]
pub struct CollectedTensors {
    slots: HashMap<TensorId, Slot>,
    /// As in [`PARAMETERS`].
    ids: Vec<TensorId>,
}

#[derive(Debug)]
struct Slot {
    shape: Shape,
    gradient: Option<Tensor>,
}

thread_local! {
    /// What collects in the backward pass that runs on this thread.
    static COLLECTING: RefCell<Option<HashMap<TensorId, Slot>>> = const { RefCell::new(None) };
}

/// Parameters that are collected, by how many.
static PARAMETERS: Mutex<Option<HashMap<TensorId, usize>>> = Mutex::new(None);

/// Whether the gradients of all these parameters are collected.
pub(crate) fn all_collected<'a>(parameters: impl Iterator<Item = &'a Tensor>) -> bool {
    let known = PARAMETERS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut parameters = parameters;
    match &*known {
        Some(known) => parameters.all(|parameter| known.contains_key(&parameter.id())),
        None => parameters.next().is_none(),
    }
}

impl Drop for CollectedTensors {
    fn drop(&mut self) {
        let mut known = PARAMETERS.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = known.as_mut() else { return };
        for id in &self.ids {
            if let Some(count) = known.get_mut(id) {
                *count -= 1;
                if *count == 0 {
                    known.remove(id);
                }
            }
        }
    }
}

impl CollectedTensors {
    /// Places for the gradients of these parameters.
    pub fn new<'a>(parameters: impl IntoIterator<Item = &'a Tensor>) -> Self {
        let slot = |parameter: &Tensor| {
            (parameter.id(), Slot { shape: parameter.shape().clone(), gradient: None })
        };
        let slots: HashMap<TensorId, Slot> = parameters.into_iter().map(slot).collect();
        let ids: Vec<TensorId> = slots.keys().copied().collect();
        let mut known = PARAMETERS.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get_or_insert_default();
        for id in &ids {
            *known.entry(*id).or_default() += 1;
        }
        Self { slots, ids }
    }

    /// Forgets all gradients.
    pub fn clear(&mut self) {
        for slot in self.slots.values_mut() {
            slot.gradient = None;
        }
    }

    /// Adds the gradients of a loss. Each is a whole tensor of its own, without history.
    ///
    /// # Errors
    /// candle's.
    pub fn backward(&mut self, loss: &Tensor) -> Result<()> {
        let before =
            COLLECTING.with_borrow_mut(|slots| slots.replace(std::mem::take(&mut self.slots)));
        let outcome = loss.backward();
        self.slots = COLLECTING
            .with_borrow_mut(|slots| std::mem::replace(slots, before))
            .unwrap_or_default();
        let store = outcome?;
        for (id, slot) in &mut self.slots {
            let Some(gradient) = store.get_id(*id) else { continue };
            // candle's gradients remember the operators that they came from, and with them all that
            // lay between the layers: moments made of them would keep every step's.
            let gradient = gradient.detach();
            slot.gradient = Some(match &slot.gradient {
                Some(sum) => (sum + gradient)?,
                // On its own: sums over ranks are written into it.
                None => gradient.force_contiguous()?,
            });
        }
        Ok(())
    }

    /// The gradient of a parameter; None where no loss reached it.
    #[must_use]
    pub fn get(&self, parameter: &Tensor) -> Option<&Tensor> {
        self.slots.get(&parameter.id())?.gradient.as_ref()
    }

    /// Puts another gradient in the place of a parameter's, if there is a place for it.
    pub fn set(&mut self, parameter: &Tensor, gradient: Tensor) {
        if let Some(slot) = self.slots.get_mut(&parameter.id()) {
            slot.gradient = Some(gradient);
        }
    }
}

/// Keeps `write(the sum before)` if the gradient of this parameter is being collected and has this
/// shape. `write` may add to the sum in place and return it.
pub(crate) fn collect_tensor(
    id: Option<&TensorId>,
    shape: &Shape,
    write: impl FnOnce(Option<&Tensor>) -> Result<Tensor>,
) -> Option<Result<()>> {
    COLLECTING.with_borrow_mut(|slots| {
        let slot = slots.as_mut()?.get_mut(id?).filter(|slot| slot.shape == *shape)?;
        Some(write(slot.gradient.as_ref()).map(|sum| slot.gradient = Some(sum.detach())))
    })
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn gradients_add_up_until_cleared_and_are_set_by_hand() {
        let w = Var::new(&[1f32, 2.0], &Device::Cpu).unwrap();
        let other = Var::new(&[1f32], &Device::Cpu).unwrap();
        let mut collected = CollectedTensors::new([w.as_tensor()]);
        let numbers = |c: &CollectedTensors| c.get(&w).map(|g| g.to_vec1::<f32>().unwrap());
        assert_eq!(numbers(&collected), None);
        let loss = || w.sqr().unwrap().sum_all().unwrap();
        collected.backward(&loss()).unwrap();
        assert_eq!(numbers(&collected), Some(vec![2.0, 4.0]));
        collected.backward(&loss()).unwrap();
        assert_eq!(numbers(&collected), Some(vec![4.0, 8.0]));
        collected.set(&w, Tensor::new(&[5f32, 6.0], &Device::Cpu).unwrap());
        collected.set(&other, Tensor::new(&[5f32], &Device::Cpu).unwrap());
        assert_eq!(numbers(&collected), Some(vec![5.0, 6.0]));
        assert!(collected.get(&other).is_none());
        collected.clear();
        assert_eq!(numbers(&collected), None);
    }
}
