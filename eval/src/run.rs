//! Runs the tasks of a plan on one model.

use std::collections::BTreeSet;

use models::Encoder;
use serde_json::{Map, Value, json};
use stage::{Context, Error, PairSource, Report, Result};

use crate::classification::{self, accuracy, normalized};
use crate::plan::{ClassificationPlan, EvalPlan, RetrievalPlan};
use crate::results::{Measured, TaskResult};
use crate::retrieval::recalls;

/// Opens shards by pattern, with these json fields as further columns.
pub type Open<'a> = dyn Fn(&[String], &[&str]) -> Result<Box<dyn PairSource>> + 'a;

/// Samples read at once.
const READ: usize = 256;

/// Runs all tasks on one model.
///
/// A picture that cannot be decoded is left out and counted in the notes.
///
/// # Errors
/// Missing shards, an unknown label, no usable picture.
pub fn run(
    plan: &EvalPlan,
    encoder: &Encoder,
    open: &Open<'_>,
    cx: &Context,
) -> Result<Vec<Measured>> {
    let mut measured = Vec::new();
    for task in &plan.classification {
        let data = open(&task.data, &[&task.label])?;
        measured.push(classify(task, encoder, &*data, cx).map_err(|e| e.at(&task.name))?);
    }
    if let Some(task) = &plan.retrieval {
        let data = open(&task.data, &[])?;
        measured.push(retrieve(task, encoder, &*data, cx).map_err(|e| e.at(&task.name))?);
    }
    Ok(measured)
}

/// The samples of a source, with their image features where the picture can be decoded.
struct Samples {
    features: Vec<Vec<f32>>,
    captions: Vec<String>,
    labels: Vec<String>,
    broken: usize,
}

fn read(
    encoder: &Encoder,
    data: &dyn PairSource,
    label: Option<&str>,
    cx: &Context,
) -> Result<Samples> {
    let mut samples =
        Samples { features: Vec::new(), captions: Vec::new(), labels: Vec::new(), broken: 0 };
    let indices: Vec<usize> = (0..data.len()).collect();
    for chunk in indices.chunks(READ) {
        cx.cancel.check()?;
        let pairs = data.read(chunk)?;
        let rows: Vec<usize> = (0..pairs.len()).collect();
        let found = encoder.images(&pairs, &rows)?;
        Encoder::check_finite(found.iter().flatten().map(Vec::as_slice), "pictures")?;
        for (row, features) in found.into_iter().enumerate() {
            let Ok(features) = features else {
                samples.broken += 1;
                continue;
            };
            samples.features.push(normalized(&features));
            samples.captions.push(pairs.captions().value(row).to_owned());
            if let Some(label) = label {
                samples.labels.push(text(&pairs, label, row)?);
            }
        }
        cx.progress.update((chunk[0] + chunk.len()) as u64, data.len() as u64, "pictures");
    }
    if samples.features.is_empty() {
        return Err(Error::input("no picture that can be decoded"));
    }
    Ok(samples)
}

fn text(pairs: &stage::Pairs, column: &str, row: usize) -> Result<String> {
    use arrow_array::Array;
    use arrow_array::cast::AsArray;
    let missing = || {
        Error::input(format!("sample {} has no `{column}` in its json", pairs.keys().value(row)))
            .hint("name the field that holds the class with `label`")
    };
    let values = pairs
        .batch()
        .column_by_name(column)
        .and_then(|c| c.as_string_opt::<i32>())
        .ok_or_else(missing)?;
    if values.is_valid(row) { Ok(values.value(row).to_owned()) } else { Err(missing()) }
}

fn classify(
    task: &ClassificationPlan,
    encoder: &Encoder,
    data: &dyn PairSource,
    cx: &Context,
) -> Result<Measured> {
    let samples = read(encoder, data, Some(&task.label), cx)?;
    let classes = classes(task, &samples.labels)?;
    let labels: Vec<usize> =
        samples.labels.iter().map(|label| class_of(label, &classes)).collect::<Result<_>>()?;
    let prompts: Vec<Vec<Vec<f32>>> = classes
        .iter()
        .map(|class| {
            let prompts: Vec<String> =
                task.templates.iter().map(|t| t.replace("{c}", class)).collect();
            encoder.texts(&prompts)
        })
        .collect::<Result<_>>()?;
    Encoder::check_finite(prompts.iter().flatten().map(Vec::as_slice), "prompts")?;
    let got = accuracy(&samples.features, &labels, &classification::classifier(&prompts));
    let chance = Some(1.0 / classes.len() as f64);
    let mut report =
        Report { title: format!("zero-shot classification: {}", task.name), ..Report::default() };
    report.push("acc1", got.acc1, "share", chance);
    if let Some(acc5) = got.acc5 {
        report.push("acc5", acc5, "share", Some(5.0 / classes.len() as f64));
    }
    report.push("mean_per_class_recall", got.mean_per_class_recall, "share", chance);
    report.notes.push(format!(
        "{} pictures, {} classes; answering always the commonest class gives acc1 {:.3}",
        samples.features.len(),
        classes.len(),
        got.majority
    ));
    note_broken(&mut report, samples.broken);
    let metrics = Map::from_iter([
        ("acc1".to_owned(), json!(got.acc1)),
        ("acc5".to_owned(), json!(got.acc5)),
        ("mean_per_class_recall".to_owned(), json!(got.mean_per_class_recall)),
        ("main_metric".to_owned(), json!(got.acc1)),
    ]);
    Ok(Measured { result: result(&task.name, metrics), task: "zeroshot_classification", report })
}

fn classes(task: &ClassificationPlan, labels: &[String]) -> Result<Vec<String>> {
    let Some(path) = &task.classes else {
        return Ok(labels.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect());
    };
    let text = store::Blob::open(path)?.read_all()?;
    let text = std::str::from_utf8(&text)
        .map_err(|e| Error::input("class names are not UTF-8").because(e).at(path))?;
    let classes: Vec<String> =
        text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect();
    if classes.is_empty() { Err(Error::input("no class name").at(path)) } else { Ok(classes) }
}

/// By name, else by number.
fn class_of(label: &str, classes: &[String]) -> Result<usize> {
    let by_number = || label.parse::<usize>().ok().filter(|n| *n < classes.len());
    classes.iter().position(|class| class == label).or_else(by_number).ok_or_else(|| {
        Error::input(format!("the label `{label}` is none of the {} classes", classes.len()))
    })
}

fn retrieve(
    task: &RetrievalPlan,
    encoder: &Encoder,
    data: &dyn PairSource,
    cx: &Context,
) -> Result<Measured> {
    let samples = read(encoder, data, None, cx)?;
    let (mut texts, mut owner) = (Vec::new(), Vec::new());
    for (image, caption) in samples.captions.iter().enumerate() {
        for line in caption.lines().map(str::trim).filter(|line| !line.is_empty()) {
            texts.push(line.to_owned());
            owner.push(image);
        }
    }
    if texts.is_empty() {
        return Err(Error::input("no sample has a caption"));
    }
    let features = encoder.texts(&texts)?;
    Encoder::check_finite(features.iter().map(Vec::as_slice), "captions")?;
    let features: Vec<Vec<f32>> = features.iter().map(|f| normalized(f)).collect();
    let ks: Vec<usize> = task.recall_k.iter().map(|k| *k as usize).collect();
    let mut report =
        Report { title: format!("zero-shot retrieval: {}", task.name), ..Report::default() };
    let mut metrics = Map::new();
    for recall in recalls(&samples.features, &features, &owner, &ks) {
        let names = [
            format!("image_retrieval_recall@{}", recall.k),
            format!("text_retrieval_recall@{}", recall.k),
        ];
        report.push(&names[0], recall.image_retrieval, "share", Some(recall.image_chance));
        report.push(&names[1], recall.text_retrieval, "share", Some(recall.text_chance));
        metrics.insert(names[0].clone(), json!(recall.image_retrieval));
        metrics.insert(names[1].clone(), json!(recall.text_retrieval));
        if recall.k == 1 {
            let mean = json!(f64::midpoint(recall.image_retrieval, recall.text_retrieval));
            metrics.insert("mean_recall@1".to_owned(), mean.clone());
            metrics.insert("main_metric".to_owned(), mean);
        }
    }
    report.notes.push(format!("{} pictures, {} captions", samples.features.len(), texts.len()));
    note_broken(&mut report, samples.broken);
    Ok(Measured { result: result(&task.name, metrics), task: "zeroshot_retrieval", report })
}

fn result(name: &str, metrics: Map<String, Value>) -> TaskResult {
    TaskResult { key: name.to_owned(), dataset: name.to_owned(), metrics }
}

fn note_broken(report: &mut Report, broken: usize) {
    if broken > 0 {
        report.notes.push(format!("{broken} pictures could not be decoded and are left out"));
    }
}
