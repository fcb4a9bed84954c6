//! `eval` on test sets as DataComp distributes them, and `compare` on what it wrote.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::{clipmill, picture, stderr, stdout};
use serde_json::Value;

/// Writes `test/0.tar` with these members, and the lists.
fn wds(root: &Path, folder: &str, samples: &[Vec<(String, Vec<u8>)>], lists: &[(&str, &str)]) {
    let folder = root.join(folder);
    std::fs::create_dir_all(folder.join("test")).unwrap();
    let mut tar = shard::TarWriter::new(Vec::new());
    for (name, bytes) in samples.iter().flatten() {
        tar.append(name, bytes).unwrap();
    }
    std::fs::write(folder.join("test/0.tar"), tar.finish().unwrap()).unwrap();
    std::fs::write(folder.join("test/nshards.txt"), "1\n").unwrap();
    for (name, text) in lists {
        std::fs::write(folder.join(name), text).unwrap();
    }
}

fn sample(number: usize, members: &[(&str, &[u8])]) -> Vec<(String, Vec<u8>)> {
    let members = members.iter().map(|(s, bytes)| (format!("s{number:04}.{s}"), bytes.to_vec()));
    members.chain([(format!("s{number:04}.png"), picture(number))]).collect()
}

fn npy(values: &[i64]) -> Vec<u8> {
    let mut bytes = Vec::new();
    store::npy::write(&mut bytes, &[values.len()], values).unwrap();
    bytes
}

const TEMPLATES: (&str, &str) =
    ("zeroshot_classification_templates.txt", "a {c}\na photo of a {c}.\n");

/// Four of the suite's sets, small; and two checkpoints that nothing was taught.
fn world() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("evalsets");
    let classes = ("classnames.txt", "zero\none\ntwo\nthree\nfour\nfive\n");
    let labelled: Vec<_> = (0..24)
        .map(|i| sample(i, &[("cls", (i % 5).to_string().as_bytes())]))
        .chain([
            vec![("x1.png".to_owned(), picture(1))],
            vec![("x2.cls".to_owned(), b"1".to_vec()), ("x2.png".to_owned(), b"broken".to_vec())],
        ])
        .collect();
    wds(&data, "wds_mnist_test", &labelled, &[classes, TEMPLATES]);
    let grouped: Vec<_> = (0..30)
        .map(|i| {
            let metadata = npy(&[(i % 3) as i64, 2, (i % 2) as i64]);
            sample(i, &[("cls", (i % 2).to_string().as_bytes()), ("npy", &metadata)])
        })
        .collect();
    wds(&data, "wds_wilds-fmow_test", &grouped, &[("classnames.txt", "even\nodd"), TEMPLATES]);
    let pairs: Vec<_> = (0..20)
        .map(|i| sample(i, &[("txt", format!("grey {i}\nnumber {i}").as_bytes())]))
        .collect();
    wds(&data, "wds_flickr30k", &pairs, &[("dataset_type.txt", "retrieval")]);
    let wino = data.join("wds_winogavil_test");
    std::fs::create_dir_all(wino.join("images")).unwrap();
    for i in 0..5 {
        std::fs::write(wino.join(format!("images/p{i}.png")), picture(i)).unwrap();
    }
    let instance = r#"{"cue": "orange", "candidates": ["p0", "p1", "p2", "p3", "p4"], "associations": ["p1"]}"#;
    let lost = r#"{"cue": "x", "candidates": ["p0", "p9"], "associations": ["p0"]}"#;
    std::fs::write(wino.join("test.jsonl"), format!("{instance}\n{lost}\n")).unwrap();
    for (name, seed) in [("a", 1), ("b", 2)] {
        let config = models::ClipConfig::named("tiny-32").unwrap();
        let clip = models::Clip::init(&config, &[], seed, &candle_core::Device::Cpu).unwrap();
        models::write_checkpoint(&clip, &dir.path().join(name), BTreeMap::new()).unwrap();
    }
    (dir, data)
}

fn evaluate(dir: &Path, checkpoint: &str, out: &str, more: &[&str]) -> std::process::Output {
    let mut command = clipmill();
    command.arg("eval").arg("--checkpoint").arg(dir.join(checkpoint));
    command.arg("--suite").arg("datacomp").arg("--data").arg(dir.join("evalsets"));
    command.arg("--output").arg(dir.join(out)).args(more).output().unwrap()
}

const FOUR: [&str; 10] = [
    "--bootstrap",
    "200",
    "--tasks",
    "MNIST",
    "--tasks",
    "wilds/fmow",
    "--tasks",
    "Flickr",
    "--tasks",
    "WinoGAViL",
];

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_suite_is_measured_task_by_task_and_two_checkpoints_are_compared() {
    let (dir, _) = world();
    for name in ["a", "b"] {
        let output = evaluate(dir.path(), name, &format!("out-{name}"), &FOUR);
        assert!(output.status.success(), "{}", stderr(&output));
    }
    let folder = dir.path().join("out-a/eval/checkpoint");
    let found = lines(&folder.join("eval_results.jsonl"));
    let keys: Vec<&str> = found.iter().map(|line| line["key"].as_str().unwrap()).collect();
    assert_eq!(
        keys,
        ["mnist", "retrieval/flickr_1k_test_image_text_retrieval", "misc/winogavil", "wilds/fmow"]
    );
    let mnist = &found[0];
    assert_eq!(
        (mnist["samples"].as_u64(), mnist["left_out"]["no_label"].as_u64()),
        (Some(24), Some(1))
    );
    assert_eq!(
        mnist["left_out"].as_object().unwrap().values().map(|v| v.as_u64().unwrap()).sum::<u64>(),
        2
    );
    let value = |line: &Value, name: &str| line["metrics"][name].as_f64().unwrap();
    assert_eq!(value(mnist, "main_metric"), value(mnist, "acc1"));
    let interval = &mnist["intervals"]["acc1"];
    assert!(interval[0].as_f64().unwrap() <= value(mnist, "acc1"));
    assert!(interval[1].as_f64().unwrap() >= value(mnist, "acc1"));
    assert_eq!(found[2]["left_out"]["no_image"], 1);
    assert_eq!(found[2]["metrics"]["jaccard_score_12"], Value::Null);
    assert!(found[3]["metrics"]["acc5"].is_null());
    assert_eq!(value(&found[3], "count_region:1"), 10.0);
    assert_eq!(value(&found[3], "main_metric"), value(&found[3], "acc_worst_region"));
    for name in [
        "aggregate.json",
        "mnist_a_tiny-32_en_zeroshot_classification.json",
        "predictions/mnist.parquet",
        "classes/mnist.csv",
        "classes/mnist.confusion.csv",
    ] {
        assert!(folder.join(name).is_file(), "{name}");
    }
    let other = dir.path().join("out-b/eval/checkpoint");
    // What `clip_benchmark build` tells checkpoints apart by.
    for (folder, name) in [(&folder, "a"), (&other, "b")] {
        let file = folder.join(format!("mnist_{name}_tiny-32_en_zeroshot_classification.json"));
        let one: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let told = ["dataset", "model", "pretrained", "task"].map(|field| one[field].clone());
        assert_eq!(told, ["mnist", "tiny-32", name, "zeroshot_classification"]);
    }
    let page = dir.path().join("page.html");
    let output = clipmill()
        .args(["--json", "compare", "--bootstrap", "200", "-o"])
        .args([&page, &folder, &other])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let compared: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(compared["mean"]["tasks"], 3, "{compared}");
    assert!(compared["tasks"][0]["against_first"][0]["bootstrap"]["p"].is_number(), "{compared}");
    assert!(compared["tasks"][0]["against_first"][0]["mcnemar"]["p"].is_number());
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("MNIST") && !html.contains("NaN"));
}

#[test]
fn a_linear_probe_has_the_data_sets_name_for_clip_benchmark() {
    let result =
        serde_json::json!({"key": "vtab/dtd/linear_probe", "dataset": "DTD", "metrics": {}});
    let result: eval::results::TaskResult = serde_json::from_value(result).unwrap();
    let told = eval::results::clip_benchmark(&result, "ViT-B-32", "run-train", "linear_probe");
    assert_eq!((&told["dataset"], &told["task"]), (&"vtab/dtd".into(), &"linear_probe".into()));
    let file =
        |task: &str| eval::results::clip_benchmark_file(&result.key, "ViT-B-32", "run-train", task);
    assert_eq!(file("linear_probe"), "vtab-dtd_run-train_ViT-B-32_en_linear_probe.json");
}

#[test]
fn a_stopped_evaluation_goes_on_with_the_tasks_that_are_missing() {
    let (dir, _) = world();
    let one = evaluate(dir.path(), "a", "out", &[&FOUR[..], &["--units", "1/4"]].concat());
    assert!(one.status.success(), "{}", stderr(&one));
    let work = dir.path().join("out/eval/_work/checkpoint.eval_results.jsonl");
    assert_eq!(lines(&work).len(), 1, "one line a task, as it finishes");
    assert!(!dir.path().join("out/eval/checkpoint/eval_results.jsonl").exists());
    let rest = evaluate(dir.path(), "a", "out", &FOUR);
    assert!(rest.status.success(), "{}", stderr(&rest));
    let whole = evaluate(dir.path(), "a", "whole", &FOUR);
    assert!(whole.status.success(), "{}", stderr(&whole));
    let bytes =
        |out: &str| std::fs::read(dir.path().join(out).join("eval/checkpoint/eval_results.jsonl"));
    assert_eq!(bytes("out").unwrap(), bytes("whole").unwrap());
    // Another checkpoint is refused by its name.
    let other = evaluate(dir.path(), "b", "out", &FOUR);
    assert_eq!(other.status.code(), Some(5), "{}", stderr(&other));
}

#[test]
fn missing_sets_broken_labels_and_bad_templates_are_said_with_their_place() {
    let (dir, data) = world();
    let all = evaluate(dir.path(), "a", "all", &[]);
    assert_eq!(all.status.code(), Some(3));
    let text = stderr(&all);
    assert!(text.contains("36 of the test sets") && text.contains("skip_missing"), "{text}");
    let mnist = data.join("wds_mnist_test");
    for (file, content, expected) in [
        ("classnames.txt", "zero\none\n", "class 2, and there are 2 classes"),
        ("zeroshot_classification_templates.txt", "a photo\n", "has no {c}"),
        ("test/nshards.txt", "2\n", "1.tar"),
        ("dataset_type.txt", "video", "no type of dataset `video`"),
    ] {
        let before = std::fs::read(mnist.join(file)).ok();
        std::fs::write(mnist.join(file), content).unwrap();
        let output = evaluate(dir.path(), "a", "broken", &["--tasks", "mnist"]);
        assert_eq!(output.status.code(), Some(3), "{file}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{file}: {}", stderr(&output));
        match before {
            Some(before) => std::fs::write(mnist.join(file), before).unwrap(),
            None => std::fs::remove_file(mnist.join(file)).unwrap(),
        }
    }
    std::fs::remove_file(mnist.join("zeroshot_classification_templates.txt")).unwrap();
    let output = evaluate(dir.path(), "a", "broken", &["--tasks", "mnist"]);
    assert_eq!(output.status.code(), Some(3));
    let own = dir.path().join("own.txt");
    std::fs::write(&own, "the digit {c}\n").unwrap();
    let prompts = format!("{{mnist: {{templates: {}}}}}", own.display());
    let output = evaluate(dir.path(), "a", "own", &["--tasks", "mnist", "--prompts", &prompts]);
    assert!(output.status.success(), "{}", stderr(&output));
}
