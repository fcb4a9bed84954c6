//! Commands that look at an output or at shards: `verify`, `gc`, `ls`, `cat`, `stat`.

mod common;

use std::time::Duration;

use common::{World, clipmill, run_well, stderr, stdout};
use serde_json::{Value, json};

fn say(args: &[&str]) -> Value {
    let output = clipmill().arg("--json").args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    serde_json::from_str(&stdout(&output)).unwrap()
}

/// A tar of two samples, one with a picture and a json, one with a text alone.
fn shard(folder: &std::path::Path) -> String {
    let mut tar = shard::TarWriter::new(Vec::new());
    tar.append("0001.jpg", b"\xff\xd8\xff").unwrap();
    tar.append("0001.json", br#"{"url": "http://a.example/"}"#).unwrap();
    tar.append("0002.txt", "ein Hund\n".as_bytes()).unwrap();
    let path = folder.join("00000.tar");
    std::fs::write(&path, tar.finish().unwrap()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn verify_reads_every_byte_and_names_the_file_that_changed() {
    let world = World::new(Duration::ZERO);
    run_well(&world.ordinary("verify", "min_words: 2"), &[]);
    let out = world.path("out");
    let whole = say(&["verify", "--output", out.to_str().unwrap()]);
    assert!(whole["files"].as_u64().unwrap() > 8, "{whole}");
    let tar = out.join("fetch/00000.tar");
    let mut bytes = std::fs::read(&tar).unwrap();
    bytes[700] ^= 1;
    std::fs::write(&tar, bytes).unwrap();
    let broken = clipmill().args(["verify", "--output"]).arg(&out).output().unwrap();
    assert_eq!(broken.status.code(), Some(4), "{}", stderr(&broken));
    let text = stderr(&broken);
    assert!(text.contains("00000.tar: sha256") && text.contains("fetch "), "{text}");
    assert!(text.contains("1 of "), "{text}");
}

#[test]
fn gc_removes_what_a_killed_attempt_left_and_nothing_else() {
    let world = World::new(Duration::ZERO);
    let recipe = world.ordinary("gc", "min_words: 2");
    run_well(&recipe, &[]);
    let out = world.path("out");
    let orphan = out.join("fetch/_attempts/00000.0123456789abcdef");
    std::fs::create_dir_all(&orphan).unwrap();
    std::fs::write(orphan.join("00000.tar"), b"half").unwrap();
    let before = common::published(&out, &common::STAGES);
    assert_eq!(say(&["gc", "--output", out.to_str().unwrap()])["removed"], 1);
    assert!(!orphan.exists());
    assert_eq!(before, common::published(&out, &common::STAGES));
    assert_eq!(say(&["gc", "--output", out.to_str().unwrap()])["removed"], 0);
}

#[test]
fn a_stream_is_a_tar_and_nothing_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    let shard = shard(folder.path());
    let bytes = |flags: &[&str]| {
        let output = clipmill().args(["stream", shard.as_str()]).args(flags).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        output.stdout
    };
    let tar = bytes(&[]);
    assert!(tar.starts_with(b"0001.jpg") && tar.len().is_multiple_of(512));
    assert_eq!(bytes(&["--json"]), tar);
}

#[test]
fn what_a_file_calls_its_tasks_does_not_command_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let line = r#"{"key": "a", "dataset": "\u001b[31mred\u0007", "metrics": {"main_metric": 0.5}}"#;
    std::fs::write(folder.path().join("eval_results.jsonl"), line).unwrap();
    let page = folder.path().join("page.html");
    let output = clipmill()
        .arg("compare")
        .arg(folder.path())
        .args(["--page", page.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    assert!(text.contains("\u{fffd}[31mred\u{fffd}") && !text.contains('\u{1b}'), "{text}");
}

#[test]
fn ls_stat_and_cat_look_into_a_shard_by_sample() {
    let folder = tempfile::tempdir().unwrap();
    let tar = shard(folder.path());
    let list = say(&["ls", &tar]);
    assert_eq!(list.as_array().unwrap().len(), 2);
    assert_eq!(list[0]["key"], "0001");
    assert_eq!(list[0]["members"][1], json!({"name": "0001.json", "offset": 1536, "bytes": 28}));
    let stat = say(&["stat", folder.path().to_str().unwrap()]);
    assert_eq!((&stat["samples"], &stat["bytes"]), (&json!(2), &json!(4096)));
    assert_eq!(stat["shards"][0]["parts"]["txt"], json!({"count": 1, "bytes": 9}));
    let sample = say(&["cat", "0001", &tar]);
    assert_eq!(sample["parts"]["json"]["url"], "http://a.example/");
    let bytes = clipmill().args(["cat", "0001.jpg", &tar]).output().unwrap().stdout;
    assert_eq!(bytes, b"\xff\xd8\xff");
    let missing = clipmill().args(["cat", "0003", &tar]).output().unwrap();
    assert_eq!(missing.status.code(), Some(3), "{}", stderr(&missing));
}
