//! The training loop: data in order, a step, a line, a saved state; after a kill, on from there.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use candle_core::Device;
use models::{Clip, ClipConfig};
use serde::Serialize;
use serde_json::{Map, Value, json};
use stage::{
    Change, Checkpoint, Context, Counts, Error, PairSource, Preprocess, Result, ResultExt,
};
use store::Attempt;

use crate::adamw::{self, Constants};
use crate::data::{Input, Loaded, Loader};
use crate::metrics::{self, Metrics};
use crate::plan::{Settings, TrainPlan};
use crate::state::{self, Cursor};
use crate::trainer::{Step, Trainer};

/// Called after each epoch with the model and the number of steps done; what it measured goes into
/// `results.jsonl`. It must not change the model. A training that goes on after a kill does not
/// call it again for epochs whose row was saved.
pub type OnEpoch<'a> = dyn FnMut(&Clip, u64) -> Result<Map<String, Value>> + 'a;

/// What a training gave. Times are of this process only; `steps` is of the whole training.
#[derive(Debug, Clone, Serialize)]
pub struct TrainOutcome {
    /// The trained model; its weights lie beside it in the attempt's folder.
    pub checkpoint: Checkpoint,
    /// Samples of the source, less those found broken.
    pub counts: Counts,
    /// Optimiser steps, skipped ones included.
    pub steps: u64,
    /// Samples seen, repetitions included.
    pub samples_seen: u64,
    /// Mean loss of the last epoch's steps.
    pub loss: f64,
    /// Steps that changed nothing because loss or gradient was not finite.
    pub skipped_steps: u64,
    /// The step at which this process went on from a saved state.
    pub resumed_at: Option<u64>,
    /// What a person should know: states passed over, for instance.
    pub notes: Vec<String>,
    /// Seconds this process trained.
    pub seconds: f64,
    /// Share of these seconds spent waiting for data.
    pub data_share: f64,
    /// Samples a second in this process.
    pub samples_per_second: f64,
}

/// Steps decoded ahead of the model.
const AHEAD: usize = 2;
/// Bytes of decoded samples kept in memory: sources of a few thousand small pictures fit.
const CACHE_BYTES: u64 = 1 << 30;
/// Steps in a row that may be skipped.
const BAD_STEPS: u64 = 3;

/// Trains `plan` on `data` and writes the checkpoint, `metrics.jsonl`, `results.jsonl` and
/// `params.txt` into `out`.
///
/// `work_dir` keeps the saved states. Run again with the same plan, data and folder after a stop at
/// any moment, it ends with the same bytes as an undisturbed run (on the CPU, with the same number
/// of threads).
///
/// # Errors
/// [`stage::Kind::Recipe`] for a bad plan; [`stage::Kind::Input`] for too little or unreadable
/// data; [`stage::Kind::Conflict`] when `work_dir` holds another training's state;
/// [`stage::Kind::Model`] after three steps in a row without a finite loss;
/// [`stage::Kind::Interrupted`] when asked to stop, with the state saved.
pub fn run(
    plan: &TrainPlan,
    data: &dyn PairSource,
    work_dir: &Path,
    out: &mut Attempt,
    cx: &Context,
    on_epoch: Option<&mut OnEpoch<'_>>,
) -> Result<TrainOutcome> {
    let mut run = Run::start(plan, data, work_dir, cx)?;
    let input = run.input();
    let first = run.cursor.step;
    let steps = run.settings.steps;
    let started = Instant::now();
    let mut loader = Loader::new(data, input)?;
    thread::scope(|scope| {
        let (send, receive) = sync_channel(AHEAD);
        scope.spawn(move || {
            for step in first..steps {
                let loaded = loader.step(step);
                let failed = loaded.is_err();
                // A closed channel means that the loop has stopped.
                if send.send(loaded).is_err() || failed {
                    break;
                }
            }
        });
        run.go(&receive, on_epoch)
    })?;
    run.finish(data, out, started.elapsed())
}

/// A training under way.
struct Run<'a> {
    plan: &'a TrainPlan,
    settings: Settings,
    trainer: Trainer,
    cursor: Cursor,
    metrics: Metrics,
    work_dir: &'a Path,
    cx: &'a Context,
    log: Log,
    /// The cursor before the first of the bad steps in a row.
    last_good: Option<Cursor>,
    resumed_at: Option<u64>,
    notes: Vec<String>,
    waited: Duration,
}

impl<'a> Run<'a> {
    /// Makes the model, or finds it where it stood.
    fn start(
        plan: &'a TrainPlan,
        data: &dyn PairSource,
        work_dir: &'a Path,
        cx: &'a Context,
    ) -> Result<Self> {
        let settings = plan.resolve(data.len(), cx.seed)?;
        let config = model_config(&settings)?;
        let changes: Vec<Change> = settings
            .idle_channels
            .map(|ratio| Change::IdleChannels { ratio })
            .into_iter()
            .collect();
        let clip = Clip::init(&config, &changes, seed_for(&settings, "train/init"), &Device::Cpu)?;
        let constants = Constants {
            beta1: settings.beta1,
            beta2: settings.beta2,
            eps: settings.eps,
            wd: settings.wd,
        };
        let (schedule, clip_norm) = (settings.schedule(), settings.grad_clip_norm);
        let mut trainer = Trainer::new(clip, constants, adamw::decays, schedule, clip_norm);

        fs::create_dir_all(work_dir).store(format!("cannot create {}", work_dir.display()))?;
        // The model is named by its content: a moved JSON is still the same training.
        let same = Settings { model: String::new(), ..settings.clone() };
        let identity = json!({
            "settings": same,
            "model": config.to_json(),
            "data": data.fingerprint(),
            "samples": data.len(),
        })
        .to_string();
        let usable = |cursor: &Cursor| Metrics::check(work_dir, cursor);
        let (saved, notes) = state::load(work_dir, &identity, usable)?;
        let mut cursor = Cursor { identity, ..Cursor::default() };
        let resumed_at = match saved {
            Some(saved) => {
                saved.restore(&mut trainer)?;
                cursor = saved.cursor;
                Some(cursor.step)
            }
            None => None,
        };
        let metrics = Metrics::open(work_dir, &cursor)?;
        let mut log = Log::open(work_dir)?;
        for note in &notes {
            log.line(note)?;
        }
        Ok(Self {
            plan,
            settings,
            trainer,
            cursor,
            metrics,
            work_dir,
            cx,
            log,
            last_good: None,
            resumed_at,
            notes,
            waited: Duration::ZERO,
        })
    }

    fn input(&self) -> Input {
        let config = self.trainer.clip.config();
        Input {
            image_size: config.image_size(),
            context_length: config.context_length(),
            preprocess: Preprocess::default(),
            aug_scale: self.settings.aug_scale,
            seed: seed_for(&self.settings, "train/order"),
            batch_size: self.settings.batch_size,
            accum_freq: self.settings.accum_freq,
            cache_bytes: CACHE_BYTES.min(self.cx.memory / 2) as usize,
            threads: self.cx.threads,
        }
    }

    fn go(
        &mut self,
        receive: &Receiver<Result<Loaded>>,
        mut on_epoch: Option<&mut OnEpoch<'_>>,
    ) -> Result<()> {
        while self.cursor.step < self.settings.steps {
            let waiting = Instant::now();
            let Some(loaded) = self.next(receive)? else {
                self.save()?;
                return Err(Error::interrupted());
            };
            let waited = waiting.elapsed();
            self.waited += waited;
            for (index, reason) in &loaded.broken {
                self.cursor.broken.insert(*index, (*reason).to_owned());
            }
            let step = self.trainer.step(self.cursor.step, &loaded.micro)?;
            self.record(&step, &loaded, waited, waiting.elapsed())?;
            self.close_epoch(&mut on_epoch)?;
            if self.cursor.step.is_multiple_of(self.plan.save_every)
                || self.cursor.step == self.settings.steps
            {
                self.save()?;
            }
        }
        Ok(())
    }

    /// The next step's samples; `None` when asked to stop.
    fn next(&self, receive: &Receiver<Result<Loaded>>) -> Result<Option<Loaded>> {
        loop {
            if self.cx.cancel.is_cancelled() {
                return Ok(None);
            }
            match receive.recv_timeout(Duration::from_millis(100)) {
                Ok(loaded) => return loaded.map(Some),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::internal("the loader stopped before the last step"));
                }
            }
        }
    }

    /// Counts the step, writes its lines, and gives up after too many bad ones.
    fn record(
        &mut self,
        step: &Step,
        loaded: &Loaded,
        waited: Duration,
        took: Duration,
    ) -> Result<()> {
        if step.skipped.is_some() && self.cursor.bad_in_a_row == 0 {
            let mut good = self.cursor.clone();
            self.metrics.mark(&mut good)?;
            self.last_good = Some(good);
        }
        let uids = loaded.micro.iter().flat_map(|batch| &batch.uids).map(String::as_str);
        self.metrics.push(self.cursor.step, step, uids)?;
        self.cursor.step += 1;
        self.cursor.updates = self.trainer.optimizer.steps();
        if let Some(reason) = step.skipped {
            self.cursor.skipped += 1;
            self.cursor.bad_in_a_row += 1;
            self.log.line(&format!("step {}: {reason}, skipped", self.cursor.step - 1))?;
            if self.cursor.bad_in_a_row >= BAD_STEPS {
                return self.give_up(reason);
            }
        } else {
            self.cursor.bad_in_a_row = 0;
            self.last_good = None;
            self.cursor.loss_sum += f64::from(step.loss);
            self.cursor.loss_count += 1;
        }
        let samples = self.settings.global_batch() as f64;
        let speed = samples / took.as_secs_f64().max(1e-9);
        let (done, all) = (self.cursor.step, self.settings.steps);
        let note = format!("loss {:.3}, {speed:.0} samples/s", step.loss);
        self.cx.progress.update(done, all, &note);
        if done.is_multiple_of(self.plan.log_every_n_steps) || done == all {
            let line = self.open_clip_line(step, waited, took, speed);
            self.log.line(&line)?;
        }
        Ok(())
    }

    fn give_up(&mut self, reason: &str) -> Result<()> {
        // Skipped steps change no number, so weights and moments are still those of the last good
        // step; only the cursor has to go back.
        if let Some(good) = self.last_good.take() {
            state::save(self.work_dir, &self.trainer, &good)?;
        }
        let step = self.cursor.step;
        let path = self.work_dir.join(metrics::FILE);
        Err(Error::model(format!("{reason} in {BAD_STEPS} steps in a row"))
            .at(format!("steps {} to {}", step - BAD_STEPS, step - 1))
            .hint(format!(
                "lower lr or set grad_clip_norm; {} names the samples, and the state before them is kept",
                path.display()
            )))
    }

    /// open_clip's log line, which people's scripts read.
    fn open_clip_line(&self, step: &Step, waited: Duration, took: Duration, speed: f64) -> String {
        let per_epoch = self.settings.steps_per_epoch;
        let last = self.cursor.step - 1;
        let global = self.settings.global_batch() as u64;
        let (seen, all) = ((last % per_epoch + 1) * global, per_epoch * global);
        let mean = self.mean_loss();
        format!(
            "Train Epoch: {} [{seen}/{all} ({:.0}%)] Data (t): {:.3} Batch (t): {:.3}, {speed:.1}/s, \
             {speed:.1}/s/gpu LR: {:.6} Logit Scale: {:.3} Contrastive_loss: {:.5} ({mean:.5}) \
             Loss: {:.5} ({mean:.5})",
            last / per_epoch,
            100.0 * seen as f64 / all as f64,
            waited.as_secs_f64(),
            took.as_secs_f64(),
            step.lr,
            step.logit_scale.exp(),
            step.loss,
            step.loss,
        )
    }

    /// At the end of an epoch: evaluation, its row, and a kept checkpoint where the plan asks.
    fn close_epoch(&mut self, on_epoch: &mut Option<&mut OnEpoch<'_>>) -> Result<()> {
        let (done, all) = (self.cursor.step, self.settings.steps);
        let per_epoch = self.settings.steps_per_epoch;
        if !done.is_multiple_of(per_epoch) && done != all {
            return Ok(());
        }
        let epoch = done.div_ceil(per_epoch);
        let mut row = match on_epoch {
            Some(evaluate) => evaluate(&self.trainer.clip, done)?,
            None => Map::new(),
        };
        self.cursor.last_epoch_loss = self.mean_loss();
        (self.cursor.loss_sum, self.cursor.loss_count) = (0.0, 0);
        row.insert("train_loss".to_owned(), json!(self.cursor.last_epoch_loss));
        row.insert("epoch".to_owned(), json!(epoch));
        row.insert("samples_seen".to_owned(), json!(done * self.settings.global_batch() as u64));
        self.cursor.results.push(serde_json::to_string(&row).internal("results row")? + "\n");
        let every = u64::from(self.settings.save_frequency);
        if every > 0 && done.is_multiple_of(per_epoch) && epoch.is_multiple_of(every) {
            let dir = self.work_dir.join("checkpoints");
            fs::create_dir_all(&dir).store(format!("cannot create {}", dir.display()))?;
            let partial = dir.join("partial");
            self.trainer.clip.save(&partial)?;
            let name = format!("epoch_{epoch}.safetensors");
            fs::rename(&partial, dir.join(&name)).store(format!("cannot write {name}"))?;
        }
        Ok(())
    }

    /// Mean loss of the current epoch so far.
    fn mean_loss(&self) -> f64 {
        self.cursor.loss_sum / self.cursor.loss_count.max(1) as f64
    }

    fn save(&mut self) -> Result<()> {
        self.metrics.mark(&mut self.cursor)?;
        state::save(self.work_dir, &self.trainer, &self.cursor)
    }

    /// Writes what the training made.
    fn finish(
        self,
        data: &dyn PairSource,
        out: &mut Attempt,
        took: Duration,
    ) -> Result<TrainOutcome> {
        let samples = data.len() as u64;
        if self.cursor.skipped * 2 > self.settings.steps {
            let (skipped, steps) = (self.cursor.skipped, self.settings.steps);
            let message =
                format!("{skipped} of {steps} steps had no finite loss: nothing was learned");
            return Err(Error::model(message).hint("lower `lr`, or set `grad_clip_norm`"));
        }
        let global = self.settings.global_batch() as u64;
        let lineage = BTreeMap::from([
            ("data".to_owned(), data.fingerprint()),
            ("model".to_owned(), model_name(&self.settings.model)),
            ("seed".to_owned(), self.settings.seed.to_string()),
            ("steps".to_owned(), self.settings.steps.to_string()),
            ("samples_seen".to_owned(), (self.settings.steps * global).to_string()),
        ]);
        let checkpoint = models::write_checkpoint(&self.trainer.clip, out.local_dir(), lineage)?;
        copy(&self.work_dir.join(metrics::FILE), out, metrics::FILE)?;
        out.put("results.jsonl", self.cursor.results.concat().as_bytes())?;
        out.put("params.txt", params(&self.settings, &self.trainer.clip)?.as_bytes())?;
        let every = u64::from(self.settings.save_frequency);
        for epoch in (1..=self.settings.steps / self.settings.steps_per_epoch)
            .filter(|epoch| every > 0 && epoch.is_multiple_of(every))
        {
            let name = format!("checkpoints/epoch_{epoch}.safetensors");
            copy(&self.work_dir.join(&name), out, &name)?;
        }

        let mut counts = Counts { entered: samples, kept: samples, ..Counts::default() };
        for reason in self.cursor.broken.values() {
            counts.kept -= 1;
            *counts.failed.entry(reason.clone()).or_default() += 1;
        }
        let here = self.settings.steps - self.resumed_at.unwrap_or(0);
        let seconds = took.as_secs_f64();
        Ok(TrainOutcome {
            checkpoint,
            counts,
            steps: self.settings.steps,
            samples_seen: self.settings.steps * global,
            loss: self.cursor.last_epoch_loss,
            skipped_steps: self.cursor.skipped,
            resumed_at: self.resumed_at,
            notes: self.notes,
            seconds,
            data_share: self.waited.as_secs_f64() / seconds.max(1e-9),
            samples_per_second: (here * global) as f64 / seconds.max(1e-9),
        })
    }
}

/// A seed for one purpose. It does not depend on the stage's name, so that trainings of one recipe
/// that should differ in their data alone do.
fn seed_for(settings: &Settings, purpose: &str) -> u64 {
    Context { seed: settings.seed, ..Context::default() }.seed_for(purpose)
}

/// The model's configuration with the plan's overrides.
fn model_config(settings: &Settings) -> Result<ClipConfig> {
    let mut config = ClipConfig::named(&settings.model)?;
    if let Some(length) = settings.context_length {
        config.text.context_length = length;
    }
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
fn model_name(model: &str) -> String {
    let stem = model.strip_suffix(".json").and_then(|path| path.rsplit(['/', '\\']).next());
    stem.unwrap_or(model).to_owned()
}

/// `key: value` lines as open_clip's `params.txt`, sorted by name.
fn params(settings: &Settings, clip: &Clip) -> Result<String> {
    let Value::Object(mut fields) = serde_json::to_value(settings).internal("params.txt")? else {
        return Err(Error::internal("settings are no object"));
    };
    fields.insert("model".to_owned(), json!(model_name(&settings.model)));
    fields.insert("parameters".to_owned(), json!(clip.config().parameters()));
    fields.insert("precision".to_owned(), json!("fp32"));
    let sorted: BTreeMap<String, Value> = fields.into_iter().collect();
    let line = |(name, value): (String, Value)| match value {
        Value::Null => format!("{name}: None\n"),
        Value::String(text) => format!("{name}: {text}\n"),
        other => format!("{name}: {other}\n"),
    };
    Ok(sorted.into_iter().map(line).collect())
}

fn copy(from: &Path, out: &mut Attempt, name: &str) -> Result<()> {
    let mut input = File::open(from).store(format!("cannot read {}", from.display()))?;
    let mut file = out.file(name)?;
    std::io::copy(&mut input, &mut file).map_err(store::write_error)?;
    file.finish()
}

/// `out.log` in the work folder: for people, with times, never an output.
struct Log(File);

impl Log {
    fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("out.log");
        let file = OpenOptions::new().create(true).append(true).open(&path);
        file.map(Self).store(format!("cannot open {}", path.display()))
    }

    fn line(&mut self, text: &str) -> Result<()> {
        writeln!(self.0, "{text}").store("cannot append to out.log")
    }
}
