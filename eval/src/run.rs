//! Runs one task on one model.

use std::collections::{BTreeMap, BTreeSet};

use models::Encoder;
use serde_json::{Map, Value, json};
use stage::{Context, Dice, Error, PairRow, PairsBuilder, Report, Result, Status};
use store::Blob;

use crate::associations::Associated;
use crate::attributes::{Answered, by_objective};
use crate::average_precision::Labelled;
use crate::bootstrap::{interval, replicate};
use crate::classification::{self, Classified};
use crate::folder::{self, Folder};
use crate::job::{Job, Source, class_file, classes_of, instances, picture, template_file};
use crate::matrix::Matrix;
use crate::measure::Measure;
use crate::member;
use crate::outcome::{Answers, Outcome, Shape};
use crate::plan::{ClassificationPlan, EvalPlan, ProbePlan, PromptFiles};
use crate::probe::{self, Probe};
use crate::results::{MAIN, Measured, TaskResult};
use crate::retrieval;
use crate::samples::{Columns, Open, Samples, read};
use crate::suite::TaskKind;

/// Prompts that go through the text tower at once.
const PROMPTS: usize = 1024;
/// Largest loose picture.
const MOST_PICTURE: u64 = 64 << 20;

/// A model and what a task needs beside it.
pub struct Bench<'a> {
    /// The model.
    pub encoder: &'a Encoder,
    /// Opens shards.
    pub open: &'a Open<'a>,
    /// Seed, threads, cancel, progress.
    pub cx: &'a Context,
    /// The plan that the task is of.
    pub plan: &'a EvalPlan,
}

/// What a kind of task found.
struct Found {
    shape: Shape,
    outcome: Outcome,
    left_out: BTreeMap<String, u64>,
    notes: Vec<String>,
    /// Numbers of the run itself, such as the weight decay of a probe.
    numbers: Vec<(String, f64)>,
}

impl Bench<'_> {
    /// Runs a task.
    ///
    /// A sample whose picture cannot be decoded, or that lacks its label, is left out and counted by
    /// reason.
    ///
    /// # Errors
    /// Missing files, a class out of range, no usable sample.
    pub fn run(&self, job: &Job) -> Result<Measured> {
        let found = match &job.source {
            Source::Json(plan) => self.json(plan, &job.shape),
            Source::Pairs(plan) => self.retrieval(&plan.data, &job.shape),
            Source::Loose(folder) => self.associations(folder, &job.shape),
            Source::Probe(plan) => self.probe(plan, &job.shape),
            Source::Wds { folder, prompts } => match job.shape.kind {
                TaskKind::Retrieval => self.retrieval(&folder.tars("test")?, &job.shape),
                TaskKind::Attributes => self.attributes(folder, prompts, &job.shape),
                TaskKind::Multilabel => self.multilabel(folder, prompts, &job.shape),
                _ => self.classification(folder, prompts, &job.shape),
            },
        };
        let found = found.map_err(|e| e.at(&job.key))?;
        Ok(self.measured(job, found))
    }

    fn classification(
        &self,
        folder: &Folder,
        prompts: &PromptFiles,
        shape: &Shape,
    ) -> Result<Found> {
        let classes = folder::lines(&class_file(folder, prompts))?;
        let classifier = self.classifier(&classes, &templates(folder, prompts)?)?;
        let fields = shape.rules.metadata.len();
        let samples = self.samples(&folder.tars("test")?, &["cls", "npy"], |pairs, row| {
            let Some(class) = member::class(pairs, row, classes.len())? else {
                return Ok(Err("no_label"));
            };
            if fields == 0 {
                return Ok(Ok((class, Vec::new())));
            }
            let metadata = member::numbers(pairs, row)?.filter(|m| m.len() >= fields);
            Ok(metadata.map(|m| (class, m)).ok_or("no_metadata"))
        })?;
        let (labels, mut metadata): (Vec<u32>, Vec<Vec<i64>>) = samples.truths.into_iter().unzip();
        if fields == 0 {
            metadata.clear();
        }
        let found = Classified::new(&samples.features, labels, &classifier)?;
        Ok(Found::new(shape, classes, samples.keys, metadata, samples.left_out, found))
    }

    fn multilabel(&self, folder: &Folder, prompts: &PromptFiles, shape: &Shape) -> Result<Found> {
        let classes = folder::lines(&class_file(folder, prompts))?;
        let classifier = self.classifier(&classes, &templates(folder, prompts)?)?;
        let samples = self.samples(&folder.tars("test")?, &["npy"], |pairs, row| {
            let Some(targets) = member::numbers(pairs, row)? else { return Ok(Err("no_label")) };
            if targets.len() != classes.len() {
                let message =
                    format!("{} labels, and there are {} classes", targets.len(), classes.len());
                return Err(Error::input(message).at(pairs.keys().value(row)));
            }
            Ok(Ok(targets.into_iter().map(|t| u8::from(t > 0)).collect::<Vec<u8>>()))
        })?;
        let mut found = Labelled {
            classes: classes.len(),
            scores: Vec::new(),
            targets: samples.truths.concat(),
        };
        classification::score(&samples.features, &classifier, |_, row| {
            found.scores.extend_from_slice(row);
        })?;
        let outcome =
            Outcome { keys: samples.keys, metadata: Vec::new(), answers: Answers::Labelled(found) };
        let shape = Shape { classes, ..shape.clone() };
        Ok(Found {
            shape,
            outcome,
            left_out: samples.left_out,
            notes: Vec::new(),
            numbers: Vec::new(),
        })
    }

    fn attributes(&self, folder: &Folder, prompts: &PromptFiles, shape: &Shape) -> Result<Found> {
        let names = class_file(folder, prompts);
        let classes = by_objective(&folder::lines(&names)?, &names)?;
        let name = template_file(folder, prompts);
        let templates = by_objective(&folder::templates(&name)?, &name)?;
        let fields = shape.rules.metadata.len();
        let samples = self.samples(&folder.tars("test")?, &["npy"], |pairs, row| {
            Ok(member::numbers(pairs, row)?.filter(|m| m.len() >= fields).ok_or("no_metadata"))
        })?;
        let mut answered = Answered::default();
        for (objective, classes) in &classes {
            let Some((_, templates)) = templates.iter().find(|(name, _)| name == objective) else {
                let message = format!("no template begins with `{objective}:`");
                return Err(Error::input(message).at(&name));
            };
            let classifier = self.classifier(classes, templates)?;
            let mut predicted = Vec::with_capacity(samples.keys.len());
            classification::score(&samples.features, &classifier, |_, row| {
                predicted.push(classification::best(row));
            })?;
            answered.objectives.push(objective.clone());
            answered.predicted.push(predicted);
        }
        let mut asked = shape.rules.attributes.iter().map(|rule| &rule.objective);
        if let Some(objective) = asked.find(|o| !answered.objectives.contains(o)) {
            let message = format!("no class begins with `{objective}:`");
            return Err(Error::input(message).at(&names));
        }
        let outcome = Outcome {
            keys: samples.keys,
            metadata: samples.truths,
            answers: Answers::Answered(answered),
        };
        let left_out = samples.left_out;
        Ok(Found {
            shape: shape.clone(),
            outcome,
            left_out,
            notes: Vec::new(),
            numbers: Vec::new(),
        })
    }

    fn json(&self, plan: &ClassificationPlan, shape: &Shape) -> Result<Found> {
        let data = (self.open)(&plan.data, Columns { json: &[&plan.label], members: &[] })?;
        let samples = read(self.encoder, &data, self.plan.batch_size, self.cx, |pairs, row| {
            member::field(pairs, &plan.label, row).map(Ok)
        })?;
        let classes = match classes_of(plan)? {
            Some(classes) => classes,
            None => samples.truths.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect(),
        };
        let labels: Vec<u32> =
            samples.truths.iter().map(|l| member::class_of(l, &classes)).collect::<Result<_>>()?;
        let classifier = self.classifier(&classes, &plan.templates)?;
        let found = Classified::new(&samples.features, labels, &classifier)?;
        Ok(Found::new(shape, classes, samples.keys, Vec::new(), samples.left_out, found))
    }

    fn retrieval(&self, tars: &[String], shape: &Shape) -> Result<Found> {
        let samples = self.samples(tars, &[], |pairs, row| {
            let lines = pairs.captions().value(row).lines().map(str::trim);
            Ok(Ok(lines.filter(|l| !l.is_empty()).map(str::to_owned).collect::<Vec<String>>()))
        })?;
        let mut owners = Vec::new();
        for (image, captions) in samples.truths.iter().enumerate() {
            owners.resize(owners.len() + captions.len(), image as u32);
        }
        if owners.is_empty() {
            return Err(Error::input("no sample has a caption"));
        }
        let without = samples.truths.iter().filter(|captions| captions.is_empty()).count();
        let mut texts = Matrix::default();
        let captions: Vec<&String> = samples.truths.iter().flatten().collect();
        for chunk in captions.chunks(PROMPTS) {
            let features = self.encoder.texts(chunk)?;
            Encoder::check_finite(features.iter().map(Vec::as_slice), "captions")?;
            features.iter().for_each(|feature| texts.push_normalized(feature));
            self.cx.progress.update(texts.len() as u64, captions.len() as u64, "captions");
        }
        let most = shape.recall_k.iter().copied().max().unwrap_or(1);
        let count = owners.len();
        let found = retrieval::retrieve(&samples.features, &texts, owners, most, &self.cx.cancel)?;
        let mut notes = vec![format!("{} pictures, {count} captions", samples.keys.len())];
        if without > 0 {
            notes.push(format!("{without} pictures have no caption and count as misses"));
        }
        let outcome = Outcome {
            keys: samples.keys,
            metadata: Vec::new(),
            answers: Answers::Retrieved(found),
        };
        let left_out = samples.left_out;
        Ok(Found { shape: shape.clone(), outcome, left_out, notes, numbers: Vec::new() })
    }

    fn associations(&self, folder: &Folder, shape: &Shape) -> Result<Found> {
        let instances = instances(folder)?;
        let names: BTreeSet<&String> = instances.iter().flat_map(|i| &i.candidates).collect();
        let names: Vec<&String> = names.into_iter().collect();
        let mut places: BTreeMap<&str, Result<usize, &'static str>> = BTreeMap::new();
        let mut pictures = Matrix::default();
        for chunk in names.chunks(PROMPTS) {
            let mut builder = PairsBuilder::default();
            for name in chunk {
                let bytes = loose_picture(folder, name)?;
                builder.push(PairRow {
                    uid: "",
                    key: name,
                    url: "",
                    caption: "",
                    status: Status::Success,
                    error_message: None,
                    size: None,
                    original_size: None,
                    sha256: None,
                    image: bytes.as_deref(),
                });
            }
            let rows: Vec<usize> = (0..chunk.len()).collect();
            let found = self.encoder.images(&builder.finish(), &rows)?;
            Encoder::check_finite(found.iter().flatten().map(Vec::as_slice), "pictures")?;
            for (name, features) in chunk.iter().zip(found) {
                let place = features.map(|features| {
                    pictures.push_normalized(&features);
                    pictures.len() - 1
                });
                places.insert(name, place);
            }
            self.cx.progress.update(places.len() as u64, names.len() as u64, "pictures");
        }
        let mut found = Associated::default();
        let (mut keys, mut left_out) = (Vec::new(), BTreeMap::new());
        for (start, chunk) in instances.chunks(PROMPTS).enumerate() {
            let prompts: Vec<String> =
                chunk.iter().map(crate::associations::Instance::prompt).collect();
            let cues = self.encoder.texts(&prompts)?;
            Encoder::check_finite(cues.iter().map(Vec::as_slice), "cues")?;
            for (i, (instance, cue)) in chunk.iter().zip(cues).enumerate() {
                let of: Result<Vec<usize>, &'static str> = instance
                    .candidates
                    .iter()
                    .map(|name| places.get(name.as_str()).copied().unwrap_or(Err("no_image")))
                    .collect();
                let of = match of {
                    Ok(of) => of,
                    Err(reason) => {
                        *left_out.entry(reason.to_owned()).or_default() += 1;
                        continue;
                    }
                };
                let cue = classification::normalized(&cue);
                let dot = |row: &[f32]| row.iter().zip(&cue).map(|(a, b)| a * b).sum::<f32>();
                let similarities: Vec<f32> = of.iter().map(|p| dot(pictures.row(*p))).collect();
                keys.push((start * PROMPTS + i).to_string());
                found.jaccard.push(instance.jaccard(&similarities));
                found.candidates.push(instance.candidates.len() as u32);
            }
        }
        if keys.is_empty() {
            return Err(Error::input("no instance whose pictures are all there")
                .hint("put them into the folder's images/, named by the candidates"));
        }
        let outcome = Outcome { keys, metadata: Vec::new(), answers: Answers::Associated(found) };
        Ok(Found {
            shape: shape.clone(),
            outcome,
            left_out,
            notes: Vec::new(),
            numbers: Vec::new(),
        })
    }

    fn probe(&self, plan: &ProbePlan, shape: &Shape) -> Result<Found> {
        let folder = Folder::new(&plan.wds);
        let classes = folder.classes()?;
        let split = |name: &str| -> Result<(probe::Samples, Vec<String>, BTreeMap<String, u64>)> {
            let samples = self.samples(&folder.tars(name)?, &["cls"], |pairs, row| {
                Ok(member::class(pairs, row, classes.len())?.ok_or("no_label"))
            })?;
            let fitted = probe::Samples { features: samples.features, labels: samples.truths };
            Ok((fitted, samples.keys, samples.left_out))
        };
        let (train, _, _) = split(&plan.train)?;
        let (train, validation) = match &plan.validation {
            Some(name) => (train, split(name)?.0),
            None => {
                let mut order: Vec<usize> = (0..train.labels.len()).collect();
                let seed = self.cx.seed_for(&format!("linear_probe/{}", folder.key()));
                Dice::new(seed).shuffle(&mut order);
                let held = (order.len() as f64 * plan.validation_share).round().max(1.0) as usize;
                let (held, rest) = order.split_at(held.min(order.len()));
                if rest.is_empty() {
                    return Err(Error::input("too few samples to hold some out")
                        .at(folder.path(&plan.train)));
                }
                (train.chosen(rest), train.chosen(held))
            }
        };
        let most = plan.iterations as usize;
        let fit = Probe::search(&train, &validation, classes.len(), most, &self.cx.cancel)?;
        let (test, keys, left_out) = split(&plan.test)?;
        let found = fit.classify(&test)?;
        let mut all = Found::new(shape, classes, keys, Vec::new(), left_out, found);
        all.notes.push(format!(
            "fitted on {} pictures and {} of validation; weight decay {:.2e}, {} iterations",
            train.labels.len(),
            validation.labels.len(),
            fit.weight_decay,
            fit.iterations
        ));
        if !fit.converged {
            all.notes
                .push(format!("not at its minimum after {most} iterations: raise `iterations`"));
        }
        all.numbers.push(("weight_decay".to_owned(), fit.weight_decay));
        Ok(all)
    }

    fn samples<T>(
        &self,
        tars: &[String],
        members: &[&str],
        truth: impl Fn(&stage::Pairs, usize) -> Result<Result<T, &'static str>>,
    ) -> Result<Samples<T>> {
        let data = (self.open)(tars, Columns { json: &[], members })?;
        read(self.encoder, &data, self.plan.batch_size, self.cx, truth)
    }

    /// One row a class: the mean of its prompts.
    fn classifier(&self, classes: &[String], templates: &[String]) -> Result<Matrix> {
        let mut classifier = Matrix::default();
        // Prompts of several classes share a batch: one of a few prompts costs as much as a full one.
        for group in classes.chunks((PROMPTS / templates.len().max(1)).max(1)) {
            let prompts: Vec<String> = group
                .iter()
                .flat_map(|class| templates.iter().map(move |t| t.replace("{c}", class)))
                .collect();
            let features = self.encoder.texts(&prompts)?;
            Encoder::check_finite(features.iter().map(Vec::as_slice), "prompts")?;
            for of_class in features.chunks(templates.len().max(1)) {
                classifier.push_normalized(&classification::mean(of_class));
            }
            self.cx.progress.update(classifier.len() as u64, classes.len() as u64, "classes");
        }
        Ok(classifier)
    }

    fn measured(&self, job: &Job, found: Found) -> Measured {
        let Found { shape, outcome, left_out, mut notes, numbers } = found;
        let measures = outcome.measures(&shape);
        let ones = vec![1; outcome.len()];
        let seed = self.cx.seed_for(&format!("bootstrap/{}", job.key));
        let drawn: Vec<&Measure<'_>> = measures.iter().filter(|m| !m.detail).collect();
        let rows = replicate(&drawn, outcome.len(), self.plan.bootstrap, seed, self.cx.threads);
        let title = match (job.task(), shape.kind) {
            ("linear_probe", _) => "linear probe",
            (_, TaskKind::Retrieval) => "zero-shot retrieval",
            (_, TaskKind::Associations) => "associations",
            _ => "zero-shot classification",
        };
        let mut report = Report { title: format!("{title}: {}", job.name), ..Report::default() };
        let mut result = TaskResult::new(&job.key, &job.name, Map::new());
        for measure in &measures {
            let value = measure.value(&ones);
            result.metrics.insert(measure.name.clone(), json!(value));
            if let (Some(value), false) = (value, measure.detail) {
                report.push(&measure.name, value, "share", measure.chance);
            }
        }
        for (i, measure) in drawn.iter().enumerate() {
            let values = rows.iter().map(|row| row.get(i).copied().flatten());
            if let (Some(_), Some(interval)) = (measure.value(&ones), interval(values)) {
                result.intervals.insert(measure.name.clone(), interval);
            }
        }
        for (name, value) in numbers {
            result.metrics.insert(name, json!(value));
        }
        if let Some(main) = &shape.metric {
            let value = result.metrics.get(main).cloned().unwrap_or(Value::Null);
            result.metrics.insert(MAIN.to_owned(), value);
            if let Some(interval) = result.intervals.get(main).copied() {
                result.intervals.insert(MAIN.to_owned(), interval);
            }
            result.chance = measures.iter().find(|m| m.name == *main).and_then(|m| m.chance);
        } else {
            result.metrics.insert(MAIN.to_owned(), Value::Null);
        }
        if let Answers::Classified(found) = &outcome.answers {
            notes.push(majority(found, shape.classes.len()));
        }
        if let Some(size) = job.size.filter(|size| *size != outcome.len() as u64) {
            notes.push(format!(
                "{} samples were measured, the suite's test set has {size}: no number to compare with others'",
                outcome.len()
            ));
        }
        for (reason, count) in &left_out {
            notes.push(format!("{count} samples are left out: {reason}"));
        }
        report.notes = notes;
        result.samples = Some(outcome.len() as u64);
        result.left_out = left_out;
        drop(measures);
        Measured { result, task: job.task(), report, outcome, shape }
    }
}

impl Found {
    fn new(
        shape: &Shape,
        classes: Vec<String>,
        keys: Vec<String>,
        metadata: Vec<Vec<i64>>,
        left_out: BTreeMap<String, u64>,
        found: Classified,
    ) -> Self {
        let outcome = Outcome { keys, metadata, answers: Answers::Classified(found) };
        let shape = Shape { classes, ..shape.clone() };
        Self { shape, outcome, left_out, notes: Vec::new(), numbers: Vec::new() }
    }
}

fn templates(folder: &Folder, prompts: &PromptFiles) -> Result<Vec<String>> {
    folder::templates(&template_file(folder, prompts))
}

fn loose_picture(folder: &Folder, name: &str) -> Result<Option<Vec<u8>>> {
    let Some(path) = picture(folder, name)? else { return Ok(None) };
    let blob = Blob::open(&path)?;
    if blob.len() > MOST_PICTURE {
        return Ok(None);
    }
    blob.read_all().map(|bytes| Some(bytes.to_vec()))
}

/// What answering always the same gives.
fn majority(found: &Classified, classes: usize) -> String {
    let mut counts = vec![0_u64; classes];
    for label in &found.labels {
        if let Some(count) = counts.get_mut(*label as usize) {
            *count += 1;
        }
    }
    let most = counts.iter().max().copied().unwrap_or(0) as f64;
    format!(
        "{} pictures, {classes} classes; answering always the commonest class gives acc1 {:.3}",
        found.labels.len(),
        most / found.labels.len().max(1) as f64
    )
}
