//! Whole runs of the binary on a little web: bytes, stops, kills, other recipes, other runs.

mod common;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{PICTURES, STAGES, World, clipmill, published, run, run_well, stderr, stdout};

/// Pictures that answer, and those of them whose caption has more than one word.
fn expected() -> (usize, usize) {
    let answers = (0..PICTURES).filter(|n| n % 7 != 0);
    (answers.clone().count(), answers.filter(|n| n % 11 != 0).count())
}

#[test]
fn a_run_ends_in_shards_counts_and_a_report() {
    let world = World::new(Duration::ZERO);
    let recipe = world.ordinary("whole", "min_words: 2");
    let output = clipmill().args(["--json", "run"]).arg(&recipe).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let result: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    let counts = |kind: &str| {
        let stages = result["stages"].as_array().unwrap();
        stages.iter().find(|s| s["kind"] == kind).unwrap()["counts"].clone()
    };
    let (fetched, kept) = expected();
    assert_eq!(counts("links")["kept"], PICTURES);
    assert_eq!(counts("fetch")["kept"], fetched);
    assert_eq!(counts("fetch")["failed"]["http_404"], PICTURES - fetched);
    assert_eq!(counts("judge")["dropped"]["caption_words"], fetched - kept);
    assert_eq!(counts("reshard")["kept"], kept);
    let report = std::fs::read_to_string(world.path("out/report.html")).unwrap();
    assert!(report.contains("caption_words") && report.contains("data:image/jpeg;base64,"));
    let files = published(&world.path("out"), &["reshard"]);
    assert!(files.contains_key("reshard/00000000.tar") && files.contains_key("reshard/sizes.json"));
}

#[test]
fn one_stream_and_stages_apart_give_the_same_bytes_at_any_number_of_threads() {
    let world = World::new(Duration::ZERO);
    let recipe = world.ordinary("bytes", "min_words: 2");
    run_well(&recipe, &["--threads", "1"]);
    let stream = published(&world.path("out"), &STAGES);
    let apart = world.path("apart");
    run_well(&recipe, &["--apart", "--threads", "4", "--output", apart.to_str().unwrap()]);
    assert_eq!(stream, published(&apart, &STAGES));
    assert!(stream.len() > 20, "{}", stream.len());
}

#[test]
fn shares_of_the_units_make_one_whole() {
    let world = World::new(Duration::ZERO);
    let recipe = world.ordinary("shares", "min_words: 2");
    run_well(&recipe, &[]);
    let whole = published(&world.path("out"), &STAGES);
    let shared = world.path("shared");
    let output =
        |share: &str| run(&recipe, &["--units", share, "--output", shared.to_str().unwrap()]);
    let first = output("0/2");
    assert!(first.status.success(), "{}", stderr(&first));
    assert!(stdout(&first).contains("other shares are still missing"), "{}", stdout(&first));
    // Each share goes as far as the others let it; the last one ends the run.
    for share in ["1/2", "0/2", "1/2"] {
        let output = output(share);
        assert!(output.status.success(), "{}", stderr(&output));
    }
    assert_eq!(whole, published(&shared, &STAGES));
}

#[test]
fn killed_at_ten_moments_and_run_again_it_ends_with_the_same_bytes() {
    let world = World::new(Duration::from_millis(4));
    let recipe = world.ordinary("kill", "min_words: 2");
    run_well(&recipe, &[]);
    let undisturbed = published(&world.path("out"), &STAGES);
    let victim = world.path("victim");
    let mut killed = 0;
    for moment in 0..10_u64 {
        let mut child = clipmill()
            .arg("run")
            .arg(&recipe)
            .args(["--output", victim.to_str().unwrap()])
            .stderr(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(15 + moment * 37 % 110));
        child.kill().unwrap();
        killed += u32::from(child.wait().unwrap().signal() == Some(9));
    }
    assert!(killed > 0, "no run was caught alive");
    run_well(&recipe, &["--output", victim.to_str().unwrap()]);
    assert_eq!(undisturbed, published(&victim, &STAGES));
}

#[test]
fn killed_at_every_durable_step_it_ends_with_the_same_bytes() {
    let world = World::new(Duration::ZERO);
    let recipe = world.recipe(
        "steps",
        &format!(
            "  - links: {{wat: [{}]}}\n  - fetch: {{image_size: 16, number_sample_per_shard: 30, retries: 0}}\n  - judge:\n      - caption_length: {{min_words: 2}}\n",
            world.path("crawl.warc.wat").display()
        ),
    );
    let stages = ["links", "fetch", "judge"];
    run_well(&recipe, &[]);
    let undisturbed = published(&world.path("out"), &stages);
    // Every seventh step here; `bench/kill.sh` takes every one.
    let mut step = 1;
    let mut deaths = 0;
    loop {
        let victim = world.path(&format!("victim-{step}"));
        let to = ["--output", victim.to_str().unwrap()];
        let output = clipmill()
            .arg("run")
            .arg(&recipe)
            .args(to)
            .env("CLIPMILL_FAIL", format!("*:{step}=kill"))
            .output()
            .unwrap();
        if output.status.success() {
            break;
        }
        deaths += 1;
        run_well(&recipe, &to);
        assert_eq!(undisturbed, published(&victim, &stages), "killed at step {step}");
        step += 7;
    }
    assert!(deaths >= 10, "{deaths} deaths before step {step}");
}

#[test]
fn a_run_that_stopped_behind_a_finished_stream_goes_on() {
    let world = World::new(Duration::ZERO);
    let recipe = world.ordinary("behind", "min_words: 2");
    run_well(&recipe, &["--until", "judge"]);
    run_well(&recipe, &[]);
    let whole = world.path("whole");
    run_well(&recipe, &["--output", whole.to_str().unwrap()]);
    assert_eq!(published(&world.path("out"), &STAGES), published(&whole, &STAGES));
}

#[test]
fn a_full_disk_is_said_and_nothing_is_lost() {
    let world = World::new(Duration::ZERO);
    let recipe = world.ordinary("full", "min_words: 2");
    let full = clipmill()
        .arg("run")
        .arg(&recipe)
        .env("CLIPMILL_FAIL", "file.before_write:4=enospc")
        .output()
        .unwrap();
    assert_eq!(full.status.code(), Some(4), "{}", stderr(&full));
    assert!(stderr(&full).contains("No space left on device"), "{}", stderr(&full));
    assert!(stderr(&full).contains("hint: "), "{}", stderr(&full));
    run_well(&recipe, &[]);
    let again = world.path("again");
    run_well(&recipe, &["--output", again.to_str().unwrap()]);
    assert_eq!(published(&world.path("out"), &STAGES), published(&again, &STAGES));
}

#[test]
fn a_changed_recipe_is_refused_field_by_field_and_redo_makes_it_again() {
    let world = World::new(Duration::ZERO);
    run_well(&world.ordinary("change", "min_words: 2"), &[]);
    let changed = world.ordinary("change", "min_words: 3");
    let refused = run(&changed, &[]);
    assert_eq!(refused.status.code(), Some(5), "{}", stderr(&refused));
    let text = stderr(&refused);
    assert!(text.contains("stage `judge`: its output was made by another recipe"), "{text}");
    assert!(text.contains("plan[0].caption_length.min_words: 2 → 3"), "{text}");
    assert!(text.contains("--redo judge"), "{text}");
    let record = || std::fs::read(world.path("out/fetch/_commits/00000.json")).unwrap();
    let fetched = record();
    run_well(&changed, &["--redo", "judge"]);
    assert_eq!(fetched, record(), "the pictures were fetched again");
}

#[test]
fn another_threshold_uses_the_scores_again_and_gives_what_a_new_run_gives() {
    let world = World::new(Duration::ZERO);
    run_well(&world.ordinary("scores", "min_words: 2"), &[]);
    let changed = world.ordinary("scores", "min_words: 3");
    let scored = || std::fs::read(world.path("out/judge.scores/_commits/00000.json")).unwrap();
    let judged = || -> serde_json::Value {
        let record = std::fs::read(world.path("out/judge/_commits/00000.json")).unwrap();
        serde_json::from_slice(&record).unwrap()
    };
    let before = scored();
    run_well(&changed, &["--redo", "judge"]);
    assert_eq!(before, scored(), "the pictures were scored again");
    assert_eq!(judged()["info"]["scores"], "reused");
    let anew = world.path("anew");
    run_well(&changed, &["--output", anew.to_str().unwrap()]);
    assert_eq!(published(&world.path("out"), &STAGES), published(&anew, &STAGES));
    // Nothing has changed now: who asks all the same gets new scores.
    run_well(&changed, &["--redo", "judge"]);
    assert_ne!(before, scored());
    assert!(judged()["info"]["scores"].is_null());
}

#[test]
fn a_plan_says_of_each_stage_whether_it_is_used_again_and_why_not() {
    let world = World::new(Duration::ZERO);
    let recipe = world.ordinary("plan", "min_words: 2");
    let plan = |recipe: &std::path::Path| -> Vec<serde_json::Value> {
        let output = clipmill().args(["--json", "plan"]).arg(recipe).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let result: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
        result["stages"].as_array().unwrap().clone()
    };
    let states = |stages: &[serde_json::Value]| -> Vec<(String, String)> {
        let text =
            |stage: &serde_json::Value, field: &str| stage[field].as_str().unwrap().to_owned();
        stages.iter().map(|stage| (text(stage, "id"), text(stage, "state"))).collect()
    };
    assert!(states(&plan(&recipe)).iter().all(|(_, state)| state == "make"));
    run_well(&recipe, &["--until", "judge"]);
    for (id, state) in states(&plan(&recipe)) {
        let after = ["select", "reshard"].contains(&id.as_str());
        assert_eq!(state, if after { "make" } else { "reuse" }, "{id}");
    }
    run_well(&recipe, &[]);
    let changed = plan(&world.ordinary("plan", "min_words: 3"));
    let stage = |id: &str| changed.iter().find(|stage| stage["id"] == id).unwrap();
    assert_eq!(stage("fetch")["state"], "reuse");
    assert_eq!(stage("judge")["state"], "changed");
    assert_eq!(stage("judge")["why"][0], "plan[0].caption_length.min_words: 2 → 3");
    assert_eq!(stage("judge")["scores_reused"], true);
    assert_eq!(stage("select")["why"][0], "`judge` above it is made again");
}

#[test]
fn reshard_takes_a_pool_and_a_subset_file_as_datacomps_resharder_does() {
    let world = World::new(Duration::ZERO);
    run_well(&world.ordinary("subset", "min_words: 2"), &[]);
    let out = world.path("out");
    let text = |path: &str| out.join(path).to_str().unwrap().to_owned();
    let alone = world.path("alone");
    let output = clipmill()
        .args(["reshard", "--urls", &format!("[{}]", text("fetch")), "--samples_per_shard", "7"])
        .args(["--subset", &text("select/subset.npy"), "--output", alone.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(published(&out, &["reshard"]), published(&alone, &["reshard"]));
    // The same in a recipe: shards from here, the choice from there.
    let stages = format!(
        "  - shards: {{urls: [{}]}}\n    id: pool\n  - pool: {{parquet: [{}]}}\n  - select: {{sample: 3}}\n    \
         id: chosen\n  - reshard: {{subset: chosen}}\n    from: pool\n",
        text("fetch"),
        text("judge")
    );
    let recipe = world.recipe("two-sources", &stages);
    let both = world.path("both");
    run_well(&recipe, &["--output", both.to_str().unwrap()]);
    let sizes = std::fs::read_to_string(both.join("reshard/sizes.json")).unwrap();
    assert_eq!(sizes, "{\"00000000.tar\":3}\n");
}

#[test]
fn an_input_that_changed_under_its_name_is_noticed() {
    let world = World::new(Duration::ZERO);
    let recipe = world.ordinary("input", "min_words: 2");
    run_well(&recipe, &[]);
    let wat = world.path("crawl.warc.wat");
    let mut bytes = std::fs::read(&wat).unwrap();
    bytes.extend(b"WARC/1.0\r\nWARC-Type: warcinfo\r\nContent-Length: 0\r\n\r\n\r\n\r\n");
    std::fs::write(&wat, bytes).unwrap();
    let refused = run(&recipe, &[]);
    assert_eq!(refused.status.code(), Some(5), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("external[0].sha256"), "{}", stderr(&refused));
}

#[test]
fn a_second_run_on_the_same_output_is_told_who_holds_it() {
    let world = World::new(Duration::from_millis(100));
    let recipe = world.ordinary("twice", "min_words: 2");
    let mut first =
        clipmill().arg("run").arg(&recipe).stderr(std::process::Stdio::null()).spawn().unwrap();
    let lock = world.path("out/.clipmill/lock");
    let began = Instant::now();
    while !lock.exists() && began.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(50));
    let second = run(&recipe, &[]);
    let pid = first.id().to_string();
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(second.status.code(), Some(5), "{}", stderr(&second));
    assert!(stderr(&second).contains(&pid), "{}", stderr(&second));
}

#[test]
fn why_tells_what_became_of_a_pair() {
    let world = World::new(Duration::ZERO);
    run_well(&world.ordinary("why", "min_words: 2"), &[]);
    let out = world.path("out");
    let rows = store::parquet::read_parquet(
        &store::Blob::open(out.join("judge/00000.parquet").to_str().unwrap()).unwrap(),
    );
    let batch = rows.unwrap().next().unwrap().unwrap();
    let uid = arrow_array::cast::AsArray::as_string::<i32>(batch.column_by_name("uid").unwrap())
        .value(0)
        .to_owned();
    let output = clipmill().args(["why", &uid[..8], "--output"]).arg(&out).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    assert!(text.contains("links:") && text.contains("judge:") && text.contains(&uid), "{text}");
}

#[test]
fn a_retry_beside_what_it_retried_is_refused_because_links_would_come_twice() {
    let world = World::new(Duration::ZERO);
    let fetch = "image_size: 16, robots: false, min_success_rate: 0";
    let recipe = world.recipe(
        "thrice",
        &format!(
            "  - links: {{wat: [\"{}\"]}}\n\
             \x20 - fetch: {{{fetch}}}\n    id: pool\n\
             \x20 - fetch: {{{fetch}, retry_failed: true}}\n    id: again\n    from: pool\n\
             \x20 - fetch: {{{fetch}, retry_failed: true}}\n    id: third\n    from: [pool, again]\n",
            world.path("crawl.warc.wat").display()
        ),
    );
    let output = clipmill().arg("run").arg(&recipe).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let text = stderr(&output);
    assert!(text.contains("`again` fetched again what failed in `pool`"), "{text}");
    assert!(text.contains("take `again` alone"), "{text}");
}

#[test]
fn retry_failed_fetches_only_what_failed_for_a_passing_reason_into_patch_shards() {
    let asked: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
    let server = {
        let asked = Arc::clone(&asked);
        ingest::serve::Server::start(move |request| {
            let number: usize = match request.path.strip_prefix("/p").map(str::parse) {
                Some(Ok(number)) => number,
                _ => return ingest::serve::Response::status(404),
            };
            let mut asked = asked.lock().unwrap();
            let times = asked.entry(request.path.clone()).or_default();
            *times += 1;
            match (number % 4, *times) {
                (1, _) => ingest::serve::Response::status(404),
                (2, 1) => ingest::serve::Response::status(503),
                (3, 1 | 2) => ingest::serve::Response::status(429),
                _ => ingest::serve::Response::ok("image/png", common::picture(number)),
            }
        })
        .unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("urls.txt");
    let urls: Vec<String> = (0..24).map(|i| format!("http://h{i}.example/p{i}")).collect();
    std::fs::write(&list, urls.join("\n")).unwrap();
    let out = folder.path().join("out");
    let fetch = |more: &[&str]| {
        let output = clipmill()
            .args(["fetch", "--number_sample_per_shard", "10", "--image_size", "16"])
            .args(["--url_list", list.to_str().unwrap(), "--output", out.to_str().unwrap()])
            .args(["--dial", &format!("{{\"*\": \"{}\"}}", server.address())])
            .args(more)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let record = |stage: &str, unit: &str| -> serde_json::Value {
        let path = out.join(format!("{stage}/_commits/{unit}.json"));
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    fetch(&[]);
    assert_eq!(record("fetch", "00000")["counts"]["kept"], 3);
    assert_eq!(asked.lock().unwrap().values().sum::<usize>(), 24);
    let retry = ["--retry_failed", "true"];
    fetch(&retry);
    // Six answered 503 and six 429, which still do; nothing else was asked for again.
    assert_eq!(asked.lock().unwrap().values().sum::<usize>(), 36);
    let (first, second) = (record("retry", "00003"), record("retry", "00004"));
    assert_eq!((&first["counts"]["in"], &second["counts"]["in"]), (&10.into(), &2.into()));
    assert_eq!(first["counts"]["kept"], 5);
    assert_eq!(first["counts"]["failed"]["http_429"], 5);
    let names = |record: &serde_json::Value| record["files"].to_string();
    assert!(names(&first).contains("00003.tar") && names(&second).contains("00004.tar"));
    fetch(&["--retry_failed", "true", "--redo", "retry"]);
    assert_eq!(asked.lock().unwrap().values().sum::<usize>(), 48);
    assert_eq!(record("retry", "00003")["counts"]["kept"], 10);
}
