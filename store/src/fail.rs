//! Named fail points: places where a test, or a person with `CLIPMILL_FAIL`, stops a run.
//!
//! Every durable step of this crate passes through [`point`], and so does every request that its
//! commits, leases and gc send to an object store; reading a [`crate::Blob`] does not. Without
//! `CLIPMILL_FAIL` (read once) and outside [`with`], [`trace`] and [`meanwhile`] a point costs two
//! loads. The variable holds rules `name:N=action`, separated by commas:
//!
//! - `name` is a point, `prefix.*`, or `*` for any point;
//! - `N` (default 1) is the hit, counted over the whole process, at which the rule acts, once;
//! - `action` is `kill` (abort, nothing is cleaned up), `exit` (exit code 99, destructors of the
//!   stack do not run), `error` (an IO error), `enospc` (disk full) or `eio` (failed fsync).
//!
//! `CLIPMILL_FAIL=commit.after_put:3=kill clipmill run recipe.yaml` dies between the third commit
//! and its publication. `*:N=kill` for N = 1, 2, ... until a run ends visits every durable step.
//!
//! # Points
//! Roughly in the order in which a run passes them:
//!
//! | point | what comes next |
//! | --- | --- |
//! | `output.before_probe` | two create-only puts try whether the store honours them |
//! | `output.before_put` | a small file outside of units is put: recipe, stage's key, report |
//! | `lock.before_take` | the lock of the output is taken |
//! | `lock.before_name` | it is held; who holds it is written into it (local) |
//! | `lease.before_clock` | the store's clock is asked for |
//! | `lease.before_take` | the next epoch of the lease is put (remote) |
//! | `lease.after_take` | it is held; leases that exclude it are looked for (remote) |
//! | `lease.before_forget` | an epoch that went before is removed (remote) |
//! | `lease.before_renew` | the lease is written again, by a thread of its own (remote) |
//! | `lease.before_give_back` | it is written as given back (remote) |
//! | `disk.before_make_folder` | a folder is created (local) |
//! | `disk.before_sync_folder` | a folder is synced (local) |
//! | `disk.before_write` | a small file's bytes are written under a temporary name (local) |
//! | `disk.before_sync` | they are synced (local) |
//! | `disk.before_link` | a create-only put takes effect (local) |
//! | `disk.after_link` | its temporary name is removed (local) |
//! | `disk.before_rename` | a small file replaces another (local) |
//! | `disk.after_rename` | its folder is synced (local) |
//! | `disk.before_move` | a file or a stage gets another name (local) |
//! | `disk.before_remove` | a file is removed (local) |
//! | `disk.before_remove_folder` | a folder is removed with everything in it (local) |
//! | `bucket.before_create` | a create-only put is sent (remote) |
//! | `bucket.after_create` | it was answered; what lies there is read and decides (remote) |
//! | `bucket.before_replace` | a plain put is sent (remote) |
//! | `bucket.after_replace` | it was answered (remote) |
//! | `bucket.before_upload` | a file of an attempt is uploaded (remote) |
//! | `bucket.before_part` | a part of a large one is read to be sent (remote) |
//! | `bucket.before_complete` | its parts become one object (remote) |
//! | `bucket.before_copy` | an object is copied to its final name (remote) |
//! | `bucket.before_delete` | it loses its first name (remote) |
//! | `bucket.before_remove` | an object is removed (remote) |
//! | `bucket.before_remove_folder` | all objects below a prefix are removed (remote) |
//! | `bucket.before_read` | small objects are read (remote) |
//! | `bucket.before_look` | the size of an object is asked for (remote) |
//! | `bucket.before_list` | a prefix is listed (remote) |
//! | `attempt.before_begin` | the folder of a stage's attempts is made |
//! | `attempt.before_sign` | the file that says that its process lives is created and locked |
//! | `attempt.before_folder` | an attempt's folder is created |
//! | `file.before_create` | a file of an attempt is created |
//! | `file.before_write` | buffered bytes of it reach the disk |
//! | `file.before_sync` | it is synced |
//! | `file.after_sync` | it counts as part of the unit |
//! | `commit.before_collect` | the files of the attempt are looked through |
//! | `commit.before_hash` | one that another program left is hashed and synced |
//! | `commit.before_put` | the commit record is put: the unit becomes real |
//! | `commit.after_put` | the record exists, no final name yet |
//! | `publish.before_file` | one file gets its final name |
//! | `publish.before_sync` | the final names are synced |
//! | `publish.before_check` | their sizes are compared with the record |
//! | `publish.before_remove` | the attempt's empty folder is removed |
//! | `attempt.before_remove` | a lost or dropped attempt is removed |
//! | `work.before_make` | a stage's work folder is made |
//! | `work.before_trim` | one thing in it is removed: the stage is finished |
//! | `clear.before_commits` | a stage is forgotten |
//! | `clear.before_remove` | its files are removed |
//! | `clear.before_work` | its work folder is removed |
//! | `gc.before_publish` | what a kill left unpublished in a stage is published |
//! | `gc.before_remove` | one orphan is removed |
//! | `gc.before_tidy` | a folder of what probes and cleared stages left is removed |
//! | `gc.before_sweep` | temporary files of processes that are gone are removed |
//! | `gc.before_spool` | the local copy of a dead remote attempt is removed (remote) |
//! | `cache.before_make` | the folder of a remote object's local copy is made |
//! | `cache.before_copy` | the object is copied under a temporary name |
//! | `cache.before_sync` | the copy is synced |
//! | `cache.before_rename` | the copy gets its name |

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Every point of this crate, as in the table above.
pub const POINTS: &[&str] = &[
    "output.before_probe",
    "output.before_put",
    "lock.before_take",
    "lock.before_name",
    "lease.before_clock",
    "lease.before_take",
    "lease.after_take",
    "lease.before_forget",
    "lease.before_renew",
    "lease.before_give_back",
    "disk.before_make_folder",
    "disk.before_sync_folder",
    "disk.before_write",
    "disk.before_sync",
    "disk.before_link",
    "disk.after_link",
    "disk.before_rename",
    "disk.after_rename",
    "disk.before_move",
    "disk.before_remove",
    "disk.before_remove_folder",
    "bucket.before_create",
    "bucket.after_create",
    "bucket.before_replace",
    "bucket.after_replace",
    "bucket.before_upload",
    "bucket.before_part",
    "bucket.before_complete",
    "bucket.before_copy",
    "bucket.before_delete",
    "bucket.before_remove",
    "bucket.before_remove_folder",
    "bucket.before_read",
    "bucket.before_look",
    "bucket.before_list",
    "attempt.before_begin",
    "attempt.before_sign",
    "attempt.before_folder",
    "file.before_create",
    "file.before_write",
    "file.before_sync",
    "file.after_sync",
    "commit.before_collect",
    "commit.before_hash",
    "commit.before_put",
    "commit.after_put",
    "publish.before_file",
    "publish.before_sync",
    "publish.before_check",
    "publish.before_remove",
    "attempt.before_remove",
    "work.before_make",
    "work.before_trim",
    "clear.before_commits",
    "clear.before_remove",
    "clear.before_work",
    "gc.before_publish",
    "gc.before_remove",
    "gc.before_tidy",
    "gc.before_sweep",
    "gc.before_spool",
    "cache.before_make",
    "cache.before_copy",
    "cache.before_sync",
    "cache.before_rename",
];

/// The exit code of the action `exit`.
pub const EXIT_CODE: i32 = 99;

/// Passes the point `name`, or fails as `CLIPMILL_FAIL` or [`with`] says.
///
/// # Errors
/// The error that a rule asks for, or a complaint about a malformed `CLIPMILL_FAIL`.
pub fn point(name: &'static str) -> io::Result<()> {
    static FROM_ENV: OnceLock<Option<Result<Plan, String>>> = OnceLock::new();
    let local = LOCAL.with_borrow(Option::clone);
    if let Some(local) = local {
        if let Some(seen) = &local.seen {
            seen.borrow_mut().push(name);
        }
        if let Some(meanwhile) = &local.meanwhile {
            let due = meanwhile.borrow_mut().due();
            if let Some(happens) = due {
                // What happens meanwhile passes points too, and they are not this thread's work.
                let aside = LOCAL.replace(None);
                happens();
                LOCAL.set(aside);
            }
        }
        local.plan.act(name)?;
    }
    match FROM_ENV
        .get_or_init(|| std::env::var("CLIPMILL_FAIL").ok().map(|text| Plan::parse(&text)))
    {
        None => Ok(()),
        Some(Ok(plan)) => plan.act(name),
        Some(Err(complaint)) => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, format!("CLIPMILL_FAIL: {complaint}")))
        }
    }
}

/// Runs `work` with these rules for the points that the calling thread passes. For tests.
///
/// # Panics
/// When `rules` is malformed.
pub fn with<T>(rules: &str, work: impl FnOnce() -> T) -> T {
    let plan = Plan::parse(rules).unwrap_or_else(|complaint| panic!("{complaint}"));
    run(Local { plan: Rc::new(plan), seen: None, meanwhile: None }, work)
}

/// Runs `work`, and `happens` when the calling thread passes its `nth` point (from 1): what another
/// process does while this one is stopped there. For tests.
pub fn meanwhile<T>(nth: u64, happens: impl FnOnce() + 'static, work: impl FnOnce() -> T) -> T {
    let meanwhile = Meanwhile { left: nth, happens: Some(Box::new(happens)) };
    let plan = Rc::new(Plan { rules: Vec::new() });
    run(Local { plan, seen: None, meanwhile: Some(Rc::new(RefCell::new(meanwhile))) }, work)
}

/// Runs `work` and returns, beside its result, the points that the calling thread passed.
pub fn trace<T>(work: impl FnOnce() -> T) -> (T, Vec<&'static str>) {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let plan = Rc::new(Plan { rules: Vec::new() });
    let result = run(Local { plan, seen: Some(Rc::clone(&seen)), meanwhile: None }, work);
    (result, seen.take())
}

thread_local! {
    static LOCAL: RefCell<Option<Local>> = const { RefCell::new(None) };
}

#[derive(Clone)]
struct Local {
    plan: Rc<Plan>,
    seen: Option<Rc<RefCell<Vec<&'static str>>>>,
    meanwhile: Option<Rc<RefCell<Meanwhile>>>,
}

struct Meanwhile {
    left: u64,
    happens: Option<Box<dyn FnOnce()>>,
}

impl Meanwhile {
    /// Counts a point; what is to happen there, if it is the one.
    fn due(&mut self) -> Option<Box<dyn FnOnce()>> {
        self.left = self.left.saturating_sub(1);
        if self.left == 0 { self.happens.take() } else { None }
    }
}

fn run<T>(local: Local, work: impl FnOnce() -> T) -> T {
    struct Restore(Option<Local>);
    impl Drop for Restore {
        fn drop(&mut self) {
            LOCAL.set(self.0.take());
        }
    }
    let _restore = Restore(LOCAL.replace(Some(local)));
    work()
}

struct Plan {
    rules: Vec<Rule>,
}

struct Rule {
    name: String,
    nth: u64,
    action: Action,
    hits: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Kill,
    Exit,
    Os(i32),
    Error,
}

impl Plan {
    fn parse(text: &str) -> Result<Self, String> {
        let rules = text.split(',').filter(|rule| !rule.trim().is_empty()).map(Rule::parse);
        Ok(Self { rules: rules.collect::<Result<_, _>>()? })
    }

    fn act(&self, name: &'static str) -> io::Result<()> {
        for rule in self.rules.iter().filter(|rule| rule.names(name)) {
            if rule.hits.fetch_add(1, Ordering::SeqCst) + 1 != rule.nth {
                continue;
            }
            match rule.action {
                Action::Kill => std::process::abort(),
                Action::Exit => std::process::exit(EXIT_CODE),
                Action::Os(code) => return Err(io::Error::from_raw_os_error(code)),
                Action::Error => return Err(io::Error::other(format!("fail point {name}"))),
            }
        }
        Ok(())
    }
}

impl Rule {
    fn parse(text: &str) -> Result<Self, String> {
        let form = || format!("`{text}` is not `name:N=kill|exit|error|enospc|eio`");
        let (place, action) = text.trim().split_once('=').ok_or_else(form)?;
        let (name, nth) = match place.split_once(':') {
            Some((name, nth)) => (name, nth.parse().map_err(|_| form())?),
            None => (place, 1),
        };
        let action = match action {
            "kill" => Action::Kill,
            "exit" => Action::Exit,
            "error" => Action::Error,
            "enospc" => Action::Os(libc::ENOSPC),
            "eio" => Action::Os(libc::EIO),
            _ => return Err(form()),
        };
        if nth == 0 || name.is_empty() {
            return Err(form());
        }
        Ok(Self { name: name.to_owned(), nth, action, hits: AtomicU64::new(0) })
    }

    fn names(&self, point: &str) -> bool {
        match self.name.strip_suffix('*') {
            Some(prefix) => point.starts_with(prefix),
            None => self.name == point,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_hit_of_a_rule_acts_and_only_that() {
        let outcomes = with("commit.before_put:2=error", || {
            [(); 3].map(|()| point("commit.before_put").is_ok())
        });
        assert_eq!(outcomes, [true, false, true]);
    }

    #[test]
    fn a_star_counts_every_point_and_a_prefix_its_own() {
        with("*:2=enospc", || {
            point("file.before_sync").unwrap();
            assert_eq!(point("commit.before_put").unwrap_err().raw_os_error(), Some(libc::ENOSPC));
        });
        with("commit.*=eio", || {
            point("file.before_sync").unwrap();
            assert_eq!(point("commit.before_put").unwrap_err().raw_os_error(), Some(libc::EIO));
        });
    }

    #[test]
    fn what_happens_meanwhile_happens_once_and_its_own_points_do_not_count() {
        let times = Rc::new(std::cell::Cell::new(0));
        let seen = Rc::clone(&times);
        let happens = move || {
            seen.set(seen.get() + 1);
            point("file.before_sync").unwrap();
        };
        meanwhile(2, happens, || {
            point("file.before_sync").unwrap();
            assert_eq!(times.get(), 0);
            point("file.before_sync").unwrap();
            point("file.before_sync").unwrap();
        });
        assert_eq!(times.get(), 1);
    }

    #[test]
    fn rules_end_with_the_closure() {
        with("file.before_sync=error", || ());
        point("file.before_sync").unwrap();
    }

    #[test]
    fn a_malformed_rule_is_shown() {
        for text in ["commit", "commit=explode", "commit:0=kill", "commit:x=kill", "=kill"] {
            let complaint = Plan::parse(text).err().unwrap();
            assert!(complaint.contains(text), "{complaint}");
        }
    }

    #[test]
    fn the_table_of_this_module_lists_every_point() {
        let source = include_str!("fail.rs");
        for name in POINTS {
            assert!(source.contains(&format!("//! | `{name}` |")), "{name}");
        }
    }
}
