//! A process that dies at every durable step, and a second that goes on.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use stage::Counts;
use store::Output;

/// What a run does: two units of two files; done ones are passed over.
fn run(folder: &str) -> stage::Result<()> {
    let output = Output::open(folder)?;
    let _lease = output.lock("run")?;
    output.gc()?;
    let links = output.stage("links");
    for unit in ["00000", "00001"] {
        if links.commit(unit)?.is_some() {
            continue;
        }
        let mut attempt = links.begin(unit)?;
        attempt.put(&format!("{unit}.txt"), format!("text of {unit}").as_bytes())?;
        attempt.put(&format!("logs/{unit}.log"), b"log")?;
        attempt.commit("key", Counts::default(), json!(null))?;
    }
    output.put("report/index.html", "done".into())
}

/// The process that the tests below start, and kill; alone it has no folder and nothing to do.
#[test]
fn child() {
    if let Ok(folder) = std::env::var("STORE_KILL_TEST") {
        run(&folder).unwrap();
    }
}

/// Runs the child under a rule; whether it ended well.
fn child_ends_well(folder: &Path, rule: Option<&str>) -> bool {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child"]).env("STORE_KILL_TEST", folder);
    match rule {
        Some(rule) => command.env("CLIPMILL_FAIL", rule),
        None => command.env_remove("CLIPMILL_FAIL"),
    };
    command.output().unwrap().status.success()
}

/// All files below a folder with their bytes; records without what is random in them.
fn contents(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(here) = open.pop() {
        for entry in std::fs::read_dir(here).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
            let mut text = std::fs::read_to_string(&path).unwrap();
            if name.contains("_commits/") {
                let mut record: serde_json::Value = serde_json::from_str(&text).unwrap();
                record["nonce"] = json!("");
                record["attempt"] = json!("");
                text = record.to_string();
            }
            found.insert(name, text);
        }
    }
    found
}

fn golden() -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().unwrap();
    assert!(child_ends_well(folder.path(), None));
    let golden = contents(folder.path());
    let names: Vec<&str> = golden.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            ".clipmill/lock",
            "links/00000.txt",
            "links/00001.txt",
            "links/_commits/00000.json",
            "links/_commits/00001.json",
            "links/logs/00000.log",
            "links/logs/00001.log",
            "report/index.html",
        ]
    );
    golden
}

#[test]
fn killed_at_every_step_a_second_run_ends_with_the_same_files() {
    let golden = golden();
    let mut killed = 0;
    loop {
        let folder = tempfile::tempdir().unwrap();
        let rule = format!("*:{}=kill", killed + 1);
        if child_ends_well(folder.path(), Some(&rule)) {
            break;
        }
        killed += 1;
        // Killed again on the way back up, at another step each time.
        child_ends_well(folder.path(), Some(&format!("*:{}=exit", killed % 17 + 1)));
        assert!(child_ends_well(folder.path(), None), "after {rule}");
        assert_eq!(contents(folder.path()), golden, "after {rule}");
    }
    assert!(killed > 60, "only {killed} steps");
}

#[test]
fn a_living_run_refuses_a_second_and_a_killed_one_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let output = Output::open(folder.path().to_str().unwrap()).unwrap();
    let lease = output.lock("first").unwrap();
    assert!(!child_ends_well(folder.path(), None));
    drop(lease);
    assert!(!child_ends_well(folder.path(), Some("commit.before_put=kill")));
    assert!(child_ends_well(folder.path(), None));
}
