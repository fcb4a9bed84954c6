//! Object stores that lie, time out, or forget.

mod wrapped;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use object_store::memory::InMemory;
use object_store::{Error, ObjectStore, PutMode};
use serde_json::json;
use stage::{Counts, Kind};
use store::Output;
use wrapped::{Call, Fault, Faults, Wrapped, timeout};

/// One fault at a time.
#[derive(Debug, Default)]
struct Faulty {
    /// Treats create-only puts as plain puts.
    ignores_create: AtomicBool,
    /// Applies this many puts and says that they timed out.
    late_answers: AtomicU32,
    /// Refuses this many puts with a conflict, as S3 does while another put is on its way.
    conflicts: AtomicU32,
    /// Refuses everything.
    down: AtomicBool,
}

impl Faults for Faulty {
    fn fault(&self, call: Call<'_>) -> Fault {
        match call {
            Call::Stream => Fault::None,
            _ if self.down.load(Ordering::SeqCst) => Fault::Refuse(timeout()),
            Call::Other => Fault::None,
            Call::Put(options) => {
                if take(&self.conflicts) {
                    let path = "an object".to_owned();
                    return Fault::Refuse(Error::Precondition { path, source: "conflict".into() });
                }
                if self.ignores_create.load(Ordering::SeqCst) {
                    options.mode = PutMode::Overwrite;
                }
                if take(&self.late_answers) { Fault::Late(timeout()) } else { Fault::None }
            }
        }
    }
}

fn take(counter: &AtomicU32) -> bool {
    counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
}

fn store() -> Arc<Wrapped<Faulty>> {
    Wrapped::new(Arc::new(InMemory::new()), Faulty::default())
}

fn output() -> (Arc<Wrapped<Faulty>>, Output) {
    let store = store();
    let output = Output::with_store(Arc::clone(&store) as Arc<dyn ObjectStore>).unwrap();
    (store, output)
}

fn attempt(output: &Output, text: &[u8]) -> store::Attempt {
    let mut attempt = output.stage("links").begin("00000").unwrap();
    attempt.put("00000.txt", text).unwrap();
    attempt
}

#[test]
fn a_store_that_ignores_create_only_puts_is_refused() {
    let store = store();
    store.faults.ignores_create.store(true, Ordering::SeqCst);
    let error = Output::with_store(store).unwrap_err();
    assert_eq!(error.kind(), Kind::Store);
    assert!(error.to_string().contains("this store ignores create-only puts"), "{error}");
    assert!(error.hint_text().unwrap().contains("If-None-Match"));
}

#[test]
fn a_commit_whose_answer_was_lost_is_still_ones_own() {
    let (store, output) = output();
    let attempt = attempt(&output, b"abc");
    // The upload of the file, then the record.
    store.faults.late_answers.store(1, Ordering::SeqCst);
    assert!(attempt.commit("key", Counts::default(), json!(null)).is_err());

    let mut attempt = output.stage("links").begin("00001").unwrap();
    attempt.put("00001.txt", b"abc").unwrap();
    // No file is uploaded between these two lines and the record: the empty unit.
    let empty = output.stage("links").begin("00002").unwrap();
    store.faults.late_answers.store(1, Ordering::SeqCst);
    let commit = empty.commit("key", Counts::default(), json!("mine")).unwrap();
    assert_eq!(commit.info, "mine");
    drop(attempt);
}

#[test]
fn a_lost_answer_does_not_hide_that_another_attempt_won() {
    let (store, output) = output();
    let late = output.stage("links").begin("00000").unwrap();
    let winner = attempt(&output, b"abc").commit("key", Counts::default(), json!(null)).unwrap();
    store.faults.conflicts.store(1, Ordering::SeqCst);
    assert_eq!(late.commit("key", Counts::default(), json!(null)).unwrap(), winner);
}

#[test]
fn a_conflict_without_a_winner_is_tried_again() {
    let (store, output) = output();
    let empty = output.stage("links").begin("00000").unwrap();
    store.faults.conflicts.store(2, Ordering::SeqCst);
    empty.commit("key", Counts::default(), json!(null)).unwrap();
    assert!(output.stage("links").commit("00000").unwrap().is_some());
}

#[test]
fn a_store_that_went_down_loses_no_commit() {
    let (store, output) = output();
    let made = attempt(&output, b"abc");
    store.faults.down.store(true, Ordering::SeqCst);
    let error = made.commit("key", Counts::default(), json!(null)).unwrap_err();
    assert_eq!(error.kind(), Kind::Store);
    store.faults.down.store(false, Ordering::SeqCst);
    assert!(output.stage("links").commit("00000").unwrap().is_none());
    attempt(&output, b"abc").commit("key", Counts::default(), json!(null)).unwrap();
    assert_eq!(output.stage("links").blob("00000.txt").unwrap().read_all().unwrap(), "abc");
}

#[test]
fn a_large_file_goes_up_in_parts_and_comes_back() {
    let (_, output) = output();
    // Three whole parts of 16 MiB and a rest.
    let bytes: Vec<u8> = (0..(48 << 20) + 5).map(|i: u32| (i / 7) as u8).collect();
    let commit = attempt(&output, &bytes).commit("key", Counts::default(), json!(null)).unwrap();
    let blob = output.stage("links").blob("00000.txt").unwrap();
    assert_eq!(blob.len(), bytes.len() as u64);
    assert_eq!(blob.sha256().unwrap(), commit.files[0].sha256);
    let mut read = Vec::new();
    blob.reader().read_to_end(&mut read).unwrap();
    assert!(read == bytes);
    assert_eq!(blob.read_at(16 << 20, 3).unwrap(), bytes[16 << 20..(16 << 20) + 3]);
}

#[test]
fn an_object_that_changes_while_it_is_read_is_told() {
    let output = Output::in_memory();
    output.put("links/a", "one".into()).unwrap();
    let blob = output.stage("links").blob("a").unwrap();
    output.put("links/a", "two".into()).unwrap();
    let error = blob.read_all().unwrap_err();
    assert!(error.to_string().ends_with("the object changed while it was read"), "{error}");
}

#[test]
fn a_memory_url_opens_while_its_output_lives() {
    let output = Output::in_memory();
    output.put("links/a", "one".into()).unwrap();
    let url = output.locate("links/a");
    assert!(url.starts_with("memory://"), "{url}");
    assert_eq!(store::Blob::open(&url).unwrap().read_all().unwrap(), "one");
    let again = Output::open(output.url()).unwrap();
    assert_eq!(again.get("links/a").unwrap().unwrap(), "one");
    drop((output, again));
    assert!(store::Blob::open(&url).is_err());
}
