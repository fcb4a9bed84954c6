//! CLIP scores and embeddings of a tiny model with random weights.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_array::{Array, Float32Array};
use candle_core::{Device, Tensor};
use filter::clip::Precision;
use filter::embed::EmbedPlan;
use filter::judge::clip_score::ClipScore;
use filter::judge::{AnyJudge, JudgeContext, JudgePlan, Scored};
use half::f16;
use models::{Clip, ClipConfig, Mode, Tokenizer};
use pixels::Picture;
use stage::{Context, Kind, PairRow, PairSource, Pairs, PairsBuilder, Preprocess, Result, Status};
use store::{Output, npy};

const CAPTIONS: [&str; 7] = [
    "a red car",
    "",
    "two dogs on a beach, one of them running after a ball",
    "LOGO",
    "a red car",
    "ein Hund",
    "sunset over the sea",
];

/// A tiny model as a checkpoint; `change` may edit its tensors.
fn checkpoint(folder: &Path, change: impl FnOnce(&mut BTreeMap<String, Tensor>)) -> String {
    let config = ClipConfig::named("tiny-32").unwrap();
    let clip = Clip::init(&config, &[], 7, &Device::Cpu).unwrap();
    let mut tensors = clip.params().tensors();
    change(&mut tensors);
    let clip = Clip::from_tensors(&config, &[], tensors, &Device::Cpu).unwrap();
    models::write_checkpoint(&clip, folder, BTreeMap::new()).unwrap();
    folder.to_str().unwrap().to_owned()
}

/// A picture that no other `i` has, of its own size.
fn picture(i: usize) -> Picture {
    let (width, height) = (40 + 7 * i as u32, 64);
    let rgb = (0..(width * height * 3) as usize).map(|n| (n * (i + 3) / 5 % 251) as u8).collect();
    Picture { width, height, rgb }
}

/// Seven pairs with pictures; the one at `broken` has bytes that are none, and then one that was
/// not fetched.
fn pairs(broken: Option<usize>) -> Pairs {
    let mut builder = PairsBuilder::default();
    for (i, caption) in CAPTIONS.iter().enumerate() {
        let jpeg = pixels::encode_jpeg(&picture(i), 95);
        builder.push(PairRow {
            uid: &format!("{i:032x}"),
            key: &format!("{i:09}"),
            url: "",
            caption,
            status: Status::Success,
            error_message: None,
            size: Some((40, 64)),
            original_size: Some((40, 64)),
            sha256: None,
            image: Some(if broken == Some(i) { b"GIF8 and no more" } else { &jpeg }),
        });
    }
    builder.push(PairRow {
        uid: "00000000000000000000000000000007",
        key: "000000007",
        url: "",
        caption: "not fetched",
        status: Status::FailedToDownload,
        error_message: Some("http_404"),
        size: None,
        original_size: None,
        sha256: None,
        image: None,
    });
    builder.finish()
}

fn judge(checkpoint: &str, batch_size: u32, threads: usize, batches: &[Pairs]) -> Vec<Scored> {
    judge_in(Precision::F32, checkpoint, batch_size, threads, batches)
}

fn judge_in(
    precision: Precision,
    checkpoint: &str,
    batch_size: u32,
    threads: usize,
    batches: &[Pairs],
) -> Vec<Scored> {
    let (checkpoint, column) = (checkpoint.to_owned(), "clip_score".to_owned());
    let plan = ClipScore { checkpoint, min: None, batch_size, precision, column };
    let cx = Context { threads, ..Context::default() };
    let mut judge = plan.build(&JudgeContext::new(&cx)).unwrap();
    batches.iter().map(|pairs| judge.score(pairs).unwrap()).collect()
}

/// Bits of the scores, so that equal means equal.
fn bits(verdicts: &[Scored]) -> Vec<Option<u32>> {
    let column = |v: &Scored| -> Float32Array { v.scores[0].as_primitive::<Float32Type>().clone() };
    verdicts
        .iter()
        .flat_map(|v| column(v).iter().collect::<Vec<_>>())
        .map(|s| s.map(f32::to_bits))
        .collect()
}

/// The scores as one reads them in open_clip's README, pair by pair.
fn directly(checkpoint: &str) -> Vec<f32> {
    let folder = Path::new(checkpoint);
    let handle = models::read_checkpoint(folder).unwrap();
    let clip = models::open(&handle, folder, &Device::Cpu).unwrap();
    let side = clip.config().image_size();
    let Preprocess { mean, std, resize_mode, .. } = Preprocess::default();
    let limits = pixels::Limits::default();
    (0..CAPTIONS.len())
        .map(|i| {
            let jpeg = pixels::encode_jpeg(&picture(i), 95);
            let picture = pixels::decode_rgb_first(&jpeg, &limits).unwrap();
            let square = pixels::clip_pixels(&picture, side, &resize_mode);
            let pixels = pixels::normalize(&square, side, mean, std);
            let shape = (1, 3, side as usize, side as usize);
            let pixels = Tensor::from_vec(pixels, shape, &Device::Cpu).unwrap();
            let context = clip.config().context_length();
            let tokens = Tokenizer::clip().context(CAPTIONS[i], context);
            let tokens = Tensor::from_vec(tokens, (1, context), &Device::Cpu).unwrap();
            let image =
                models::normalize(&clip.encode_image(&pixels, Mode::Eval).unwrap()).unwrap();
            let text = models::normalize(&clip.encode_text(&tokens, Mode::Eval).unwrap()).unwrap();
            (image * text).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap()
        })
        .collect()
}

#[test]
fn bf16_weights_move_a_cosine_by_less_than_a_hundredth() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(folder.path(), |_| {});
    let scores = |precision| -> Vec<Option<f32>> {
        let scored = judge_in(precision, &checkpoint, 32, 1, &[pairs(None)]);
        scored[0].scores[0].as_primitive::<Float32Type>().iter().collect()
    };
    let (full, half) = (scores(Precision::F32), scores(Precision::Bf16));
    assert_ne!(full, half);
    for (full, half) in full.iter().zip(&half) {
        let distance = full.zip(*half).map_or(0.0, |(a, b)| (a - b).abs());
        assert!(distance < 0.01, "{full:?} {half:?}");
    }
}

#[test]
fn a_score_is_the_cosine_that_the_model_gives_directly() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(folder.path(), |_| {});
    let verdicts = judge(&checkpoint, 4, 2, &[pairs(None)]);
    assert_eq!(verdicts[0].refused, [None; 8]);
    let scores = verdicts[0].scores[0].as_primitive::<Float32Type>();
    assert!(scores.is_null(7), "no picture, no score");
    let expected = directly(&checkpoint);
    for (i, expected) in expected.iter().enumerate() {
        let score = scores.value(i);
        assert!((score - expected).abs() < 2e-6, "pair {i}: {score}, directly {expected}");
    }
    // Random weights still tell pictures and captions apart, or this test would see nothing.
    assert!((expected[0] - expected[2]).abs() > 1e-3, "{expected:?}");
}

#[test]
fn a_score_is_the_same_bits_whatever_stands_beside_the_pair() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(folder.path(), |_| {});
    let whole = pairs(None);
    let expected = bits(&judge(&checkpoint, 4, 1, std::slice::from_ref(&whole)));
    for step in [1, 2, 3, 5] {
        let cut: Vec<Pairs> = (0..whole.len())
            .step_by(step)
            .map(|at| Pairs::try_new(whole.batch().slice(at, step.min(whole.len() - at))).unwrap())
            .collect();
        assert_eq!(bits(&judge(&checkpoint, 4, 3, &cut)), expected, "calls of {step} pairs");
    }
    for batch_size in [1, 2, 3, 7, 32] {
        let scores = bits(&judge(&checkpoint, batch_size, 2, std::slice::from_ref(&whole)));
        assert_eq!(scores, expected, "batch_size {batch_size}");
    }
}

#[test]
fn a_picture_that_cannot_be_decoded_has_a_reason_and_changes_no_other_score() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(folder.path(), |_| {});
    let sound = bits(&judge(&checkpoint, 4, 2, &[pairs(None)]));
    let verdicts = judge(&checkpoint, 4, 2, &[pairs(Some(2))]);
    let broken = bits(&verdicts);
    assert!(verdicts[0].refused[2].is_some() && broken[2].is_none());
    for i in (0..8).filter(|&i| i != 2) {
        assert_eq!((broken[i], verdicts[0].refused[i]), (sound[i], None), "pair {i}");
    }
}

#[test]
fn a_feature_without_direction_is_nonfinite() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(folder.path(), |tensors| {
        let proj = tensors.get_mut("visual.proj").unwrap();
        *proj = proj.zeros_like().unwrap();
    });
    let verdicts = judge(&checkpoint, 4, 2, &[pairs(None)]);
    assert_eq!(verdicts[0].refused[..7], [Some("nonfinite"); 7]);
    assert_eq!(verdicts[0].refused[7], None);
    assert_eq!(verdicts[0].scores[0].null_count(), 8);
}

#[test]
fn a_missing_checkpoint_is_named() {
    let plan: AnyJudge =
        serde_json::from_str(r#"{"clip_score": {"checkpoint": "no/such/model"}}"#).unwrap();
    let cx = Context::default();
    let Err(error) = plan.plan().build(&JudgeContext::new(&cx)) else { panic!("it was built") };
    assert_eq!(error.to_string(), "checkpoint `no/such/model`: there is no such file");
    assert_eq!(error.kind(), Kind::Input);
}

/// Pairs in memory.
struct Memory(Pairs);

impl PairSource for Memory {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn read(&self, indices: &[usize]) -> Result<Pairs> {
        Pairs::try_new(self.0.batch().slice(indices[0], indices.len()))
    }

    fn fingerprint(&self) -> String {
        String::new()
    }
}

fn embed(checkpoint: &str, rows: Range<usize>) -> Result<(stage::Counts, Output)> {
    let output = Output::in_memory();
    let plan =
        EmbedPlan { checkpoint: checkpoint.to_owned(), batch_size: 4, precision: Precision::F32 };
    let cx = Context { threads: 2, ..Context::default() };
    let stage = output.stage("embed");
    let mut attempt = stage.begin("0")?;
    let source = Memory(pairs(Some(2)));
    let counts = plan.run(&JudgeContext::new(&cx), &source, rows, "0", &mut attempt)?;
    attempt.commit("key", counts.clone(), serde_json::Value::Null)?;
    Ok((counts, output))
}

#[test]
fn embeddings_have_length_one_and_their_products_are_the_scores() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(folder.path(), |_| {});
    let (counts, output) = embed(&checkpoint, 0..8).unwrap();
    assert_eq!((counts.entered, counts.kept), (8, 6));
    assert_eq!((counts.dropped_total(), counts.failed["failed_to_download"]), (1, 1));

    let stage = output.stage("embed");
    let read = |name: &str| npy::read::<f16>(&stage.blob(name).unwrap()).unwrap();
    let images = read("img_emb/img_emb_0.npy");
    let texts = read("text_emb/text_emb_0.npy");
    let dim = ClipConfig::named("tiny-32").unwrap().embed_dim();
    assert_eq!((&images.shape, &texts.shape), (&vec![6, dim], &vec![6, dim]));
    let dot = |a: &[f16], b: &[f16]| -> f32 {
        a.iter().zip(b).map(|(a, b)| a.to_f32() * b.to_f32()).sum()
    };
    let expected = directly(&checkpoint);
    for (row, pair) in [0, 1, 3, 4, 5, 6].into_iter().enumerate() {
        let image = &images.data[row * dim..(row + 1) * dim];
        let text = &texts.data[row * dim..(row + 1) * dim];
        assert!((dot(image, image) - 1.0).abs() < 2e-3);
        assert!((dot(image, text) - expected[pair]).abs() < 2e-3, "row {row}, pair {pair}");
    }

    let blob = stage.blob("metadata/metadata_0.parquet").unwrap();
    let rows = store::parquet::read_parquet(&blob).unwrap().next().unwrap().unwrap();
    let column = |name: &str| -> Vec<String> {
        let column = rows.column_by_name(name).unwrap().as_string::<i32>();
        column.iter().map(|value| value.unwrap().to_owned()).collect()
    };
    assert_eq!(column("image_path")[2], "000000003");
    assert_eq!(column("caption"), [0, 1, 3, 4, 5, 6].map(|i| CAPTIONS[i]));
}

#[test]
fn embedding_no_pair_is_an_error_that_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(folder.path(), |_| {});
    let error = embed(&checkpoint, 0..0).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (Kind::Input, "embed: no pair 0..0 among 8")
    );
}

#[test]
fn a_head_scores_the_picture_by_layers_in_the_order_of_their_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let model = checkpoint(folder.path(), |_| {});
    let dim = ClipConfig::named("tiny-32").unwrap().embed_dim();
    // Layer 10 is the last: 2 a - b of the first two numbers, and 3 more.
    let cpu = Device::Cpu;
    let mut first = vec![0f32; 2 * dim];
    (first[0], first[dim + 1]) = (1.0, 1.0);
    let tensors = std::collections::HashMap::from([
        ("layers.2.weight", Tensor::from_vec(first, (2, dim), &cpu).unwrap()),
        ("layers.2.bias", Tensor::new(&[0f32, 0.0], &cpu).unwrap()),
        ("layers.10.weight", Tensor::new(&[[2f32, -1.0]], &cpu).unwrap()),
        ("layers.10.bias", Tensor::new(&[3f32], &cpu).unwrap()),
    ]);
    let path = folder.path().join("head.safetensors");
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let plan = |path: &Path| -> AnyJudge {
        serde_json::from_value(serde_json::json!({"embedding_head":
            {"checkpoint": model, "head": path.to_str().unwrap(), "min": 3.0}}))
        .unwrap()
    };
    let cx = Context::default();
    let plan_of_head = plan(&path);
    let mut judge = plan_of_head.plan().build(&JudgeContext::new(&cx)).unwrap();
    let pairs = pairs(Some(2));
    let found = judge.score(&pairs).unwrap();
    let scores = found.scores[0].as_primitive::<Float32Type>();
    let encoder =
        filter::clip::ClipEncoder::open(&JudgeContext::new(&cx), &model, Precision::F32, 32);
    encoder
        .unwrap()
        .encode(&pairs, &[0, 1], |i, features| {
            let image = features.unwrap().image;
            let norm = image.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            let expected = 3.0 + (2.0 * f64::from(image[0]) - f64::from(image[1])) / norm;
            assert!((f64::from(scores.value(i)) - expected).abs() < 1e-6);
            Ok(())
        })
        .unwrap();
    assert!(scores.is_null(2) && found.refused[2].is_some(), "a broken picture has no score");
    let reasons = plan_of_head.plan().reasons(&found.scores);
    for (i, reason) in reasons.iter().enumerate().filter(|(i, _)| scores.is_valid(*i)) {
        assert_eq!(reason.is_some(), scores.value(i) < 3.0);
    }
    // A head of another model.
    let other = std::collections::HashMap::from([
        ("weight", Tensor::new(&[[1f32, 2.0]], &cpu).unwrap()),
        ("bias", Tensor::new(&[0f32], &cpu).unwrap()),
    ]);
    let path = folder.path().join("other.safetensors");
    candle_core::safetensors::save(&other, &path).unwrap();
    let error = plan(&path).plan().build(&JudgeContext::new(&cx)).map(drop).unwrap_err();
    assert_eq!(error.kind(), Kind::Model);
    assert!(error.to_string().contains("it takes 2 numbers"), "{error}");
}
