//! The learning rate over the steps: open_clip's `open_clip_train/scheduler.py`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the learning rate does after the warmup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Half a cosine down to 0.
    Cosine,
    /// The peak, to the end.
    Const,
    /// The peak, then a fall over the last steps.
    #[serde(rename = "const-cooldown", alias = "const_cooldown")]
    ConstCooldown,
}

/// The fall at the end of [`Shape::ConstCooldown`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cooldown {
    /// Its steps.
    pub steps: u64,
    /// The rate that it falls to.
    pub end: f64,
    /// Its power; 1 is a straight line.
    pub power: f64,
}

impl Default for Cooldown {
    fn default() -> Self {
        Self { steps: 0, end: 0.0, power: 1.0 }
    }
}

/// The learning rate as a function of the optimiser step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// What it does after the warmup.
    pub shape: Shape,
    /// Peak.
    pub lr: f64,
    /// Steps of linear rise.
    pub warmup: u64,
    /// Steps in all.
    pub steps: u64,
    /// The fall of [`Shape::ConstCooldown`].
    pub cooldown: Cooldown,
}

impl Schedule {
    /// The rate of step `step`, counted from 0: `lr (step + 1) / warmup`, then
    ///
    /// | shape | rate |
    /// | --- | --- |
    /// | cosine | `lr (1 + cos(π (step − warmup) / (steps − warmup))) / 2` |
    /// | const | `lr` |
    /// | const-cooldown | `lr`, and in the last `c` steps `end + (lr − end) (1 − i / c)^power` for i = 0, 1, ... |
    #[must_use]
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.lr * (step + 1) as f64 / self.warmup as f64;
        }
        match self.shape {
            Shape::Const => self.lr,
            Shape::Cosine => {
                let done = (step - self.warmup) as f64;
                let all = self.steps.saturating_sub(self.warmup).max(1) as f64;
                0.5 * (1.0 + (std::f64::consts::PI * done / all).cos()) * self.lr
            }
            Shape::ConstCooldown => {
                let Cooldown { steps, end, power } = self.cooldown;
                let from = self.steps.saturating_sub(steps);
                if step < from {
                    return self.lr;
                }
                let done = (step - from) as f64 / steps.max(1) as f64;
                (1.0 - done).max(0.0).powf(power) * (self.lr - end) + end
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the first digits decide, and these are exact")]
mod tests {
    use super::*;

    const TEN: Schedule = Schedule {
        shape: Shape::Cosine,
        lr: 1e-3,
        warmup: 4,
        steps: 10,
        cooldown: Cooldown { steps: 0, end: 0.0, power: 1.0 },
    };

    #[test]
    fn the_first_step_already_moves_and_the_last_of_the_warmup_is_the_peak() {
        assert_eq!([TEN.at(0), TEN.at(1), TEN.at(3)], [0.000_25, 0.000_5, 0.001]);
    }

    #[test]
    fn half_a_cosine_from_the_peak_ends_above_zero() {
        assert_eq!(TEN.at(4), 1e-3);
        assert!((TEN.at(7) - 5e-4).abs() < 1e-18);
        // (1 + cos(5π/6)) / 2 thousandths
        assert!((TEN.at(9) - 6.698_729_810_778_06e-5).abs() < 1e-18);
    }

    #[test]
    fn const_stays_at_the_peak() {
        let flat = Schedule { shape: Shape::Const, ..TEN };
        assert_eq!([flat.at(3), flat.at(4), flat.at(9)], [1e-3, 1e-3, 1e-3]);
    }

    #[test]
    fn a_cooldown_falls_in_its_last_steps_by_its_power() {
        let line = Schedule {
            shape: Shape::ConstCooldown,
            lr: 1.0,
            cooldown: Cooldown { steps: 4, end: 0.0, power: 1.0 },
            ..TEN
        };
        assert_eq!([5, 6, 7, 8, 9].map(|step| line.at(step)), [1.0, 1.0, 0.75, 0.5, 0.25]);
        let square = Schedule { cooldown: Cooldown { steps: 4, end: 0.2, power: 2.0 }, ..line };
        assert!((square.at(8) - (0.25 * 0.8 + 0.2)).abs() < 1e-15);
    }

    #[test]
    fn without_warmup_the_first_step_has_the_peak() {
        assert_eq!(Schedule { warmup: 0, ..TEN }.at(0), 1e-3);
    }
}
