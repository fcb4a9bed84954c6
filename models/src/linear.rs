//! The linear layers of the towers, over the parameters themselves or, for inference, over copies
//! laid out once, in f32 or in bf16.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};
use kernels::{HalfLinear, PackedLinear, Products};

use crate::block::Replaced;

/// How the weights of a tower's linear layers lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Layout {
    /// As the parameters.
    #[default]
    Plain,
    /// In f32, copied for the products of inference.
    Packed,
    /// In bf16, for inference.
    Half,
}

/// `x weightᵀ + bias`.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    /// (N, K), or (N, K, 1, 1) for a convolution of single pixels.
    weight: Tensor,
    bias: Tensor,
    copy: Copy,
}

/// What takes the weight's place in a tower that has no gradient.
#[derive(Debug, Clone)]
enum Copy {
    None,
    Packed(Arc<PackedLinear>),
    Half(Arc<HalfLinear>),
    /// In bf16, on a GPU.
    Rounded(Tensor),
}

impl Linear {
    /// A [`Layout`] other than the plain one is for a tower that has no gradient.
    pub(crate) fn new(weight: Tensor, bias: Tensor, layout: Layout) -> Result<Self> {
        let copy = match layout {
            Layout::Plain => Copy::None,
            // A GPU lays out for itself.
            Layout::Packed if !weight.device().is_cpu() => Copy::None,
            Layout::Half if !weight.device().is_cpu() => {
                Copy::Rounded(weight.flatten_from(1)?.to_dtype(DType::BF16)?)
            }
            Layout::Packed => PackedLinear::new(&weight.flatten_from(1)?)?
                .map_or(Copy::None, |packed| Copy::Packed(Arc::new(packed))),
            Layout::Half => Copy::Half(Arc::new(HalfLinear::new(&weight.flatten_from(1)?)?)),
        };
        Ok(Self { weight, bias, copy })
    }

    /// (.., K) → (.., N); `products` is the format where the weight lies as the parameter.
    pub(crate) fn forward(&self, x: &Tensor, products: Products) -> Result<Tensor> {
        match &self.copy {
            Copy::Half(half) => half.forward(x, Some(&self.bias)),
            Copy::Packed(packed) => packed.forward(x, &self.bias),
            Copy::Rounded(weight) => {
                kernels::linear_in(x, weight, Some(&self.bias), Products::Bf16)
            }
            Copy::None => {
                let weight = self.weight.flatten_from(1)?;
                kernels::linear_in(x, &weight, Some(&self.bias), products)
            }
        }
    }

    /// Weight and bias, if the weight lies as the parameter.
    pub(crate) fn full(&self) -> Option<[&Tensor; 2]> {
        matches!(self.copy, Copy::None).then_some([&self.weight, &self.bias])
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
        Ok(Self { weight, bias, copy: Copy::None })
    }
}
