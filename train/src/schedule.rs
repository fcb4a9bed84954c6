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
}

impl Schedule {
    /// The rate of step `step`, counted from 0: `lr (step + 1) / warmup`, then
    /// `lr (1 + cos(π (step − warmup) / (steps − warmup))) / 2`, or `lr`.
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
        }
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the first digits decide, and these are exact")]
mod tests {
    use super::*;

    const TEN: Schedule = Schedule { shape: Shape::Cosine, lr: 1e-3, warmup: 4, steps: 10 };

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
    fn without_warmup_the_first_step_has_the_peak() {
        assert_eq!(Schedule { warmup: 0, ..TEN }.at(0), 1e-3);
    }
}
