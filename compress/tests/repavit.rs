//! A fold as a stage: the same features, fewer numbers, no norm left in the FFN.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use compress::{AnyCompressor, Source};
use models::{Clip, ClipConfig, Mode};
use stage::{Change, Checkpoint, Context, Kind, Report, Result};

/// Four blocks deep, FFN of 60 hidden channels, which no ratio here divides evenly.
fn config() -> ClipConfig {
    let json = serde_json::json!({
        "embed_dim": 16,
        "vision_cfg": {"image_size": 16, "layers": 4, "width": 24, "patch_size": 4, "head_width": 8, "mlp_ratio": 2.5},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
    });
    ClipConfig::from_json(&json).unwrap()
}

/// A model with idle channels whose statistics, gains and shifts are far from their beginnings.
fn trained(ratio: f64) -> Clip {
    let changes = [Change::IdleChannels { ratio }];
    let clip = Clip::init(&config(), &changes, 5, &Device::Cpu).unwrap();
    let vars = clip.params().vars().iter().chain(clip.params().buffers());
    for (name, var) in vars.filter(|(name, _)| name.contains(".bn_")) {
        let noise = Tensor::randn(0_f32, 0.4, var.shape(), &Device::Cpu).unwrap();
        let centre =
            if name.ends_with("running_var") || name.ends_with("weight") { 1.0 } else { 0.0 };
        let value = (noise + centre).unwrap();
        let value = if name.ends_with("running_var") {
            (value.sqr().unwrap() + 0.1).unwrap()
        } else {
            value
        };
        var.set(&value).unwrap();
    }
    clip
}

fn compress(clip: &Clip, plan: &str, dir: &Path) -> Result<(Checkpoint, Report)> {
    let base = dir.join("trained");
    let lineage = BTreeMap::from([("seed".to_owned(), "5".to_owned())]);
    let checkpoint = models::write_checkpoint(clip, &base, lineage)?;
    let plan: AnyCompressor = serde_json::from_str(plan).unwrap();
    let source = Source { checkpoint: &checkpoint, base: &base };
    plan.plan().build(&Context::default())?.compress(source, &dir.join("folded"))
}

const QUICK: &str = r#"{"repavit": {"latency_batch": 1, "latency_runs": 1}}"#;

#[test]
fn the_folded_model_gives_the_same_features_at_every_ratio() {
    for ratio in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let dir = tempfile::tempdir().unwrap();
        let clip = trained(ratio);
        let (checkpoint, report) = compress(&clip, QUICK, dir.path()).unwrap();
        assert!(report.get("fold_max_relative_error").unwrap() < 1e-5, "{ratio}: {report:?}");
        assert_eq!(checkpoint.changes, [Change::Folded { ratio }]);

        let folded = models::open(&checkpoint, &dir.path().join("folded"), &Device::Cpu).unwrap();
        let pixels = Tensor::randn(0_f32, 1.0, (3, 3, 16, 16), &Device::Cpu).unwrap();
        let features = |clip: &Clip| -> Vec<f32> {
            let features = clip.encode_image(&pixels, Mode::Eval).unwrap();
            features.flatten_all().unwrap().to_vec1().unwrap()
        };
        let (a, b) = (features(&clip), features(&folded));
        let largest = a.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-4 * largest), "{ratio}");
    }
}

#[test]
fn no_norm_is_left_in_the_ffn_and_three_matrices_are() {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, _) = compress(&trained(0.75), QUICK, dir.path()).unwrap();
    let folded = models::open(&checkpoint, &dir.path().join("folded"), &Device::Cpu).unwrap();
    assert!(folded.params().buffers().is_empty());
    for layer in 0..4 {
        let block = format!("visual.transformer.resblocks.{layer}.");
        let names = folded.params().vars().keys().filter_map(|name| name.strip_prefix(&block));
        let ffn: Vec<&str> =
            names.filter(|n| !n.starts_with("attn.") && !n.starts_with("ln_1.")).collect();
        let expected = [
            "mlp.c_fc.bias",
            "mlp.c_fc.weight",
            "mlp.c_idle.bias",
            "mlp.c_idle.weight",
            "mlp.c_proj.weight",
        ];
        assert_eq!(ffn, expected, "block {layer}");
    }
}

#[test]
fn the_report_counts_before_and_after() {
    let dir = tempfile::tempdir().unwrap();
    let clip = trained(0.75);
    let (checkpoint, report) = compress(&clip, QUICK, dir.path()).unwrap();
    let folded = models::open(&checkpoint, &dir.path().join("folded"), &Device::Cpu).unwrap();
    let number = |name: &str| report.get(name).unwrap_or_else(|| panic!("no {name}")) as u64;
    assert_eq!(number("parameters_before"), clip.params().count());
    assert_eq!(number("parameters_after"), folded.params().count());
    // FFN: 2 · 60 · 24 before; 2 · 15 · 24 + 24² after, for 17 tokens in 4 blocks.
    let saved = 17 * 4 * (2 * 60 * 24 - (2 * 15 * 24 + 24 * 24));
    assert_eq!(number("image_macs_before") - number("image_macs_after"), saved);
    assert!(report.get("latency_before").unwrap() > 0.0 && report.get("speedup").unwrap() > 0.0);
}

#[test]
fn the_folded_checkpoint_remembers_where_it_came_from() {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, _) = compress(&trained(0.5), QUICK, dir.path()).unwrap();
    let before = models::read_checkpoint(&dir.path().join("trained")).unwrap();
    assert_eq!(checkpoint.lineage["folded_from"], before.sha256);
    assert_eq!(checkpoint.lineage["seed"], "5");
    assert_eq!(models::read_checkpoint(&dir.path().join("folded")).unwrap(), checkpoint);
}

#[test]
fn a_model_with_layer_norm_is_refused_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let clip = Clip::init(&config(), &[], 0, &Device::Cpu).unwrap();
    let error = compress(&clip, QUICK, dir.path()).unwrap_err();
    assert_eq!(error.kind(), Kind::Model);
    assert_eq!(error.to_string(), "the model was not trained with idle channels");
    assert!(error.hint_text().unwrap().contains("idle_channels"));
    assert!(!dir.path().join("folded").exists());
}

#[test]
fn a_fold_that_changes_the_features_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let clip = trained(0.5);
    // A variance of 1e-30 behind an eps of 1e-5 is harmless; numbers that overflow f32 are not.
    let gain = &clip.params().vars()["visual.transformer.resblocks.0.mlp.bn_2.weight"];
    gain.set(&Tensor::full(1e30_f32, gain.shape(), &Device::Cpu).unwrap()).unwrap();
    let error = compress(&clip, QUICK, dir.path()).unwrap_err();
    assert_eq!(error.kind(), Kind::Model, "{error}");
    assert!(error.to_string().starts_with("folding changes the features by"), "{error}");
}
