//! What a plan amounts to: a list of tasks with their files.

use std::collections::BTreeSet;

use stage::{Error, Result};

use crate::associations::Instance;
use crate::folder::{self, Folder};
use crate::outcome::Shape;
use crate::plan::{ClassificationPlan, EvalPlan, ProbePlan, PromptFiles, RetrievalPlan};
use crate::suite::{Suite, SuiteTask, TaskKind};

/// Endings that a picture of [`TaskKind::Associations`] may have.
const PICTURES: [&str; 4] = ["jpg", "jpeg", "png", "webp"];
/// The list of instances of such a task.
const INSTANCES: &str = "test.jsonl";

/// One task on one model.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Key in `eval_results.jsonl`.
    pub key: String,
    /// Name for people.
    pub name: String,
    /// Samples that the test set should have.
    pub size: Option<u64>,
    pub(crate) shape: Shape,
    pub(crate) source: Source,
}

/// Where a task's samples are.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Source {
    Wds { folder: Folder, prompts: PromptFiles },
    Loose(Folder),
    Json(ClassificationPlan),
    Pairs(RetrievalPlan),
    Probe(ProbePlan),
}

impl Job {
    /// The key as part of a file name.
    #[must_use]
    pub fn slug(&self) -> String {
        slug(&self.key)
    }

    /// CLIP_benchmark's word for the kind of task.
    #[must_use]
    pub fn task(&self) -> &'static str {
        match (&self.source, self.shape.kind) {
            (Source::Probe(_), _) => "linear_probe",
            (_, TaskKind::Retrieval) => "zeroshot_retrieval",
            _ => "zeroshot_classification",
        }
    }

    /// Every file that the task reads.
    ///
    /// # Errors
    /// When one that names others cannot be read.
    pub fn inputs(&self) -> Result<Inputs> {
        let mut inputs = Inputs::default();
        match &self.source {
            Source::Wds { folder, prompts } => {
                if self.shape.kind != TaskKind::Retrieval {
                    inputs.files.push(class_file(folder, prompts));
                    inputs.files.push(template_file(folder, prompts));
                }
                inputs.tars.extend(folder.tars("test")?);
            }
            Source::Loose(folder) => {
                inputs.files.push(folder.path(INSTANCES));
                let names: BTreeSet<String> =
                    instances(folder)?.into_iter().flat_map(|i| i.candidates).collect();
                for name in names {
                    inputs.files.extend(picture(folder, &name)?);
                }
            }
            Source::Json(plan) => {
                inputs.tars.extend(plan.data.clone());
                inputs.files.extend(plan.classes.clone());
            }
            Source::Pairs(plan) => inputs.tars.extend(plan.data.clone()),
            Source::Probe(plan) => {
                let folder = Folder::new(&plan.wds);
                inputs.files.push(folder.path("classnames.txt"));
                for split in [Some(&plan.train), plan.validation.as_ref(), Some(&plan.test)] {
                    let tars = split.map(|split| folder.tars(split)).transpose()?;
                    inputs.tars.extend(tars.unwrap_or_default());
                }
            }
        }
        Ok(inputs)
    }
}

/// A key as part of a file name: short, without a dot in front, with signs that every store takes.
pub(crate) fn slug(key: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || " ._@+=,-".contains(c);
    let mut slug = String::new();
    for c in key.trim_start_matches('.').chars().map(|c| if plain(c) { c } else { '-' }) {
        // With a checkpoint's id before it, it is still one part of a path.
        if slug.len() + c.len_utf8() > 120 {
            break;
        }
        slug.push(c);
    }
    slug
}

/// What a task reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inputs {
    /// Lists and loose pictures.
    pub files: Vec<String>,
    /// Patterns of tars.
    pub tars: Vec<String>,
}

/// The file of a task's class names.
pub(crate) fn class_file(folder: &Folder, prompts: &PromptFiles) -> String {
    prompts.classes.clone().unwrap_or_else(|| folder.path("classnames.txt"))
}

/// The file of a task's templates.
pub(crate) fn template_file(folder: &Folder, prompts: &PromptFiles) -> String {
    let own = || folder.path("zeroshot_classification_templates.txt");
    prompts.templates.clone().unwrap_or_else(own)
}

/// The file of a candidate picture, if there is one.
pub(crate) fn picture(folder: &Folder, name: &str) -> Result<Option<String>> {
    let known = |ending: &str| PICTURES.contains(&ending.to_ascii_lowercase().as_str());
    if name.rsplit_once('.').is_some_and(|(_, ending)| known(ending)) {
        let path = format!("images/{name}");
        return Ok(folder.has(&path)?.then(|| folder.path(&path)));
    }
    for ending in PICTURES {
        let path = format!("images/{name}.{ending}");
        if folder.has(&path)? {
            return Ok(Some(folder.path(&path)));
        }
    }
    Ok(None)
}

impl EvalPlan {
    /// The tasks in the order in which they run: the suite's, other folders, probes, then those over
    /// shards.
    ///
    /// # Errors
    /// A folder of the suite that is missing, unless `skip_missing`; two tasks of one key; prompts
    /// for a task that is not there.
    pub fn jobs(&self) -> Result<Vec<Job>> {
        let mut jobs = Vec::new();
        if let (Some(suite), Some(data)) = (&self.suite, &self.data) {
            self.suite_jobs(&Suite::open(suite)?, data, &mut jobs)?;
        }
        for dir in &self.wds {
            let folder = Folder::new(dir);
            let kind = folder.kind()?;
            let metric = match kind {
                TaskKind::Multilabel => "mean_average_precision",
                TaskKind::Retrieval => "mean_recall@1",
                _ => "acc1",
            };
            let shape = Shape {
                kind,
                metric: Some(metric.to_owned()),
                recall_k: if kind == TaskKind::Retrieval { vec![1, 5, 10] } else { Vec::new() },
                ..Shape::default()
            };
            let key = folder.key();
            let prompts = self.prompts.get(&key).cloned().unwrap_or_default();
            let source = Source::Wds { folder, prompts };
            jobs.push(Job { name: key.clone(), key, size: None, shape, source });
        }
        for plan in &self.linear_probe {
            let own = || format!("{}/linear_probe", Folder::new(&plan.wds).key());
            let key = plan.name.clone().unwrap_or_else(own);
            let shape = Shape {
                prefix: "lp_".to_owned(),
                metric: Some("lp_acc1".to_owned()),
                ..Shape::default()
            };
            let source = Source::Probe(plan.clone());
            jobs.push(Job { name: key.clone(), key, size: None, shape, source });
        }
        for plan in &self.classification {
            let shape = Shape { metric: Some("acc1".to_owned()), ..Shape::default() };
            let (key, source) = (plan.name.clone(), Source::Json(plan.clone()));
            jobs.push(Job { name: key.clone(), key, size: None, shape, source });
        }
        if let Some(plan) = &self.retrieval {
            let shape = Shape {
                kind: TaskKind::Retrieval,
                metric: Some("mean_recall@1".to_owned()),
                recall_k: plan.recall_k.iter().map(|k| *k as usize).collect(),
                ..Shape::default()
            };
            let (key, source) = (plan.name.clone(), Source::Pairs(plan.clone()));
            jobs.push(Job { name: key.clone(), key, size: None, shape, source });
        }
        let mut slugs = BTreeSet::new();
        for job in &jobs {
            if job.slug().is_empty() || !slugs.insert(job.slug()) {
                return Err(Error::recipe(format!(
                    "two tasks are called `{}`, or differ in signs that a file name cannot hold",
                    job.key
                ))
                .hint("give each a `name` of its own"));
            }
        }
        if let Some(key) = self.prompts.keys().find(|key| !jobs.iter().any(|job| job.key == **key))
        {
            let keys: Vec<&str> = jobs.iter().map(|job| job.key.as_str()).collect();
            return Err(Error::recipe(format!("prompts: no task `{key}`"))
                .hint(format!("keys: {}", keys.join(", "))));
        }
        Ok(jobs)
    }

    fn suite_jobs(&self, suite: &Suite, data: &str, jobs: &mut Vec<Job>) -> Result<()> {
        let root = data.trim_end_matches('/');
        let mut missing: Vec<String> = Vec::new();
        for task in suite.choose(&self.tasks)? {
            match locate(&task, root)? {
                Some(folder) => jobs.push(self.suite_job(task, folder)?),
                None => missing.push(task.folder),
            }
        }
        if !missing.is_empty() && (!self.skip_missing || jobs.is_empty()) {
            let count = missing.len();
            missing.truncate(8);
            let more = if count > 8 { ", ..." } else { "" };
            return Err(Error::input(format!(
                "{count} of the test sets of suite {} are not here: {}{more}",
                suite.name,
                missing.join(", ")
            ))
            .at(root)
            .hint(
                "`skip_missing: true` measures the others; docs/formats.md says how to get these",
            ));
        }
        Ok(())
    }

    fn suite_job(&self, task: SuiteTask, folder: Folder) -> Result<Job> {
        let kind = match task.kind {
            Some(kind) => kind,
            None => folder.kind()?,
        };
        let shape = Shape {
            kind,
            metric: task.metric,
            chance: task.chance,
            recall_k: if kind == TaskKind::Retrieval { vec![1, 5, 10] } else { Vec::new() },
            rules: task.rules,
            ..Shape::default()
        };
        let source = if kind == TaskKind::Associations {
            Source::Loose(folder)
        } else {
            let prompts = self.prompts.get(&task.key).cloned().unwrap_or_default();
            Source::Wds { folder, prompts }
        };
        Ok(Job { key: task.key, name: task.name, size: task.size, shape, source })
    }
}

/// The folder of a task, under one of its names.
fn locate(task: &SuiteTask, root: &str) -> Result<Option<Folder>> {
    let sign = match task.kind {
        Some(TaskKind::Associations) => INSTANCES,
        _ => "test/nshards.txt",
    };
    for name in std::iter::once(&task.folder).chain(&task.also) {
        let folder = Folder::new(&format!("{root}/{name}"));
        if folder.has(sign)? {
            return Ok(Some(folder));
        }
    }
    Ok(None)
}

/// Class names of a classification over shards, where a file names them.
pub(crate) fn classes_of(plan: &ClassificationPlan) -> Result<Option<Vec<String>>> {
    plan.classes.as_deref().map(folder::lines).transpose()
}

/// The instances of a folder.
pub(crate) fn instances(folder: &Folder) -> Result<Vec<Instance>> {
    Instance::read(&store::Blob::open(&folder.path(INSTANCES))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> EvalPlan {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn missing_test_sets_are_named_and_can_be_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().display();
        let test = dir.path().join("wds_mnist_test/test");
        std::fs::create_dir_all(&test).unwrap();
        std::fs::write(test.join("nshards.txt"), "1").unwrap();
        let all = plan(&format!(r#"{{"suite": "datacomp", "data": "{root}"}}"#));
        let error = all.jobs().unwrap_err();
        assert!(error.to_string().contains("39 of the test sets"), "{error}");
        let some =
            plan(&format!(r#"{{"suite": "datacomp", "data": "{root}", "skip_missing": true}}"#));
        let jobs = some.jobs().unwrap();
        assert_eq!(jobs.len(), 1);
        assert_eq!((jobs[0].key.as_str(), jobs[0].size), ("mnist", Some(10_000)));
        assert_eq!(jobs[0].shape.chance, Some(0.10035));
    }

    #[test]
    fn a_retrieval_set_may_have_clip_benchmarks_name() {
        let dir = tempfile::tempdir().unwrap();
        let test = dir.path().join("wds_flickr30k/test");
        std::fs::create_dir_all(&test).unwrap();
        std::fs::write(test.join("nshards.txt"), "1").unwrap();
        let plan = plan(&format!(
            r#"{{"suite": "datacomp", "data": "{}", "tasks": ["Flickr"]}}"#,
            dir.path().display()
        ));
        let jobs = plan.jobs().unwrap();
        assert_eq!(jobs[0].shape.recall_k, [1, 5, 10]);
        assert_eq!(jobs[0].slug(), "retrieval-flickr_1k_test_image_text_retrieval");
    }

    #[test]
    fn tasks_whose_files_would_have_one_name_are_refused() {
        let plan = plan(
            r#"{"classification": [{"data": ["a"], "name": "a/b"}, {"data": ["a"], "name": "a-b"}]}"#,
        );
        assert!(plan.jobs().unwrap_err().to_string().contains("a-b"));
    }

    #[test]
    fn prompts_for_a_task_that_is_not_there_are_refused() {
        let plan = plan(
            r#"{"classification": [{"data": ["a"]}], "prompts": {"imagenet": {"templates": "t"}}}"#,
        );
        assert!(plan.jobs().unwrap_err().to_string().contains("no task `imagenet`"));
    }
}
