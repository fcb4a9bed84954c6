//! The metrics beside those of CLIP_benchmark and scikit-learn on the same features: the full golden
//! case of the shared data, and a small one of our own (`bench/interop/zeroshot_small.py`).

mod shared_data;

use candle_core::{DType, Device, Tensor};
use eval::average_precision::Labelled;
use eval::classification::{Classified, classifier, score};
use eval::matrix::Matrix;
use eval::retrieval::retrieve;
use eval::{Answers, Outcome, Shape};
use serde_json::Value;
use stage::Cancel;

type Rows = Vec<Vec<f32>>;

/// One case: features, what is true of them, and what the peers measured.
struct Case {
    images: Rows,
    prompts: Vec<Rows>,
    labels: Vec<u32>,
    multilabel: Vec<u8>,
    groups: Vec<i64>,
    pictures: Rows,
    captions: Rows,
    owners: Vec<u32>,
}

fn matrix(rows: &Rows) -> Matrix {
    Matrix::of_normalized(rows.iter().map(Vec::as_slice))
}

/// All metrics by name.
fn measured(case: &Case) -> Vec<(String, Option<f64>)> {
    let (images, classes) = (matrix(&case.images), classifier(&case.prompts));
    let count = classes.len();
    let mut labelled =
        Labelled { classes: count, targets: case.multilabel.clone(), ..Labelled::default() };
    score(&images, &classes, |_, row| labelled.scores.extend_from_slice(row)).unwrap();
    let classified = Classified::new(&images, case.labels.clone(), &classes).unwrap();
    let (pictures, captions) = (matrix(&case.pictures), matrix(&case.captions));
    let retrieved =
        retrieve(&pictures, &captions, case.owners.clone(), 10, &Cancel::default()).unwrap();
    let rules = serde_json::from_value(serde_json::json!({
        "metadata": ["group"],
        "macro": true,
        "groups": [{"of": "acc", "by": "group", "worst": "acc_wg"}],
    }))
    .unwrap();
    let shape = Shape {
        classes: vec![String::new(); count],
        recall_k: vec![1, 5, 10],
        rules,
        ..Shape::default()
    };
    let mut found = Vec::new();
    for (units, answers) in [
        (case.images.len(), Answers::Classified(classified)),
        (case.images.len(), Answers::Labelled(labelled)),
        (case.pictures.len(), Answers::Retrieved(retrieved)),
    ] {
        let outcome = Outcome {
            keys: (0..units).map(|i| i.to_string()).collect(),
            metadata: case.groups.iter().map(|g| vec![*g]).collect(),
            answers,
        };
        let ones = vec![1; units];
        found.extend(outcome.measures(&shape).iter().map(|m| (m.name.clone(), m.value(&ones))));
    }
    found
}

fn check(case: &Case, expected: &serde_json::Map<String, Value>) {
    let found = measured(case);
    assert!(expected.len() >= 10, "{expected:?}");
    for (name, value) in expected {
        let expected = value.as_f64().unwrap();
        let (_, got) = found.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{name}"));
        // Shares of whole pictures are equal; neighbouring scores are closer than f32 noise.
        let most = if name == "mean_average_precision" { 1e-4 } else { 1e-9 };
        assert!((got.unwrap() - expected).abs() <= most, "{name}: {got:?}, expected {expected}");
    }
}

#[test]
fn the_small_case_has_the_peers_numbers() {
    let json: Value = serde_json::from_str(include_str!("zeroshot_small.json")).unwrap();
    let of = |name: &str| json[name].clone();
    let case = Case {
        images: serde_json::from_value(of("images")).unwrap(),
        prompts: serde_json::from_value(of("prompts")).unwrap(),
        labels: serde_json::from_value(of("labels")).unwrap(),
        multilabel: serde_json::from_value::<Vec<Vec<u8>>>(of("multilabel")).unwrap().concat(),
        groups: serde_json::from_value(of("groups")).unwrap(),
        pictures: serde_json::from_value(of("pictures")).unwrap(),
        captions: serde_json::from_value(of("captions")).unwrap(),
        owners: serde_json::from_value(of("owners")).unwrap(),
    };
    check(&case, json["expected"].as_object().unwrap());
}

#[test]
fn the_golden_case_has_the_peers_numbers_and_scores() {
    let Some(inputs) = shared_data::shared("data/golden/zeroshot/inputs.safetensors") else {
        return;
    };
    let folder = inputs.parent().unwrap();
    let load =
        |name: &str| candle_core::safetensors::load(folder.join(name), &Device::Cpu).unwrap();
    let (inputs, outputs) = (load("inputs.safetensors"), load("outputs.safetensors"));
    let f32s = |t: &Tensor| t.to_dtype(DType::F32).unwrap();
    let rows = |name: &str| -> Rows { f32s(&inputs[name]).to_vec2().unwrap() };
    let numbers = |name: &str| -> Vec<i64> {
        inputs[name].to_dtype(DType::I64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    };
    let case = Case {
        images: rows("image"),
        prompts: f32s(&inputs["prompt"]).to_vec3().unwrap(),
        labels: numbers("target").into_iter().map(|v| v as u32).collect(),
        multilabel: numbers("multilabel").into_iter().map(|v| v as u8).collect(),
        groups: vec![0; 400],
        pictures: rows("retrieval_image"),
        captions: rows("retrieval_text"),
        owners: numbers("text_owner").into_iter().map(|v| v as u32).collect(),
    };
    let results = std::fs::read_to_string(folder.join("results.json")).unwrap();
    let results: Value = serde_json::from_str(&results).unwrap();
    let mut expected = results["classification"].as_object().unwrap().clone();
    expected.extend(results["retrieval"].as_object().unwrap().clone());
    expected.insert("mean_average_precision".into(), results["mean_average_precision"].clone());
    check(&case, &expected);
    // The classifier within 1e-6, the scores within 2e-4 of a hundred times the cosine.
    let classes = classifier(&case.prompts);
    let theirs: Rows = f32s(&outputs["classifier"]).t().unwrap().to_vec2().unwrap();
    for (class, theirs) in theirs.iter().enumerate() {
        let mut both = classes.row(class).iter().zip(theirs);
        assert!(both.all(|(a, b)| (a - b).abs() <= 1e-6), "class {class}");
    }
    let logits: Rows = f32s(&outputs["logits"]).to_vec2().unwrap();
    score(&matrix(&case.images), &classes, |i, row| {
        let worst = row.iter().zip(&logits[i]).map(|(a, b)| (100.0 * a - b).abs());
        assert!(worst.fold(0.0, f32::max) <= 2e-4, "picture {i}");
    })
    .unwrap();
}
