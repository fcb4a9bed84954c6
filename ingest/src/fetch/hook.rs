//! A program of the user's that sees every picture before it is stored, and decides.
//!
//! It is started once for each CPU thread and asked picture after picture, through its standard
//! input: one line of JSON, then the downloaded bytes.
//!
//! ```text
//! {"url":"http://a.example/1.jpg","bytes":4711,"md5":"…","sha256":"…","sha512":"…"}
//! <4711 bytes>
//! ```
//!
//! It answers one line: `keep`, `drop` (nothing of the picture is kept, its digest neither) or
//! `hash_only` (the row keeps the digest of `compute_hash`, and no picture). Anything else, a crash
//! and silence for `timeout` count as `hook_failed`: the picture is not stored. After five of those
//! in a row the run ends. Its standard error is ours; its input ends with the stage.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage::{Error, Result};

use super::plan::seconds;
use super::{Digest, Reason};

/// Programs that are asked about pictures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Hooks {
    /// Program and arguments; it reads a line of JSON with `url`, `bytes` and digests, then so many
    /// bytes, and answers `keep`, `drop` or `hash_only`. What it does not answer is not stored.
    /// Default none.
    pub before_store: Vec<String>,
    /// Longest wait for an answer, seconds, above 0. Default 30.
    pub timeout: f64,
}

impl Default for Hooks {
    fn default() -> Self {
        Self { before_store: Vec::new(), timeout: 30.0 }
    }
}

/// Failures in a row after which the program is taken for broken.
const PATIENCE: u32 = 5;
/// How long a program may take to end after its input has.
const GRACE: Duration = Duration::from_secs(1);
/// Longest answer.
const MAX_ANSWER: u64 = 1024;

/// The program of `before_store`.
#[derive(Debug)]
pub(super) struct Hook {
    command: Vec<String>,
    timeout: Duration,
    idle: Mutex<Vec<Running>>,
    failures: AtomicU32,
}

impl Hook {
    /// Starts it once, so that a wrong name is an error before anything is fetched. None where the
    /// plan names no program.
    pub(super) fn open(plan: &Hooks) -> Result<Option<Self>> {
        if plan.before_store.is_empty() {
            return Ok(None);
        }
        let hook = Self {
            command: plan.before_store.clone(),
            timeout: seconds(plan.timeout),
            idle: Mutex::default(),
            failures: AtomicU32::new(0),
        };
        let first = Running::start(&hook.command).map_err(|error| {
            Error::recipe(format!("hooks.before_store: cannot start `{}`", hook.command[0]))
                .because(error)
                .hint("name a program that can be run, then its arguments: [python3, check.py]")
        })?;
        hook.give_back(first);
        Ok(Some(hook))
    }

    /// Asks about a picture.
    ///
    /// # Errors
    /// Why it must not be stored.
    pub(super) fn ask(&self, url: &str, bytes: &Arc<Vec<u8>>) -> Result<(), Reason> {
        let head = serde_json::json!({
            "url": url,
            "bytes": bytes.len(),
            "md5": Digest::Md5.of(bytes),
            "sha256": Digest::Sha256.of(bytes),
            "sha512": Digest::Sha512.of(bytes),
        });
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let running = match idle {
            Some(running) => Ok(running),
            None => Running::start(&self.command),
        };
        let answer = running.ok().and_then(|mut running| {
            let answer = running.ask(format!("{head}\n"), Arc::clone(bytes), self.timeout)?;
            self.give_back(running);
            Some(answer)
        });
        let count = match answer {
            Some(_) => 0,
            None => self.failures.load(Ordering::SeqCst).saturating_add(1),
        };
        self.failures.store(count, Ordering::SeqCst);
        answer.unwrap_or(Err(Reason::HookFailed))
    }

    /// The error that ends the run when nothing is answered any more.
    pub(super) fn check(&self) -> Result<()> {
        if self.failures.load(Ordering::SeqCst) < PATIENCE {
            return Ok(());
        }
        Err(Error::input(format!(
            "hooks.before_store: `{}` gave no answer {PATIENCE} times in a row",
            self.command.join(" ")
        ))
        .hint("try it by hand: a line of JSON, then as many bytes as it says, then a line back"))
    }

    fn give_back(&self, running: Running) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(running);
    }
}

/// A question: the line, then the bytes.
type Question = (String, Arc<Vec<u8>>);

/// One process. Two threads speak with it, so that neither a full pipe nor silence can hold up who
/// asks.
#[derive(Debug)]
struct Running {
    child: Child,
    questions: Option<Sender<Question>>,
    answers: Receiver<String>,
}

impl Running {
    fn start(command: &[String]) -> std::io::Result<Self> {
        let mut child = Command::new(&command[0])
            .args(&command[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (questions, asked) = channel::<Question>();
        let (say, answers) = channel();
        let (input, output) = (child.stdin.take(), child.stdout.take());
        std::thread::spawn(move || {
            let Some(mut input) = input else { return };
            for (head, bytes) in asked {
                let written =
                    input.write_all(head.as_bytes()).and_then(|()| input.write_all(&bytes));
                if written.and_then(|()| input.flush()).is_err() {
                    return; // the other thread sees the end of the output
                }
            }
        });
        std::thread::spawn(move || {
            let Some(output) = output else { return };
            let mut output = BufReader::new(output);
            loop {
                let mut line = String::new();
                let read = (&mut output).take(MAX_ANSWER).read_line(&mut line);
                if !matches!(read, Ok(1..)) || !line.ends_with('\n') || say.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, questions: Some(questions), answers })
    }

    /// None where there is no answer that means something; the process is of no use then.
    fn ask(
        &mut self,
        head: String,
        bytes: Arc<Vec<u8>>,
        timeout: Duration,
    ) -> Option<Result<(), Reason>> {
        self.questions.as_ref()?.send((head, bytes)).ok()?;
        let answer = self.answers.recv_timeout(timeout).unwrap_or_default();
        match answer.trim() {
            "keep" => Some(Ok(())),
            "drop" => Some(Err(Reason::HookDrop)),
            "hash_only" => Some(Err(Reason::HookHashOnly)),
            _ => {
                let _gone = self.child.kill();
                None
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.questions = None; // ends its input
        let began = Instant::now();
        while began.elapsed() < GRACE && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hook of shell: `$head` is the line; the bytes are read and thrown away.
    fn hook(answer: &str, timeout: f64) -> Hook {
        let script = format!(
            r#"while IFS= read -r head; do
                 n=${{head##*\"bytes\":}}; n=${{n%%,*}}
                 dd bs=1 count="$n" of=/dev/null 2>/dev/null
                 {answer}
               done"#
        );
        let before_store = ["sh", "-c", &script].map(str::to_owned).to_vec();
        Hook::open(&Hooks { before_store, timeout }).unwrap().unwrap()
    }

    fn ask(hook: &Hook, bytes: &[u8]) -> Result<(), Reason> {
        hook.ask("http://a.example/1.jpg", &Arc::new(bytes.to_vec()))
    }

    #[test]
    fn it_sees_digests_and_says_keep_drop_or_hash_only() {
        // md5 of "one" and "two".
        let hook = hook(
            r"case $head in
                 *f97c5d29941bfb1b2fdab0874906ab82*) echo keep;;
                 *b8a9f715dbb64fd5c56e7783c6820a61*) echo drop;;
                 *) echo hash_only;;
               esac",
            30.0,
        );
        for _ in 0..3 {
            assert_eq!(ask(&hook, b"one"), Ok(()));
            assert_eq!(ask(&hook, b"two"), Err(Reason::HookDrop));
            assert_eq!(ask(&hook, b"three\nlines\n"), Err(Reason::HookHashOnly));
        }
        hook.check().unwrap();
        assert_eq!(hook.idle.lock().unwrap().len(), 1, "one process answered all");
    }

    #[test]
    fn silence_a_crash_and_another_word_are_failures_and_five_in_a_row_end_the_run() {
        for answer in ["sleep 60", "exit 1", "echo maybe", "printf keep; exit"] {
            let hook = hook(answer, 0.3);
            for _ in 0..4 {
                assert_eq!(ask(&hook, b"x"), Err(Reason::HookFailed), "{answer}");
            }
            hook.check().unwrap();
            assert_eq!(ask(&hook, b"x"), Err(Reason::HookFailed));
            let message = hook.check().unwrap_err().to_string();
            assert!(message.contains("gave no answer 5 times in a row"), "{message}");
        }
    }

    #[test]
    fn an_answer_after_a_failure_counts_anew() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("mark");
        let mark = mark.to_str().unwrap();
        let hook = hook(&format!("if [ -e {mark} ]; then echo keep; else >{mark}; exit; fi"), 30.0);
        assert_eq!(ask(&hook, b"x"), Err(Reason::HookFailed));
        assert_eq!(ask(&hook, &vec![0; 200_000][..0]), Ok(()));
        assert_eq!(hook.failures.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error_before_anything_is_fetched() {
        let hooks = Hooks { before_store: vec!["/no/such/program".into()], ..Hooks::default() };
        let message = Hook::open(&hooks).unwrap_err().to_string();
        assert!(message.contains("cannot start `/no/such/program`"), "{message}");
        assert!(Hook::open(&Hooks::default()).unwrap().is_none());
    }
}
