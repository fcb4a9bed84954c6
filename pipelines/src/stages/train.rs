//! `train`: shards to a checkpoint, in one unit that saves its own state as it goes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use eval::{Bench, EvalPlan};
use models::Clip;
use serde_json::{Map, Value, json};
use stage::{Context, Error, PairSource, Preprocess, Result};
use store::Attempt;
use train::ranks::environment::Seat;
use train::ranks::{Alone, Ranks};
use train::{Job, TrainPlan};

use super::{
    Outcome, Site, Stage, Worker, checkpoint, eval as eval_stage, fingerprint, ranks, shards,
};
use crate::recipe::Noun;

impl Stage for TrainPlan {
    fn validate(&self) -> Result<()> {
        Self::validate(self)?;
        evaluation(self).map(drop)
    }

    /// 2: JPEGs are decoded to libjpeg-turbo's pixels.
    fn code(&self) -> u32 {
        2
    }

    fn references(&self) -> Vec<(String, Noun)> {
        self.pretrained.iter().map(|name| (name.clone(), Noun::Checkpoint)).collect()
    }

    /// Saving and logging more often changes no weight. What lies in files is known by their
    /// fingerprints, a stage's checkpoint by its key.
    fn identity(&self) -> Value {
        let mut plan = serde_json::to_value(self).unwrap_or_default();
        if let Some(plan) = plan.as_object_mut() {
            for field in train::plan::WITHOUT_EFFECT {
                plan.remove(field);
            }
            for field in ["data", "val_data", "pretrained", "resume"] {
                plan.remove(field);
            }
            // 2: what the weights' configuration says of pictures is followed.
            if self.pretrained.is_some() {
                plan.insert("start".to_owned(), json!(2));
            }
        }
        plan
    }

    fn external(&self, context: &Context) -> Result<Value> {
        let mut all = Map::new();
        if !self.data.is_empty() {
            all.insert("data".to_owned(), fingerprint(&shards::tars(&self.data)?)?);
        }
        if !self.val_data.is_empty() {
            all.insert("val_data".to_owned(), fingerprint(&shards::tars(&self.val_data)?)?);
        }
        if let Some(path) = &self.pretrained {
            let file = checkpoint::fingerprints(std::iter::once(path.as_str()))?;
            all.insert("pretrained".to_owned(), file);
        }
        if let Some(path) = self.resume.as_ref().filter(|resume| *resume != "latest") {
            all.insert("resume".to_owned(), fingerprint(std::slice::from_ref(path))?);
        }
        if let Some(plan) = evaluation(self)? {
            all.insert("evaluation".to_owned(), plan.external(context)?);
        }
        Ok(if all.is_empty() { Value::Null } else { Value::Object(all) })
    }

    fn worker<'a>(&'a self, site: &'a Site) -> Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(Train { plan: self, site }))
    }
}

/// The evaluation that a plan asks for while training.
fn evaluation(plan: &TrainPlan) -> Result<Option<EvalPlan>> {
    let Some(value) = &plan.evaluation else { return Ok(None) };
    let evaluation: EvalPlan = serde_json::from_value(value.clone()).map_err(|e| {
        Error::recipe("evaluation is no plan of an eval stage")
            .because(e)
            .hint("see `eval` in docs/recipes.md")
    })?;
    Stage::validate(&evaluation).map_err(|e| e.at("evaluation"))?;
    Ok(Some(evaluation))
}

struct Train<'a> {
    plan: &'a TrainPlan,
    site: &'a Site,
}

impl Worker for Train<'_> {
    fn units(&self) -> Vec<String> {
        vec!["run".to_owned()]
    }

    fn run(&mut self, _unit: &str, out: &mut Attempt) -> Result<Outcome> {
        let work = self.site.dir.work_dir()?;
        let measured = work.join("evaluation");
        let context = &self.site.context;
        let sources = Sources::open(self.plan, self.site)?;
        let seat = Seat::from_process()?;
        let context = &of_rank(context, seat.as_ref());
        let met: Box<dyn Ranks> = match seat {
            None => Box::new(Alone),
            Some(seat) => {
                let mut met = ranks::meet(&seat, &self.site.id, false, &context.cancel)?;
                ranks::say(&mut met, self.site)?;
                train::ranks::with_gpus(met, context)?
            }
        };
        let mut job = sources.job(self.plan, met);
        if let Some(plan) = evaluation(self.plan)? {
            job.on_epoch = Some(Box::new(move |clip: &Clip, pictures: &Preprocess, _epoch| {
                measure(clip, pictures, &plan, &measured, context).map_err(|e| e.at("evaluation"))
            }));
        }
        let outcome = train::run(job, &work, out, context)?;
        let info = json!({
            "steps": outcome.steps,
            "samples_seen": outcome.samples_seen,
            "loss": outcome.loss,
            "skipped_steps": outcome.skipped_steps,
            "resumed_at": outcome.resumed_at,
            "notes": outcome.notes,
            "data_share": outcome.data_share,
            "samples_per_second": outcome.samples_per_second,
        });
        Ok(Outcome { counts: outcome.counts, info })
    }
}

/// What a rank other than the first trains with.
pub(crate) struct Follower<'a> {
    pub(crate) plan: &'a TrainPlan,
    /// The stage's id.
    pub(crate) id: &'a str,
    pub(crate) seat: &'a Seat,
    pub(crate) context: &'a Context,
    /// Whether rank 0 makes what the training takes first, however long that is.
    pub(crate) waits: bool,
    /// Looks at what the training takes as it lies there now.
    pub(crate) look: &'a dyn Fn() -> Result<Site>,
}

impl Follower<'_> {
    /// Takes part: nothing is written.
    ///
    /// # Errors
    /// As [`train::follow`], and when this rank does not see what rank 0 made.
    pub(crate) fn train(&self) -> Result<()> {
        let cancel = &self.context.cancel;
        let mut met = ranks::meet(self.seat, self.id, self.waits, cancel)?;
        let seen = ranks::see(&mut met, self.look, cancel);
        let sources = match seen.and_then(|site| Sources::open(self.plan, &site)) {
            Ok(sources) => sources,
            Err(error) => {
                met.leave(Some(&error));
                return Err(error);
            }
        };
        let context = of_rank(self.context, Some(self.seat));
        let met = train::ranks::with_gpus(met, &context)?;
        train::follow(sources.job(self.plan, met), &context)
    }
}

/// Each rank of a machine has a GPU of its own.
fn of_rank(context: &Context, seat: Option<&Seat>) -> Context {
    let local_rank = seat.map_or(0, |seat| seat.local_rank);
    Context { device: context.device.of_rank(local_rank), ..context.clone() }
}

/// What a training reads.
struct Sources {
    data: shard::Shards,
    /// Samples of each source, where they are drawn with factors.
    samples: Vec<u64>,
    validation: Option<shard::Shards>,
    pretrained: Option<PathBuf>,
}

impl Sources {
    fn open(plan: &TrainPlan, site: &Site) -> Result<Self> {
        let mut sources = vec![site.shard_urls()?];
        sources.retain(|tars| !tars.is_empty());
        let parts = plan.data.iter().flat_map(|entry| entry.split("::"));
        for part in parts.filter(|part| !part.is_empty()) {
            sources.push(shards::tars(&[part.to_owned()])?);
        }
        let tars = sources.concat();
        if tars.is_empty() {
            return Err(Error::recipe("nothing to train on")
                .hint("take shards with `from:`, or name them with `data:`"));
        }
        let data = shard::Shards::open(&tars)?;
        if data.is_empty() {
            return Err(Error::input(format!("no sample in {} shards", tars.len())).at(&tars[0]));
        }
        let mut samples = Vec::new();
        if !plan.train_data_upsampling_factors.is_empty() {
            for tars in &sources {
                samples.push(shard::Shards::open(tars)?.len() as u64);
            }
        }
        let validation = match plan.val_data.as_slice() {
            [] => None,
            patterns => Some(shard::Shards::open(&shards::tars(patterns)?)?),
        };
        let pretrained = match &plan.pretrained {
            None => None,
            Some(name) => match site.references.get(name) {
                Some(done) => Some(checkpoint::of(done)?.1),
                None => Some(PathBuf::from(name)),
            },
        };
        Ok(Self { data, samples, validation, pretrained })
    }

    /// The training over these.
    fn job<'a>(&'a self, plan: &'a TrainPlan, ranks: Box<dyn Ranks>) -> Job<'a> {
        Job {
            sources: self.samples.clone(),
            validation: self.validation.as_ref().map(|shards| shards as &dyn PairSource),
            pretrained: self.pretrained.clone(),
            ranks,
            ..Job::new(plan, &self.data)
        }
    }
}

/// Evaluates the model as it stands, by way of a checkpoint in `folder`.
fn measure(
    clip: &Clip,
    pictures: &Preprocess,
    plan: &EvalPlan,
    folder: &Path,
    context: &Context,
) -> Result<Map<String, Value>> {
    let checkpoint = models::write_checkpoint_for(pictures, clip, folder, BTreeMap::default())?;
    let encoder = models::Encoder::open(&checkpoint, folder, plan.batch_size, context)?;
    let mut row = Map::new();
    let open = &eval_stage::open_samples;
    let bench = Bench { encoder: &encoder, open, cx: context, plan };
    for job in plan.jobs()? {
        let result = bench.run(&job)?.result;
        let numbers = result.metrics.into_iter().filter(|(_, value)| value.is_number());
        for (metric, value) in numbers.filter(|(metric, _)| metric != "main_metric") {
            row.insert(format!("{}_{metric}", result.key), value);
        }
    }
    Ok(row)
}
