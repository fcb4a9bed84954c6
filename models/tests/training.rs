//! What training relies on: gradients everywhere, statistics, no history in evaluation.

use candle_core::{DType, Device, Tensor};
use models::{Clip, ClipConfig, Mode, normalize};
use stage::Change;

fn config() -> ClipConfig {
    ClipConfig::from_json(&serde_json::json!({
        "embed_dim": 8,
        "vision_cfg": {"image_size": 8, "layers": 2, "width": 12, "patch_size": 4, "head_width": 4,
                       "mlp_ratio": 3.42},
        "text_cfg": {"context_length": 7, "vocab_size": 20, "width": 8, "heads": 2, "layers": 2}
    }))
    .unwrap()
}

fn batch() -> (Tensor, Tensor) {
    let count = 4 * 3 * 8 * 8;
    let pixels: Vec<f32> = (0..count).map(|i| ((i * 37 % 101) as f32 / 50.0) - 1.0).collect();
    let pixels = Tensor::from_vec(pixels, (4, 3, 8, 8), &Device::Cpu).unwrap();
    // Every token id, and every position, occurs before an end token (19).
    let tokens: [[u32; 7]; 4] = [
        [0, 1, 2, 3, 4, 5, 19],
        [6, 7, 8, 9, 10, 11, 19],
        [12, 13, 14, 15, 16, 17, 19],
        [18, 3, 1, 4, 1, 5, 19],
    ];
    (pixels, Tensor::new(&tokens, &Device::Cpu).unwrap())
}

fn loss(clip: &Clip) -> Tensor {
    let (pixels, tokens) = batch();
    let i = normalize(&clip.encode_image(&pixels, Mode::Train).unwrap()).unwrap();
    let t = normalize(&clip.encode_text(&tokens, Mode::Train).unwrap()).unwrap();
    let scale = clip.logit_scale().exp().unwrap();
    let logits = i.matmul(&t.t().unwrap()).unwrap().broadcast_mul(&scale).unwrap();
    kernels::cross_entropy(&logits, &Tensor::arange(0u32, 4, &Device::Cpu).unwrap()).unwrap()
}

/// Every parameter of a ViTamin, of a ViT with every option, of a text tower of each kind.
fn all_kinds() -> Vec<ClipConfig> {
    let with = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut value = config().to_json();
        change(&mut value);
        ClipConfig::from_json(&value).unwrap()
    };
    let vitamin = serde_json::json!({
        "image_size": 32,
        "vitamin": {"stem_width": 4, "embed_dim": [4, 6, 8], "depths": [1, 2, 2], "heads": 2},
    });
    vec![
        with(&|v| {
            v["vision_cfg"] = vitamin.clone();
            v["custom_text"] = true.into();
        }),
        with(&|v| {
            v["vision_cfg"]["ls_init_value"] = 0.1.into();
            v["vision_cfg"]["pool_type"] = "avg".into();
            v["vision_cfg"]["final_ln_after_pool"] = true.into();
            v["vision_cfg"]["no_ln_pre"] = true.into();
            v["text_cfg"]["no_causal_mask"] = true.into();
            v["text_cfg"]["pool_type"] = "last".into();
        }),
        with(&|v| {
            v["text_cfg"]["pool_type"] = "eos".into();
            v["text_cfg"]["eos_id"] = 19.into();
        }),
    ]
}

/// Pictures of noise in -1..1, the same in every run.
fn noise(count: usize, side: usize) -> Tensor {
    let mut dice = stage::Dice::new(5);
    let numbers = (0..count * 3 * side * side).map(|_| dice.unit() as f32 * 2.0 - 1.0).collect();
    Tensor::from_vec::<_, f32>(numbers, (count, 3, side, side), &Device::Cpu).unwrap()
}

#[test]
fn every_parameter_of_every_kind_gets_a_gradient_whether_kept_or_computed_again() {
    for config in all_kinds() {
        let clip = Clip::init(&config, &[], 1, &Device::Cpu).unwrap();
        let (_, tokens) = batch();
        let side = config.image_size() as usize;
        let pixels = noise(4, side);
        let grads = |recompute: bool| {
            let step = models::Step { noise: Some(3), recompute, ..models::Step::default() };
            let i = normalize(&clip.encode_image_step(&pixels, step).unwrap()).unwrap();
            let (t, rows) = clip.encode_text_rows_step(&tokens, step).unwrap();
            let logits = i.matmul(&normalize(&t).unwrap().t().unwrap()).unwrap();
            let logits = logits.broadcast_mul(&clip.logit_scale().exp().unwrap()).unwrap();
            let targets = Tensor::arange(0u32, 4, &Device::Cpu).unwrap();
            let grads = kernels::cross_entropy(&logits, &targets).unwrap().backward().unwrap();
            let mut all = std::collections::BTreeMap::<String, Vec<f32>>::default();
            let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (name, var) in clip.params().vars() {
                if name.ends_with("token_embedding.weight") {
                    all.insert(name.clone(), flat(grads.get(&rows.values).unwrap()));
                } else {
                    let grad = grads.get(var).unwrap_or_else(|| panic!("{name} has no gradient"));
                    all.insert(name.clone(), flat(grad));
                }
            }
            all
        };
        let (kept, again) = (grads(false), grads(true));
        for (name, values) in &kept {
            let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
            assert!(largest > 1e-9, "{name} of {:?}", config.vision);
            for (a, b) in values.iter().zip(&again[name]) {
                assert!((a - b).abs() <= 1e-6 * largest.max(1e-3), "{name}: {a} {b}");
            }
        }
    }
}

#[test]
fn every_parameter_gets_a_gradient_except_the_key_biases() {
    for changes in [
        vec![],
        vec![Change::IdleChannels { ratio: 0.75 }],
        vec![Change::IdleChannels { ratio: 1.0 }],
        vec![Change::Folded { ratio: 0.5 }],
        vec![Change::Folded { ratio: 1.0 }],
    ] {
        let clip = Clip::init(&config(), &changes, 1, &Device::Cpu).unwrap();
        let grads = loss(&clip).backward().unwrap();
        for (name, var) in clip.params().vars() {
            let grad = grads.get(var).unwrap_or_else(|| panic!("{name} has no gradient"));
            assert_eq!(grad.dims(), var.dims(), "{name}");
            let values = grad.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let size = |part: &[f32]| part.iter().fold(0f32, |m, v| m.max(v.abs()));
            if name.ends_with("attn.in_proj_bias") {
                // Softmax ignores a shift of all keys.
                let third = values.len() / 3;
                assert!(size(&values[..third]) > 1e-7, "{name}: queries");
                assert!(size(&values[third..2 * third]) < 1e-6, "{name}: keys");
                assert!(size(&values[2 * third..]) > 1e-7, "{name}: values");
            } else if changes == [Change::IdleChannels { ratio: 1.0 }]
                && name.starts_with("visual.")
                && (name.ends_with("mlp.c_fc.bias") || name.ends_with("mlp.bn_1.bias"))
            {
                // Without activation BatchNorm 2 takes any shift before it away.
                assert!(size(&values) < 1e-5, "{name}");
            } else {
                assert!(size(&values) > 1e-7, "{name} {changes:?}: {}", size(&values));
            }
        }
    }
}

#[test]
fn evaluation_records_no_history_and_changes_no_statistics() {
    let clip =
        Clip::init(&config(), &[Change::IdleChannels { ratio: 0.5 }], 1, &Device::Cpu).unwrap();
    let before: Vec<Vec<f32>> =
        clip.params().buffers().values().map(|v| v.to_vec1().unwrap()).collect();
    let (pixels, tokens) = batch();
    let image = clip.encode_image(&pixels, Mode::Eval).unwrap();
    let text = clip.encode_text(&tokens, Mode::Eval).unwrap();
    let grads = (image.sum_all().unwrap() + text.sum_all().unwrap()).unwrap().backward().unwrap();
    assert!(clip.params().vars().values().all(|var| grads.get(var).is_none()));
    let after: Vec<Vec<f32>> =
        clip.params().buffers().values().map(|v| v.to_vec1().unwrap()).collect();
    assert_eq!(before, after);
}

#[test]
fn a_training_pass_moves_the_running_statistics_by_a_tenth() {
    let clip =
        Clip::init(&config(), &[Change::IdleChannels { ratio: 0.5 }], 1, &Device::Cpu).unwrap();
    loss(&clip);
    for (name, var) in clip.params().buffers() {
        let values = var.to_vec1::<f32>().unwrap();
        let start = if name.ends_with("running_var") { 1.0 } else { 0.0 };
        assert!(values.iter().any(|v| (v - start).abs() > 1e-4), "{name}");
        assert!(!name.ends_with("running_var") || values.iter().all(|v| *v >= 0.9), "{name}");
    }
}

#[test]
fn a_step_on_the_variables_is_seen_in_both_modes() {
    let clip = Clip::init(&config(), &[], 1, &Device::Cpu).unwrap();
    let (pixels, _) = batch();
    let features = |mode| clip.encode_image(&pixels, mode).unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(features(Mode::Train), features(Mode::Eval));
    let before = features(Mode::Eval);
    let proj = &clip.params().vars()["visual.proj"];
    proj.set(&(proj.as_tensor().detach() * 2.0).unwrap()).unwrap();
    assert_ne!(features(Mode::Eval), before);
    assert_eq!(features(Mode::Train), features(Mode::Eval));
}

#[test]
fn the_gradient_of_the_used_token_rows_is_that_of_the_table() {
    let clip = Clip::init(&config(), &[], 1, &Device::Cpu).unwrap();
    // The second end token lies behind the first, and 7 and 9 are not used.
    let tokens =
        Tensor::new(&[[0u32, 3, 5, 19, 7, 19, 9], [4, 3, 3, 1, 0, 18, 19]], &Device::Cpu).unwrap();
    let dense = clip.encode_text(&tokens, Mode::Train).unwrap();
    let (sparse, rows) = clip.encode_text_rows(&tokens).unwrap();
    assert_eq!(dense.to_vec2::<f32>().unwrap(), sparse.to_vec2::<f32>().unwrap());
    assert_eq!(rows.ids, [0, 1, 3, 4, 5, 18, 19]);
    let table = &clip.params().vars()["token_embedding.weight"];
    let other = &clip.params().vars()["positional_embedding"];
    let dense = dense.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    let sparse = sparse.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    assert!(sparse.get(table).is_none());
    let all = dense.get(table).unwrap().to_vec2::<f32>().unwrap();
    let used = sparse.get(&rows.values).unwrap().to_vec2::<f32>().unwrap();
    for (id, row) in all.iter().enumerate() {
        match rows.ids.iter().position(|used| *used as usize == id) {
            Some(place) => assert_eq!(*row, used[place], "{id}"),
            None => assert!(row.iter().all(|v| *v == 0.0), "{id}"),
        }
    }
    let vec =
        |g: &candle_core::backprop::GradStore| g.get(other).unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(vec(&dense), vec(&sparse));
}

#[test]
fn what_stands_behind_the_end_token_changes_nothing() {
    let clip = Clip::init(&config(), &[], 1, &Device::Cpu).unwrap();
    let features = |row: [u32; 7]| {
        let tokens = Tensor::new(&[row], &Device::Cpu).unwrap();
        clip.encode_text(&tokens, Mode::Eval).unwrap().to_vec2::<f32>().unwrap()
    };
    assert_eq!(features([3, 1, 19, 0, 0, 0, 0]), features([3, 1, 19, 4, 4, 19, 2]));
    assert_ne!(features([3, 1, 19, 0, 0, 0, 0]), features([1, 3, 19, 0, 0, 0, 0]));
}

#[test]
fn features_do_not_depend_on_the_other_samples_of_a_batch() {
    let clip = Clip::init(&config(), &[], 1, &Device::Cpu).unwrap();
    let (pixels, tokens) = batch();
    let all = clip.encode_image(&pixels, Mode::Eval).unwrap();
    let text = clip.encode_text(&tokens, Mode::Eval).unwrap();
    for i in 0..4 {
        let image = clip.encode_image(&pixels.narrow(0, i, 1).unwrap(), Mode::Eval).unwrap();
        let words = clip.encode_text(&tokens.narrow(0, i, 1).unwrap(), Mode::Eval).unwrap();
        for (one, many) in [(image, &all), (words, &text)] {
            let difference = (one - many.narrow(0, i, 1).unwrap()).unwrap().abs().unwrap();
            let worst =
                difference.flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
            assert!(worst < 1e-6, "{i}: {worst:e}");
        }
    }
}

#[test]
fn average_pooling_takes_the_patch_tokens() {
    let mut value = config().to_json();
    value["vision_cfg"]["pool_type"] = "avg".into();
    let config = ClipConfig::from_json(&value).unwrap();
    let clip = Clip::init(&config, &[], 1, &Device::Cpu).unwrap();
    let (pixels, _) = batch();
    let states = clip.image_states(&pixels).unwrap();
    let mean = states["ln_post"].narrow(1, 1, 4).unwrap().mean(1).unwrap();
    let expected = mean.matmul(clip.params().vars()["visual.proj"].as_tensor()).unwrap();
    let got = clip.encode_image(&pixels, Mode::Eval).unwrap();
    let worst = (got - expected).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
    assert!(worst.to_scalar::<f32>().unwrap() < 1e-6);
}

#[test]
fn one_seed_gives_one_model() {
    let sum = |seed: u64| {
        let clip = Clip::init(&config(), &[], seed, &Device::Cpu).unwrap();
        let all = clip.params().tensors();
        all.values()
            .map(|t| {
                t.to_dtype(DType::F64)
                    .unwrap()
                    .sqr()
                    .unwrap()
                    .sum_all()
                    .unwrap()
                    .to_scalar::<f64>()
                    .unwrap()
            })
            .sum::<f64>()
    };
    assert_eq!(sum(1).to_bits(), sum(1).to_bits());
    assert_ne!(sum(1).to_bits(), sum(2).to_bits());
}

#[test]
fn a_model_for_larger_pictures_keeps_all_but_its_positions() {
    let clip = Clip::init(&config(), &[], 1, &Device::Cpu).unwrap();
    let larger = config().with_image_size(16).unwrap();
    let fitted = clip.fitted(&larger).unwrap();
    let pixels = Tensor::zeros((1, 3, 16, 16), DType::F32, &Device::Cpu).unwrap();
    assert_eq!(fitted.encode_image(&pixels, Mode::Eval).unwrap().dims(), [1, 8]);
    for (name, old) in clip.params().tensors() {
        let new = &fitted.params().tensors()[&name];
        if name == "visual.positional_embedding" {
            assert_eq!((old.dims(), new.dims()), (&[5, 12][..], &[17, 12][..]));
            let row = |t: &Tensor| t.get(0).unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(row(&old), row(new));
        } else {
            let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(flat(&old), flat(new), "{name}");
        }
    }
    // Back again the places between are gone, but not their sum.
    let back = fitted.fitted(&config()).unwrap();
    let sum = |clip: &Clip| {
        let table = clip.params().tensors()["visual.positional_embedding"].clone();
        table.narrow(0, 1, table.dim(0).unwrap() - 1).unwrap().mean_all().unwrap()
    };
    let (a, b) = (sum(&clip).to_scalar::<f32>().unwrap(), sum(&back).to_scalar::<f32>().unwrap());
    assert!((a - b).abs() < 0.02, "{a} {b}");
}

#[test]
fn fixed_positions_are_not_trained_and_follow_the_grid() {
    let mut value = config().to_json();
    value["vision_cfg"]["pos_embed_type"] = "sin_cos_2d".into();
    let config = ClipConfig::from_json(&value).unwrap();
    let clip = Clip::init(&config, &[], 1, &Device::Cpu).unwrap();
    assert!(!clip.params().vars().contains_key("visual.positional_embedding"));
    let table = |clip: &Clip| {
        clip.params().buffers()["visual.positional_embedding"].to_vec2::<f32>().unwrap()
    };
    let larger = config.with_image_size(16).unwrap();
    let fresh = Clip::init(&larger, &[], 1, &Device::Cpu).unwrap();
    assert_eq!(table(&clip.fitted(&larger).unwrap()), table(&fresh));
    loss(&clip).backward().unwrap();
}

#[test]
fn bf16_weights_change_features_in_the_third_digit_and_training_not_at_all() {
    for config in all_kinds() {
        let full = Clip::init(&config, &[], 1, &Device::Cpu).unwrap();
        let half = full.clone().with_half_weights().unwrap();
        let side = config.image_size() as usize;
        let pixels = noise(4, side);
        let (_, tokens) = batch();
        let image = |clip: &Clip, mode| {
            normalize(&clip.encode_image(&pixels, mode).unwrap()).unwrap().to_vec2::<f32>().unwrap()
        };
        let text = |clip: &Clip, mode| {
            normalize(&clip.encode_text(&tokens, mode).unwrap()).unwrap().to_vec2::<f32>().unwrap()
        };
        for features in [&image as &dyn Fn(&Clip, Mode) -> Vec<Vec<f32>>, &text] {
            assert_eq!(features(&half, Mode::Train), features(&full, Mode::Train));
            let (a, b) = (features(&full, Mode::Eval), features(&half, Mode::Eval));
            assert_ne!(a, b);
            for (a, b) in a.iter().zip(&b) {
                let cosine: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                assert!(cosine > 0.999, "{cosine}");
            }
        }
    }
}

#[test]
fn weights_laid_out_for_inference_give_the_same_bits() {
    for config in all_kinds() {
        let plain = Clip::init(&config, &[], 1, &Device::Cpu).unwrap();
        let packed = plain.clone().with_packed_weights().unwrap();
        let side = config.image_size() as usize;
        let pixels = noise(3, side);
        let (_, tokens) = batch();
        for mode in [Mode::Eval, Mode::Train] {
            let image = |clip: &Clip| clip.encode_image(&pixels, mode).unwrap();
            let text = |clip: &Clip| clip.encode_text(&tokens, mode).unwrap();
            for features in [&image as &dyn Fn(&Clip) -> Tensor, &text] {
                let numbers = |clip: &Clip| features(clip).to_vec2::<f32>().unwrap();
                assert_eq!(numbers(&packed), numbers(&plain));
            }
        }
    }
}

#[test]
fn gradients_with_bf16_products_are_those_of_f32_within_bf16s_rounding() {
    for config in all_kinds() {
        let clip = Clip::init(&config, &[], 1, &Device::Cpu).unwrap();
        let side = config.image_size() as usize;
        let count = 4 * 3 * side * side;
        let pixels = (0..count).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect::<Vec<_>>();
        let pixels = Tensor::from_vec(pixels, (4, 3, side, side), &Device::Cpu).unwrap();
        let (_, tokens) = batch();
        let tokens = tokens.narrow(0, 0, 4).unwrap();
        let targets = Tensor::arange(0u32, 4, &Device::Cpu).unwrap();
        let gradients = |products: kernels::Products, recompute: bool| {
            let step = models::Step { products, recompute, ..models::Step::default() };
            let i = normalize(&clip.encode_image_step(&pixels, step).unwrap()).unwrap();
            let t = normalize(&clip.encode_text_step(&tokens, step).unwrap()).unwrap();
            let logits = (i.matmul(&t.t().unwrap()).unwrap() * 10.0).unwrap();
            let loss = kernels::cross_entropy(&logits, &targets).unwrap();
            let grads = loss.backward().unwrap();
            let of = |var: &candle_core::Var| {
                let gradient = grads.get(var)?.flatten_all().unwrap();
                Some(gradient.to_vec1::<f32>().unwrap())
            };
            clip.params().vars().iter().map(|(n, v)| (n.clone(), of(v))).collect::<Vec<_>>()
        };
        use kernels::Products::{Bf16, F32};
        let half = gradients(Bf16, false);
        assert_eq!(half, gradients(Bf16, true));
        let (mut apart, mut whole) = (0.0, 0.0);
        for ((_, half), (_, full)) in half.iter().zip(&gradients(F32, false)) {
            let (Some(half), Some(full)) = (half, full) else { continue };
            for (a, b) in half.iter().zip(full) {
                apart += f64::from(a - b).powi(2);
                whole += f64::from(*b).powi(2);
            }
        }
        let share = (apart / whole).sqrt();
        assert!((1e-5..0.06).contains(&share), "{share}");
    }
}
