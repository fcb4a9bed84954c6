//! ONNX networks: a small one with every operator against onnxruntime, what operators mean in which
//! operator set, and hostile files. Literal expectations are onnxruntime 1.32's.

mod onnx_files;

use models::onnx::{Array, Onnx};
use onnx_files::{field, floats as float_list, indices, int, ints, model, node, text, weight};
use serde_json::Value;
use stage::{Cancel, Kind};

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
    assert!(error.to_string().contains("the operator `Sigmoie` is not known"), "{error}");
}

/// What a network makes of `x`, its first output: shape and numbers.
fn run(bytes: &[u8], shape: &[usize], x: &[f32]) -> (Vec<usize>, Vec<f32>) {
    let network = Onnx::read(bytes).unwrap();
    let outputs = network.run(Array::new(shape, x.to_vec()).unwrap()).unwrap();
    (outputs[0].shape().to_vec(), outputs[0].floats().unwrap().to_vec())
}

/// One node from `x` to `y`.
fn one(opset: i64, x: &[i64], op: &str, inputs: &str, more: &[Vec<u8>], w: &[Vec<u8>]) -> Vec<u8> {
    model(opset, x, &[node(op, inputs, "y", more)], w, &["y"])
}

fn refused(bytes: &[u8], why: &str) {
    let error = Onnx::read(bytes).unwrap_err();
    assert_eq!(error.kind(), Kind::Model);
    assert!(error.to_string().contains(why), "{error} instead of {why}");
}

fn refused_at_run(bytes: &[u8], shape: &[usize], why: &str) {
    let network = Onnx::read(bytes).unwrap();
    let input = Array::new(shape, vec![1.0; shape.iter().product()]).unwrap();
    let error = network.run(input).unwrap_err();
    assert_eq!(error.kind(), Kind::Model);
    assert!(error.to_string().contains(why), "{error} instead of {why}");
}

#[test]
fn softmax_before_operator_set_13_takes_all_behind_its_axis_as_one_row() {
    let of = |opset, attributes: &[Vec<u8>]| {
        run(&one(opset, &[1, 2, 2], "Softmax", "x", attributes, &[]), &[1, 2, 2], &[0.0; 4]).1
    };
    assert_eq!(of(12, &[]), [0.25; 4]);
    assert_eq!(of(13, &[]), [0.5; 4]);
    assert_eq!(of(12, &[int("axis", 2)]), [0.5; 4]);
    assert_eq!(of(13, &[int("axis", 0)]), [1.0; 4]);
}

#[test]
fn an_average_with_borders_divides_by_what_the_borders_have() {
    let average = |kernel: i64, more: &[Vec<u8>]| {
        let all = [&[ints("kernel_shape", &[kernel; 2]), ints("strides", &[2, 2])], more].concat();
        one(11, &[1, 1, 4, 4], "AveragePool", "x", &all, &[])
    };
    let counted: Vec<f32> = (1..=16).map(|i| i as f32).collect();
    let padded = [int("ceil_mode", 1), ints("pads", &[1; 4]), int("count_include_pad", 1)];
    let (shape, y) = run(&average(3, &padded), &[1, 1, 4, 4], &counted);
    assert_eq!(shape, [1, 1, 3, 3]);
    let sums = [14.0, 30.0, 12.0, 57.0, 99.0, 36.0, 27.0, 45.0, 16.0];
    let counts = [9.0, 9.0, 6.0, 9.0, 9.0, 6.0, 6.0, 6.0, 4.0];
    let expected: Vec<f32> =
        sums.iter().zip(counts).map(|(sum, count): (&f32, f32)| sum / count).collect();
    assert_eq!(y, expected);
    let (_, y) = run(&average(3, &padded[..2]), &[1, 1, 4, 4], &counted);
    assert_eq!([y[0], y[4], y[8]], [3.5, 11.0, 16.0]);
}

#[test]
fn a_resize_takes_the_number_that_its_modes_say() {
    let of = |opset: i64, factor: f32, modes: &[Vec<u8>]| {
        let (inputs, scales) = match opset {
            10 => ("x s", weight("s", &[4], &[1.0, 1.0, 1.0, factor])),
            _ => ("x - s", weight("s", &[4], &[1.0, 1.0, 1.0, factor])),
        };
        run(
            &one(opset, &[1, 1, 1, 2], "Resize", inputs, modes, &[scales]),
            &[1, 1, 1, 2],
            &[1.0, 2.0],
        )
        .1
    };
    let asymmetric = || text("coordinate_transformation_mode", "asymmetric");
    let nearest = |mode| text("nearest_mode", mode);
    assert_eq!(of(10, 2.0, &[]), [1.0, 1.0, 2.0, 2.0]);
    assert_eq!(of(13, 2.0, &[]), [1.0, 1.0, 2.0, 2.0]);
    assert_eq!(of(13, 2.0, &[nearest("floor")]), [1.0, 1.0, 1.0, 2.0]);
    assert_eq!(of(13, 3.0, &[asymmetric()]), [1.0, 1.0, 2.0, 2.0, 2.0, 2.0]);
    assert_eq!(of(13, 2.0, &[asymmetric(), nearest("ceil")]), [1.0, 2.0, 2.0, 2.0]);
    assert_eq!(of(13, 2.0, &[asymmetric(), nearest("floor")]), [1.0, 1.0, 2.0, 2.0]);
    let scales = || [weight("s", &[4], &[1.0; 4])];
    for (mode, why) in [
        (text("mode", "linear"), "only nearest"),
        (text("coordinate_transformation_mode", "align_corners"), "align_corners"),
        (nearest("some"), "nearest_mode some"),
        (ints("axes", &[2, 3]), "`axes` is not known"),
    ] {
        refused(&one(18, &[1, 1, 1, 2], "Resize", "x - s", &[mode], &scales()), why);
    }
    refused_at_run(
        &one(
            13,
            &[1, 1, 1, 2],
            "Resize",
            "x - s",
            &[],
            &[weight("s", &[4], &[1.0, 1.0, 1.0, 1.5])],
        ),
        &[1, 1, 1, 2],
        "whole factors",
    );
}

#[test]
fn an_upsample_of_operator_set_7_has_its_scales_as_an_attribute() {
    let scales = [text("mode", "nearest"), float_list("scales", &[1.0, 1.0, 2.0, 2.0])];
    let (shape, y) =
        run(&one(7, &[1, 1, 1, 2], "Upsample", "x", &scales, &[]), &[1, 1, 1, 2], &[1.0, 2.0]);
    assert_eq!((shape, y), (vec![1, 1, 2, 4], vec![1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 2.0]));
    refused(&one(10, &[1, 1, 1, 2], "Upsample", "x", &scales, &[]), "operator set 10");
    refused(&one(9, &[1, 1, 1, 2], "Resize", "x", &[], &[]), "operator set 9");
}

#[test]
fn a_shape_begins_and_ends_where_it_is_asked_to() {
    let of = |attributes: &[Vec<u8>]| {
        let nodes = [node("Shape", "x", "s", attributes), node("Cast", "s", "y", &[int("to", 1)])];
        run(&model(15, &[2, 3, 5], &nodes, &[], &["y"]), &[2, 3, 5], &[0.0; 30]).1
    };
    assert_eq!(of(&[]), [2.0, 3.0, 5.0]);
    assert_eq!(of(&[int("start", -1)]), [5.0]);
    assert_eq!(of(&[int("start", 1), int("end", -1)]), [3.0]);
    assert!(of(&[int("start", 2), int("end", 1)]).is_empty());
}

#[test]
fn a_normalisation_or_dropout_in_training_is_refused() {
    let w = ["a", "b", "c", "d"].map(|name| weight(name, &[1], &[1.0]));
    let training = [int("training_mode", 1)];
    refused(&one(15, &[1, 1, 4], "BatchNormalization", "x a b c d", &training, &w), "training");
    let outputs = node("BatchNormalization", "x a b c d", "y m v", &[]);
    refused(&model(9, &[1, 1, 4], &[outputs], &w, &["y"]), "3 outputs");
    refused(&one(12, &[4], "Dropout", "x a b", &[], &w), "3 inputs");
    let mask = node("Dropout", "x", "y m", &[]);
    let file = model(12, &[2], std::slice::from_ref(&mask), &[], &["y"]);
    assert_eq!(run(&file, &[2], &[1.0, 2.0]).1, [1.0, 2.0]);
    refused(&model(12, &[2], &[mask], &[], &["m"]), "nothing makes the value `m`");
}

#[test]
fn a_number_that_is_none_stays_none() {
    let bounds = [weight("l", &[], &[0.0]), weight("h", &[], &[6.0])];
    let kernel = [ints("kernel_shape", &[1, 2])];
    for (op, inputs, attributes) in
        [("Relu", "x", &[][..]), ("Clip", "x l h", &[]), ("MaxPool", "x", &kernel)]
    {
        let file = one(12, &[1, 1, 1, 2], op, inputs, attributes, &bounds);
        for x in [[f32::NAN, 1.0], [1.0, f32::NAN]] {
            let y = run(&file, &[1, 1, 1, 2], &x).1;
            assert!(y.iter().any(|y| y.is_nan()), "{op} {x:?} {y:?}");
        }
    }
    assert_eq!(
        run(&one(12, &[3], "Clip", "x l h", &[], &bounds), &[3], &[-1.0, 2.0, 9.0]).1,
        [0.0, 2.0, 6.0]
    );
}

#[test]
fn nodes_that_mean_nothing_are_refused() {
    let slice =
        [indices("s", &[2], &[3, 3]), indices("e", &[2], &[4, 4]), indices("a", &[2], &[0, 0])];
    refused_at_run(&one(12, &[4], "Slice", "x s e a", &[], &slice), &[4], "2 axes among 1");
    let none = || weight("e", &[0], &[]);
    let norm = one(12, &[1], "BatchNormalization", "x e e e e", &[], &[none()]);
    refused_at_run(&norm, &[1], "[N, C, ..]");
    refused_at_run(
        &one(11, &[2, 1], "Squeeze", "x", &[ints("axes", &[0])], &[]),
        &[2, 1],
        "is not 1",
    );
    let kernel = || weight("w", &[1, 1, 2, 2], &[1.0; 4]);
    let zero = [ints("dilations", &[0, 0])];
    refused(&one(12, &[1, 1, 3, 3], "Conv", "x w", &zero, &[kernel()]), "dilations [0, 0]");
    let empty = weight("w", &[1, 1, 0, 1], &[]);
    refused_at_run(
        &one(12, &[1, 1, 3, 3], "Conv", "x w", &[], &[empty]),
        &[1, 1, 3, 3],
        "does not fit",
    );
    let other = [ints("kernel_shape", &[3, 3])];
    refused_at_run(
        &one(12, &[1, 1, 3, 3], "Conv", "x w", &other, &[kernel()]),
        &[1, 1, 3, 3],
        "[1, 1, 2, 2]",
    );
    refused(&one(12, &[1], "Unsqueeze", "x", &[int("axes", 1)], &[]), "`axes` is an integer");
    refused(&one(12, &[1], "Relu", "x", &[int("alpha", 1)], &[]), "`alpha` is not known");
    refused(&one(12, &[1], "Relu", "z", &[], &[]), "nothing makes the value `z`");
    refused(&one(12, &[1], "Add", "x", &[], &[]), "1 inputs");
    let twice = [node("Relu", "x", "y", &[]), node("Relu", "y", "y", &[])];
    refused(&model(12, &[1], &twice, &[], &["y"]), "two values of the name `y`");
    refused(&model(12, &[1], &twice[..1], &[], &["y", "y"]), "the output `y` twice");
}

#[test]
fn a_shape_of_zero_keeps_a_side_unless_it_may_be_zero() {
    let of = |attributes: &[Vec<u8>], shape: &[i64]| {
        one(14, &[0, 3], "Reshape", "x t", attributes, &[indices("t", &[2], shape)])
    };
    let run = |file: &[u8]| run(file, &[2, 3], &[1.0; 6]).0;
    let of_six = |attributes: &[Vec<u8>], shape: &[i64]| {
        one(14, &[2, 3], "Reshape", "x t", attributes, &[indices("t", &[2], shape)])
    };
    assert_eq!(run(&of_six(&[], &[0, -1])), [2, 3]);
    refused_at_run(
        &of_six(&[int("allowzero", 1)], &[0, 6]),
        &[2, 3],
        "6 numbers for the shape [0, 6]",
    );
    refused_at_run(&of_six(&[int("allowzero", 1)], &[0, -1]), &[2, 3], "a shape [0, -1]");
    let empty = Onnx::read(&of(&[int("allowzero", 1)], &[3, 0])).unwrap();
    let y = empty.run(Array::new(&[0, 3], Vec::new()).unwrap()).unwrap();
    assert_eq!(y[0].shape(), [3, 0]);
}

#[test]
fn a_side_of_zero_and_many_sides_hide_no_size() {
    let wide = weight("h", &[0, 1, 1 << 32, 1 << 31], &[]);
    refused(&one(12, &[1], "GlobalAveragePool", "h", &[], &[wide]), "more than 268435456 numbers");
    let sides = weight("h", &[1; 9], &[1.0]);
    refused(&one(12, &[1], "Identity", "h", &[], &[sides]), "more than 8 numbers");
    let kernel = weight("w", &[1, 1, 1, 1], &[1.0]);
    let padded = [ints("pads", &[1; 4])];
    let nothing =
        one(12, &[1, 1, 0, 0], "Conv", "x w b", &padded, &[kernel, weight("b", &[1], &[3.0])]);
    assert_eq!(run(&nothing, &[1, 1, 0, 0], &[]), (vec![1, 1, 2, 2], vec![3.0; 4]));
}

#[test]
fn a_run_ends_however_small_the_file_is() {
    let pool = |pad: i64| {
        let attributes = [ints("kernel_shape", &[4096; 2]), ints("pads", &[pad; 4])];
        one(12, &[1, 1, 8, 8], "MaxPool", "x", &attributes, &[])
    };
    refused(&pool(4096), "as large as the window");
    refused_at_run(&pool(4095), &[1, 1, 8, 8], "steps");
    // 64 values of a MiB, of which one at a time is there; and 2 GiB of a sum.
    let chain: Vec<Vec<u8>> =
        (0..64).map(|i| node("Relu", &format!("a{i}"), &format!("a{}", i + 1), &[])).collect();
    let first = [node("Identity", "x", "a0", &[])];
    let nodes = [&first[..], &chain].concat();
    let (shape, _) =
        run(&model(12, &[512, 512], &nodes, &[], &["a64"]), &[512, 512], &vec![1.0; 1 << 18]);
    assert_eq!(shape, [512, 512]);
    let wide = weight("w", &[1, 1 << 15], &vec![0.0; 1 << 15]);
    let sum = one(12, &[1 << 13, 1], "Add", "x w", &[], &[wide]);
    refused_at_run(&sum, &[1 << 13, 1], "bytes of values");
}

#[test]
fn a_file_names_no_more_than_a_network_has() {
    let relu = || [node("Relu", "x", "y", &[])];
    let many: Vec<String> = (0..257).map(|i| format!("y{i}")).collect();
    let names: Vec<&str> = many.iter().map(String::as_str).collect();
    refused(&model(12, &[1], &relu(), &[], &names), "more than 256");
    let inputs = "x ".repeat(4097);
    refused(&one(12, &[1], "Concat", &inputs, &[], &[]), "more than 4096 inputs");
    refused(&model(12, &[1; 9], &relu(), &[], &["y"]), "more than 8 sides");
    // A million inputs of two bytes each.
    let graph = [field(12, &field(1, b"y")), [0x5a, 0].repeat(1 << 20)].concat();
    let opset = field(8, &[16, 12]);
    refused(&[field(7, &graph), opset].concat(), "a network with 2 inputs");
}

#[test]
fn a_run_stops_when_it_is_asked_to() {
    let network = Onnx::read(&one(12, &[1], "Relu", "x", &[], &[])).unwrap();
    let cancel = Cancel::default();
    let input = || Array::new(&[1], vec![1.0]).unwrap();
    assert_eq!(network.run_until(input(), &cancel).unwrap()[0].floats().unwrap(), [1.0]);
    cancel.cancel();
    assert_eq!(network.run_until(input(), &cancel).unwrap_err().kind(), Kind::Interrupted);
}

#[test]
fn a_normalisation_and_a_bound_join_the_convolution_before_them() {
    let w = [
        weight("w", &[2, 1, 1, 1], &[2.0, -1.0]),
        weight("scale", &[2], &[1.0, 3.0]),
        weight("bias", &[2], &[0.5, 0.0]),
        weight("mean", &[2], &[1.0, 2.0]),
        weight("variance", &[2], &[4.0, 1.0]),
    ];
    let nodes = |bound: &str| {
        let [conv, norm, relu] = [
            node("Conv", "x w", "c", &[]),
            node("BatchNormalization", "c scale bias mean variance", "n", &[]),
            node("Relu", "n", "y", &[]),
        ];
        model(12, &[1, 1, 1, 2], &[conv, norm, relu], &w, &[bound, "y"])
    };
    // (2x - 1)/2 + 0.5 = x and 3(-x - 2) with a variance of 1e-5 more.
    for seen in ["c", "n"] {
        let network = Onnx::read(&nodes(seen)).unwrap();
        let outputs = network.run(Array::new(&[1, 1, 1, 2], vec![1.0, -3.0]).unwrap()).unwrap();
        let y = outputs[1].floats().unwrap();
        for (y, expected) in y.iter().zip([1.0, 0.0, 0.0, 3.0]) {
            assert!((y - expected).abs() < 1e-4, "{seen} {y} {expected}");
        }
    }
}

#[test]
fn convolutions_of_every_form_are_the_sum_that_they_are_defined_as() {
    let noise = |count: usize, seed: usize| -> Vec<f32> {
        (0..count).map(|i| ((i * 37 + seed) % 101) as f32 / 50.0 - 1.0).collect()
    };
    for (groups, channels, many, kernel, stride, dilation, pads) in [
        (1, 3, 4, [3, 3], [1, 1], [1, 1], [1, 1, 1, 1]),
        (1, 2, 40, [1, 1], [1, 1], [1, 1], [0, 0, 0, 0]),
        (1, 2, 3, [1, 1], [2, 2], [1, 1], [0, 0, 0, 0]),
        (1, 1, 2, [2, 4], [3, 1], [2, 2], [0, 2, 3, 1]),
        (4, 1, 1, [3, 3], [2, 2], [1, 1], [1, 1, 1, 1]),
        (3, 1, 2, [2, 5], [1, 3], [1, 1], [0, 3, 1, 4]),
        (2, 3, 2, [3, 1], [1, 2], [2, 1], [2, 0, 0, 0]),
    ] {
        let (n, h, w) = (2usize, 9usize, 8usize);
        let (c, m) = (groups * channels, groups * many);
        let [kh, kw]: [usize; 2] = kernel;
        let (x, weights) = (noise(n * c * h * w, 1), noise(m * channels * kh * kw, 2));
        let bias = noise(m, 3);
        let sides = |sides: &[usize]| sides.iter().map(|s| *s as i64).collect::<Vec<i64>>();
        let attributes = [
            ints("strides", &sides(&stride)),
            ints("dilations", &sides(&dilation)),
            ints("pads", &sides(&pads)),
            int("group", groups as i64),
        ];
        let file = one(
            12,
            &sides(&[n, c, h, w]),
            "Conv",
            "x w b",
            &attributes,
            &[
                weight("w", &sides(&[m, channels, kh, kw]), &weights),
                weight("b", &[m as i64], &bias),
            ],
        );
        let (shape, y) = run(&file, &[n, c, h, w], &x);
        let out = |i: usize, side: usize, k: usize| {
            (side + pads[i] + pads[i + 2] - dilation[i] * (k - 1) - 1) / stride[i] + 1
        };
        let (oh, ow) = (out(0, h, kh), out(1, w, kw));
        assert_eq!(shape, [n, m, oh, ow]);
        for (i, y) in y.iter().enumerate() {
            let [ox, oy, o, b] = [i % ow, i / ow % oh, i / (ow * oh) % m, i / (ow * oh * m)];
            let mut sum = f64::from(bias[o]);
            for j in 0..channels * kh * kw {
                let (kx, ky, channel) = (j % kw, j / kw % kh, j / (kw * kh));
                let row = (oy * stride[0] + ky * dilation[0]).checked_sub(pads[0]);
                let column = (ox * stride[1] + kx * dilation[1]).checked_sub(pads[1]);
                if let (Some(row), Some(column)) = (row, column)
                    && row < h
                    && column < w
                {
                    let plane = b * c + o / many * channels + channel;
                    let x = x[(plane * h + row) * w + column];
                    sum += f64::from(x) * f64::from(weights[o * channels * kh * kw + j]);
                }
            }
            assert!((f64::from(*y) - sum).abs() < 1e-5, "{groups} {kernel:?} {i}: {y} {sum}");
        }
    }
}

#[test]
fn a_thin_product_is_charged_for_its_panels_of_32_columns() {
    // 2^23 numbers on either side are 32 MiB each; the right one becomes 1 GiB where it is laid out.
    let long = 1 << 23;
    let turned = |shape: &[i64], op: &str, inputs: &str, more: &[Vec<u8>]| {
        let nodes = [node("Reshape", "x s", "r", &[]), node(op, inputs, "y", more)];
        model(12, &[1, shape.iter().product()], &nodes, &[indices("s", &[2], shape)], &["y"])
    };
    let column = |n| turned(&[n, 1], "MatMul", "x r", &[]);
    refused_at_run(&column(long), &[1, long as usize], "bytes of values");
    refused_at_run(&turned(&[long, 1], "Gemm", "x r", &[]), &[1, long as usize], "bytes of values");
    let row = turned(&[1, long], "Gemm", "x r", &[int("transB", 1)]);
    refused_at_run(&row, &[1, long as usize], "bytes of values");
    assert_eq!(run(&column(3), &[1, 3], &[1.0, 2.0, 3.0]), (vec![1, 1], vec![14.0]));
}

/// A convolution by `many` channels of one pixel in each of two groups, whose borders make it a plane
/// of 2^25 numbers, or 128 MiB.
fn padded_by_planes(many: i64) -> Vec<u8> {
    let w = weight("w", &[2 * many, 1, 1, 1], &vec![1.0; 2 * many as usize]);
    let attributes = [int("group", 2), ints("pads", &[4000; 4]), ints("strides", &[4096; 2])];
    one(12, &[1, 2, 1, 1], "Conv", "x w", &attributes, &[w])
}

#[test]
fn a_plane_is_charged_for_every_channel_that_it_is_laid_out_for() {
    // Two planes are far from 2^36 steps; one for each of 5,000 channels is beyond.
    refused_at_run(&padded_by_planes(2500), &[1, 2, 1, 1], "steps");
}

#[test]
fn every_thread_is_charged_for_its_plane() {
    // Two have room in 1 GiB, 64 have not.
    let (few, many) = (padded_by_planes(1), padded_by_planes(32));
    let threads = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
    let padded = [ints("kernel_shape", &[4001; 2]), ints("pads", &[4000; 4])];
    let strided = [&padded[..], &[ints("strides", &[4096; 2])]].concat();
    let pool = one(12, &[1, 64, 1, 1], "MaxPool", "x", &strided, &[]);
    threads(64).install(|| {
        run(&few, &[1, 2, 1, 1], &[1.0; 2]);
        refused_at_run(&many, &[1, 2, 1, 1], "bytes of values");
        refused_at_run(&pool, &[1, 64, 1, 1], "bytes of values");
    });
}

#[test]
fn a_weight_that_several_convolutions_read_takes_no_normalisation() {
    let w = [
        weight("w", &[1, 1, 1, 1], &[2.0]),
        weight("scale", &[1], &[3.0]),
        weight("bias", &[1], &[0.5]),
        weight("mean", &[1], &[0.0]),
        weight("variance", &[1], &[1.0]),
    ];
    let norm = |from: &str, to: &str| {
        node("BatchNormalization", &format!("{from} scale bias mean variance"), to, &[])
    };
    let nodes = [
        node("Conv", "x w", "a", &[]),
        norm("a", "b"),
        norm("b", "c"),
        node("Conv", "c w", "y", &[]),
    ];
    let file = model(12, &[1, 1, 1, 1], &nodes, &w, &["y"]);
    // ((2·3 + 0.5)·3 + 0.5)·2, with a variance of 1e-5 more.
    let y = run(&file, &[1, 1, 1, 1], &[1.0]).1[0];
    assert!((y - 40.0).abs() < 1e-3, "{y}");
    let plan = |nodes: &[Vec<u8>]| {
        let network = Onnx::read(&model(12, &[1, 1, 1, 1], nodes, &w, &["y"])).unwrap();
        network.weights()
    };
    // Folded: weight and bias alone. Read twice: the weight and the normalisation's four.
    let once = [node("Conv", "x w", "a", &[]), norm("a", "y")];
    assert_eq!(plan(&once), 2);
    let twice = [node("Conv", "x w", "a", &[]), norm("a", "b"), node("Conv", "b w", "y", &[])];
    assert_eq!(plan(&twice), 5);
}

#[test]
fn a_pool_whose_window_sees_no_pixel_gives_the_lowest_finite_number() {
    let attributes =
        [ints("kernel_shape", &[1, 2]), ints("dilations", &[1, 3]), ints("pads", &[0, 1, 0, 1])];
    let file = one(12, &[1, 1, 1, 2], "MaxPool", "x", &attributes, &[]);
    assert_eq!(run(&file, &[1, 1, 1, 2], &[1.0, 2.0]).1, [f32::MIN]);
    let of_two = one(12, &[1, 1, 1, 3], "MaxPool", "x", &attributes[..1], &[]);
    let low = f32::NEG_INFINITY;
    assert_eq!(run(&of_two, &[1, 1, 1, 3], &[low, low, 2.0]).1, [low, 2.0]);
}

#[test]
fn attributes_are_counted_while_a_node_is_read_and_not_behind_it() {
    let mut attributes = Vec::new();
    for i in 0..=(1u32 << 20) {
        attributes.extend(field(5, &field(1, format!("{i:x}").as_bytes())));
    }
    // Behind them the node is broken.
    let node = [field(4, b"Relu"), attributes, vec![0xff]].concat();
    let file = [field(7, &field(1, &node)), field(8, &[16, 12])].concat();
    refused(&file, "more than 1048576 inputs, outputs and attributes");
}

#[test]
fn the_integers_of_constants_and_of_attributes_are_counted_with_the_others() {
    let many = |name: &str| {
        let list = [field(1, name.as_bytes()), field(8, &vec![1; 1 << 16]), vec![0xa0, 1, 7]];
        list.concat()
    };
    let constants: Vec<Vec<u8>> =
        (0..257).map(|i| node("Constant", "", &format!("c{i}"), &[many("value_ints")])).collect();
    let nodes = |nodes: &[Vec<u8>]| model(12, &[1], nodes, &[], &["y"]);
    refused(&nodes(&constants), "more than 16777216 integers");
    let names: Vec<String> = (0..257).map(|i| format!("a{i}")).collect();
    let lists: Vec<Vec<u8>> = names.iter().map(|name| many(name)).collect();
    refused(&nodes(&[node("Relu", "x", "y", &lists)]), "more than 16777216 integers");
}
