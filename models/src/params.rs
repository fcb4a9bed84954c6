//! The named tensors of a model.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};

/// Named tensors of a model: trainable ones and buffers (BatchNorm statistics), in name order.
#[derive(Debug, Clone, Default)]
pub struct Params {
    pub(crate) vars: BTreeMap<String, Var>,
    pub(crate) buffers: BTreeMap<String, Var>,
}

impl Params {
    /// Trainable tensors by open_clip's names.
    #[must_use]
    pub fn vars(&self) -> &BTreeMap<String, Var> {
        &self.vars
    }

    /// Running statistics: state that is saved, resumed and synchronised, but has no gradient.
    #[must_use]
    pub fn buffers(&self) -> &BTreeMap<String, Var> {
        &self.buffers
    }

    /// All tensors, in name order; those of the model itself, not copies.
    #[must_use]
    pub fn tensors(&self) -> BTreeMap<String, Tensor> {
        let all = self.vars.iter().chain(&self.buffers);
        all.map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect()
    }

    /// The trainable tensors without history.
    pub(crate) fn constant(&self) -> BTreeMap<String, Tensor> {
        self.vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().detach())).collect()
    }

    /// Number of trainable parameters.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.vars.values().map(|var| var.elem_count() as u64).sum()
    }
}
