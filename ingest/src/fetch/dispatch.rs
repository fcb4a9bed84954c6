//! Which request goes next, and what follows from how it ended.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Reason;
use super::alarm::Alarm;
use super::desk::Desk;
use super::get::{Failure, Net, back_off};
use super::in_flight::InFlight;
use super::meter::{Meter, Step};
use super::picture::{Maker, Outcome, Wanted};
use super::plan::seconds;
use super::policy::Target;
use super::queue::{FairQueue, Turn};
use super::rows::Work;

/// How often the dispatcher looks whether it should stop.
const TICK: Duration = Duration::from_millis(100);
/// Rows from the one wanted next whose URLs are asked for even when the desk is full.
const WANTED: usize = 64;

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
pub(super) struct Dispatcher {
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
pub(super) struct Shared {
    pub(super) net: Net,
    pub(super) maker: Maker,
    /// By job.
    pub(super) wanted: Vec<Arc<Wanted>>,
    pub(super) desk: Arc<Desk>,
    pub(super) alarm: Arc<Alarm>,
    pub(super) pool: Arc<rayon::ThreadPool>,
    pub(super) finished: Sender<(usize, Outcome)>,
    pub(super) meter: Arc<Meter>,
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
    pub(super) fn new(shared: Shared, work: &Work) -> Self {
        let plan = &shared.net.plan;
        let mut queue = FairQueue::new(plan.max_per_host as usize);
        let asked = work.jobs.iter().enumerate().map(|(number, job)| {
            let target = job.target.as_ref().ok()?.clone();
            let line = queue.push(target.domain(), number);
            Some(Asked { target, line, tries: 0, deadline: None })
        });
        let asked = asked.collect();
        Self {
            queue,
            asked,
            jobs: work.rows.iter().map(|row| row.job).collect(),
            delayed: BinaryHeap::new(),
            resting: BinaryHeap::new(),
            slowed: HashMap::new(),
            in_flight: 0,
            flight: InFlight::new(plan.thread_count),
            shared: Arc::new(shared),
        }
    }

    /// Ends when every URL has an outcome, or the desk is stopped.
    pub(super) async fn run(mut self) {
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
            self.tell();
            self.pause(&mut tasks, &mut events).await;
        }
        self.shared.meter.flight(0, self.flight.limit());
        self.shared.meter.held_back(0);
    }

    /// Tells the meter what is in flight, and what would be if its sites could bear it.
    fn tell(&self) {
        let (meter, limit) = (&self.shared.meter, self.flight.limit());
        let free = limit.saturating_sub(self.in_flight);
        let full = self.shared.desk.is_full();
        meter.flight(self.in_flight, limit);
        meter.held_back(if full { 0 } else { free.min(self.queue.len()) });
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
                    shared.meter.downloaded(body.len());
                    let queued = shared.meter.enter(Step::Queue);
                    let _ended = reports.send(Event::Downloaded { line: turn.line });
                    let pool = Arc::clone(&shared.pool);
                    pool.spawn(move || {
                        drop(queued);
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
                    Some(due) => {
                        self.shared.meter.retry();
                        self.delayed.push(Reverse((due, job)));
                    }
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
        let at = self.meter.enter(Step::Decode);
        let outcome = self.maker.make(url, bytes, &self.wanted[job]);
        drop((hold, at));
        self.meter.made(outcome.len());
        self.hand_in(job, outcome);
    }

    fn hand_in(&self, job: usize, outcome: Outcome) {
        if let Some(Err(error)) = self.maker.crew.as_ref().map(|crew| crew.check()) {
            self.desk.fail(error);
        }
        if let Some(Err(error)) = self.maker.hook.as_ref().map(|hook| hook.check()) {
            self.desk.fail(error);
        }
        self.meter.ended(outcome.result.as_ref().err().copied());
        if let Some(error) = self.alarm.note(outcome.result.as_ref().err().copied()) {
            self.desk.fail(error);
        }
        self.desk.bytes.fetch_add(outcome.len(), Ordering::SeqCst);
        // Nobody listens any more when the unit was stopped.
        let _stopped = self.finished.send((job, outcome));
    }
}
