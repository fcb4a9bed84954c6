//! The weights, pixels and checks of the small models that `bench/interop/timm_golden.py` makes.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};
use models::Params;

/// `((i·a + b) mod m)` over the elements, centred and scaled to -1..1.
pub(crate) fn pattern(dims: &[usize], a: usize, b: usize, m: usize) -> Tensor {
    let half = (m / 2) as f64;
    let count = dims.iter().product();
    let values: Vec<f64> =
        (0..count).map(|i: usize| (((i * a + b) % m) as f64 - half) / half).collect();
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

/// The script's weights for a model with these names and shapes.
pub(crate) fn weights(params: &Params) -> BTreeMap<String, Tensor> {
    let fill = |(k, (name, var)): (usize, (&String, &candle_core::Var))| {
        let (dims, v) = (var.dims(), pattern(var.dims(), 37, 101 * k, 201));
        let norm = name.contains("norm") || name.contains("ln_");
        let gain = if norm && name.ends_with("weight") { 1.0 } else { 0.0 };
        let fan_in = dims.first().map_or(1.0, |rows| (var.elem_count() / rows) as f64);
        let v = match dims.len() {
            0 => Tensor::new(2f64, &Device::Cpu),
            1 => (v * 0.3).unwrap() + gain,
            _ if name.ends_with("weight") => v * (1.5 / fan_in.sqrt()),
            _ => Ok(v),
        };
        (name.clone(), v.unwrap())
    };
    params.vars().iter().enumerate().map(fill).collect()
}

/// Scores against the script's.
pub(crate) fn check_logits(logits: &Tensor, golden: &serde_json::Value) {
    let expected: Vec<f64> = serde_json::from_value(golden["logits"].clone()).unwrap();
    let got = logits.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(&expected) {
        assert!((got - expected).abs() < 1e-12, "{got} {expected}");
    }
}

/// Gradients of the script's loss, by their products with a pattern, against the script's.
pub(crate) fn check_gradients(grads: &GradStore, params: &Params, golden: &serde_json::Value) {
    let expected: BTreeMap<String, f64> = serde_json::from_value(golden["grads"].clone()).unwrap();
    assert_eq!(params.vars().keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, var) in params.vars() {
        let product = (grads.get(var).unwrap() * pattern(var.dims(), 29, 7, 11)).unwrap();
        let got = product.sum_all().unwrap().to_scalar::<f64>().unwrap();
        let difference = (got - expected[name]).abs();
        assert!(difference < 1e-11 * expected[name].abs().max(1.0), "{name}: {got}");
        assert!(expected[name].abs() > 1e-6, "{name}: the pattern sees no gradient");
    }
}
