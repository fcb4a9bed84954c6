//! The training loop: data in order, a step, a line, a saved state; after a kill, on from there.
//!
//! On several ranks every process runs this loop over its own samples. Rank 0 alone keeps files.

mod epoch;
mod finish;
mod keeper;
mod lines;
mod pretrained;
mod start;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use models::Clip;
use serde::Serialize;
use serde_json::{Map, Value};
use stage::{Checkpoint, Context, Counts, Error, PairSource, Preprocess, Result, ResultExt};
use store::Attempt;

use self::keeper::Keeper;
use crate::data::{Input, Loaded, Loader};
use crate::meter::Meter;
use crate::plan::{Settings, TrainPlan};
use crate::ranks::{Alone, Ranks};
use crate::state::Cursor;
use crate::trainer::{Step, Trainer};

/// Called after an epoch with the model, how its pictures become pixels, and the number of epochs
/// done, where [`TrainPlan::zeroshot_frequency`] asks for it; what it measured goes into
/// `results.jsonl`. It must not change the model. A training that goes on after a kill does not call it again for epochs
/// whose row was saved.
pub type OnEpoch<'a> = dyn FnMut(&Clip, &Preprocess, u64) -> Result<Map<String, Value>> + 'a;

/// What a training works on.
pub struct Job<'a> {
    /// What the recipe says.
    pub plan: &'a TrainPlan,
    /// The samples.
    pub data: &'a dyn PairSource,
    /// Samples of each source that `data` is put together of, in their order: what
    /// [`TrainPlan::train_data_upsampling_factors`] are of. Not looked at without those.
    pub sources: Vec<u64>,
    /// Pairs to validate on.
    pub validation: Option<&'a dyn PairSource>,
    /// The weights to start from: [`TrainPlan::pretrained`] as a path.
    pub pretrained: Option<PathBuf>,
    /// The other ranks.
    pub ranks: Box<dyn Ranks>,
    /// Further measurements.
    pub on_epoch: Option<Box<OnEpoch<'a>>>,
}

impl<'a> Job<'a> {
    /// A training in one process, that measures nothing on the way.
    #[must_use]
    pub fn new(plan: &'a TrainPlan, data: &'a dyn PairSource) -> Self {
        let pretrained = plan.pretrained.as_ref().map(PathBuf::from);
        let ranks = Box::new(Alone);
        let sources = vec![data.len() as u64];
        Self { plan, data, sources, validation: None, pretrained, ranks, on_epoch: None }
    }
}

/// What a training gave. Times are of this process only; `steps` is of the whole training.
#[derive(Debug, Clone, Serialize)]
pub struct TrainOutcome {
    /// The trained model; its weights lie beside it in the attempt's folder.
    pub checkpoint: Checkpoint,
    /// Samples of the source, less those found broken.
    pub counts: Counts,
    /// Optimiser steps, skipped ones included.
    pub steps: u64,
    /// Samples seen by all ranks, repetitions included.
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
    /// Samples a second of all ranks.
    pub samples_per_second: f64,
}

/// Steps decoded ahead of the model.
const AHEAD: usize = 2;
/// Bytes of decoded samples kept in memory: sources of a few thousand small pictures fit.
const CACHE_BYTES: u64 = 1 << 30;
/// Steps in a row that may be skipped.
const BAD_STEPS: u64 = 3;

/// Trains and writes the checkpoint, `metrics.jsonl`, `results.jsonl` and `params.txt` into `out`.
///
/// `work_dir` keeps the saved states, and the logs for people. Run again with the same plan, data and
/// folder after a stop at any moment, it ends with the same bytes as an undisturbed run (on the CPU,
/// with the same number of ranks).
///
/// # Errors
/// [`stage::Kind::Recipe`] for a bad plan; [`stage::Kind::Input`] for too little or unreadable
/// data; [`stage::Kind::Conflict`] when `work_dir` holds another training's state;
/// [`stage::Kind::Memory`] when it will not fit; [`stage::Kind::Model`] after three steps in a row
/// without a finite loss; [`stage::Kind::Network`] when another rank is gone;
/// [`stage::Kind::Interrupted`] when asked to stop, with the state saved.
pub fn run(job: Job<'_>, work_dir: &Path, out: &mut Attempt, cx: &Context) -> Result<TrainOutcome> {
    let data = job.data;
    let began = Instant::now();
    let run = trained(job, Some(work_dir), cx)?;
    run.finish(data, work_dir, out, began.elapsed())
}

/// Trains as a rank other than the first, which writes what this one learned.
///
/// # Errors
/// As [`run`].
pub fn follow(job: Job<'_>, cx: &Context) -> Result<()> {
    trained(job, None, cx).map(drop)
}

fn trained<'a>(mut job: Job<'a>, work_dir: Option<&Path>, cx: &'a Context) -> Result<Run<'a>> {
    let started = Run::start(&mut job, work_dir, cx);
    let mut run = match started {
        Ok(run) => run,
        Err(error) => {
            job.ranks.leave(Some(&error));
            return Err(error);
        }
    };
    let result = run.all_steps(&mut job);
    // A stop that all agreed on is no failure.
    let failed = result.as_ref().err().filter(|_| !run.stopped);
    job.ranks.leave(failed);
    result.map(|()| run)
}

/// A training under way.
struct Run<'a> {
    plan: &'a TrainPlan,
    settings: Settings,
    trainer: Trainer,
    input: Input,
    cursor: Cursor,
    meter: Meter,
    cx: &'a Context,
    /// What rank 0 writes.
    keeper: Option<Keeper>,
    /// The cursor before the first of the bad steps in a row.
    last_good: Option<Cursor>,
    resumed_at: Option<u64>,
    notes: Vec<String>,
    /// Whether all ranks agreed to stop.
    stopped: bool,
}

impl Run<'_> {
    fn all_steps(&mut self, job: &mut Job<'_>) -> Result<()> {
        let (first, steps) = (self.cursor.step, self.settings.steps);
        let mut loader = Loader::new(job.data, self.input.clone())?;
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
            self.go(&receive, job)
        })
    }

    fn go(&mut self, receive: &Receiver<Result<Loaded>>, job: &mut Job<'_>) -> Result<()> {
        while self.cursor.step < self.settings.steps {
            let waiting = Instant::now();
            let loaded = self.next(receive)?;
            let waited = waiting.elapsed();
            if !self.together(loaded.as_ref(), &mut *job.ranks)? {
                self.save()?;
                self.stopped = true;
                return Err(Error::interrupted());
            }
            let Some(loaded) = loaded else { return Err(Error::interrupted()) };
            let (input, micro) = (&self.input, &loaded.micro);
            let batch = |i: usize| micro[i].batch(input);
            let number = self.cursor.step;
            let step = self.trainer.step_among(number, micro.len(), &batch, &mut *job.ranks)?;
            self.record(&step, &loaded, waited, waiting.elapsed(), &mut *job.ranks)?;
            self.close_epoch(job)?;
            let done = self.cursor.step;
            if done.is_multiple_of(self.plan.save_every) || done == self.settings.steps {
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

    /// Whether all ranks go on, and what each found broken.
    fn together(&mut self, loaded: Option<&Loaded>, ranks: &mut dyn Ranks) -> Result<bool> {
        let own = loaded.map(|loaded| &loaded.broken);
        let told = serde_json::to_vec(&own).internal("broken samples")?;
        let all = ranks.gather(&told)?;
        let mut go_on = true;
        for told in all {
            let broken: Option<Vec<(u64, String)>> =
                serde_json::from_slice(&told).internal("broken samples of a rank")?;
            match broken {
                Some(broken) => self.cursor.broken.extend(broken),
                None => go_on = false,
            }
        }
        Ok(go_on)
    }

    /// Counts the step, writes its lines, and gives up after too many bad ones.
    fn record(
        &mut self,
        step: &Step,
        loaded: &Loaded,
        waited: Duration,
        took: Duration,
        ranks: &mut dyn Ranks,
    ) -> Result<()> {
        if step.skipped.is_some() && self.cursor.bad_in_a_row == 0 {
            let mut good = self.cursor.clone();
            if let Some(keeper) = &mut self.keeper {
                keeper.metrics.mark(&mut good)?;
            }
            self.last_good = Some(good);
        }
        let mut uids = Vec::new();
        if step.skipped.is_some() {
            let own: Vec<&String> = loaded.micro.iter().flat_map(|rows| &rows.uids).collect();
            let own = serde_json::to_vec(&own).internal("uids")?;
            for told in ranks.gather(&own)? {
                let told: Vec<String> = serde_json::from_slice(&told).internal("uids of a rank")?;
                uids.extend(told);
            }
        }
        let number = self.cursor.step;
        self.cursor.step += 1;
        self.cursor.updates = self.trainer.optimizer.steps();
        if step.skipped.is_some() {
            self.cursor.skipped += 1;
            self.cursor.bad_in_a_row += 1;
        } else {
            self.cursor.bad_in_a_row = 0;
            self.last_good = None;
            self.cursor.loss_sum += f64::from(step.loss);
            self.cursor.loss_count += 1;
        }
        let captions = loaded.micro.iter().flat_map(crate::data::Rows::caption_lengths);
        let reading = self.meter.step(captions, waited, took);
        let (settings, mean) = (&self.settings, self.cursor.mean_loss());
        if let Some(keeper) = &mut self.keeper {
            keeper.metrics.push(number, step, uids.iter().map(String::as_str))?;
            keeper.step(
                settings,
                self.plan.log_every_n_steps,
                number,
                step,
                mean,
                &reading,
                &self.meter,
            )?;
            let note = keeper::live(step, &reading, settings.world_size);
            self.cx.progress.update(number + 1, settings.steps, &note);
        }
        match step.skipped {
            Some(reason) if self.cursor.bad_in_a_row >= BAD_STEPS => self.give_up(reason),
            _ => Ok(()),
        }
    }

    fn give_up(&mut self, reason: &str) -> Result<()> {
        let step = self.cursor.step;
        let error = Error::model(format!("{reason} in {BAD_STEPS} steps in a row")).at(format!(
            "steps {} to {}",
            step - BAD_STEPS,
            step - 1
        ));
        let (Some(keeper), Some(good)) = (&self.keeper, self.last_good.take()) else {
            return Err(error);
        };
        // Skipped steps change no number, so weights and moments are still those of the last good
        // step; only the cursor has to go back.
        keeper.save_state(&self.trainer, &good)?;
        Err(error.hint(format!(
            "lower lr or set grad_clip_norm; {} names the samples, and the state before them is kept",
            keeper.metrics_file().display()
        )))
    }

    fn save(&mut self) -> Result<()> {
        let Some(keeper) = &mut self.keeper else { return Ok(()) };
        keeper.metrics.mark(&mut self.cursor)?;
        keeper.save_state(&self.trainer, &self.cursor)
    }
}
