//! Two attempts at one unit: one sleeps at a step of its own while the other takes over. On a disk
//! and in memory, and where `CLIPMILL_S3_TEST` names a bucket (see `s3.rs`) there too.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use stage::Counts;
use store::{Commit, Output, fail};

fn make(output: &Output, key: &str, text: &str) -> stage::Result<Commit> {
    let links = output.stage("links");
    if let Some(commit) = links.commit("00000")? {
        return Ok(commit);
    }
    let mut attempt = links.begin("00000")?;
    attempt.put("00000.txt", text.as_bytes())?;
    attempt.put("logs/00000.log", text.as_bytes())?;
    attempt.commit(key, Counts::default(), json!(null))
}

/// The record and the files that it names.
#[derive(Debug, PartialEq)]
struct Committed {
    record: Commit,
    files: BTreeMap<String, String>,
}

fn committed(output: &Output) -> Committed {
    let links = output.stage("links");
    let record = links.commit("00000").unwrap().unwrap();
    let text = |name: &str| {
        let bytes = links.blob(name).unwrap().read_all().unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    };
    let files = record.files.iter().map(|file| (file.name.clone(), text(&file.name))).collect();
    Committed { record, files }
}

/// Puts the first attempt to sleep at each of its steps in turn, lets `meanwhile` happen, and wakes
/// it; what is committed then must be what was committed before it woke. Returns the steps.
fn asleep_at_every_step(
    output: impl Fn() -> Output,
    meanwhile: fn(&Output),
    woken: impl Fn(&Output, stage::Result<Commit>, &Committed),
) -> usize {
    for step in 1.. {
        let (first, second) = (output(), Rc::new(RefCell::new(None)));
        let (other, seen) = (first.clone(), Rc::clone(&second));
        let take_over = move || {
            meanwhile(&other);
            seen.replace(Some(committed(&other)));
        };
        let result = fail::meanwhile(step, take_over, || make(&first, "key", "first"));
        let Some(before) = second.take() else { return step as usize - 1 };
        assert_eq!(committed(&first), before, "asleep at step {step}");
        woken(&first, result, &before);
    }
    0
}

fn everywhere(test: impl Fn(&dyn Fn() -> Output)) {
    let folders = RefCell::new(Vec::new());
    test(&|| {
        let folder = tempfile::tempdir().unwrap();
        let output = Output::open(folder.path().to_str().unwrap()).unwrap();
        folders.borrow_mut().push(folder);
        output
    });
    test(&Output::in_memory);
    if let Ok(url) = std::env::var("CLIPMILL_S3_TEST") {
        let places = AtomicUsize::new(0);
        let process = std::process::id();
        test(&|| {
            let place = places.fetch_add(1, Ordering::SeqCst);
            let thread = format!("{:?}", std::thread::current().id()).replace(['(', ')'], "");
            Output::open(&format!("{url}/fencing-{process}-{thread}-{place}")).unwrap()
        });
    }
}

#[test]
fn asleep_at_any_step_an_attempt_wakes_to_the_winners_record_and_leaves_nothing() {
    everywhere(|output| {
        let steps = asleep_at_every_step(
            output,
            |other| {
                other.gc().unwrap();
                make(other, "key", "other").unwrap();
            },
            |first, told, before| {
                assert_eq!(told.unwrap(), before.record);
                assert_eq!(first.gc_older_than(Duration::ZERO).unwrap(), 0);
            },
        );
        assert!(steps > 20, "only {steps} steps");
    });
}

#[test]
fn asleep_at_any_step_an_attempt_changes_nothing_that_was_made_again_under_another_key() {
    everywhere(|output| {
        let steps = asleep_at_every_step(
            output,
            |other| {
                make(other, "key", "first").unwrap();
                other.stage("links").clear().unwrap();
                make(other, "another key", "again").unwrap();
            },
            |first, told, before| {
                assert_eq!(before.record.key, "another key");
                // Its files may be gone, which it says; a record it is told is the other's.
                if let Ok(told) = told {
                    assert!(told == before.record || told.key == "key");
                }
                first.gc_older_than(Duration::ZERO).unwrap();
                assert_eq!(committed(first), *before);
            },
        );
        assert!(steps > 20, "only {steps} steps");
    });
}

#[test]
fn of_two_attempts_that_commit_at_once_one_wins_and_both_are_told_the_same() {
    everywhere(|output| {
        let output = output();
        for round in 0..50 {
            let unit = format!("{round:05}");
            let start = std::sync::Barrier::new(2);
            let attempt = |text: &str| {
                let mut attempt = output.stage("links").begin(&unit).unwrap();
                attempt.put(&format!("{unit}.txt"), text.as_bytes()).unwrap();
                start.wait();
                attempt.commit("key", Counts::default(), json!(text)).unwrap()
            };
            let (one, two) = std::thread::scope(|scope| {
                let one = scope.spawn(|| attempt("one"));
                let two = attempt("two");
                (one.join().unwrap(), two)
            });
            assert_eq!(one, two);
            let text = output.stage("links").blob(&format!("{unit}.txt")).unwrap();
            assert_eq!(one.info, json!(String::from_utf8_lossy(&text.read_all().unwrap())));
        }
        assert_eq!(output.gc_older_than(Duration::ZERO).unwrap(), 0);
    });
}
