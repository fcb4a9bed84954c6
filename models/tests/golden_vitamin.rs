//! A ViTamin CLIP, forward and backward, against timm's and open_clip's numbers
//! (`golden/clip_vitamin` of the shared data, and `golden/vitamin_tiny.json` beside this file), and
//! the proof that the tolerances catch the usual mistakes.

mod formulas;
mod golden;
mod shared_data;
mod small_clip;

use std::collections::BTreeMap;

use candle_core::{D, DType, Device, Tensor, Var};
use golden::{Tensors, largest, load, loss, worst};
use models::{Clip, ClipConfig, Mode, Step, normalize};
use serde_json::{Value, json};

struct Golden {
    config: Value,
    weights: Tensors,
    image: Tensor,
    text: Tensor,
    outputs: Tensors,
    grads: Tensors,
}

fn golden() -> Option<Golden> {
    let folder = shared_data::shared("data/golden/clip_vitamin")?;
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let theirs: Value = serde_json::from_str(&text).unwrap();
    let (trunk, text) = (&theirs["trunk"], &theirs["text_cfg"]);
    let config = json!({
        "embed_dim": theirs["embed_dim"],
        "custom_text": true,
        "vision_cfg": {
            "image_size": 64,
            "timm_drop_path": 0.1,
            "vitamin": {
                "stem_width": trunk["stem_width"],
                "embed_dim": trunk["embed_dim"],
                "depths": trunk["depths"],
                "heads": trunk["heads"],
                "mlp_ratio": trunk["mlp_ratio"],
                "pos_embed": trunk["pos_embed"],
            },
        },
        "text_cfg": text,
    });
    let inputs = load(&folder, "inputs.safetensors");
    Some(Golden {
        config,
        weights: load(&folder, "weights.safetensors"),
        image: inputs["image"].clone(),
        text: inputs["text"].to_dtype(DType::U32).unwrap(),
        outputs: load(&folder, "outputs.safetensors"),
        grads: load(&folder, "grads.safetensors"),
    })
}

impl Golden {
    fn clip(&self) -> Clip {
        let config = ClipConfig::from_json(&self.config).unwrap();
        Clip::from_tensors(&config, &[], self.weights.clone(), &Device::Cpu).unwrap()
    }
}

fn relative(got: &Tensor, expected: &Tensor) -> f64 {
    worst(got, expected) / largest(expected)
}

#[test]
fn a_small_vitamin_clip_equals_timms_and_open_clips_in_f64_with_all_gradients() {
    let golden: Value = serde_json::from_str(include_str!("golden/vitamin_tiny.json")).unwrap();
    assert!(golden["states"].as_object().unwrap().len() >= 12);
    small_clip::check(&golden["config"], &golden);
}

#[test]
fn outputs_and_states_equal_timms_and_open_clips() {
    let Some(golden) = golden() else { return };
    let clip = golden.clip();
    assert_eq!(clip.config().parameters(), 211_761);
    assert_eq!(clip.config().image_parameters() - 24 * 64, 181_424);
    for mode in [Mode::Eval, Mode::Train] {
        let image = clip.encode_image(&golden.image, mode).unwrap();
        let text = clip.encode_text(&golden.text, mode).unwrap();
        assert!(relative(&image, &golden.outputs["image_features_raw"]) < 4e-6);
        assert!(relative(&text, &golden.outputs["text_features_raw"]) < 4e-6);
        let (image, text) = (normalize(&image).unwrap(), normalize(&text).unwrap());
        let (logits, loss) = loss(&image, &text, clip.logit_scale());
        assert!(relative(&logits, &golden.outputs["logits_per_image"]) < 4e-6);
        assert!(worst(&loss, &golden.outputs["loss"]) < 3e-6);
    }
    let states = clip.image_states(&golden.image).unwrap();
    let expected: Vec<&str> =
        golden.outputs.keys().filter_map(|name| name.strip_prefix("mid.")).collect();
    assert_eq!(states.keys().collect::<Vec<_>>(), expected);
    for (name, state) in &states {
        let state = match state.dims().len() {
            4 => state.permute((0, 3, 1, 2)).unwrap(),
            _ => state.clone(),
        };
        let error = relative(&state, &golden.outputs[&format!("mid.{name}")]);
        assert!(error < 4e-6, "{name}: {error:e}");
    }
    assert!(relative(&states["fc_norm"], &golden.outputs["trunk_features"]) < 4e-6);
}

#[test]
fn a_tower_without_positions_equals_timms() {
    let Some(mut golden) = golden() else { return };
    golden.config["vision_cfg"]["vitamin"]["pos_embed"] = json!("none");
    golden.weights.remove("visual.trunk.pos_embed");
    let states = golden.clip().image_states(&golden.image).unwrap();
    assert!(relative(&states["fc_norm"], &golden.outputs["nopos.trunk_features"]) < 4e-6);
}

fn gradients(golden: &Golden, step: Step) -> BTreeMap<String, Tensor> {
    let clip = golden.clip();
    let image = Var::from_tensor(&golden.image).unwrap();
    let i = normalize(&clip.encode_image_step(&image, step).unwrap()).unwrap();
    let t = normalize(&clip.encode_text(&golden.text, Mode::Train).unwrap()).unwrap();
    let grads = loss(&i, &t, clip.logit_scale()).1.backward().unwrap();
    let mut vars: Vec<(&str, &Var)> =
        clip.params().vars().iter().map(|(name, var)| (name.as_str(), var)).collect();
    vars.push(("input.image", &image));
    vars.into_iter().map(|(name, var)| (name.to_owned(), grads.get(var).unwrap().clone())).collect()
}

#[test]
fn gradients_equal_timms_and_open_clips_whether_kept_or_computed_again() {
    let Some(golden) = golden() else { return };
    for recompute in [false, true] {
        let got = gradients(&golden, Step { recompute, ..Step::default() });
        assert_eq!(got.keys().collect::<Vec<_>>(), golden.grads.keys().collect::<Vec<_>>());
        for (name, got) in &got {
            let expected = &golden.grads[name];
            let thirds =
                if name.ends_with("qkv.bias") || name.ends_with("in_proj_bias") { 3 } else { 1 };
            for part in 0..thirds {
                let of = |t: &Tensor| match thirds {
                    1 => t.clone(),
                    _ => t.chunk(3, 0).unwrap()[part].clone(),
                };
                let difference = worst(&of(got), &of(expected));
                // Softmax ignores a shift of all keys: the key bias has no gradient but rounding.
                let keys = thirds == 3 && part == 1;
                let bar = if keys { 1e-6 } else { 2e-5 * largest(&of(expected)) };
                assert!(difference < bar, "{name} part {part}: {difference:e}, bar {bar:e}");
            }
        }
    }
}

#[test]
fn drop_path_changes_a_training_step_and_only_with_a_seed() {
    let Some(golden) = golden() else { return };
    let clip = golden.clip();
    let with = |noise: Option<u64>| {
        let step = Step { noise, ..Step::default() };
        clip.encode_image_step(&golden.image, step).unwrap().to_vec2::<f32>().unwrap()
    };
    let plain = clip.encode_image(&golden.image, Mode::Eval).unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(with(None), plain);
    let seed = (0..50).find(|seed| with(Some(*seed)) != plain);
    let seed = seed.expect("a tenth of the last block's samples is left out");
    assert_eq!(with(Some(seed)), with(Some(seed)));
}

/// What can be wrong in a ViTamin without being noticed.
#[derive(Clone, Copy)]
struct Form {
    eps: f64,
    activation: fn(&Tensor) -> Tensor,
    count_padding: bool,
    inner_norm: bool,
    swap_gate: bool,
    norm_before_mean: bool,
    norm_after_pool: bool,
}

const RIGHT: Form = Form {
    eps: 1e-6,
    activation: exact,
    count_padding: false,
    inner_norm: true,
    swap_gate: false,
    norm_before_mean: false,
    norm_after_pool: false,
};

fn exact(x: &Tensor) -> Tensor {
    x.gelu_erf().unwrap()
}

fn tanh(x: &Tensor) -> Tensor {
    x.gelu().unwrap()
}

/// A second trunk, channels first, from candle's own operators, with every mistake at hand.
struct Composed<'a> {
    golden: &'a Golden,
    form: Form,
}

impl Composed<'_> {
    fn get(&self, name: &str) -> &Tensor {
        &self.golden.weights[&format!("visual.trunk.{name}")]
    }

    fn norm(&self, x: &Tensor, at: &str) -> Tensor {
        let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1).unwrap()).unwrap();
        let variance = x.sqr().unwrap().mean_keepdim(D::Minus1).unwrap();
        let x = x.broadcast_div(&(variance + self.form.eps).unwrap().sqrt().unwrap()).unwrap();
        let x = x.broadcast_mul(self.get(&format!("{at}.weight"))).unwrap();
        x.broadcast_add(self.get(&format!("{at}.bias"))).unwrap()
    }

    /// LayerNorm over the channels of (B, C, H, W).
    fn norm_2d(&self, x: &Tensor, at: &str) -> Tensor {
        let last = x.permute((0, 2, 3, 1)).unwrap();
        self.norm(&last, at).permute((0, 3, 1, 2)).unwrap().contiguous().unwrap()
    }

    fn conv(&self, x: &Tensor, at: &str, stride: usize, groups: usize) -> Tensor {
        let w = self.get(&format!("{at}.weight"));
        let padding = w.dim(3).unwrap() / 2;
        let y = x.conv2d(w, padding, stride, 1, groups).unwrap();
        let b = self.get(&format!("{at}.bias")).reshape((1, (), 1, 1)).unwrap();
        y.broadcast_add(&b).unwrap()
    }

    fn linear(&self, x: &Tensor, at: &str) -> Tensor {
        let w = self.get(&format!("{at}.weight")).t().unwrap();
        x.broadcast_matmul(&w).unwrap().broadcast_add(self.get(&format!("{at}.bias"))).unwrap()
    }

    fn pool(&self, x: &Tensor) -> Tensor {
        let channels = x.dim(1).unwrap();
        let ones = Tensor::ones((channels, 1, 3, 3), DType::F32, &Device::Cpu).unwrap();
        let sum = x.conv2d(&ones, 1, 2, 1, channels).unwrap();
        if self.form.count_padding {
            return (sum / 9.0).unwrap();
        }
        let count = x.ones_like().unwrap().conv2d(&ones, 1, 2, 1, channels).unwrap();
        (sum / count).unwrap()
    }

    fn mbconv(&self, x: &Tensor, at: &str, stride: usize) -> Tensor {
        let act = self.form.activation;
        let mut shortcut = if stride == 2 { self.pool(x) } else { x.clone() };
        let expand = format!("{at}.shortcut.expand");
        if self.golden.weights.contains_key(&format!("visual.trunk.{expand}.weight")) {
            shortcut = self.conv(&shortcut, &expand, 1, 1);
        }
        let h = self.norm_2d(x, &format!("{at}.pre_norm"));
        let h = act(&self.conv(&h, &format!("{at}.conv1_1x1"), 1, 1));
        let groups = h.dim(1).unwrap();
        let h = act(&self.conv(&h, &format!("{at}.conv2_kxk"), stride, groups));
        (self.conv(&h, &format!("{at}.conv3_1x1"), 1, 1) + shortcut).unwrap()
    }

    fn block(&self, x: &Tensor, at: &str) -> Tensor {
        let (b, n, c) = x.dims3().unwrap();
        let qkv = self.linear(&self.norm(x, &format!("{at}.norm1")), &format!("{at}.attn.qkv"));
        let qkv = qkv.reshape((b, n, 3, 4, c / 4)).unwrap().permute((2, 0, 3, 1, 4)).unwrap();
        let part = |i: usize| qkv.get(i).unwrap().contiguous().unwrap();
        let scores = part(0).matmul(&part(1).t().unwrap()).unwrap();
        let scores = (scores / ((c / 4) as f64).sqrt()).unwrap();
        let y = kernels::softmax(&scores).unwrap().matmul(&part(2)).unwrap();
        let y = y.transpose(1, 2).unwrap().reshape((b, n, c)).unwrap();
        let x = (x + self.linear(&y, &format!("{at}.attn.proj"))).unwrap();
        let mut z = self.norm(&x, &format!("{at}.norm2"));
        if self.form.inner_norm {
            z = self.norm(&z, &format!("{at}.mlp.norm"));
        }
        let mut gate = self.linear(&z, &format!("{at}.mlp.w0"));
        let mut value = self.linear(&z, &format!("{at}.mlp.w1"));
        if self.form.swap_gate {
            std::mem::swap(&mut gate, &mut value);
        }
        let h = ((self.form.activation)(&gate) * value).unwrap();
        (x + self.linear(&h, &format!("{at}.mlp.w2"))).unwrap()
    }

    fn features(&self) -> Tensor {
        let at = |name: &str| format!("patch_embed.backbone.{name}");
        let x = self.conv(&self.golden.image, &at("stem.conv1"), 2, 1);
        let x = (self.form.activation)(&self.norm_2d(&x, &at("stem.norm1")));
        let mut x = self.conv(&x, &at("stem.conv2"), 1, 1);
        for (stage, depth) in [(0, 2), (1, 3)] {
            for i in 0..depth {
                let stride = if i == 0 { 2 } else { 1 };
                x = self.mbconv(&x, &at(&format!("stages.{stage}.{i}")), stride);
            }
        }
        x = if self.form.norm_after_pool {
            // The norm's width is that before the convolution, so a mean of 0 and a variance of 1
            // stand for it.
            let y = self.conv(&x, &at("pool.proj"), 2, 1).permute((0, 2, 3, 1)).unwrap();
            let y = y.broadcast_sub(&y.mean_keepdim(D::Minus1).unwrap()).unwrap();
            let variance = y.sqr().unwrap().mean_keepdim(D::Minus1).unwrap();
            let y = y.broadcast_div(&(variance + 1e-6).unwrap().sqrt().unwrap()).unwrap();
            y.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap()
        } else {
            self.conv(&self.norm_2d(&x, &at("pool.norm")), &at("pool.proj"), 2, 1)
        };
        let x = x.flatten_from(2).unwrap().transpose(1, 2).unwrap().contiguous().unwrap();
        let mut x = x.broadcast_add(self.get("pos_embed")).unwrap();
        for i in 0..3 {
            x = self.block(&x, &format!("blocks.{i}"));
        }
        if self.form.norm_before_mean {
            return self.norm(&x, "fc_norm").mean(1).unwrap();
        }
        self.norm(&x.mean(1).unwrap(), "fc_norm")
    }
}

#[test]
fn the_tolerance_catches_each_listed_mistake() {
    let Some(golden) = golden() else { return };
    let distance = |form: Form| {
        relative(&Composed { golden: &golden, form }.features(), &golden.outputs["trunk_features"])
    };
    let bar = 4e-6;
    assert!(distance(RIGHT) < bar, "without mistake: {:e}", distance(RIGHT));
    for (mistake, form) in [
        ("eps 1e-5", Form { eps: 1e-5, ..RIGHT }),
        ("tanh gelu", Form { activation: tanh, ..RIGHT }),
        ("padding counted", Form { count_padding: true, ..RIGHT }),
        ("one norm before the FFN", Form { inner_norm: false, ..RIGHT }),
        ("the gate on the other branch", Form { swap_gate: true, ..RIGHT }),
        ("norm before the mean", Form { norm_before_mean: true, ..RIGHT }),
        ("norm after the pooling convolution", Form { norm_after_pool: true, ..RIGHT }),
    ] {
        let distance = distance(form);
        assert!(distance > 2.0 * bar, "{mistake}: {distance:e}");
    }
}
