//! Progress: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use stage::{Counts, Progress};

use crate::run::Watch;

/// How often a line is printed where there is no terminal.
const EVERY: Duration = Duration::from_secs(30);

/// Talks on stderr about a run.
pub(crate) struct Talk {
    bar: Option<ProgressBar>,
}

impl Talk {
    pub(crate) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            let style =
                ProgressStyle::with_template("{prefix:>14} {bar:30} {pos}/{len} {elapsed} {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { bar }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Watch for Talk {
    fn begin(&self, id: &str, kind: &str, units: usize, done: usize) {
        if let Some(bar) = &self.bar {
            bar.reset();
            bar.set_prefix(id.to_owned());
            bar.set_length(0);
            bar.set_message("");
        }
        let again =
            if done > 0 { format!(", {done} of {units} units done before") } else { String::new() };
        if self.bar.is_none() || done > 0 {
            self.line(&format!("{id}: {kind}{again}"));
        }
    }

    fn reused(&self, id: &str, kind: &str, counts: &Counts) {
        self.line(&format!("{id:>14}  reused ({kind}{})", brief(counts)));
    }

    fn end(&self, id: &str, _kind: &str, counts: &Counts, seconds: f64) {
        self.line(&format!("{id:>14}  {seconds:.1} s{}", brief(counts)));
    }

    fn progress(&self, id: &str) -> Arc<dyn Progress> {
        Arc::new(Line {
            id: id.to_owned(),
            bar: self.bar.clone(),
            last: Mutex::new(Instant::now()),
        })
    }
}

/// `: 1,141 in = 830 kept + 300 dropped + 11 failed`, with the reasons.
pub(crate) fn brief(counts: &Counts) -> String {
    if counts.entered == 0 {
        return String::new();
    }
    let reasons: Vec<String> = counts
        .dropped
        .iter()
        .chain(&counts.failed)
        .map(|(reason, n)| format!("{reason} {n}"))
        .collect();
    let reasons =
        if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
    format!(
        ": {} in = {} kept + {} dropped + {} failed{reasons}",
        counts.entered,
        counts.kept,
        counts.dropped_total(),
        counts.failed_total()
    )
}

struct Line {
    id: String,
    bar: Option<ProgressBar>,
    last: Mutex<Instant>,
}

impl Progress for Line {
    fn update(&self, done: u64, total: u64, note: &str) {
        if let Some(bar) = &self.bar {
            bar.set_prefix(self.id.clone());
            bar.set_length(total);
            bar.set_position(done);
            bar.set_message(note.to_owned());
            return;
        }
        let Ok(mut last) = self.last.lock() else { return };
        if last.elapsed() >= EVERY {
            *last = Instant::now();
            let of = if total > 0 { format!("/{total}") } else { String::new() };
            eprintln!("{}: {done}{of} {note}", self.id);
        }
    }
}
