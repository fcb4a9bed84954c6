//! Runs that are killed, fail at a durable step, or meet a full disk, and are run again: the same
//! bytes each time. Links → dedup → fetch → judge → select → reshard, three shards.
//!
//! `bench/faults.sh` runs the same for longer: `CLIPMILL_KILLS` is the number of runs to kill and
//! `CLIPMILL_KILL_SEED` chooses the moments; with `CLIPMILL_FAULT_ALL` every durable step from
//! `CLIPMILL_FAULT_FIRST` to `CLIPMILL_FAULT_LAST` meets every action.

mod common;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{World, clipmill, run_well, stderr};
use serde_json::Value;

/// The stages of the other tests with fourteen samples a shard: three shards.
fn recipe(world: &World, name: &str) -> PathBuf {
    world.recipe(
        name,
        &format!(
            "  - links: {{wat: [{}]}}\n  - dedup: {{by: uid}}\n  - fetch: {{image_size: 32, resize_mode: border, number_sample_per_shard: 14, retries: 0, thread_count: 4}}\n  - judge:\n      - caption_length: {{min_words: 2}}\n  - select: {{}}\n  - reshard: {{samples_per_shard: 7}}\n",
            world.path("crawl.warc.wat").display()
        ),
    )
}

/// Everything that a finished output holds: files with their bytes; commit records without what is
/// random or a clock value. The report, which shows seconds, is there as a name.
///
/// # Panics
/// When something is left that a finished run should have tidied away.
fn contents(output: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![output.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(output).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            assert!(!name.contains("/_attempts/"), "left behind: {name}");
            assert!(!name.starts_with(".clipmill/") || name == ".clipmill/lock", "left: {name}");
            if name.contains("/_work/") {
                continue;
            }
            let mut bytes = std::fs::read(&path).unwrap();
            if name.contains("/_commits/") {
                let record: Value = serde_json::from_slice(&bytes).unwrap();
                let fixed = ["unit", "key", "code", "counts", "files"].map(|field| &record[field]);
                bytes = serde_json::to_vec(&fixed).unwrap();
            } else if name == "report.html" {
                assert!(bytes.ends_with(b"</html>\n") || bytes.ends_with(b"</html>"));
                bytes.clear();
            }
            found.insert(name, bytes);
        }
    }
    found
}

/// The names that differ, which say more than the bytes.
fn assert_same(whole: &BTreeMap<String, Vec<u8>>, output: &Path, after: &str) {
    let found = contents(output);
    let names = whole.keys().chain(found.keys());
    let other: Vec<&String> = names.filter(|name| whole.get(*name) != found.get(*name)).collect();
    assert!(other.is_empty(), "after {after} these differ: {other:?}");
}

/// Where the outputs of a test lie: in memory where that can be had, since what is shown here does
/// not rest on the disk, and hundreds of runs sync thousands of files.
fn room() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// An output made without disturbance, and how long that took.
fn undisturbed(room: &Path, recipe: &Path) -> (BTreeMap<String, Vec<u8>>, Duration) {
    let output = room.join("whole");
    let began = Instant::now();
    run_to(recipe, &output);
    let whole = contents(&output);
    let shards = whole.keys().filter(|name| name.starts_with("fetch/") && name.ends_with(".tar"));
    assert_eq!(shards.count(), 3);
    (whole, began.elapsed())
}

fn run_to(recipe: &Path, output: &Path) {
    run_well(recipe, &["--output", output.to_str().unwrap()]);
}

/// Whether `bench/faults.sh` takes the steps a few at a time.
fn in_slices() -> bool {
    std::env::var_os("CLIPMILL_FAULT_ALL").is_some()
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// Marsaglia's xorshift64: the moments of a seed are the same everywhere.
struct Moments(u64);

impl Moments {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound.max(1)
    }
}

/// What an injected fault looks like to whoever reads the message.
const ACTIONS: [(&str, &str); 3] =
    [("error", "fail point"), ("enospc", "No space left on device"), ("eio", "Input/output error")];

/// A run that could not write says so, names the place, and exits with 4.
fn assert_told(output: &Output, cause: &str, after: &str) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(4), "{after}: {text}");
    assert!(text.contains(cause), "{after}: {text}");
    assert!(!text.contains("panicked"), "{after}: {text}");
}

#[test]
fn killed_a_hundred_times_it_ends_with_the_same_bytes() {
    let kills = number("CLIPMILL_KILLS", 100);
    let mut moments = Moments(number("CLIPMILL_KILL_SEED", 0x9e37_79b9_7f4a_7c15) | 1);
    let world = World::new(Duration::from_millis(2));
    let recipe = recipe(&world, "kill");
    let room = room();
    let (whole, time) = undisturbed(room.path(), &recipe);
    let (mut alive, mut ended, mut outputs) = (0, 0, 0);
    while alive < kills {
        let victim = room.path().join(format!("victim-{outputs}"));
        outputs += 1;
        // One to six kills on the way, each sooner than the last since less is left to do, then a
        // run that nobody disturbs.
        for kill in 1..=1 + moments.below(6) {
            let mut child = clipmill()
                .arg("run")
                .arg(&recipe)
                .args(["--output", victim.to_str().unwrap()])
                .stderr(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(Duration::from_micros(
                moments.below(time.as_micros() as u64 / kill),
            ));
            child.kill().unwrap();
            let killed = child.wait().unwrap().signal() == Some(9);
            alive += u64::from(killed);
            if !killed {
                ended += 1;
                break;
            }
        }
        run_to(&recipe, &victim);
        assert_same(&whole, &victim, &format!("{alive} kills"));
        std::fs::remove_dir_all(&victim).unwrap();
    }
    eprintln!(
        "{alive} runs killed alive by SIGKILL, {ended} had ended, {outputs} outputs, the same bytes"
    );
}

/// Runs with one fault, then once more without; whether the fault came to pass.
fn disturb(room: &Path, recipe: &Path, whole: &BTreeMap<String, Vec<u8>>, rule: &str) -> bool {
    let victim = room.join(format!("victim-{}", rule.replace(['*', ':'], "")));
    let output = clipmill()
        .arg("run")
        .arg(recipe)
        .args(["--output", victim.to_str().unwrap()])
        .env("CLIPMILL_FAIL", rule)
        .output()
        .unwrap();
    let came = !output.status.success();
    if came {
        let (_, action) = rule.rsplit_once('=').unwrap();
        match ACTIONS.iter().find(|(name, _)| *name == action) {
            Some((_, cause)) => assert_told(&output, cause, rule),
            None => assert_eq!(output.status.signal(), Some(6), "{rule}: {}", stderr(&output)),
        }
        run_to(recipe, &victim);
    }
    assert_same(whole, &victim, rule);
    std::fs::remove_dir_all(&victim).unwrap();
    came
}

/// Visits durable steps, `stride` apart, until a run ends untouched; the actions take turns. With
/// `CLIPMILL_FAULT_ALL` every step meets every action. Two runs at a time. Returns how many faults
/// came to pass, and the last step.
fn visit(name: &str, actions: &[&str], stride: usize) -> (usize, usize) {
    let world = World::new(Duration::ZERO);
    let recipe = recipe(&world, name);
    let room = room();
    let (whole, _) = undisturbed(room.path(), &recipe);
    let all = in_slices();
    let first = number("CLIPMILL_FAULT_FIRST", 1) as usize;
    let end = number("CLIPMILL_FAULT_LAST", 1 << 20) as usize;
    let (next, faults, last) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let turn = next.fetch_add(1, Ordering::SeqCst);
                    let ahead = if all { turn / actions.len() } else { turn * stride };
                    let (step, action) = (first + ahead, actions[turn % actions.len()]);
                    let rule = format!("*:{step}={action}");
                    if step > end || !disturb(room.path(), &recipe, &whole, &rule) {
                        return;
                    }
                    faults.fetch_add(1, Ordering::SeqCst);
                    last.fetch_max(step, Ordering::SeqCst);
                }
            });
        }
    });
    let (faults, last) = (faults.into_inner(), last.into_inner());
    eprintln!("{name}: {faults} faults at durable steps {first} to {last}, the same bytes");
    (faults, last)
}

#[test]
fn failing_at_every_durable_step_it_says_so_and_a_second_run_ends_it() {
    let (_, last) = visit("steps", &["error", "enospc", "eio"], 1);
    assert!(last > 200 || in_slices(), "only {last} durable steps");
}

#[test]
fn dying_at_durable_steps_a_second_run_ends_it() {
    let (deaths, _) = visit("deaths", &["kill"], 5);
    assert!(deaths > 40 || in_slices(), "only {deaths} deaths");
}

/// The file system refuses what would make a file longer than a limit: a full disk for real, at
/// the write itself, half of whose bytes may have gone through.
#[test]
fn at_any_limit_of_file_size_it_says_so_and_a_second_run_ends_it() {
    let world = World::new(Duration::ZERO);
    let recipe = recipe(&world, "full");
    let room = room();
    let (whole, _) = undisturbed(room.path(), &recipe);
    let mut refused = 0;
    for kib in 0_u32.. {
        let victim = room.path().join(format!("victim-{kib}"));
        let output = Command::new("bash")
            .args(["-c", "trap '' XFSZ; ulimit -f $0; exec \"$@\"", &kib.to_string()])
            .arg(clipmill().get_program())
            .arg("run")
            .arg(&recipe)
            .args(["--output", victim.to_str().unwrap()])
            .env_remove("CLIPMILL_FAIL")
            .output()
            .unwrap();
        let after = format!("a limit of {kib} KiB");
        if output.status.success() {
            assert_same(&whole, &victim, &after);
            break;
        }
        refused += 1;
        assert_told(&output, "File too large", &after);
        run_to(&recipe, &victim);
        assert_same(&whole, &victim, &after);
        std::fs::remove_dir_all(&victim).unwrap();
    }
    assert!(refused > 10, "only {refused} limits were too small");
    eprintln!("{refused} limits of file size, the same bytes");
}
