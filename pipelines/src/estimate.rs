//! What a run will take, as ranges: rows, bytes, hours and memory of each stage.
//!
//! Where a stage has committed units in this output, under whatever key, its own rates count, with
//! 30 % to either side. Elsewhere the ranges below are assumed; they are wide, for they have to hold
//! for pictures of any size on any machine. What no rule of thumb can say (a training, an evaluation)
//! is not estimated before it has run once.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use stage::Context;
use store::Commit;

use crate::recipe::{Kind, Node, Noun};
use crate::run::FINISHED;

/// From, to.
type Range = (f64, f64);

/// How far a measured rate may be off, to either side.
const OFF: f64 = 0.3;

/// What one stage will take, or has taken.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Estimate {
    /// Samples that it gives.
    pub(crate) rows: Range,
    /// Bytes that it writes.
    pub(crate) bytes: Range,
    /// Seconds on this machine; `None` where nothing is known.
    pub(crate) seconds: Option<Range>,
    /// Most bytes in memory.
    pub(crate) memory: Option<Range>,
    /// Where the numbers come from: `done`, `measured`, `assumed`, `unknown`.
    pub(crate) basis: &'static str,
}

/// What is assumed of a kind. Rates are a second, on all cores together.
struct Assumed {
    /// Share of what enters that is kept.
    kept: Range,
    /// Samples a second: of one core, times the cores.
    rate: Range,
    /// Bytes written for each sample that is kept.
    bytes: Range,
    /// Bytes in memory beside those for each sample.
    memory: Range,
    /// Bytes in memory for each sample that enters.
    memory_each: f64,
}

const MB: f64 = 1e6;

fn assumed(kind: &Kind, above_bytes: Range) -> Option<Assumed> {
    let (kept, rate, bytes, memory, memory_each) = match kind {
        Kind::Dedup(_) => ((0.3, 1.0), (3e5, 2e6), (30.0, 300.0), (100.0 * MB, 2048.0 * MB), 0.0),
        Kind::Fetch(plan) => {
            let side = f64::from(plan.image_size);
            let picture = side * side;
            let bytes = (picture * 0.05 + 500.0, picture + 3000.0);
            ((0.4, 0.95), (20.0, 800.0), bytes, (60.0 * MB, 1000.0 * MB), 0.0)
        }
        Kind::Judge(plan) => {
            let models = plan.0.iter().any(|judge| judge.plan().name().contains("clip"));
            let rate = if models { (2.0, 800.0) } else { (500.0, 50_000.0) };
            ((0.1, 1.0), rate, (100.0, 600.0), (60.0 * MB, 2000.0 * MB), 0.0)
        }
        Kind::Select(_) => ((0.01, 1.0), (1e5, 5e6), (16.0, 16.0), (60.0 * MB, 1000.0 * MB), 24.0),
        Kind::Reshard(_) => {
            ((0.5, 1.0), (2000.0, 25_000.0), above_bytes, (60.0 * MB, 400.0 * MB), 40.0)
        }
        Kind::Release(plan) => {
            let pictures = if plan.metadata_only { (0.0, 0.0) } else { above_bytes };
            let bytes = (pictures.0 + 60.0, pictures.1 + 400.0);
            ((0.9, 1.0), (1000.0, 20_000.0), bytes, (60.0 * MB, 400.0 * MB), 80.0)
        }
        Kind::Embed(_) => {
            ((0.95, 1.0), (2.0, 800.0), (250.0, 4500.0), (300.0 * MB, 3000.0 * MB), 4096.0)
        }
        _ => return None,
    };
    Some(Assumed { kept, rate, bytes, memory, memory_each })
}

/// Estimates stage after stage, sources first.
#[derive(Default)]
pub(crate) struct Estimator {
    by_id: BTreeMap<String, Estimate>,
    /// Bytes of one sample in the shards that a stage gives.
    sample: BTreeMap<String, Range>,
}

impl Estimator {
    /// Of the next stage in order. `done`: all of its units are committed under this recipe.
    pub(crate) fn next(
        &mut self,
        node: &Node,
        kind: &Kind,
        external: &Value,
        commits: &BTreeMap<String, Commit>,
        done: bool,
        context: &Context,
    ) -> Estimate {
        let above: Vec<&Estimate> =
            node.inputs.iter().filter_map(|id| self.by_id.get(id)).collect();
        let entered = above.iter().fold((0.0, 0.0), |sum: Range, e| add(sum, e.rows));
        let sample = node.inputs.iter().find_map(|id| self.sample.get(id).copied());
        let sample = sample.unwrap_or((2000.0, 60_000.0));
        let own = Own::of(commits);
        let estimate = if done {
            own.taken()
        } else if let Some(measured) = own.measured(entered, kind) {
            measured
        } else {
            match source(kind, external) {
                Some(estimate) => estimate,
                None => assume(kind, entered, sample, context),
            }
        };
        // A subset or a table of scores stands for the shards that are behind it.
        let size = match kind.info().gives {
            Noun::Shards if matches!(kind, Kind::Shards(_)) => {
                let bytes = source_bytes(external);
                let rows = estimate.rows.0.max(1.0);
                (bytes / rows * 0.9, bytes / rows)
            }
            Noun::Shards if estimate.rows.1 > 0.0 => {
                let one = |bytes: f64, rows: f64| if rows > 0.0 { bytes / rows } else { 0.0 };
                let (a, b) = (
                    one(estimate.bytes.0, estimate.rows.0),
                    one(estimate.bytes.1, estimate.rows.1),
                );
                (a.min(b), a.max(b))
            }
            _ => sample,
        };
        self.sample.insert(node.id.clone(), size);
        self.by_id.insert(node.id.clone(), estimate.clone());
        estimate
    }
}

/// What a stage's own records say.
struct Own {
    entered: f64,
    kept: f64,
    bytes: f64,
    seconds: f64,
}

impl Own {
    fn of(commits: &BTreeMap<String, Commit>) -> Self {
        let mut own = Self { entered: 0.0, kept: 0.0, bytes: 0.0, seconds: 0.0 };
        for commit in commits.values().filter(|commit| commit.unit != FINISHED) {
            own.entered += commit.counts.entered as f64;
            own.kept += commit.counts.kept as f64;
            own.bytes += commit.files.iter().map(|file| file.bytes as f64).sum::<f64>();
            own.seconds += crate::cost::machine_seconds(commit);
        }
        own
    }

    fn taken(&self) -> Estimate {
        let point = |value: f64| (value, value);
        Estimate {
            rows: point(self.kept),
            bytes: point(self.bytes),
            seconds: Some(point(self.seconds)),
            memory: None,
            basis: "done",
        }
    }

    /// For so many samples, by the rates of the units that are there.
    fn measured(&self, entered: Range, kind: &Kind) -> Option<Estimate> {
        if self.entered < 1.0 || entered.1 <= 0.0 || kind.info().takes.is_empty() {
            return None;
        }
        let by =
            |each: f64, range: Range| (range.0 * each * (1.0 - OFF), range.1 * each * (1.0 + OFF));
        let rows = by(self.kept / self.entered, entered);
        Some(Estimate {
            rows: (rows.0, rows.1.min(entered.1)),
            bytes: by(self.bytes / self.entered, entered),
            seconds: Some(by(self.seconds / self.entered, entered)),
            memory: None,
            basis: "measured",
        })
    }
}

/// Bytes of the files that a source names.
fn source_bytes(external: &Value) -> f64 {
    let files = external.as_array().into_iter().flatten();
    files.filter_map(|file| file.get("bytes")?.as_f64()).sum()
}

/// What a source holds, by the bytes of its files.
fn source(kind: &Kind, external: &Value) -> Option<Estimate> {
    let bytes = source_bytes(external);
    let (rows, written, seconds) = match kind {
        // Compressed WAT records: image links with a text for each MB, and MB for each second.
        Kind::Links(_) => {
            let rows = (bytes / MB * 300.0, bytes / MB * 20_000.0);
            (rows, (rows.0 * 30.0, rows.1 * 300.0), (bytes / MB / 120.0, bytes / MB / 20.0))
        }
        Kind::LinkList(_) => {
            let rows = (bytes / 400.0, bytes / 30.0);
            (rows, (rows.0 * 60.0, rows.1 * 300.0), (bytes / MB / 200.0, bytes / MB / 10.0))
        }
        Kind::Shards(_) => ((bytes / 100_000.0, bytes / 2000.0), (0.0, 10_000.0), (0.0, 60.0)),
        Kind::Pool(_) => ((bytes / 400.0, bytes / 60.0), (0.0, 10_000.0), (0.0, 5.0)),
        Kind::Checkpoint(_) => ((0.0, 0.0), (0.0, 10_000.0), (0.0, 5.0)),
        _ => return None,
    };
    let memory = Some((40.0 * MB, 1000.0 * MB));
    Some(Estimate { rows, bytes: written, seconds: Some(seconds), memory, basis: "assumed" })
}

fn assume(kind: &Kind, entered: Range, sample: Range, context: &Context) -> Estimate {
    let Some(Assumed { kept, rate, bytes, memory, memory_each }) = assumed(kind, sample) else {
        return Estimate::unknown();
    };
    let cores = context.threads.max(1) as f64;
    let rows = (entered.0 * kept.0, entered.1 * kept.1);
    Estimate {
        rows,
        bytes: (rows.0 * bytes.0, rows.1 * bytes.1),
        seconds: Some((entered.0 / (rate.1 * cores), entered.1 / (rate.0 * cores))),
        memory: Some((memory.0 + entered.0 * memory_each, memory.1 + entered.1 * memory_each)),
        basis: "assumed",
    }
}

fn add(a: Range, b: Range) -> Range {
    (a.0 + b.0, a.1 + b.1)
}

impl Estimate {
    /// Nothing is known.
    pub(crate) fn unknown() -> Self {
        let nothing = (0.0, 0.0);
        Self { rows: nothing, bytes: nothing, seconds: None, memory: None, basis: "unknown" }
    }

    /// `3,000 to 9,000 pairs, 20 to 90 MB, 1 to 5 minutes, 0.1 to 1 GB of memory (assumed)`.
    pub(crate) fn say(&self) -> String {
        let mut parts = Vec::new();
        if self.rows.1 > 0.0 {
            parts.push(format!("{} samples", span(self.rows, &|n| count(n))));
        }
        if self.bytes.1 > 0.0 {
            parts.push(span(self.bytes, &|n| bytes(n)));
        }
        match self.seconds {
            Some(seconds) => parts.push(span(seconds, &|n| time(n))),
            None => parts.push("time is known once it has run".to_owned()),
        }
        if let Some(memory) = self.memory {
            parts.push(format!("{} of memory", span(memory, &|n| bytes(n))));
        }
        format!("{} ({})", parts.join(", "), self.basis)
    }

    /// As JSON: each range as `[low, high]`, null where nothing is known.
    pub(crate) fn to_json(&self) -> Value {
        let whole = |(low, high): Range| json!([low.floor() as u64, high.ceil() as u64]);
        json!({
            "samples": whole(self.rows),
            "bytes": whole(self.bytes),
            "seconds": self.seconds.map(|(low, high)| json!([round(low), round(high)])),
            "memory": self.memory.map(whole),
            "basis": self.basis,
        })
    }
}

/// Milliseconds are enough.
fn round(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

/// A range in words; one word where both ends read the same.
pub(crate) fn span(range: Range, word: &dyn Fn(f64) -> String) -> String {
    let (low, high) = (word(range.0), word(range.1));
    if low == high { low } else { format!("{low} to {high}") }
}

fn count(n: f64) -> String {
    match n {
        n if n >= 1e9 => format!("{:.1} billion", n / 1e9),
        n if n >= 1e6 => format!("{:.1} million", n / 1e6),
        n => crate::results::thousands(n.round() as u64),
    }
}

/// `1.2 GB`
pub(crate) fn bytes(n: f64) -> String {
    const UNITS: [(f64, &str); 4] = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    let unit = UNITS.iter().find(|(size, _)| n >= *size);
    unit.map_or_else(|| format!("{n:.0} bytes"), |(size, word)| format!("{:.1} {word}", n / size))
}

/// `1.5 h`
pub(crate) fn time(seconds: f64) -> String {
    match seconds {
        s if s >= 172_800.0 => format!("{:.1} days", s / 86_400.0),
        s if s >= 3600.0 => format!("{:.1} h", s / 3600.0),
        s if s >= 60.0 => format!("{:.1} min", s / 60.0),
        s => format!("{s:.1} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_said_in_words_that_people_read() {
        let estimate = Estimate {
            rows: (3000.0, 2.5e6),
            bytes: (1.5e6, 4e9),
            seconds: Some((59.0, 7200.0)),
            memory: None,
            basis: "assumed",
        };
        assert_eq!(
            estimate.say(),
            "3,000 to 2.5 million samples, 1.5 MB to 4.0 GB, 59.0 s to 2.0 h (assumed)"
        );
        let point = Estimate { rows: (5.0, 5.0), bytes: (0.0, 0.0), seconds: None, ..estimate };
        assert_eq!(point.say(), "5 samples, time is known once it has run (assumed)");
    }
}
