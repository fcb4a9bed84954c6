//! The end of an epoch: evaluation, its row, and a kept checkpoint where the plan asks.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};
use stage::{Result, ResultExt};

use super::{Job, Run};
use crate::data::{Input, Loader};
use crate::state::{self, Cursor};
use crate::validate::validate;

impl Run<'_> {
    pub(super) fn close_epoch(&mut self, job: &mut Job<'_>) -> Result<()> {
        let (done, all) = (self.cursor.step, self.settings.steps);
        let per_epoch = self.settings.steps_per_epoch;
        if !done.is_multiple_of(per_epoch) && done != all {
            return Ok(());
        }
        self.meter.next_epoch();
        let epoch = done.div_ceil(per_epoch);
        let loss = self.cursor.mean_loss();
        self.cursor.last_epoch_loss = loss;
        (self.cursor.loss_sum, self.cursor.loss_count) = (0.0, 0);
        if self.keeper.is_none() {
            return Ok(());
        }
        let mut row = self.measure(job, epoch, done == all)?;
        let numbers: Vec<(String, f64)> =
            row.iter().filter_map(|(name, v)| Some((name.clone(), v.as_f64()?))).collect();
        row.insert("train_loss".to_owned(), json!(loss));
        row.insert("epoch".to_owned(), json!(epoch));
        row.insert("samples_seen".to_owned(), json!(done * self.settings.global_batch() as u64));
        self.cursor.results.push(serde_json::to_string(&row).internal("results row")? + "\n");
        if let Some(keeper) = &mut self.keeper {
            keeper.epoch(epoch, &numbers)?;
        }
        self.keep(epoch, done.is_multiple_of(per_epoch))
    }

    /// What is measured after this epoch.
    fn measure(&self, job: &mut Job<'_>, epoch: u64, last: bool) -> Result<Map<String, Value>> {
        let due = |every: u32| every > 0 && (last || epoch.is_multiple_of(u64::from(every)));
        let mut row = Map::new();
        if let (Some(data), true) = (job.validation, due(self.plan.val_frequency)) {
            // As an evaluation sees pictures, and in their own order.
            let input = Input {
                aug_scale: None,
                resampled: false,
                sources: Vec::new(),
                rank: (0, 1),
                cache_bytes: 0,
                ..self.input.clone()
            };
            let mut loader = Loader::new(data, input.clone())?;
            let clip = &self.trainer.clip;
            row = validate(clip, &mut loader, &input, data.len(), &self.cx.cancel)
                .map_err(|e| e.at(format!("validation after epoch {epoch}")))?;
        }
        if let (Some(evaluate), true) = (&mut job.on_epoch, due(self.plan.zeroshot_frequency)) {
            row.extend(evaluate(&self.trainer.clip, &self.input.preprocess, epoch)?);
        }
        Ok(row)
    }

    /// Writes the checkpoints of this epoch.
    fn keep(&self, epoch: u64, whole: bool) -> Result<()> {
        let Some(keeper) = &self.keeper else { return Ok(()) };
        let every = u64::from(self.settings.save_frequency);
        if whole && self.settings.keeps(epoch) {
            let dir = keeper.checkpoints()?;
            self.write_weights(&dir, &format!("epoch_{epoch}.safetensors"))?;
            let state = dir.join(format!("epoch_{epoch}.state.safetensors"));
            // How much of the metrics was on the disk is not the training's.
            let cursor =
                Cursor { metrics_bytes: 0, metrics_sha256: String::new(), ..self.cursor.clone() };
            state::write_to(&state, &self.trainer, &cursor)?;
            if self.settings.delete_previous_checkpoint && epoch > every {
                for name in self.settings.kept_files(epoch - every) {
                    // One left behind costs room, nothing else.
                    let _gone = fs::remove_file(dir.join(name));
                }
            }
        }
        if self.plan.save_most_recent {
            self.write_weights(&keeper.checkpoints()?, "epoch_latest.safetensors")?;
        }
        Ok(())
    }

    fn write_weights(&self, dir: &Path, name: &str) -> Result<()> {
        let partial = dir.join("partial");
        self.trainer.clip.save(&partial)?;
        fs::rename(&partial, dir.join(name)).store(format!("cannot write {name}"))
    }
}
