//! What a fetch is doing at the moment, and which of its steps holds up the others.
//!
//! Every URL in flight is at one [`Step`]. A step's level is the number of URLs at it; the integral
//! of the level over time, in seconds, is what they spent there together. Rates and the bottleneck
//! are those of a window of ten to twenty seconds.
//!
//! # The bottleneck
//! `store` when rows were being handed on for 90 % of the window, and for a larger part of it than
//! each thread that makes pictures was busy; else, when these threads were busy for 80 % of it,
//! `hook` where they waited longer for the answer of `hooks.before_store` than they decoded, else
//! `decode`; else that of `dns`, `network` and `politeness` where most URLs waited. So every answer
//! is measured, and `decode` on two cores means that a third would help.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use stage::{Figure, Figures};

use super::Reason;
use super::reason::Class;

/// Where a URL can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Its name is looked up.
    Dns,
    /// It could be asked for, but its site or its address has as many requests as it may have.
    Politeness,
    /// It is connecting, asking, or reading.
    Network,
    /// Its body waits for a thread.
    Queue,
    /// The program of `hooks.before_store` is asked, on a thread that makes pictures.
    Hook,
    /// It is decoded, resized and encoded.
    Decode,
    /// A batch of rows is being handed on: written, and judged where judges run in one stream.
    Store,
}

impl Step {
    const ALL: [Self; 7] = [
        Self::Dns,
        Self::Politeness,
        Self::Network,
        Self::Queue,
        Self::Hook,
        Self::Decode,
        Self::Store,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Politeness => "politeness",
            Self::Network => "network",
            Self::Queue => "queue",
            Self::Hook => "hook",
            Self::Decode => "decode",
            Self::Store => "store",
        }
    }
}

/// The figures of one fetcher.
pub(super) struct Meter {
    /// Threads that make pictures.
    threads: usize,
    levels: [Mutex<Level>; Step::ALL.len()],
    ended: Mutex<BTreeMap<(&'static str, String), u64>>,
    downloaded: AtomicU64,
    made: AtomicU64,
    requests: AtomicU64,
    retries: AtomicU64,
    held_back: AtomicUsize,
    in_flight: AtomicUsize,
    limit: AtomicUsize,
    window: Mutex<Window>,
}

/// How many are at a step, and how long all were, up to `since`.
struct Level {
    now: usize,
    since: Instant,
    total: Duration,
}

impl Level {
    fn set(&mut self, now: usize, at: Instant) {
        let passed = at.saturating_duration_since(self.since);
        self.total += passed.saturating_mul(u32::try_from(self.now).unwrap_or(u32::MAX));
        (self.now, self.since) = (now, at);
    }
}

/// Leaves its step when dropped.
pub(super) struct At {
    meter: Arc<Meter>,
    step: Step,
}

impl Drop for At {
    fn drop(&mut self) {
        self.meter.level(self.step, |now| now.saturating_sub(1));
    }
}

/// Goes back to the step before when dropped.
pub(super) struct Instead {
    of: Step,
    at: Option<At>,
}

impl Drop for Instead {
    fn drop(&mut self) {
        let Some(at) = self.at.take() else { return };
        at.meter.level(self.of, |now| now + 1);
    }
}

/// Totals at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Totals {
    at: Instant,
    /// By step.
    spent: [Duration; Step::ALL.len()],
    kept: u64,
    downloaded: u64,
}

/// Totals at the beginning of the window, and those that will be it next.
struct Window {
    from: Totals,
    next: Totals,
}

/// How old the beginning of the window is at least, once so much time has passed.
const WINDOW: Duration = Duration::from_secs(10);
/// Share of the window for which a step must be busy to be what holds up the others.
const STORE_BUSY: f64 = 0.9;
const THREADS_BUSY: f64 = 0.8;

impl Meter {
    pub(super) fn new(threads: usize) -> Arc<Self> {
        let at = Instant::now();
        let level = || Mutex::new(Level { now: 0, since: at, total: Duration::ZERO });
        let zero = Totals { at, spent: [Duration::ZERO; Step::ALL.len()], kept: 0, downloaded: 0 };
        Arc::new(Self {
            threads,
            levels: Step::ALL.map(|_| level()),
            ended: Mutex::default(),
            downloaded: AtomicU64::new(0),
            made: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            held_back: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            limit: AtomicUsize::new(0),
            window: Mutex::new(Window { from: zero, next: zero }),
        })
    }

    /// One URL more at this step, until the guard is dropped.
    pub(super) fn enter(self: &Arc<Self>, step: Step) -> At {
        self.level(step, |now| now + 1);
        At { meter: Arc::clone(self), step }
    }

    /// The URL is at `step` instead of where it is, until the guard is dropped.
    pub(super) fn instead(self: &Arc<Self>, of: Step, step: Step) -> Instead {
        self.level(of, |now| now.saturating_sub(1));
        Instead { of, at: Some(self.enter(step)) }
    }

    /// From now on so many URLs could be in flight but for what their sites bear.
    pub(super) fn held_back(&self, count: usize) {
        let before = self.held_back.swap(count, Ordering::SeqCst);
        if before != count {
            self.level(Step::Politeness, |now| (now + count).saturating_sub(before));
        }
    }

    fn level(&self, step: Step, change: impl FnOnce(usize) -> usize) {
        let mut level = self.levels[step as usize].lock().unwrap_or_else(PoisonError::into_inner);
        let now = change(level.now);
        level.set(now, Instant::now());
    }

    /// A URL has ended.
    pub(super) fn ended(&self, reason: Option<Reason>) {
        let verdict = match reason.map(Reason::class) {
            None => "kept",
            Some(Class::Dropped) => "dropped",
            Some(Class::Failed) => "failed",
        };
        let word = reason.map(|reason| reason.word().into_owned()).unwrap_or_default();
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        *ended.entry((verdict, word)).or_default() += 1;
    }

    /// A body of so many bytes has come.
    pub(super) fn downloaded(&self, bytes: usize) {
        self.downloaded.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A picture of so many bytes is made.
    pub(super) fn made(&self, bytes: usize) {
        self.made.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A request is sent.
    pub(super) fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// A URL will be asked for again.
    pub(super) fn retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// How many URLs are in flight, of how many that may be.
    pub(super) fn flight(&self, now: usize, limit: usize) {
        self.in_flight.store(now, Ordering::Relaxed);
        self.limit.store(limit, Ordering::Relaxed);
    }

    fn kept(&self) -> u64 {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.get(&("kept", String::new())).copied().unwrap_or(0)
    }

    fn totals(&self) -> Totals {
        let at = Instant::now();
        let spent = Step::ALL.map(|step| {
            let level = &self.levels[step as usize];
            let mut level = level.lock().unwrap_or_else(PoisonError::into_inner);
            let now = level.now;
            level.set(now, at);
            level.total
        });
        let downloaded = self.downloaded.load(Ordering::Relaxed);
        Totals { at, spent, kept: self.kept(), downloaded }
    }

    /// What happened in the window, which moves on by being looked at.
    fn lately(&self) -> Lately {
        let now = self.totals();
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if now.at.saturating_duration_since(window.next.at) >= WINDOW {
            window.from = window.next;
            window.next = now;
        }
        Lately::between(&window.from, &now, self.threads)
    }
}

/// Rates over the window.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Lately {
    images: f64,
    bytes: f64,
    bottleneck: Option<Step>,
    /// What the bottleneck's level was on average.
    level: f64,
}

impl Lately {
    fn between(from: &Totals, to: &Totals, threads: usize) -> Self {
        // A look just after the start: no rate of a millisecond.
        let time = to.at.saturating_duration_since(from.at).as_secs_f64().max(0.1);
        let level = |step: Step| {
            let spent = to.spent[step as usize].saturating_sub(from.spent[step as usize]);
            spent.as_secs_f64() / time
        };
        let asking = level(Step::Hook) > level(Step::Decode);
        let busy = (level(Step::Hook) + level(Step::Decode)) / threads.max(1) as f64;
        let store = level(Step::Store);
        let waiting = [Step::Network, Step::Dns, Step::Politeness];
        let most = waiting.into_iter().max_by(|a, b| level(*a).total_cmp(&level(*b)));
        let bottleneck = match most {
            _ if store >= STORE_BUSY && store >= busy => Some(Step::Store),
            _ if busy >= THREADS_BUSY && asking => Some(Step::Hook),
            _ if busy >= THREADS_BUSY => Some(Step::Decode),
            most => most.filter(|step| level(*step) > 0.0),
        };
        Self {
            images: (to.kept - from.kept) as f64 / time,
            bytes: (to.downloaded - from.downloaded) as f64 / time,
            bottleneck,
            level: bottleneck.map_or(0.0, level),
        }
    }
}

/// Reasons that a line names.
const NAMED: usize = 3;

impl Figures for Meter {
    fn line(&self) -> String {
        let lately = self.lately();
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let total: u64 = ended.values().sum();
        let percent = |count: u64| 100.0 * count as f64 / total.max(1) as f64;
        let mut reasons: Vec<(&str, u64)> = ended
            .iter()
            .filter(|((verdict, _), _)| *verdict != "kept")
            .map(|((_, word), count)| (word.as_str(), *count))
            .collect();
        reasons.sort_by_key(|(word, count)| (std::cmp::Reverse(*count), *word));
        let named: Vec<String> = reasons
            .iter()
            .take(NAMED)
            .map(|(word, count)| format!("{word} {:.1} %", percent(*count)))
            .collect();
        let named =
            if named.is_empty() { String::new() } else { format!(" ({})", named.join(", ")) };
        let kept = ended.get(&("kept", String::new())).copied().unwrap_or(0);
        let waits = match lately.bottleneck {
            Some(step @ (Step::Decode | Step::Hook)) => {
                let (word, level, threads) = (step.word(), lately.level, self.threads);
                format!(", bottleneck {word} ({level:.1} of {threads} threads)")
            }
            Some(Step::Store) => {
                format!(", bottleneck store (busy {:.0} %)", 100.0 * lately.level.min(1.0))
            }
            Some(step) => format!(", bottleneck {} ({:.0} waiting)", step.word(), lately.level),
            None => String::new(),
        };
        format!(
            "{:.0} images/s, {:.1} MB/s, {:.1} % kept{named}, {} in flight{waits}",
            lately.images,
            lately.bytes / 1e6,
            percent(kept),
            self.in_flight.load(Ordering::Relaxed),
        )
    }

    fn figures(&self) -> Vec<Figure> {
        let lately = self.lately();
        let totals = self.totals();
        let mut all = Vec::new();
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.extend(ended.into_iter().map(|((verdict, reason), count)| {
            Figure::new(
                "clipmill_fetch_urls_total",
                "Distinct URLs that ended, by verdict and reason.",
                count as f64,
            )
            .with("verdict", verdict)
            .with("reason", reason)
        }));
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        let sizes = [
            (
                "clipmill_fetch_downloaded_bytes_total",
                "Bytes of bodies that came whole.",
                load(&self.downloaded),
            ),
            (
                "clipmill_fetch_picture_bytes_total",
                "Bytes of pictures that were made.",
                load(&self.made),
            ),
            (
                "clipmill_fetch_requests_total",
                "Requests sent, robots.txt and redirects included.",
                load(&self.requests),
            ),
            (
                "clipmill_fetch_retries_total",
                "Times that a URL was put aside to be asked for again.",
                load(&self.retries),
            ),
            (
                "clipmill_fetch_in_flight",
                "URLs between their first request and their picture.",
                self.in_flight.load(Ordering::Relaxed) as f64,
            ),
            (
                "clipmill_fetch_in_flight_limit",
                "How many may be in flight: thread_count, or less where this machine ran short.",
                self.limit.load(Ordering::Relaxed) as f64,
            ),
        ];
        all.extend(sizes.map(|(name, help, value)| Figure::new(name, help, value)));
        for step in Step::ALL {
            let level = self.levels[step as usize].lock().unwrap_or_else(PoisonError::into_inner);
            let help = "URLs at a step at this moment.";
            let figure = Figure::new("clipmill_fetch_urls_at_step", help, level.now as f64);
            all.push(figure.with("step", step.word()));
        }
        for step in Step::ALL {
            let help = "Seconds that all URLs together spent at a step.";
            let spent = totals.spent[step as usize].as_secs_f64();
            let figure = Figure::new("clipmill_fetch_step_seconds_total", help, spent);
            all.push(figure.with("step", step.word()));
        }
        for step in Step::ALL.into_iter().filter(|step| *step != Step::Queue) {
            let help = "1 at the step that held up the others in the last seconds.";
            let here = f64::from(u8::from(lately.bottleneck == Some(step)));
            let figure = Figure::new("clipmill_fetch_bottleneck", help, here);
            all.push(figure.with("step", step.word()));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Levels over ten seconds, on two threads.
    fn lately(levels: &[(Step, f64)]) -> Lately {
        let at = Instant::now();
        let from =
            Totals { at, spent: [Duration::ZERO; Step::ALL.len()], kept: 100, downloaded: 0 };
        let mut to = Totals { at: at + WINDOW, kept: 600, downloaded: 5_000_000, ..from };
        for (step, level) in levels {
            to.spent[*step as usize] = WINDOW.mul_f64(*level);
        }
        Lately::between(&from, &to, 2)
    }

    #[test]
    fn rates_are_those_of_the_window() {
        let lately = lately(&[]);
        assert_eq!((lately.images, lately.bytes, lately.bottleneck), (50.0, 500_000.0, None));
    }

    #[test]
    fn busy_threads_are_the_bottleneck_however_many_urls_wait_elsewhere() {
        let of = |levels: &[(Step, f64)]| lately(levels).bottleneck.unwrap();
        let network = (Step::Network, 200.0);
        assert_eq!(of(&[(Step::Decode, 1.9), network]), Step::Decode);
        assert_eq!(of(&[(Step::Decode, 1.0), network]), Step::Network);
        assert_eq!(of(&[(Step::Decode, 1.9), (Step::Store, 0.99), network]), Step::Store);
        assert_eq!(of(&[(Step::Decode, 1.9), (Step::Store, 0.5)]), Step::Decode);
        // Threads that wait for a program's answer are no fault of decoding.
        assert_eq!(of(&[(Step::Hook, 1.5), (Step::Decode, 0.4), network]), Step::Hook);
        assert_eq!(of(&[(Step::Hook, 0.4), (Step::Decode, 1.5), network]), Step::Decode);
        assert_eq!(of(&[(Step::Hook, 0.8), (Step::Decode, 0.1), network]), Step::Network);
        assert_eq!(of(&[(Step::Dns, 60.0), (Step::Network, 20.0)]), Step::Dns);
        assert_eq!(of(&[(Step::Politeness, 250.0), (Step::Network, 6.0)]), Step::Politeness);
    }

    #[test]
    fn a_step_is_left_when_its_guard_goes_and_its_time_is_of_all_together() {
        let meter = Meter::new(2);
        let three = [(); 3].map(|()| meter.enter(Step::Dns));
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(meter.levels[Step::Dns as usize].lock().unwrap().now, 3);
        drop(three);
        assert_eq!(meter.levels[Step::Dns as usize].lock().unwrap().now, 0);
        let spent = meter.totals().spent[Step::Dns as usize];
        assert!(spent >= Duration::from_millis(60), "{spent:?}");
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(meter.totals().spent[Step::Dns as usize], spent);
    }

    #[test]
    fn a_hook_that_is_asked_counts_as_itself_and_not_as_decode() {
        let meter = Meter::new(2);
        let now = |step: Step| meter.levels[step as usize].lock().unwrap().now;
        let decoding = meter.enter(Step::Decode);
        let asking = meter.instead(Step::Decode, Step::Hook);
        assert_eq!((now(Step::Decode), now(Step::Hook)), (0, 1));
        drop(asking);
        assert_eq!((now(Step::Decode), now(Step::Hook)), (1, 0));
        drop(decoding);
        assert_eq!((now(Step::Decode), now(Step::Hook)), (0, 0));
    }

    #[test]
    fn the_line_names_the_three_most_frequent_reasons() {
        let meter = Meter::new(2);
        (0..6).for_each(|_| meter.ended(None));
        for reason in [Reason::Http(404), Reason::Http(404), Reason::Dns, Reason::Robots] {
            meter.ended(Some(reason));
        }
        meter.flight(7, 256);
        let line = meter.line();
        let after = line.split_once("% kept").unwrap().1;
        assert_eq!(after, " (http_404 20.0 %, dns 10.0 %, robots 10.0 %), 7 in flight");
        assert!(line.contains("60.0 % kept"), "{line}");
    }

    #[test]
    fn figures_of_one_name_stand_together_and_a_reason_is_a_label() {
        let meter = Meter::new(2);
        meter.ended(Some(Reason::Http(404)));
        meter.downloaded(10);
        let figures = meter.figures();
        let mut names: Vec<&str> = figures.iter().map(|figure| figure.name).collect();
        names.dedup();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert_eq!(
            figures[0].labels,
            [("verdict", "failed".to_owned()), ("reason", "http_404".to_owned())]
        );
        let bytes = figures.iter().find(|f| f.name.contains("downloaded")).unwrap();
        assert_eq!(bytes.value, 10.0);
    }
}
