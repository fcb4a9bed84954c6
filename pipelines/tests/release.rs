//! Releases: what they hold, what is taken out of them, and that a kill changes neither.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use common::{World, clipmill, published, run, run_well, stderr, stdout};
use serde_json::Value;

/// [`World::ordinary`] with a release of its shards.
fn recipe(world: &World, name: &str, release: &str) -> PathBuf {
    let path = world.ordinary(name, "min_words: 2");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}  - release: {release}\n")).unwrap();
    path
}

/// A world with a release in `out/release`.
fn released(plan: &str) -> World {
    let world = World::new(Duration::ZERO);
    run_well(&recipe(&world, "released", plan), &[]);
    world
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A column of all metadata files, as text.
fn column(release: &Path, name: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(release.join("metadata")).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    for file in files {
        let blob = store::Blob::open(file.to_str().unwrap()).unwrap();
        for batch in store::read_parquet(&blob).unwrap() {
            let batch = batch.unwrap();
            let text = batch.column_by_name(name).unwrap().as_string::<i32>().clone();
            found.extend((0..text.len()).map(|row| text.value(row).to_owned()));
        }
    }
    found
}

fn say(args: &[&str]) -> Value {
    let output = clipmill().arg("--json").args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    serde_json::from_str(&stdout(&output)).unwrap()
}

fn refused(args: &[&str], code: i32) -> String {
    let output = clipmill().args(args).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}", stderr(&output));
    stderr(&output)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A copy of a release as others have it: its files without the folders of the commit protocol.
fn copy(release: &Path, to: &Path) {
    let manifest = json(&release.join("manifest.json"));
    let mut names: Vec<&str> =
        manifest["files"].as_array().unwrap().iter().map(|f| f["path"].as_str().unwrap()).collect();
    names.extend(["manifest.json", "SHA256SUMS"]);
    for name in names {
        let path = to.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::copy(release.join(name), path).unwrap();
    }
}

#[test]
fn a_release_checks_with_sha256sum_and_says_where_its_pairs_come_from() {
    let world = released("{license: cc-by-4.0, title: Grey pictures}");
    let release = world.path("out/release");
    let checked = Command::new("sha256sum")
        .args(["--strict", "-c", "SHA256SUMS"])
        .current_dir(&release)
        .output();
    let checked: Output = checked.unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    let manifest = json(&release.join("manifest.json"));
    let files = manifest["files"].as_array().unwrap();
    let paths: BTreeSet<&str> = files.iter().map(|f| f["path"].as_str().unwrap()).collect();
    for path in [
        "LICENSE",
        "README.md",
        "croissant.json",
        "subset.npy",
        "metadata/00000000.parquet",
        "shards/00000000.tar",
    ] {
        assert!(paths.contains(path), "{path} is not among {paths:?}");
    }
    let stages: Vec<&str> = manifest["lineage"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["kind"].as_str().unwrap())
        .collect();
    assert_eq!(stages, ["links", "dedup", "fetch", "judge", "select", "reshard"]);
    let wat = &manifest["lineage"][0]["identity"]["external"][0];
    assert_eq!(wat["name"], "crawl.warc.wat");
    for stage in manifest["lineage"].as_array().unwrap() {
        let counts: stage::Counts = serde_json::from_value(stage["counts"].clone()).unwrap();
        counts.check().unwrap();
    }
    // Forty pictures: six are missing, four have a caption of one word, of which one is missing.
    assert_eq!(manifest["samples"], 31);
    assert_eq!(column(&release, "uid").len(), 31);
    let uids = store::subset::read(&store::Blob::open(text(&release.join("subset.npy"))).unwrap());
    let mut rows = column(&release, "uid");
    rows.sort();
    assert_eq!(uids.unwrap().iter().map(ToString::to_string).collect::<Vec<_>>(), rows);
    assert!(column(&release, "url").iter().all(|url| url.starts_with("http://site-")));
    // The judge's score came along.
    assert_eq!(manifest["scores"]["caption_words"]["count"], 31, "{}", manifest["scores"]);
}

#[test]
fn the_card_has_front_matter_and_croissant_names_every_column() {
    let world = released("{license: cc-by-4.0, languages: [en], date: 2026-11-22}");
    let release = world.path("out/release");
    let card = std::fs::read_to_string(release.join("README.md")).unwrap();
    let front = card.strip_prefix("---\n").unwrap().split("\n---\n").next().unwrap();
    let front: Value = serde_saphyr::from_str(front).unwrap();
    assert_eq!(front["license"], "cc-by-4.0");
    assert_eq!(front["size_categories"][0], "n<1K");
    assert_eq!(front["language"][0], "en");
    assert_eq!(front["configs"][0]["data_files"][0]["path"], "shards/*.tar");
    assert!(card.contains("| fetch | 40 | 34 |"), "{card}");
    let croissant = json(&release.join("croissant.json"));
    assert_eq!(croissant["@type"], "sc:Dataset");
    assert_eq!(croissant["conformsTo"][0], "http://mlcommons.org/croissant/1.1");
    assert_eq!(croissant["datePublished"], "2026-11-22");
    let fields = croissant["recordSet"][0]["field"].as_array().unwrap();
    let names: BTreeSet<&str> = fields.iter().map(|f| f["name"].as_str().unwrap()).collect();
    let manifest = json(&release.join("manifest.json"));
    let columns: BTreeSet<&str> =
        manifest["columns"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, columns);
    let missing = croissant["rai:dataCollectionMissingData"].as_str().unwrap();
    assert!(missing.starts_with("Of 40 links 34 gave a picture."), "{missing}");
    let subset = croissant["distribution"][2].clone();
    assert_eq!(subset["@id"], "subset.npy");
    let sums = std::fs::read_to_string(release.join("SHA256SUMS")).unwrap();
    assert!(sums.contains(&format!("{}  subset.npy\n", subset["sha256"].as_str().unwrap())));
}

#[test]
fn the_same_recipe_gives_the_same_release_at_any_number_of_threads() {
    let world = World::new(Duration::ZERO);
    let recipe = recipe(&world, "same", "{license: mit}");
    let outs = ["1", "4"].map(|threads| {
        let out = world.path(&format!("out-{threads}"));
        run_well(&recipe, &["--output", text(&out), "--threads", threads]);
        published(&out, &["release"])
    });
    assert_eq!(outs[0], outs[1]);
    assert!(outs[0].len() > 10);
}

#[test]
fn a_release_of_metadata_alone_has_urls_and_scores_and_no_shard() {
    let world = World::new(Duration::ZERO);
    let path = world.ordinary("metadata", "min_words: 2");
    let stages = std::fs::read_to_string(&path).unwrap();
    let (head, _) = stages.split_once("  - reshard").unwrap();
    std::fs::write(&path, format!("{head}  - release: {{license: mit, metadata_only: true}}\n"))
        .unwrap();
    run_well(&path, &[]);
    let release = world.path("out/release");
    assert!(!release.join("shards").exists());
    assert_eq!(column(&release, "text").len(), 31);
    let manifest = json(&release.join("manifest.json"));
    assert_eq!(manifest["counts"]["dropped"]["not_selected"], 9);
    assert!(manifest["columns"].get("caption_words").is_some(), "{}", manifest["columns"]);
    // Pictures cannot be released from a selection.
    let text =
        stages.replace("  - reshard: {samples_per_shard: 7}\n", "  - release: {license: mit}\n");
    std::fs::write(&path, text).unwrap();
    let told = refused(&["check", path.to_str().unwrap()], 2);
    assert!(told.contains("metadata_only: true"), "{told}");
}

#[test]
fn a_release_without_a_licence_or_without_a_pair_is_refused() {
    let world = World::new(Duration::ZERO);
    let told = stderr(&run(&recipe(&world, "no-licence", "{}"), &[]));
    assert!(told.contains("license"), "{told}");
    let told = stderr(&run(&recipe(&world, "odd-licence", "{license: CC BY 4.0}"), &[]));
    assert!(told.contains("license must be an identifier"), "{told}");
    let path = world.ordinary("empty", "min_words: 2");
    let stages = std::fs::read_to_string(&path).unwrap();
    let (head, _) = stages.split_once("  - select").unwrap();
    let of = |more: &str| {
        format!(
            "{head}  - select: {{where: \"uid = 'none'\", allow_empty: true}}\n  - release: {{license: mit, metadata_only: true{more}}}\n"
        )
    };
    std::fs::write(&path, of("")).unwrap();
    let output = run(&path, &[]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("the release is empty: 40 samples entered"),
        "{}",
        stderr(&output)
    );
    assert!(stderr(&output).contains("allow_empty: true"), "{}", stderr(&output));
    assert!(!world.path("out/release/manifest.json").exists());
    std::fs::write(&path, of(", allow_empty: true")).unwrap();
    run_well(&path, &["--redo", "release"]);
    assert_eq!(json(&world.path("out/release/manifest.json"))["samples"], 0);
}

#[test]
fn shards_that_hold_more_than_pairs_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let tar = folder.path().join("00000.tar");
    for (members, told) in [
        (vec!["0.png", "0.txt", "1.txt"], "1 members belong to no picture"),
        (vec!["0.png", "1.png", "0.png"], "two pairs are called 0"),
        (vec!["0.png", "0.pkl"], "`.pkl` may be run by whoever reads it"),
    ] {
        let mut writer = shard::TarWriter::new(Vec::new());
        for (number, name) in members.iter().enumerate() {
            writer.append(name, &common::picture(number)).unwrap();
        }
        std::fs::write(&tar, writer.finish().unwrap()).unwrap();
        let out = folder.path().join(told.replace([' ', '`'], "-"));
        let args = ["release", "--license", "mit", "--urls", text(&tar), "--output", text(&out)];
        let text = refused(&args, 3);
        assert!(text.contains(told), "{text}");
        assert!(text.contains("00000.tar"), "{text}");
    }
}

#[test]
fn a_plan_expects_ranges_and_the_report_holds_them_against_what_came() {
    let world = World::new(Duration::ZERO);
    let recipe = recipe(&world, "expected", "{license: mit}");
    let plan = || say(&["plan", text(&recipe)])["stages"].as_array().unwrap().clone();
    for stage in plan() {
        let expected = &stage["estimate"];
        assert_eq!(expected["basis"], "assumed", "{stage}");
        for field in ["samples", "bytes", "seconds", "memory"] {
            let end = |i: usize| expected[field][i].as_f64().unwrap();
            assert!(end(0) <= end(1), "{field}: {stage}");
        }
    }
    let words = stdout(&clipmill().args(["plan", text(&recipe)]).output().unwrap());
    assert!(words.contains(" to write, ") && words.contains("of memory"), "{words}");
    run_well(&recipe, &[]);
    let after = plan();
    let release = after.iter().find(|stage| stage["id"] == "release").unwrap();
    assert_eq!(release["estimate"]["basis"], "done");
    assert_eq!(release["estimate"]["samples"], serde_json::json!([31, 31]));
    let page = std::fs::read_to_string(world.path("out/report.html")).unwrap();
    for heading in [
        "Words of the captions",
        "Hosts of the pictures (4)",
        "expected written",
        "Release: release",
    ] {
        assert!(page.contains(heading), "{heading}");
    }
    let expected = json(&world.path("out/estimate.json"));
    assert_eq!(expected["fetch"]["basis"], "assumed");
}

#[test]
fn a_purge_rewrites_the_shards_of_what_it_takes_out_and_no_other() {
    let world = released("{license: mit}");
    let release = world.path("out/release");
    let (uid, url) = (column(&release, "uid")[0].clone(), column(&release, "url")[0].clone());
    let done = say(&["purge", text(&release), "--uid", &uid]);
    assert_eq!((&done["removed"], &done["rewritten"]), (&1.into(), &1.into()), "{done}");
    let next = world.path("out/release.v2");
    assert_eq!(done["folder"], text(&next));
    let same = |name: &str| {
        let inode = |folder: &Path| std::fs::metadata(folder.join(name)).unwrap().ino();
        inode(&release) == inode(&next)
    };
    assert!(!same("shards/00000000.tar") && same("shards/00000001.tar"));
    let rows = column(&next, "uid");
    assert_eq!(rows.len(), 30);
    assert!(!rows.contains(&uid));
    let manifest = json(&next.join("manifest.json"));
    let before = json(&release.join("manifest.json"));
    assert_eq!(manifest["parent"]["merkle_root"], before["merkle_root"]);
    assert_eq!(manifest["plan"]["version"], "2.0.0");
    assert_eq!(manifest["counts"]["dropped"]["purged"], 1);
    // Neither the uid nor the URL stands anywhere in clear.
    let tombstones = std::fs::read_to_string(next.join("tombstones.json")).unwrap();
    assert!(!tombstones.contains(&uid) && !tombstones.contains(&url));
    assert_eq!(json(&release.join("REVOKED.json"))["replaced_by"], "release.v2");
    let absence = say(&["verify-purge", text(&next)]);
    assert_eq!(absence["rows"], 30);
    say(&["verify-purge", text(&next), "--uid", &uid, "--url", &url]);
    let whole = Command::new("sha256sum")
        .args(["--strict", "--quiet", "-c", "SHA256SUMS"])
        .current_dir(&next)
        .status();
    assert!(whole.unwrap().success());
    // The same again says the same; another purge has to take the newer version.
    assert_eq!(say(&["purge", text(&release), "--uid", &uid]), done);
    let told = refused(&["purge", text(&release), "--domain", "site-1.example"], 5);
    assert!(told.contains("revoked") && told.contains("release.v2"), "{told}");
    let third = say(&["purge", text(&next), "--domain", "site-1.example"]);
    let third = PathBuf::from(third["folder"].as_str().unwrap());
    assert!(third.ends_with("release.v3"));
    assert!(column(&third, "url").iter().all(|url| !url.contains("//site-1.")));
    let gone = json(&third.join("tombstones.json"));
    assert_eq!(gone["samples"], 1 + 30 - column(&third, "uid").len() as u64);
    say(&["verify-purge", text(&third), "--domain", "site-1.example", "--uid", &uid]);
}

#[test]
fn what_is_still_there_is_found_wherever_it_stands() {
    let world = released("{license: mit}");
    let release = world.path("out/release");
    let (uid, url) = (column(&release, "uid")[3].clone(), column(&release, "url")[3].clone());
    let hash = column(&release, "image_sha256")[3].clone();
    for (flag, value, places) in [
        (
            "--uid",
            &uid,
            ["metadata/00000000.parquet", "shards/00000000.tar", "subset.npy"].as_slice(),
        ),
        ("--url", &url, &["metadata/00000000.parquet", "shards/00000000.tar"]),
        ("--sha256", &hash, &["metadata/00000000.parquet", "shards/00000000.tar"]),
    ] {
        let told = refused(&["verify-purge", text(&release), flag, value], 3);
        for place in places {
            assert!(told.contains(place), "{flag}: {place} is not in {told}");
        }
    }
    // In a copy: a page that somebody put beside it, and a line in the card.
    let copied = world.path("copied/release");
    copy(&release, &copied);
    let purged = say(&["purge", text(&copied), "--url", &url]);
    let next = PathBuf::from(purged["folder"].as_str().unwrap());
    say(&["verify-purge", text(&next)]);
    std::fs::write(next.join("notes.txt"), format!("see ({url}).\n")).unwrap();
    let told = refused(&["verify-purge", text(&next)], 3);
    assert!(told.contains("notes.txt") && told.contains("a purged url"), "{told}");
    std::fs::write(next.join("notes.txt"), "nothing\n").unwrap();
    let told = refused(&["verify-purge", text(&next)], 3);
    assert!(told.contains("notes.txt is not in the manifest"), "{told}");
    std::fs::remove_file(next.join("notes.txt")).unwrap();
    say(&["verify-purge", text(&next)]);
    let told = refused(&["verify-purge", text(&copied)], 3);
    assert!(told.contains("nothing was purged"), "{told}");
}

#[test]
fn a_list_of_one_release_takes_the_same_pairs_out_of_a_copy() {
    let world = released("{license: mit}");
    let release = world.path("out/release");
    let (uids, hashes) = (column(&release, "uid"), column(&release, "image_sha256"));
    let list = world.path("list.txt");
    std::fs::write(&list, format!("# asked for\n{}\nsha256:{}\n", uids[1], hashes[9])).unwrap();
    let copied = world.path("copied/release");
    copy(&release, &copied);
    let first = say(&["purge", text(&release), "--list", text(&list)]);
    assert_eq!(first["removed"], 2);
    let tombstones = world.path("out/release.v2/tombstones.json");
    let second = say(&["purge", text(&copied), "--list", text(&tombstones)]);
    assert_eq!(second["removed"], 2);
    let rows = |path: &str| column(&world.path(path), "uid");
    assert_eq!(rows("out/release.v2"), rows("copied/release.v2"));
    // What fits nothing writes nothing.
    let none = say(&["purge", text(&world.path("copied/release.v2")), "--domain", "none.example"]);
    assert_eq!(none["removed"], 0);
    assert!(!world.path("copied/release.v3").exists());
}

/// A purged version's files without records and clock values, and the mark on the one before.
fn outcome(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = published(folder, &["release.v2"]);
    files.insert("mark".to_owned(), std::fs::read(folder.join("release/REVOKED.json")).unwrap());
    files
}

#[test]
fn a_purge_that_is_killed_at_any_step_goes_on_and_ends_with_the_same_bytes() {
    let world = released("{license: mit}");
    let release = world.path("out/release");
    let uid = column(&release, "uid")[0].clone();
    let room = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let purge = |folder: &Path, rule: Option<String>| {
        let mut command = clipmill();
        command.args(["purge", text(&folder.join("release")), "--threads", "1", "--uid", &uid]);
        if let Some(rule) = rule {
            command.env("CLIPMILL_FAIL", rule);
        }
        command.args(["--domain", "site-2.example"]).output().unwrap()
    };
    let whole = room.path().join("whole");
    copy(&release, &whole.join("release"));
    let first = purge(&whole, None);
    assert!(first.status.success(), "{}", stderr(&first));
    let expected = outcome(&whole);
    // Every fifth step here; all of them with `CLIPMILL_FAULT_ALL`.
    let stride = if std::env::var_os("CLIPMILL_FAULT_ALL").is_some() { 1 } else { 5 };
    let (mut step, mut deaths) = (1, 0);
    loop {
        let victim = room.path().join(format!("victim-{step}"));
        copy(&release, &victim.join("release"));
        let output = purge(&victim, Some(format!("*:{step}=kill")));
        if output.status.success() {
            break;
        }
        assert_eq!(output.status.signal(), Some(6), "step {step}: {}", stderr(&output));
        deaths += 1;
        let again = purge(&victim, None);
        assert!(again.status.success(), "step {step}: {}", stderr(&again));
        assert!(expected == outcome(&victim), "killed at step {step}");
        say(&["verify-purge", text(&victim.join("release.v2"))]);
        std::fs::remove_dir_all(&victim).unwrap();
        step += stride;
    }
    eprintln!("{deaths} deaths before step {step}");
    assert!(deaths >= 20, "{deaths} deaths before step {step}");
}

#[test]
fn a_purge_cut_off_by_sigkill_is_not_mixed_with_another() {
    let world = released("{license: mit}");
    let release = world.path("out/release");
    let uids = column(&release, "uid");
    let cut = clipmill()
        .args(["purge", text(&release), "--uid", &uids[0]])
        .env("CLIPMILL_FAIL", "commit.after_put:2=kill")
        .output()
        .unwrap();
    assert!(!cut.status.success());
    let told = refused(&["purge", text(&release), "--uid", &uids[1]], 5);
    assert!(told.contains("another purge of this release was begun here"), "{told}");
    say(&["purge", text(&release), "--uid", &uids[0]]);
}

#[test]
fn diff_tells_pairs_stages_and_scores_apart() {
    let world = released("{license: mit}");
    let stricter = recipe(&world, "stricter", "{license: cc0-1.0}");
    let changed = std::fs::read_to_string(&stricter).unwrap();
    std::fs::write(
        &stricter,
        changed.replace("min_words: 2", "min_words: 6").replace("name: stricter", "name: released"),
    )
    .unwrap();
    let other = world.path("other");
    // Captions of one word and, in this world, five: nobody is left with six.
    let output = run(&stricter, &["--output", text(&other)]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let text_of = std::fs::read_to_string(&stricter).unwrap();
    std::fs::write(&stricter, text_of.replace("min_words: 6", "min_words: 2, min_chars: 24"))
        .unwrap();
    run_well(&stricter, &["--output", text(&other), "--redo", "judge"]);
    let (a, b) = (world.path("out/release"), other.join("release"));
    let changes = say(&["diff", text(&a), text(&b)]);
    let (before, after) = (column(&a, "uid"), column(&b, "uid"));
    assert!(after.len() < before.len() && !after.is_empty());
    assert_eq!(changes["removed"]["count"], before.len() - after.len());
    assert_eq!(changes["added"]["count"], 0);
    assert_eq!(changes["same"], after.len());
    let judge = changes["stages"]["judge"].to_string();
    assert!(judge.contains("min_chars"), "{judge}");
    let plain = clipmill().args(["diff", text(&a), text(&b)]).output().unwrap();
    let plain = stdout(&plain);
    assert!(plain.contains("licence: mit → cc0-1.0") && plain.contains("stage judge:"), "{plain}");
    let none = stdout(&clipmill().args(["diff", text(&a), text(&a)]).output().unwrap());
    assert!(none.contains("the same files"), "{none}");
}

#[test]
fn a_manifest_that_was_changed_and_a_folder_without_one_are_refused() {
    let world = released("{license: mit}");
    let release = world.path("out/release");
    let path = release.join("manifest.json");
    let manifest = std::fs::read_to_string(&path).unwrap();
    let samples = manifest.replacen("\"bytes\": ", "\"bytes\": 1", 3);
    std::fs::write(&path, samples).unwrap();
    let told = refused(&["verify-purge", text(&release), "--domain", "a.example"], 3);
    assert!(told.contains("Merkle root"), "{told}");
    std::fs::write(&path, manifest.replace("shards/00000000.tar", "../00000000.tar")).unwrap();
    let told = refused(&["verify-purge", text(&release), "--domain", "a.example"], 3);
    assert!(told.contains("leaves the release"), "{told}");
    let told = refused(&["purge", text(&world.path("out/fetch")), "--domain", "a.example"], 3);
    assert!(told.contains("no manifest.json here"), "{told}");
}

#[test]
fn a_release_from_which_pairs_were_purged_is_not_made_again() {
    let world = released("{license: mit}");
    let release = world.path("out/release");
    let uid = column(&release, "uid")[0].clone();
    say(&["purge", text(&release), "--uid", &uid]);
    let recipe = world.path("released.yaml");
    for stage in ["release", "reshard"] {
        let output = run(&recipe, &["--redo", stage]);
        assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
        let told = stderr(&output);
        assert!(told.contains("pairs were purged from this release"), "{told}");
        assert!(told.contains("opt-out list"), "{told}");
    }
    assert!(release.join("REVOKED.json").is_file());
    // Neither when somebody took away the record of what it was made of.
    std::fs::remove_file(release.join("_stage.json")).unwrap();
    let told = stderr(&run(&recipe, &[]));
    assert!(told.contains("pairs were purged from this release"), "{told}");
}

#[test]
fn a_purge_that_is_done_does_not_fail_for_the_files_of_another_stage() {
    let world = released("{license: mit}");
    let release = world.path("out/release");
    let uid = column(&release, "uid")[0].clone();
    std::fs::remove_file(first_tar(&world.path("out/fetch"))).unwrap();
    let done = say(&["purge", text(&release), "--uid", &uid, "--domain", "none.example"]);
    assert_eq!(done["removed"], 1);
    assert_eq!(done["unmatched"], serde_json::json!(["domain:none.example"]));
    let again = ["purge", text(&release), "--uid", &uid, "--domain", "none.example"];
    let plain = clipmill().args(again).output().unwrap();
    assert!(stdout(&plain).contains("met no pair: domain:none.example"), "{}", stdout(&plain));
}

fn first_tar(folder: &Path) -> PathBuf {
    let mut files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.find(|path| path.extension().is_some_and(|ending| ending == "tar")).unwrap()
}
