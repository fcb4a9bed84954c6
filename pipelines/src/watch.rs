//! What a run says of itself while it runs: a board that the runner writes and others read.
//!
//! The progress line and the metrics both read the [`Board`]; nothing on it enters an output.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use stage::{Counts, Figures, Progress};

/// What the runner tells whoever watches.
pub trait Watch: Send + Sync {
    /// Stages (id and kind) begin, several where they run as one stream; so many of their units
    /// were done before.
    fn begin(&self, stages: &[(&str, &str)], units: usize, done: usize);
    /// A unit of a stage is committed.
    fn unit(&self, id: &str, counts: &Counts);
    /// A stage was found finished.
    fn reused(&self, id: &str, kind: &str, counts: &Counts);
    /// A stage is finished.
    fn end(&self, id: &str, kind: &str, counts: &Counts, seconds: f64);
    /// The progress to hand to a stage.
    fn progress(&self, id: &str) -> Arc<dyn Progress>;
}

/// How far a stage is.
#[derive(Clone)]
pub struct OnBoard {
    /// Its id.
    pub id: String,
    /// Its kind; empty before it begins.
    pub kind: String,
    /// Whether it has begun and not ended.
    pub running: bool,
    /// Units, those of other shares included.
    pub units: usize,
    /// Units that are committed, before this run too.
    pub done: usize,
    /// Rows of the units that this run committed.
    pub rows: Counts,
    /// How far the present unit is, in the stage's own measure; of 0 when unknown.
    pub within: (u64, u64),
    /// The stage's own short line.
    pub note: String,
    /// Its figures, where it has them.
    pub figures: Option<Arc<dyn Figures>>,
    /// When it began.
    pub began: Instant,
    /// How long it ran, once it has ended.
    pub seconds: Option<f64>,
}

impl OnBoard {
    fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            kind: String::new(),
            running: false,
            units: 0,
            done: 0,
            rows: Counts::default(),
            within: (0, 0),
            note: String::new(),
            figures: None,
            began: Instant::now(),
            seconds: None,
        }
    }

    /// What is worth saying beside the counts: rates and the bottleneck, else the stage's own note.
    #[must_use]
    pub fn say(&self) -> String {
        self.figures.as_ref().map_or_else(|| self.note.clone(), |figures| figures.line())
    }

    /// `pool: unit 3/12, 4096/10000, 412 images/s, ...`
    #[must_use]
    pub fn line(&self) -> String {
        let mut parts = Vec::new();
        if self.units > 1 {
            parts.push(format!("unit {}/{}", (self.done + 1).min(self.units), self.units));
        }
        match self.within {
            (0, 0) => {}
            (done, 0) => parts.push(done.to_string()),
            (done, total) => parts.push(format!("{done}/{total}")),
        }
        parts.push(self.say());
        parts.retain(|part| !part.is_empty());
        if parts.is_empty() {
            parts.push(format!("{} s", self.began.elapsed().as_secs()));
        }
        format!("{}: {}", self.id, parts.join(", "))
    }
}

/// Where every stage of a run is, for any number of readers.
#[derive(Default)]
pub struct Board {
    /// In the order in which they were first heard of.
    stages: Arc<Mutex<Vec<OnBoard>>>,
}

impl Board {
    /// Every stage that was heard of.
    #[must_use]
    pub fn stages(&self) -> Vec<OnBoard> {
        lock(&self.stages).clone()
    }

    /// A line for each stage that runs and has something to say, or for the first that runs.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let running: Vec<OnBoard> = self.stages().into_iter().filter(|s| s.running).collect();
        let quiet = |s: &&OnBoard| s.within == (0, 0) && s.note.is_empty() && s.figures.is_none();
        let saying: Vec<String> = running.iter().filter(|s| !quiet(s)).map(OnBoard::line).collect();
        if saying.is_empty() { running.iter().take(1).map(OnBoard::line).collect() } else { saying }
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut OnBoard)) {
        change_in(&self.stages, id, change);
    }
}

fn lock(stages: &Mutex<Vec<OnBoard>>) -> MutexGuard<'_, Vec<OnBoard>> {
    stages.lock().unwrap_or_else(PoisonError::into_inner)
}

fn change_in(stages: &Mutex<Vec<OnBoard>>, id: &str, change: impl FnOnce(&mut OnBoard)) {
    let mut stages = lock(stages);
    let at = stages.iter().position(|stage| stage.id == id).unwrap_or_else(|| {
        stages.push(OnBoard::new(id));
        stages.len() - 1
    });
    change(&mut stages[at]);
}

impl Watch for Board {
    fn begin(&self, stages: &[(&str, &str)], units: usize, done: usize) {
        for (id, kind) in stages {
            self.change(id, |stage| {
                (stage.kind, stage.running) = ((*kind).to_owned(), true);
                (stage.units, stage.done) = (units, done);
                stage.began = Instant::now();
            });
        }
    }

    fn unit(&self, id: &str, counts: &Counts) {
        self.change(id, |stage| {
            stage.done = (stage.done + 1).min(stage.units);
            stage.rows.merge(counts);
        });
    }

    fn reused(&self, id: &str, kind: &str, _counts: &Counts) {
        self.change(id, |stage| kind.clone_into(&mut stage.kind));
    }

    fn end(&self, id: &str, _kind: &str, _counts: &Counts, seconds: f64) {
        self.change(id, |stage| {
            stage.running = false;
            stage.seconds = Some(seconds);
        });
    }

    fn progress(&self, id: &str) -> Arc<dyn Progress> {
        Arc::new(Pen { id: id.to_owned(), stages: Arc::clone(&self.stages) })
    }
}

/// Writes what a stage says of itself.
struct Pen {
    id: String,
    stages: Arc<Mutex<Vec<OnBoard>>>,
}

impl Progress for Pen {
    fn update(&self, done: u64, total: u64, note: &str) {
        change_in(&self.stages, &self.id, |stage| {
            stage.within = (done, total);
            note.clone_into(&mut stage.note);
        });
    }

    fn watch(&self, figures: Arc<dyn Figures>) {
        change_in(&self.stages, &self.id, |stage| stage.figures = Some(figures));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_unit_rows_and_the_stages_own_words() {
        let board = Board::default();
        board.begin(&[("pool", "fetch"), ("judge", "judge")], 12, 2);
        assert_eq!(board.lines(), ["pool: unit 3/12"]);
        board.progress("pool").update(4096, 10_000, "kept 4000");
        assert_eq!(board.lines(), ["pool: unit 3/12, 4096/10000, kept 4000"]);
        board.unit("pool", &Counts::default());
        assert_eq!(board.lines(), ["pool: unit 4/12, 4096/10000, kept 4000"]);
        board.progress("judge").update(5, 0, "");
        assert_eq!(board.lines()[1], "judge: unit 3/12, 5");
        board.end("pool", "fetch", &Counts::default(), 1.0);
        board.end("judge", "judge", &Counts::default(), 1.0);
        assert!(board.lines().is_empty());
    }

    #[test]
    fn a_stage_that_says_nothing_says_at_least_that_it_lives() {
        let board = Board::default();
        board.begin(&[("train", "train")], 1, 0);
        assert_eq!(board.lines(), ["train: 0 s"]);
    }
}
