//! The linear layers of the towers, in f32 or, for inference, with bf16 weights.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use kernels::{HalfLinear, Products};

use crate::block::Replaced;

/// `x weightᵀ + bias`.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    /// (N, K), or (N, K, 1, 1) for a convolution of single pixels.
    weight: Tensor,
    bias: Tensor,
    /// The weight in bf16, which takes its place.
    half: Option<Arc<HalfLinear>>,
}

impl Linear {
    /// `half`: whether to round the weight to bf16, for a tower that has no gradient.
    pub(crate) fn new(weight: Tensor, bias: Tensor, half: bool) -> Result<Self> {
        let half = match half {
            true => Some(Arc::new(HalfLinear::new(&weight.flatten_from(1)?)?)),
            false => None,
        };
        Ok(Self { weight, bias, half })
    }

    /// (.., K) → (.., N); `products` is the format where the weight is f32.
    pub(crate) fn forward(&self, x: &Tensor, products: Products) -> Result<Tensor> {
        match &self.half {
            Some(half) => half.forward(x, Some(&self.bias)),
            None => {
                let weight = self.weight.flatten_from(1)?;
                kernels::linear_in(x, &weight, Some(&self.bias), products)
            }
        }
    }

    /// Weight and bias, if the weight is f32.
    pub(crate) fn full(&self) -> Option<[&Tensor; 2]> {
        self.half.is_none().then_some([&self.weight, &self.bias])
    }

    pub(crate) fn weight(&self) -> &Tensor {
        &self.weight
    }

    pub(crate) fn bias(&self) -> &Tensor {
        &self.bias
    }

    pub(crate) fn tensors(&self) -> [&Tensor; 2] {
        [&self.weight, &self.bias]
    }

    /// In f32, with the next two tensors.
    pub(crate) fn taken(tensors: &mut Replaced) -> Result<Self> {
        let (weight, bias) = tensors.pair()?;
        Ok(Self { weight, bias, half: None })
    }
}
