//! What a training needs of main memory, before it starts.
//!
//! Weights, gradients and AdamW's two moments are four numbers a parameter. What grows with the batch
//! are the results that the backward pass needs: of a block of width C, FFN width H and N tokens
//! `N (11 C + 2 H)` numbers (two norms, the queries, keys and values, the attention's output, the
//! projections, both halves of the FFN, three sums), beside what the backward pass holds itself, a
//! few tensors of the largest size. Features and the similarity matrix of all samples come last.

use models::{ClipConfig, count};
use stage::{Error, Kind, Result};

use crate::plan::Settings;

/// Bytes, by what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// Weights, gradients, moments.
    pub parameters: u64,
    /// Results kept for the backward pass of one forward pass of `batch_size`.
    pub activations: u64,
    /// Samples of the steps that are made ahead, and the features of all ranks.
    pub samples: u64,
}

impl Estimate {
    /// For a model and the settings of its training.
    #[must_use]
    pub fn of(config: &ClipConfig, settings: &Settings) -> Self {
        let side = config.image_size() as usize;
        let patches = 3 * side * side;
        let image = count::kept_of_picture(config);
        let text = count::kept_of_caption(config, CAPTION.min(config.context_length()));
        let batch = settings.batch_size as u64;
        let all = (settings.batch_size * settings.accum_freq * settings.world_size) as u64;
        let own = (settings.batch_size * settings.accum_freq) as u64;
        let rows = if settings.local_loss { own } else { all };
        let features = 8 * all * config.embed_dim as u64 + 6 * rows * all;
        let parameters = config.parameters();
        Self {
            parameters: parameters * 16,
            activations: 4 * batch * (image + text) + parameters / 2,
            // As bytes, in the steps that lie ready, the one being made and the one in work.
            samples: (AHEAD_AND_IN_WORK * own * patches as u64) + 4 * features,
        }
    }

    /// All together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.parameters + self.activations + self.samples
    }
}

/// Tokens of a caption that are worked on: padding is left out, and captions of the web have about
/// a dozen words.
const CAPTION: usize = 24;

/// Steps whose samples are in memory at once.
const AHEAD_AND_IN_WORK: u64 = 4;

/// Refuses what does not fit into `available` bytes, and says which batch would.
///
/// # Errors
/// [`Kind::Memory`], with both numbers and the largest batch that fits.
pub fn check(config: &ClipConfig, settings: &Settings, available: u64) -> Result<()> {
    let needed = Estimate::of(config, settings);
    if needed.total() <= available {
        return Ok(());
    }
    let fits = |batch_size: usize, accum_freq: usize| {
        let smaller = Settings { batch_size, accum_freq, ..settings.clone() };
        Estimate::of(config, &smaller).total() <= available
    };
    // Halving finds a batch that divides the old one, so that `accum_freq` can make up for it.
    let halves: Vec<usize> = std::iter::successors(Some(settings.batch_size), |batch| {
        batch.is_multiple_of(2).then_some(batch / 2)
    })
    .skip(1)
    .collect();
    let times = |batch: usize| settings.accum_freq * (settings.batch_size / batch);
    let same = halves.iter().find(|batch| fits(**batch, times(**batch)));
    let fewer = halves.iter().find(|batch| fits(**batch, settings.accum_freq));
    let otherwise = "or `check_memory: false` if you know better";
    let hint = match (same, fewer) {
        (Some(batch), _) => format!(
            "set `batch_size: {batch}` and `accum_freq: {}`, the same samples a step; {otherwise}",
            times(*batch)
        ),
        (None, Some(batch)) => format!("set `batch_size: {batch}`; {otherwise}"),
        (None, None) if fits(1, 1) => format!("lower batch_size; {otherwise}"),
        _ => format!("take a smaller model, not even a batch of 1 fits; {otherwise}"),
    };
    let gigabytes = |bytes: u64| bytes as f64 / 1e9;
    Err(Error::new(
        Kind::Memory,
        format!(
            "a batch of {} of model {} needs about {:.1} GB ({:.1} for parameters, {:.1} for activations, {:.1} for samples), {:.1} GB are available",
            settings.batch_size,
            settings.model,
            gigabytes(needed.total()),
            gigabytes(needed.parameters),
            gigabytes(needed.activations),
            gigabytes(needed.samples),
            gigabytes(available)
        ),
    )
    .hint(hint))
}

/// Bytes that this process may still take: of the machine and of its control group. None where the
/// system does not say.
#[must_use]
pub fn available() -> Option<u64> {
    let machine = field("/proc/meminfo", "MemAvailable:")?;
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let group = |most: &str, now: &str| Some(number(most)?.saturating_sub(number(now)?));
    let groups = [
        group("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        group(
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ];
    Some(groups.into_iter().flatten().fold(machine, u64::min))
}

/// A line `name   number kB` of a file of the system's, in bytes.
pub(crate) fn field(path: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// A GPU's memory is known to its driver alone: its refusal, with what to try.
pub(crate) fn of_gpu(error: Error) -> Error {
    if error.to_string().contains("OUT_OF_MEMORY") {
        return error.hint(
            "the GPU's memory is full: halve batch_size and double accum_freq, which takes the \
             same steps, or turn on grad_checkpointing",
        );
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TrainPlan;

    fn settings(model: &str, batch: u32) -> (ClipConfig, Settings) {
        let plan = TrainPlan {
            model: Some(model.to_owned()),
            batch_size: Some(batch),
            steps: Some(1),
            ..TrainPlan::default()
        };
        (ClipConfig::named(model).unwrap(), plan.resolve(1 << 30, 1, 0).unwrap())
    }

    #[test]
    fn four_numbers_a_parameter() {
        let (config, settings) = settings("ViT-B-32", 1);
        assert_eq!(Estimate::of(&config, &settings).parameters, 151_277_313 * 16);
    }

    #[test]
    fn activations_grow_with_the_batch() {
        let of = |batch| {
            let (config, settings) = settings("ViT-B-16", batch);
            Estimate::of(&config, &settings).activations
        };
        assert_eq!(of(30) - of(20), of(20) - of(10));
    }

    #[test]
    fn what_does_not_fit_says_what_would() {
        let (config, settings) = settings("ViT-B-32", 4096);
        let error = check(&config, &settings, 8_000_000_000).unwrap_err();
        assert_eq!(error.kind(), Kind::Memory);
        let text = error.to_string();
        assert!(text.starts_with("a batch of 4096 of model ViT-B-32 needs about "), "{text}");
        assert!(text.ends_with("8.0 GB are available"), "{text}");
        let hint = error.hint_text().unwrap();
        let numbers: Vec<usize> =
            hint.split(['`', ' ', ',']).filter_map(|word| word.parse().ok()).collect();
        let (batch, accum) = (numbers[0], numbers[1]);
        assert_eq!(batch * accum, 4096, "{hint}");
        let smaller = Settings { batch_size: batch, accum_freq: accum, ..settings };
        check(&config, &smaller, 8_000_000_000).unwrap();
    }

    #[test]
    fn a_full_gpu_is_told_what_to_try() {
        let full = Error::model("the image tower failed")
            .because("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")");
        assert!(of_gpu(full).hint_text().unwrap().starts_with("the GPU's memory is full: halve"));
        let other = Error::model("the image tower failed").because("no such kernel");
        assert_eq!(of_gpu(other).hint_text(), None);
    }

    #[test]
    fn a_model_that_never_fits_is_told_so() {
        let (config, settings) = settings("ViT-H-14", 1);
        let error = check(&config, &settings, 1_000_000_000).unwrap_err();
        assert!(error.hint_text().unwrap().contains("a smaller model"));
    }

    #[test]
    fn this_system_says_what_it_has() {
        assert!(field("/proc/meminfo", "MemTotal:").is_none_or(|bytes| bytes > 1 << 20));
        assert_eq!(field("/proc/meminfo", "NoSuchLine:"), None);
    }
}
