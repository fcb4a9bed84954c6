//! Trainings by the binary: killed at random steps, on several ranks, with open_clip's flags.

mod common;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{clipmill, picture, stderr};

/// Two shards of pictures in tones of grey, one of them broken, and a small model.
struct Bench {
    dir: tempfile::TempDir,
}

const SAMPLES: usize = 60;

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let model = r#"{"embed_dim": 16,
            "vision_cfg": {"image_size": 32, "layers": 2, "width": 48, "patch_size": 8, "head_width": 16},
            "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}}"#;
        std::fs::write(dir.path().join("model.json"), model).unwrap();
        let bench = Self { dir };
        bench.write_shards(|number| picture(number % 42));
        bench
    }

    fn write_shards(&self, picture: impl Fn(usize) -> Vec<u8>) {
        for shard in 0..2 {
            let mut tar = shard::TarWriter::new(Vec::new());
            for number in (0..SAMPLES).filter(|n| n % 2 == shard) {
                let mut png = picture(number);
                if number == 17 {
                    png.truncate(60);
                }
                let caption = format!("a grey picture number {number} of tone {}", number % 42);
                tar.append(&format!("{number:05}.png"), &png).unwrap();
                tar.append(&format!("{number:05}.txt"), caption.as_bytes()).unwrap();
            }
            let bytes = tar.finish().unwrap();
            std::fs::write(self.path(&format!("{shard:05}.tar")), bytes).unwrap();
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `clipmill train` on these shards into the output of this name.
    fn train(&self, output: &str, flags: &[&str]) -> Command {
        let mut command = clipmill();
        command
            .arg("train")
            .args(["--model", self.path("model.json").to_str().unwrap()])
            .args(["--train-data", self.path("{00000..00001}.tar").to_str().unwrap()])
            .args(["--output", self.path(output).to_str().unwrap()])
            .args(flags)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, output: &str, flags: &[&str]) -> BTreeMap<String, Vec<u8>> {
        let done = self.train(output, flags).output().unwrap();
        assert!(done.status.success(), "{}", stderr(&done));
        self.files(output)
    }

    /// Every output file of the training, without records of when it was.
    fn files(&self, output: &str) -> BTreeMap<String, Vec<u8>> {
        let root = self.path(output).join("train");
        let mut found = BTreeMap::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                if path.is_dir() && !name.starts_with('_') {
                    folders.push(path);
                } else if path.is_file() && !name.starts_with('_') {
                    found.insert(name, std::fs::read(&path).unwrap());
                }
            }
        }
        found
    }

    /// Steps that stand in the metrics of a training under way.
    fn steps(&self, output: &str) -> usize {
        let path = self.path(output).join("train/_work/metrics.jsonl");
        std::fs::read_to_string(path).map_or(0, |text| text.matches('\n').count())
    }

    /// Waits for a step, then kills; whether the process was still alive.
    fn kill_at(&self, output: &str, child: &mut Child, step: usize) -> bool {
        let began = Instant::now();
        while self.steps(output) < step && child.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < Duration::from_mins(2), "step {step} does not come");
            std::thread::sleep(Duration::from_micros(500));
        }
        child.kill().unwrap();
        child.wait().unwrap().signal() == Some(9)
    }
}

fn same(a: &BTreeMap<String, Vec<u8>>, b: &BTreeMap<String, Vec<u8>>) {
    let names = a.keys().chain(b.keys());
    let other: Vec<&String> = names.filter(|name| a.get(*name) != b.get(*name)).collect();
    assert!(other.is_empty(), "these differ: {other:?}");
}

/// Marsaglia's xorshift64.
struct Moments(u64);

impl Moments {
    /// So many steps below `below`, ascending.
    fn steps(&mut self, count: usize, below: usize) -> Vec<usize> {
        let mut steps: Vec<usize> = (0..count)
            .map(|_| {
                self.0 ^= self.0 << 13;
                self.0 ^= self.0 >> 7;
                self.0 ^= self.0 << 17;
                self.0 as usize % below + 1
            })
            .collect();
        steps.sort_unstable();
        steps
    }
}

#[test]
fn killed_at_twenty_random_steps_a_training_ends_with_the_same_bytes() {
    let bench = Bench::new();
    let flags = [
        "--batch-size",
        "8",
        "--epochs",
        "30",
        "--accum-freq",
        "1",
        "--save-every",
        "7",
        "--save-frequency",
        "10",
        "--lr",
        "1e-3",
        "--val-data",
    ];
    let shard = bench.path("00001.tar");
    let mut flags: Vec<&str> = flags.to_vec();
    flags.extend([shard.to_str().unwrap(), "--val-frequency", "5"]);
    let whole = bench.run("whole", &flags);
    assert!(whole.contains_key("checkpoints/epoch_20.state.safetensors"), "{:?}", whole.keys());
    let mut alive = 0;
    // 210 steps; states every seven of them.
    for step in Moments(0x9e37_79b9_7f4a_7c15).steps(20, 195) {
        let mut child = bench.train("killed", &flags).stderr(Stdio::null()).spawn().unwrap();
        alive += u32::from(bench.kill_at("killed", &mut child, step));
    }
    assert_eq!(alive, 20, "every kill met a training at work");
    same(&bench.run("killed", &flags), &whole);
}

#[test]
fn draws_with_replacement_outlive_kills_and_other_thread_counts() {
    let bench = Bench::new();
    let flags = [
        "--batch-size",
        "4",
        "--accum-freq",
        "2",
        "--epochs",
        "3",
        "--train-num-samples",
        "200",
        "--dataset-resampled",
        "--save-every",
        "5",
        "--lock-image",
        "--lock-image-unlocked-groups",
        "2",
        "--idle_channels",
        "0.5",
    ];
    let with = |threads: &'static str| -> Vec<&str> {
        flags.iter().copied().chain(["--threads", threads]).collect()
    };
    let whole = bench.run("whole", &with("1"));
    let metrics = String::from_utf8(whole["metrics.jsonl"].clone()).unwrap();
    assert_eq!(metrics.lines().count(), 75);
    for step in Moments(77).steps(4, 65) {
        let mut child = bench.train("killed", &with("3")).stderr(Stdio::null()).spawn().unwrap();
        assert!(bench.kill_at("killed", &mut child, step));
    }
    same(&bench.run("killed", &with("2")), &whole);
}

/// Two ranks of one training, by torchrun's variables.
fn pair(bench: &Bench, output: &str, flags: &[&str]) -> [Child; 2] {
    ranks(|| bench.train(output, flags))
}

/// Two ranks of one command.
fn ranks(command: impl Fn() -> Command) -> [Child; 2] {
    let port = free_port();
    [0, 1]
        .map(|rank| ranked(command().env("CLIPMILL_RANKS_JOIN", "60"), rank, port).spawn().unwrap())
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// As one of two ranks.
fn ranked(command: &mut Command, rank: u32, port: u16) -> &mut Command {
    command
        .env("RANK", rank.to_string())
        .env("LOCAL_RANK", rank.to_string())
        .env("WORLD_SIZE", "2")
        .env("MASTER_ADDR", "127.0.0.1")
        .env("MASTER_PORT", port.to_string())
        .env("CLIPMILL_RANKS_SILENCE", "5")
}

fn end(child: Child) -> Output {
    child.wait_with_output().unwrap()
}

#[test]
fn a_killed_rank_stops_the_other_with_its_name_and_both_go_on_to_the_same_bytes() {
    let bench = Bench::new();
    let flags = ["--batch-size", "6", "--epochs", "20", "--save-every", "5"];
    for child in pair(&bench, "whole", &flags) {
        let done = end(child);
        assert!(done.status.success(), "{}", stderr(&done));
    }
    let whole = bench.files("whole");
    for victim in [1, 0] {
        let output = format!("killed-{victim}");
        let [first, second] = pair(&bench, &output, &flags);
        let (mut victim_child, other) = match victim {
            1 => (second, first),
            _ => (first, second),
        };
        assert!(bench.kill_at(&output, &mut victim_child, 23));
        let began = Instant::now();
        let left = end(other);
        assert!(began.elapsed() < Duration::from_secs(30), "the other hung");
        let text = stderr(&left);
        assert_eq!(left.status.code(), Some(6), "{text}");
        assert!(text.contains(&format!("rank {victim} (")) && text.contains("is gone"), "{text}");
        for child in pair(&bench, &output, &flags) {
            let done = end(child);
            assert!(done.status.success(), "{}", stderr(&done));
        }
        same(&bench.files(&output), &whole);
    }
}

#[test]
fn of_two_trainings_on_two_ranks_one_is_made_again_alone() {
    let bench = Bench::new();
    let recipe = bench.path("two.yaml");
    let (model, out) = (bench.path("model.json"), bench.path("out"));
    let train = |id: &str, shard: u32| {
        let tar = bench.path(&format!("{shard:05}.tar"));
        let (model, tar) = (model.display(), tar.display());
        format!(
            "  - train: {{model: {model}, data: [{tar}], batch_size: 4, steps: 2}}\n    \
             id: {id}\n    from: []\n"
        )
    };
    let text = format!("version: 1\nname: two\noutput: {}\nstages:\n", out.display());
    std::fs::write(&recipe, text + &train("one", 0) + &train("other", 1)).unwrap();
    let run = |flags: &[&str]| {
        let command = || {
            let mut command = clipmill();
            command.arg("run").arg(&recipe).args(flags).stdout(Stdio::null());
            command.stderr(Stdio::piped());
            command
        };
        for child in ranks(command) {
            let done = end(child);
            assert!(done.status.success(), "{flags:?}: {}", stderr(&done));
        }
    };
    run(&["--until", "one"]);
    run(&[]);
    run(&["--redo", "other"]);
    run(&["--until", "one"]);
}

#[test]
fn a_rank_that_comes_first_trains_on_what_is_made_again_and_not_on_what_lies_there() {
    let bench = Bench::new();
    let recipe = |output: &str| {
        let path = bench.path(&format!("{output}.yaml"));
        let (model, out) = (bench.path("model.json"), bench.path(output));
        let shards = bench.path("{00000..00001}.tar");
        let (model, out, shards) = (model.display(), out.display(), shards.display());
        let text = format!(
            "version: 1\nname: again\noutput: {out}\nstages:\n  - shards: {{urls: [\"{shards}\"]}}\n  \
             - reshard: {{samples_per_shard: 7}}\n  \
             - train: {{model: {model}, batch_size: 4, steps: 6}}\n"
        );
        std::fs::write(&path, text).unwrap();
        path
    };
    let start = |recipe: &PathBuf, rank: u32, port: u16, flags: &[&str]| {
        let mut command = clipmill();
        command.arg("run").arg(recipe).args(flags);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let waits_long = rank == 0 || flags.is_empty();
        command.env("CLIPMILL_RANKS_JOIN", if waits_long { "60" } else { "2" });
        ranked(&mut command, rank, port).spawn().unwrap()
    };
    let both = |recipe: &PathBuf, flags: &[&str], pause: Duration| {
        let port = free_port();
        let other = start(recipe, 1, port, flags);
        // Longer than a rank waits for one that has nothing else to do.
        std::thread::sleep(pause);
        for child in [start(recipe, 0, port, flags), other] {
            let done = end(child);
            assert!(done.status.success(), "{flags:?}: {}", stderr(&done));
        }
    };
    both(&recipe("out"), &[], Duration::ZERO);
    let old = bench.files("out");
    // As many pictures as before, and others: their tones are turned round.
    bench.write_shards(|number| picture(41 - number % 42));
    both(&recipe("out"), &["--redo", "shards"], Duration::from_secs(4));
    let new = bench.files("out");
    assert!(old["weights.safetensors"] != new["weights.safetensors"]);
    both(&recipe("fresh"), &[], Duration::ZERO);
    same(&new, &bench.files("fresh"));
}

#[test]
fn open_clips_command_line_is_understood_and_what_is_not_there_is_answered() {
    let bench = Bench::new();
    let files = bench.run(
        "out",
        &[
            "--scale",
            "debug",
            "--batch-size",
            "8",
            "--steps",
            "3",
            "--save-most-recent",
            "true",
            "--resume",
            "latest",
            "--local-loss",
            "--gather-with-grad",
            "--workers",
            "4",
            "--log-every-n-steps",
            "1",
            "--warmup",
            "1",
        ],
    );
    let params = String::from_utf8(files["params.txt"].clone()).unwrap();
    assert!(params.contains("dataset_resampled: true\n"), "{params}");
    let log = std::fs::read_to_string(bench.path("out/train/_work/out.log")).unwrap();
    assert_eq!(log.matches("Train Epoch: 0 [").count(), 3, "{log}");
    let events = std::fs::read_dir(bench.path("out/train/_work/tensorboard")).unwrap();
    assert_eq!(events.count(), 1, "the events stay when the work folder is tidied");

    for (flag, words) in [
        ("--dataset-type", "data are always WebDataset shards"),
        ("--report_to", "TensorBoard events"),
        ("--fsdp", "every rank holds the whole model"),
        ("--siglip", "the loss is CLIP's"),
    ] {
        let told = bench.train("none", &[flag, "x"]).output().unwrap();
        assert_eq!(told.status.code(), Some(2));
        let text = stderr(&told);
        assert!(text.contains(words) && text.contains("hint: "), "{flag}: {text}");
    }
}

#[test]
fn the_command_line_of_datacomps_train_py_starts_trains_and_is_obeyed_flag_by_flag() {
    let bench = Bench::new();
    let (shards, model, logs) =
        (bench.path("{00000..00001}.tar"), bench.path("model.json"), bench.path("logs"));
    let [shards, model, logs] = [&shards, &model, &logs].map(|path| path.to_str().unwrap());
    // What `train.py --scale small` hands to open_clip, in its order; but for the paths only the
    // model, the batch and the number of samples are smaller.
    let line = [
        "--save-frequency",
        "0",
        "--ddp-static-graph",
        "--local-loss",
        "--gather-with-grad",
        "--grad-checkpointing",
        "--train-data",
        shards,
        "--train-num-samples",
        "77",
        "--warmup",
        "500",
        "--dataset-type",
        "webdataset",
        "--precision",
        "amp",
        "--workers",
        "4",
        "--model",
        model,
        "--batch-size",
        "4",
        "--epochs",
        "5",
        "--lr",
        "0.0005",
        "--logs",
        logs,
        "--name",
        "small_scale",
        "--seed",
        "0",
        "--accum-freq",
        "1",
        "--log-every-n-steps",
        "100",
        "--save-most-recent",
        "--resume",
        "latest",
        "--dataset-resampled",
    ];
    let train = |more: &[&str]| {
        let mut command = clipmill();
        command.arg("train").args(line).args(more).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    // --logs and --name: the run folder.
    let run = bench.path("logs/small_scale/train");
    // --save-most-recent: there from the end of the first epoch to that of the training.
    let mut child = train(&[]).stderr(Stdio::null()).spawn().unwrap();
    let (began, latest) = (Instant::now(), run.join("_work/checkpoints/epoch_latest.safetensors"));
    while !latest.is_file() {
        assert!(began.elapsed() < Duration::from_mins(2) && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(1));
    }
    let stop = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(stop.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    // --resume latest: the same command goes on from there.
    let done = train(&[]).output().unwrap();
    let told = stderr(&done);
    assert!(done.status.success(), "{told}");
    assert!(told.contains("these change nothing here: --dataset-type"), "{told}");
    assert!(told.contains("--ddp-static-graph"), "{told}");
    let params = std::fs::read_to_string(run.join("params.txt")).unwrap();
    for line in [
        "save_frequency: 0",
        "local_loss: true",
        "gather_with_grad: true",
        "grad_checkpointing: true",
        "warmup: 500",
        "precision: amp",
        "batch_size: 4",
        "lr: 0.0005",
        "seed: 0",
        "accum_freq: 1",
        "dataset_resampled: true",
        "model: model",
        // 77 samples are 20 batches, five of each of four workers; five epochs.
        "steps_per_epoch: 20",
        "steps: 100",
        // open_clip's for a ViT where train.py gives none.
        "beta2: 0.98",
        "wd: 0.2",
    ] {
        assert!(params.lines().any(|own| own == line), "{line} in {params}");
    }
    let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().count(), 100);
    assert!(!run.join("checkpoints").exists(), "--save-frequency 0 keeps no epoch");
    // --log-every-n-steps 100: the first and the last step of each epoch.
    let log = std::fs::read_to_string(run.join("_work/out.log")).unwrap();
    assert_eq!(log.matches("Train Epoch: ").count(), 10, "{log}");
    assert!(log.contains("precision amp: products of bf16 factors"), "{log}");
    // What is done is not done again.
    assert!(train(&[]).status().unwrap().success());
    assert_eq!(std::fs::read_to_string(run.join("_work/out.log")).unwrap(), log);
    // What train.py adds where it is asked to.
    let told = stderr(
        &train(&["--report-to", "wandb", "--wandb-project-name", "datanet"]).output().unwrap(),
    );
    assert!(told.contains("--report-to is taken with"), "{told}");
    let told = stderr(&train(&["--blur-field", "face_bboxes"]).output().unwrap());
    assert!(told.contains("hint: blur when shards are made"), "{told}");
}

#[test]
fn upsampling_factors_are_of_the_parts_of_the_training_data() {
    let bench = Bench::new();
    let both =
        format!("{}::{}", bench.path("00000.tar").display(), bench.path("00001.tar").display());
    let train = |output: &str, factors: &str| {
        let mut command = clipmill();
        command.arg("train").args(["--model", bench.path("model.json").to_str().unwrap()]);
        command.args(["--train-data", &both, "--dataset-resampled", "--batch-size", "8"]);
        command.args(["--steps", "3", "--output", bench.path(output).to_str().unwrap()]);
        command.args(["--train-data-upsampling-factors", factors]);
        command.output().unwrap()
    };
    let done = train("some", "1::2.5");
    assert!(done.status.success(), "{}", stderr(&done));
    let params = std::fs::read_to_string(bench.path("some/train/params.txt")).unwrap();
    assert!(params.contains("train_data_upsampling_factors: [1.0,2.5]\n"), "{params}");
    // Only the second source is drawn from.
    let only = train("only", "0::1");
    assert!(only.status.success(), "{}", stderr(&only));
    assert_ne!(
        bench.files("some")["weights.safetensors"],
        bench.files("only")["weights.safetensors"]
    );
    let told = train("none", "1::2::3");
    assert_eq!(told.status.code(), Some(2));
    let text = stderr(&told);
    assert!(text.contains("3 train_data_upsampling_factors for 2 sources of data"), "{text}");
}

#[test]
fn what_is_said_of_pictures_on_the_command_line_goes_into_the_checkpoint() {
    let bench = Bench::new();
    let flags = ["--batch-size", "8", "--steps", "1", "--image-mean", "0.5", "0.5", "0.5"];
    let more = ["--image-std", "0.25", "0.25", "0.5", "--image-resize-mode", "squash"];
    let all: Vec<&str> = flags.iter().chain(&more).copied().chain(["--force-quick-gelu"]).collect();
    let files = bench.run("out", &all);
    let json = |name: &str| -> serde_json::Value { serde_json::from_slice(&files[name]).unwrap() };
    let pictures = serde_json::json!({"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.5],
        "interpolation": "bicubic", "resize_mode": "squash"});
    assert_eq!(json("checkpoint.json")["preprocess"], pictures);
    assert_eq!(json("open_clip_config.json")["preprocess_cfg"], pictures);
    assert_eq!(json("open_clip_config.json")["model_cfg"]["quick_gelu"], true);
}

#[test]
fn a_training_starts_from_a_stage_of_its_recipe_and_evaluates_on_the_way() {
    let bench = Bench::new();
    let shard = bench.path("{00000..00001}.tar");
    let recipe = bench.path("two.yaml");
    let text = format!(
        "version: 1\nname: two\noutput: {}\nstages:\n  - shards: {{urls: [\"{}\"]}}\n    id: pairs\n  \
         - train: {{model: {}, batch_size: 8, steps: 10}}\n    id: first\n  \
         - train:\n      model: {}\n      batch_size: 8\n      epochs: 2\n      pretrained: first\n      lr: 1e-9\n      lock_image: true\n      \
         zeroshot_frequency: 1\n      evaluation: {{retrieval: {{data: [\"{}\"], name: greys}}}}\n    id: second\n    from: pairs\n",
        bench.path("out").display(),
        shard.display(),
        bench.path("model.json").display(),
        bench.path("model.json").display(),
        bench.path("00000.tar").display(),
    );
    std::fs::write(&recipe, text).unwrap();
    let done = clipmill().arg("run").arg(&recipe).output().unwrap();
    assert!(done.status.success(), "{}", stderr(&done));
    let rows = std::fs::read_to_string(bench.path("out/second/results.jsonl")).unwrap();
    assert_eq!(rows.lines().count(), 2);
    assert!(rows.lines().all(|row| row.contains("image_retrieval_recall@1")), "{rows}");
    let checkpoint = std::fs::read_to_string(bench.path("out/second/checkpoint.json")).unwrap();
    assert!(checkpoint.contains("\"pretrained\": \"first\""), "{checkpoint}");
    let loss = |stage: &str, line: usize| -> f64 {
        let path = bench.path("out").join(stage).join("metrics.jsonl");
        let text = std::fs::read_to_string(path).unwrap();
        let row = text.lines().nth(line).unwrap().to_owned();
        serde_json::from_str::<serde_json::Value>(&row).unwrap()["loss"].as_f64().unwrap()
    };
    assert!(loss("second", 0) < loss("first", 0), "it starts where the first ended");
}

#[test]
fn a_batch_that_does_not_fit_is_refused_with_one_that_would() {
    let bench = Bench::new();
    let told = bench
        .train("out", &["--batch-size", "1048576", "--steps", "1", "--dataset-resampled"])
        .output()
        .unwrap();
    let text = stderr(&told);
    assert_eq!(told.status.code(), Some(8), "{text}");
    assert!(text.contains("a batch of 1048576 of model"), "{text}");
    assert!(text.contains("hint: set `batch_size: "), "{text}");
}

#[test]
fn weights_of_another_shape_are_refused_with_both_numbers() {
    let bench = Bench::new();
    bench.run("first", &["--batch-size", "8", "--steps", "2"]);
    let wide = std::fs::read_to_string(bench.path("model.json")).unwrap();
    std::fs::write(bench.path("wide.json"), wide.replace("\"embed_dim\": 16", "\"embed_dim\": 24"))
        .unwrap();
    let refused = |flags: &[&str]| {
        let told = bench.train("second", flags).output().unwrap();
        assert!(!told.status.success());
        stderr(&told)
    };
    let first = bench.path("first/train");
    let wide = bench.path("wide.json");
    let text = refused(&[
        "--steps",
        "1",
        "--batch-size",
        "8",
        "--pretrained",
        first.to_str().unwrap(),
        "--context_length",
        "20",
    ]);
    assert!(
        text.contains("`positional_embedding` has shape [16, 16], expected [20, 16]"),
        "{text}"
    );
    std::fs::write(&wide, std::fs::read_to_string(&wide).unwrap().replace("49408", "49000"))
        .unwrap();
    let told = clipmill()
        .args(["train", "--model", wide.to_str().unwrap(), "--steps", "1", "--batch-size", "8"])
        .args(["--data", bench.path("00000.tar").to_str().unwrap()])
        .args(["--output", bench.path("third").to_str().unwrap()])
        .output()
        .unwrap();
    let text = stderr(&told);
    assert!(text.contains("49000 token embeddings, the clip tokenizer 49408 tokens"), "{text}");
}
