//! Trainings that start from weights: what a configuration beside them says is compared and followed.

#[path = "common/shapes.rs"]
mod shapes;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use models::{Clip, ClipConfig};
use serde_json::{Value, json};
use shapes::Shapes;
use stage::{Context, Result};
use train::{Job, TrainPlan};

/// A folder with a checkpoint of random weights.
struct Bench {
    dir: tempfile::TempDir,
}

fn model() -> Value {
    json!({
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    })
}

impl Bench {
    fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        let config = ClipConfig::from_json(&model()).unwrap();
        let clip = Clip::init(&config, &[], 5, &candle_core::Device::Cpu).unwrap();
        models::write_checkpoint(&clip, &bench.from(), BTreeMap::default()).unwrap();
        bench
    }

    fn from(&self) -> PathBuf {
        self.dir.path().join("from")
    }

    /// Changes the handle of the checkpoint: its weights stay.
    fn handle(&self, change: impl FnOnce(&mut Value)) {
        let path = self.from().join("checkpoint.json");
        let mut handle = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut handle);
        fs::write(path, handle.to_string()).unwrap();
    }

    /// Two steps of a training of this model from the checkpoint: the files that it wrote.
    fn train(
        &self,
        name: &str,
        model: &Value,
        change: impl FnOnce(&mut TrainPlan),
    ) -> Result<Made> {
        let json = self.dir.path().join("model.json");
        fs::write(&json, model.to_string()).unwrap();
        let mut plan = TrainPlan {
            model: Some(json.to_string_lossy().into_owned()),
            pretrained: Some(self.from().to_string_lossy().into_owned()),
            batch_size: Some(8),
            steps: Some(2),
            ..TrainPlan::default()
        };
        change(&mut plan);
        let output = store::Output::open(&self.dir.path().join(name).to_string_lossy()).unwrap();
        let mut out = output.stage("train").begin("all").unwrap();
        let (data, cx) = (Shapes::new(16, 48), Context { threads: 1, ..Context::default() });
        let work = self.dir.path().join(name).join("work");
        train::run(Job::new(&plan, &data), &work, &mut out, &cx)?;
        let json = |file: &str| -> Value {
            serde_json::from_slice(&fs::read(out.local_dir().join(file)).unwrap()).unwrap()
        };
        Ok(Made {
            handle: json("checkpoint.json"),
            open_clip: json("open_clip_config.json"),
            params: fs::read_to_string(out.local_dir().join("params.txt")).unwrap(),
        })
    }
}

struct Made {
    handle: Value,
    open_clip: Value,
    params: String,
}

#[test]
fn a_checkpoint_that_computes_something_else_with_the_same_tensors_is_refused_with_both_values() {
    let cases: [(&str, Value, &str); 8] = [
        ("/quick_gelu", json!(true), "`quick_gelu` true, this training's false"),
        ("/text_cfg/heads", json!(4), "`text_cfg.heads` 4, this training's 2"),
        (
            "/text_cfg/no_causal_mask",
            json!(true),
            "`text_cfg.no_causal_mask` true, this training's false",
        ),
        ("/text_cfg/pool_type", json!("last"), "`text_cfg.pool_type` last, this training's argmax"),
        ("/vision_cfg/head_width", json!(8), "`vision_cfg.head_width` 8, this training's 16"),
        (
            "/vision_cfg/pool_type",
            json!("avg"),
            "`vision_cfg.pool_type` average, this training's token",
        ),
        (
            "/vision_cfg/final_ln_after_pool",
            json!(true),
            "`vision_cfg.final_ln_after_pool` true, this training's false",
        ),
        (
            "/vision_cfg/pos_embed_type",
            json!("sin_cos_2d"),
            "`vision_cfg.pos_embed_type` sin_cos_2d, this training's learnable",
        ),
    ];
    let bench = Bench::new();
    for (number, (field, value, words)) in cases.into_iter().enumerate() {
        let mut theirs = model();
        let (object, name) = field.rsplit_once('/').unwrap();
        theirs.pointer_mut(object).unwrap()[name] = value;
        bench.handle(|handle| handle["model"] = theirs);
        let error = bench.train(&format!("run-{number}"), &model(), |_| {}).err().unwrap();
        assert!(error.to_string().contains(words), "{error}");
        let hint = error.hint_text().unwrap();
        assert!(hint.contains("`model: ") && hint.contains("open_clip_config.json"), "{hint}");
    }
}

#[test]
fn a_checkpoint_of_the_same_meaning_is_taken_whatever_a_training_chooses_anew() {
    let bench = Bench::new();
    bench.handle(|handle| {
        handle["model"]["text_cfg"]["pool_type"] = json!("eos");
        handle["model"]["text_cfg"]["eos_id"] = json!(49_407);
        handle["model"]["vision_cfg"]["patch_dropout"] = json!(0.25);
        handle["model"]["init_logit_scale"] = json!(1.0);
    });
    bench.train("run", &model(), |_| {}).unwrap();
}

#[test]
fn the_preprocessing_of_a_checkpoint_is_followed_and_written_on() {
    let bench = Bench::new();
    let plain = bench.train("plain", &model(), |_| {}).unwrap();
    assert_eq!(plain.handle["preprocess"]["resize_mode"], "shortest");
    assert!(!plain.params.contains("image_resize_mode"), "{}", plain.params);
    bench.handle(|handle| {
        handle["preprocess"]["mean"] = json!([0.5, 0.5, 0.5]);
        handle["preprocess"]["std"] = json!([0.25, 0.25, 0.5]);
        handle["preprocess"]["resize_mode"] = json!("squash");
    });
    let own = bench.train("own", &model(), |_| {}).unwrap();
    let expected = json!({"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.5],
        "interpolation": "bicubic", "resize_mode": "squash"});
    assert_eq!(own.handle["preprocess"], expected);
    assert_eq!(own.open_clip["preprocess_cfg"], expected);
    assert!(own.params.contains("image_std: [0.25,0.25,0.5]\n"), "{}", own.params);
    assert_ne!(own.handle["sha256"], plain.handle["sha256"], "it saw other pixels");
}

#[test]
fn an_interpolation_that_is_not_here_is_refused() {
    let bench = Bench::new();
    bench.handle(|handle| handle["preprocess"]["interpolation"] = json!("bilinear"));
    let error = bench.train("run", &model(), |_| {}).err().unwrap();
    assert!(
        error.to_string().contains("resized with `bilinear`, here with bicubic alone"),
        "{error}"
    );
}
