//! What rank 0 writes while it trains: the run folder.
//!
//! | in the work folder | what | an output |
//! | --- | --- | --- |
//! | `metrics.jsonl` | a line a step, without clock values | yes |
//! | `params.txt` | `key: value` lines | yes |
//! | `out.log` | open_clip's lines | no: it has times |
//! | `tensorboard/` | event files | no: they have times |
//! | `checkpoints/` | kept epochs, `epoch_latest.safetensors` | the kept epochs |
//! | `state-*.safetensors`, `.json` | the two newest states | no |

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use stage::{Result, ResultExt};

use super::lines::{self, Moment};
use crate::meter::{Meter, Reading, resident};
use crate::metrics::{self, Metrics};
use crate::plan::Settings;
use crate::state::{self, Cursor, Saved, write_whole};
use crate::tensorboard::Events;
use crate::trainer::{Step, Trainer};

pub(super) struct Keeper {
    dir: PathBuf,
    pub(super) metrics: Metrics,
    log: File,
    events: Events,
}

impl Keeper {
    /// The newest state of this training, and a sentence for each that was passed over.
    pub(super) fn find(dir: &Path, identity: &str) -> Result<(Option<Saved>, Vec<String>)> {
        fs::create_dir_all(dir).store(format!("cannot create {}", dir.display()))?;
        state::load(dir, identity, |cursor| Metrics::check(dir, cursor))
    }

    /// Opens the logs; with `resumed_at` points of later steps are taken back.
    pub(super) fn open(dir: &Path, metrics: Metrics, resumed_at: Option<u64>) -> Result<Self> {
        let path = dir.join("out.log");
        let log = OpenOptions::new().create(true).append(true).open(&path);
        let log = log.store(format!("cannot open {}", path.display()))?;
        let events = Events::create(&dir.join("tensorboard"), lines::now(), resumed_at)?;
        Ok(Self { dir: dir.to_owned(), metrics, log, events })
    }

    pub(super) fn params(&self, text: &str) -> Result<()> {
        write_whole(&self.dir.join("params.txt"), |file| file.write_all(text.as_bytes()))
    }

    pub(super) fn log(&mut self, text: &str) -> Result<()> {
        let line = lines::stamped(lines::now(), text);
        writeln!(self.log, "{line}").store("cannot append to out.log")
    }

    pub(super) fn save_state(&self, trainer: &Trainer, cursor: &Cursor) -> Result<()> {
        state::save(&self.dir, trainer, cursor)
    }

    pub(super) fn metrics_file(&self) -> PathBuf {
        self.dir.join(metrics::FILE)
    }

    /// The folder of kept checkpoints, made if need be.
    pub(super) fn checkpoints(&self) -> Result<PathBuf> {
        let dir = self.dir.join("checkpoints");
        fs::create_dir_all(&dir).store(format!("cannot create {}", dir.display()))?;
        Ok(dir)
    }

    /// The lines and points of step `number`, where it is one of every so many or an epoch's last.
    #[expect(clippy::too_many_arguments, reason = "what a line says")]
    pub(super) fn step(
        &mut self,
        settings: &Settings,
        every: u64,
        number: u64,
        step: &Step,
        mean_loss: f64,
        reading: &Reading,
        meter: &Meter,
    ) -> Result<()> {
        if let Some(reason) = step.skipped {
            self.log(&format!("step {number}: {reason}, skipped"))?;
        }
        let per_epoch = settings.steps_per_epoch;
        let (epoch, within) = (number / per_epoch, number % per_epoch);
        let last = within + 1 == per_epoch || number + 1 == settings.steps;
        if !within.is_multiple_of(every) && !last {
            return Ok(());
        }
        let global = settings.global_batch() as u64;
        let (data_time, batch_time) = meter.means();
        let one = reading.samples_per_second;
        let all = one * settings.world_size as f64;
        let (loss, scale) = (f64::from(step.loss), f64::from(step.logit_scale.exp()));
        let line = lines::train_line(&Moment {
            epoch,
            seen: ((within + 1) * global, per_epoch * global),
            data_time,
            batch_time,
            samples_per_second: (all, one),
            lr: step.lr,
            logit_scale: scale,
            loss: (loss, mean_loss),
        });
        self.log(&line)?;
        let mut points = vec![
            ("train/data_time", reading.waited),
            ("train/batch_time", reading.took),
            ("train/samples_per_second", all),
            ("train/samples_per_second_per_gpu", one),
            // open_clip's name up to 3.x, and after it.
            ("train/scale", scale),
            ("train/logit_scale", scale),
            ("train/lr", step.lr),
            ("train/contrastive_loss", loss),
            ("train/loss", loss),
            ("train/grad_norm", step.grad_norm),
        ];
        points.extend(reading.mfu.map(|mfu| ("train/mfu", mfu)));
        points.extend(resident().map(|bytes| ("train/memory_gb", bytes as f64 / 1e9)));
        self.events.scalars(lines::now(), number, &points)
    }

    /// The numbers of a closed epoch.
    pub(super) fn epoch(&mut self, epoch: u64, measured: &[(String, f64)]) -> Result<()> {
        if measured.is_empty() {
            return Ok(());
        }
        let words: Vec<String> =
            measured.iter().map(|(name, value)| format!("{name}: {value:.4}")).collect();
        self.log(&format!("Eval Epoch: {epoch} {}", words.join("\t")))?;
        let named: Vec<(String, f64)> =
            measured.iter().map(|(name, value)| (format!("val/{name}"), *value)).collect();
        let points: Vec<(&str, f64)> =
            named.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        self.events.scalars(lines::now(), epoch, &points)
    }
}

/// One line for whoever watches: loss, speed, use of the machine, waiting, rate, temperature,
/// memory.
pub(super) fn live(step: &Step, reading: &Reading, ranks: usize) -> String {
    let mut words = vec![
        format!("loss {:.3}", step.loss),
        format!("{:.0} samples/s", reading.samples_per_second * ranks as f64),
    ];
    words.extend(reading.mfu.map(|mfu| format!("MFU {:.0}%", 100.0 * mfu)));
    words.push(format!("data {:.0}%", 100.0 * reading.waited / reading.took.max(1e-9)));
    words.push(format!("lr {:.2e}", step.lr));
    words.push(format!("scale {:.1}", step.logit_scale.exp()));
    words.extend(resident().map(|bytes| format!("{:.1} GB", bytes as f64 / 1e9)));
    words.join(", ")
}
