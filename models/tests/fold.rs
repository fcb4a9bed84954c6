//! The fold identity: a folded model gives the features of the model that it came from.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use models::repavit::{BatchNorm, IdleFfn, active_channels, fold_block};
use models::{Clip, ClipConfig, Mode};
use stage::Change;

/// Reproducible numbers in -1..1.
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

fn relative(a: &Tensor, b: &Tensor) -> f64 {
    let max = |t: Tensor| {
        t.abs()
            .unwrap()
            .flatten_all()
            .unwrap()
            .max(0)
            .unwrap()
            .to_dtype(DType::F64)
            .unwrap()
            .to_scalar::<f64>()
            .unwrap()
    };
    max((a - b).unwrap()) / max(b.clone())
}

fn batch_norm(width: usize, seed: u64) -> BatchNorm {
    BatchNorm {
        weight: ((noise(&[width], seed) * 0.5).unwrap() + 1.0).unwrap(),
        bias: noise(&[width], seed + 1),
        mean: noise(&[width], seed + 2),
        variance: noise(&[width], seed + 3).exp().unwrap(),
    }
}

#[test]
fn a_folded_ffn_equals_the_ffn_in_f64_at_every_ratio_and_odd_width() {
    let (width, hidden) = (7, 29);
    let x = noise(&[11, width], 50);
    for ratio in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let active = active_channels(hidden, ratio).unwrap();
        let ffn = IdleFfn {
            bn_1: batch_norm(width, 1),
            fc_weight: noise(&[hidden, width], 10),
            fc_bias: noise(&[hidden], 11),
            bn_2: batch_norm(hidden, 20),
            proj_weight: noise(&[width, hidden], 30),
            proj_bias: noise(&[width], 31),
            active,
        };
        let norm = |x: &Tensor, n: &BatchNorm| {
            kernels::batch_norm(x, &n.weight, &n.bias, &n.mean, &n.variance, 1e-5).unwrap()
        };
        let h = kernels::linear(&norm(&x, &ffn.bn_1), &ffn.fc_weight, Some(&ffn.fc_bias)).unwrap();
        let h = norm(&kernels::gelu_first(&h, active, false).unwrap(), &ffn.bn_2);
        let y = kernels::linear(&h, &ffn.proj_weight, Some(&ffn.proj_bias)).unwrap();
        let y = (&x + y).unwrap();
        let folded = fold_block(&ffn).unwrap();
        let mut z = kernels::linear(&x, &folded.idle_weight, Some(&folded.idle_bias)).unwrap();
        assert_eq!(folded.active.is_none(), active == 0);
        if let Some((u, shift, v)) = &folded.active {
            assert_eq!(
                (u.dims(), v.dims()),
                ([active, width].as_slice(), [width, active].as_slice())
            );
            let h = kernels::gelu(&kernels::linear(&x, u, Some(shift)).unwrap()).unwrap();
            z = (z + kernels::linear(&h, v, None).unwrap()).unwrap();
        }
        assert!(relative(&z, &y) < 1e-12, "{ratio}: {:e}", relative(&z, &y));
    }
}

/// A model whose every tensor is random, statistics included.
fn shaken(ratio: f64, quick: bool, mlp_ratio: f64) -> Clip {
    let config = ClipConfig::from_json(&serde_json::json!({
        "embed_dim": 8,
        "quick_gelu": quick,
        "vision_cfg": {"image_size": 8, "layers": 3, "width": 12, "patch_size": 4, "head_width": 4,
                       "mlp_ratio": mlp_ratio},
        "text_cfg": {"context_length": 7, "vocab_size": 20, "width": 8, "heads": 2, "layers": 1}
    }))
    .unwrap();
    let changes = [Change::IdleChannels { ratio }];
    let clip = Clip::init(&config, &changes, 7, &Device::Cpu).unwrap();
    let tensors: BTreeMap<String, Tensor> = clip
        .params()
        .tensors()
        .into_iter()
        .enumerate()
        .map(|(i, (name, t))| {
            let n = noise(t.dims(), 100 + i as u64).to_dtype(DType::F32).unwrap();
            let t = if name.ends_with("running_var") {
                n.exp().unwrap()
            } else {
                ((n * 0.3).unwrap() + t.detach()).unwrap()
            };
            (name, t)
        })
        .collect();
    Clip::from_tensors(&config, &changes, tensors, &Device::Cpu).unwrap()
}

#[test]
fn a_folded_model_gives_the_features_of_the_model() {
    let pixels = noise(&[5, 3, 8, 8], 3).to_dtype(DType::F32).unwrap();
    let tokens = Tensor::new(&[[3u32, 1, 19, 0, 0, 0, 0]], &Device::Cpu).unwrap();
    for ratio in [0.25, 0.5, 0.75, 1.0] {
        for (quick, mlp_ratio) in [(false, 4.0), (true, 3.42)] {
            let clip = shaken(ratio, quick, mlp_ratio);
            let folded = clip.folded().unwrap();
            assert_eq!(folded.changes(), [Change::Folded { ratio }]);
            assert!(folded.params().buffers().is_empty());
            let image = |clip: &Clip| clip.encode_image(&pixels, Mode::Eval).unwrap();
            let error = relative(&image(&folded), &image(&clip));
            assert!(error < 1e-5, "{ratio} {quick}: {error:e}");
            let text = |clip: &Clip| clip.encode_text(&tokens, Mode::Eval).unwrap();
            assert_eq!(
                text(&folded).to_vec2::<f32>().unwrap(),
                text(&clip).to_vec2::<f32>().unwrap()
            );
        }
    }
}

#[test]
fn the_ffn_of_the_standard_ratio_has_a_share_of_its_parameters() {
    // 1 - θ + 1 / (2ρ) = 0.375 of the matrices at θ = 0.75, ρ = 4 (systems-compression §4.2).
    let config = ClipConfig::named("ViT-B-32").unwrap();
    let vit = config.vision.vit().unwrap();
    let (hidden, width) = (vit.hidden(), vit.width);
    let active = active_channels(hidden, 0.75).unwrap();
    let share = (2 * active * width + width * width) as f64 / (2 * hidden * width) as f64;
    assert!((share - 0.375).abs() < 1e-12);
}

#[test]
fn only_a_model_with_idle_channels_can_be_folded() {
    let config = ClipConfig::named("tiny-32").unwrap();
    let plain = Clip::init(&config, &[], 0, &Device::Cpu).unwrap();
    let error = plain.folded().unwrap_err();
    assert!(error.to_string().contains("no idle channels"), "{error}");
    let folded =
        Clip::init(&config, &[Change::IdleChannels { ratio: 0.5 }], 0, &Device::Cpu).unwrap();
    assert!(folded.folded().unwrap().folded().is_err());
}

#[test]
fn a_block_without_activation_is_affine() {
    // f(x + y) - f(x) - f(y) + f(0) = 0 for the FFN at θ = 1.
    let ffn = IdleFfn {
        bn_1: batch_norm(6, 1),
        fc_weight: noise(&[13, 6], 10),
        fc_bias: noise(&[13], 11),
        bn_2: batch_norm(13, 20),
        proj_weight: noise(&[6, 13], 30),
        proj_bias: noise(&[6], 31),
        active: 0,
    };
    let folded = fold_block(&ffn).unwrap();
    let f = |x: &Tensor| kernels::linear(x, &folded.idle_weight, Some(&folded.idle_bias)).unwrap();
    let (x, y) = (noise(&[4, 6], 1), noise(&[4, 6], 2));
    let zero = x.zeros_like().unwrap();
    let sum = (f(&(&x + &y).unwrap()) - f(&x)).unwrap();
    let sum = ((sum - f(&y)).unwrap() + f(&zero)).unwrap();
    let worst =
        sum.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f64>().unwrap();
    assert!(worst < 1e-12, "{worst:e}");
}

#[test]
fn a_folded_model_takes_every_layout_of_its_weights() {
    let pixels = noise(&[5, 3, 8, 8], 3).to_dtype(DType::F32).unwrap();
    for ratio in [0.5, 1.0] {
        let folded = || shaken(ratio, false, 4.0).folded().unwrap();
        let image = |clip: &Clip| clip.encode_image(&pixels, Mode::Eval).unwrap();
        let plain = image(&folded());
        let packed = image(&folded().with_packed_weights().unwrap());
        assert_eq!(packed.to_vec2::<f32>().unwrap(), plain.to_vec2::<f32>().unwrap());
        let half = relative(&image(&folded().with_half_weights().unwrap()), &plain);
        assert!((1e-4..3e-2).contains(&half), "{ratio}: {half:e}");
    }
}
