//! Mistakes that people make, and what they are told.

mod common;

use std::io::Write;
use std::process::Output;
use std::time::Duration;

use common::{World, clipmill, run, run_well, stderr, stdout};

fn check(stages: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recipe.yaml");
    std::fs::write(&path, format!("version: 1\nname: t\noutput: out\nstages:\n{stages}")).unwrap();
    clipmill().current_dir(folder.path()).args(["check", "recipe.yaml"]).output().unwrap()
}

/// The recipe is refused with exit code 2, and every one of these texts is said.
fn refused(stages: &str, said: &[&str]) {
    let output = check(stages);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{text}{}", stdout(&output));
    for words in said {
        assert!(text.contains(words), "{words:?} is not in:\n{text}");
    }
}

#[test]
fn a_misspelt_field_is_shown_with_line_column_and_the_word_meant() {
    refused(
        "  - links: {wat: [a]}\n  - fetch:\n      image_sise: 256\n",
        &[
            "recipe.yaml:7:7: unknown field `image_sise`",
            "7 |       image_sise: 256",
            "hint: did you mean `image_size`?",
        ],
    );
}

#[test]
fn a_misspelt_stage_is_shown_with_the_word_meant() {
    refused(
        "  - lnks: {wat: [a]}\n",
        &["recipe.yaml:5:", "unknown name `lnks`", "did you mean `links`?"],
    );
}

#[test]
fn a_wrong_type_is_shown_where_it_stands() {
    refused(
        "  - links: {wat: [a]}\n  - fetch:\n      image_size: large\n",
        &["recipe.yaml:7:19", "image_size: large"],
    );
}

#[test]
fn a_value_out_of_range_names_the_range() {
    refused(
        "  - links: {wat: [a]}\n  - fetch: {encode_quality: 101}\n",
        &["recipe.yaml:6:", "encode_quality", "101"],
    );
}

#[test]
fn a_key_that_stands_twice_is_refused() {
    refused(
        "  - links: {wat: [a]}\n  - fetch:\n      image_size: 2\n      image_size: 3\n",
        &["recipe.yaml:8:7: the key `image_size` stands here a second time"],
    );
}

#[test]
fn two_documents_are_refused() {
    refused("  - links: {wat: [a]}\n---\nversion: 1\n", &["recipe.yaml"]);
}

#[test]
fn a_judge_out_of_range_names_its_field() {
    refused(
        "  - shards: {urls: [a.tar]}\n  - judge:\n      - image_size: {max_aspect: 0.5}\n",
        &["max_aspect", "0.5"],
    );
}

#[test]
fn deep_nesting_and_alias_bombs_are_refused_at_once() {
    let deep = format!("  - links: {{wat: {}a{}}}\n", "[".repeat(20_000), "]".repeat(20_000));
    assert_eq!(check(&deep).status.code(), Some(2));
    let mut bomb = String::from("  - &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..9 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("  - &a{level} [{aliases}]\n"));
    }
    assert_eq!(check(&bomb).status.code(), Some(2));
}

#[test]
fn a_missing_recipe_and_a_missing_input_are_told_apart() {
    let missing = clipmill().args(["check", "no-such-recipe.yaml"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(2), "{}", stderr(&missing));
    let world = World::new(Duration::ZERO);
    let recipe = world.recipe("missing", "  - links: {wat: [no-such-file.warc.wat.gz]}\n");
    let output = run(&recipe, &[]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("no-such-file.warc.wat.gz"), "{}", stderr(&output));
}

#[test]
fn a_folder_without_a_name_is_not_the_root_of_the_machine() {
    let told = clipmill().args(["index", ""]).output().unwrap();
    assert_eq!(told.status.code(), Some(2), "{}", stderr(&told));
    assert!(
        stderr(&told).starts_with("error: the folder has no name\nhint: "),
        "{}",
        stderr(&told)
    );
}

#[test]
fn an_empty_pool_is_an_error_and_not_an_empty_release() {
    let world = World::new(Duration::ZERO);
    let list = world.path("urls.csv");
    std::fs::write(&list, "url,caption\n").unwrap();
    let stages = format!(
        "  - link_list: {{url_list: {}, caption_col: caption}}\n  - fetch: {{}}\n",
        list.display()
    );
    let output = run(&world.recipe("empty", &stages), &[]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("not one sample entered"), "{}", stderr(&output));
}

#[test]
fn a_selection_of_nothing_is_an_error() {
    let world = World::new(Duration::ZERO);
    let output = run(&world.ordinary("nothing", "min_words: 60"), &[]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
}

#[test]
fn a_truncated_wat_file_keeps_what_was_whole() {
    let world = World::new(Duration::ZERO);
    let plain = std::fs::read(world.path("crawl.warc.wat")).unwrap();
    let mut packed = Vec::new();
    for record in plain.split_inclusive(|&b| b == b'\n').collect::<Vec<_>>().chunks(8) {
        let mut gz = flate2::write::GzEncoder::new(&mut packed, flate2::Compression::default());
        record.iter().for_each(|line| gz.write_all(line).unwrap());
        gz.finish().unwrap();
    }
    packed.truncate(packed.len() - 20);
    std::fs::write(world.path("cut.warc.wat.gz"), packed).unwrap();
    let stages = format!("  - links: {{wat: [{}]}}\n", world.path("cut.warc.wat.gz").display());
    let output =
        clipmill().args(["--json", "run"]).arg(world.recipe("cut", &stages)).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let result: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    let counts = &result["stages"][0]["counts"];
    assert!(counts["kept"].as_u64().unwrap() >= 20, "{counts}");
}

#[test]
fn broken_hostile_and_silent_pictures_are_counted_and_the_rest_is_kept() {
    use ingest::serve::{Response, Server};
    let jpeg = pixels::encode_jpeg(
        &pixels::Picture { width: 64, height: 64, rgb: vec![90; 64 * 64 * 3] },
        90,
    );
    let good = jpeg.clone();
    let server = Server::start(move |request| match request.path.as_str() {
        "/good.jpg" => Response::ok("image/jpeg", good.clone()),
        "/cut.jpg" => Response::ok("image/jpeg", good[..good.len() / 2].to_vec()),
        "/bomb.jpg" => Response::ok("image/jpeg", scan_bomb()),
        "/silent.jpg" => Response::Silent,
        _ => Response::status(404),
    })
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("urls.csv");
    let names = ["good", "cut", "bomb", "silent"];
    let rows: Vec<String> =
        names.iter().map(|n| format!("http://pictures.example/{n}.jpg,a {n} picture\n")).collect();
    let rows = rows.concat();
    std::fs::write(&list, format!("url,caption\n{rows}")).unwrap();
    let recipe = folder.path().join("r.yaml");
    let text = format!(
        "version: 1\nname: t\noutput: {}\ndial: {{\"*\": \"{}\"}}\nstages:\n  - link_list: {{url_list: {}, caption_col: caption}}\n  - fetch: {{retries: 0, timeout: 0.5, connect_timeout: 0.5, first_byte_timeout: 0.5, total_timeout: 1, robots: false}}\n",
        folder.path().join("out").display(),
        server.address(),
        list.display()
    );
    std::fs::write(&recipe, text).unwrap();
    let began = std::time::Instant::now();
    let output = clipmill().args(["--json", "run"]).arg(&recipe).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(began.elapsed() < Duration::from_secs(20));
    let result: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    let counts = &result["stages"][1]["counts"];
    assert_eq!(counts["kept"], 1, "{counts}");
    assert_eq!(counts["failed"]["truncated"], 1, "{counts}");
    assert_eq!(counts["failed"]["timeout_first_byte"], 1, "{counts}");
    let refused = |kind: &str| counts[kind].as_object().unwrap().contains_key("too_many_scans");
    assert!(refused("failed") || refused("dropped"), "{counts}");
}

/// 6000 × 6000 pixels and 98 scans in about two kilobytes.
fn scan_bomb() -> Vec<u8> {
    let mut bytes = vec![0xff, 0xd8];
    let mut segment = |marker: u8, body: &[u8]| {
        bytes.extend([0xff, marker]);
        bytes.extend((body.len() as u16 + 2).to_be_bytes());
        bytes.extend(body);
    };
    segment(0xdb, &[&[0_u8][..], &[1; 64]].concat());
    segment(0xc2, &[8, 0x17, 0x70, 0x17, 0x70, 1, 1, 0x11, 0]);
    let mut table = [0_u8; 18];
    table[1] = 1;
    segment(0xc4, &table);
    table[0] = 0x10;
    segment(0xc4, &table);
    for scan in 0..98_u8 {
        segment(0xda, &[1, 1, 0, u8::from(scan > 0), if scan > 0 { 63 } else { 0 }, 0]);
    }
    bytes.extend([0xff, 0xd9]);
    bytes
}

#[test]
fn every_command_answers_help_and_the_documents_are_current() {
    for command in [
        "run", "check", "plan", "demo", "links", "fetch", "judge", "train", "eval", "compress",
        "task",
    ] {
        let output = clipmill().args([command, "--help"]).output().unwrap();
        assert!(output.status.success(), "{command}: {}", stderr(&output));
    }
    let help = stdout(&clipmill().args(["fetch", "--help"]).output().unwrap());
    for flag in [
        "--url_list",
        "--image_size",
        "--resize_mode",
        "--thread_count",
        "--number_sample_per_shard",
    ] {
        assert!(help.contains(flag), "{flag}");
    }
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let page = stdout(&clipmill().args(["schema", "--markdown"]).output().unwrap());
    let kept = std::fs::read_to_string(root.join("docs/recipes.md")).unwrap();
    assert!(
        page.trim_end() == kept.trim_end(),
        "docs/recipes.md is stale: clipmill schema --markdown > docs/recipes.md"
    );
    let schema = stdout(&clipmill().arg("schema").output().unwrap());
    let kept = std::fs::read_to_string(root.join("pipelines/schema.json")).unwrap();
    assert!(
        schema.trim_end() == kept.trim_end(),
        "pipelines/schema.json is stale: clipmill schema > pipelines/schema.json"
    );
}

#[test]
fn every_recipe_in_the_repository_is_sound() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "yaml") {
            let output = clipmill().arg("check").arg(&path).output().unwrap();
            assert!(output.status.success(), "{}", stderr(&output));
            seen += 1;
        }
    }
    assert!(seen >= 4, "{seen}");
}

#[test]
fn one_stage_from_the_command_line_is_a_recipe_too() {
    let world = World::new(Duration::ZERO);
    let out = world.path("links-out");
    let output = clipmill()
        .args(["--json", "links", "--wat"])
        .arg(world.path("crawl.warc.wat"))
        .arg("--output")
        .arg(&out)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let result: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(result["stages"][0]["info"]["pages"], 4);
    assert_eq!(result["stages"][0]["info"]["distinct_uids"], common::PICTURES);
    run_well(&world.ordinary("after", "min_words: 2"), &[]);
    let plan = clipmill().arg("plan").arg(world.path("after.yaml")).output().unwrap();
    assert!(stdout(&plan).contains("reshard"), "{}", stdout(&plan));
    assert!(stdout(&plan).contains("reuse"), "{}", stdout(&plan));
}

#[test]
fn what_would_cost_a_run_is_found_by_check() {
    let shards = "  - shards: {urls: [a.tar]}\n    id: data\n";
    let scorer = "  - train: {model: tiny-32, steps: 1}\n    id: scorer\n";
    let judge = "  - judge:\n      - clip_score: {checkpoint: scorrer}\n    from: data\n";
    refused(
        &format!("{shards}{scorer}{judge}"),
        &["`scorrer` is no stage of this recipe and no file", "did you mean `scorer`?"],
    );
    // The caret stands under the field, not under the stage.
    refused(
        &format!("{shards}  - train: {{model: tiny-33, steps: 1}}\n"),
        &["recipe.yaml:7:13: ", "no model named `tiny-33`", "tiny-32"],
    );
    refused(&format!("{shards}{scorer}  - compress: {{repavit: {{}}}}\n"), &["idle_channels: 0.5"]);
    let world = World::new(Duration::ZERO);
    for output in ["http://a.example/out", "~/out", "s3:///x"] {
        let recipe = world.path("output.yaml");
        let text = format!("version: 1\nname: x\noutput: \"{output}\"\nstages:\n{shards}");
        std::fs::write(&recipe, text).unwrap();
        let said = clipmill().arg("check").arg(&recipe).output().unwrap();
        assert_eq!(said.status.code(), Some(2), "{output}: {}", stderr(&said));
        assert!(stderr(&said).contains("output.yaml:3:9: output:"), "{}", stderr(&said));
    }
}

#[test]
fn a_file_that_the_last_stage_misses_is_known_before_the_first_runs() {
    let world = World::new(Duration::ZERO);
    let recipe = world.ordinary("late", "min_words: 2");
    let text = std::fs::read_to_string(&recipe).unwrap();
    let late =
        "  - train: {model: tiny-32, steps: 1}\n  - eval: {retrieval: {data: [no-such.tar]}}\n";
    std::fs::write(&recipe, format!("{text}{late}")).unwrap();
    let output = run(&recipe, &[]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("stage `eval`") && stderr(&output).contains("no-such.tar"));
    assert!(!world.path("out/links/_commits").exists());
}

#[test]
fn a_stage_that_made_nothing_is_corrected_without_redo() {
    let world = World::new(Duration::ZERO);
    let nothing = world.ordinary("corrected", "min_words: 60");
    assert_eq!(run(&nothing, &[]).status.code(), Some(3));
    let recipe = std::fs::read_to_string(&nothing).unwrap();
    let corrected = recipe.replace("select: {}", "select: {allow_empty: true}");
    std::fs::write(&nothing, corrected).unwrap();
    let plan = clipmill().arg("plan").arg(&nothing).output().unwrap();
    assert!(!stdout(&plan).contains("--redo"), "{}", stdout(&plan));
    let output = run(&nothing, &["--until", "select"]);
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn a_folder_with_files_of_others_or_another_recipes_output_is_not_written_to() {
    let world = World::new(Duration::ZERO);
    let recipe = world.ordinary("mine", "min_words: 2");
    let folder = world.path("home");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("report.html"), "my own").unwrap();
    let output = run(&recipe, &["--output", folder.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
    assert!(stderr(&output).contains("`report.html`, which no run wrote"), "{}", stderr(&output));
    assert_eq!(std::fs::read_to_string(folder.join("report.html")).unwrap(), "my own");
    common::run_well(&recipe, &[]);
    let other = run(&world.ordinary("other", "min_words: 2"), &[]);
    assert_eq!(other.status.code(), Some(5), "{}", stderr(&other));
    assert!(stderr(&other).contains("the output of the recipe `mine`, not of `other`"));
}

#[test]
fn a_model_of_no_numbers_is_no_perfect_model() {
    let world = World::new(Duration::ZERO);
    let (shards, data) = (world.path("data"), world.path("data/00000.tar"));
    std::fs::create_dir(&shards).unwrap();
    let mut tar = shard::TarWriter::new(Vec::new());
    for n in 0..16 {
        tar.append(&format!("{n:04}.png"), &common::picture(n)).unwrap();
        tar.append(&format!("{n:04}.txt"), format!("picture number {n}").as_bytes()).unwrap();
    }
    std::fs::write(&data, tar.finish().unwrap()).unwrap();
    let train = |lr: &str, steps: u32| {
        format!(
            "  - train: {{model: tiny-32, data: [{}], batch_size: 8, steps: {steps}, lr: {lr}, warmup: 0}}\n",
            data.display()
        )
    };
    // Two of three steps without a finite loss are no training.
    let output = run(&world.recipe("diverged", &train("1.0e+30", 3)), &[]);
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    // One good step that leaves weights of 1e30, and the evaluation of what it left.
    let eval =
        format!("{}  - eval: {{retrieval: {{data: [{}]}}}}\n", train("1.0e+30", 1), data.display());
    let recipe = world.recipe("diverged", &eval);
    let output = run(&recipe, &["--redo", "train"]);
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    assert!(stderr(&output).contains("are no numbers"), "{}", stderr(&output));
}

#[test]
fn a_result_that_cannot_be_written_is_no_success() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let Ok(full) = full else { return };
    let status = clipmill().arg("schema").stdout(full).status().unwrap();
    assert_eq!(status.code(), Some(4));
}

#[test]
fn a_slurm_array_may_count_from_one_and_in_steps() {
    let world = World::new(Duration::ZERO);
    let recipe = world.ordinary("slurm", "min_words: 2");
    let task = |id: &str| {
        let mut command = clipmill();
        command.arg("run").arg(&recipe).env("SLURM_ARRAY_TASK_ID", id);
        for (name, value) in [("COUNT", "2"), ("MIN", "1"), ("STEP", "4")] {
            command.env(format!("SLURM_ARRAY_TASK_{name}"), value);
        }
        command.output().unwrap()
    };
    for id in ["1", "5", "1"] {
        let output = task(id);
        assert!(output.status.success(), "{}", stderr(&output));
    }
    assert!(world.path("out/report.html").exists());
}
