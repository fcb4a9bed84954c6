//! Layers by timm's names, for the classifiers ([`crate::Swin`], [`crate::VitClassifier`]).

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor, Var};
use stage::ResultExt;

use crate::clip::{check_tensors, own};
use crate::init;
use crate::params::Params;
use crate::shapes::{Role, Shape};

/// The tensor of this name.
pub(crate) fn get(tensors: &BTreeMap<String, Tensor>, name: &str) -> Result<Tensor> {
    match tensors.get(name) {
        Some(tensor) => Ok(tensor.clone()),
        None => candle_core::bail!("no tensor `{name}`"),
    }
}

/// `x Wᵀ + b`.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    pub(crate) fn new(tensors: &BTreeMap<String, Tensor>, at: &str, bias: bool) -> Result<Self> {
        let weight = get(tensors, &format!("{at}.weight"))?;
        // A convolution over patches is a product with its flattened kernels.
        let weight = if weight.rank() > 2 { weight.flatten_from(1)? } else { weight };
        let bias = if bias { Some(get(tensors, &format!("{at}.bias"))?) } else { None };
        Ok(Self { weight, bias })
    }

    /// (.., C) → (.., D)
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        kernels::linear(x, &self.weight, self.bias.as_ref())
    }
}

/// LayerNorm with an eps of its own.
#[derive(Debug, Clone)]
pub(crate) struct Norm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl Norm {
    pub(crate) fn new(tensors: &BTreeMap<String, Tensor>, at: &str, eps: f64) -> Result<Self> {
        let get = |part: &str| get(tensors, &format!("{at}.{part}"));
        Ok(Self { weight: get("weight")?, bias: get("bias")?, eps })
    }

    /// (.., C) → (.., C)
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        kernels::layer_norm(x, &self.weight, &self.bias, self.eps)
    }
}

/// `fc2(gelu(fc1 x))` with the exact GELU.
#[derive(Debug, Clone)]
pub(crate) struct Mlp {
    fc1: Linear,
    fc2: Linear,
}

impl Mlp {
    pub(crate) fn new(tensors: &BTreeMap<String, Tensor>, at: &str) -> Result<Self> {
        let linear = |part: &str| Linear::new(tensors, &format!("{at}.{part}"), true);
        Ok(Self { fc1: linear("fc1")?, fc2: linear("fc2")? })
    }

    /// (.., C) → (.., C)
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.fc2.forward(&kernels::gelu(&self.fc1.forward(x)?)?)
    }
}

/// Names, shapes and beginnings of a model, in the order of its forward pass. timm begins linear
/// layers normal with deviation 0.02 (cut at ±2, which is a hundred deviations away) and bias 0.
#[derive(Debug, Default)]
pub(crate) struct Layout(pub(crate) Vec<Shape>);

impl Layout {
    pub(crate) fn push(&mut self, name: impl Into<String>, dims: &[usize], role: Role) {
        self.0.push(Shape { name: name.into(), dims: dims.to_vec(), role });
    }

    pub(crate) fn norm(&mut self, at: &str, width: usize) {
        self.push(format!("{at}.weight"), &[width], Role::Constant(1.0));
        self.push(format!("{at}.bias"), &[width], Role::Constant(0.0));
    }

    pub(crate) fn linear(&mut self, at: &str, out: usize, width: usize, bias: bool) {
        self.push(format!("{at}.weight"), &[out, width], Role::Normal(0.02));
        if bias {
            self.push(format!("{at}.bias"), &[out], Role::Constant(0.0));
        }
    }

    pub(crate) fn mlp(&mut self, at: &str, width: usize, hidden: usize) {
        self.linear(&format!("{at}.fc1"), hidden, width, true);
        self.linear(&format!("{at}.fc2"), width, hidden, true);
    }

    /// Number of trainable parameters, without allocating any.
    pub(crate) fn parameters(&self) -> u64 {
        self.0.iter().map(Shape::elements).fold(0, u64::saturating_add)
    }

    /// First values from a seed.
    pub(crate) fn init(
        &self,
        seed: u64,
        device: &Device,
    ) -> stage::Result<BTreeMap<String, Tensor>> {
        let tensor = |shape: &Shape| Ok((shape.name.clone(), init::tensor(shape, seed, device)?));
        self.0.iter().map(tensor).collect()
    }

    /// Variables of these tensors, after names and shapes were compared.
    pub(crate) fn params(
        &self,
        mut tensors: BTreeMap<String, Tensor>,
        device: &Device,
    ) -> stage::Result<Params> {
        check_tensors(&self.0, &tensors)?;
        let mut params = Params::default();
        for shape in &self.0 {
            let Some(tensor) = tensors.remove(&shape.name) else { continue };
            let var = own(&tensor, device).model("cannot place a tensor");
            params.vars.insert(shape.name.clone(), var.map_err(|e| e.at(&shape.name))?);
        }
        Ok(params)
    }
}

/// The tensors of a model with their history, and the same without.
pub(crate) fn both(params: &Params) -> (BTreeMap<String, Tensor>, BTreeMap<String, Tensor>) {
    let trained = |(name, var): (&String, &Var)| (name.clone(), var.as_tensor().clone());
    let constant = |(name, var): (&String, &Var)| (name.clone(), var.as_tensor().detach());
    (params.vars.iter().map(trained).collect(), params.vars.iter().map(constant).collect())
}

/// Refuses pictures of another shape.
pub(crate) fn check_pixels(pixels: &Tensor, side: usize) -> stage::Result<()> {
    match pixels.dims() {
        [_, 3, h, w] if *h == side && *w == side && pixels.dtype() != DType::U8 => Ok(()),
        other => Err(stage::Error::model(format!(
            "pixels have shape {other:?}, the model takes [B, 3, {side}, {side}]"
        ))),
    }
}
