//! Every gradient against central differences in f64, at odd sizes.

use candle_core::{DType, Device, Result, Tensor, Var};
use kernels::{
    Half, HalfForm, Products, add, attention, attention_half, attention_ragged, avg_pool3x3,
    batch_norm, batch_norm_train, conv3x3, cross_entropy, depthwise3x3, embedding, geglu, gelu,
    gelu_first, l2_normalize, layer_norm, linear, linear_in, mlp_half, patches, project,
    quick_gelu, recompute, softmax, with_class_and_positions,
};

/// Reproducible numbers in -1..1, without a random generator.
fn noise(shape: &[usize], seed: u64) -> Tensor {
    let count: usize = shape.iter().product();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let data: Vec<f64> = (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        })
        .collect();
    Tensor::from_vec(data, shape, &Device::Cpu).unwrap()
}

/// Compares the gradient of Σ f(inputs)·cotangent with differences for every element of every input.
fn check(shapes: &[&[usize]], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let inputs: Vec<Var> = shapes
        .iter()
        .enumerate()
        .map(|(i, s)| Var::from_tensor(&noise(s, 7 + i as u64)).unwrap())
        .collect();
    let tensors: Vec<Tensor> = inputs.iter().map(|v| v.as_tensor().clone()).collect();
    let y = f(&tensors).unwrap();
    let cotangent = noise(y.dims(), 99);
    let loss = |y: &Tensor| (y * &cotangent).unwrap().sum_all().unwrap();
    let grads = loss(&y).backward().unwrap();
    let step = 1e-5;
    for (which, input) in inputs.iter().enumerate() {
        let grad = grads.get(input).unwrap_or_else(|| panic!("input {which} has no gradient"));
        assert_eq!(grad.dims(), input.dims());
        let grad = grad.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let values = input.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        for i in 0..values.len() {
            let at = |shift: f64| {
                let mut moved = values.clone();
                moved[i] += shift;
                let mut all: Vec<Tensor> = tensors.iter().map(Tensor::detach).collect();
                all[which] = Tensor::from_vec(moved, input.dims(), &Device::Cpu).unwrap();
                loss(&f(&all).unwrap()).to_scalar::<f64>().unwrap()
            };
            let difference = (at(step) - at(-step)) / (2.0 * step);
            let error = (grad[i] - difference).abs();
            assert!(
                error < 1e-8 * difference.abs().max(1.0),
                "input {which} element {i}: {} by backward, {difference} by differences",
                grad[i]
            );
        }
    }
}

/// Largest absolute difference.
fn distance(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let (a, b) = (a.to_dtype(DType::F64).unwrap(), b.to_dtype(DType::F64).unwrap());
    (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

#[test]
fn layer_norm_has_the_gradient_of_its_formula() {
    check(&[&[3, 2, 7], &[7], &[7]], |t| layer_norm(&t[0], &t[1], &t[2], 1e-5));
    check(&[&[67, 19], &[19], &[19]], |t| layer_norm(&t[0], &t[1], &t[2], 1e-5));
}

#[test]
fn gelu_and_quick_gelu_have_the_gradients_of_their_formulas() {
    check(&[&[5, 17]], |t| gelu(&(&t[0] * 3.0)?));
    check(&[&[5, 17]], |t| quick_gelu(&(&t[0] * 3.0)?));
    check(&[&[5, 17]], |t| gelu_first(&t[0], 6, false));
    check(&[&[5, 17]], |t| gelu_first(&t[0], 17, true));
    check(&[&[5, 17]], |t| gelu_first(&t[0], 0, false));
}

#[test]
fn softmax_has_the_gradient_of_its_formula() {
    check(&[&[2, 3, 19]], |t| softmax(&t[0]));
    check(&[&[4, 1]], |t| softmax(&t[0]));
}

#[test]
fn attention_has_the_gradient_of_its_formula() {
    for causal in [false, true] {
        check(&[&[2, 5, 3 * 2 * 3]], |t| attention(&t[0], 2, causal));
        check(&[&[1, 17, 3 * 17]], |t| attention(&t[0], 1, causal));
        check(&[&[1, 1, 12]], |t| attention(&t[0], 2, causal));
        check(&[&[9, 3 * 2 * 3]], |t| attention_ragged(&t[0], &[2, 0, 6, 1], 2, causal));
    }
}

#[test]
fn cross_entropy_has_the_gradient_of_its_formula() {
    let targets = Tensor::new(&[0u32, 18, 3], &Device::Cpu).unwrap();
    check(&[&[3, 19]], |t| cross_entropy(&t[0], &targets));
}

#[test]
fn linear_has_the_gradient_of_its_formula() {
    check(&[&[2, 3, 5], &[7, 5], &[7]], |t| linear(&t[0], &t[1], Some(&t[2])));
    check(&[&[65, 3], &[2, 3]], |t| linear(&t[0], &t[1], None));
    check(&[&[2, 3, 5], &[5, 7]], |t| project(&t[0], &t[1]));
}

#[test]
fn batch_norm_has_the_gradient_of_its_formula_through_its_statistics() {
    check(&[&[3, 5, 7], &[7], &[7]], |t| Ok(batch_norm_train(&t[0], &t[1], &t[2], 1e-5)?.0));
    check(&[&[65, 3], &[3], &[3]], |t| Ok(batch_norm_train(&t[0], &t[1], &t[2], 1e-5)?.0));
    let (mean, variance) = (noise(&[7], 1), noise(&[7], 2).sqr().unwrap());
    check(&[&[3, 5, 7], &[7], &[7]], |t| batch_norm(&t[0], &t[1], &t[2], &mean, &variance, 1e-5));
}

#[test]
fn embedding_adds_the_gradients_of_repeated_ids() {
    let ids = Tensor::new(&[[1u32, 4, 1], [0, 1, 4]], &Device::Cpu).unwrap();
    check(&[&[5, 3]], |t| embedding(&t[0], &ids));
}

#[test]
fn patches_and_tokens_have_the_gradients_of_their_formulas() {
    check(&[&[2, 3, 6, 9]], |t| patches(&t[0], 3));
    check(&[&[5], &[3, 4, 5], &[5, 5]], |t| with_class_and_positions(&t[0], &t[1], &t[2]));
}

#[test]
fn convolutions_and_pooling_have_the_gradients_of_their_formulas() {
    for stride in [1, 2] {
        check(&[&[2, 4, 5, 3], &[2, 3, 3, 3], &[2]], |t| conv3x3(&t[0], &t[1], &t[2], stride));
        check(&[&[2, 5, 4, 3], &[3, 1, 3, 3], &[3]], |t| depthwise3x3(&t[0], &t[1], &t[2], stride));
    }
    check(&[&[2, 5, 4, 3]], |t| avg_pool3x3(&t[0]));
    check(&[&[1, 1, 1, 2]], |t| avg_pool3x3(&t[0]));
}

#[test]
fn convolutions_equal_candles() {
    let (x, w, b) = (noise(&[2, 3, 7, 6], 1), noise(&[4, 3, 3, 3], 2), noise(&[4], 3));
    let last = |t: &Tensor| t.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap();
    for stride in [1, 2] {
        let expected = x.conv2d(&w, 1, stride, 1, 1).unwrap();
        let expected = last(&expected).broadcast_add(&b).unwrap();
        assert!(distance(&conv3x3(&last(&x), &w, &b, stride).unwrap(), &expected) < 1e-12);
        let (w, b) = (noise(&[3, 1, 3, 3], 4), noise(&[3], 5));
        let expected = x.conv2d(&w, 1, stride, 1, 3).unwrap();
        let expected = last(&expected).broadcast_add(&b).unwrap();
        assert!(distance(&depthwise3x3(&last(&x), &w, &b, stride).unwrap(), &expected) < 1e-12);
    }
}

#[test]
fn a_convolution_of_many_pieces_equals_candles() {
    // Window rows of more than two pieces, and pictures that share one.
    for sides in [[1usize, 32, 200, 100], [5, 32, 40, 40]] {
        let (x, w, b) = (noise(&sides, 1), noise(&[2, 32, 3, 3], 2), noise(&[2], 3));
        let last = |t: &Tensor| t.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap();
        let x = Var::from_tensor(&x).unwrap();
        let w = Var::from_tensor(&w).unwrap();
        let expected = last(&x.conv2d(&w, 1, 1, 1, 1).unwrap()).broadcast_add(&b).unwrap();
        let got = conv3x3(&x.permute((0, 2, 3, 1)).unwrap(), &w, &b, 1).unwrap();
        assert!(distance(&got, &expected) < 1e-11);
        let cotangent = noise(got.dims(), 9);
        let grads = |y: &Tensor| (y * &cotangent).unwrap().sum_all().unwrap().backward().unwrap();
        let (got, expected) = (grads(&got), grads(&expected));
        for var in [&x, &w] {
            assert!(distance(got.get(var).unwrap(), expected.get(var).unwrap()) < 1e-8);
        }
    }
}

#[test]
fn average_pooling_counts_only_pixels_of_the_picture() {
    let x = Tensor::arange(0f32, 9., &Device::Cpu).unwrap().reshape((1, 3, 3, 1)).unwrap();
    let y = avg_pool3x3(&x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    // (0 + 1 + 3 + 4) / 4, (1 + 2 + 4 + 5) / 4, ...
    assert_eq!(y, [2.0, 3.0, 5.0, 6.0]);
}

#[test]
fn geglu_has_the_gradient_of_its_formula() {
    check(&[&[5, 17], &[5, 17]], |t| geglu(&t[0], &t[1]));
    assert!(geglu(&noise(&[2, 3], 1), &noise(&[3, 2], 1)).is_err());
}

#[test]
fn what_is_computed_again_has_the_gradients_of_what_is_kept() {
    // Five inputs, one of them in two places.
    let part = |t: &[Tensor]| {
        let h = gelu(&linear(&t[0], &t[1], Some(&t[2]))?)?;
        linear(&h, &t[3], Some(&t[4]))? + &t[0]
    };
    let shapes: [&[usize]; 5] = [&[3, 4], &[6, 4], &[6], &[4, 6], &[4]];
    check(&shapes, |t| recompute(&t.iter().collect::<Vec<_>>(), part));
    check(&[&[3, 4]], |t| recompute(&[&gelu(&t[0])?], |t| softmax(&t[0])));
}

#[test]
fn an_input_that_is_not_used_has_no_gradient() {
    let (x, other) = (Var::from_tensor(&noise(&[3], 1)).unwrap(), noise(&[2], 2));
    let other = Var::from_tensor(&other).unwrap();
    let y = recompute(&[&x, &other], |t| t[0].sqr()).unwrap();
    let grads = y.sum_all().unwrap().backward().unwrap();
    assert!(grads.get(&x).is_some() && grads.get(&other).is_none());
}

#[test]
fn patches_are_rows_of_channel_y_x() {
    let x = Tensor::arange(0f32, 32., &Device::Cpu).unwrap().reshape((1, 2, 4, 4)).unwrap();
    let rows = patches(&x, 2).unwrap().to_vec3::<f32>().unwrap();
    assert_eq!(rows[0][1], [2., 3., 6., 7., 18., 19., 22., 23.]);
}

#[test]
fn l2_normalize_has_the_gradient_of_its_formula() {
    check(&[&[3, 19]], |t| l2_normalize(&t[0]));
}

#[test]
fn gradients_flow_through_permuted_tensors() {
    check(&[&[5, 3, 2], &[3], &[3]], |t| layer_norm(&t[0].transpose(1, 2)?, &t[1], &t[2], 1e-5));
    check(&[&[5, 4]], |t| softmax(&gelu(&t[0].t()?)?));
}

#[test]
fn one_tensor_in_two_places_gets_both_gradients() {
    check(&[&[4, 4]], |t| linear(&t[0], &t[0], None));
}

#[test]
fn attention_equals_its_composition_of_candle_operators() {
    let (batch, n, heads, d) = (2, 33, 3, 20);
    let qkv = noise(&[batch, n, 3 * heads * d], 3);
    for causal in [false, true] {
        let parts = qkv.reshape((batch, n, 3, heads, d)).unwrap().permute((2, 0, 3, 1, 4)).unwrap();
        let part = |i: usize| parts.get(i).unwrap().contiguous().unwrap();
        let scores = part(0).matmul(&part(1).t().unwrap()).unwrap();
        let scores = (scores / (d as f64).sqrt()).unwrap();
        let mask: Vec<f64> = (0..n * n)
            .map(|i| if causal && i % n > i / n { f64::NEG_INFINITY } else { 0.0 })
            .collect();
        let mask = Tensor::from_vec(mask, (n, n), &Device::Cpu).unwrap();
        let weights =
            candle_softmax(&scores.broadcast_add(&mask).unwrap()).matmul(&part(2)).unwrap();
        let expected = weights.transpose(1, 2).unwrap().reshape((batch, n, heads * d)).unwrap();
        assert!(distance(&attention(&qkv, heads, causal).unwrap(), &expected) < 1e-12);
        let single = attention(&qkv.to_dtype(DType::F32).unwrap(), heads, causal).unwrap();
        assert!(distance(&single, &expected) < 1e-6);
    }
}

fn candle_softmax(x: &Tensor) -> Tensor {
    let shifted = x.broadcast_sub(&x.max_keepdim(candle_core::D::Minus1).unwrap()).unwrap();
    let e = shifted.exp().unwrap();
    e.broadcast_div(&e.sum_keepdim(candle_core::D::Minus1).unwrap()).unwrap()
}

#[test]
fn f32_stays_within_rounding_of_f64() {
    let x = (noise(&[37, 83], 5) * 4.0).unwrap();
    let (w, b) = (noise(&[83], 6), noise(&[83], 7));
    let targets = Tensor::from_vec((0u32..37).collect(), 37, &Device::Cpu).unwrap();
    let s = |t: &Tensor| t.to_dtype(DType::F32).unwrap();
    let pairs = [
        ("layer_norm", layer_norm(&x, &w, &b, 1e-5), layer_norm(&s(&x), &s(&w), &s(&b), 1e-5)),
        ("gelu", gelu(&x), gelu(&s(&x))),
        ("quick_gelu", quick_gelu(&x), quick_gelu(&s(&x))),
        ("softmax", softmax(&x), softmax(&s(&x))),
        ("cross_entropy", cross_entropy(&x, &targets), cross_entropy(&s(&x), &targets)),
    ];
    for (name, double, single) in pairs {
        let worst = distance(&double.unwrap(), &single.unwrap());
        assert!(worst < 1.5e-6, "{name}: {worst:e}");
    }
}

#[test]
fn f32_gradients_stay_within_rounding_of_f64() {
    let x = (noise(&[37, 84], 5) * 2.0).unwrap();
    let (w, b) = (noise(&[84], 6), noise(&[84], 7));
    let run = |dtype: DType| -> Vec<Tensor> {
        let var = |t: &Tensor| Var::from_tensor(&t.to_dtype(dtype).unwrap()).unwrap();
        let (x, w, b) = (var(&x), var(&w), var(&b));
        let y = layer_norm(&x, &w, &b, 1e-5).unwrap();
        let y = gelu(&attention_ragged(&y, &[7, 30], 2, true).unwrap()).unwrap();
        let (y, _) =
            batch_norm_train(&y, &w.narrow(0, 0, 28).unwrap(), &b.narrow(0, 0, 28).unwrap(), 1e-5)
                .unwrap();
        let grads = softmax(&y).unwrap().sqr().unwrap().sum_all().unwrap().backward().unwrap();
        [&x, &w, &b].iter().map(|v| grads.get(v).unwrap().clone()).collect()
    };
    for (double, single) in run(DType::F64).iter().zip(&run(DType::F32)) {
        assert!(distance(double, single) < 1e-5, "{}", distance(double, single));
    }
}

#[test]
fn another_dtype_is_refused_by_name() {
    let x = Tensor::zeros((2, 3), DType::U32, &Device::Cpu).unwrap();
    let message = gelu(&x).unwrap_err().to_string();
    assert!(message.contains("gelu takes f32 or f64, got U32"), "{message}");
    let half = Tensor::zeros((2, 3), DType::BF16, &Device::Cpu).unwrap();
    assert!(softmax(&half).unwrap_err().to_string().contains("softmax takes f32 or f64, got BF16"));
}

#[test]
fn wrong_shapes_are_refused_with_the_shapes() {
    let x = noise(&[2, 3], 1);
    let w = noise(&[4], 1);
    let message = layer_norm(&x, &w, &w, 1e-5).unwrap_err().to_string();
    assert!(message.contains("[2, 3]") && message.contains("[4]"), "{message}");
    assert!(linear(&x, &noise(&[5, 4], 1), None).is_err());
    assert!(attention(&noise(&[1, 2, 10], 1), 2, false).is_err());
    assert!(attention_ragged(&noise(&[3, 6], 1), &[1, 1], 1, false).is_err());
    let ids = Tensor::new(&[5u32], &Device::Cpu).unwrap();
    assert!(embedding(&noise(&[5, 3], 1), &ids).unwrap_err().to_string().contains("id 5"));
    assert!(cross_entropy(&noise(&[1, 5], 1), &ids).is_err());
    assert!(gelu_first(&x, 4, false).is_err());
}

fn half(t: &[Tensor]) -> Half<'_> {
    Half { norm: [&t[1], &t[2]], first: [&t[3], &t[4]], second: [&t[5], &t[6]] }
}

fn form(again: bool) -> HalfForm {
    HalfForm { eps: 1e-5, products: Products::F32, again }
}

#[test]
fn the_halves_of_a_block_have_the_gradients_of_their_formulas() {
    for again in [false, true] {
        for causal in [false, true] {
            let shapes: [&[usize]; 7] = [&[7, 6], &[6], &[6], &[18, 6], &[18], &[6, 6], &[6]];
            check(&shapes, |t| attention_half(&t[0], half(t), &[4, 0, 3], 2, causal, form(again)));
        }
        let shapes: [&[usize]; 7] = [&[2, 3, 5], &[5], &[5], &[9, 5], &[9], &[5, 9], &[5]];
        for quick in [false, true] {
            check(&shapes, |t| mlp_half(&t[0], half(t), quick, form(again)));
        }
    }
}

/// Inputs of a half in f32, x (67, width).
fn half_inputs(width: usize, hidden: usize, inner: usize) -> Vec<Var> {
    let shapes: [&[usize]; 7] =
        [&[67, width], &[width], &[width], &[hidden, width], &[hidden], &[width, inner], &[width]];
    let var = |(i, shape): (usize, &&[usize])| {
        Var::from_tensor(&noise(shape, 3 + i as u64).to_dtype(DType::F32).unwrap()).unwrap()
    };
    shapes.iter().enumerate().map(var).collect()
}

/// The result and all gradients, as bits.
fn all_bits(inputs: &[Var], f: impl Fn(&[Tensor]) -> Tensor) -> Vec<Vec<u32>> {
    let tensors: Vec<Tensor> = inputs.iter().map(|v| v.as_tensor().clone()).collect();
    let y = f(&tensors);
    let cotangent = noise(y.dims(), 99).to_dtype(DType::F32).unwrap();
    let grads = (&y * cotangent).unwrap().sum_all().unwrap().backward().unwrap();
    let bits = |t: &Tensor| -> Vec<u32> {
        let values = t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    };
    let gradients = inputs.iter().map(|input| bits(grads.get(input).unwrap()));
    std::iter::once(bits(&y)).chain(gradients).collect()
}

#[test]
fn the_halves_have_the_bits_of_their_parts_in_both_formats() {
    for products in [Products::F32, Products::Bf16] {
        for again in [false, true] {
            let form = HalfForm { eps: 1e-5, products, again };
            let lin =
                |x: &Tensor, w: &Tensor, b: &Tensor| linear_in(x, w, Some(b), products).unwrap();
            let inputs = half_inputs(24, 72, 24);
            let whole = all_bits(&inputs, |t| {
                attention_half(&t[0], half(t), &[60, 7], 3, true, form).unwrap()
            });
            let parts = all_bits(&inputs, |t| {
                let qkv = lin(&layer_norm(&t[0], &t[1], &t[2], 1e-5).unwrap(), &t[3], &t[4]);
                let y = attention_ragged(&qkv, &[60, 7], 3, true).unwrap();
                (&t[0] + lin(&y, &t[5], &t[6])).unwrap()
            });
            assert_eq!(whole, parts);
            let inputs = half_inputs(24, 50, 50);
            let whole = all_bits(&inputs, |t| mlp_half(&t[0], half(t), false, form).unwrap());
            let parts = all_bits(&inputs, |t| {
                let h = lin(&layer_norm(&t[0], &t[1], &t[2], 1e-5).unwrap(), &t[3], &t[4]);
                (&t[0] + lin(&gelu(&h).unwrap(), &t[5], &t[6])).unwrap()
            });
            assert_eq!(whole, parts);
        }
    }
}

/// bf16 keeps 8 digits: a factor is off by at most 2^-9 of itself.
#[test]
fn gradients_of_bf16_products_are_those_of_f32_within_bf16s_rounding() {
    let inputs = half_inputs(40, 96, 96);
    let gradients = |products: Products| -> Vec<Vec<f64>> {
        let form = HalfForm { eps: 1e-5, products, again: false };
        all_bits(&inputs, |t| mlp_half(&t[0], half(t), false, form).unwrap())
            .into_iter()
            .map(|bits| bits.into_iter().map(|b| f64::from(f32::from_bits(b))).collect())
            .collect()
    };
    let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
    for (i, (half, full)) in
        gradients(Products::Bf16).iter().zip(&gradients(Products::F32)).enumerate()
    {
        let apart: Vec<f64> = half.iter().zip(full).map(|(a, b)| a - b).collect();
        let share = norm(&apart) / norm(full);
        assert!(share < 1e-2, "{i}: {share}");
        // The shift and bias behind the last product see nothing but f32.
        assert!(share > 1e-5 || i == 7, "{i}: {share} says that nothing was rounded");
    }
}

#[test]
fn a_sum_has_the_gradient_of_its_formula() {
    check(&[&[3, 5], &[3, 5]], |t| add(&t[0], &t[1]));
    check(&[&[3, 5]], |t| add(&t[0], &t[0]));
    assert!(add(&noise(&[2, 3], 1), &noise(&[3, 2], 1)).is_err());
}

#[test]
fn bf16_products_of_f64_are_refused() {
    let x = noise(&[2, 3], 1);
    let refused = linear_in(&x, &x, None, Products::Bf16).unwrap_err().to_string();
    assert!(refused.contains("bf16 take f32"), "{refused}");
}

#[test]
fn a_tensor_that_stands_twice_among_many_inputs_gets_both_gradients() {
    let var = |v: f32| Var::from_slice(&[v], 1, &Device::Cpu).unwrap();
    let (x, w, v) = (var(5.0), var(2.0), var(3.0));
    let y = kernels::recompute(&[&x, &w, &w, &v], |t| ((&t[0] * &t[1])? * &t[2])? + &t[3]).unwrap();
    let gradients = y.sum_all().unwrap().backward().unwrap();
    let of = |t: &Var| gradients.get(t).unwrap().to_vec1::<f32>().unwrap();
    assert_eq!((of(&x), of(&w), of(&v)), (vec![4.0], vec![20.0], vec![1.0])); // x w² + v
}
