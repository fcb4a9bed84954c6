//! The other side: workers that wait for pictures, and a watch that kills those that take too long.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use stage::{Error, Result};

use super::super::picture::Finished;
use super::super::plan::seconds;
use super::super::{FetchPlan, Reason};
use super::frame;
use pixels::blur::Face;

/// How long a worker may take to start.
const START: Duration = Duration::from_secs(30);
/// Workers in a row that did not start, after which the run ends.
const TRIES: u32 = 5;

/// Workers for one fetcher.
pub(in super::super) struct Crew {
    command: Vec<OsString>,
    /// The plan as a worker reads it.
    plan: Vec<u8>,
    timeout: Duration,
    idle: Mutex<Vec<Worker>>,
    watch: Arc<Watch>,
    not_started: AtomicU32,
}

impl std::fmt::Debug for Crew {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Crew").field("command", &self.command).finish_non_exhaustive()
    }
}

impl Crew {
    /// Starts a first worker, so that what keeps all from starting is known before anything is
    /// fetched.
    pub(in super::super) fn open(plan: &FetchPlan, command: &[OsString]) -> Result<Self> {
        let plan_text = serde_json::to_vec(plan)
            .map_err(|error| Error::internal("cannot write the plan").because(error))?;
        let crew = Self {
            command: command.to_vec(),
            plan: plan_text,
            timeout: seconds(plan.decode.timeout),
            idle: Mutex::default(),
            watch: Watch::start(),
            not_started: AtomicU32::new(0),
        };
        let first = crew.start().map_err(|error| {
            Error::internal("decode.isolation: cannot start a worker process")
                .because(error)
                .hint("give it more `decode.memory`, or decode in this process: isolation none")
        })?;
        crew.give_back(first);
        Ok(crew)
    }

    /// Makes a picture in a worker.
    ///
    /// # Errors
    /// What the decoder says; `decoder_timeout` when it took too long; `decoder_crashed` when two
    /// workers died of it.
    pub(in super::super) fn develop(
        &self,
        bytes: &[u8],
        faces: &[Face],
    ) -> std::result::Result<Finished, Reason> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let fresh = idle.is_none();
        match self.try_in(idle, bytes, faces) {
            // It may have died of what earlier pictures left.
            Err(Reason::DecoderCrashed) if !fresh => self.try_in(None, bytes, faces),
            result => result,
        }
    }

    fn try_in(
        &self,
        worker: Option<Worker>,
        bytes: &[u8],
        faces: &[Face],
    ) -> std::result::Result<Finished, Reason> {
        let worker = match worker {
            Some(worker) => Ok(worker),
            None => self.start(),
        };
        let mut worker = match worker {
            Ok(worker) => worker,
            Err(error) => {
                tracing::warn!(%error, "cannot start a decoding process");
                self.not_started.fetch_add(1, Ordering::SeqCst);
                return Err(Reason::DecoderCrashed);
            }
        };
        self.not_started.store(0, Ordering::SeqCst);
        let watched = self.watch.over(&worker.child, self.timeout);
        let answer = worker.ask(bytes, faces);
        let late = watched.end();
        match answer {
            _ if late => Err(Reason::DecoderTimeout),
            Ok(result) => {
                self.give_back(worker);
                result
            }
            Err(error) => {
                tracing::warn!(%error, status = %worker.end(), "a decoding process died");
                Err(Reason::DecoderCrashed)
            }
        }
    }

    /// The error that ends the run when no worker can be started any more.
    pub(in super::super) fn check(&self) -> Result<()> {
        if self.not_started.load(Ordering::SeqCst) < TRIES {
            return Ok(());
        }
        Err(Error::internal(format!("no decoding process could be started {TRIES} times in a row"))
            .hint("this machine has no process or memory left; run with -v to see why"))
    }

    fn start(&self) -> io::Result<Worker> {
        let [program, arguments @ ..] = self.command.as_slice() else {
            return Err(io::Error::other("no program is named"));
        };
        let mut child = Command::new(program)
            .args(arguments)
            .env_clear() // it needs none of the keys that may be there
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null()) // a panic's text is of the picture's making
            .spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("no pipes"));
        };
        let child = Arc::new(Mutex::new(child));
        let mut worker = Worker { child, input: Some(input), output: BufReader::new(output) };
        let watched = self.watch.over(&worker.child, START);
        let ready = worker.greet(&self.plan);
        if watched.end() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        ready.map_err(|error| io::Error::other(format!("{error}; {}", worker.end())))?;
        Ok(worker)
    }

    fn give_back(&self, worker: Worker) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.watch.end();
    }
}

/// One process.
struct Worker {
    child: Arc<Mutex<Child>>,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Worker {
    fn greet(&mut self, plan: &[u8]) -> io::Result<()> {
        self.say(|input| frame::put(input, plan))?;
        match frame::take(&mut self.output)?.as_slice() {
            b"ready" => Ok(()),
            _ => Err(io::Error::other("not a worker's greeting")),
        }
    }

    fn ask(
        &mut self,
        bytes: &[u8],
        faces: &[Face],
    ) -> io::Result<std::result::Result<Finished, Reason>> {
        self.say(|input| {
            frame::put(input, &frame::from_faces(faces))?;
            frame::put(input, bytes)
        })?;
        frame::take_result(&mut self.output)
    }

    fn say(&mut self, what: impl FnOnce(&mut ChildStdin) -> io::Result<()>) -> io::Result<()> {
        let input = self.input.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        what(input)?;
        input.flush()
    }

    /// Ends it, and says how it ended.
    fn end(&mut self) -> String {
        drop(self.input.take());
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = child.try_wait().ok().flatten();
        let _killed = child.kill();
        match gone.map_or_else(|| child.wait(), Ok) {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ended = self.end();
    }
}

/// Kills processes at their deadlines; one thread for all.
struct Watch {
    posts: Mutex<Posts>,
    changed: Condvar,
}

#[derive(Default)]
struct Posts {
    /// By deadline, and a number that tells two of the same moment apart.
    due: BTreeMap<(Instant, u64), Due>,
    next: u64,
    ended: bool,
}

struct Due {
    child: Arc<Mutex<Child>>,
    late: Arc<AtomicBool>,
}

/// A deadline that has not passed, until [`Watched::end`].
struct Watched<'a> {
    watch: &'a Watch,
    post: (Instant, u64),
    late: Arc<AtomicBool>,
}

impl Watched<'_> {
    /// Whether the process was killed.
    fn end(self) -> bool {
        self.watch.lock().due.remove(&self.post);
        self.late.load(Ordering::SeqCst)
    }
}

impl Watch {
    fn start() -> Arc<Self> {
        let watch = Arc::new(Self { posts: Mutex::default(), changed: Condvar::new() });
        let mine = Arc::clone(&watch);
        std::thread::spawn(move || mine.run());
        watch
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Posts> {
        self.posts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn over(&self, child: &Arc<Mutex<Child>>, limit: Duration) -> Watched<'_> {
        let late = Arc::new(AtomicBool::new(false));
        let mut posts = self.lock();
        posts.next += 1;
        let post = (Instant::now() + limit, posts.next);
        posts.due.insert(post, Due { child: Arc::clone(child), late: Arc::clone(&late) });
        drop(posts);
        self.changed.notify_one();
        Watched { watch: self, post, late }
    }

    fn run(&self) {
        let mut posts = self.lock();
        while !posts.ended {
            let now = Instant::now();
            posts = match posts.due.first_key_value() {
                None => self.changed.wait(posts).unwrap_or_else(PoisonError::into_inner),
                Some(((due, _), _)) if *due > now => {
                    let left = *due - now;
                    let waited = self.changed.wait_timeout(posts, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                Some(_) => {
                    if let Some((_, due)) = posts.due.pop_first() {
                        // Said before it dies, so that its end is not taken for a crash.
                        due.late.store(true, Ordering::SeqCst);
                        let mut child = due.child.lock().unwrap_or_else(PoisonError::into_inner);
                        let _gone = child.kill();
                    }
                    posts
                }
            };
        }
    }

    fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker of shell: it reads its plan, greets, and then does this.
    fn worker(before: &str, plan: &FetchPlan, then: &str) -> [OsString; 3] {
        let length = 8 + serde_json::to_vec(plan).unwrap().len();
        let script = format!(
            r"PATH=/usr/bin:/bin; {before} head -c {length} >/dev/null; printf '\005\0\0\0\0\0\0\0ready'; {then}"
        );
        ["/bin/sh", "-c", &script].map(OsString::from)
    }

    fn crew(then: &str, timeout: f64) -> Crew {
        let mut plan = FetchPlan::default();
        plan.decode.timeout = timeout;
        Crew::open(&plan, &worker("", &plan, then)).unwrap()
    }

    #[test]
    fn an_abort_a_segfault_an_exit_and_nonsense_cost_that_picture_alone() {
        for then in ["kill -ABRT $$", "kill -SEGV $$", "exit 3", "echo what is this, a picture"] {
            let crew = crew(then, 20.0);
            for _ in 0..7 {
                assert_eq!(crew.develop(b"x", &[]), Err(Reason::DecoderCrashed), "{then}");
            }
            crew.check().unwrap();
        }
    }

    #[test]
    fn a_loop_ends_at_the_deadline_and_the_process_with_it() {
        let crew = crew("while :; do :; done", 0.3);
        let child = Arc::clone(&crew.idle.lock().unwrap()[0].child);
        let began = Instant::now();
        assert_eq!(crew.develop(b"x", &[]), Err(Reason::DecoderTimeout));
        assert!(began.elapsed() >= Duration::from_millis(300));
        assert!(began.elapsed() < Duration::from_secs(10));
        assert!(child.lock().unwrap().try_wait().unwrap().is_some());
        assert!(crew.idle.lock().unwrap().is_empty());
    }

    #[test]
    fn a_program_that_is_no_worker_is_told_before_anything_is_fetched() {
        for command in [&["/no/such/program"][..], &["/bin/sh", "-c", "exit 9"], &[]] {
            let command: Vec<OsString> = command.iter().map(OsString::from).collect();
            let error = Crew::open(&FetchPlan::default(), &command).unwrap_err().to_string();
            assert!(error.contains("cannot start a worker process"), "{error}");
        }
    }

    #[test]
    fn workers_that_start_no_more_end_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("mark");
        let before = format!("[ -e {0} ] && exit 1; >{0};", mark.display());
        let plan = FetchPlan::default();
        let crew = Crew::open(&plan, &worker(&before, &plan, "exit")).unwrap();
        for _ in 0..5 {
            crew.check().unwrap();
            assert_eq!(crew.develop(b"x", &[]), Err(Reason::DecoderCrashed));
        }
        let message = crew.check().unwrap_err().to_string();
        assert!(message.contains("5 times in a row"), "{message}");
    }
}
