//! How fast a training goes, and what of the machine it uses.

use std::time::Duration;

use candle_core::{Device, Tensor};
use models::ClipConfig;

use crate::lock::Locks;
use crate::macs::Macs;

/// Times of steps.
#[derive(Debug)]
pub(crate) struct Meter {
    macs: Macs,
    /// Forward and backward passes of each tower that a step counts for: 3, or 1 where it is locked.
    passes: (u64, u64),
    /// Multiply-adds a second of large matrix products; none where it could not be measured.
    peak: Option<f64>,
    epoch: Sums,
    all: Sums,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    steps: u64,
    waited: Duration,
    took: Duration,
}

/// What one step showed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    /// Seconds of this step: waiting for data, and in all.
    pub(crate) waited: f64,
    pub(crate) took: f64,
    /// Samples a second of this rank.
    pub(crate) samples_per_second: f64,
    /// Share of the rate of large matrix products that the model's own multiplications make.
    pub(crate) mfu: Option<f64>,
}

impl Meter {
    /// Measures the rate of the CPU for some hundredths of a second; of a GPU it is not known.
    pub(crate) fn new(config: &ClipConfig, locks: Locks, device: &Device) -> Self {
        let passes = |locked: bool| if locked { 1 } else { 3 };
        Self {
            macs: Macs::of(config),
            passes: (passes(locks.whole_image()), passes(locks.whole_text())),
            peak: if device.is_cpu() { peak() } else { None },
            epoch: Sums::default(),
            all: Sums::default(),
        }
    }

    /// Counts a step over captions of these lengths, one picture each.
    pub(crate) fn step(
        &mut self,
        captions: impl Iterator<Item = usize>,
        waited: Duration,
        took: Duration,
    ) -> Reading {
        let (mut samples, mut macs) = (0, 0);
        for tokens in captions {
            samples += 1;
            macs += self.passes.0 * self.macs.image + self.passes.1 * self.macs.text(tokens);
        }
        for sums in [&mut self.epoch, &mut self.all] {
            sums.steps += 1;
            sums.waited += waited;
            sums.took += took;
        }
        let seconds = took.as_secs_f64().max(1e-9);
        Reading {
            waited: waited.as_secs_f64(),
            took: took.as_secs_f64(),
            samples_per_second: f64::from(samples) / seconds,
            mfu: self.peak.map(|peak| macs as f64 / seconds / peak),
        }
    }

    /// Mean seconds that a step of this epoch waited for data, and took.
    pub(crate) fn means(&self) -> (f64, f64) {
        let steps = self.epoch.steps.max(1) as f64;
        (self.epoch.waited.as_secs_f64() / steps, self.epoch.took.as_secs_f64() / steps)
    }

    /// The next epoch begins.
    pub(crate) fn next_epoch(&mut self) {
        self.epoch = Sums::default();
    }

    /// Seconds that steps of this process waited for data.
    pub(crate) fn waited(&self) -> f64 {
        self.all.waited.as_secs_f64()
    }
}

/// Multiply-adds a second of a product of 1024-sided matrices, the best of four.
fn peak() -> Option<f64> {
    const SIDE: usize = 1024;
    let product = || -> candle_core::Result<f64> {
        let a = Tensor::ones((SIDE, SIDE), candle_core::DType::F32, &Device::Cpu)?;
        let began = std::time::Instant::now();
        kernels::linear(&a, &a, None)?;
        Ok(began.elapsed().as_secs_f64())
    };
    let times: Vec<f64> = (0..4).filter_map(|_| product().ok()).collect();
    let best = times.into_iter().fold(f64::INFINITY, f64::min);
    (best > 0.0 && best.is_finite()).then(|| (SIDE * SIDE * SIDE) as f64 / best)
}

/// Bytes of main memory that this process holds; none where the system does not say.
pub(crate) fn resident() -> Option<u64> {
    crate::memory::field("/proc/self/status", "VmRSS:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_known_length_has_a_known_rate() {
        let config = ClipConfig::named("tiny-32").unwrap();
        let mut meter = Meter::new(&config, Locks::default(), &Device::Cpu);
        meter.peak = Some(3.0 * (meter.macs.image + meter.macs.text(5)) as f64);
        let second = Duration::from_secs(1);
        let reading = meter.step([5, 5].into_iter(), second / 4, second);
        assert!((reading.samples_per_second - 2.0).abs() < 1e-9);
        assert!((reading.mfu.unwrap() - 2.0).abs() < 1e-9, "two samples at a rate of one");
        assert_eq!(meter.means(), (0.25, 1.0));
        meter.next_epoch();
        assert_eq!(meter.means(), (0.0, 0.0));
        assert!((meter.waited() - 0.25).abs() < 1e-9);
    }

    #[test]
    fn a_locked_tower_counts_its_forward_pass_alone() {
        let config = ClipConfig::named("tiny-32").unwrap();
        let locks = Locks { image: Some(0), text: None };
        assert_eq!(Meter::new(&config, locks, &Device::Cpu).passes, (1, 3));
    }
}
