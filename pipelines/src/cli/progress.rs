//! Progress: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use stage::{Counts, Progress};

use crate::watch::{Board, Watch};

/// How often a line is printed where there is no terminal.
const EVERY: Duration = Duration::from_secs(30);
/// How often the bar's text changes.
const TICK: Duration = Duration::from_millis(500);

/// Where lines go.
type Out = Arc<Mutex<dyn FnMut(&str) + Send>>;

/// Talks on stderr about a run.
pub(crate) struct Talk {
    board: Arc<Board>,
    bar: Option<ProgressBar>,
    out: Out,
    stop: Option<Sender<()>>,
    ticking: Option<JoinHandle<()>>,
}

impl Talk {
    pub(crate) fn new(board: &Arc<Board>) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::start(board, None, EVERY, Arc::new(Mutex::new(to_stderr)));
        }
        let bar = ProgressBar::new(0);
        let style =
            ProgressStyle::with_template("{prefix:>14} {bar:20} {pos}/{len} {elapsed} {wide_msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(200));
        let above = bar.clone();
        let out = move |text: &str| above.suspend(|| to_stderr(text));
        Self::start(board, Some(bar), TICK, Arc::new(Mutex::new(out)))
    }

    fn start(board: &Arc<Board>, bar: Option<ProgressBar>, every: Duration, out: Out) -> Self {
        let (stop, stopped) = channel::<()>();
        let (there, on, say) = (Arc::clone(board), bar.clone(), Arc::clone(&out));
        let ticking = std::thread::spawn(move || {
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                match &on {
                    Some(bar) => redraw(bar, &there),
                    None => there.lines().iter().for_each(|line| print(&say, line)),
                }
            }
        });
        Self { board: Arc::clone(board), bar, out, stop: Some(stop), ticking: Some(ticking) }
    }
}

fn to_stderr(text: &str) {
    eprintln!("{text}");
}

fn print(out: &Out, text: &str) {
    (*out.lock().unwrap_or_else(PoisonError::into_inner))(text);
}

/// The one line of the stage that has most to say.
fn redraw(bar: &ProgressBar, board: &Board) {
    let running = board.stages().into_iter().filter(|stage| stage.running);
    let Some(stage) = running.max_by_key(|stage| (stage.figures.is_some(), stage.within)) else {
        return;
    };
    let of = if stage.units > 1 {
        format!("unit {}/{} ", (stage.done + 1).min(stage.units), stage.units)
    } else {
        String::new()
    };
    bar.set_prefix(stage.id.clone());
    bar.set_length(stage.within.1);
    bar.set_position(stage.within.0);
    bar.set_message(format!("{of}{}", stage.say()));
}

impl Drop for Talk {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(ticking) = self.ticking.take() {
            let _ended = ticking.join();
        }
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Watch for Talk {
    fn begin(&self, stages: &[(&str, &str)], units: usize, done: usize) {
        self.board.begin(stages, units, done);
        if let Some(bar) = &self.bar {
            bar.reset();
            bar.set_length(0);
            bar.set_message("");
            redraw(bar, &self.board);
        }
        let again =
            if done > 0 { format!(", {done} of {units} units done before") } else { String::new() };
        if self.bar.is_none() || done > 0 {
            let ids: Vec<&str> = stages.iter().map(|(id, _)| *id).collect();
            let kind = if let [(_, kind)] = stages { kind } else { "one stream" };
            print(&self.out, &format!("{}: {kind}{again}", ids.join(" + ")));
        }
    }

    fn unit(&self, id: &str, counts: &Counts) {
        self.board.unit(id, counts);
    }

    fn reused(&self, id: &str, kind: &str, counts: &Counts) {
        self.board.reused(id, kind, counts);
        print(&self.out, &format!("{id:>14}  reused ({kind}{})", brief(counts)));
    }

    fn end(&self, id: &str, kind: &str, counts: &Counts, seconds: f64) {
        self.board.end(id, kind, counts, seconds);
        print(&self.out, &format!("{id:>14}  {seconds:.1} s{}", brief(counts)));
    }

    fn progress(&self, id: &str) -> Arc<dyn Progress> {
        self.board.progress(id)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_terminal_a_plain_line_comes_again_and_again_even_when_nothing_moves() {
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let paper = Arc::clone(&lines);
        let out = move |text: &str| paper.lock().unwrap().push(text.to_owned());
        let board = Arc::new(Board::default());
        let talk = Talk::start(&board, None, Duration::from_millis(5), Arc::new(Mutex::new(out)));
        talk.begin(&[("pool", "fetch")], 3, 1);
        talk.progress("pool").update(128, 1000, "kept 120, dropped 8, failed 0");
        let began = std::time::Instant::now();
        while lines.lock().unwrap().len() < 4 {
            assert!(began.elapsed() < Duration::from_secs(20), "no lines");
            std::thread::yield_now();
        }
        talk.end("pool", "fetch", &Counts::default(), 2.0);
        drop(talk);
        let lines = lines.lock().unwrap();
        assert_eq!(lines[0], "pool: fetch, 1 of 3 units done before");
        assert_eq!(lines[3], "pool: unit 2/3, 128/1000, kept 120, dropped 8, failed 0");
        assert_eq!(lines.last().unwrap(), "          pool  2.0 s");
        assert!(lines.iter().all(|line| !line.contains(['\r', '\u{1b}'])), "{lines:?}");
    }
}
