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

use crate::config::ClipConfig;
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
    let hidden = config.vision.hidden();
    match changes {
        [] => Ok(None),
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
    let (v, t) = (&config.vision, &config.text);
    let width = v.width as f64;
    let scale = width.powf(-0.5);
    list.push("visual.class_embedding", &[v.width], Role::Normal(scale));
    list.push("visual.positional_embedding", &[v.patches() + 1, v.width], Role::Normal(scale));
    let fan_in = 3 * v.patch_size * v.patch_size;
    let conv = [v.width, 3, v.patch_size, v.patch_size];
    list.push("visual.conv1.weight", &conv, uniform(fan_in));
    if !v.no_ln_pre {
        list.norm("visual.ln_pre", v.width);
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
        };
        list.block(&at, v.width, v.hidden(), &start, ffn);
    }
    list.norm("visual.ln_post", v.width);
    list.push("visual.proj", &[v.width, config.embed_dim], Role::Normal(scale));

    let width = t.width as f64;
    list.push("token_embedding.weight", &[t.vocab_size, t.width], Role::Normal(0.02));
    list.push("positional_embedding", &[t.context_length, t.width], Role::Normal(0.01));
    let deep = width.powf(-0.5) * (2.0 * t.layers as f64).powf(-0.5);
    for layer in 0..t.layers {
        let at = format!("transformer.resblocks.{layer}");
        let start = Starts {
            in_proj: Role::Normal(width.powf(-0.5)),
            out_proj: Role::Normal(deep),
            c_fc: Role::Normal((2.0 * width).powf(-0.5)),
            c_proj: Role::Normal(deep),
        };
        list.block(&at, t.width, t.hidden(), &start, None);
    }
    list.norm("ln_final", t.width);
    list.push("text_projection", &[t.width, config.embed_dim], Role::Normal(width.powf(-0.5)));
    list.push("logit_scale", &[], Role::Constant(config.init_logit_scale));
    list.0
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
}

#[derive(Default)]
struct List(Vec<Shape>);

impl List {
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
