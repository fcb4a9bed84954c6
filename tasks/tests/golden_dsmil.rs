//! The aggregator against the reference implementation's numbers (of ../shared), and against torch's
//! layers put together by `bench/interop/make_small_goldens.py`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_core::{Device, Tensor};
use tasks::mil::Aggregator;

fn golden(name: &str) -> Option<std::collections::HashMap<String, Tensor>> {
    let named = std::env::var_os("CLIPMILL_SHARED").map(PathBuf::from);
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let file = named.clone().unwrap_or(beside).join("data/golden/dsmil").join(name);
    if !file.exists() {
        assert!(named.is_none(), "CLIPMILL_SHARED is set and {} is missing", file.display());
        eprintln!("skipped: no ../shared");
        return None;
    }
    Some(candle_core::safetensors::load(file, &Device::Cpu).unwrap())
}

fn close(name: &str, got: &Tensor, want: &Tensor, bar: f32) {
    assert_eq!(got.dims(), want.dims(), "{name}");
    let worst = (got - want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(worst <= bar, "{name}: {worst}");
}

#[test]
fn outputs_and_gradients_equal_the_reference() {
    let Some(inputs) = golden("inputs.safetensors") else { return };
    let weights = golden("weights.safetensors").unwrap();
    let outputs = golden("outputs.safetensors").unwrap();
    let gradients = golden("grads.safetensors").unwrap();
    for (case, label) in [("linear.c1", vec![1_f32]), ("linear.c2", vec![1.0, 0.0])] {
        let own: BTreeMap<String, Tensor> = weights
            .iter()
            .filter_map(|(name, t)| {
                Some((name.strip_prefix(&format!("{case}."))?.to_owned(), t.clone()))
            })
            .collect();
        let model = Aggregator::from_tensors(own).unwrap();
        let label = Tensor::new(label, &Device::Cpu).unwrap();
        for bag in ["bag1", "bag2", "bag9"] {
            let out = model.forward(&inputs[bag]).unwrap();
            let want = |what: &str| &outputs[&format!("{case}.{bag}.{what}")];
            close("instance", &out.instances, want("instance"), 1e-6);
            close("bag_logit", &out.bag, want("bag_logit"), 1e-6);
            close("attention", &out.attention, want("attention"), 1e-6);
            close("rep", &out.representation, want("rep"), 1e-6);
            let loss = model.loss(&out, &label).unwrap();
            close("loss", &loss, want("loss"), 1e-6);
            if bag == "bag9" {
                let got = loss.backward().unwrap();
                for (name, var) in model.vars() {
                    close(
                        name,
                        got.get(var).unwrap(),
                        &gradients[&format!("{case}.{bag}.{name}")],
                        1e-6,
                    );
                }
            }
        }
    }
}

/// The script's formula: ((i·a + b) mod m) over the elements, centred and scaled to -1..1.
fn pattern(dims: &[usize], a: usize, b: usize, m: usize) -> Tensor {
    let half = (m / 2) as f64;
    let count: usize = dims.iter().product();
    let values = (0..count).map(|i| ((((i * a + b) % m) as f64 - half) / half) as f32);
    Tensor::from_vec(values.collect::<Vec<f32>>(), dims, &Device::Cpu).unwrap()
}

#[test]
fn a_small_aggregator_equals_torchs_layers_for_one_class_and_two() {
    const FEATURES: usize = 6;
    let golden: serde_json::Value = serde_json::from_str(include_str!("dsmil_small.json")).unwrap();
    for classes in [1usize, 2] {
        let case = &golden[classes.to_string()];
        let begun = Aggregator::init(FEATURES, classes, 0, &Device::Cpu).unwrap();
        let fill = |(k, (name, var)): (usize, (&String, &candle_core::Var))| {
            let (dims, v) = (var.dims(), pattern(var.dims(), 37, 101 * k, 201));
            let fan_in = (var.elem_count() / dims[0]) as f64;
            let factor = if dims.len() == 1 { 0.3 } else { 1.5 / fan_in.sqrt() };
            (name.clone(), (v * factor).unwrap())
        };
        let model =
            Aggregator::from_tensors(begun.vars().iter().enumerate().map(fill).collect()).unwrap();
        let label: Vec<f32> = serde_json::from_value(case["label"].clone()).unwrap();
        let label = Tensor::new(label, &Device::Cpu).unwrap();
        let bags = case["bags"].as_array().unwrap();
        assert_eq!(bags.len(), 3);
        for bag in bags {
            let count = bag["count"].as_u64().unwrap() as usize;
            let out = model.forward(&pattern(&[count, FEATURES], 7919, 31, 2049)).unwrap();
            let check = |what: &str, got: &Tensor| {
                let want: Vec<f32> = serde_json::from_value(bag[what].clone()).unwrap();
                close(what, got, &Tensor::from_vec(want, got.dims(), &Device::Cpu).unwrap(), 2e-6);
            };
            check("instances", &out.instances);
            check("bag", &out.bag);
            check("attention", &out.attention);
            check("representation", &out.representation);
            let loss = model.loss(&out, &label).unwrap();
            let want = bag["loss"].as_f64().unwrap();
            assert!((f64::from(loss.to_scalar::<f32>().unwrap()) - want).abs() < 2e-6, "loss");
            let got = loss.backward().unwrap();
            for (name, var) in model.vars() {
                let got = (got.get(var).unwrap() * pattern(var.dims(), 29, 7, 11)).unwrap();
                let got = f64::from(got.sum_all().unwrap().to_scalar::<f32>().unwrap());
                let want = bag["grads"][name].as_f64().unwrap();
                assert!((got - want).abs() < 2e-6, "{classes} {count} {name}: {got} {want}");
            }
        }
    }
}
