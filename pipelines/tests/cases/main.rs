//! Every folder `cases/<stage>/<name>/`: bad input, and what the binary makes of it.
//!
//! A folder holds the input files and `case.json` ([`Case`]); `docs/bad-input.md` lists them. A new
//! case is a new folder. Files that would be large or are not text are made from a few words
//! ([`make`]); what a server answers is written down in the same words ([`web`]).

#[path = "../common/mod.rs"]
mod common;
mod make;
mod web;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use make::Pieces;
use serde::Deserialize;
use serde_json::{Value, json};

/// Cases whose expected outcome is right and not yet what happens, each with the reason. A case
/// that has come right has to leave this list.
const KNOWN: &[(&str, &str)] = &[];

/// A run that has not ended by then hangs.
const HANG: Duration = Duration::from_secs(30);

/// What is done and what must come of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// Numbers in the list of named bad inputs (`docs/bad-input.md`); none for a case of our own.
    #[serde(default)]
    numbers: Vec<u32>,
    /// The fact, in one sentence.
    fact: String,
    /// Arguments of `clipmill`; default `run recipe.yaml`. `--json` is put before them.
    #[serde(default = "run_the_recipe")]
    args: Vec<String>,
    /// Files made beside those of the folder.
    #[serde(default)]
    make: BTreeMap<String, Pieces>,
    /// What a server on loopback answers, by path. In the folder's files `$WEB` stands for its
    /// address, `$PORT` for its port, and `$SILENT_PORT` for a port at which nobody speaks.
    #[serde(default)]
    web: BTreeMap<String, web::Answer>,
    /// Most files and sockets that the run may have open, set by the shell.
    #[serde(default)]
    open_files: Option<u32>,
    /// The exit code.
    exit: i32,
    /// Texts that stderr has.
    #[serde(default)]
    stderr_has: Vec<String>,
    /// Texts that neither stderr nor stdout has.
    #[serde(default)]
    never_says: Vec<String>,
    /// Counts by stage: `kept`, and `dropped` and `failed` by reason where there are any.
    #[serde(default)]
    counts: BTreeMap<String, Value>,
    /// Files by path below the case's folder: whether they are there afterwards.
    #[serde(default)]
    files: BTreeMap<String, bool>,
    /// Largest resident memory, MiB; looked at where the system tells it.
    #[serde(default = "peak")]
    peak_mib: u64,
}

fn run_the_recipe() -> Vec<String> {
    vec!["run".to_owned(), "recipe.yaml".to_owned()]
}

fn peak() -> u64 {
    500
}

#[test]
fn every_case_ends_as_it_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("cases");
    let cases = Mutex::new(folders(&folders(std::slice::from_ref(&root))));
    let found = cases.lock().unwrap().len();
    assert!(found >= 170, "{found} cases under {}", root.display());
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8) {
            scope.spawn(|| {
                while let Some(folder) = { cases.lock().unwrap().pop() } {
                    let name = folder.strip_prefix(&root).unwrap().display().to_string();
                    let known = KNOWN.iter().find(|(known, _)| *known == name);
                    match (run(&folder), known) {
                        (Err(what), None) => wrong.lock().unwrap().push(format!("{name}: {what}")),
                        (Ok(()), Some(_)) => wrong
                            .lock()
                            .unwrap()
                            .push(format!("{name}: came right; take it out of KNOWN")),
                        (Err(_), Some((_, why))) => eprintln!("known: {name}: {why}"),
                        (Ok(()), None) => {}
                    }
                }
            });
        }
    });
    let mut wrong = wrong.into_inner().unwrap();
    wrong.sort();
    assert!(wrong.is_empty(), "{} of {found} cases:\n\n{}", wrong.len(), wrong.join("\n\n"));
}

#[test]
fn the_page_about_bad_input_lists_every_case() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let page = std::fs::read_to_string(root.join("docs/bad-input.md")).unwrap();
    for folder in folders(&folders(&[root.join("cases")])) {
        let name = folder.strip_prefix(root.join("cases")).unwrap().display().to_string();
        let name = format!("`{name}`");
        assert!(page.contains(&name), "docs/bad-input.md lacks {name}");
        for number in read(&folder).unwrap().numbers {
            let row = page.lines().find(|line| line.starts_with(&format!("| {number} |")));
            assert!(row.is_some_and(|row| row.contains(&name)), "row {number} lacks {name}");
        }
    }
}

/// The folders in these folders, sorted.
fn folders(of: &[PathBuf]) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = of
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    found
}

fn read(folder: &Path) -> Result<Case, String> {
    let text = std::fs::read_to_string(folder.join("case.json")).map_err(|e| e.to_string())?;
    serde_json::from_str(&text).map_err(|e| format!("case.json: {e}"))
}

/// Does what the case says in a folder of its own; an error says what came otherwise.
fn run(folder: &Path) -> Result<(), String> {
    let case = read(folder)?;
    let place = tempfile::tempdir().unwrap();
    let server = web::serve(&case.web);
    // Takes connections and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_port = silent.local_addr().unwrap().port().to_string();
    let (address, port) = server.as_ref().map_or_else(Default::default, |server| {
        (server.address().to_string(), server.address().port().to_string())
    });
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text =
            std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let text = text.replace("$WEB", &address).replace("$PORT", &port);
        let text = text.replace("$SILENT_PORT", &silent_port);
        std::fs::write(place.path().join(path.file_name().unwrap()), text).unwrap();
    }
    for (name, pieces) in &case.make {
        let path = place.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, pieces.bytes()).unwrap();
    }
    let (out, err) = (place.path().join("stdout"), place.path().join("stderr"));
    let mut command = common::clipmill();
    if let Some(open_files) = case.open_files {
        let program = command.get_program().to_owned();
        command = Command::new("sh");
        command.args(["-c", "ulimit -n \"$0\"; exec \"$@\"", &open_files.to_string()]).arg(program);
    }
    let mut child = command
        .current_dir(place.path())
        .arg("--json")
        .args(&case.args)
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&out).unwrap())
        .stderr(std::fs::File::create(&err).unwrap())
        .spawn()
        .unwrap();
    let (code, peak) = wait(&mut child);
    let read = |path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
    let (out, err) = (read(&out), read(&err));
    let shown = format!("{}\n--- stdout\n{}--- stderr\n{}", case.fact, start(&out), start(&err));
    if code != Some(case.exit) {
        return Err(format!("exit {code:?}, expected {}: {shown}", case.exit));
    }
    for text in case.stderr_has {
        if !err.contains(&text) {
            return Err(format!("stderr lacks {text:?}: {shown}"));
        }
    }
    for text in case.never_says.iter().map(String::as_str).chain(["panicked"]) {
        if err.contains(text) || out.contains(text) {
            return Err(format!("it says {text:?}: {shown}"));
        }
    }
    if peak > case.peak_mib {
        return Err(format!("peak of {peak} MiB, expected at most {}: {shown}", case.peak_mib));
    }
    for (name, there) in case.files {
        if place.path().join(&name).exists() != there {
            return Err(format!("{name} there: {}: {shown}", !there));
        }
    }
    if !case.counts.is_empty() {
        let result: Value = serde_json::from_str(&out).map_err(|e| format!("{e}: {shown}"))?;
        for (stage, expected) in case.counts {
            let found = counts(&result, &stage);
            if found != expected {
                return Err(format!("counts of {stage}: {found}, expected {expected}: {shown}"));
            }
        }
    }
    Ok(())
}

/// Exit code (none for a hang or a signal) and the peak of resident memory in MiB.
fn wait(child: &mut Child) -> (Option<i32>, u64) {
    let began = Instant::now();
    let status = PathBuf::from(format!("/proc/{}/status", child.id()));
    let mut peak = 0;
    loop {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0) / 1024);
        if let Some(status) = child.try_wait().unwrap() {
            return (status.code(), peak);
        }
        if began.elapsed() > HANG {
            child.kill().unwrap();
            child.wait().unwrap();
            return (None, peak);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A stage's counts without the empty ones and without the sum.
fn counts(result: &Value, id: &str) -> Value {
    let stages = result["stages"].as_array().into_iter().flatten();
    let Some(stage) = stages.into_iter().find(|stage| stage["id"] == id) else {
        return Value::Null;
    };
    let mut found = json!({"kept": stage["counts"]["kept"]});
    for verdict in ["dropped", "failed"] {
        let reasons = &stage["counts"][verdict];
        if reasons.as_object().is_some_and(|reasons| !reasons.is_empty()) {
            found[verdict] = reasons.clone();
        }
    }
    found
}

/// The first 3,000 characters.
fn start(text: &str) -> String {
    text.chars().take(3000).collect()
}
