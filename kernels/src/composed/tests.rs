//! The compositions beside the operators, on the CPU: numbers and gradients.

use candle_core::{Device, Result, Tensor, Var};

use super::rows::product;
use super::*;
use crate::{Half, HalfForm, Products};

fn noise(shape: &[usize], salt: u32) -> Var {
    let count: usize = shape.iter().product();
    let bits = |i: u32| (i ^ salt.wrapping_mul(747_796_405)).wrapping_mul(2_654_435_761) >> 8;
    let values: Vec<f64> =
        (0..count as u32).map(|i| f64::from(bits(i)) / f64::from(1 << 23) - 1.0).collect();
    Var::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn numbers(t: &Tensor) -> Vec<f64> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn close(name: &str, a: &Tensor, b: &Tensor) {
    assert_eq!(a.dims(), b.dims(), "{name}");
    let worst =
        numbers(a).into_iter().zip(numbers(b)).map(|(a, b)| (a - b).abs() / (1.0 + b.abs()));
    let worst = worst.fold(0.0, f64::max);
    assert!(worst < 4e-6, "{name}: {worst}"); // candle rounds the constants of GELU
}

/// Both must give the same result, and for Σ y·noise the same gradients, in f64.
fn same(
    name: &str,
    inputs: &[Var],
    operator: impl Fn(&[Tensor]) -> Result<Tensor>,
    composition: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let tensors: Vec<Tensor> = inputs.iter().map(|var| var.as_tensor().clone()).collect();
    let (a, b) = (operator(&tensors).unwrap(), composition(&tensors).unwrap());
    close(name, &b, &a);
    let weight = noise(a.dims(), 99).as_tensor().detach();
    let gradients = |y: Tensor| (y * &weight).unwrap().sum_all().unwrap().backward().unwrap();
    let (of_a, of_b) = (gradients(a), gradients(b));
    for (i, var) in inputs.iter().enumerate() {
        let (a, b) = (of_a.get(var).unwrap(), of_b.get(var).unwrap());
        close(&format!("{name}, gradient {i}"), b, a);
        assert!(numbers(a).iter().any(|g| g.abs() > 1e-9), "{name}: gradient {i} is zero");
    }
}

#[test]
fn rows_give_the_operators_numbers_and_gradients() {
    let x = || noise(&[3, 5, 8], 1);
    let c = |salt| noise(&[8], salt);
    same(
        "layer_norm",
        &[x(), c(2), c(3)],
        |t| crate::layer_norm(&t[0], &t[1], &t[2], 1e-5),
        |t| layer_norm(&t[0], &t[1], &t[2], 1e-5),
    );
    same(
        "linear",
        &[x(), noise(&[6, 8], 4), noise(&[6], 5)],
        |t| crate::linear(&t[0], &t[1], Some(&t[2])),
        |t| linear(&t[0], &t[1], Some(&t[2]), Products::F32),
    );
    same(
        "project",
        &[x(), noise(&[8, 6], 4)],
        |t| crate::project(&t[0], &t[1]),
        |t| product(&t[0], &t[1], Products::F32),
    );
    same("gelu", &[x()], |t| crate::gelu(&t[0]), |t| gelu(&t[0]));
    same("quick_gelu", &[x()], |t| crate::quick_gelu(&t[0]), |t| quick_gelu(&t[0]));
    for (active, quick) in [(0, false), (3, false), (3, true), (8, true)] {
        same(
            "gelu_first",
            &[x()],
            |t| crate::gelu_first(&t[0], active, quick),
            |t| gelu_first(&t[0], active, quick),
        );
    }
    same(
        "geglu",
        &[x(), noise(&[3, 5, 8], 6)],
        |t| crate::geglu(&t[0], &t[1]),
        |t| geglu(&t[0], &t[1]),
    );
    same("softmax", &[x()], |t| crate::softmax(&t[0]), |t| softmax(&t[0]));
    same("l2_normalize", &[x()], |t| crate::l2_normalize(&t[0]), |t| l2_normalize(&t[0]));
    let targets = [3u32, 0, 7, 3];
    let ids = Tensor::new(&targets, &Device::Cpu).unwrap();
    same(
        "cross_entropy",
        &[noise(&[4, 8], 7)],
        |t| crate::cross_entropy(&t[0], &ids),
        |t| cross_entropy(&t[0], &targets),
    );
    let pairs = ids.reshape((2, 2)).unwrap();
    same(
        "embedding",
        &[noise(&[9, 8], 8)],
        |t| crate::embedding(&t[0], &pairs),
        |t| embedding(&t[0], &targets, &[2, 2, 8]),
    );
    same(
        "patches",
        &[noise(&[2, 3, 4, 6], 9)],
        |t| crate::patches(&t[0], 2),
        |t| patches(&t[0], 2),
    );
    same(
        "with_class_and_positions",
        &[c(1), x(), noise(&[6, 8], 2)],
        |t| crate::with_class_and_positions(&t[0], &t[1], &t[2]),
        |t| with_class_and_positions(&t[0], &t[1], &t[2]),
    );
}

#[test]
fn batch_statistics_too() {
    let (x, w, b) = (noise(&[3, 5, 4], 1), noise(&[4], 2), noise(&[4], 3));
    let whole = |t: &[Tensor]| -> Result<Tensor> {
        let (mean, variance) = moments(&t[0])?;
        batch_norm(&t[0], &t[1], &t[2], &mean, &variance, 1e-5)
    };
    let of = |t: &[Tensor]| crate::batch_norm_train(&t[0], &t[1], &t[2], 1e-5);
    same("batch_norm_train", &[x.clone(), w.clone(), b.clone()], |t| Ok(of(t)?.0), whole);
    let (_, statistics) =
        of(&[x.as_tensor().clone(), w.as_tensor().clone(), b.as_tensor().clone()]).unwrap();
    let (mean, variance) = moments(&x).unwrap();
    close("mean", &mean, &statistics.mean);
    close("variance", &variance, &statistics.variance);
    same(
        "batch_norm",
        &[x, w, b],
        |t| crate::batch_norm(&t[0], &t[1], &t[2], &mean.detach(), &variance.detach(), 1e-5),
        |t| batch_norm(&t[0], &t[1], &t[2], &mean.detach(), &variance.detach(), 1e-5),
    );
}

#[test]
fn attention_of_equal_and_of_different_lengths() {
    for causal in [false, true] {
        same(
            "attention",
            &[noise(&[2, 5, 24], 1)],
            |t| crate::attention(&t[0], 2, causal),
            |t| attention(&t[0], 2, causal, Products::F32),
        );
        for lengths in [vec![4, 4, 4], vec![1, 7, 4]] {
            same(
                "attention_ragged",
                &[noise(&[12, 24], 2)],
                |t| crate::attention_ragged(&t[0], &lengths, 2, causal),
                |t| attention_ragged(&t[0], &lengths, 2, causal, Products::F32),
            );
        }
    }
}

#[test]
fn halves_kept_or_computed_again() {
    let inputs = |hidden: usize, inner: usize| {
        [
            noise(&[12, 8], 1),
            noise(&[8], 2),
            noise(&[8], 3),
            noise(&[hidden, 8], 4),
            noise(&[hidden], 5),
            noise(&[8, inner], 6),
            noise(&[8], 7),
        ]
    };
    fn half(t: &[Tensor]) -> Half<'_> {
        Half { norm: [&t[1], &t[2]], first: [&t[3], &t[4]], second: [&t[5], &t[6]] }
    }
    for again in [false, true] {
        let form = HalfForm { eps: 1e-5, products: Products::F32, again };
        same(
            "attention_half",
            &inputs(24, 8),
            |t| crate::attention_half(&t[0], half(t), &[3, 9], 2, true, form),
            |t| attention_half(&t[0], half(t), &[3, 9], 2, true, form),
        );
        for quick in [false, true] {
            same(
                "mlp_half",
                &inputs(20, 20),
                |t| crate::mlp_half(&t[0], half(t), quick, form),
                |t| mlp_half(&t[0], half(t), quick, form),
            );
        }
    }
}

#[test]
fn windows_of_even_and_odd_pictures() {
    for (h, w) in [(4, 6), (5, 3), (1, 2)] {
        let x = || noise(&[2, h, w, 3], 1);
        for stride in [1, 2] {
            same(
                "conv3x3",
                &[x(), noise(&[5, 3, 3, 3], 2), noise(&[5], 3)],
                |t| crate::conv3x3(&t[0], &t[1], &t[2], stride),
                |t| conv3x3(&t[0], &t[1], &t[2], stride, Products::F32),
            );
            same(
                "depthwise3x3",
                &[x(), noise(&[3, 1, 3, 3], 2), noise(&[3], 3)],
                |t| crate::depthwise3x3(&t[0], &t[1], &t[2], stride),
                |t| depthwise3x3(&t[0], &t[1], &t[2], stride),
            );
        }
        same("avg_pool3x3", &[x()], |t| crate::avg_pool3x3(&t[0]), |t| avg_pool3x3(&t[0]));
    }
}

#[test]
fn a_sigmoid_far_out_has_a_slope_that_is_a_number() {
    let x = Var::from_slice(&[-2000f32, 2000.], 2, &Device::Cpu).unwrap();
    let gradients = quick_gelu(&x).unwrap().sum_all().unwrap().backward().unwrap();
    assert_eq!(gradients.get(&x).unwrap().to_vec1::<f32>().unwrap(), [0.0, 1.0]);
}

#[test]
fn a_row_of_zeros_stays_one() {
    let x = Var::zeros((1, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
    let y = l2_normalize(&x).unwrap();
    assert_eq!(y.to_vec2::<f32>().unwrap(), [[0.0; 3]]);
}

#[test]
fn products_in_bf16_round_their_factors() {
    let x = Tensor::new(&[[1.0f32 + 1.0 / 512.0, 3.0]], &Device::Cpu).unwrap();
    let w = Tensor::new(&[[1.0f32, 0.5]], &Device::Cpu).unwrap();
    let y = linear(&x, &w, None, Products::Bf16).unwrap();
    assert_eq!(y.to_vec2::<f32>().unwrap(), [[2.5]]); // 1 + 2⁻⁹ is 1 in bf16
}
