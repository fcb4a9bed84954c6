//! The ranges of a training's fields, and which of them go together.

use models::ClipConfig;
use stage::{Error, Result};

use super::TrainPlan;
use crate::schedule::Shape;

impl TrainPlan {
    /// Checks every range and that exactly one of `epochs` and `steps` says how long.
    ///
    /// # Errors
    /// [`stage::Kind::Recipe`], naming the field.
    pub fn validate(&self) -> Result<()> {
        if self.model.is_none() && self.scale.is_none() {
            return Err(Error::recipe("model is required")
                .hint("name one (`tiny-32`, `ViT-B-32`), give a JSON path, or set `scale`"));
        }
        if let Some(name) = &self.model {
            // A JSON file is read when the stage runs.
            if !name.to_ascii_lowercase().ends_with(".json") {
                ClipConfig::named(name).map_err(|e| e.at("model"))?;
            }
        }
        self.check_length()?;
        if let Some(batch) = self.batch_size {
            range("batch_size", f64::from(batch), 1.0, 1_048_576.0)?;
        }
        range("accum_freq", f64::from(self.accum_freq), 1.0, 65_536.0)?;
        range("workers", f64::from(self.workers), 1.0, 1024.0)?;
        at_least_one("save_every", Some(self.save_every))?;
        at_least_one("log_every_n_steps", Some(self.log_every_n_steps))?;
        self.check_optimiser()?;
        self.check_locks()?;
        if let Some([low, high]) = self.aug_scale
            && !(low > 0.0 && low <= high && high <= 1.0)
        {
            return Err(Error::recipe(format!(
                "aug_scale must satisfy 0 < low ≤ high ≤ 1, got [{low}, {high}]"
            )));
        }
        if let Some(ratio) = self.idle_channels {
            range("idle_channels", ratio, 0.0, 1.0)?;
        }
        if let Some(length) = self.context_length {
            range("context_length", length as f64, 3.0, 1024.0)?;
        }
        if let Some(side) = self.force_image_size {
            range("force_image_size", f64::from(side), 8.0, 4096.0)?;
        }
        if self.precision.products().is_none() {
            return Err(Error::recipe(format!(
                "precision must be fp32, amp, amp_bf16, amp_bfloat16 or bf16, got {}",
                self.precision.name()
            ))
            .hint("leave the field out for fp32; amp_bf16 is the fast one"));
        }
        self.check_pictures()?;
        self.check_factors()
    }

    fn check_pictures(&self) -> Result<()> {
        for value in self.image_mean.iter().flatten() {
            if !value.is_finite() {
                return Err(Error::recipe(format!("image_mean must be numbers, got {value}")));
            }
        }
        for value in self.image_std.iter().flatten() {
            positive("image_std", Some(f64::from(*value)))?;
        }
        if let Some(mode) = &self.image_resize_mode
            && !["shortest", "longest", "squash"].contains(&mode.as_str())
        {
            return Err(Error::recipe(format!(
                "image_resize_mode must be shortest, longest or squash, got {mode}"
            )));
        }
        match &self.image_interpolation {
            Some(other) if other != "bicubic" => {
                Err(Error::recipe(format!("image_interpolation must be bicubic, got {other}"))
                    .hint("leave it out: training crops are bicubic in open_clip too"))
            }
            _ => Ok(()),
        }
    }

    fn check_factors(&self) -> Result<()> {
        let factors = &self.train_data_upsampling_factors;
        if factors.is_empty() {
            return Ok(());
        }
        for factor in factors {
            not_negative("train_data_upsampling_factors", *factor)?;
        }
        if factors.iter().all(|factor| *factor == 0.0) {
            return Err(Error::recipe("train_data_upsampling_factors are all 0"));
        }
        if !self.dataset_resampled.unwrap_or(self.scale.is_some()) {
            return Err(Error::recipe(
                "train_data_upsampling_factors have a meaning with dataset_resampled only",
            )
            .hint(
                "set `dataset_resampled: true`, or repeat pairs in the subset that `reshard` takes",
            ));
        }
        Ok(())
    }

    fn check_length(&self) -> Result<()> {
        match (self.epochs, self.steps, self.scale) {
            (Some(_), Some(_), _) => {
                return Err(Error::recipe("epochs and steps are both given")
                    .hint("keep the one that says how long to train"));
            }
            (None, None, None) => {
                return Err(Error::recipe("neither epochs nor steps is given")
                    .hint("say how long to train with one of them, or set `scale`"));
            }
            _ => {}
        }
        at_least_one("epochs", self.epochs.map(u64::from))?;
        at_least_one("steps", self.steps)?;
        at_least_one("train_num_samples", self.train_num_samples)
    }

    fn check_optimiser(&self) -> Result<()> {
        positive("lr", self.lr)?;
        positive("eps", Some(self.eps))?;
        positive("grad_clip_norm", self.grad_clip_norm)?;
        positive("lr_cooldown_power", Some(self.lr_cooldown_power))?;
        below_one("force_patch_dropout", self.force_patch_dropout.unwrap_or(0.0))?;
        below_one("beta1", self.beta1)?;
        below_one("beta2", self.beta2.unwrap_or(0.98))?;
        not_negative("wd", self.wd)?;
        not_negative("lr_cooldown_end", self.lr_cooldown_end)?;
        at_least_one("epochs_cooldown", self.epochs_cooldown.map(u64::from))?;
        match (self.lr_scheduler, self.epochs_cooldown) {
            (Shape::ConstCooldown, None) => {
                Err(Error::recipe("lr_scheduler const-cooldown without epochs_cooldown")
                    .hint("say with `epochs_cooldown` how many epochs at the end cool down"))
            }
            (Shape::Cosine | Shape::Const, Some(_)) => {
                Err(Error::recipe("epochs_cooldown has a meaning with const-cooldown only")
                    .hint("set `lr_scheduler: const-cooldown`, or leave epochs_cooldown out"))
            }
            _ => Ok(()),
        }
    }

    fn check_locks(&self) -> Result<()> {
        let pairs = [
            (self.lock_image, self.lock_image_unlocked_groups, "lock_image", "unlocked_groups"),
            (self.lock_text, self.lock_text_unlocked_layers, "lock_text", "unlocked_layers"),
        ];
        for (locked, groups, lock, which) in pairs {
            if groups > 0 && !locked {
                return Err(Error::recipe(format!("{lock}_{which} is {groups} without {lock}"))
                    .hint(format!("set `{lock}: true`, or leave {lock}_{which} out")));
            }
        }
        if self.lock_image && self.lock_text {
            let open = self.lock_image_unlocked_groups + self.lock_text_unlocked_layers;
            if open == 0 {
                return Err(Error::recipe(
                    "both towers are locked: only the scale would be trained",
                )
                .hint("unlock groups of one of them"));
            }
        }
        Ok(())
    }
}

fn range(field: &str, value: f64, low: f64, high: f64) -> Result<()> {
    if value >= low && value <= high {
        return Ok(());
    }
    Err(Error::recipe(format!("{field} must lie in {low}..={high}, got {value}")))
}

fn at_least_one(field: &str, value: Option<u64>) -> Result<()> {
    match value {
        Some(0) => Err(Error::recipe(format!("{field} must be at least 1, got 0"))),
        _ => Ok(()),
    }
}

fn positive(field: &str, value: Option<f64>) -> Result<()> {
    match value {
        Some(v) if !(v.is_finite() && v > 0.0) => {
            Err(Error::recipe(format!("{field} must be above 0, got {v}")))
        }
        _ => Ok(()),
    }
}

fn not_negative(field: &str, value: f64) -> Result<()> {
    if value.is_finite() && value >= 0.0 {
        return Ok(());
    }
    Err(Error::recipe(format!("{field} must be 0 or more, got {value}")))
}

fn below_one(field: &str, value: f64) -> Result<()> {
    if (0.0..1.0).contains(&value) {
        return Ok(());
    }
    Err(Error::recipe(format!("{field} must lie in 0..1, got {value}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(json: &str) -> String {
        serde_json::from_str::<TrainPlan>(json).unwrap().validate().unwrap_err().to_string()
    }

    #[test]
    fn exactly_one_of_epochs_and_steps() {
        assert_eq!(refusal(r#"{"model": "tiny-32"}"#), "neither epochs nor steps is given");
        assert_eq!(
            refusal(r#"{"model": "tiny-32", "epochs": 1, "steps": 1}"#),
            "epochs and steps are both given"
        );
    }

    #[test]
    fn a_wrong_value_is_refused_by_field() {
        let with =
            |field: &str| refusal(&format!(r#"{{"model": "tiny-32", "steps": 1, {field}}}"#));
        assert_eq!(with(r#""beta1": 1.0"#), "beta1 must lie in 0..1, got 1");
        assert_eq!(with(r#""lr": 0"#), "lr must be above 0, got 0");
        assert_eq!(with(r#""wd": -0.1"#), "wd must be 0 or more, got -0.1");
        assert_eq!(with(r#""batch_size": 0"#), "batch_size must lie in 1..=1048576, got 0");
        assert_eq!(with(r#""workers": 0"#), "workers must lie in 1..=1024, got 0");
        assert_eq!(with(r#""idle_channels": 75"#), "idle_channels must lie in 0..=1, got 75");
        assert_eq!(
            with(r#""aug_scale": [0.9, 2]"#),
            "aug_scale must satisfy 0 < low ≤ high ≤ 1, got [0.9, 2]"
        );
        for name in ["fp16", "pure_bf16", "pure_fp16"] {
            assert_eq!(
                with(&format!(r#""precision": "{name}""#)),
                format!("precision must be fp32, amp, amp_bf16, amp_bfloat16 or bf16, got {name}")
            );
        }
        assert_eq!(
            with(r#""force_image_size": 0"#),
            "force_image_size must lie in 8..=4096, got 0"
        );
        assert_eq!(with(r#""image_std": [1, 0, 1]"#), "image_std must be above 0, got 0");
        assert_eq!(
            with(r#""image_resize_mode": "crop""#),
            "image_resize_mode must be shortest, longest or squash, got crop"
        );
        assert_eq!(
            with(r#""image_interpolation": "random""#),
            "image_interpolation must be bicubic, got random"
        );
        assert_eq!(refusal(r#"{"steps": 1}"#), "model is required");
    }

    #[test]
    fn a_cooldown_and_its_length_go_together() {
        let with =
            |field: &str| refusal(&format!(r#"{{"model": "tiny-32", "epochs": 3, {field}}}"#));
        assert_eq!(
            with(r#""lr_scheduler": "const-cooldown""#),
            "lr_scheduler const-cooldown without epochs_cooldown"
        );
        assert_eq!(
            with(r#""epochs_cooldown": 1"#),
            "epochs_cooldown has a meaning with const-cooldown only"
        );
    }

    #[test]
    fn unlocked_groups_need_a_locked_tower() {
        let with =
            |field: &str| refusal(&format!(r#"{{"model": "tiny-32", "epochs": 3, {field}}}"#));
        assert_eq!(
            with(r#""lock_image_unlocked_groups": 2"#),
            "lock_image_unlocked_groups is 2 without lock_image"
        );
        assert_eq!(
            with(r#""lock_image": true, "lock_text": true"#),
            "both towers are locked: only the scale would be trained"
        );
    }

    #[test]
    fn factors_are_numbers_or_open_clips_words_and_need_draws_with_replacement() {
        let factors = |json: &str| {
            let text = format!(r#"{{"train_data_upsampling_factors": {json}}}"#);
            serde_json::from_str::<TrainPlan>(&text).map(|p| p.train_data_upsampling_factors)
        };
        assert_eq!(factors("[1, 2, 0.5]").unwrap(), [1.0, 2.0, 0.5]);
        assert_eq!(factors(r#""1::2::0.5""#).unwrap(), [1.0, 2.0, 0.5]);
        assert_eq!(factors(r#"["1::2"]"#).unwrap(), [1.0, 2.0]);
        assert!(factors(r#""1::two""#).unwrap_err().to_string().contains("`two` is no factor"));
        let with = |field: &str| {
            refusal(&format!(
                r#"{{"model": "tiny-32", "steps": 1, "train_data_upsampling_factors": {field}}}"#
            ))
        };
        assert_eq!(
            with("[1, 2]"),
            "train_data_upsampling_factors have a meaning with dataset_resampled only"
        );
        assert_eq!(with("[0, 0]"), "train_data_upsampling_factors are all 0");
        assert_eq!(with("[-1, 2]"), "train_data_upsampling_factors must be 0 or more, got -1");
    }

    #[test]
    fn an_unknown_field_is_refused() {
        assert!(serde_json::from_str::<TrainPlan>(r#"{"learning_rate": 1}"#).is_err());
    }
}
