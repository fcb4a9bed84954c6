//! From the names of other libraries to open_clip's.
//!
//! | source | marks | how it becomes open_clip's |
//! | --- | --- | --- |
//! | open_clip, OpenAI | `visual.`, `transformer.` | as they are; text keys with or without `text.` |
//! | Hugging Face `CLIPModel` | `vision_model.`, `text_model.` | renamed; q, k, v joined; both projections transposed |
//! | timm ViT in open_clip | `visual.trunk.` | renamed where a plain ViT is wanted; leading 1s dropped; the head transposed |
//! | timm ViT alone | `patch_embed.`, `blocks.` | as the trunk above |
//!
//! Names that no rule knows stay as they are, so that the model refuses them by their own name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use candle_core::Tensor;
use stage::{Result, ResultExt};

use crate::weights::Weights;

/// Whose names the tensors of a file have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// open_clip's, which are OpenAI's too.
    OpenClip,
    /// Hugging Face's `CLIPModel`.
    HuggingFace,
    /// open_clip's with an image tower of timm's (`visual.trunk.`).
    TimmTrunk,
    /// A model of timm's alone.
    Timm,
}

impl Names {
    pub(crate) fn detect<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let mut found = Self::OpenClip;
        for name in names {
            if name.starts_with("vision_model.") || name.starts_with("text_model.") {
                return Self::HuggingFace;
            }
            if name.starts_with("visual.trunk.") {
                found = Self::TimmTrunk;
            } else if name.starts_with("patch_embed.") && found == Self::OpenClip {
                found = Self::Timm;
            }
        }
        found
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OpenClip => "open_clip",
            Self::HuggingFace => "Hugging Face CLIP → open_clip",
            Self::TimmTrunk => "open_clip with a timm trunk",
            Self::Timm => "timm",
        })
    }
}

/// How one tensor of the model is made of tensors of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Making {
    from: Vec<String>,
    change: Change,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    As,
    /// (a, b) → (b, a)
    Transposed,
    /// (1, .., a) → (.., a): all leading ones but those of a vector's own.
    Squeezed,
    /// Joined along the first axis.
    Joined,
}

/// The tensors of a file under the names of a model that wants `wanted`, at most `most` numbers.
pub(crate) fn read(
    weights: &Weights,
    wanted: &BTreeSet<&str>,
    most: u64,
) -> Result<BTreeMap<String, Tensor>> {
    weights.fits(weights.names(), most)?;
    let names: Vec<&str> = weights.names().collect();
    let mut tensors = BTreeMap::new();
    for (name, making) in plan(&names, weights.naming(), wanted) {
        let parts =
            making.from.iter().map(|from| weights.tensor(from)).collect::<Result<Vec<_>>>()?;
        let tensor = making.change.apply(&parts).model("cannot rearrange a tensor");
        tensors.insert(name, tensor.map_err(|e| e.at(making.from.join(" + ")))?);
    }
    Ok(tensors)
}

impl Change {
    fn apply(self, parts: &[Tensor]) -> candle_core::Result<Tensor> {
        let [first, ..] = parts else { candle_core::bail!("no tensor") };
        match self {
            Self::Transposed if first.rank() == 2 => first.t()?.contiguous(),
            Self::As | Self::Transposed => Ok(first.clone()),
            Self::Squeezed => {
                let mut tensor = first.clone();
                while tensor.rank() > 1 && tensor.dim(0)? == 1 {
                    tensor = tensor.squeeze(0)?;
                }
                Ok(tensor)
            }
            Self::Joined => Tensor::cat(parts, 0),
        }
    }
}

/// Every tensor of the model's with its making.
fn plan(names: &[&str], naming: Names, wanted: &BTreeSet<&str>) -> BTreeMap<String, Making> {
    let plain_vit = wanted.contains("visual.class_embedding");
    let trunk = wanted.iter().any(|name| name.starts_with("visual.trunk."));
    let under_text = wanted.iter().any(|name| name.starts_with("text."));
    let mut plan: BTreeMap<String, Making> = BTreeMap::new();
    let mut joined: BTreeMap<String, [Option<&str>; 3]> = BTreeMap::new();
    for name in names {
        let (to, change) = match naming {
            Names::HuggingFace => {
                if let Some((to, place)) = hugging_face_part(name) {
                    joined.entry(to).or_default()[place] = Some(name);
                    continue;
                }
                hugging_face(name)
            }
            Names::TimmTrunk if plain_vit => timm(name.strip_prefix("visual.").unwrap_or(name)),
            Names::Timm if plain_vit => timm(&format!("trunk.{name}")),
            Names::Timm if trunk => Some((format!("visual.trunk.{name}"), Change::As)),
            _ => None,
        }
        .unwrap_or_else(|| ((*name).to_owned(), Change::As));
        let to = text_side(&to, under_text);
        plan.insert(to, Making { from: vec![(*name).to_owned()], change });
    }
    for (to, parts) in joined {
        let from: Vec<String> = parts.iter().flatten().map(|name| (*name).to_owned()).collect();
        if from.len() == parts.len() {
            plan.insert(text_side(&to, under_text), Making { from, change: Change::Joined });
        } else {
            // A part alone keeps its name, which the model does not know and will say.
            plan.extend(
                from.into_iter()
                    .map(|name| (name.clone(), Making { from: vec![name], change: Change::As })),
            );
        }
    }
    plan
}

/// First components of the text tower's names.
const TEXT: &[&str] =
    &["token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection"];

/// A name of the text tower with or without `text.`, as the model has it.
fn text_side(name: &str, under_text: bool) -> String {
    let bare = name.strip_prefix("text.").unwrap_or(name);
    let first = bare.split('.').next().unwrap_or(bare);
    if !TEXT.contains(&first) {
        return name.to_owned();
    }
    if under_text { format!("text.{bare}") } else { bare.to_owned() }
}

/// A name of `CLIPModel`'s that stands alone.
fn hugging_face(name: &str) -> Option<(String, Change)> {
    let whole = match name {
        "vision_model.embeddings.class_embedding" => ("visual.class_embedding", Change::Squeezed),
        "vision_model.embeddings.patch_embedding.weight" => ("visual.conv1.weight", Change::As),
        "vision_model.embeddings.position_embedding.weight" => {
            ("visual.positional_embedding", Change::As)
        }
        "visual_projection.weight" => ("visual.proj", Change::Transposed),
        "text_model.embeddings.token_embedding.weight" => ("token_embedding.weight", Change::As),
        "text_model.embeddings.position_embedding.weight" => ("positional_embedding", Change::As),
        "text_projection.weight" => ("text_projection", Change::Transposed),
        _ => ("", Change::As),
    };
    if !whole.0.is_empty() {
        return Some((whole.0.to_owned(), whole.1));
    }
    let (tower, rest) = hugging_face_tower(name)?;
    for (theirs, ours) in [
        // The first name is misspelt in the library.
        ("pre_layrnorm.", "ln_pre."),
        ("post_layernorm.", "ln_post."),
        ("final_layer_norm.", "ln_final."),
    ] {
        if let Some(rest) = rest.strip_prefix(theirs) {
            return Some((format!("{tower}{ours}{rest}"), Change::As));
        }
    }
    let (layer, rest) = rest.strip_prefix("encoder.layers.")?.split_once('.')?;
    for (theirs, ours) in [
        ("self_attn.out_proj.", "attn.out_proj."),
        ("layer_norm1.", "ln_1."),
        ("layer_norm2.", "ln_2."),
        ("mlp.fc1.", "mlp.c_fc."),
        ("mlp.fc2.", "mlp.c_proj."),
    ] {
        if let Some(rest) = rest.strip_prefix(theirs) {
            let to = format!("{tower}transformer.resblocks.{layer}.{ours}{rest}");
            return Some((to, Change::As));
        }
    }
    None
}

/// A third of `in_proj`, and which.
fn hugging_face_part(name: &str) -> Option<(String, usize)> {
    let (tower, rest) = hugging_face_tower(name)?;
    let (layer, rest) = rest.strip_prefix("encoder.layers.")?.split_once('.')?;
    let (letter, kind) = rest.strip_prefix("self_attn.")?.split_once("_proj.")?;
    let place = ["q", "k", "v"].iter().position(|l| *l == letter)?;
    Some((format!("{tower}transformer.resblocks.{layer}.attn.in_proj_{kind}"), place))
}

fn hugging_face_tower(name: &str) -> Option<(&'static str, &str)> {
    let vision = name.strip_prefix("vision_model.").map(|rest| ("visual.", rest));
    vision.or_else(|| name.strip_prefix("text_model.").map(|rest| ("", rest)))
}

/// A name of timm's plain ViT, after `visual.`.
fn timm(name: &str) -> Option<(String, Change)> {
    if matches!(name, "head.proj.weight" | "trunk.head.weight") {
        return Some(("visual.proj".to_owned(), Change::Transposed));
    }
    let name = name.strip_prefix("trunk.")?;
    let whole = match name {
        "cls_token" => ("visual.class_embedding", Change::Squeezed),
        "pos_embed" => ("visual.positional_embedding", Change::Squeezed),
        "patch_embed.proj.weight" => ("visual.conv1.weight", Change::As),
        _ => ("", Change::As),
    };
    if !whole.0.is_empty() {
        return Some((whole.0.to_owned(), whole.1));
    }
    for (theirs, ours) in [("norm_pre.", "ln_pre."), ("norm.", "ln_post.")] {
        if let Some(rest) = name.strip_prefix(theirs) {
            return Some((format!("visual.{ours}{rest}"), Change::As));
        }
    }
    let (layer, rest) = name.strip_prefix("blocks.")?.split_once('.')?;
    for (theirs, ours) in [
        ("norm1.", "ln_1."),
        ("norm2.", "ln_2."),
        ("attn.qkv.", "attn.in_proj_"),
        ("attn.proj.", "attn.out_proj."),
        ("mlp.fc1.", "mlp.c_fc."),
        ("mlp.fc2.", "mlp.c_proj."),
    ] {
        if let Some(rest) = rest.strip_prefix(theirs) {
            let to = format!("visual.transformer.resblocks.{layer}.{ours}{rest}");
            return Some((to, Change::As));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(naming: Names, name: &str, expected: &str) {
        let wanted = BTreeSet::from(["visual.class_embedding", "token_embedding.weight"]);
        let plan = plan(&[name], naming, &wanted);
        assert_eq!(plan.into_keys().collect::<Vec<_>>(), [expected]);
    }

    #[test]
    fn names_of_hugging_face_become_open_clips() {
        let check = |name, expected| check(Names::HuggingFace, name, expected);
        check("vision_model.pre_layrnorm.bias", "visual.ln_pre.bias");
        check("vision_model.post_layernorm.weight", "visual.ln_post.weight");
        check("visual_projection.weight", "visual.proj");
        check(
            "vision_model.encoder.layers.11.mlp.fc1.weight",
            "visual.transformer.resblocks.11.mlp.c_fc.weight",
        );
        check(
            "text_model.encoder.layers.0.self_attn.out_proj.bias",
            "transformer.resblocks.0.attn.out_proj.bias",
        );
        check("text_model.final_layer_norm.weight", "ln_final.weight");
        check("logit_scale", "logit_scale");
        check("vision_model.adapter.weight", "vision_model.adapter.weight");
    }

    #[test]
    fn queries_keys_and_values_are_joined_in_this_order() {
        let names: Vec<String> = ["v", "q", "k"]
            .iter()
            .map(|l| format!("text_model.encoder.layers.3.self_attn.{l}_proj.weight"))
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let whole = plan(&names, Names::HuggingFace, &BTreeSet::new());
        let making = &whole["transformer.resblocks.3.attn.in_proj_weight"];
        assert_eq!(making.change, Change::Joined);
        assert_eq!(making.from, [names[1], names[2], names[0]]);
        // Without the values the two others stay what they are.
        let part = plan(&names[1..], Names::HuggingFace, &BTreeSet::new());
        assert_eq!(part.keys().collect::<Vec<_>>(), [names[2], names[1]]);
    }

    #[test]
    fn names_of_timm_become_open_clips() {
        check(Names::TimmTrunk, "visual.trunk.cls_token", "visual.class_embedding");
        check(Names::TimmTrunk, "visual.head.proj.weight", "visual.proj");
        check(
            Names::TimmTrunk,
            "visual.trunk.blocks.2.attn.qkv.bias",
            "visual.transformer.resblocks.2.attn.in_proj_bias",
        );
        check(Names::TimmTrunk, "text.ln_final.bias", "ln_final.bias");
        check(Names::Timm, "norm_pre.weight", "visual.ln_pre.weight");
        check(Names::Timm, "patch_embed.proj.bias", "patch_embed.proj.bias");
    }

    #[test]
    fn text_keys_stand_where_the_model_has_them() {
        let inside = BTreeSet::from(["text.ln_final.weight", "visual.trunk.pos_embed"]);
        let plan = |name, wanted| plan(&[name], Names::TimmTrunk, wanted).into_keys().next();
        assert_eq!(plan("ln_final.weight", &inside).unwrap(), "text.ln_final.weight");
        assert_eq!(plan("text.ln_final.weight", &inside).unwrap(), "text.ln_final.weight");
        let outside = BTreeSet::from(["ln_final.weight"]);
        assert_eq!(plan("text.text_projection", &outside).unwrap(), "text_projection");
        assert_eq!(plan("visual.trunk.pos_embed", &inside).unwrap(), "visual.trunk.pos_embed");
        assert_eq!(plan("logit_scale", &inside).unwrap(), "logit_scale");
        let alone = super::plan(&["fc_norm.bias"], Names::Timm, &inside);
        assert_eq!(alone.into_keys().collect::<Vec<_>>(), ["visual.trunk.fc_norm.bias"]);
    }

    #[test]
    fn the_source_is_told_by_the_names() {
        let detect = |names: &[&str]| Names::detect(names.iter().copied());
        assert_eq!(detect(&["logit_scale", "visual.proj"]), Names::OpenClip);
        assert_eq!(detect(&["logit_scale", "text_model.x"]), Names::HuggingFace);
        assert_eq!(detect(&["text.ln_final.bias", "visual.trunk.x"]), Names::TimmTrunk);
        assert_eq!(detect(&["blocks.0.norm1.bias", "patch_embed.proj.bias"]), Names::Timm);
    }
}
