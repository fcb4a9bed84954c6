//! Names and shapes of all tensors of a model, from its configuration and changes alone.
//!
//! Names are open_clip's (and so OpenAI's). RePaViT's forms extend them inside an image block `b`:
//!
//! | form | tensors in place of `b.ln_2`, `b.mlp.c_fc`, `b.mlp.c_proj` |
//! | --- | --- |
//! | idle channels | `b.mlp.bn_1`, `b.mlp.c_fc`, `b.mlp.bn_2`, `b.mlp.c_proj`; each `bn` with `weight`, `bias`, `running_mean`, `running_var` |
//! | folded | `b.mlp.c_idle.{weight,bias}` (idle path and residual), `b.mlp.c_fc.{weight,bias}` and `b.mlp.c_proj.weight` of the active channels |
//!
//! The names contain `bn`, so that open_clip's rule leaves their gains without weight decay.

use stage::{Change, Error, Result};

use crate::config::{ClipConfig, TextConfig, VisionConfig, VitConfig, VitaminConfig};
use crate::repavit::active_channels;

/// A tensor of the model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shape {
    pub(crate) name: String,
    pub(crate) dims: Vec<usize>,
    pub(crate) role: Role,
}

/// What a tensor is, which decides how it begins and whether it is trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Role {
    /// Begins as this constant.
    Constant(f64),
    /// Begins normal with this standard deviation.
    Normal(f64),
    /// Begins uniform in ± this bound.
    Uniform(f64),
    /// A statistic, not trained; begins as this constant.
    Buffer(f64),
    /// The fixed sines and cosines of a grid of this side, not trained.
    Grid(usize),
}

impl Role {
    /// Whether the tensor is trained.
    pub(crate) fn trained(self) -> bool {
        !matches!(self, Self::Buffer(_) | Self::Grid(_))
    }
}

impl Shape {
    pub(crate) fn elements(&self) -> u64 {
        self.dims.iter().map(|d| *d as u64).product()
    }
}

/// The form of the image tower's FFN.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Ffn {
    /// BatchNorm and idle channels; the first `active` are activated.
    Idle { active: usize },
    /// Folded.
    Folded { active: usize },
}

/// Reads the form of the FFN out of the changes.
pub(crate) fn ffn(config: &ClipConfig, changes: &[Change]) -> Result<Option<Ffn>> {
    if changes.is_empty() {
        return Ok(None);
    }
    let hidden = match &config.vision {
        VisionConfig::Vit(vit) if vit.ls_init_value.is_none() => vit.hidden(),
        _ => {
            return Err(Error::model(format!("the changes {changes:?} need a plain ViT"))
                .hint("RePaViT's FFN has no gate and no layer scale: choose a ViT-* model"));
        }
    };
    match changes {
        [Change::IdleChannels { ratio }] => {
            Ok(Some(Ffn::Idle { active: active_channels(hidden, *ratio)? }))
        }
        [Change::Folded { ratio }] => {
            Ok(Some(Ffn::Folded { active: active_channels(hidden, *ratio)? }))
        }
        several => Err(Error::model(format!(
            "the changes {several:?} do not go together: an FFN has idle channels or is folded"
        ))),
    }
}

/// All tensors, in the order of the forward pass.
pub(crate) fn of(config: &ClipConfig, ffn: Option<Ffn>) -> Vec<Shape> {
    let mut list = List::default();
    match &config.vision {
        VisionConfig::Vit(vit) => list.vit(vit, config.embed_dim, ffn),
        VisionConfig::Vitamin(vitamin) => list.vitamin(vitamin, config.embed_dim),
    }
    list.text(&config.text, text_prefix(config), config.embed_dim);
    list.push("logit_scale", &[], Role::Constant(config.init_logit_scale));
    list.0
}

/// What stands before the names of the text tower.
pub(crate) fn text_prefix(config: &ClipConfig) -> &'static str {
    if config.custom_text { "text." } else { "" }
}

/// `torch.nn.Linear` and `Conv2d`: kaiming_uniform with a = √5, ±1/√fan_in, weights and biases.
fn uniform(fan_in: usize) -> Role {
    Role::Uniform(1.0 / (fan_in as f64).sqrt())
}

/// How the matrices of a block begin.
struct Starts {
    in_proj: Role,
    out_proj: Role,
    c_fc: Role,
    c_proj: Role,
    /// First value of the learned scales of both halves.
    scale: Option<f64>,
}

/// timm's `trunc_normal_(std=.02)`: cut at ±2, a hundred deviations off.
const TIMM: Role = Role::Normal(0.02);

#[derive(Default)]
struct List(Vec<Shape>);

impl List {
    fn vit(&mut self, v: &VitConfig, embed_dim: usize, ffn: Option<Ffn>) {
        let width = v.width as f64;
        let scale = width.powf(-0.5);
        self.push("visual.class_embedding", &[v.width], Role::Normal(scale));
        let positions = if v.fixed_positions { Role::Grid(v.grid()) } else { Role::Normal(scale) };
        self.push("visual.positional_embedding", &[v.patches() + 1, v.width], positions);
        let fan_in = 3 * v.patch_size * v.patch_size;
        let conv = [v.width, 3, v.patch_size, v.patch_size];
        self.push("visual.conv1.weight", &conv, uniform(fan_in));
        if !v.no_ln_pre {
            self.norm("visual.ln_pre", v.width);
        }
        for layer in 0..v.layers {
            // PyTorch's own beginnings: open_clip does not touch the vision blocks.
            let at = format!("visual.transformer.resblocks.{layer}");
            let start = Starts {
                // xavier_uniform of a (3w, w) matrix
                in_proj: Role::Uniform((6.0 / (4.0 * width)).sqrt()),
                out_proj: uniform(v.width),
                c_fc: uniform(v.width),
                c_proj: uniform(v.hidden()),
                scale: v.ls_init_value,
            };
            self.block(&at, v.width, v.hidden(), &start, ffn);
        }
        self.norm("visual.ln_post", v.width);
        self.push("visual.proj", &[v.width, embed_dim], Role::Normal(scale));
    }

    /// timm's names and beginnings (`vitamin.py`, `vision_transformer.py`).
    fn vitamin(&mut self, v: &VitaminConfig, embed_dim: usize) {
        let width = v.width();
        if v.positions {
            self.push("visual.trunk.pos_embed", &[1, v.tokens(), width], TIMM);
        }
        let backbone = "visual.trunk.patch_embed.backbone";
        self.conv(&format!("{backbone}.stem.conv1"), &[v.stem_width, 3, 3, 3]);
        self.norm(&format!("{backbone}.stem.norm1"), v.stem_width);
        self.conv(&format!("{backbone}.stem.conv2"), &[v.stem_width, v.stem_width, 3, 3]);
        for stage in 0..2 {
            for i in 0..v.depths[stage] {
                let out = v.widths[stage];
                let into = match (stage, i) {
                    (0, 0) => v.stem_width,
                    (_, 0) => v.widths[stage - 1],
                    _ => out,
                };
                let at = format!("{backbone}.stages.{stage}.{i}");
                self.mbconv(&at, into, out);
            }
        }
        // timm leaves this convolution with PyTorch's beginnings.
        let fan_in = 9 * v.widths[1];
        let proj = format!("{backbone}.pool.proj");
        self.push(format!("{proj}.weight"), &[width, v.widths[1], 3, 3], uniform(fan_in));
        self.push(format!("{proj}.bias"), &[width], uniform(fan_in));
        self.norm(&format!("{backbone}.pool.norm"), v.widths[1]);
        for layer in 0..v.depths[2] {
            let at = format!("visual.trunk.blocks.{layer}");
            self.norm(&format!("{at}.norm1"), width);
            self.linear(&format!("{at}.attn.qkv"), 3 * width, width);
            self.linear(&format!("{at}.attn.proj"), width, width);
            self.norm(&format!("{at}.norm2"), width);
            self.norm(&format!("{at}.mlp.norm"), width);
            self.linear(&format!("{at}.mlp.w0"), v.hidden(), width);
            self.linear(&format!("{at}.mlp.w1"), v.hidden(), width);
            self.linear(&format!("{at}.mlp.w2"), width, v.hidden());
        }
        self.norm("visual.trunk.fc_norm", width);
        self.push("visual.head.proj.weight", &[embed_dim, width], uniform(width));
    }

    fn mbconv(&mut self, at: &str, into: usize, out: usize) {
        let middle = 4 * out;
        if into != out {
            self.conv(&format!("{at}.shortcut.expand"), &[out, into, 1, 1]);
        }
        self.norm(&format!("{at}.pre_norm"), into);
        self.conv(&format!("{at}.conv1_1x1"), &[middle, into, 1, 1]);
        self.conv(&format!("{at}.conv2_kxk"), &[middle, 1, 3, 3]);
        self.conv(&format!("{at}.conv3_1x1"), &[out, middle, 1, 1]);
    }

    /// A convolution with N(0, 2/fan_out) and no bias at the beginning; a depthwise one has one
    /// input channel a group, so that its fan-out is that of one channel.
    fn conv(&mut self, at: &str, dims: &[usize; 4]) {
        let [out, into, height, width] = *dims;
        let depthwise = into == 1 && out > 1;
        let fan_out = height * width * if depthwise { 1 } else { out };
        let deviation = (2.0 / fan_out as f64).sqrt();
        self.push(format!("{at}.weight"), dims, Role::Normal(deviation));
        self.push(format!("{at}.bias"), &[out], Role::Constant(0.0));
    }

    fn linear(&mut self, at: &str, out: usize, into: usize) {
        self.push(format!("{at}.weight"), &[out, into], TIMM);
        self.push(format!("{at}.bias"), &[out], Role::Constant(0.0));
    }

    fn text(&mut self, t: &TextConfig, prefix: &str, embed_dim: usize) {
        let width = t.width as f64;
        let name = |name: &str| format!("{prefix}{name}");
        let normal = Role::Normal;
        self.push(name("token_embedding.weight"), &[t.vocab_size, t.width], normal(0.02));
        self.push(name("positional_embedding"), &[t.context_length, t.width], normal(0.01));
        let deep = width.powf(-0.5) * (2.0 * t.layers as f64).powf(-0.5);
        for layer in 0..t.layers {
            let start = Starts {
                in_proj: normal(width.powf(-0.5)),
                out_proj: normal(deep),
                c_fc: normal((2.0 * width).powf(-0.5)),
                c_proj: normal(deep),
                scale: None,
            };
            let at = name(&format!("transformer.resblocks.{layer}"));
            self.block(&at, t.width, t.hidden(), &start, None);
        }
        self.norm(&name("ln_final"), t.width);
        self.push(name("text_projection"), &[t.width, embed_dim], normal(width.powf(-0.5)));
    }

    fn push(&mut self, name: impl Into<String>, dims: &[usize], role: Role) {
        self.0.push(Shape { name: name.into(), dims: dims.to_vec(), role });
    }

    fn norm(&mut self, at: &str, width: usize) {
        self.push(format!("{at}.weight"), &[width], Role::Constant(1.0));
        self.push(format!("{at}.bias"), &[width], Role::Constant(0.0));
    }

    fn batch_norm(&mut self, at: &str, width: usize) {
        self.norm(at, width);
        self.push(format!("{at}.running_mean"), &[width], Role::Buffer(0.0));
        self.push(format!("{at}.running_var"), &[width], Role::Buffer(1.0));
    }

    fn block(&mut self, at: &str, w: usize, hidden: usize, start: &Starts, ffn: Option<Ffn>) {
        self.norm(&format!("{at}.ln_1"), w);
        self.push(format!("{at}.attn.in_proj_weight"), &[3 * w, w], start.in_proj);
        self.push(format!("{at}.attn.in_proj_bias"), &[3 * w], Role::Constant(0.0));
        self.push(format!("{at}.attn.out_proj.weight"), &[w, w], start.out_proj);
        self.push(format!("{at}.attn.out_proj.bias"), &[w], Role::Constant(0.0));
        if let Some(value) = start.scale {
            self.push(format!("{at}.ls_1.gamma"), &[w], Role::Constant(value));
            self.push(format!("{at}.ls_2.gamma"), &[w], Role::Constant(value));
        }
        let (fc, proj) = (format!("{at}.mlp.c_fc"), format!("{at}.mlp.c_proj"));
        match ffn {
            None | Some(Ffn::Idle { .. }) => {
                if ffn.is_none() {
                    self.norm(&format!("{at}.ln_2"), w);
                } else {
                    self.batch_norm(&format!("{at}.mlp.bn_1"), w);
                    self.batch_norm(&format!("{at}.mlp.bn_2"), hidden);
                }
                self.push(format!("{fc}.weight"), &[hidden, w], start.c_fc);
                self.push(format!("{fc}.bias"), &[hidden], uniform(w));
                self.push(format!("{proj}.weight"), &[w, hidden], start.c_proj);
                self.push(format!("{proj}.bias"), &[w], uniform(hidden));
            }
            Some(Ffn::Folded { active }) => {
                self.push(format!("{at}.mlp.c_idle.weight"), &[w, w], uniform(w));
                self.push(format!("{at}.mlp.c_idle.bias"), &[w], uniform(w));
                if active > 0 {
                    self.push(format!("{fc}.weight"), &[active, w], start.c_fc);
                    self.push(format!("{fc}.bias"), &[active], uniform(w));
                    self.push(format!("{proj}.weight"), &[w, active], uniform(active));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folded_parameters_equal_the_papers_counters() {
        // systems-compression §4.4: RePa-CLIP's image tower, embed 512.
        for (name, ratio, millions) in [
            ("ViT-B-32", 0.5, 66.579),
            ("ViT-B-32", 0.75, 52.414),
            ("ViT-B-16", 0.5, 64.922),
            ("ViT-B-16", 0.75, 50.757),
        ] {
            let config = ClipConfig::named(name).unwrap();
            let form = ffn(&config, &[Change::Folded { ratio }]).unwrap();
            let image: u64 = of(&config, form)
                .iter()
                .filter(|s| s.name.starts_with("visual."))
                .map(Shape::elements)
                .sum();
            assert!((image as f64 / 1e6 - millions).abs() < 6e-4, "{name} {ratio}: {image}");
        }
    }

    #[test]
    fn two_forms_at_once_are_refused() {
        let config = ClipConfig::named("tiny-32").unwrap();
        let changes = [Change::IdleChannels { ratio: 0.5 }, Change::Folded { ratio: 0.5 }];
        assert!(ffn(&config, &changes).unwrap_err().to_string().contains("do not go together"));
        let wrong = [Change::IdleChannels { ratio: 1.5 }];
        assert!(ffn(&config, &wrong).unwrap_err().to_string().contains("1.5"));
    }
}
