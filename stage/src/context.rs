//! What every stage is given: the seed, the budget, a way to stop and a way to say how far it is.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Error, Figures, Result};

/// What every stage is given.
#[derive(Clone)]
pub struct Context {
    /// Seed of the recipe; a stage derives its own from it and its id.
    pub seed: u64,
    /// CPU threads to use, at least 1.
    pub threads: usize,
    /// Memory budget in bytes.
    pub memory: u64,
    /// Where models run.
    pub device: Device,
    /// Set when the run is asked to stop.
    pub cancel: Cancel,
    /// Where progress goes.
    pub progress: Arc<dyn Progress>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("seed", &self.seed)
            .field("threads", &self.threads)
            .field("memory", &self.memory)
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

impl Default for Context {
    /// Seed 0, every core, 2 GiB, models on the CPU, silent.
    fn default() -> Self {
        Self {
            seed: 0,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            memory: 2 << 30,
            device: Device::Cpu,
            cancel: Cancel::default(),
            progress: Arc::new(NoProgress),
        }
    }
}

impl Context {
    /// A seed for one purpose, the same on every machine: FNV-1a over the seed and the words.
    #[must_use]
    pub fn seed_for(&self, purpose: &str) -> u64 {
        let bytes = self.seed.to_le_bytes().into_iter().chain(purpose.bytes());
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }
}

/// Where models run: a property of the machine, like the number of threads, and not of a recipe.
///
/// ```
/// assert_eq!("cuda:1".parse(), Ok(stage::Device::Cuda(Some(1))));
/// assert_eq!("cuda".parse(), Ok(stage::Device::Cuda(None)));
/// assert!("gpu".parse::<stage::Device>().is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// The CPU.
    #[default]
    Cpu,
    /// An NVIDIA GPU by its number on this machine; without one the first, and of several ranks
    /// each that of its local rank.
    Cuda(Option<usize>),
}

impl Device {
    /// For a rank that is the `local_rank`-th on its machine: that GPU, where none is named.
    #[must_use]
    pub fn of_rank(self, local_rank: usize) -> Self {
        match self {
            Self::Cuda(None) => Self::Cuda(Some(local_rank)),
            named => named,
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let number = text.strip_prefix("cuda:").map(str::parse);
        match (text, number) {
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(None)),
            (_, Some(Ok(number))) => Ok(Self::Cuda(Some(number))),
            _ => Err(format!("no device `{text}`, there are cpu, cuda and cuda:N")),
        }
    }
}

/// A flag that a signal sets and long work looks at.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks all holders to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether somebody asked to stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The flag itself, for a signal handler.
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    /// Leaves the current work when somebody asked to stop.
    ///
    /// # Errors
    /// [`crate::Kind::Interrupted`].
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::interrupted()) } else { Ok(()) }
    }
}

/// Where a stage says how far it is. The binary draws a bar, or plain lines without a terminal.
pub trait Progress: Send + Sync {
    /// `done` of `total` (0 when unknown) in the stage's own unit; `note` is one short line such as
    /// `loss 2.31, 412 samples/s`.
    fn update(&self, done: u64, total: u64, note: &str);

    /// Hands over figures that change all the time; called once, by a stage that has them.
    fn watch(&self, _figures: Arc<dyn Figures>) {}
}

/// Says nothing.
#[derive(Debug, Clone, Copy)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn update(&self, _done: u64, _total: u64, _note: &str) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_purposes_get_two_seeds_and_one_purpose_the_same() {
        let context = Context::default();
        assert_eq!(context.seed_for("train/clip"), context.seed_for("train/clip"));
        assert_ne!(context.seed_for("train/clip"), context.seed_for("train/scorer"));
    }

    #[test]
    fn a_cancelled_context_is_an_interruption() {
        let cancel = Cancel::default();
        cancel.check().unwrap();
        cancel.cancel();
        assert_eq!(cancel.check().unwrap_err().kind(), crate::Kind::Interrupted);
    }
}
