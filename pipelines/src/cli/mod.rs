//! The command line: what can be typed, and what each command prints.
//!
//! stdout is data (one JSON document with `--json`), stderr is talk. Exit codes are those of
//! [`stage::Kind::exit_code`], listed in `clipmill --help`.

mod args;
mod compare;
mod demo;
mod diff;
mod flags;
mod img2dataset;
mod index;
mod inspect;
mod model;
mod open_clip;
mod peek;
mod progress;
mod purge;
mod run;
mod share;
mod single;
mod stream;
mod upkeep;
mod view;
mod why;
mod worker;

pub(crate) use progress::brief;
pub(crate) use run::ESTIMATE;
pub(crate) use worker::decode_worker;

use std::process::ExitCode;

use serde_json::Value;
use stage::{Error, Result};

use crate::recipe::clean;

/// Parses the command line, runs the command, prints its result or its error.
#[must_use]
pub fn main() -> ExitCode {
    // The allocator would give large tensors back to the system between steps, and ask again.
    kernels::keep_freed_memory();
    if let Some(code) = worker::main() {
        return code;
    }
    let command = args::command();
    let matches = command.try_get_matches().unwrap_or_else(|error| refuse(&error));
    init_logging(matches.get_count("verbose"));
    let json = matches.get_flag("json");
    match dispatch(&matches) {
        Ok(output) => match output.print(json) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                report(&error, false);
                ExitCode::from(error.kind().exit_code())
            }
        },
        Err(error) => {
            report(&error, json);
            ExitCode::from(error.kind().exit_code())
        }
    }
}

/// Ends with clap's words; a flag of open_clip's that a training does not have is answered.
fn refuse(error: &clap::Error) -> ! {
    use clap::error::{ContextKind, ContextValue};
    let trains = std::env::args().nth(1).is_some_and(|name| name == "train");
    if let (true, Some(ContextValue::String(flag))) = (trains, error.get(ContextKind::InvalidArg))
        && let Some(hint) = train::plan::open_clip::hint(flag)
    {
        eprintln!("error: no flag `{}`\nhint: {hint}", clean(flag, 100));
        std::process::exit(2);
    }
    error.exit()
}

fn dispatch(matches: &clap::ArgMatches) -> Result<Output> {
    let Some((name, args)) = matches.subcommand() else {
        return Err(Error::recipe("no command").hint("see `clipmill --help`"));
    };
    match name {
        "run" => run::run(args),
        "check" => inspect::check(args),
        "plan" => run::plan(args),
        "stages" => Ok(inspect::stages()),
        "schema" => Ok(inspect::schema(args)),
        "why" => why::why(args),
        "demo" => demo::demo(args),
        "replay" => run::replay(args),
        "report" => run::report(args),
        "compare" => compare::run(args),
        "verify" => upkeep::verify(args),
        "gc" => upkeep::gc(args),
        "purge" => purge::purge(args),
        "verify-purge" => purge::verify(args),
        "diff" => diff::diff(args),
        "view" => view::run(args),
        "ls" => peek::ls(args),
        "cat" => peek::cat(args),
        "stat" => peek::stat(args),
        "model" => model::model(args),
        "index" => index::index(args),
        "stream" => stream::stream(args),
        "completions" => inspect::completions(args),
        kind => single::run(kind, args),
    }
}

/// A required argument.
fn text_of(args: &clap::ArgMatches, name: &str) -> Result<String> {
    let text = args.get_one::<String>(name).cloned();
    text.ok_or_else(|| Error::recipe(format!("`{name}` is needed")))
}

/// What a command has to say on stdout.
pub(crate) struct Output {
    /// For people.
    text: String,
    /// For programs, with `--json`.
    json: Value,
}

impl Output {
    pub(crate) fn new(text: impl Into<String>, json: Value) -> Self {
        Self { text: text.into(), json }
    }

    /// Nothing where there is nothing to say: a command may have written its own data.
    fn print(&self, json: bool) -> Result<()> {
        let text = if json { self.json.to_string() } else { tame(self.text.trim_end()) };
        if text.is_empty() || json && self.json.is_null() {
            return Ok(());
        }
        to_stdout(format!("{text}\n").as_bytes())
    }
}

/// Without what a terminal would obey: names in shards and results are of somebody's making.
fn tame(text: &str) -> String {
    let safe = |c: char| if c.is_control() && !"\n\t".contains(c) { '\u{fffd}' } else { c };
    text.chars().map(safe).collect()
}

/// Writes a result. A closed pipe (`| head`) is the reader's choice, not a failure of ours; a full
/// disk is one.
fn to_stdout(bytes: &[u8]) -> Result<()> {
    use std::io::{ErrorKind, Write};
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::store("cannot write the result to stdout").because(error))
        }
        _ => Ok(()),
    }
}

fn report(error: &Error, json: bool) {
    tracing::debug!(?error, "failed");
    // What a file says is never said to the terminal as it stands.
    eprintln!("error: {}", clean(&error.to_string(), usize::MAX));
    if let Some(hint) = error.hint_text() {
        eprintln!("hint: {}", clean(hint, usize::MAX));
    }
    if json {
        let value = serde_json::json!({
            "error": error.to_string(),
            "hint": error.hint_text(),
            "kind": format!("{:?}", error.kind()).to_lowercase(),
            "exit_code": error.kind().exit_code(),
        });
        // What failed before is the worse of two errors.
        let _ = Output::new("", value).print(true);
    }
}

fn init_logging(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("CLIPMILL_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let _ = tracing_subscriber::fmt()
        .with_ansi(colour)
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
}
