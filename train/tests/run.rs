//! Whole trainings on a source of coloured shapes: what they learn, what they write, and that a
//! stop at any moment changes nothing.

#[path = "common/shapes.rs"]
mod shapes;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{Device, Tensor};
use shapes::Shapes;
use stage::{Cancel, Context, Error, Kind, PairSource, Pairs, Progress, Result};
use train::plan::Precision;
use train::{Job, TrainOutcome, TrainPlan};

/// A folder for one test: model JSON, work folder, output.
struct Bench {
    dir: tempfile::TempDir,
}

/// Something that happens to a file.
type Damage = fn(&Path);

/// Committed files by name.
type Files = BTreeMap<String, Vec<u8>>;

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let model = r#"{"embed_dim": 16,
            "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
            "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}}"#;
        fs::write(dir.path().join("model.json"), model).unwrap();
        Self { dir }
    }

    /// A plan of 12 steps of 16, changed by `change`.
    fn plan(&self, change: impl FnOnce(&mut TrainPlan)) -> TrainPlan {
        let mut plan = TrainPlan {
            model: Some(self.dir.path().join("model.json").to_string_lossy().into_owned()),
            batch_size: Some(16),
            steps: Some(12),
            lr: Some(1e-3),
            save_every: 5,
            ..TrainPlan::default()
        };
        change(&mut plan);
        plan
    }

    fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    fn train(
        &self,
        plan: &TrainPlan,
        data: &dyn PairSource,
        cx: &Context,
    ) -> Result<(TrainOutcome, Files)> {
        let output = store::Output::open(&self.dir.path().join("out").to_string_lossy()).unwrap();
        let mut out = output.stage("train").begin("all").unwrap();
        let outcome = train::run(Job::new(plan, data), &self.work(), &mut out, cx)?;
        let files = read_folder(out.local_dir(), "");
        Ok((outcome, files))
    }
}

fn read_folder(dir: &Path, prefix: &str) -> Files {
    let mut files = Files::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{prefix}{}", path.file_name().unwrap().to_string_lossy());
        if path.is_dir() {
            files.extend(read_folder(&path, &format!("{name}/")));
        } else {
            files.insert(name, fs::read(path).unwrap());
        }
    }
    files
}

fn context() -> Context {
    Context { threads: 2, ..Context::default() }
}

/// Stops the training when it reports this many steps.
struct StopAt {
    step: u64,
    cancel: Cancel,
}

impl Progress for StopAt {
    fn update(&self, done: u64, _total: u64, _note: &str) {
        if done == self.step {
            self.cancel.cancel();
        }
    }
}

fn stopping_at(step: u64) -> Context {
    let cancel = Cancel::default();
    let progress = std::sync::Arc::new(StopAt { step, cancel: cancel.clone() });
    Context { cancel, progress, ..context() }
}

/// A source that fails after some reads, as a machine that dies does: nothing is saved on the way.
struct Dying {
    inner: Shapes,
    reads: AtomicU64,
}

impl PairSource for Dying {
    fn len(&self) -> usize {
        self.inner.len()
    }

    fn read(&self, indices: &[usize]) -> Result<Pairs> {
        if self.reads.fetch_sub(1, Ordering::SeqCst) == 0 {
            return Err(Error::store("the disk is gone"));
        }
        self.inner.read(indices)
    }

    fn fingerprint(&self) -> String {
        self.inner.fingerprint()
    }
}

#[test]
fn shapes_are_learned() {
    let bench = Bench::new();
    let plan = bench.plan(|plan| {
        plan.steps = Some(60);
        plan.lr = Some(3e-3);
    });
    let (outcome, files) = bench.train(&plan, &Shapes::new(96, 64), &context()).unwrap();
    let losses = column(&files["metrics.jsonl"], "loss");
    assert_eq!(losses.len(), 60);
    assert!((losses[0] - 16_f64.ln()).abs() < 0.7, "starts near chance: {}", losses[0]);
    assert!(outcome.loss < losses[0] - 0.7, "{} after {}", outcome.loss, losses[0]);
    assert_eq!((outcome.counts.entered, outcome.counts.kept), (96, 96));
    assert_eq!(outcome.samples_seen, 960);
}

fn column(jsonl: &[u8], name: &str) -> Vec<f64> {
    let rows = std::str::from_utf8(jsonl).unwrap().lines();
    rows.map(|row| serde_json::from_str::<serde_json::Value>(row).unwrap()[name].as_f64().unwrap())
        .collect()
}

#[test]
fn outputs_are_a_checkpoint_metrics_results_and_params() {
    let bench = Bench::new();
    let plan = bench.plan(|plan| plan.save_frequency = 1);
    let (outcome, files) = bench.train(&plan, &Shapes::new(96, 64), &context()).unwrap();
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    for name in [
        "checkpoint.json",
        "checkpoints/epoch_1.safetensors",
        "checkpoints/epoch_2.safetensors",
        "metrics.jsonl",
        "open_clip_config.json",
        "params.txt",
        "results.jsonl",
    ] {
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
    assert_eq!(column(&files["results.jsonl"], "epoch"), [1.0, 2.0]);
    let params = String::from_utf8(files["params.txt"].clone()).unwrap();
    assert!(params.contains("\nbatch_size: 16\n") && params.contains("\nlr: 0.001\n"), "{params}");
    assert_eq!(files["checkpoints/epoch_2.safetensors"], files[&outcome.checkpoint.weights]);
}

#[test]
fn threads_do_not_change_a_byte() {
    let (one, two) = (Bench::new(), Bench::new());
    let train = |bench: &Bench, threads| {
        let cx = Context { threads, ..context() };
        bench.train(
            &bench.plan(|plan| plan.model = one.plan(|_| {}).model),
            &Shapes::new(40, 64),
            &cx,
        )
    };
    assert_eq!(train(&one, 1).unwrap().1, train(&two, 3).unwrap().1);
}

#[test]
fn a_stop_at_any_step_changes_nothing() {
    for accum_freq in [1, 2] {
        let reference = Bench::new();
        let change = |plan: &mut TrainPlan| {
            plan.batch_size = Some(16 / accum_freq);
            plan.accum_freq = accum_freq;
            plan.idle_channels = Some(0.5);
            plan.model = reference.plan(|_| {}).model;
        };
        let mut data = Shapes::new(70, 64);
        data.break_sample(3);
        let undisturbed = reference.train(&reference.plan(change), &data, &context()).unwrap().1;
        for stop in [1, 4, 5, 11] {
            let bench = Bench::new();
            let plan = bench.plan(change);
            let stopped = bench.train(&plan, &data, &stopping_at(stop)).unwrap_err();
            assert_eq!(stopped.kind(), Kind::Interrupted);
            let (outcome, files) = bench.train(&plan, &data, &context()).unwrap();
            assert_eq!(outcome.resumed_at, Some(stop));
            assert!(
                files == undisturbed,
                "stopped at {stop}: {}",
                first_difference(&files, &undisturbed)
            );
        }
    }
}

fn first_difference(a: &Files, b: &Files) -> String {
    let differs = a.iter().find(|(name, bytes)| b.get(*name) != Some(bytes));
    differs.map_or_else(|| "a file is missing".to_owned(), |(name, _)| format!("{name} differs"))
}

#[test]
fn a_death_without_warning_goes_on_from_the_last_saved_state() {
    let reference = Bench::new();
    let change = |plan: &mut TrainPlan| {
        plan.model = reference.plan(|_| {}).model;
        plan.train_num_samples = Some(16);
    };
    // Decoded pictures are not kept, so that every step reads.
    let forgetful = Context { memory: 0, ..context() };
    let undisturbed =
        reference.train(&reference.plan(change), &Shapes::new(70, 64), &forgetful).unwrap().1;
    let bench = Bench::new();
    let plan = bench.plan(change);
    let dying = Dying { inner: Shapes::new(70, 64), reads: AtomicU64::new(8) };
    let died = bench.train(&plan, &dying, &forgetful).unwrap_err();
    assert_eq!(died.to_string(), "the disk is gone");
    let (outcome, files) = bench.train(&plan, &Shapes::new(70, 64), &forgetful).unwrap();
    assert_eq!(outcome.resumed_at, Some(5));
    assert!(files == undisturbed, "{}", first_difference(&files, &undisturbed));
}

#[test]
fn a_broken_newest_state_is_passed_over_and_said_so() {
    let reference = Bench::new();
    let model = reference.plan(|_| {}).model;
    let data = Shapes::new(70, 64);
    let undisturbed = reference.train(&reference.plan(|_| {}), &data, &context()).unwrap().1;
    let damages: [(&str, Damage); 3] = [
        ("sha256 differs", |path| {
            let mut bytes = fs::read(path).unwrap();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            fs::write(path, bytes).unwrap();
        }),
        ("bytes, the manifest says", |path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("cannot open the tensors", |path| fs::remove_file(path).unwrap()),
    ];
    for (reason, damage) in damages {
        let bench = Bench::new();
        let plan = bench.plan(|plan| plan.model.clone_from(&model));
        bench.train(&plan, &data, &stopping_at(8)).unwrap_err();
        damage(&bench.work().join("state-000000000008.safetensors"));
        // What a kill in the middle of writing leaves behind.
        fs::write(bench.work().join("state-000000000009.partial"), b"half").unwrap();
        let (outcome, files) = bench.train(&plan, &data, &context()).unwrap();
        assert_eq!(outcome.resumed_at, Some(5), "{reason}");
        assert_eq!(outcome.notes.len(), 1);
        assert!(outcome.notes[0].contains("state-000000000008.json"), "{:?}", outcome.notes);
        assert!(outcome.notes[0].contains(reason), "{:?}", outcome.notes);
        assert!(files == undisturbed, "{reason}: {}", first_difference(&files, &undisturbed));
    }
}

#[test]
fn only_the_last_two_states_are_kept() {
    let bench = Bench::new();
    bench.train(&bench.plan(|plan| plan.save_every = 2), &Shapes::new(70, 64), &context()).unwrap();
    let mut names: Vec<String> = read_folder(&bench.work(), "").into_keys().collect();
    names.retain(|name| name.starts_with("state-"));
    assert_eq!(
        names,
        [
            "state-000000000010.json",
            "state-000000000010.safetensors",
            "state-000000000012.json",
            "state-000000000012.safetensors"
        ]
    );
}

#[test]
fn a_state_of_another_plan_is_a_conflict_that_names_the_fields() {
    let bench = Bench::new();
    let data = Shapes::new(70, 64);
    bench.train(&bench.plan(|_| {}), &data, &stopping_at(3)).unwrap_err();
    let error =
        bench.train(&bench.plan(|plan| plan.lr = Some(2e-3)), &data, &context()).unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    let message = error.to_string();
    assert!(message.ends_with("another training: settings.lr was 0.001, is 0.002"), "{message}");
    let more = Shapes::new(80, 64);
    let message = bench.train(&bench.plan(|_| {}), &more, &context()).unwrap_err().to_string();
    assert!(message.contains("samples was 70, is 80"), "{message}");
}

#[test]
fn how_often_states_are_saved_may_change_on_the_way() {
    let bench = Bench::new();
    let data = Shapes::new(70, 64);
    bench.train(&bench.plan(|_| {}), &data, &stopping_at(3)).unwrap_err();
    let plan = bench.plan(|plan| plan.save_every = 1);
    assert_eq!(bench.train(&plan, &data, &context()).unwrap().0.resumed_at, Some(3));
}

#[test]
fn broken_pictures_are_counted_and_replaced() {
    let bench = Bench::new();
    let mut data = Shapes::new(20, 64);
    data.break_sample(0);
    data.break_sample(13);
    let (outcome, files) = bench.train(&bench.plan(|_| {}), &data, &context()).unwrap();
    outcome.counts.check().unwrap();
    assert_eq!((outcome.counts.entered, outcome.counts.kept), (20, 18));
    assert_eq!(outcome.counts.failed.values().sum::<u64>(), 2);
    assert_eq!(column(&files["metrics.jsonl"], "loss").len(), 12);
}

#[test]
fn a_source_without_one_good_picture_is_an_error_not_a_loop() {
    let bench = Bench::new();
    let mut data = Shapes::new(16, 64);
    (0..16).for_each(|i| data.break_sample(i));
    let error = bench.train(&bench.plan(|_| {}), &data, &context()).unwrap_err();
    assert_eq!(error.kind(), Kind::Input);
    assert_eq!(error.to_string(), "not one of 16 pictures can be decoded");
}

#[test]
fn a_loss_that_stays_infinite_stops_the_training_and_keeps_the_good_state() {
    let bench = Bench::new();
    let plan = bench.plan(|plan| {
        plan.lr = Some(1e30);
        plan.warmup = Some(0);
    });
    let error = bench.train(&plan, &Shapes::new(70, 64), &context()).unwrap_err();
    assert_eq!(error.kind(), Kind::Model, "{error}");
    assert!(error.to_string().contains("in 3 steps in a row"), "{error}");
    let metrics = fs::read_to_string(bench.work().join("metrics.jsonl")).unwrap();
    let skipped: Vec<&str> = metrics.lines().filter(|line| line.contains("skipped")).collect();
    assert_eq!(skipped.len(), 3, "{metrics}");
    let row: serde_json::Value = serde_json::from_str(skipped[0]).unwrap();
    assert_eq!(row["uids"].as_array().unwrap().len(), 16);
    let first_bad = row["step"].as_u64().unwrap();
    assert!(bench.work().join(format!("state-{first_bad:012}.json")).exists());
}

#[test]
fn every_so_many_epochs_and_at_the_end_the_callback_sees_the_model() {
    let bench = Bench::new();
    let output = store::Output::open(&bench.dir.path().join("out").to_string_lossy()).unwrap();
    let mut out = output.stage("train").begin("all").unwrap();
    let seen = Mutex::new(Vec::new());
    let on_epoch = |clip: &models::Clip, _: &stage::Preprocess, epoch: u64| {
        seen.lock().unwrap().push((epoch, clip.config().embed_dim()));
        let mut row = serde_json::Map::new();
        row.insert("imagenet-zeroshot-val-top1".to_owned(), serde_json::json!(0.5));
        Ok(row)
    };
    let plan = bench.plan(|plan| {
        plan.steps = Some(30);
        plan.zeroshot_frequency = 2;
    });
    let data = Shapes::new(96, 64);
    let job = Job { on_epoch: Some(Box::new(on_epoch)), ..Job::new(&plan, &data) };
    train::run(job, &bench.work(), &mut out, &context()).unwrap();
    assert_eq!(*seen.lock().unwrap(), [(2, 16), (4, 16), (5, 16)]);
    let results = fs::read(out.local_dir().join("results.jsonl")).unwrap();
    let rows: Vec<bool> = std::str::from_utf8(&results)
        .unwrap()
        .lines()
        .map(|row| row.contains("imagenet-zeroshot-val-top1"))
        .collect();
    assert_eq!(rows, [false, true, false, true, true]);
}

#[test]
fn a_bad_batch_changes_neither_weights_nor_statistics() {
    let config = fs::read(Bench::new().dir.path().join("model.json"));
    let config = serde_json::from_slice(&config.unwrap()).unwrap();
    let config = models::ClipConfig::from_json(&config).unwrap();
    let changes = [stage::Change::IdleChannels { ratio: 0.5 }];
    let clip = models::Clip::init(&config, &changes, 0, &Device::Cpu).unwrap();
    let constants = train::adamw::Constants { beta1: 0.9, beta2: 0.98, eps: 1e-6, wd: 0.2 };
    let schedule = train::schedule::Schedule {
        shape: train::schedule::Shape::Const,
        lr: 1e-3,
        warmup: 0,
        steps: 10,
        cooldown: train::schedule::Cooldown::default(),
    };
    let choices = train::trainer::Choices::plain(constants, schedule);
    let mut trainer = train::trainer::Trainer::new(clip, choices, |_, dims| dims > 1).unwrap();
    let numbers = |trainer: &train::trainer::Trainer| -> Vec<Vec<f32>> {
        let params = trainer.clip.params();
        let all = params.vars().values().chain(params.buffers().values());
        all.map(|var| var.flatten_all().unwrap().to_vec1().unwrap()).collect()
    };
    let before = numbers(&trainer);
    let bad = Tensor::full(f32::NAN, (2, 3, 32, 32), &Device::Cpu).unwrap();
    let tokens = Tensor::ones((2, 12), candle_core::DType::U32, &Device::Cpu).unwrap();
    let batch = train::trainer::Batch { pixels: bad, tokens, uids: Vec::new() };
    let step = trainer.step(0, &[batch]).unwrap();
    assert_eq!(step.skipped, Some("non_finite_loss"));
    assert!(numbers(&trainer) == before);
    assert_eq!(trainer.optimizer.steps(), 0);
}

#[test]
fn products_in_bf16_learn_as_well_and_threads_do_not_change_a_byte() {
    let data = Shapes::new(64, 64);
    let run = |precision, threads| {
        let bench = Bench::new();
        let plan = bench.plan(|plan| plan.precision = precision);
        bench.train(&plan, &data, &Context { threads, ..context() }).unwrap().1
    };
    let half = run(Precision::AmpBf16, 1);
    let first = |files: &Files| column(&files["metrics.jsonl"], "loss");
    assert!(run(Precision::Bf16, 3)["weights.safetensors"] == half["weights.safetensors"]);
    let (full, half) = (first(&run(Precision::Fp32, 2)), first(&half));
    assert_ne!(half, full);
    for (half, full) in half.iter().zip(&full) {
        assert!((half - full).abs() < 0.02, "{half} {full}");
    }
}

#[test]
fn pictures_of_another_size_start_from_a_checkpoint_with_resampled_positions() {
    let data = Shapes::new(64, 64);
    let first = Bench::new();
    let (_, files) = first.train(&first.plan(|_| ()), &data, &context()).unwrap();
    let second = Bench::new();
    let start = second.dir.path().join("start.safetensors");
    fs::write(&start, &files["weights.safetensors"]).unwrap();
    let plan = |size| {
        second.plan(|plan| {
            plan.force_image_size = size;
            plan.steps = Some(1);
            plan.warmup = Some(0);
            plan.lr = Some(1e-12);
            plan.aug_scale = None;
        })
    };
    let run = |plan: &TrainPlan| -> Result<Files> {
        let job = Job { pretrained: Some(start.clone()), ..Job::new(plan, &data) };
        let dir = tempfile::tempdir().unwrap();
        let output = store::Output::open(&dir.path().join("out").to_string_lossy()).unwrap();
        let mut out = output.stage("train").begin("all").unwrap();
        train::run(job, &dir.path().join("work"), &mut out, &context())?;
        Ok(read_folder(out.local_dir(), ""))
    };
    let larger = run(&plan(Some(64))).unwrap();
    let config: serde_json::Value =
        serde_json::from_slice(&larger["open_clip_config.json"]).unwrap();
    assert_eq!(config["model_cfg"]["vision_cfg"]["image_size"], 64);
    let positions = |files: &Files| {
        let tensors =
            candle_core::safetensors::load_buffer(&files["weights.safetensors"], &Device::Cpu);
        tensors.unwrap()["visual.positional_embedding"].clone()
    };
    assert_eq!(positions(&files).dims(), [17, 32]);
    assert_eq!(positions(&larger).dims(), [65, 32]);
    // The class token's row stays, and the mean of a grid is nearly that of its enlarged form.
    let row = |t: &Tensor| t.get(0).unwrap().to_vec1::<f32>().unwrap();
    for (old, new) in row(&positions(&files)).iter().zip(row(&positions(&larger))) {
        assert!((old - new).abs() < 1e-6);
    }
    assert_eq!(positions(&run(&plan(None)).unwrap()).dims(), [17, 32]);
    let odd = run(&plan(Some(60))).unwrap_err();
    assert_eq!(odd.kind(), Kind::Model);
    assert!(odd.to_string().contains("60"), "{odd}");
}
