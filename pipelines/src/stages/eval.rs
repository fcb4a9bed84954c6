//! `eval`: zero-shot tasks and linear probes, one task on one checkpoint a unit.
//!
//! The commit record of a unit holds its line of `eval_results.jsonl`: a run that was stopped goes on
//! with the tasks that have none, and `--units I/N` spreads tasks over machines. The whole file is
//! written for each checkpoint once all of its tasks are there; until then it grows, a line a task,
//! in the stage's work folder.

use std::io::Write;

use eval::compare::{PREDICTIONS, RESULTS};
use eval::results::{TaskResult, clip_benchmark, clip_benchmark_file, jsonl};
use eval::suite::Suite;
use eval::{Answers, Bench, Columns, EvalPlan, Job, Opened};
use serde_json::{Value, json};
use stage::{Context, Counts, Error, PairSource, Result, ResultExt};
use store::Attempt;

use super::{
    Done, Outcome, Site, Stage, Worker, checkpoint, fingerprint, fingerprint_of, shards,
    unknown_unit,
};

impl Stage for EvalPlan {
    fn validate(&self) -> Result<()> {
        Self::validate(self)
    }

    /// Where the test sets lie changes nothing, what is in them does.
    fn identity(&self) -> Value {
        let mut plan = serde_json::to_value(self).unwrap_or_default();
        if let Some(plan) = plan.as_object_mut() {
            plan.remove("batch_size");
            plan.remove("data");
        }
        plan
    }

    /// 2: intervals, samples and reasons beside the metrics; 3: JPEGs are decoded to
    /// libjpeg-turbo's pixels; 4: CLIP_benchmark's files name model, weights and data set.
    fn code(&self) -> u32 {
        4
    }

    fn external(&self, _context: &Context) -> Result<Value> {
        let mut files = Vec::new();
        if let Some(suite) = self.suite.as_ref().filter(|suite| suite.ends_with(".json")) {
            files.push(fingerprint_of(suite)?);
        }
        for job in self.jobs()? {
            let inputs = job.inputs().map_err(|e| e.at(&job.key))?;
            for file in &inputs.files {
                files.push(fingerprint_of(file).map_err(|e| e.at(&job.key))?);
            }
            let tars = shards::tars(&inputs.tars).and_then(|tars| fingerprint(&tars));
            files.push(tars.map_err(|e| e.at(&job.key))?);
        }
        Ok(Value::Array(files))
    }

    fn worker<'a>(&'a self, site: &'a Site) -> Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(Eval { plan: self, site, jobs: self.jobs()?, encoder: None }))
    }

    fn finish(&self, done: &Done, out: &mut Attempt) -> Result<()> {
        for input in &done.inputs {
            let lines = lines(done, &input.id);
            out.put(&format!("{}/{RESULTS}", input.id), jsonl(&lines).as_bytes())?;
            if let Some(suite) = &self.suite {
                let aggregate = Suite::open(suite)?.aggregate(&lines);
                let text = serde_json::to_vec_pretty(&aggregate).internal("aggregate")?;
                out.put(&format!("{}/aggregate.json", input.id), &text)?;
            }
        }
        Ok(())
    }
}

/// The lines of one checkpoint, in the order of the tasks.
pub(crate) fn lines(done: &Done, model: &str) -> Vec<TaskResult> {
    let of = done.commits.iter().filter(|c| c.info.get("model").is_some_and(|m| *m == model));
    of.filter_map(|c| serde_json::from_value(c.info.get("result")?.clone()).ok()).collect()
}

struct Eval<'a> {
    plan: &'a EvalPlan,
    site: &'a Site,
    jobs: Vec<Job>,
    /// The checkpoint that is open.
    encoder: Option<Model>,
}

/// A checkpoint that is open.
struct Model {
    id: String,
    /// Of its weights.
    sha256: String,
    /// CLIP_benchmark's `model` and `pretrained`.
    names: (String, String),
    encoder: models::Encoder,
}

impl Worker for Eval<'_> {
    fn units(&self) -> Vec<String> {
        let of = |id: &String| self.jobs.iter().map(|job| unit(id, job)).collect::<Vec<_>>();
        self.site.inputs.iter().flat_map(|input| of(&input.id)).collect()
    }

    fn run(&mut self, name: &str, out: &mut Attempt) -> Result<Outcome> {
        let inputs = self.site.inputs.iter();
        let mut pairs = inputs.flat_map(|input| self.jobs.iter().map(move |job| (input, job)));
        let (input, job) = pairs
            .find(|(input, job)| unit(&input.id, job) == name)
            .ok_or_else(|| unknown_unit(name))?;
        let (id, cx) = (&input.id, &self.site.context);
        let model = match self.encoder.take().filter(|open| open.id == *id) {
            Some(open) => open,
            None => {
                let (found, folder) = checkpoint::of(input)?;
                let names = checkpoint::names(input, &found, &folder);
                let encoder = models::Encoder::open(&found, &folder, self.plan.batch_size, cx)?;
                Model { id: id.clone(), sha256: found.sha256, names, encoder }
            }
        };
        let bench = Bench { encoder: &model.encoder, open: &open_samples, cx, plan: self.plan };
        let mut measured = bench.run(job)?;
        measured.result.checkpoint = Some(model.sha256.clone());
        let (slug, result) = (job.slug(), &measured.result);
        let (architecture, pretrained) = &model.names;
        let benchmark = clip_benchmark(result, architecture, pretrained, measured.task);
        let json = clip_benchmark_file(&job.key, architecture, pretrained, measured.task);
        out.put(&format!("{id}/{json}"), benchmark.to_string().as_bytes())?;
        let place = format!("{id}/{PREDICTIONS}/{slug}");
        let shape = serde_json::to_vec(&measured.shape).internal("shape")?;
        out.put(&format!("{place}.json"), &shape)?;
        let mut rows = out.file(&format!("{place}.parquet"))?;
        measured.outcome.write(&mut rows)?;
        rows.finish()?;
        if let Answers::Classified(found) = &measured.outcome.answers {
            let (names, classes) = (&measured.shape.classes, format!("{id}/classes/{slug}"));
            out.put(&format!("{classes}.csv"), found.classes_csv(names).as_bytes())?;
            let confusion = found.confusion_csv(names);
            out.put(&format!("{classes}.confusion.csv"), confusion.as_bytes())?;
        }
        self.grow(id, result)?;
        let info = json!({"model": id, "result": result, "reports": [measured.report]});
        self.encoder = Some(model);
        Ok(Outcome { counts: Counts::default(), info })
    }
}

impl Eval<'_> {
    /// Appends a line to the file that somebody may be watching; the record of the unit is what
    /// counts.
    fn grow(&self, id: &str, result: &TaskResult) -> Result<()> {
        let path = self.site.dir.work_dir()?.join(format!("{id}.{RESULTS}"));
        let append = || {
            let mut file = std::fs::File::options().create(true).append(true).open(&path)?;
            file.write_all(jsonl(std::slice::from_ref(result)).as_bytes())
        };
        append().map_err(|e| Error::store("cannot write").because(e).at(path.display()))
    }
}

/// A task on a checkpoint: no id has a dot.
fn unit(id: &str, job: &Job) -> String {
    format!("{id}.{}", job.slug())
}

pub(crate) fn open_samples(patterns: &[String], columns: Columns<'_>) -> Result<Opened> {
    let shards = shard::Shards::open(&shards::tars(patterns)?)?
        .with_json_columns(columns.json)?
        .with_members(columns.members)?;
    Ok(Opened { without_picture: shards.without_picture(), pairs: Box::new(shards) })
}

/// Opens shards by pattern, with these json fields as further columns.
pub(crate) fn open_shards(patterns: &[String], columns: &[&str]) -> Result<Box<dyn PairSource>> {
    Ok(Box::new(shard::Shards::open(&shards::tars(patterns)?)?.with_json_columns(columns)?))
}
