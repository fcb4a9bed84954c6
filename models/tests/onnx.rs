//! ONNX networks: a small one with every operator against onnxruntime, and hostile files.

use models::onnx::{Array, Onnx};
use serde_json::Value;
use stage::Kind;

const MODEL: &[u8] = include_bytes!("golden/onnx_small.onnx");
/// `bench/interop/onnx_equal.py golden`: an input and what onnxruntime makes of it.
const CASE: &str = include_str!("golden/onnx_small.json");

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn shape(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as usize).collect()
}

#[test]
fn every_operator_gives_the_numbers_of_onnxruntime() {
    let network = Onnx::read(MODEL).unwrap();
    assert_eq!(network.input(), ("x", &[Some(1), Some(3), None, None][..]));
    assert_eq!(network.outputs().collect::<Vec<_>>(), ["y", "out"]);
    let case: Value = serde_json::from_str(CASE).unwrap();
    let input = Array::new(&shape(&case["shape"]), floats(&case["input"])).unwrap();
    let outputs = network.run(input).unwrap();
    assert_eq!(outputs.len(), 2);
    for (ours, theirs) in outputs.iter().zip(case["outputs"].as_array().unwrap()) {
        assert_eq!(ours.shape(), shape(&theirs["shape"]));
        for (a, b) in ours.floats().unwrap().iter().zip(floats(&theirs["numbers"])) {
            assert!((a - b).abs() < 2e-6, "{a} {b}");
        }
    }
}

#[test]
fn another_shape_of_input_is_refused_with_both() {
    let network = Onnx::read(MODEL).unwrap();
    let error = network.run(Array::new(&[1, 1, 4, 4], vec![0.0; 16]).unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "the input `x` is [1, 3, ?, ?], not [1, 1, 4, 4]");
    // Too small for its windows: the node is named.
    let error = network.run(Array::new(&[1, 3, 1, 1], vec![0.0; 3]).unwrap()).unwrap_err();
    assert!(error.to_string().contains("does not fit"), "{error}");
}

#[test]
fn a_file_cut_off_anywhere_or_with_any_byte_changed_is_read_or_refused_and_never_more() {
    for length in 0..MODEL.len() {
        if let Err(error) = Onnx::read(&MODEL[..length]) {
            assert_eq!(error.kind(), Kind::Model, "{length}");
        }
    }
    let input = Array::new(&[1, 3, 8, 8], vec![0.5; 192]).unwrap();
    for place in 0..MODEL.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut bytes = MODEL.to_vec();
            bytes[place] ^= change;
            if let Ok(network) = Onnx::read(&bytes) {
                drop(network.run(input.clone()));
            }
        }
    }
}

#[test]
fn an_operator_that_is_not_known_is_named_when_the_file_is_opened() {
    let place = MODEL.windows(7).position(|w| w == b"Sigmoid").unwrap();
    let mut bytes = MODEL.to_vec();
    bytes[place..place + 7].copy_from_slice(b"Sigmoie");
    let error = Onnx::read(&bytes).unwrap_err();
    assert_eq!(error.to_string(), "the operator `Sigmoie` is not known");
}
