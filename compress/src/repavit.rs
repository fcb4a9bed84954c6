//! RePaViT: folds a model that was trained with idle channels.
//!
//! "RePaViT: Scalable Vision Transformer Acceleration via Structural Reparameterization on
//! Feedforward Network Layers", ICML 2025; code Ackesnal/RePaViT. The equations and the fold
//! itself are [`models::repavit`]'s, beside the blocks they belong to; here the fold becomes a
//! stage: it is shown to change nothing, and what it saves is counted and measured.

use std::path::Path;

use candle_core::Tensor;
use models::{Clip, Mode};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage::{Change, Checkpoint, Context, Error, Report, Result, ResultExt};

use crate::compressor::{Compressor, CompressorPlan, Source};
use crate::count::{Form, Tower};
use crate::latency;

/// Folds the FFNs of a model trained with `idle_channels`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RepavitPlan {
    /// Pictures in a batch when latency is measured, 1..=1024. Default 8.
    pub latency_batch: usize,
    /// Batches timed of each form, 1..=1000; the median counts. Default 15.
    pub latency_runs: usize,
    /// Largest relative difference of features before and after, 1e-7..=0.01. Default 0.0001.
    pub tolerance: f64,
}

impl Default for RepavitPlan {
    fn default() -> Self {
        Self { latency_batch: 8, latency_runs: 15, tolerance: 1e-4 }
    }
}

impl CompressorPlan for RepavitPlan {
    fn validate(&self) -> Result<()> {
        let range = |field: &str, value: f64, low: f64, high: f64| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(Error::recipe(format!("{field} must lie in {low}..={high}, got {value}")))
        };
        range("latency_batch", self.latency_batch as f64, 1.0, 1024.0)?;
        range("latency_runs", self.latency_runs as f64, 1.0, 1000.0)?;
        range("tolerance", self.tolerance, 1e-7, 0.01)
    }

    fn build(&self, cx: &Context) -> Result<Box<dyn Compressor>> {
        self.validate()?;
        Ok(Box::new(Repavit { plan: self.clone(), cx: cx.clone() }))
    }
}

struct Repavit {
    plan: RepavitPlan,
    cx: Context,
}

/// Pictures of noise on which both forms must agree.
const PROBES: usize = 16;

impl Compressor for Repavit {
    fn compress(&mut self, model: Source<'_>, out: &Path) -> Result<(Checkpoint, Report)> {
        let Source { checkpoint, base } = model;
        let [Change::IdleChannels { ratio }] = checkpoint.changes.as_slice() else {
            return Err(Error::model("the model was not trained with idle channels")
                .hint("train it with `idle_channels: 0.75`; LayerNorm cannot be folded"));
        };
        let before = models::open(checkpoint, base, &candle_core::Device::Cpu)?;
        let after = before.folded()?;
        let mut report = Report { title: "RePaViT fold".to_owned(), ..Report::default() };
        self.check_identity(&before, &after, &mut report)?;
        count(&before, &after, *ratio, &mut report)?;
        self.measure(&before, &after, &mut report)?;

        let mut lineage = checkpoint.lineage.clone();
        lineage.insert("folded_from".to_owned(), checkpoint.sha256.clone());
        Ok((models::write_checkpoint_for(&checkpoint.preprocess, &after, out, lineage)?, report))
    }
}

impl Repavit {
    /// Both forms give the same image features on noise, to rounding.
    fn check_identity(&self, before: &Clip, after: &Clip, report: &mut Report) -> Result<()> {
        let pixels = self.noise(PROBES, before)?;
        let expected = features(before, &pixels)?;
        let got = features(after, &pixels)?;
        let largest = expected.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
        let differences = expected.iter().zip(&got).map(|(a, b)| (a - b).abs());
        // NaN must not pass for small, and f32::max would drop it.
        let worst = differences.fold(0.0_f32, |max, d| if d > max || d.is_nan() { d } else { max });
        let error = f64::from(worst) / f64::from(largest);
        report.push("fold_max_relative_error", error, "ratio", None);
        if error <= self.plan.tolerance {
            return Ok(());
        }
        Err(Error::model(format!(
            "folding changes the features by {error:.1e} of the largest, more than {:.1e}",
            self.plan.tolerance
        ))
        .hint("look for tiny variances in the running statistics: the model was hardly trained"))
    }

    fn measure(&self, before: &Clip, after: &Clip, report: &mut Report) -> Result<()> {
        let RepavitPlan { latency_batch: batch, latency_runs: runs, .. } = self.plan;
        let pixels = self.noise(batch, before)?;
        let (slow, fast) = latency::compare(before, after, &pixels, runs, &self.cx.cancel)?;
        report.push("latency_before", slow, "ms", None);
        report.push("latency_after", fast, "ms", None);
        report.push("speedup", slow / fast, "ratio", None);
        report.notes.push(format!(
            "Latency is the median of {runs} alternating runs of the image tower, batch {batch}, f32, {} threads.",
            self.cx.threads
        ));
        Ok(())
    }

    /// (B, 3, S, S), uniform with mean 0 and variance 1, as normalised pixels are.
    fn noise(&self, batch: usize, clip: &Clip) -> Result<Tensor> {
        let side = clip.config().image_size() as usize;
        let mut random = StdRng::seed_from_u64(self.cx.seed_for("compress/noise"));
        let bound = 3_f32.sqrt();
        let values: Vec<f32> =
            (0..batch * 3 * side * side).map(|_| random.random_range(-bound..bound)).collect();
        Tensor::from_vec(values, (batch, 3, side, side), clip.device())
            .internal("cannot make noise")
    }
}

/// Image features, one after the other.
fn features(clip: &Clip, pixels: &Tensor) -> Result<Vec<f32>> {
    let features = clip.encode_image(pixels, Mode::Eval)?;
    features.flatten_all().and_then(|x| x.to_vec1()).model("cannot read the features")
}

/// Parameters of the whole model and of the image tower, multiply-adds of the image tower.
fn count(before: &Clip, after: &Clip, ratio: f64, report: &mut Report) -> Result<()> {
    let Some(vit) = before.config().vision.vit() else {
        return Err(Error::model("only a plain ViT has idle channels"));
    };
    let tower = Tower::new(vit, before.config().embed_dim());
    let active = models::repavit::active_channels(tower.hidden as usize, ratio)? as u64;
    let (trained, folded) = (Form::IdleChannels, Form::Folded { active });
    let mut push = |name: &str, a: u64, b: u64, unit: &str| {
        report.push(&format!("{name}_before"), a as f64, unit, None);
        report.push(&format!("{name}_after"), b as f64, unit, None);
    };
    push("parameters", before.params().count(), after.params().count(), "parameters");
    push("image_parameters", tower.parameters(trained), tower.parameters(folded), "parameters");
    let (a, b) = (tower.macs(trained), tower.macs(folded));
    push("image_macs", a.with_attention, b.with_attention, "MAC");
    push("image_macs_without_attention", a.without_attention, b.without_attention, "MAC");
    report.notes.push(
        "Multiply-adds are of one picture through the image tower, with and without the attention \
         products; RePaViT's CLIP table counts them."
            .to_owned(),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_plan_is_a_plan_and_values_out_of_range_are_named() {
        let plan: RepavitPlan = serde_json::from_str("{}").unwrap();
        plan.validate().unwrap();
        let wrong = RepavitPlan { latency_batch: 0, ..plan };
        let message = wrong.validate().unwrap_err().to_string();
        assert_eq!(message, "latency_batch must lie in 1..=1024, got 0");
    }
}
