//! Gradients of parameters on a device, summed over backward passes.
//!
//! The counterpart of [`crate::Collected`] where parameters do not lie in main memory: candle's
//! backward pass makes zeros for every gradient and adds to them, which for the weights of a model is
//! several passes over memory. The operators with weights hand their gradients over here instead, and
//! those of a second pass are added by the product that makes them.

use std::cell::RefCell;
use std::collections::HashMap;

use candle_core::{Result, Shape, Tensor, TensorId};

/// The gradients of some parameters, summed over backward passes until
/// [`CollectedTensors::clear`].
#[derive(Debug, Default)]
pub struct CollectedTensors {
    slots: HashMap<TensorId, Slot>,
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

impl CollectedTensors {
    /// Places for the gradients of these parameters.
    pub fn new<'a>(parameters: impl IntoIterator<Item = &'a Tensor>) -> Self {
        let slot = |parameter: &Tensor| {
            (parameter.id(), Slot { shape: parameter.shape().clone(), gradient: None })
        };
        Self { slots: parameters.into_iter().map(slot).collect() }
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
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "operators on GPUs collect"))]
pub(crate) fn collect_tensor(
    id: Option<&TensorId>,
    shape: Shape,
    write: impl FnOnce(Option<&Tensor>) -> Result<Tensor>,
) -> Option<Result<()>> {
    COLLECTING.with_borrow_mut(|slots| {
        let slot = slots.as_mut()?.get_mut(id?).filter(|slot| slot.shape == shape)?;
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
