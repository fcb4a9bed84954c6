//! The start: the model as the plan wants it, or as it stood; all ranks with the same.

use std::path::Path;

use models::{Clip, ClipConfig, VisionConfig};
use serde_json::{Value, json};
use stage::{Change, Context, Error, Preprocess, Result, ResultExt};

use super::keeper::Keeper;
use super::pretrained::{followed, overridden, pretrained};
use super::{CACHE_BYTES, Job, Run};
use crate::adamw::Constants;
use crate::data::Input;
use crate::joint::Division;
use crate::lock::Locks;
use crate::memory;
use crate::meter::Meter;
use crate::metrics::Metrics;
use crate::plan::{Precision, Settings};
use crate::ranks::Ranks;
use crate::state::{self, Cursor};
use crate::trainer::{Choices, Trainer};

impl<'a> Run<'a> {
    /// Makes the model, or finds it where it stood.
    pub(super) fn start(
        job: &mut Job<'a>,
        work_dir: Option<&Path>,
        cx: &'a Context,
    ) -> Result<Self> {
        let (plan, world) = (job.plan, job.ranks.size());
        let settings = plan.resolve(job.data.len(), world, cx.seed)?;
        let config = model_config(&settings)?;
        let locks = Locks { image: settings.lock_image, text: settings.lock_text };
        locks.check(&config)?;
        let available = memory::available();
        // Of a GPU the driver knows, and says so.
        let here = cx.device == stage::Device::Cpu;
        if let (true, Some(available)) = (plan.check_memory && here, available) {
            memory::check(&config, &settings, available)?;
        }
        // Half of what the training leaves may keep decoded samples.
        let needed = memory::Estimate::of(&config, &settings).total();
        let rest = available.map_or(u64::MAX, |bytes| bytes.saturating_sub(needed) / 2);
        let cache_bytes = CACHE_BYTES.min(cx.memory / 2).min(rest) as usize;
        let mut identity = json!({
            "settings": settings.identity(),
            "model": config.to_json(),
            "pretrained": plan.pretrained.is_some(),
            "data": job.data.fingerprint(),
            "samples": job.data.len(),
        });
        if !settings.train_data_upsampling_factors.is_empty() {
            identity["sources"] = json!(job.sources);
        }
        let sources = weighed(&settings, &job.sources, job.data.len())?;
        agree(&identity, &mut *job.ranks)?;

        let changes: Vec<Change> = settings
            .idle_channels
            .map(|ratio| Change::IdleChannels { ratio })
            .into_iter()
            .collect();
        let choices = Choices {
            constants: Constants {
                beta1: settings.beta1,
                beta2: settings.beta2,
                eps: settings.eps,
                wd: settings.wd,
            },
            schedule: settings.schedule(),
            grad_clip_norm: settings.grad_clip_norm,
            locks,
            noise: Some(seed_for(&settings, "train/noise")),
            recompute: settings.grad_checkpointing,
            products: settings.precision.products().unwrap_or_default(),
            division: Division {
                local_loss: settings.local_loss,
                gather_with_grad: settings.gather_with_grad,
            },
        };
        let device = models::device(cx.device)?;
        let (clip, preprocess) = match &job.pretrained {
            // The others take rank 0's.
            Some(path) if work_dir.is_some() => {
                pretrained(path, &settings, &config, &changes, &device)?
            }
            _ => {
                let seed = seed_for(&settings, "train/init");
                (Clip::init(&config, &changes, seed, &device)?, Preprocess::default())
            }
        };
        let preprocess = followed(overridden(preprocess, &settings))?;
        let preprocess = of_first(&preprocess, &mut *job.ranks)?;
        let rule = settings.wd_rule;
        let mut trainer = Trainer::new(clip, choices, |name, dims| rule.decays(name, dims))?;
        let meter = Meter::new(&config, choices.locks, &device);

        if preprocess != Preprocess::default() {
            identity["preprocess"] = json!(preprocess);
        }
        let mut cursor = Cursor { identity: identity.to_string(), ..Cursor::default() };
        let (mut resumed_at, mut notes, mut keeper) = (None, Vec::new(), None);
        if let Some(work_dir) = work_dir {
            let found = Keeper::find(work_dir, &cursor.identity)?;
            notes = found.1;
            let other = plan.resume.as_deref().filter(|resume| *resume != "latest");
            let saved = match (found.0, other) {
                (Some(saved), _) => Some(saved),
                (None, Some(path)) => Some(from_another(Path::new(path), &preprocess)?),
                (None, None) => None,
            };
            if let Some(saved) = saved {
                saved.restore(&mut trainer)?;
                cursor = Cursor { identity: cursor.identity, ..saved.cursor };
                resumed_at = Some(cursor.step);
            }
            if cursor.step > settings.steps {
                return Err(Error::recipe(format!(
                    "the state has {} steps, the training {}",
                    cursor.step, settings.steps
                ))
                .hint("raise epochs or steps"));
            }
            let metrics = Metrics::open(work_dir, &cursor)?;
            let mut open = Keeper::open(work_dir, metrics, resumed_at)?;
            open.params(&params(&settings, &trainer, &preprocess)?)?;
            for note in &notes {
                open.log(note)?;
            }
            if settings.precision == Precision::Amp {
                open.log(
                    "precision amp: products of bf16 factors as with amp_bf16, and no scaled loss",
                )?;
            }
            keeper = Some(open);
        }
        let told = serde_json::to_vec(&cursor).internal("cursor")?;
        let first = job.ranks.gather(&told)?.swap_remove(0);
        if keeper.is_none() {
            cursor = serde_json::from_slice(&first).internal("cursor of rank 0")?;
        }
        trainer.take_from_first(&mut *job.ranks)?;
        let input = Input {
            image_size: config.image_size(),
            context_length: config.context_length(),
            preprocess,
            aug_scale: settings.aug_scale,
            seed: seed_for(&settings, "train/order"),
            resampled: settings.dataset_resampled,
            sources,
            steps_per_pass: settings.steps_per_pass,
            rank: (job.ranks.rank(), world),
            batch_size: settings.batch_size,
            accum_freq: settings.accum_freq,
            cache_bytes,
            threads: cx.threads,
            device,
        };
        let last_good = None;
        Ok(Self {
            plan,
            settings,
            trainer,
            input,
            cursor,
            meter,
            cx,
            keeper,
            last_good,
            resumed_at,
            notes,
            stopped: false,
        })
    }
}

/// Another training's state: its numbers and where it stood; its lines stay with it.
fn from_another(path: &Path, pictures: &Preprocess) -> Result<state::Saved> {
    let mut saved = state::open(path)?;
    let identity: Value = serde_json::from_str(&saved.cursor.identity).unwrap_or_default();
    let theirs = identity.get("preprocess").cloned().unwrap_or(json!(Preprocess::default()));
    if serde_json::from_value::<Preprocess>(theirs.clone()).ok().as_ref() != Some(pictures) {
        let ours = json!(pictures);
        return Err(Error::model(format!(
            "the state's pictures were prepared as {theirs}, here {ours}"
        ))
        .hint("give the `pretrained` that the state's training began with")
        .at(path.display()));
    }
    saved.cursor = Cursor {
        step: saved.cursor.step,
        began: saved.cursor.step,
        updates: saved.cursor.updates,
        last_epoch_loss: saved.cursor.last_epoch_loss,
        ..Cursor::default()
    };
    Ok(saved)
}

/// The samples of each source with its factor; none where all samples are drawn alike.
fn weighed(settings: &Settings, sources: &[u64], samples: usize) -> Result<Vec<(u64, f64)>> {
    let factors = &settings.train_data_upsampling_factors;
    if factors.is_empty() {
        return Ok(Vec::new());
    }
    if factors.len() != sources.len() || sources.iter().sum::<u64>() != samples as u64 {
        return Err(Error::recipe(format!(
            "{} train_data_upsampling_factors for {} sources of data",
            factors.len(),
            sources.len()
        ))
        .hint("give one factor for each entry of `data` and each part between `::`"));
    }
    let all: Vec<(u64, f64)> = sources.iter().copied().zip(factors.iter().copied()).collect();
    if all.iter().all(|(samples, factor)| *samples == 0 || *factor == 0.0) {
        return Err(Error::recipe("train_data_upsampling_factors leave no sample to draw"));
    }
    Ok(all)
}

/// How rank 0 prepares pictures, which has seen the checkpoint that says so.
fn of_first(own: &Preprocess, ranks: &mut dyn Ranks) -> Result<Preprocess> {
    let told = serde_json::to_vec(own).internal("preprocessing")?;
    let first = ranks.gather(&told)?.swap_remove(0);
    serde_json::from_slice(&first).internal("preprocessing of rank 0")
}

/// Refuses to train when ranks have other plans or other data.
fn agree(identity: &Value, ranks: &mut dyn Ranks) -> Result<()> {
    let all = ranks.gather(identity.to_string().as_bytes())?;
    let first: Value = serde_json::from_slice(&all[0]).internal("identity of rank 0")?;
    for (rank, other) in all.iter().enumerate().skip(1) {
        let other: Value = serde_json::from_slice(other).internal("identity of a rank")?;
        let fields = state::differences("", &first, &other);
        if !fields.is_empty() {
            return Err(Error::conflict(format!(
                "rank {rank} has another training than rank 0: {}",
                fields.join("; ")
            ))
            .hint("give every rank the same recipe and the same data"));
        }
    }
    Ok(())
}

/// A seed for one purpose. It does not depend on the stage's name, so that trainings of one recipe
/// that should differ in their data alone do.
pub(super) fn seed_for(settings: &Settings, purpose: &str) -> u64 {
    Context { seed: settings.seed, ..Context::default() }.seed_for(purpose)
}

/// The model's configuration with the plan's overrides.
fn model_config(settings: &Settings) -> Result<ClipConfig> {
    let mut config = ClipConfig::named(&settings.model)?;
    config.quick_gelu |= settings.force_quick_gelu;
    if let Some(length) = settings.context_length {
        config.text.context_length = length;
    }
    if let Some(side) = settings.force_image_size {
        config = config.with_image_size(side as usize).map_err(|e| e.at("force_image_size"))?;
    }
    if let Some(share) = settings.force_patch_dropout {
        let VisionConfig::Vit(vit) = &mut config.vision else {
            return Err(Error::recipe("force_patch_dropout needs a plain ViT")
                .hint("leave it out: a ViTamin has no patches that can be left out"));
        };
        vit.patch_dropout = share;
    }
    config.check_tokenizer(0).map_err(|e| e.at(&settings.model))?;
    let vocabulary = config.text.vocab_size;
    if vocabulary < CLIP_TOKENS {
        return Err(Error::recipe(format!(
            "model {} has {vocabulary} token embeddings, the clip tokenizer {CLIP_TOKENS} tokens",
            settings.model
        ))
        .hint("set text_cfg.vocab_size to 49408"));
    }
    Ok(config)
}

const CLIP_TOKENS: usize = 49_408;

/// The name, or of a path the file's name without `.json`: outputs name no folder of this machine.
pub(super) fn model_name(model: &str) -> String {
    let stem = model.strip_suffix(".json").and_then(|path| path.rsplit(['/', '\\']).next());
    stem.unwrap_or(model).to_owned()
}

/// `key: value` lines as open_clip's `params.txt`, sorted by name.
pub(super) fn params(
    settings: &Settings,
    trainer: &Trainer,
    pictures: &Preprocess,
) -> Result<String> {
    let Value::Object(mut fields) = serde_json::to_value(settings).internal("params.txt")? else {
        return Err(Error::internal("settings are no object"));
    };
    fields.insert("model".to_owned(), json!(model_name(&settings.model)));
    fields.insert("parameters".to_owned(), json!(trainer.clip.config().parameters()));
    let trained = trainer.trained().values().map(|var| var.elem_count() as u64).sum::<u64>();
    fields.insert("trained_parameters".to_owned(), json!(trained));
    fields.insert("precision".to_owned(), json!(settings.precision.name()));
    fields.entry("force_image_size").or_insert(Value::Null);
    if *pictures != Preprocess::default() {
        fields.insert("image_mean".to_owned(), json!(pictures.mean));
        fields.insert("image_std".to_owned(), json!(pictures.std));
        fields.insert("image_interpolation".to_owned(), json!(pictures.interpolation));
        fields.insert("image_resize_mode".to_owned(), json!(pictures.resize_mode));
    }
    let line = |(name, value): (String, Value)| match value {
        Value::Null => format!("{name}: None\n"),
        Value::String(text) => format!("{name}: {text}\n"),
        other => format!("{name}: {other}\n"),
    };
    let mut fields: Vec<_> = fields.into_iter().collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(fields.into_iter().map(line).collect())
}
