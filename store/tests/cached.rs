//! Local copies of remote objects: whole or not there. In a process of its own, whose cache folder
//! is a temporary one.

use std::process::Command;

use store::{Output, fail};

/// The process that the test below starts; alone it has nothing to do.
#[test]
fn child() {
    if std::env::var_os("STORE_CACHE_TEST").is_none() {
        return;
    }
    let output = Output::in_memory();
    output.put("links/a.txt", "abc".into()).unwrap();
    let blob = output.stage("links").blob("a.txt").unwrap();
    for point in
        ["cache.before_make", "cache.before_copy", "cache.before_sync", "cache.before_rename"]
    {
        let error = fail::with(&format!("{point}=enospc"), || blob.local_path()).unwrap_err();
        assert_eq!(error.kind(), stage::Kind::Store, "{point}");
        assert!(error.to_string().contains("No space left"), "{point}: {error}");
    }
    let path = blob.local_path().unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "abc");
    let beside = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
    assert_eq!(beside, 1, "a half copy stays");
    // A copy that was cut is made again.
    std::fs::write(&path, "a").unwrap();
    assert_eq!(std::fs::read_to_string(blob.local_path().unwrap()).unwrap(), "abc");
}

#[test]
fn a_copy_that_failed_at_any_step_is_made_again_whole() {
    let cache = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child"])
        .env("STORE_CACHE_TEST", "1")
        .env("CLIPMILL_CACHE", cache.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
