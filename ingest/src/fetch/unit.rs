//! A unit of links, from the first request to the last row.
//!
//! Three parties: the dispatcher (one async task) decides which request goes next; a pool of
//! threads makes pictures; the caller's thread puts rows in order and hands them on. Nothing waits
//! for a party that may wait for it: pictures and reports go through channels without a limit,
//! and what bounds memory is that the dispatcher starts no request while too much is finished but
//! not yet handed on, except for those rows that are wanted next.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use stage::{Context, Counts, Error, Links, Pairs, Result, ResultExt};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::alarm::Alarm;
use super::budget::{Bodies, Decoding};
use super::dns::{Lookup, SystemDns};
use super::get::{Failure, Net, Sites, back_off};
use super::hook::Hook;
use super::in_flight::InFlight;
use super::opt_out::OptOutList;
use super::picture::{Maker, Outcome, Wanted};
use super::plan::seconds;
use super::policy::Target;
use super::queue::{FairQueue, Turn};
use super::rows::{Row, Work, Writer};
use super::{FetchPlan, Reason};
use crate::DialMap;

/// Turns units of links into pairs. What it learns about sites (robots.txt, addresses, their rhythm)
/// it keeps from unit to unit; connections and tasks end with the unit.
pub struct Fetcher {
    plan: Arc<FetchPlan>,
    dial: DialMap,
    sites: Arc<Sites>,
    alarm: Arc<Alarm>,
    hook: Option<Arc<Hook>>,
    pool: Arc<rayon::ThreadPool>,
    cx: Context,
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetcher").field("plan", &self.plan).finish_non_exhaustive()
    }
}

impl Fetcher {
    /// A fetcher for a checked plan. `dial` comes before the plan's own map: an address that is
    /// known only when the program runs, such as a replay's.
    ///
    /// # Errors
    /// What [`FetchPlan::validate`] finds; an opt-out list that cannot be read or understood;
    /// a hook or threads that cannot be started.
    pub fn new(plan: &FetchPlan, dial: &DialMap, cx: &Context) -> Result<Self> {
        plan.validate()?;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(cx.threads.max(1))
            .thread_name(|i| format!("pixels-{i}"))
            .build()
            .internal("cannot start threads")?;
        let plan = Arc::new(plan.clone());
        let opt_out = Arc::new(OptOutList::read(&plan.opt_out)?);
        Ok(Self {
            sites: Arc::new(Sites::new(&plan, Arc::new(SystemDns), opt_out)),
            alarm: Arc::new(Alarm::new(&plan)),
            hook: Hook::open(&plan.hooks)?.map(Arc::new),
            plan,
            dial: dial.clone(),
            pool: Arc::new(pool),
            cx: cx.clone(),
        })
    }

    /// Asks `lookup` instead of the operating system for the addresses of names.
    #[must_use]
    pub fn with_lookup(mut self, lookup: Arc<dyn Lookup>) -> Self {
        self.sites = Arc::new(Sites::new(&self.plan, lookup, Arc::clone(&self.sites.opt_out)));
        self
    }

    /// Fetches the links of one unit and hands their pairs to `sink` in input order, failures
    /// included, in batches of up to 128 rows.
    ///
    /// Equal URLs are asked for once. Blocks until the last row is handed on, and leaves no task
    /// behind; not to be called from async code.
    ///
    /// # Errors
    /// More links than a shard has rows, a missing additional column, a success rate below
    /// `min_success_rate`, what `sink` returns, and an
    /// interruption when the context is cancelled. A URL that fails is a row, not an error.
    pub fn run_unit(
        &self,
        links: &[Links],
        shard_id: u32,
        sink: &mut dyn FnMut(Pairs) -> Result<()>,
    ) -> Result<Counts> {
        let work = Work::new(links, &self.plan, &self.sites.opt_out)?;
        let mut writer = Writer::new(links, &self.plan, shard_id)?;
        if work.rows.is_empty() {
            return Ok(Counts::default());
        }
        let share = self.cx.memory / 4;
        let desk = Arc::new(Desk::new(usize::try_from(share).unwrap_or(usize::MAX)));
        let net = Net::new(&self.plan, &self.dial, &self.sites, Bodies::new(share))?;
        let (finished, arrivals) = channel();
        let dispatcher = Dispatcher::new(self, net, &work, Arc::clone(&desk), finished, share);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads((self.cx.threads / 4).clamp(1, 4))
            .thread_name("fetch")
            .enable_all()
            .build()
            .internal("cannot start the network's threads")?;
        let dispatching = runtime.spawn(dispatcher.run());
        let handed_on = self.hand_on(&work, &mut writer, &desk, &arrivals, sink);
        desk.stop.store(true, Ordering::SeqCst);
        desk.wake.notify_one();
        let ended = runtime.block_on(async { tokio::time::timeout(PATIENCE, dispatching).await });
        // A name lookup of the operating system cannot be stopped; it is left, not waited for.
        runtime.shutdown_timeout(PATIENCE);
        if let Ok(Err(panic)) = ended {
            return Err(Error::internal("the dispatcher of requests stopped").because(panic));
        }
        handed_on?;
        desk.check()?;
        let counts = writer.counts().clone();
        counts.check()?;
        Ok(counts)
    }

    /// Puts outcomes into input order and hands them on.
    fn hand_on(
        &self,
        work: &Work,
        writer: &mut Writer<'_>,
        desk: &Desk,
        arrivals: &Receiver<(usize, Outcome)>,
        sink: &mut dyn FnMut(Pairs) -> Result<()>,
    ) -> Result<()> {
        let total = work.rows.len() as u64;
        let mut outcomes: Vec<Option<Outcome>> = work
            .jobs
            .iter()
            .map(|job| job.target.as_ref().err().map(|reason| Outcome::refused(*reason)))
            .collect();
        let mut left: Vec<usize> = work.jobs.iter().map(|job| job.rows).collect();
        for (number, row) in work.rows.iter().copied().enumerate() {
            desk.next_row.store(number, Ordering::SeqCst);
            self.await_row(row, &mut outcomes, desk, arrivals)?;
            let outcome =
                outcomes[row.job].as_ref().ok_or_else(|| Error::internal("no outcome"))?;
            let batch = writer.push(number, row, outcome)?;
            left[row.job] -= 1;
            if left[row.job] == 0
                && let Some(outcome) = outcomes[row.job].take()
            {
                desk.release(outcome.len());
            }
            if let Some(batch) = batch {
                sink(batch)?;
                self.progress(number as u64 + 1, total, writer.counts());
            }
        }
        if let Some(batch) = writer.flush()? {
            sink(batch)?;
        }
        self.progress(total, total, writer.counts());
        Ok(())
    }

    /// Waits until the outcome of a row is there.
    fn await_row(
        &self,
        row: Row,
        outcomes: &mut [Option<Outcome>],
        desk: &Desk,
        arrivals: &Receiver<(usize, Outcome)>,
    ) -> Result<()> {
        self.cx.cancel.check()?;
        desk.check()?;
        if outcomes[row.job].is_none() {
            desk.wake.notify_one(); // other rows are wanted next than before
        }
        while outcomes[row.job].is_none() {
            self.cx.cancel.check()?;
            desk.check()?;
            match arrivals.recv_timeout(TICK) {
                Ok((job, outcome)) => outcomes[job] = Some(outcome),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::internal("a URL ended without an outcome"));
                }
            }
        }
        Ok(())
    }

    fn progress(&self, done: u64, total: u64, counts: &Counts) {
        let (dropped, failed) = (counts.dropped_total(), counts.failed_total());
        let note = format!("kept {}, dropped {dropped}, failed {failed}", counts.kept);
        self.cx.progress.update(done, total, &note);
    }
}

/// How often a waiting party looks whether it should stop.
const TICK: Duration = Duration::from_millis(100);
/// How long the end of a unit waits for what cannot be stopped.
const PATIENCE: Duration = Duration::from_millis(300);
/// Rows from the one wanted next whose URLs are asked for even when the desk is full.
const WANTED: usize = 64;

/// What is finished but not yet handed on.
struct Desk {
    bytes: AtomicUsize,
    limit: usize,
    /// The row that is wanted next.
    next_row: AtomicUsize,
    stop: AtomicBool,
    /// What ends the unit.
    trouble: Mutex<Option<Error>>,
    /// There may be room again, or nothing more to do.
    wake: Notify,
}

impl Desk {
    fn new(limit: usize) -> Self {
        Self {
            bytes: AtomicUsize::new(0),
            limit,
            next_row: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            trouble: Mutex::default(),
            wake: Notify::new(),
        }
    }

    fn release(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::SeqCst);
        self.wake.notify_one();
    }

    /// Ends the unit with this error; the first one counts.
    fn fail(&self, error: Error) {
        self.stop.store(true, Ordering::SeqCst);
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    /// The error that ends the unit, if there is one.
    fn check(&self) -> Result<()> {
        if !self.is_stopped() {
            return Ok(());
        }
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.take().map_or(Ok(()), Err)
    }

    fn is_full(&self) -> bool {
        self.bytes.load(Ordering::SeqCst) >= self.limit
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// What tells the dispatcher that there is room.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// A body is there: its domain has room again.
    Downloaded { line: usize },
    /// Its picture is made, or it is none.
    Made,
    /// A try gave no body.
    Failed { job: usize, line: usize, failure: Failure },
}

/// Decides which request goes next.
struct Dispatcher {
    shared: Arc<Shared>,
    queue: FairQueue,
    /// By job; none for a URL that is refused.
    asked: Vec<Option<Asked>>,
    /// By row.
    jobs: Vec<usize>,
    /// Jobs to be tried again, and when.
    delayed: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Lines that rest, and until when.
    resting: BinaryHeap<Reverse<(Instant, usize)>>,
    /// By line: when its site first asked for a slower rhythm.
    slowed: HashMap<usize, Instant>,
    in_flight: usize,
    flight: InFlight,
}

/// What requests need to get from a URL to an outcome.
struct Shared {
    net: Net,
    maker: Maker,
    /// By job.
    wanted: Vec<Arc<Wanted>>,
    desk: Arc<Desk>,
    alarm: Arc<Alarm>,
    pool: Arc<rayon::ThreadPool>,
    finished: Sender<(usize, Outcome)>,
}

/// A URL that is asked for.
struct Asked {
    target: Target,
    line: usize,
    tries: u32,
    /// Set when it is asked for the first time.
    deadline: Option<Instant>,
}

impl Dispatcher {
    fn new(
        fetcher: &Fetcher,
        net: Net,
        work: &Work,
        desk: Arc<Desk>,
        finished: Sender<(usize, Outcome)>,
        decoding: u64,
    ) -> Self {
        let plan = &fetcher.plan;
        let mut queue = FairQueue::new(plan.max_per_host as usize);
        let asked = work.jobs.iter().enumerate().map(|(number, job)| {
            let target = job.target.as_ref().ok()?.clone();
            let line = queue.push(target.domain(), number);
            Some(Asked { target, line, tries: 0, deadline: None })
        });
        let asked = asked.collect();
        Self {
            shared: Arc::new(Shared {
                net,
                maker: Maker {
                    plan: Arc::clone(plan),
                    opt_out: Arc::clone(&fetcher.sites.opt_out),
                    gate: Decoding::new(decoding),
                    hook: fetcher.hook.clone(),
                },
                wanted: work.jobs.iter().map(|job| Arc::clone(&job.wanted)).collect(),
                desk,
                alarm: Arc::clone(&fetcher.alarm),
                pool: Arc::clone(&fetcher.pool),
                finished,
            }),
            queue,
            asked,
            jobs: work.rows.iter().map(|row| row.job).collect(),
            delayed: BinaryHeap::new(),
            resting: BinaryHeap::new(),
            slowed: HashMap::new(),
            in_flight: 0,
            flight: InFlight::new(plan.thread_count),
        }
    }

    async fn run(mut self) {
        let (reports, mut events) = unbounded_channel();
        // Dropped at the end of this function, which aborts what still runs.
        let mut tasks = JoinSet::new();
        while !self.shared.desk.is_stopped() {
            self.wake_delayed();
            while self.in_flight < self.flight.limit()
                && let Some(turn) = self.next()
            {
                self.start(turn, &mut tasks, &reports);
            }
            if self.in_flight == 0 && self.queue.is_empty() && self.delayed.is_empty() {
                break;
            }
            self.pause(&mut tasks, &mut events).await;
        }
    }

    /// Waits until something may have changed.
    async fn pause(&mut self, tasks: &mut JoinSet<()>, events: &mut UnboundedReceiver<Event>) {
        let tick = Instant::now() + TICK;
        let dues = [self.delayed.peek(), self.resting.peek()];
        let until =
            dues.into_iter().flatten().fold(tick, |until, Reverse((due, _))| until.min(*due));
        let shared = Arc::clone(&self.shared);
        tokio::select! {
            Some(event) = events.recv() => {
                self.handle(event);
                while let Ok(event) = events.try_recv() {
                    self.handle(event);
                }
            }
            Some(ended) = tasks.join_next() => {
                let mut ended = Some(ended);
                while let Some(task) = ended {
                    // A bug in a request; without this its row would be waited for for ever.
                    if let Err(error) = task
                        && error.is_panic()
                    {
                        std::panic::resume_unwind(error.into_panic());
                    }
                    ended = tasks.try_join_next();
                }
            }
            () = shared.desk.wake.notified() => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }

    fn wake_delayed(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((due, job))) = self.delayed.peek().copied()
            && due <= now
        {
            self.delayed.pop();
            if let Some(asked) = &self.asked[job] {
                self.queue.push_front(asked.line, job);
            }
        }
        while let Some(Reverse((due, line))) = self.resting.peek().copied()
            && due <= now
        {
            self.resting.pop();
            self.queue.wake(line);
        }
    }

    /// Whose turn it is. When too much is finished already: only what is wanted next.
    fn next(&mut self) -> Option<Turn> {
        if !self.shared.desk.is_full() {
            return self.queue.pop();
        }
        let head = self.shared.desk.next_row.load(Ordering::SeqCst);
        let wanted = self.jobs.iter().skip(head).take(WANTED);
        for job in wanted {
            if let Some(asked) = &self.asked[*job]
                && let Some(turn) = self.queue.pop_job(asked.line, *job)
            {
                return Some(turn);
            }
        }
        None
    }

    fn start(&mut self, turn: Turn, tasks: &mut JoinSet<()>, reports: &UnboundedSender<Event>) {
        let shared = Arc::clone(&self.shared);
        let plan = &shared.net.plan;
        let Some(asked) = &mut self.asked[turn.job] else { return };
        let end = Instant::now() + seconds(plan.total_timeout);
        let deadline = *asked.deadline.get_or_insert(end);
        let keep_alive = turn.behind >= plan.max_per_host as usize;
        let target = asked.target.clone();
        let url = target.url.to_string();
        let reports = reports.clone();
        self.in_flight += 1;
        tasks.spawn(async move {
            match shared.net.get(target, deadline, keep_alive).await {
                Ok(body) => {
                    let _ended = reports.send(Event::Downloaded { line: turn.line });
                    let pool = Arc::clone(&shared.pool);
                    pool.spawn(move || {
                        if !shared.desk.is_stopped() {
                            shared.make(turn.job, &url, body);
                        }
                        let _ended = reports.send(Event::Made);
                    });
                }
                Err(failure) => {
                    let (job, line) = (turn.job, turn.line);
                    let _ended = reports.send(Event::Failed { job, line, failure });
                }
            }
        });
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Downloaded { line } => {
                self.flight.answer();
                self.queue.done(line);
            }
            Event::Made => self.in_flight -= 1,
            Event::Failed { job, line, failure } => {
                self.queue.done(line);
                self.in_flight -= 1;
                if let Some(turn) = failure.turn {
                    return self.postpone(job, line, turn);
                }
                match self.again(job, failure) {
                    Some(due) => self.delayed.push(Reverse((due, job))),
                    None => self.shared.hand_in(job, Outcome::refused(failure.reason)),
                }
            }
        }
    }

    /// Lets a whole line rest until its site may be asked again; gives up what would wait too long.
    fn postpone(&mut self, job: usize, line: usize, turn: Instant) {
        let now = Instant::now();
        let slowed = *self.slowed.entry(line).or_insert(now);
        if turn > slowed + seconds(self.shared.net.plan.max_host_wait) {
            return self.shared.hand_in(job, Outcome::refused(Reason::CrawlDelay));
        }
        if let Some(deadline) = self.asked[job].as_mut().and_then(|asked| asked.deadline.as_mut()) {
            *deadline += turn.saturating_duration_since(now);
        }
        self.queue.rest(line);
        self.queue.push_front(line, job);
        self.resting.push(Reverse((turn, line)));
    }

    /// When to try again, if at all: a try that could not end in time is not made.
    fn again(&mut self, job: usize, failure: Failure) -> Option<Instant> {
        let asked = self.asked[job].as_mut()?;
        let plan = &self.shared.net.plan;
        let mut free = false;
        if failure.reason.is_own_shortage() {
            // Not the site's fault: fewer at a time, and neither the try nor the wait counts.
            free = self.flight.shortage();
        } else if failure.reason.is_transient() && asked.tries < plan.retries {
            asked.tries += 1;
        } else {
            return None;
        }
        let wait = back_off(asked.tries.saturating_sub(1), failure.wait, plan);
        let due = Instant::now() + wait;
        if let Some(deadline) = asked.deadline.as_mut().filter(|_| free) {
            *deadline = due + seconds(plan.total_timeout);
        }
        asked.deadline.is_some_and(|deadline| due < deadline).then_some(due)
    }
}

impl Shared {
    fn make(&self, job: usize, url: &str, body: super::body::Body) {
        let (bytes, hold) = body.into_parts();
        let outcome = self.maker.make(url, bytes, &self.wanted[job]);
        drop(hold);
        self.hand_in(job, outcome);
    }

    fn hand_in(&self, job: usize, outcome: Outcome) {
        if let Some(Err(error)) = self.maker.hook.as_ref().map(|hook| hook.check()) {
            self.desk.fail(error);
        }
        if let Some(error) = self.alarm.note(outcome.result.as_ref().err().copied()) {
            self.desk.fail(error);
        }
        self.desk.bytes.fetch_add(outcome.len(), Ordering::SeqCst);
        // Nobody listens any more when the unit was stopped.
        let _stopped = self.finished.send((job, outcome));
    }
}
