//! Weights to start from: taken only where they mean the same here, with how their pictures were
//! prepared.

use std::path::Path;

use candle_core::Device;
use models::{Clip, ClipConfig, TextConfig, TextPool, VisionConfig};
use stage::{Change, Checkpoint, Error, Preprocess, Result};

use crate::plan::Settings;

/// A checkpoint's weights in the form of this training, and how its pictures become pixels; bare
/// weights say nothing of that, and have OpenAI's way.
///
/// # Errors
/// Tensors of other shapes, by name with both shapes; a model that computes something else with the
/// same tensors, with both values; pictures that cannot be prepared that way here.
pub(super) fn pretrained(
    path: &Path,
    settings: &Settings,
    config: &ClipConfig,
    changes: &[Change],
    device: &Device,
) -> Result<(Clip, Preprocess)> {
    let at = |e: Error| e.at(format!("pretrained {}", path.display()));
    let json = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
    let index = path.to_string_lossy().to_lowercase().ends_with(".index.json");
    let (clip, checkpoint) = if path.is_dir() || (json && !index) {
        let checkpoint = models::read_checkpoint(path).map_err(at)?;
        let base = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
        let clip = models::open(&checkpoint, base, &Device::Cpu).map_err(at)?;
        (clip, Some((checkpoint, base)))
    } else {
        (models::open_weights(path, &settings.model, &Device::Cpu).map_err(at)?, None)
    };
    let theirs = clip.config().clone();
    let clip = match settings.force_image_size {
        // The pictures alone: captions of another length are refused below.
        Some(_) => {
            let mut fit = config.clone();
            fit.text.context_length = clip.config().context_length();
            clip.fitted(&fit).map_err(at)?
        }
        None => clip,
    };
    // Names every tensor that is missing, unknown, or of another shape, with both shapes.
    let clip = Clip::from_tensors(config, changes, clip.params().tensors(), device).map_err(at)?;
    let Some((checkpoint, base)) = checkpoint else { return Ok((clip, Preprocess::default())) };
    same_meaning(&checkpoint, &theirs, config, changes, base).map_err(at)?;
    Ok((clip, checkpoint.preprocess))
}

/// Refuses a model that computes something else with the same tensors.
fn same_meaning(
    checkpoint: &Checkpoint,
    theirs: &ClipConfig,
    ours: &ClipConfig,
    changes: &[Change],
    base: &Path,
) -> Result<()> {
    let (theirs, ours) = (meaning(theirs, &checkpoint.changes), meaning(ours, changes));
    let other: Vec<String> = theirs
        .iter()
        .zip(&ours)
        .filter(|((field, value), (other, own))| field == other && value != own)
        .map(|((field, value), (_, own))| format!("`{field}` {value}, this training's {own}"))
        .collect();
    if other.is_empty() {
        return Ok(());
    }
    let error = Error::model(format!("the checkpoint's model has {}", other.join("; ")));
    let own = base.join("open_clip_config.json");
    Err(error.hint(if own.is_file() {
        format!("train the checkpoint's own model: `model: {}`", own.display())
    } else {
        "write these fields into the JSON of the model to train, and name that with `model`"
            .to_owned()
    }))
}

/// What no tensor's shape shows, by open_clip's names. Not what a training chooses anew (patch
/// dropout, drop path) or what the weights overwrite (first scales).
fn meaning(config: &ClipConfig, changes: &[Change]) -> Vec<(&'static str, String)> {
    let text = &config.text;
    let mut all = vec![
        ("quick_gelu", config.quick_gelu.to_string()),
        ("text_cfg.heads", text.heads.to_string()),
        ("text_cfg.no_causal_mask", text.no_causal_mask.to_string()),
        ("text_cfg.pool_type", pool(text)),
        ("text_cfg.hf_tokenizer_name", text.tokenizer.clone().unwrap_or("null".to_owned())),
    ];
    match &config.vision {
        VisionConfig::Vit(vit) => all.extend([
            ("vision_cfg.head_width", vit.head_width.to_string()),
            ("vision_cfg.no_ln_pre", vit.no_ln_pre.to_string()),
            ("vision_cfg.pool_type", format!("{:?}", vit.pool).to_lowercase()),
            ("vision_cfg.final_ln_after_pool", vit.final_ln_after_pool.to_string()),
            (
                "vision_cfg.pos_embed_type",
                if vit.fixed_positions { "sin_cos_2d" } else { "learnable" }.to_owned(),
            ),
        ]),
        VisionConfig::Vitamin(vitamin) => {
            all.push(("vision_cfg.heads", vitamin.heads.to_string()));
        }
    }
    for change in changes {
        if let Change::IdleChannels { ratio } = change {
            all.push(("idle_channels", ratio.to_string()));
        }
    }
    all
}

/// The pooling of captions. CLIP's end token is the last of its ids, so that the place of that id
/// is the place of the largest.
fn pool(text: &TextConfig) -> String {
    match text.pool {
        TextPool::End(id) if id as usize + 1 != text.vocab_size => format!("eos with eos_id {id}"),
        TextPool::Argmax | TextPool::End(_) => "argmax".to_owned(),
        TextPool::First => "first".to_owned(),
        TextPool::Last => "last".to_owned(),
    }
}

/// With what the plan says of pictures itself.
pub(super) fn overridden(pictures: Preprocess, settings: &Settings) -> Preprocess {
    let interpolation = settings.image_interpolation.clone();
    let resize_mode = settings.image_resize_mode.clone();
    Preprocess {
        mean: settings.image_mean.unwrap_or(pictures.mean),
        std: settings.image_std.unwrap_or(pictures.std),
        interpolation: interpolation.unwrap_or(pictures.interpolation),
        resize_mode: resize_mode.unwrap_or(pictures.resize_mode),
    }
}

/// Refuses a way to prepare pictures that is not here.
///
/// # Errors
/// [`stage::Kind::Model`], naming the field.
pub(super) fn followed(pictures: Preprocess) -> Result<Preprocess> {
    if pictures.interpolation != "bicubic" {
        return Err(Error::model(format!(
            "the pictures of the pretrained model are resized with `{}`, here with bicubic alone",
            pictures.interpolation
        ))
        .hint("set `image_interpolation: bicubic` to go on with bicubic"));
    }
    if !["shortest", "longest", "squash"].contains(&pictures.resize_mode.as_str()) {
        return Err(Error::model(format!(
            "the resize mode of the pretrained model is `{}`, expected shortest, longest or squash",
            pictures.resize_mode
        ))
        .hint("set `image_resize_mode` to one of them"));
    }
    let usable = |value: &f32| value.is_finite();
    if !pictures.mean.iter().all(usable) || !pictures.std.iter().all(|v| usable(v) && *v > 0.0) {
        return Err(Error::model(format!(
            "mean {:?} and standard deviation {:?} of the pretrained model's pictures are no numbers to divide by",
            pictures.mean, pictures.std
        ))
        .hint("set `image_mean` and `image_std`"));
    }
    Ok(pictures)
}
