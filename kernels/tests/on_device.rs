//! Every operator on a GPU beside the same operator on the CPU: numbers and all gradients, in f32 and
//! with products in bf16, at odd sizes. `CLIPMILL_TEST_DEVICE=cuda` runs it (`bench/gpu.sh`); without
//! that it says that it was left out.
#![allow(missing_docs, clippy::unwrap_used)]

use candle_core::{DType, Device, Result, Tensor, Var};
use kernels::{
    AdamWPass, CollectedTensors, Half, HalfForm, HalfOf, Products, TensorStep, adamw_tensors,
    add_row, attention, attention_half, attention_in, attention_ragged, attention_ragged_in,
    cross_entropy, embedding, geglu, gelu, gelu_first, halves_in_turn, l2_normalize, layer_norm,
    linear, linear_in, mlp_half, patches, project, quick_gelu, recompute, softmax,
    sum_of_squares_tensors, with_class_and_positions,
};

/// The GPU, or None where none is asked for.
fn gpu() -> Option<Device> {
    match std::env::var("CLIPMILL_TEST_DEVICE").as_deref() {
        Ok("cuda") => Some(kernels::open_gpu(0).expect("CLIPMILL_TEST_DEVICE=cuda needs a GPU")),
        _ => {
            eprintln!("left out: CLIPMILL_TEST_DEVICE=cuda runs it");
            None
        }
    }
}

fn noise(count: usize, salt: u32) -> Vec<f32> {
    let bits = |i: u32| (i ^ salt.wrapping_mul(747_796_405)).wrapping_mul(2_654_435_761);
    let mixed = |i: u32| (bits(i) ^ (bits(i) >> 15)).wrapping_mul(0x85eb_ca6b) >> 8;
    (0..count as u32).map(|i| mixed(i) as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn tensor(shape: &[usize], salt: u32, device: &Device) -> Tensor {
    let count = shape.iter().product();
    Tensor::from_vec(noise(count, salt), shape, &Device::Cpu).unwrap().to_device(device).unwrap()
}

fn numbers(t: &Tensor) -> Vec<f32> {
    t.to_device(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// ‖a - b‖ / ‖b‖, with a hundredth of each number's scale added below: gradients may be zero. NaN
/// where either is not finite.
fn apart(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f64| x * x;
    let difference: f64 = a.iter().zip(b).map(|(a, b)| square(f64::from(a - b))).sum();
    let length: f64 = b.iter().map(|b| square(f64::from(*b))).sum();
    difference.sqrt() / (length.sqrt() + 0.01 * (a.len() as f64).sqrt())
}

/// Compares what a GPU makes of these inputs with what the CPU does, and with itself a second time.
struct Comparison {
    gpu: Device,
    wrong: Vec<String>,
}

impl Comparison {
    fn new(gpu: Device) -> Self {
        Self { gpu, wrong: Vec::new() }
    }

    fn of(
        &mut self,
        name: &str,
        tolerance: f64,
        shapes: &[&[usize]],
        operator: impl Fn(&[Tensor]) -> Result<Tensor>,
    ) {
        let run = |device: &Device| -> Result<Vec<Vec<f32>>> {
            let vars: Vec<Var> = shapes
                .iter()
                .enumerate()
                .map(|(i, shape)| Var::from_tensor(&tensor(shape, i as u32 + 1, device)))
                .collect::<Result<_>>()?;
            let inputs: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
            let y = operator(&inputs)?;
            let weight = tensor(y.dims(), 99, device);
            let gradients = (&y * &weight)?.sum_all()?.backward()?;
            let mut all = vec![numbers(&y)];
            for var in &vars {
                all.push(gradients.get(var).map(numbers).unwrap_or_default());
            }
            Ok(all)
        };
        let cpu = run(&Device::Cpu).unwrap();
        let (one, two) = match (run(&self.gpu), run(&self.gpu)) {
            (Ok(one), Ok(two)) => (one, two),
            (Err(e), _) | (_, Err(e)) => return self.wrong.push(format!("{name}: {e}")),
        };
        for (i, ((cpu, one), two)) in cpu.iter().zip(&one).zip(&two).enumerate() {
            let what = if i == 0 { "result".to_owned() } else { format!("gradient {}", i - 1) };
            if cpu.len() != one.len() {
                self.wrong.push(format!(
                    "{name}, {what}: {} numbers, not {}",
                    one.len(),
                    cpu.len()
                ));
                continue;
            }
            let distance = apart(one, cpu);
            if distance.is_nan() || distance > tolerance {
                self.wrong.push(format!("{name}, {what}: {distance:.1e} apart"));
            }
            if one.iter().zip(two).any(|(a, b)| a.to_bits() != b.to_bits()) {
                self.wrong.push(format!("{name}, {what}: another run gives other bits"));
            }
        }
    }

    fn end(self) {
        assert!(self.wrong.is_empty(), "\n{}", self.wrong.join("\n"));
    }
}

const F32: f64 = 1e-5;
/// Factors are rounded to 8 bits, and what lies between the layers of a half too.
const BF16: f64 = 1.5e-2;

#[test]
fn rows_are_those_of_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let mut compare = Comparison::new(gpu);
    for (rows, width) in [(1, 1), (1, 7), (3, 33), (300, 768), (65, 512), (1000, 36)] {
        let x = [rows, width];
        // Of one number nothing is left but the rounding of its mean, times 1/√eps.
        let tolerance = if width == 1 { 1e-3 } else { 2e-5 };
        compare.of(&format!("layer_norm {x:?}"), tolerance, &[&x, &[width], &[width]], |t| {
            layer_norm(&t[0], &t[1], &t[2], 1e-5)
        });
        compare.of(&format!("gelu {x:?}"), F32, &[&x], |t| gelu(&(&t[0] * 4.0)?));
        compare.of(&format!("quick_gelu {x:?}"), F32, &[&x], |t| quick_gelu(&(&t[0] * 4.0)?));
        compare.of(&format!("geglu {x:?}"), F32, &[&x, &x], |t| geglu(&t[0], &t[1]));
        compare.of(&format!("softmax {x:?}"), 2e-5, &[&x], softmax_of_first);
        compare.of(&format!("l2_normalize {x:?}"), 2e-5, &[&x], |t| l2_normalize(&t[0]));
        compare.of(&format!("add_row {x:?}"), F32, &[&x, &[width]], |t| add_row(&t[0], &t[1]));
        compare
            .of(&format!("gelu_first {x:?}"), F32, &[&x], |t| gelu_first(&t[0], width / 3, false));
        compare.of(&format!("cross_entropy {x:?}"), 2e-5, &[&x], |t| {
            let targets: Vec<u32> = (0..rows).map(|i| (i * 5 % width) as u32).collect();
            cross_entropy(&(&t[0] * 3.0)?, &Tensor::new(targets, &Device::Cpu)?)
        });
    }
    compare.of("add_row of several dimensions", F32, &[&[5, 3, 4], &[3, 4]], |t| {
        add_row(&t[0], &t[1])
    });
    compare.end();
}

fn softmax_of_first(t: &[Tensor]) -> Result<Tensor> {
    softmax(&t[0])
}

#[test]
fn linear_layers_are_those_of_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let mut compare = Comparison::new(gpu);
    for (rows, n, k) in [(1, 1, 1), (1, 5, 3), (7, 33, 65), (200, 256, 512), (129, 96, 768)] {
        let (x, w) = ([rows, k], [n, k]);
        for (products, tolerance) in [(Products::F32, F32), (Products::Bf16, 2e-5)] {
            let name = format!("linear {rows} x {k} x {n} {products:?}");
            compare.of(&name, tolerance, &[&x, &w, &[n]], |t| {
                linear_in(&t[0], &t[1], Some(&t[2]), products)
            });
            compare.of(&format!("{name}, no bias"), tolerance, &[&x, &w], |t| {
                linear_in(&t[0], &t[1], None, products)
            });
        }
        let name = format!("project {rows} x {k} x {n}");
        compare.of(&name, F32, &[&x, &[k, n]], |t| project(&t[0], &t[1]));
    }
    // A weight that is bf16 already: the same as one that is rounded.
    let gpu = &compare.gpu;
    let (x, w) = (tensor(&[7, 40], 1, gpu), tensor(&[24, 40], 2, gpu));
    let rounded = w.to_dtype(DType::BF16).unwrap();
    let one = linear_in(&x, &rounded, None, Products::F32).unwrap();
    let two = linear_in(&x, &w, None, Products::Bf16).unwrap();
    assert_eq!(numbers(&one), numbers(&two));
    compare.end();
}

#[test]
fn tokens_are_those_of_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let mut compare = Comparison::new(gpu);
    for (entries, width, rows) in [(5, 1, 1), (9, 36, 40), (1000, 512, 3000), (3, 130, 700)] {
        let name = format!("embedding {entries} x {width}, {rows} ids");
        compare.of(&name, F32, &[&[entries, width]], |t| {
            let ids: Vec<u32> = (0..rows).map(|i| (i * i * 7 % entries) as u32).collect();
            embedding(&t[0], &Tensor::new(ids, &Device::Cpu)?)
        });
    }
    compare.of("embedding of one id", F32, &[&[50, 64]], |t| {
        embedding(&t[0], &Tensor::full(49u32, (20, 30), &Device::Cpu)?)
    });
    for (batch, channels, sides, patch) in
        [(1, 1, (2, 2), 2), (3, 3, (12, 6), 3), (5, 3, (64, 32), 16)]
    {
        let shape = [batch, channels, sides.0, sides.1];
        compare
            .of(&format!("patches {shape:?} {patch}"), F32, &[&shape], |t| patches(&t[0], patch));
    }
    for (batch, grid, width) in [(1, 1, 1), (3, 4, 7), (200, 49, 768)] {
        let shapes: [&[usize]; 3] = [&[width], &[batch, grid, width], &[grid + 1, width]];
        compare.of(&format!("sequence {shapes:?}"), F32, &shapes, |t| {
            with_class_and_positions(&t[0], &t[1], &t[2])
        });
    }
    compare.end();
}

#[test]
fn attention_is_that_of_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let mut compare = Comparison::new(gpu);
    for (batch, tokens, heads, head) in [
        (1, 1, 1, 1),
        (2, 3, 2, 5),
        (3, 50, 12, 64),
        (5, 77, 8, 64),
        (2, 257, 2, 80),
        (1, 9, 3, 32),
    ] {
        let shape = [batch, tokens, 3 * heads * head];
        for causal in [false, true] {
            let name = format!("attention {shape:?}, {heads} heads, causal {causal}");
            compare.of(&name, 2e-5, &[&shape], |t| attention(&(&t[0] * 2.0)?, heads, causal));
            compare.of(&format!("{name}, bf16"), BF16, &[&shape], |t| {
                attention_in(&(&t[0] * 2.0)?, heads, causal, Products::Bf16)
            });
        }
    }
    for lengths in [vec![4, 4], vec![1, 7, 3], vec![29, 6, 13, 20, 27], vec![5, 1]] {
        let shape = [lengths.iter().sum(), 3 * 2 * 32];
        for causal in [false, true] {
            let name = format!("attention of {lengths:?}, causal {causal}");
            compare.of(&name, 2e-5, &[&shape], |t| attention_ragged(&t[0], &lengths, 2, causal));
            compare.of(&format!("{name}, bf16"), BF16, &[&shape], |t| {
                attention_ragged_in(&t[0], &lengths, 2, causal, Products::Bf16)
            });
        }
    }
    compare.end();
}

#[test]
fn halves_of_a_block_are_those_of_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let mut compare = Comparison::new(gpu);
    let cases = [
        (vec![1], 1, 4),
        (vec![3, 3], 2, 10),
        (vec![2, 5, 1], 3, 12),
        (vec![50; 6], 12, 768),
        (vec![17, 30, 29], 8, 512),
        // Those of the kernel for short sequences: every width of a head, one tile up to all.
        (vec![16, 1, 9], 2, 64),
        (vec![128, 3], 2, 96),
        (vec![77, 77], 3, 240),
        (vec![129], 1, 64),
    ];
    for (lengths, heads, width) in &cases {
        let (rows, hidden) = (lengths.iter().sum::<usize>(), 4 * width);
        let (x, c) = ([rows, *width], [*width]);
        let (wide, tall) = ([3 * width, *width], [*width, hidden]);
        for (products, again) in [
            (Products::F32, false),
            (Products::F32, true),
            (Products::Bf16, false),
            (Products::Bf16, true),
        ] {
            let form = HalfForm { eps: 1e-5, products, again };
            let tolerance = if products == Products::F32 { 2e-5 } else { BF16 };
            let scale = 1.0 / (*width as f64).sqrt();
            for causal in [false, true] {
                let name = format!("attention half {lengths:?}, {width}, {causal}, {form:?}");
                let shapes: [&[usize]; 7] =
                    [&x, &c, &c, &wide, &[3 * width], &[*width, *width], &c];
                compare.of(&name, tolerance, &shapes, |t| {
                    let (w1, w2) = ((&t[3] * scale)?, (&t[5] * scale)?);
                    let half =
                        Half { norm: [&t[1], &t[2]], first: [&w1, &t[4]], second: [&w2, &t[6]] };
                    attention_half(&t[0], half, lengths, *heads, causal, form)
                });
            }
            for quick in [false, true] {
                let name = format!("mlp half {rows} x {width}, {quick}, {form:?}");
                let shapes: [&[usize]; 7] = [&x, &c, &c, &[hidden, *width], &[hidden], &tall, &c];
                compare.of(&name, tolerance, &shapes, |t| {
                    let (w1, w2) = ((&t[3] * scale)?, (&t[5] * scale)?);
                    let half =
                        Half { norm: [&t[1], &t[2]], first: [&w1, &t[4]], second: [&w2, &t[6]] };
                    mlp_half(&t[0], half, quick, form)
                });
            }
        }
    }
    compare.end();
}

#[test]
fn collected_gradients_are_those_of_the_graph_and_add_up() {
    let Some(gpu) = gpu() else { return };
    let var = |shape: &[usize], salt| Var::from_tensor(&tensor(shape, salt, &gpu)).unwrap();
    let (x, table) = (tensor(&[20, 64], 1, &gpu), var(&[50, 64], 2));
    let vars = [
        var(&[64], 3),
        var(&[64], 4),
        var(&[128, 64], 5),
        var(&[128], 6),
        var(&[64, 128], 7),
        var(&[64], 8),
        var(&[33, 64], 9),
        var(&[33], 10),
        table,
        var(&[192, 64], 11),
        var(&[192], 12),
        var(&[64, 64], 13),
    ];
    let loss = || {
        let [gain, shift, w1, b1, w2, b2, w, b, table, w3, b3, w4] = &vars;
        let half = Half { norm: [gain, shift], first: [w1, b1], second: [w2, b2] };
        let look = Half { norm: [gain, shift], first: [w3, b3], second: [w4, b2] };
        let form = HalfForm { eps: 1e-5, products: Products::F32, again: false };
        let again = HalfForm { again: true, ..form };
        let halves = [
            HalfOf::Mlp { half, quick: false, form },
            HalfOf::Attention { half: look, lengths: &[4, 16], heads: 2, causal: true, form },
            HalfOf::Mlp { half, quick: true, form: again },
        ];
        let ids = Tensor::new((0..20u32).map(|i| i * 3 % 50).collect::<Vec<_>>(), &Device::Cpu);
        let words = embedding(table, &ids.unwrap()).unwrap();
        let y = halves_in_turn(&(&x + words).unwrap(), &halves).unwrap();
        linear(&y, w, Some(b)).unwrap().sqr().unwrap().sum_all().unwrap()
    };
    let expected = loss().backward().unwrap();
    let mut collected = CollectedTensors::new(vars.iter().map(Var::as_tensor));
    for times in [1.0, 2.0] {
        collected.backward(&loss()).unwrap();
        for (i, var) in vars.iter().enumerate() {
            let expected: Vec<f32> =
                numbers(expected.get(var).unwrap()).iter().map(|g| g * times).collect();
            let distance = apart(&numbers(collected.get(var).unwrap()), &expected);
            assert!(distance < 1e-6, "{i}: {distance:e}");
        }
    }
    // A part that is made again hands over what candle makes.
    let again = |x: &Tensor| {
        let [_, _, w1, b1, w2, b2, ..] = &vars;
        let part = |t: &[Tensor]| {
            let h = linear(&t[0], &t[1], Some(&t[2]))?;
            linear(&h.sqr()?, &t[3], Some(&t[4]))
        };
        let y = recompute(&[x, w1, b1, w2, b2], part).unwrap();
        y.sqr().unwrap().sum_all().unwrap()
    };
    let leaf = var(&[20, 64], 20);
    collected.clear();
    collected.backward(&again(&leaf)).unwrap();
    let got = numbers(collected.get(&vars[2]).unwrap());
    drop(collected);
    let expected = again(&leaf).backward().unwrap();
    let distance = apart(&got, &numbers(expected.get(&vars[2]).unwrap()));
    assert!(distance < 1e-6, "made again: {distance:e}");
    let collected = CollectedTensors::new(vars.iter().map(Var::as_tensor));
    // The graph hands nothing to candle while its parameters are collected.
    let refused = loss().backward().unwrap_err().to_string();
    assert!(refused.contains("CollectedTensors::backward"), "{refused}");
    drop(collected);
}

#[test]
fn the_optimiser_is_that_of_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let pass = |keep| AdamWPass {
        factor: 0.5,
        keep,
        one_minus_beta1: 0.1,
        beta2: 0.98,
        one_minus_beta2: 0.02,
        correction2: 0.25,
        eps: 1e-6,
        step_size: 0.01,
    };
    // More tensors than a table holds, of one number up to more than all threads.
    let counts: Vec<usize> = (0..60).map(|i| [1, 255, 4097, 70_001][i % 4] + i).collect();
    let vars = |salt: u32| -> Vec<Var> {
        let var = |(i, n): (usize, &usize)| {
            Var::from_tensor(&tensor(&[*n], salt + 7 * i as u32, &gpu)).unwrap()
        };
        counts.iter().enumerate().map(var).collect()
    };
    let parameters = vars(1);
    let gradients: Vec<Tensor> = vars(2).iter().map(|v| v.as_tensor().detach()).collect();
    let squares = |t: &Var| t.sqr().unwrap().detach();
    let mut moments: Vec<[Tensor; 2]> =
        vars(3).iter().zip(vars(4)).map(|(m, v)| [m.as_tensor().detach(), squares(&v)]).collect();
    let before: Vec<[Vec<f32>; 3]> = parameters
        .iter()
        .zip(&moments)
        .map(|(p, [m, v])| [numbers(p), numbers(m), numbers(v)])
        .collect();
    let keep = |i: usize| if i.is_multiple_of(2) { 0.98 } else { 1.0 };
    let mut steps: Vec<TensorStep> = parameters
        .iter()
        .zip(&gradients)
        .zip(&mut moments)
        .enumerate()
        .map(|(i, ((parameter, gradient), moments))| TensorStep {
            pass: pass(keep(i)),
            parameter,
            gradient,
            moments,
        })
        .collect();
    adamw_tensors(&mut steps).unwrap();
    for (i, [p, m, v]) in before.into_iter().enumerate() {
        let parameter = Var::from_vec(p, counts[i], &Device::Cpu).unwrap();
        let (mut m, mut v) = (m, v);
        pass(keep(i)).apply(&parameter, &numbers(&gradients[i]), &mut m, &mut v).unwrap();
        let near = |a: &Tensor, b: &[f32]| apart(&numbers(a), b) < 1e-6;
        assert!(near(&parameters[i], &numbers(&parameter)), "parameter {i}");
        assert!(near(&moments[i][0], &m) && near(&moments[i][1], &v), "moments {i}");
    }
    let all: Vec<&Tensor> = gradients.iter().collect();
    let expected: f64 = gradients.iter().map(|g| kernels::sum_of_squares(&numbers(g))).sum();
    let got = sum_of_squares_tensors(&all).unwrap();
    assert!((got - expected).abs() < 1e-9 * expected, "{got} {expected}");
}
