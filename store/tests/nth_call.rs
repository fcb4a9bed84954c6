//! An object store whose n-th call is refused, late, slow or a lie, for every n: nothing is lost,
//! nothing is there twice. With `CLIPMILL_FAULT_ALL` every two calls of a run, too.

mod wrapped;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode};
use serde_json::json;
use stage::{Counts, Kind};
use store::{Attempt, Commit, Output};
use wrapped::{Call, Fault, Faults, Wrapped, timeout};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    /// Does nothing and says that it timed out.
    Refuse,
    /// Does it and says that it timed out.
    Late,
    /// Does it after a while.
    Slow,
    /// Does not do a put and says that it did.
    Forget,
    /// Does a create-only put as a plain one.
    Overwrite,
}

const MODES: [Mode; 5] = [Mode::Refuse, Mode::Late, Mode::Slow, Mode::Forget, Mode::Overwrite];

#[derive(Debug)]
struct Faulty {
    mode: Mode,
    calls: AtomicU64,
    faults: Vec<u64>,
    injected: AtomicU64,
}

/// A store whose calls of these numbers, from 1, go wrong.
type Nth = Wrapped<Faulty>;

fn nth(inner: &Arc<InMemory>, mode: Mode, faults: Vec<u64>) -> Arc<Nth> {
    let (calls, injected) = (AtomicU64::new(0), AtomicU64::new(0));
    Wrapped::new(Arc::clone(inner), Faulty { mode, calls, faults, injected })
}

fn output_of(store: &Arc<Nth>) -> stage::Result<Output> {
    Output::with_store(Arc::clone(store) as Arc<dyn ObjectStore>)
}

impl Faults for Faulty {
    fn fault(&self, call: Call<'_>) -> Fault {
        if !self.faults.contains(&(self.calls.fetch_add(1, Ordering::SeqCst) + 1)) {
            return Fault::None;
        }
        self.injected.fetch_add(1, Ordering::SeqCst);
        match (self.mode, call) {
            (Mode::Refuse, _) => Fault::Refuse(timeout()),
            (Mode::Late, _) => Fault::Late(timeout()),
            (Mode::Slow, _) => Fault::Slow,
            (Mode::Forget, Call::Put(_)) => Fault::Forget,
            (Mode::Overwrite, Call::Put(options)) => {
                options.mode = PutMode::Overwrite;
                Fault::None
            }
            (Mode::Forget | Mode::Overwrite, _) => Fault::None,
        }
    }
}

fn begin(output: &Output, unit: &str, text: &str) -> stage::Result<Attempt> {
    let mut attempt = output.stage("links").begin(unit)?;
    attempt.put(&format!("{unit}.txt"), text.as_bytes())?;
    attempt.put(&format!("logs/{unit}.log"), text.as_bytes())?;
    Ok(attempt)
}

fn commit(attempt: Attempt) -> stage::Result<Commit> {
    attempt.commit("key", Counts::default(), json!(null))
}

/// A run: probe, lease, two units, all records, a small file, gc.
fn run(store: &Arc<Nth>) -> stage::Result<()> {
    let output = output_of(store)?;
    let _lease = match output.lock("run") {
        // The lease that a run with a fault could not give back lapses in a minute.
        Err(error) if error.kind() == Kind::Conflict && store.faults.faults.is_empty() => None,
        other => Some(other?),
    };
    let links = output.stage("links");
    for unit in ["00000", "00001"] {
        if links.commit(unit)?.is_none() {
            commit(begin(&output, unit, &format!("text of {unit}"))?)?;
        }
    }
    assert_eq!(links.commits()?.len(), 2);
    output.put("report/index.html", "done".into())?;
    output.gc()?;
    Ok(())
}

/// Every object outside of leases with its bytes; of records the names and hashes.
fn contents(inner: &Arc<InMemory>) -> BTreeMap<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let objects: Vec<ObjectMeta> = runtime.block_on(inner.list(None).try_collect()).unwrap();
    let mut found = BTreeMap::new();
    for object in objects {
        let name = object.location.to_string();
        if name.starts_with(".clipmill/lease/") {
            continue;
        }
        let get = async { inner.get(&object.location).await?.bytes().await };
        let bytes: bytes::Bytes = runtime.block_on(get).unwrap();
        let mut text = String::from_utf8(bytes.to_vec()).unwrap();
        if name.contains("_commits/") {
            let record: Commit = serde_json::from_str(&text).unwrap();
            text = json!([record.unit, record.key, record.files]).to_string();
        }
        found.insert(name, text);
    }
    found
}

fn sweep(inner: &Arc<InMemory>) {
    let output = output_of(&nth(inner, Mode::Slow, Vec::new())).unwrap();
    output.gc_older_than(Duration::ZERO).unwrap();
}

/// A run with these faults, one without, and a look at what is there; the faults that came to pass.
fn disturbed(whole: &BTreeMap<String, String>, mode: Mode, faults: &[u64]) -> u64 {
    let inner = Arc::new(InMemory::new());
    let store = nth(&inner, mode, faults.to_vec());
    if let Err(error) = run(&store) {
        let kind = error.kind();
        assert!(matches!(kind, Kind::Store | Kind::Input), "{mode:?} {faults:?}: {error}");
    }
    run(&nth(&inner, mode, Vec::new())).unwrap_or_else(|e| panic!("{mode:?} {faults:?}: {e}"));
    sweep(&inner);
    assert_eq!(contents(&inner), *whole, "{mode:?} {faults:?}");
    store.faults.injected.load(Ordering::SeqCst)
}

#[test]
fn whatever_call_of_a_run_goes_wrong_a_second_run_ends_with_the_same_objects() {
    let inner = Arc::new(InMemory::new());
    run(&nth(&inner, Mode::Slow, Vec::new())).unwrap();
    sweep(&inner);
    let whole = contents(&inner);
    let names: BTreeSet<&str> = whole.keys().map(String::as_str).collect();
    let expected = [
        "links/00000.txt",
        "links/00001.txt",
        "links/_commits/00000.json",
        "links/_commits/00001.json",
        "links/logs/00000.log",
        "links/logs/00001.log",
        "report/index.html",
    ];
    assert_eq!(names, BTreeSet::from(expected));

    let (mut injected, mut calls) = (0, 0);
    for mode in MODES {
        for n in 1.. {
            let came = disturbed(&whole, mode, &[n]);
            if came == 0 {
                calls = n - 1;
                break;
            }
            injected += came;
        }
        assert!(calls > 40, "only {calls} calls");
        if std::env::var_os("CLIPMILL_FAULT_ALL").is_some() {
            for n in 1..=calls {
                for m in n + 1..=calls {
                    injected += disturbed(&whole, mode, &[n, m]);
                }
            }
        }
    }
    eprintln!("{injected} faults in runs of {calls} calls, the same objects");
}

/// The record that is there, whose files are the ones it names.
fn settled(inner: &Arc<InMemory>) -> Commit {
    let output = output_of(&nth(inner, Mode::Slow, Vec::new())).unwrap();
    let links = output.stage("links");
    let commit = links.commit("00000").unwrap().unwrap();
    for file in &commit.files {
        assert_eq!(links.blob(&file.name).unwrap().sha256().unwrap(), file.sha256);
    }
    commit
}

#[test]
fn whatever_call_of_a_late_attempt_goes_wrong_the_winner_stays() {
    let mut injected = 0;
    for mode in MODES {
        for n in 1.. {
            let inner = Arc::new(InMemory::new());
            let quiet = output_of(&nth(&inner, mode, Vec::new())).unwrap();
            // The probe is the first calls of an output: here they are over before the fault.
            let probe = nth(&inner, mode, Vec::new());
            drop(output_of(&probe).unwrap());
            let before = probe.faults.calls.load(Ordering::SeqCst);
            let store = nth(&inner, mode, vec![before + n]);
            let late = begin(&output_of(&store).unwrap(), "00000", "late").unwrap();
            let winner = commit(begin(&quiet, "00000", "wins").unwrap()).unwrap();
            let told = commit(late);
            let came = store.faults.injected.load(Ordering::SeqCst);
            let stands = settled(&inner);
            if mode != Mode::Overwrite {
                assert_eq!(stands, winner, "{mode:?} {n}");
            }
            // A store that overwrote the winner's record has changed who won, and says so to the
            // late one; the files are those of the record all the same.
            if let Ok(told) = told {
                assert_eq!(stands, told, "{mode:?} {n}");
            }
            injected += came;
            if came == 0 {
                break;
            }
        }
    }
    assert!(injected > 30, "only {injected} faults");
    eprintln!("{injected} faults in late attempts, one winner each");
}

#[test]
fn whatever_call_of_a_first_attempt_goes_wrong_all_are_told_of_one_winner() {
    let mut injected = 0;
    for mode in MODES {
        for n in 1.. {
            let inner = Arc::new(InMemory::new());
            let probe = nth(&inner, mode, Vec::new());
            drop(output_of(&probe).unwrap());
            let before = probe.faults.calls.load(Ordering::SeqCst);
            let store = nth(&inner, mode, vec![before + n]);
            let first = commit(begin(&output_of(&store).unwrap(), "00000", "one").unwrap());
            let quiet = output_of(&nth(&inner, mode, Vec::new())).unwrap();
            let second = commit(begin(&quiet, "00000", "two").unwrap()).unwrap();
            let stands = settled(&inner);
            assert_eq!(stands, second, "{mode:?} {n}");
            if let Ok(first) = first {
                assert_eq!(stands, first, "{mode:?} {n}");
            }
            let came = store.faults.injected.load(Ordering::SeqCst);
            injected += came;
            if came == 0 {
                break;
            }
        }
    }
    assert!(injected > 30, "only {injected} faults");
    eprintln!("{injected} faults in first attempts, one winner each");
}
