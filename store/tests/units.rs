//! Units: committed once, published, repaired, cleaned up. Each fact on a disk and in a bucket.

use std::io::Write;
use std::path::Path;
use std::sync::Barrier;

use serde_json::json;
use stage::{Counts, Kind};
use store::{Output, fail};

/// Runs a test on both kinds of output.
fn everywhere(test: impl Fn(&Output)) {
    let folder = tempfile::tempdir().unwrap();
    test(&Output::open(folder.path().join("out").to_str().unwrap()).unwrap());
    test(&Output::in_memory());
}

fn one_kept() -> Counts {
    let mut counts = Counts::default();
    counts.keep();
    counts
}

fn make(output: &Output, unit: &str, text: &str) -> stage::Result<store::Commit> {
    let mut attempt = output.stage("links").begin(unit)?;
    attempt.put(&format!("{unit}.txt"), text.as_bytes())?;
    attempt.put(&format!("{unit}_stats.json"), b"{}")?;
    attempt.commit("key", one_kept(), json!({"seconds": 1.5}))
}

fn files_below(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder_now) = open.pop() {
        for entry in std::fs::read_dir(folder_now).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                names.push(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    names.sort();
    names
}

#[test]
fn a_commit_names_each_file_with_its_bytes_and_sha256() {
    everywhere(|output| {
        let commit = make(output, "00000", "abc").unwrap();
        assert_eq!(commit.files[0].name, "00000.txt");
        assert_eq!(commit.files[0].bytes, 3);
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(commit.files[0].sha256, abc);
        assert_eq!(commit.counts, one_kept());
        assert_eq!(commit.code, env!("CARGO_PKG_VERSION"));

        let links = output.stage("links");
        assert_eq!(links.commit("00000").unwrap().unwrap(), commit);
        assert_eq!(links.commits().unwrap()["00000"], commit);
        let blob = links.blob("00000.txt").unwrap();
        assert_eq!(blob.read_all().unwrap(), "abc");
        assert_eq!(blob.sha256().unwrap(), abc);
        assert!(links.commit("00001").unwrap().is_none());
    });
}

#[test]
fn a_file_has_the_same_bytes_and_sha256_in_pieces_of_any_size_and_whoever_hashes() {
    let bytes: Vec<u8> = (0..1_500_000_u32).map(|i| (i / 5) as u8).collect();
    let expected = store::Blob::from_bytes("bytes", bytes.clone().into()).sha256().unwrap();
    everywhere(|output| {
        // Around the 256 KiB that gather before they are written.
        for (unit, piece) in [1_000, 262_143, 262_144, 262_145, 1_000_000].iter().enumerate() {
            for beside in [false, true] {
                let unit = format!("{unit}-{beside}");
                let mut attempt = output.stage("links").begin(&unit).unwrap();
                let mut file = attempt.file(&unit).unwrap();
                file.write_all(&bytes[..7]).unwrap();
                if beside {
                    file = file.hash_beside();
                }
                for piece in bytes[7..].chunks(*piece) {
                    file.write_all(piece).unwrap();
                }
                assert_eq!(file.written(), bytes.len() as u64);
                file.finish().unwrap();
                let commit = attempt.commit("key", Counts::default(), json!(null)).unwrap();
                assert_eq!(commit.files[0].sha256, expected, "{unit}");
                assert_eq!(output.stage("links").blob(&unit).unwrap().sha256().unwrap(), expected);
            }
        }
    });
}

#[test]
fn nothing_is_visible_before_the_commit() {
    everywhere(|output| {
        let links = output.stage("links");
        let mut attempt = links.begin("00000").unwrap();
        attempt.put("00000.txt", b"abc").unwrap();
        assert!(links.commit("00000").unwrap().is_none());
        assert!(links.blob("00000.txt").is_err());
    });
}

#[test]
fn a_finished_local_output_holds_published_files_and_records_only() {
    let folder = tempfile::tempdir().unwrap();
    let output = Output::open(folder.path().to_str().unwrap()).unwrap();
    make(&output, "00000", "abc").unwrap();
    let names = files_below(folder.path());
    assert_eq!(names, ["links/00000.txt", "links/00000_stats.json", "links/_commits/00000.json"]);
}

#[test]
fn of_sixteen_racing_attempts_one_wins_and_all_see_its_record() {
    everywhere(|output| {
        for round in 0..8 {
            let unit = format!("{round:05}");
            let start = Barrier::new(16);
            let commits: Vec<store::Commit> = std::thread::scope(|scope| {
                let racers: Vec<_> = (0..16)
                    .map(|racer| {
                        let (unit, start) = (&unit, &start);
                        scope.spawn(move || {
                            let mut attempt = output.stage("links").begin(unit).unwrap();
                            attempt
                                .put(&format!("{unit}.txt"), format!("{racer:02}").as_bytes())?;
                            start.wait();
                            attempt.commit("key", one_kept(), json!({ "racer": racer }))
                        })
                    })
                    .collect();
                racers.into_iter().map(|racer| racer.join().unwrap().unwrap()).collect()
            });
            assert!(commits.iter().all(|commit| commit == &commits[0]));
            let winner = commits[0].info["racer"].as_u64().unwrap();
            let text = output.stage("links").blob(&format!("{unit}.txt")).unwrap();
            assert_eq!(text.read_all().unwrap(), format!("{winner:02}"));
        }
        // The losers' files are gone: nothing is left to collect.
        assert_eq!(output.gc_older_than(std::time::Duration::ZERO).unwrap(), 0);
    });
}

#[test]
fn the_loser_of_a_race_removes_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let output = Output::open(folder.path().to_str().unwrap()).unwrap();
    let mut late = output.stage("links").begin("00000").unwrap();
    late.put("00000.txt", b"late").unwrap();
    let winner = make(&output, "00000", "abc").unwrap();
    let told = late.commit("key", one_kept(), json!(null)).unwrap();
    assert_eq!(told, winner);
    assert_eq!(files_below(folder.path()).len(), 3);
    assert_eq!(output.stage("links").blob("00000.txt").unwrap().read_all().unwrap(), "abc");
}

#[test]
fn a_dropped_attempt_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let output = Output::open(folder.path().to_str().unwrap()).unwrap();
    let mut attempt = output.stage("links").begin("00000").unwrap();
    attempt.put("00000.txt", b"abc").unwrap();
    let mut open = attempt.file("open.txt").unwrap();
    open.write_all(b"half").unwrap();
    drop(attempt);
    assert_eq!(files_below(folder.path()), [""; 0]);
}

#[test]
fn a_kill_between_commit_and_publication_is_repaired_by_whoever_looks() {
    everywhere(|output| {
        for (unit, point) in [
            ("00000", "commit.after_put"),
            ("00001", "publish.before_file"),
            ("00002", "publish.before_file:2"),
            ("00003", "publish.before_sync"),
            ("00004", "publish.before_remove"),
        ] {
            // An error there leaves the attempt as a kill would.
            let rule = format!("{point}=error");
            assert!(fail::with(&rule, || make(output, unit, "abc")).is_err(), "{point}");
        }
        let links = output.stage("links");
        assert!(links.blob("00000.txt").is_err());
        links.commit("00000").unwrap().unwrap();
        assert_eq!(links.blob("00000.txt").unwrap().read_all().unwrap(), "abc");
        assert_eq!(links.commits().unwrap().len(), 5);
        for unit in 0..5 {
            let name = format!("{unit:05}.txt");
            assert_eq!(links.blob(&name).unwrap().read_all().unwrap(), "abc");
        }
        assert_eq!(output.gc_older_than(std::time::Duration::ZERO).unwrap(), 0);
    });
}

#[test]
fn gc_repairs_before_it_removes() {
    everywhere(|output| {
        assert!(fail::with("commit.after_put=error", || make(output, "00000", "abc")).is_err());
        output.gc_older_than(std::time::Duration::ZERO).unwrap();
        let blob = output.stage("links").blob("00000.txt").unwrap();
        assert_eq!(blob.read_all().unwrap(), "abc");
    });
}

#[test]
fn gc_removes_orphans_and_spares_the_living() {
    let folder = tempfile::tempdir().unwrap();
    let output = Output::open(folder.path().to_str().unwrap()).unwrap();
    let mut living = output.stage("links").begin("00001").unwrap();
    living.put("00001.txt", b"abc").unwrap();
    // What a killed process leaves: a folder, and a sign that nobody holds.
    let orphan = folder.path().join("links/_attempts/00000.dead");
    std::fs::create_dir_all(&orphan).unwrap();
    std::fs::write(orphan.join("00000.txt"), "half").unwrap();
    std::fs::write(folder.path().join("links/_attempts/00000.dead.lock"), "").unwrap();

    assert_eq!(output.gc_older_than(std::time::Duration::from_hours(1)).unwrap(), 0);
    assert_eq!(output.gc().unwrap(), 1);
    living.commit("key", one_kept(), json!(null)).unwrap();
    assert_eq!(files_below(folder.path()), ["links/00001.txt", "links/_commits/00001.json"]);
}

#[test]
fn gc_of_a_bucket_waits_a_day_unless_told() {
    let output = Output::in_memory();
    output.put("links/_attempts/00000.dead/00000.txt", "half".into()).unwrap();
    assert_eq!(output.gc().unwrap(), 0);
    assert_eq!(output.gc_older_than(std::time::Duration::ZERO).unwrap(), 1);
    assert!(output.get("links/_attempts/00000.dead/00000.txt").unwrap().is_none());
}

#[test]
fn counts_that_do_not_add_up_are_not_committed() {
    everywhere(|output| {
        let attempt = output.stage("links").begin("00000").unwrap();
        let counts = Counts { entered: 2, kept: 1, ..Counts::default() };
        let error = attempt.commit("key", counts, json!(null)).unwrap_err();
        assert_eq!(error.kind(), Kind::Internal);
        assert!(output.stage("links").commit("00000").unwrap().is_none());
    });
}

#[test]
fn an_unfinished_file_is_not_committed() {
    everywhere(|output| {
        let mut attempt = output.stage("links").begin("00000").unwrap();
        let mut file = attempt.file("00000.txt").unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        let error = attempt.commit("key", one_kept(), json!(null)).unwrap_err();
        let text = error.to_string();
        assert_eq!(text, "links unit 00000: file 00000.txt was not finished at the commit");
    });
}

#[test]
fn what_programs_leave_in_the_local_folder_becomes_part_of_the_unit() {
    everywhere(|output| {
        let mut attempt = output.stage("train").begin("run").unwrap();
        attempt.put("logs/loss.csv", b"1").unwrap();
        std::fs::write(attempt.local_dir().join("logs/events.1"), "events").unwrap();
        std::fs::write(attempt.local_dir().join("model"), "weights").unwrap();
        let commit = attempt.commit("key", Counts::default(), json!(null)).unwrap();
        let names: Vec<&str> = commit.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["logs/events.1", "logs/loss.csv", "model"]);
        let blob = output.stage("train").blob("logs/events.1").unwrap();
        assert_eq!(blob.read_all().unwrap(), "events");
        assert_eq!(commit.files[0].sha256, blob.sha256().unwrap());
    });
}

#[test]
fn a_file_changed_after_it_was_finished_is_hashed_again() {
    everywhere(|output| {
        let mut attempt = output.stage("links").begin("00000").unwrap();
        attempt.put("a", b"abc").unwrap();
        std::fs::write(attempt.local_dir().join("a"), "longer").unwrap();
        let commit = attempt.commit("key", one_kept(), json!(null)).unwrap();
        let blob = output.stage("links").blob("a").unwrap();
        assert_eq!((commit.files[0].bytes, &commit.files[0].sha256), (6, &blob.sha256().unwrap()));
    });
}

#[test]
fn names_that_leave_the_stage_are_refused() {
    everywhere(|output| {
        let mut attempt = output.stage("links").begin("00000").unwrap();
        for name in ["../x", "/x", "_commits/00000.json", ""] {
            assert!(attempt.file(name).is_err(), "{name:?}");
            assert!(output.stage("links").blob(name).is_err(), "{name:?}");
        }
        assert!(output.stage("links").begin("../x").is_err());
        assert!(output.stage("../links").begin("x").is_err());
        assert!(output.stage(".clipmill").clear().is_err());
        assert!(output.put("../x", "".into()).is_err());
    });
}

#[test]
fn two_units_with_one_file_name_are_refused() {
    everywhere(|output| {
        for (unit, outcome) in [("00000", true), ("00001", false)] {
            let mut attempt = output.stage("links").begin(unit).unwrap();
            attempt.put("same.txt", unit.as_bytes()).unwrap();
            let commit = attempt.commit("key", one_kept(), json!(null));
            assert_eq!(commit.is_ok(), outcome);
            if let Err(error) = commit {
                let text = error.to_string();
                assert!(text.ends_with("units 00000 and 00001 both made this file"), "{text}");
            }
        }
        assert_eq!(output.stage("links").blob("same.txt").unwrap().read_all().unwrap(), "00000");
    });
}

#[test]
fn a_committed_file_that_was_cut_or_removed_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let output = Output::open(folder.path().to_str().unwrap()).unwrap();
    make(&output, "00000", "abc").unwrap();
    let file = folder.path().join("links/00000.txt");
    std::fs::write(&file, "ab").unwrap();
    let error = output.stage("links").commits().unwrap_err();
    assert_eq!(error.kind(), Kind::Store);
    let text = error.to_string();
    assert!(text.contains("committed with 3 bytes and has 2 bytes"), "{text}");
    std::fs::remove_file(&file).unwrap();
    let error = output.stage("links").commit("00000").unwrap_err();
    assert!(error.to_string().contains("is missing"), "{error}");
    assert!(error.hint_text().unwrap().contains("_commits/00000.json"));
}

#[test]
fn a_record_that_points_outside_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = Output::open(folder.path().to_str().unwrap()).unwrap();
    make(&output, "00000", "abc").unwrap();
    let path = folder.path().join("links/_commits/00000.json");
    let text = std::fs::read_to_string(&path).unwrap();
    for (from, to) in
        [("\"00000.txt\"", "\"../../etc/passwd\""), ("\"unit\"", "\"unti\""), ("{", "")]
    {
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let error = output.stage("links").commits().unwrap_err();
        assert!(error.to_string().contains("broken commit record"), "{error}");
    }
}

#[test]
fn a_cleared_stage_is_empty_and_its_names_are_free() {
    everywhere(|output| {
        make(output, "00000", "abc").unwrap();
        std::fs::write(output.stage("links").work_dir().unwrap().join("state"), "1").unwrap();
        output.stage("links").clear().unwrap();
        assert!(output.stage("links").commits().unwrap().is_empty());
        assert!(output.stage("links").blob("00000.txt").is_err());
        assert!(!output.stage("links").work_dir().unwrap().join("state").exists());
        make(output, "00000", "new").unwrap();
        output.stage("never").clear().unwrap();
    });
}

#[test]
fn a_clear_killed_half_way_does_not_block_the_next_run() {
    everywhere(|output| {
        make(output, "00000", "old").unwrap();
        assert!(fail::with("clear.before_remove=error", || output.stage("links").clear()).is_err());
        assert!(output.stage("links").commit("00000").unwrap().is_none());
        make(output, "00000", "new").unwrap();
        assert_eq!(output.stage("links").blob("00000.txt").unwrap().read_all().unwrap(), "new");
    });
}

#[test]
fn work_of_a_stage_survives_and_is_not_committed() {
    everywhere(|output| {
        let work = output.stage("train").work_dir().unwrap();
        std::fs::write(work.join("step-100"), "state").unwrap();
        assert!(output.stage("train").commits().unwrap().is_empty());
        output.gc_older_than(std::time::Duration::ZERO).unwrap();
        assert!(output.stage("train").work_dir().unwrap().join("step-100").exists());
    });
}

#[test]
fn small_files_are_replaced_whole() {
    everywhere(|output| {
        assert!(output.get("report/index.html").unwrap().is_none());
        output.put("report/index.html", "one".into()).unwrap();
        output.put("report/index.html", "two".into()).unwrap();
        assert_eq!(output.get("report/index.html").unwrap().unwrap(), "two");
    });
}

#[test]
fn a_full_disk_is_told_with_the_path_and_nothing_stays() {
    let folder = tempfile::tempdir().unwrap();
    let output = Output::open(folder.path().to_str().unwrap()).unwrap();
    for point in ["file.before_write", "file.before_sync", "disk.before_write", "disk.before_link"]
    {
        let rule = format!("{point}=enospc");
        let error = fail::with(&rule, || make(&output, "00000", "abc")).unwrap_err();
        assert_eq!(error.kind(), Kind::Store, "{point}");
        let text = error.to_string();
        assert!(text.contains("00000") && text.contains("No space left"), "{point}: {text}");
        let hint = error.hint_text().unwrap();
        assert_eq!(hint, "free space there and run the same command again to go on");
        assert_eq!(files_below(folder.path()), [""; 0], "{point}");
    }
    make(&output, "00000", "abc").unwrap();
}

#[test]
fn a_file_with_a_failed_write_can_never_be_finished() {
    let folder = tempfile::tempdir().unwrap();
    let output = Output::open(folder.path().to_str().unwrap()).unwrap();
    let mut attempt = output.stage("links").begin("00000").unwrap();
    let mut file = attempt.file("a").unwrap();
    file.write_all(b"abc").unwrap();
    fail::with("file.before_write=enospc", || file.flush()).unwrap_err();
    assert!(file.flush().is_err());
    assert!(file.finish().is_err());
    assert!(attempt.commit("key", one_kept(), json!(null)).is_err());
}

/// Whatever store operation fails, the unit is done or not begun, and a second try ends well.
#[test]
fn the_nth_step_fails_for_every_n() {
    for action in ["error", "enospc", "eio"] {
        everywhere(|output| {
            for n in 1.. {
                let unit = format!("{n:05}");
                let made = fail::with(&format!("*:{n}={action}"), || make(output, &unit, "abc"));
                let links = output.stage("links");
                let done = links.commit(&unit).unwrap();
                assert!(made.is_err() || done.is_some());
                match done {
                    Some(_) => assert_eq!(
                        links.blob(&format!("{unit}.txt")).unwrap().read_all().unwrap(),
                        "abc"
                    ),
                    None => assert!(links.blob(&format!("{unit}.txt")).is_err()),
                }
                let last = made.is_ok() && n > 20;
                make(output, &unit, "abc").unwrap();
                if last {
                    break;
                }
            }
            output.gc_older_than(std::time::Duration::ZERO).unwrap();
            assert!(output.stage("links").commits().unwrap().len() > 20);
        });
    }
}

#[test]
fn every_fail_point_is_passed() {
    let seen = std::cell::RefCell::new(std::collections::BTreeSet::new());
    everywhere(|output| {
        let links = output.stage("links");
        let ((), points) = fail::trace(|| {
            Output::open(output.url()).unwrap();
            // The second lease forgets the first.
            drop(output.lock("run").unwrap());
            drop(output.lock("run").unwrap());
            make(output, "00000", "abc").unwrap();
            let dropped = links.begin("00001").unwrap();
            output.put("links/_attempts/00002.dead/x", "half".into()).unwrap();
            let spool = dropped.local_dir().with_file_name("00003.dead");
            std::fs::create_dir(spool).unwrap();
            drop(dropped);
            output.gc_older_than(std::time::Duration::ZERO).unwrap();
            std::fs::write(links.work_dir().unwrap().join("state"), "1").unwrap();
            links.trim_work().unwrap();
            // Above 16 MiB a file goes up in parts.
            let large = links.begin("00004").unwrap();
            let stray = std::fs::File::create(large.local_dir().join("large")).unwrap();
            stray.set_len(17 << 20).unwrap();
            large.commit("key", one_kept(), json!(null)).unwrap();
            links.clear().unwrap();
        });
        seen.borrow_mut().extend(points);
    });
    // Passed by another thread, and with another cache folder: each has its own test.
    let elsewhere = |point: &&str| *point == "lease.before_renew" || point.starts_with("cache.");
    let all: std::collections::BTreeSet<&str> = fail::POINTS.iter().copied().collect();
    let seen = seen.into_inner();
    let unseen: Vec<&&str> = all.difference(&seen).filter(|point| !elsewhere(point)).collect();
    assert!(unseen.is_empty(), "{unseen:?}");
    assert!(seen.is_subset(&all), "{:?}", seen.difference(&all));
    assert!(all.len() >= 60, "{}", all.len());
}

#[test]
fn a_file_behind_a_link_is_taken_over_as_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let (blobs, snapshot) = (folder.path().join("blobs"), folder.path().join("snapshot"));
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::write(blobs.join("0a1b"), "abc").unwrap();
    let link = snapshot.join("00000.tar");
    std::os::unix::fs::symlink("../blobs/0a1b", &link).unwrap();
    let output = Output::open(folder.path().join("out").to_str().unwrap()).unwrap();
    let blob = store::Blob::open(link.to_str().unwrap()).unwrap();
    let mut attempt = output.stage("release").begin("00000").unwrap();
    attempt.adopt("00000.tar", &blob, &blob.sha256().unwrap()).unwrap();
    let commit = attempt.commit("key", Counts::default(), json!(null)).unwrap();
    assert_eq!((commit.files[0].bytes, commit.files.len()), (3, 1));
    let made = folder.path().join("out/release/00000.tar");
    assert!(std::fs::symlink_metadata(&made).unwrap().is_file());
    assert_eq!(std::fs::read(made).unwrap(), b"abc");
}

#[test]
fn all_files_of_a_stage_are_listed_whoever_put_them_there() {
    everywhere(|output| {
        make(output, "00000", "abc").unwrap();
        output.put("links/old/a/notes.txt", "x".into()).unwrap();
        let links = output.stage("links");
        assert_eq!(
            links.names().unwrap(),
            ["00000.txt", "00000_stats.json", "_commits/00000.json", "old/a/notes.txt"]
        );
        assert!(links.any_blob("_commits/00000.json").unwrap().len() > 0);
        assert!(links.any_blob("../links/00000.txt").is_err());
        assert_eq!(output.stage("none").names().unwrap(), [""; 0]);
    });
}

#[test]
fn one_stage_is_cleaned_up_whatever_lies_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let output = Output::open(folder.path().join("out").to_str().unwrap()).unwrap();
    make(&output, "00000", "abc").unwrap();
    let mut other = output.stage("other").begin("00000").unwrap();
    other.put("x.txt", b"x").unwrap();
    other.commit("key", Counts::default(), json!(null)).unwrap();
    std::fs::remove_file(folder.path().join("out/other/x.txt")).unwrap();
    assert!(output.gc().is_err());
    assert_eq!(output.gc_stage("links").unwrap(), 0);
}
