//! A unit of links, from the first request to the last row.
//!
//! Three parties: the dispatcher (one async task, `dispatch`) decides which request goes next; a
//! pool of threads makes pictures; the caller's thread puts rows in order and hands them on.
//! Nothing waits for a party that may wait for it: pictures and reports go through channels without
//! a limit, and what bounds memory is that the dispatcher starts no request while too much is
//! finished but not yet handed on (`desk`), except for those rows that are wanted next.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use stage::{Context, Counts, Error, Gate, Links, Pairs, Result, ResultExt};

use super::FetchPlan;
use super::alarm::Alarm;
use super::budget::Bodies;
use super::decode::{Crew, Isolation};
use super::desk::Desk;
use super::dispatch::{Dispatcher, Shared};
use super::dns::{Lookup, lookup_of};
use super::get::{Net, Sites};
use super::hook::Hook;
use super::meter::{Meter, Step};
use super::opt_out::OptOutList;
use super::picture::{Maker, Outcome};
use super::rows::{Row, Work, Writer};
use crate::DialMap;

/// Turns units of links into pairs. What it learns about sites (robots.txt, addresses, their rhythm)
/// it keeps from unit to unit; connections and tasks end with the unit.
pub struct Fetcher {
    plan: Arc<FetchPlan>,
    dial: DialMap,
    sites: Arc<Sites>,
    alarm: Arc<Alarm>,
    hook: Option<Arc<Hook>>,
    crew: Option<Arc<Crew>>,
    meter: Arc<Meter>,
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
        let meter = Meter::new(cx.threads.max(1));
        cx.progress.watch(Arc::clone(&meter) as _);
        let opt_out = Arc::new(OptOutList::read(&plan.opt_out)?);
        Ok(Self {
            sites: Arc::new(Sites::new(&plan, lookup_of(&plan), opt_out)),
            alarm: Arc::new(Alarm::new(&plan)),
            hook: Hook::open(&plan.hooks)?.map(Arc::new),
            crew: None,
            meter,
            plan,
            dial: dial.clone(),
            pool: Arc::new(pool),
            cx: cx.clone(),
        })
    }

    /// Asks `lookup` for the addresses of names, whatever the plan says.
    #[must_use]
    pub fn with_lookup(mut self, lookup: Arc<dyn Lookup>) -> Self {
        self.sites = Arc::new(Sites::new(&self.plan, lookup, Arc::clone(&self.sites.opt_out)));
        self
    }

    /// Where the plan wants pictures decoded in processes: what starts one, a program that calls
    /// [`super::decode::work`]. Starts the first.
    ///
    /// # Errors
    /// When it is no such program.
    pub fn with_workers(mut self, command: &[OsString]) -> Result<Self> {
        if self.plan.decode.isolation == Isolation::Process {
            self.crew = Some(Arc::new(Crew::open(&self.plan, command)?));
        }
        Ok(self)
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
        if self.plan.decode.isolation == Isolation::Process && self.crew.is_none() {
            return Err(Error::internal("decode.isolation: no worker program is named"));
        }
        let work = Work::new(links, &self.plan, &self.sites.opt_out)?;
        let mut writer = Writer::new(links, &self.plan, shard_id)?;
        if work.rows.is_empty() {
            return Ok(Counts::default());
        }
        let share = self.cx.memory / 4;
        let desk = Arc::new(Desk::new(usize::try_from(share).unwrap_or(usize::MAX)));
        let net = Net::new(
            &self.plan,
            &self.dial,
            &self.sites,
            Bodies::new(share),
            Arc::clone(&self.meter),
        )?;
        let (finished, arrivals) = channel();
        let shared = Shared {
            net,
            maker: Maker {
                plan: Arc::clone(&self.plan),
                opt_out: Arc::clone(&self.sites.opt_out),
                gate: Gate::new(share),
                hook: self.hook.clone(),
                crew: self.crew.clone(),
                meter: Arc::clone(&self.meter),
            },
            wanted: work.jobs.iter().map(|job| Arc::clone(&job.wanted)).collect(),
            desk: Arc::clone(&desk),
            alarm: Arc::clone(&self.alarm),
            pool: Arc::clone(&self.pool),
            finished,
            meter: Arc::clone(&self.meter),
        };
        let dispatcher = Dispatcher::new(shared, &work);
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
        if self.hook.is_some() || self.crew.is_some() {
            // What stopped this run may have stopped their processes first: a picture that they did
            // not answer for is not theirs to fail.
            self.cx.cancel.check()?;
        }
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
        work.jobs.iter().filter_map(|job| job.target.as_ref().err()).for_each(|reason| {
            self.meter.ended(Some(*reason));
        });
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
                let at = self.meter.enter(Step::Store);
                sink(batch)?;
                drop(at);
                self.progress(number as u64 + 1, total, writer.counts());
            }
        }
        if let Some(batch) = writer.flush()? {
            let _at = self.meter.enter(Step::Store);
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
