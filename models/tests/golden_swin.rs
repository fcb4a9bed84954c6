//! Swin, forward and backward, against timm's numbers: a small model of formulas
//! (`golden/swin_tiny.json`), the golden folder `swin`, and the proof that the tolerances catch the
//! usual mistakes.

mod formulas;
mod shared_data;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var, safetensors};
use formulas::{check_gradients, check_logits, pattern, weights};
use models::{Mode, Swin, SwinConfig};

type Tensors = BTreeMap<String, Tensor>;

fn worst(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let difference = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
    difference.max(0).unwrap().to_dtype(DType::F64).unwrap().to_scalar::<f64>().unwrap()
}

/// max|a - b| / max|b|
fn relative(a: &Tensor, b: &Tensor) -> f64 {
    worst(a, b) / worst(b, &b.zeros_like().unwrap())
}

fn tiny() -> (Swin, serde_json::Value) {
    let golden: serde_json::Value =
        serde_json::from_str(include_str!("golden/swin_tiny.json")).unwrap();
    let config = SwinConfig::from_json(&golden["config"]).unwrap();
    let begun = Swin::init(&config, 0, &Device::Cpu).unwrap();
    (Swin::from_tensors(&config, weights(begun.params()), &Device::Cpu).unwrap(), golden)
}

#[test]
fn a_small_model_with_padding_and_shrunk_windows_equals_timms_in_f64() {
    let (swin, golden) = tiny();
    let pixels = pattern(&[2, 3, 20, 20], 7919, 0, 2049);
    check_logits(&swin.logits(&pixels, Mode::Eval).unwrap(), &golden);
    let logits = swin.logits(&pixels, Mode::Train).unwrap();
    check_logits(&logits, &golden);
    let loss = (logits * pattern(&[2, 3], 13, 0, 7)).unwrap().sum_all().unwrap();
    check_gradients(&loss.backward().unwrap(), swin.params(), &golden);
}

#[test]
fn every_parameter_gets_a_gradient_except_the_key_biases() {
    let config = SwinConfig::from_json(&serde_json::json!({
        "img_size": 16, "patch_size": 2, "num_classes": 3, "embed_dim": 8, "depths": [2, 1],
        "num_heads": [1, 2], "window_size": 3
    }))
    .unwrap();
    let swin = Swin::init(&config, 1, &Device::Cpu).unwrap();
    let pixels = pattern(&[2, 3, 16, 16], 7919, 0, 2049).to_dtype(DType::F32).unwrap();
    let loss = swin.logits(&pixels, Mode::Train).unwrap().sqr().unwrap().sum_all().unwrap();
    let grads = loss.backward().unwrap();
    let size = |part: &[f32]| part.iter().fold(0f32, |m, v| m.max(v.abs()));
    for (name, var) in swin.params().vars() {
        let grad = grads.get(var).unwrap_or_else(|| panic!("{name} has no gradient"));
        let values = grad.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        if name.ends_with("qkv.bias") {
            // Softmax ignores a shift of all keys.
            let third = values.len() / 3;
            assert!(size(&values[..third]) > 1e-9, "{name}: queries");
            assert!(size(&values[third..2 * third]) < 1e-8, "{name}: keys");
            assert!(size(&values[2 * third..]) > 1e-6, "{name}: values");
        } else {
            assert!(size(&values) > 1e-9, "{name}: {}", size(&values));
        }
    }
    let eval = swin.logits(&pixels, Mode::Eval).unwrap().sum_all().unwrap().backward().unwrap();
    assert!(swin.params().vars().values().all(|var| eval.get(var).is_none()));
}

#[test]
fn a_model_without_head_gives_its_features() {
    let config = SwinConfig { num_classes: 0, ..tiny().0.config().clone() };
    let swin = Swin::init(&config, 1, &Device::Cpu).unwrap();
    let pixels = pattern(&[1, 3, 20, 20], 7919, 0, 2049).to_dtype(DType::F32).unwrap();
    let logits = swin.logits(&pixels, Mode::Eval).unwrap();
    assert_eq!(logits.dims(), [1, 32]);
    assert_eq!(worst(&logits, &swin.pooled(&pixels, Mode::Eval).unwrap()), 0.0);
    assert!(!swin.params().vars().keys().any(|name| name.starts_with("head")));
    let wrong = Tensor::zeros((1, 3, 20, 24), DType::F32, &Device::Cpu).unwrap();
    let message = swin.logits(&wrong, Mode::Eval).unwrap_err().to_string();
    assert_eq!(message, "pixels have shape [1, 3, 20, 24], the model takes [B, 3, 20, 20]");
}

#[test]
fn missing_and_unknown_tensors_are_named() {
    let (swin, _) = tiny();
    let mut tensors = swin.params().tensors();
    let table = tensors.remove("layers.0.blocks.1.attn.relative_position_bias_table").unwrap();
    tensors.insert("layers.0.blocks.1.attn_mask".to_owned(), table);
    let message = Swin::from_tensors(swin.config(), tensors, &Device::Cpu).unwrap_err().to_string();
    assert_eq!(
        message,
        "the tensors do not fit the model: missing \
         `layers.0.blocks.1.attn.relative_position_bias_table`; unknown \
         `layers.0.blocks.1.attn_mask`"
    );
}

/// Swin written another way, to make the usual mistakes with: rolls and permutations instead of
/// gathers, plain tensor operations instead of fused ones.
#[derive(Clone, Copy)]
struct Form {
    shift: bool,
    mask: bool,
    eps: f64,
    flipped: bool,
}

const RIGHT: Form = Form { shift: true, mask: true, eps: 1e-5, flipped: false };

impl Form {
    fn norm(self, w: &Tensors, at: &str, x: &Tensor) -> Tensor {
        let last = candle_core::D::Minus1;
        let centred = x.broadcast_sub(&x.mean_keepdim(last).unwrap()).unwrap();
        let variance = centred.sqr().unwrap().mean_keepdim(last).unwrap();
        let x = centred.broadcast_div(&(variance + self.eps).unwrap().sqrt().unwrap()).unwrap();
        let x = x.broadcast_mul(&w[&format!("{at}.weight")]).unwrap();
        x.broadcast_add(&w[&format!("{at}.bias")]).unwrap()
    }

    fn attention(
        self,
        w: &Tensors,
        at: &str,
        x: &Tensor,
        heads: usize,
        sizes: (usize, usize),
    ) -> Tensor {
        let (window, shift) = sizes;
        let (b, h, _, c) = x.dims4().unwrap();
        let n = h / window;
        let x = roll(x, shift);
        let x = x.reshape(&[b, n, window, n, window, c][..]).unwrap();
        let x = x.permute([0, 1, 3, 2, 4, 5]).unwrap();
        let t = window * window;
        let x = x.reshape((b * n * n, t, c)).unwrap();
        let qkv = linear(w, &format!("{at}.qkv"), &x);
        let head = |i: usize| {
            let part = qkv.narrow(2, i * c, c).unwrap().reshape((b * n * n, t, heads, c / heads));
            part.unwrap().transpose(1, 2).unwrap().contiguous().unwrap()
        };
        let scale = 1.0 / ((c / heads) as f64).sqrt();
        let scores = (head(0).matmul(&head(1).t().unwrap()).unwrap() * scale).unwrap();
        let table = w[&format!("{at}.relative_position_bias_table")].clone();
        let rows = table.dim(0).unwrap();
        let side = 2 * window - 1;
        let mut index = Vec::new();
        for q in 0..t {
            for k in 0..t {
                let (dy, dx) =
                    (q / window + window - 1 - k / window, q % window + window - 1 - k % window);
                let row = dy * side + dx;
                index.push(if self.flipped { rows - 1 - row } else { row } as u32);
            }
        }
        let bias = table.index_select(&Tensor::new(index, &Device::Cpu).unwrap(), 0).unwrap();
        let bias = bias.t().unwrap().reshape((1, heads, t, t)).unwrap();
        let mut scores = scores.broadcast_add(&bias).unwrap();
        if shift > 0 && self.mask {
            let piece = |at: usize| usize::from(at >= h - window) + usize::from(at >= h - shift);
            let mut mask = Vec::new();
            for top in 0..n {
                for left in 0..n {
                    let region = |token: usize| {
                        let (y, x) =
                            (top * window + token / window, left * window + token % window);
                        (piece(y), piece(x))
                    };
                    for q in 0..t {
                        mask.extend(
                            (0..t).map(|k| if region(q) == region(k) { 0f32 } else { -100.0 }),
                        );
                    }
                }
            }
            let mask = Tensor::from_vec(mask, (1, n * n, 1, t, t), &Device::Cpu).unwrap();
            let split = scores.reshape((b, n * n, heads, t, t)).unwrap();
            let split = split.broadcast_add(&mask).unwrap();
            scores = split.reshape((b * n * n, heads, t, t)).unwrap();
        }
        let last = candle_core::D::Minus1;
        let e = scores.broadcast_sub(&scores.max_keepdim(last).unwrap()).unwrap().exp().unwrap();
        let weights = e.broadcast_div(&e.sum_keepdim(last).unwrap()).unwrap();
        let y = weights.matmul(&head(2)).unwrap().transpose(1, 2).unwrap();
        let y = linear(w, &format!("{at}.proj"), &y.reshape((b * n * n, t, c)).unwrap());
        let y = y.reshape(&[b, n, n, window, window, c][..]).unwrap();
        let y = y.permute([0, 1, 3, 2, 4, 5]).unwrap().reshape((b, h, h, c)).unwrap();
        roll(&y, h - shift)
    }

    /// Scores of a model whose grids divide by their windows.
    fn logits(self, config: &SwinConfig, w: &Tensors, pixels: &Tensor) -> Tensor {
        let p = config.patch_size;
        let (b, _, s, _) = pixels.dims4().unwrap();
        let mut grid = s / p;
        let x = pixels.reshape(&[b, 3, grid, p, grid, p][..]).unwrap();
        let x = x.permute([0, 2, 4, 1, 3, 5]).unwrap().reshape((b, grid, grid, 3 * p * p)).unwrap();
        let x = linear(w, "patch_embed.proj", &x);
        let mut x = self.norm(w, "patch_embed.norm", &x);
        for (i, (depth, heads)) in config.depths.iter().zip(&config.num_heads).enumerate() {
            if i > 0 {
                let c = x.dim(3).unwrap();
                grid /= 2;
                let quads = x.reshape(&[b, grid, 2, grid, 2, c][..]).unwrap();
                let quads = quads.permute([0, 1, 3, 4, 2, 5]).unwrap();
                let quads = quads.reshape((b, grid, grid, 4 * c)).unwrap();
                let at = format!("layers.{i}.downsample");
                let quads = self.norm(w, &format!("{at}.norm"), &quads);
                x = linear(w, &format!("{at}.reduction"), &quads);
            }
            for j in 0..*depth {
                let at = format!("layers.{i}.blocks.{j}");
                let window = config.window_size.min(grid);
                let shifts = self.shift && j % 2 == 1 && grid > config.window_size;
                let sizes = (window, if shifts { window / 2 } else { 0 });
                let y = self.norm(w, &format!("{at}.norm1"), &x);
                x = (&x + self.attention(w, &format!("{at}.attn"), &y, *heads, sizes)).unwrap();
                let y = self.norm(w, &format!("{at}.norm2"), &x);
                let y = linear(w, &format!("{at}.mlp.fc1"), &y).gelu_erf().unwrap();
                x = (&x + linear(w, &format!("{at}.mlp.fc2"), &y)).unwrap();
            }
        }
        let x = self.norm(w, "norm", &x).flatten(1, 2).unwrap().mean(1).unwrap();
        linear(w, "head.fc", &x)
    }
}

/// Up and to the left by `shift`.
fn roll(x: &Tensor, shift: usize) -> Tensor {
    let mut x = x.clone();
    for axis in [1, 2] {
        let size = x.dim(axis).unwrap();
        let shift = shift % size;
        let head = x.narrow(axis, 0, shift).unwrap();
        let tail = x.narrow(axis, shift, size - shift).unwrap();
        x = Tensor::cat(&[tail, head], axis).unwrap();
    }
    x
}

fn linear(w: &Tensors, at: &str, x: &Tensor) -> Tensor {
    let weight = w[&format!("{at}.weight")].flatten_from(1).unwrap();
    let rows = x.flatten_to(x.rank() - 2).unwrap();
    let y = rows.contiguous().unwrap().matmul(&weight.t().unwrap()).unwrap();
    let y = match w.get(&format!("{at}.bias")) {
        Some(bias) => y.broadcast_add(bias).unwrap(),
        None => y,
    };
    let mut dims = x.dims().to_vec();
    *dims.last_mut().unwrap() = weight.dim(0).unwrap();
    y.reshape(dims).unwrap()
}

#[test]
fn the_eps_shows_where_pictures_are_nearly_grey() {
    let config = SwinConfig::from_json(&serde_json::json!({
        "img_size": 16, "patch_size": 2, "num_classes": 3, "embed_dim": 8, "depths": [2],
        "num_heads": [2], "window_size": 4
    }))
    .unwrap();
    let swin = Swin::init(&config, 1, &Device::Cpu).unwrap();
    let mut tensors = swin.params().tensors();
    tensors.insert(
        "patch_embed.proj.bias".to_owned(),
        Tensor::zeros(8, DType::F32, &Device::Cpu).unwrap(),
    );
    let swin = Swin::from_tensors(&config, tensors.clone(), &Device::Cpu).unwrap();
    let pixels = (pattern(&[1, 3, 16, 16], 7919, 0, 2049) * 1e-3).unwrap();
    let pixels = pixels.to_dtype(DType::F32).unwrap();
    let logits = swin.logits(&pixels, Mode::Eval).unwrap();
    assert!(relative(&logits, &RIGHT.logits(&config, &tensors, &pixels)) < 1e-5);
    let other = Form { eps: 1e-6, ..RIGHT }.logits(&config, &tensors, &pixels);
    assert!(relative(&logits, &other) > 1e-2);
}

struct Golden {
    config: SwinConfig,
    weights: Tensors,
    inputs: Tensors,
    outputs: Tensors,
    grads: Tensors,
}

fn golden() -> Option<Golden> {
    let folder = shared_data::shared("data/golden/swin")?;
    let load = |file: &str| -> Tensors {
        let path: &Path = &folder.join(file);
        safetensors::load(path, &Device::Cpu).unwrap().into_iter().collect()
    };
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
    Some(Golden {
        config: SwinConfig::from_json(&serde_json::from_str(&text).unwrap()).unwrap(),
        weights: load("weights.safetensors"),
        inputs: load("inputs.safetensors"),
        outputs: load("outputs.safetensors"),
        grads: load("grads.safetensors"),
    })
}

#[test]
fn outputs_and_states_equal_timms() {
    let Some(golden) = golden() else { return };
    let swin = Swin::from_tensors(&golden.config, golden.weights, &Device::Cpu).unwrap();
    assert_eq!(golden.config.parameters(), 575_640);
    let image = &golden.inputs["image"];
    for mode in [Mode::Eval, Mode::Train] {
        let logits = swin.logits(image, mode).unwrap();
        assert!(relative(&logits, &golden.outputs["logits"]) < 4e-6);
        let pooled = swin.pooled(image, mode).unwrap();
        assert!(relative(&pooled, &golden.outputs["pooled"]) < 4e-6);
    }
    let states = swin.states(image).unwrap();
    let expected: Vec<&str> =
        golden.outputs.keys().filter_map(|name| name.strip_prefix("mid.")).collect();
    assert_eq!(states.keys().collect::<Vec<_>>(), expected);
    for (name, state) in &states {
        let difference = relative(state, &golden.outputs[&format!("mid.{name}")]);
        assert!(difference < 4e-6, "{name}: {difference:e}");
    }
}

#[test]
fn gradients_equal_timms() {
    let Some(golden) = golden() else { return };
    let swin = Swin::from_tensors(&golden.config, golden.weights, &Device::Cpu).unwrap();
    let image = Var::from_tensor(&golden.inputs["image"]).unwrap();
    let logits = swin.logits(&image, Mode::Train).unwrap();
    let loss = (logits * &golden.inputs["cotangent"]).unwrap().sum_all().unwrap();
    let grads = loss.backward().unwrap();
    let mut vars: BTreeMap<&str, &Var> =
        swin.params().vars().iter().map(|(name, var)| (name.as_str(), var)).collect();
    vars.insert("input.image", &image);
    assert_eq!(
        vars.keys().copied().collect::<Vec<_>>(),
        golden.grads.keys().map(String::as_str).collect::<Vec<_>>()
    );
    for (name, var) in vars {
        let difference = relative(grads.get(var).unwrap(), &golden.grads[name]);
        assert!(difference < 2e-5, "{name}: {difference:e}");
    }
}

#[test]
fn the_tolerance_catches_each_listed_mistake() {
    let Some(golden) = golden() else { return };
    let distance = |form: Form| {
        let logits = form.logits(&golden.config, &golden.weights, &golden.inputs["image"]);
        relative(&logits, &golden.outputs["logits"])
    };
    assert!(distance(RIGHT) < 4e-6, "without mistake: {:e}", distance(RIGHT));
    for (mistake, form, least) in [
        ("no shift", Form { shift: false, ..RIGHT }, 5e-2),
        ("no mask", Form { mask: false, ..RIGHT }, 5e-2),
        ("table flipped", Form { flipped: true, ..RIGHT }, 5e-2),
        ("eps 1e-6", Form { eps: 1e-6, ..RIGHT }, 5e-6),
    ] {
        assert!(distance(form) > least, "{mistake}: {:e}", distance(form));
    }
}
