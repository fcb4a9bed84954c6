//! RePaViT's block against the reference's numbers (`golden/repavit` of the shared data), and against
//! torch's layers put together by `bench/interop/make_small_goldens.py`.

#[path = "../tests/shared_data/mod.rs"]
mod shared_data;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var, safetensors};

use crate::block::{Block, Pass, Source};
use crate::linear::Layout;
use crate::repavit::{active_channels, fold_block};
use crate::shapes::Ffn;

type Tensors = BTreeMap<String, Tensor>;

const PASS: Pass = Pass {
    train: false,
    quick: false,
    heads: 3,
    causal: false,
    products: kernels::Products::F32,
    lengths: None,
};

fn load(folder: &Path, file: &str) -> Tensors {
    safetensors::load(folder.join(file), &Device::Cpu).unwrap().into_iter().collect()
}

fn worst(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let difference = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
    f64::from(difference.max(0).unwrap().to_scalar::<f32>().unwrap())
}

fn relative(a: &Tensor, b: &Tensor) -> f64 {
    worst(a, b) / worst(b, &b.zeros_like().unwrap())
}

/// Our name of a tensor of the reference's block.
fn our_name(theirs: &str) -> String {
    let (layer, rest) = theirs.rsplit_once('.').unwrap();
    let layer = match layer {
        "attn.norm" => "ln_1",
        "attn.qkv" => return format!("b.attn.in_proj_{rest}"),
        "attn.proj" => "attn.out_proj",
        "mlp.norm1" => "mlp.bn_1",
        "mlp.norm2" => "mlp.bn_2",
        "mlp.fc1" => "mlp.c_fc",
        "mlp.fc2" => "mlp.c_proj",
        other => panic!("{other}"),
    };
    format!("b.{layer}.{rest}")
}

/// Trainable tensors and statistics of a case.
fn variables(weights: &Tensors, case: &str) -> (BTreeMap<String, Var>, BTreeMap<String, Var>) {
    let prefix = format!("{case}.");
    let of_case = weights.iter().filter_map(|(name, t)| Some((name.strip_prefix(&prefix)?, t)));
    of_case
        .filter(|(name, _)| !name.ends_with("num_batches_tracked"))
        .map(|(name, t)| (our_name(name), Var::from_tensor(t).unwrap()))
        .partition(|(name, _)| !name.contains("running"))
}

fn block(vars: &BTreeMap<String, Var>, buffers: &BTreeMap<String, Var>, active: usize) -> Block {
    let tensors: Tensors =
        vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
    let source = Source { tensors: &tensors, buffers, layout: Layout::Plain };
    Block::new(&source, "b", Some(Ffn::Idle { active })).unwrap()
}

const CASES: [(&str, usize, f64); 4] =
    [("r075", 96, 0.75), ("r050", 96, 0.5), ("r100", 96, 1.0), ("r025_odd", 61, 0.25)];

#[test]
fn outputs_statistics_gradients_and_folds_equal_the_references() {
    let Some(folder) = shared_data::shared("data/golden/repavit") else { return };
    let file = |name: &str| load(&folder, name);
    let (inputs, weights) = (file("inputs.safetensors"), file("weights.safetensors"));
    let (outputs, grads) = (file("outputs.safetensors"), file("grads.safetensors"));
    let folded = file("folded.safetensors");
    for (case, hidden, ratio) in CASES {
        let active = active_channels(hidden, ratio).unwrap();
        let (vars, buffers) = variables(&weights, case);
        let block = block(&vars, &buffers, active);

        let y = block.forward(&inputs["x"], PASS).unwrap();
        let expected = &outputs[&format!("{case}.eval")];
        assert!(relative(&y, expected) < 3e-6, "{case}: eval {:e}", relative(&y, expected));

        let fold = fold_block(&block.idle_ffn().unwrap()).unwrap();
        let get = |name: &str| folded.get(&format!("{case}.mlp.{name}"));
        assert!(worst(&fold.idle_weight, get("fc1.weight").unwrap()) < 1e-6);
        assert!(worst(&fold.idle_bias, get("fc1.bias").unwrap()) < 1e-6);
        assert_eq!(fold.active.is_some(), get("fc2.weight").is_some());
        if let Some((u, shift, v)) = &fold.active {
            assert!(worst(u, get("fc2.weight").unwrap()) < 1e-6);
            assert!(worst(shift, get("fc2.bias").unwrap()) < 1e-6);
            assert!(worst(v, get("fc3.weight").unwrap()) < 1e-6);
        }
        let mut tensors: Tensors =
            vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
        tensors.insert("b.mlp.c_idle.weight".into(), fold.idle_weight);
        tensors.insert("b.mlp.c_idle.bias".into(), fold.idle_bias);
        if let Some((u, shift, v)) = fold.active {
            tensors.insert("b.mlp.c_fc.weight".into(), u);
            tensors.insert("b.mlp.c_fc.bias".into(), shift);
            tensors.insert("b.mlp.c_proj.weight".into(), v);
        }
        let source = Source { tensors: &tensors, buffers: &BTreeMap::new(), layout: Layout::Plain };
        let inference = Block::new(&source, "b", Some(Ffn::Folded { active })).unwrap();
        let z = inference.forward(&inputs["x"], PASS).unwrap();
        let expected = &outputs[&format!("{case}.folded")];
        assert!(relative(&z, expected) < 3e-6, "{case}: folded");
        assert!(relative(&z, &y) < 3e-6, "{case}: fold against unfold");

        let x = Var::from_tensor(&inputs["x"]).unwrap();
        let y = block.forward(&x, Pass { train: true, ..PASS }).unwrap();
        assert!(relative(&y, &outputs[&format!("{case}.train")]) < 3e-6, "{case}: train");
        for (name, var) in &buffers {
            let key = outputs.keys().find(|key| {
                key.strip_prefix(&format!("{case}.after_train."))
                    .is_some_and(|theirs| !theirs.ends_with("tracked") && our_name(theirs) == *name)
            });
            let expected = &outputs[key.unwrap()];
            assert!(relative(var, expected) < 1e-6, "{case}: {name}");
        }
        let loss = (y * &inputs["cotangent"]).unwrap().sum_all().unwrap();
        let got = loss.backward().unwrap();
        assert!(relative(got.get(&x).unwrap(), &grads[&format!("{case}.input")]) < 2e-5);
        let prefix = format!("{case}.");
        let mut compared = 0;
        for (theirs, expected) in &grads {
            let Some(theirs) = theirs.strip_prefix(&prefix) else { continue };
            if theirs == "input" {
                continue;
            }
            let name = our_name(theirs);
            let got = got.get(&vars[&name]).unwrap();
            compared += 1;
            if name == "b.attn.in_proj_bias" {
                // The middle third, of the keys, is rounding noise.
                let thirds = |t: &Tensor| t.chunk(3, 0).unwrap();
                let (got, expected) = (thirds(got), thirds(expected));
                assert!(worst(&got[1], &expected[1]) < 1e-6, "{case}: {name}, keys");
                for i in [0, 2] {
                    assert!(relative(&got[i], &expected[i]) < 2e-5, "{case}: {name} {i}");
                }
            } else if worst(expected, &expected.zeros_like().unwrap()) < 1e-5 {
                // Gradients that are zero but for rounding (a shift before BatchNorm).
                assert!(worst(got, expected) < 1e-5, "{case}: {name}");
            } else {
                let error = relative(got, expected);
                assert!(error < 2e-5, "{case}: {name}: {error:e}");
            }
        }
        assert_eq!(compared, vars.len(), "{case}");
    }
}

#[test]
fn batch_statistics_in_place_of_running_ones_would_be_noticed() {
    let Some(folder) = shared_data::shared("data/golden/repavit") else { return };
    let (inputs, weights) =
        (load(&folder, "inputs.safetensors"), load(&folder, "weights.safetensors"));
    let outputs = load(&folder, "outputs.safetensors");
    let (vars, buffers) = variables(&weights, "r050");
    let y = block(&vars, &buffers, 48)
        .forward(&inputs["x"].to_dtype(DType::F32).unwrap(), Pass { train: true, ..PASS })
        .unwrap();
    assert!(relative(&y, &outputs["r050.eval"]) > 1e-2);
}

/// The script's formula: ((i·a + b) mod m) over the elements, centred and scaled to -1..1.
fn pattern(dims: &[usize], a: usize, b: usize, m: usize) -> Tensor {
    let half = (m / 2) as f64;
    let count: usize = dims.iter().product();
    let values: Vec<f64> = (0..count).map(|i| (((i * a + b) % m) as f64 - half) / half).collect();
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

/// Its tensors by name: gains and variances about 1, biases and means about 0, matrices by fan-in.
fn of_formula(width: usize, hidden: usize) -> BTreeMap<String, Var> {
    let mut shapes = BTreeMap::from([
        ("attn.in_proj_weight".to_owned(), vec![3 * width, width]),
        ("attn.in_proj_bias".to_owned(), vec![3 * width]),
    ]);
    for (layer, dims) in [
        ("attn.out_proj", vec![width, width]),
        ("mlp.c_fc", vec![hidden, width]),
        ("mlp.c_proj", vec![width, hidden]),
        ("ln_1", vec![width]),
        ("mlp.bn_1", vec![width]),
        ("mlp.bn_2", vec![hidden]),
    ] {
        if layer.contains("bn_") {
            shapes.insert(format!("{layer}.running_mean"), dims.clone());
            shapes.insert(format!("{layer}.running_var"), dims.clone());
        }
        shapes.insert(format!("{layer}.bias"), vec![dims[0]]);
        shapes.insert(format!("{layer}.weight"), dims);
    }
    let fill = |(k, (name, dims)): (usize, (&String, &Vec<usize>))| {
        let v = pattern(dims, 37, 101 * k, 201);
        let norm = name.contains("ln_") || name.contains("bn_");
        let gain = norm && name.ends_with("weight") || name.ends_with("running_var");
        let v = match dims[..] {
            [_] => (v * 0.3).unwrap() + if gain { 1.0 } else { 0.0 },
            _ => v * (1.5 / (dims[1] as f64).sqrt()),
        };
        (format!("b.{name}"), Var::from_tensor(&v.unwrap()).unwrap())
    };
    shapes.iter().enumerate().map(fill).collect()
}

#[test]
fn a_small_block_with_idle_channels_equals_torchs_layers_in_f64_and_its_fold() {
    let golden: serde_json::Value =
        serde_json::from_str(include_str!("../tests/golden/repavit_tiny.json")).unwrap();
    let size = |name: &str| golden[name].as_u64().unwrap() as usize;
    let (width, hidden, active) = (size("width"), size("hidden"), size("active"));
    let (buffers, vars): (BTreeMap<_, _>, BTreeMap<_, _>) =
        of_formula(width, hidden).into_iter().partition(|(name, _)| name.contains("running"));
    let block = block(&vars, &buffers, active);
    let close = |name: &str, got: f64, expected: f64| {
        let difference = (got - expected).abs();
        assert!(difference < 1e-11 * expected.abs().max(1.0), "{name}: {got} {expected}");
    };
    let all = |name: &str, got: &Tensor| {
        let expected: Vec<f64> = serde_json::from_value(golden[name].clone()).unwrap();
        let got = got.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        assert_eq!(got.len(), expected.len(), "{name}");
        got.iter().zip(&expected).for_each(|(got, expected)| close(name, *got, *expected));
    };
    let probe = |t: &Tensor| -> f64 {
        (t * pattern(t.dims(), 29, 7, 11)).unwrap().sum_all().unwrap().to_scalar().unwrap()
    };
    let x = Var::from_tensor(&pattern(&[2, 5, width], 7919, 0, 2049)).unwrap();
    all("eval", &block.forward(&x, PASS).unwrap());

    let fold = fold_block(&block.idle_ffn().unwrap()).unwrap();
    let mut tensors: Tensors =
        vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
    let (u, shift, v) = fold.active.unwrap();
    for (name, tensor) in [
        ("c_idle.weight", fold.idle_weight),
        ("c_idle.bias", fold.idle_bias),
        ("c_fc.weight", u),
        ("c_fc.bias", shift),
        ("c_proj.weight", v),
    ] {
        tensors.insert(format!("b.mlp.{name}"), tensor);
    }
    let source = Source { tensors: &tensors, buffers: &BTreeMap::new(), layout: Layout::Plain };
    let inference = Block::new(&source, "b", Some(Ffn::Folded { active })).unwrap();
    all("eval", &inference.forward(&x, PASS).unwrap());

    let y = block.forward(&x, Pass { train: true, ..PASS }).unwrap();
    all("train", &y);
    for (name, expected) in golden["statistics"].as_object().unwrap() {
        close(name, probe(&buffers[&format!("b.{name}")]), expected.as_f64().unwrap());
    }
    let loss = (&y * pattern(y.dims(), 13, 0, 7)).unwrap().sum_all().unwrap();
    let grads = loss.backward().unwrap();
    close("input", probe(grads.get(&x).unwrap()), golden["input_grad"].as_f64().unwrap());
    let expected = golden["grads"].as_object().unwrap();
    assert_eq!(expected.len(), vars.len());
    for (name, expected) in expected {
        let got = probe(grads.get(&vars[&format!("b.{name}")]).unwrap());
        close(name, got, expected.as_f64().unwrap());
    }
}
