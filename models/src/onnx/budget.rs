//! What one run may take: time and memory are the file's claims, and a small file can claim years.

use stage::{Cancel, Error, Result};

/// Most steps of a run: multiply-adds, numbers that a window looks at, numbers moved. Networks of
/// judges take 2^27 to 2^31.
const MOST_STEPS: u64 = 1 << 36;

/// Most bytes of values and of working memory at a time, weights apart.
const MOST_BYTES: u64 = 1 << 30;

/// What is left of both, and who may stop the run.
pub(super) struct Budget<'a> {
    steps: u64,
    live: u64,
    cancel: &'a Cancel,
}

impl<'a> Budget<'a> {
    pub(super) fn new(cancel: &'a Cancel) -> Self {
        Self { steps: MOST_STEPS, live: 0, cancel }
    }

    /// Before an operator.
    pub(super) fn check(&self) -> Result<()> {
        self.cancel.check()
    }

    /// Asks for so many steps and for room for so many f32 numbers, before either is taken.
    pub(super) fn take(&mut self, steps: u64, numbers: usize) -> Result<()> {
        let Some(left) = self.steps.checked_sub(steps) else {
            let message = format!("more than {MOST_STEPS} steps, the most that one run may take");
            return Err(Error::model(message));
        };
        let bytes = (numbers as u64).saturating_mul(4);
        if self.live.saturating_add(bytes) > MOST_BYTES {
            let message = format!("more than {MOST_BYTES} bytes of values at a time");
            return Err(Error::model(message));
        }
        self.steps = left;
        Ok(())
    }

    /// A value stays.
    pub(super) fn keep(&mut self, bytes: u64) {
        self.live = self.live.saturating_add(bytes);
    }

    /// A value goes.
    pub(super) fn forget(&mut self, bytes: u64) {
        self.live = self.live.saturating_sub(bytes);
    }
}

/// The product of lengths as steps; an empty side counts as one, since loops go over the others.
pub(super) fn steps(sides: &[usize]) -> u64 {
    sides.iter().fold(1, |product, side| product.saturating_mul((*side as u64).max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_add_up_and_memory_comes_back() {
        let cancel = Cancel::default();
        let mut budget = Budget::new(&cancel);
        budget.take(MOST_STEPS - 1, 0).unwrap();
        assert!(budget.take(2, 0).is_err());
        budget.take(1, 1 << 28).unwrap();
        budget.keep(4);
        assert!(budget.take(0, 1 << 28).is_err());
        budget.forget(4);
        budget.take(0, 1 << 28).unwrap();
        budget.check().unwrap();
        cancel.cancel();
        assert!(budget.check().is_err());
    }

    #[test]
    fn steps_do_not_overflow() {
        assert_eq!(steps(&[3, 0, 4]), 12);
        assert_eq!(steps(&[usize::MAX, usize::MAX]), u64::MAX);
    }
}
