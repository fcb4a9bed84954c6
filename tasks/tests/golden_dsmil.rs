//! The aggregator against the reference implementation's numbers (needs ../shared).

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
