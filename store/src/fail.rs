//! Named fail points: places where a test, or a person with `CLIPMILL_FAIL`, stops a run.
//!
//! Every durable step of this crate passes through [`point`]. Without `CLIPMILL_FAIL` (read once)
//! and outside [`with`] and [`trace`] a point costs two loads. The variable holds rules
//! `name:N=action`, separated by commas:
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
//! In the order in which a unit passes them:
//!
//! | point | what comes next |
//! | --- | --- |
//! | `lock.before_take` | the lock of the output is taken |
//! | `disk.before_make_folder` | a folder is created (local) |
//! | `disk.before_sync_folder` | a folder is synced (local) |
//! | `disk.before_write` | a small file's bytes are written under a temporary name (local) |
//! | `disk.before_link` | a create-only put takes effect (local) |
//! | `disk.after_link` | its temporary name is removed (local) |
//! | `disk.before_rename` | a small file replaces another (local) |
//! | `bucket.before_create` | a create-only put is sent (remote) |
//! | `bucket.before_replace` | a plain put is sent (remote) |
//! | `bucket.before_upload` | a file of an attempt is uploaded (remote) |
//! | `attempt.before_begin` | an attempt's folder is created |
//! | `file.before_create` | a file of an attempt is created |
//! | `file.before_write` | buffered bytes of it reach the disk |
//! | `file.before_sync` | it is synced |
//! | `commit.before_collect` | files that other programs left in the attempt are hashed and synced |
//! | `commit.before_put` | the commit record is put: the unit becomes real |
//! | `commit.after_put` | the record exists, no final name yet |
//! | `publish.before_file` | one file gets its final name |
//! | `publish.before_sync` | the final names are synced |
//! | `publish.before_remove` | the attempt's empty folder is removed |
//! | `attempt.before_remove` | a lost or dropped attempt is removed |
//! | `clear.before_commits` | a stage is forgotten |
//! | `clear.before_remove` | its files are removed |
//! | `gc.before_remove` | one orphan is removed |

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Every point of this crate, as in the table above.
pub const POINTS: &[&str] = &[
    "lock.before_take",
    "disk.before_make_folder",
    "disk.before_sync_folder",
    "disk.before_write",
    "disk.before_link",
    "disk.after_link",
    "disk.before_rename",
    "bucket.before_create",
    "bucket.before_replace",
    "bucket.before_upload",
    "attempt.before_begin",
    "file.before_create",
    "file.before_write",
    "file.before_sync",
    "commit.before_collect",
    "commit.before_put",
    "commit.after_put",
    "publish.before_file",
    "publish.before_sync",
    "publish.before_remove",
    "attempt.before_remove",
    "clear.before_commits",
    "clear.before_remove",
    "gc.before_remove",
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
    run(Local { plan: Rc::new(plan), seen: None }, work)
}

/// Runs `work` and returns, beside its result, the points that the calling thread passed.
pub fn trace<T>(work: impl FnOnce() -> T) -> (T, Vec<&'static str>) {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let plan = Rc::new(Plan { rules: Vec::new() });
    let result = run(Local { plan, seen: Some(Rc::clone(&seen)) }, work);
    (result, seen.take())
}

thread_local! {
    static LOCAL: RefCell<Option<Local>> = const { RefCell::new(None) };
}

#[derive(Clone)]
struct Local {
    plan: Rc<Plan>,
    seen: Option<Rc<RefCell<Vec<&'static str>>>>,
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
