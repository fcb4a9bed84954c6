//! The end: what the training made becomes the stage's output.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use stage::{Counts, Error, PairSource, Result, ResultExt};
use store::Attempt;

use super::start::{model_name, params};
use super::{Run, TrainOutcome};
use crate::metrics;

impl Run<'_> {
    /// Writes what the training made.
    pub(super) fn finish(
        self,
        data: &dyn PairSource,
        work_dir: &Path,
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
        let mut lineage = BTreeMap::from([
            ("data".to_owned(), data.fingerprint()),
            ("model".to_owned(), model_name(&self.settings.model)),
            ("seed".to_owned(), self.settings.seed.to_string()),
            ("steps".to_owned(), self.settings.steps.to_string()),
            ("samples_seen".to_owned(), (self.settings.steps * global).to_string()),
        ]);
        if let Some(from) = &self.plan.pretrained {
            lineage.insert("pretrained".to_owned(), file_name(from));
        }
        let (clip, pictures) = (&self.trainer.clip, &self.input.preprocess);
        let checkpoint = models::write_checkpoint_for(pictures, clip, out.local_dir(), lineage)?;
        copy(&work_dir.join(metrics::FILE), out, metrics::FILE)?;
        out.put("results.jsonl", self.cursor.results.concat().as_bytes())?;
        out.put("params.txt", params(&self.settings, &self.trainer, pictures)?.as_bytes())?;
        for epoch in self.settings.kept_epochs(self.cursor.began) {
            for name in self.settings.kept_files(epoch) {
                let name = format!("checkpoints/{name}");
                copy(&work_dir.join(&name), out, &name)?;
            }
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
            data_share: self.meter.waited() / seconds.max(1e-9),
            samples_per_second: (here * global) as f64 / seconds.max(1e-9),
        })
    }
}

/// Outputs name no folder of this machine.
fn file_name(path: &str) -> String {
    let name = path.trim_end_matches('/').rsplit('/').next();
    name.unwrap_or(path).to_owned()
}

fn copy(from: &Path, out: &mut Attempt, name: &str) -> Result<()> {
    let mut input = File::open(from).store(format!("cannot read {}", from.display()))?;
    let mut file = out.file(name)?;
    std::io::copy(&mut input, &mut file).map_err(store::write_error)?;
    file.finish()
}
