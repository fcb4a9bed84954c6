//! Every operator gives the same bits at every SIMD level and any number of threads.

use crate::attention::{self, Form};
use crate::simd::Level;
use crate::window::Windows;
use crate::{batch_norm, depthwise, geglu, gelu, layer_norm, linear};

fn noise(count: usize, seed: u32) -> Vec<f32> {
    let bits = |i: u32| i.wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(40_503)) >> 8;
    (0..count as u32).map(|i| bits(i) as f32 / (1 << 22) as f32 - 2.0).collect()
}

/// The results of all operators at this level, at sizes that fill no vector.
fn results(level: Level) -> Vec<(&'static str, Vec<f32>)> {
    let (rows, width) = (131, 75); // more than two pieces of rows
    let (x, dy) = (noise(rows * width, 1), noise(rows * width, 2));
    let (w, b) = (noise(width, 3), noise(width, 4));
    let mut all = vec![("layer_norm", layer_norm::forward(level, &x, &w, &b, 1e-5))];
    let (dx, dw, db) = layer_norm::backward(level, &x, &w, &dy, 1e-5);
    all.extend([("layer_norm dx", dx), ("layer_norm dw", dw), ("layer_norm db", db)]);
    for (name, form) in [("gelu", gelu::Form::Exact), ("quick_gelu", gelu::Form::Quick)] {
        all.push((name, gelu::forward(level, form, Some((width, 31)), &x)));
        all.push((name, gelu::backward(level, form, Some((width, 31)), &x, &dy)));
    }
    let (mean, variance) = batch_norm::moments(level, &x, width);
    let scale: Vec<f32> = variance.iter().map(|v| 1.0 / (v + 1e-5).sqrt()).collect();
    let (dx, dw, db) = batch_norm::backward(level, &x, &w, &mean, &scale, &dy, true);
    all.extend([("mean", mean), ("variance", variance), ("batch_norm dx", dx)]);
    all.extend([("batch_norm dw", dw), ("batch_norm db", db)]);
    all.push(("column sums", linear::column_sums(level, &x, width)));
    all.push(("geglu", geglu::forward(level, &x, &dy)));
    let (dg, dv) = geglu::backward(level, &x, &dy, &noise(rows * width, 8));
    all.extend([("geglu dgate", dg), ("geglu dvalue", dv)]);
    for stride in [1, 2] {
        let windows = Windows { batch: 2, height: 19, width: 5, channels: 21, stride };
        let (x, w) = (noise(2 * 19 * 5 * 21, 1), noise(9 * 21, 2));
        let y = depthwise::forward(level, &windows, &x, &w, &noise(21, 3));
        let (dx, dw) = depthwise::backward(level, &windows, &x, &w, &noise(y.len(), 4));
        all.extend([("depthwise", y), ("depthwise dx", dx), ("depthwise dw", dw)]);
    }
    for causal in [false, true] {
        let form = Form { heads: 3, head: 20, causal };
        let lengths = [17, 1, 33, 5];
        let (qkv, dy) = (noise(56 * 180, 5), noise(56 * 60, 6));
        all.push(("attention", attention::forward(level, &qkv, form, &lengths)));
        all.push(("attention dx", attention::backward(level, &qkv, &dy, form, &lengths)));
    }
    all
}

fn bits(results: Vec<(&'static str, Vec<f32>)>) -> Vec<(&'static str, Vec<u32>)> {
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect();
    results.into_iter().map(|(name, values)| (name, bits(values))).collect()
}

#[test]
fn every_level_gives_the_bits_of_the_baseline() {
    let baseline = bits(results(Level::Baseline));
    for level in Level::available() {
        for (got, expected) in bits(results(*level)).iter().zip(&baseline) {
            assert_eq!(got, expected, "{level:?}");
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| bits(results(Level::best())))
    };
    assert_eq!(with(1), with(3));
}
