//! Any number of evaluated checkpoints beside each other, each against the first.

use std::collections::BTreeMap;
use std::path::Path;

use stage::{Context, Error, Result};
use store::Blob;

use crate::outcome::{Answers, Outcome, Shape};
use crate::paired::{
    Difference, Drawn, McNemar, difference, draw, holm, mcnemar, mean, same_samples,
};
use crate::results::{TaskResult, read_jsonl};
use crate::suite::{Aggregate, Suite};

/// File of the results in a folder.
pub const RESULTS: &str = "eval_results.jsonl";
/// Folder of the outcomes beside it.
pub const PREDICTIONS: &str = "predictions";
/// Classes that are listed of each task, in each direction.
const CLASSES: usize = 5;
/// Largest description of an outcome.
const MOST_BYTES: u64 = 64 << 20;

/// One evaluated checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluated {
    /// What it is called.
    pub name: String,
    /// Its results.
    pub results: Vec<TaskResult>,
    folder: String,
}

impl Evaluated {
    /// The checkpoints at a path: a file of results, a folder that holds one, or a folder of such
    /// folders.
    ///
    /// # Errors
    /// Where there is none.
    pub fn open(path: &str) -> Result<Vec<Self>> {
        let given = Path::new(path);
        if given.is_file() {
            let folder = given.parent().unwrap_or(Path::new("."));
            return Ok(vec![Self::read(given, folder)?]);
        }
        let own = given.join(RESULTS);
        if own.is_file() {
            return Ok(vec![Self::read(&own, given)?]);
        }
        let mut folders: Vec<_> = std::fs::read_dir(given)
            .map_err(|e| Error::input("no such folder").because(e).at(path))?
            .filter_map(|entry| entry.ok().map(|e| e.path()))
            .filter(|folder| folder.join(RESULTS).is_file())
            .collect();
        folders.sort();
        if folders.is_empty() {
            return Err(Error::input(format!("no {RESULTS}")).at(path).hint(
                "name what `eval` wrote: <output>/<stage>/<checkpoint>, or the folder above it",
            ));
        }
        folders.iter().map(|folder| Self::read(&folder.join(RESULTS), folder)).collect()
    }

    fn read(file: &Path, folder: &Path) -> Result<Self> {
        let results = read_jsonl(&Blob::open(&file.display().to_string())?)?;
        let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        let name = whole.file_name().map(|n| n.to_string_lossy().into_owned());
        let folder = folder.display().to_string();
        Ok(Self { name: name.unwrap_or_else(|| folder.clone()), results, folder })
    }

    /// The result of a task.
    #[must_use]
    pub fn result(&self, key: &str) -> Option<&TaskResult> {
        self.results.iter().find(|r| r.key == key)
    }

    /// What became of each sample of a task, where that was kept (DataComp's evaluator does not).
    ///
    /// # Errors
    /// A broken file.
    pub fn outcome(&self, key: &str) -> Result<Option<(Outcome, Shape)>> {
        let name = format!("{}/{PREDICTIONS}/{}", self.folder, crate::job::slug(key));
        let (shape, rows) = (format!("{name}.json"), format!("{name}.parquet"));
        if !Path::new(&shape).is_file() || !Path::new(&rows).is_file() {
            return Ok(None);
        }
        let blob = Blob::open(&shape)?;
        if blob.len() > MOST_BYTES {
            return Err(Error::input("too large for a task").at(&shape));
        }
        let shape: Shape = serde_json::from_slice(&blob.read_all()?)
            .map_err(|e| Error::input("not the shape of an outcome").because(e).at(&shape))?;
        Ok(Some((Outcome::read(&Blob::open(&rows)?, &shape)?, shape)))
    }
}

/// Checkpoints beside each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Their names, all different.
    pub names: Vec<String>,
    /// The suite whose means are given.
    pub aggregates: Vec<Aggregate>,
    /// One row a task that at least one of them has.
    pub tasks: Vec<TaskRow>,
    /// The mean of the main metric over the tasks that all of them have.
    pub average: AverageRow,
    /// What could not be compared, and why.
    pub notes: Vec<String>,
}

/// One task.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRow {
    /// Its key.
    pub key: String,
    /// Its name.
    pub name: String,
    /// What guessing gives.
    pub chance: Option<f64>,
    /// The main metric of each checkpoint.
    pub values: Vec<Option<f64>>,
    /// Its 95 % interval.
    pub intervals: Vec<Option<[f64; 2]>>,
    /// Each checkpoint after the first against the first; none where their samples are not kept or
    /// not the same.
    pub against: Vec<Option<Against>>,
}

/// One task of a checkpoint against the first's.
#[derive(Debug, Clone, PartialEq)]
pub struct Against {
    /// The main metric.
    pub difference: Difference,
    /// Its p-value among those of all tasks (Holm).
    pub adjusted: f64,
    /// McNemar's test, for a classification.
    pub mcnemar: Option<McNemar>,
    /// Classes whose recall changed most: name, pictures, before, after.
    pub classes: Vec<(String, u64, f64, f64)>,
}

/// The mean over tasks.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AverageRow {
    /// How many tasks all checkpoints have.
    pub tasks: usize,
    /// The mean of each checkpoint.
    pub values: Vec<Option<f64>>,
    /// Its 95 % interval: the test sets drawn again, the tasks fixed.
    pub intervals: Vec<Option<[f64; 2]>>,
    /// Each checkpoint after the first against the first.
    pub against: Vec<Option<Difference>>,
}

/// Compares checkpoints, each with the first. `samples` bootstrap samples a task; the draws depend on
/// the context's seed and the task alone.
///
/// # Errors
/// A broken file, or an interruption.
pub fn compare(
    evaluated: &[Evaluated],
    suite: &Suite,
    samples: u32,
    cx: &Context,
) -> Result<Comparison> {
    let aggregates = evaluated.iter().map(|e| suite.aggregate(&e.results)).collect();
    let mut comparison = Comparison {
        names: names(evaluated),
        aggregates,
        tasks: Vec::new(),
        average: AverageRow::default(),
        notes: Vec::new(),
    };
    let mut drawn: Vec<Vec<Option<Drawn>>> = Vec::new();
    for key in keys(evaluated, suite) {
        cx.cancel.check()?;
        let (row, draws) = task(evaluated, &key, samples, cx, &mut comparison.notes)?;
        comparison.tasks.push(row);
        drawn.push(draws);
    }
    for checkpoint in 0..evaluated.len().saturating_sub(1) {
        let mut rows: Vec<&mut Against> = comparison
            .tasks
            .iter_mut()
            .filter_map(|row| row.against.get_mut(checkpoint)?.as_mut())
            .collect();
        let ps: Vec<f64> = rows.iter().map(|row| row.difference.p).collect();
        for (row, adjusted) in rows.iter_mut().zip(holm(&ps)) {
            row.adjusted = adjusted;
        }
    }
    comparison.average = average(evaluated.len(), &comparison.tasks, &drawn);
    Ok(comparison)
}

/// Keys in the order of the suite, then the others as they come.
fn keys(evaluated: &[Evaluated], suite: &Suite) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    let has = |key: &String| evaluated.iter().any(|e| e.result(key).is_some());
    keys.extend(suite.tasks.iter().map(|t| t.key.clone()).filter(has));
    for result in evaluated.iter().flat_map(|e| &e.results) {
        if !keys.contains(&result.key) {
            keys.push(result.key.clone());
        }
    }
    keys
}

fn task(
    evaluated: &[Evaluated],
    key: &str,
    samples: u32,
    cx: &Context,
    notes: &mut Vec<String>,
) -> Result<(TaskRow, Vec<Option<Drawn>>)> {
    let results: Vec<Option<&TaskResult>> = evaluated.iter().map(|e| e.result(key)).collect();
    let known = results.iter().flatten().next();
    let mut row = TaskRow {
        key: key.to_owned(),
        name: known.map_or(key, |r| r.dataset.as_str()).to_owned(),
        chance: results.iter().flatten().find_map(|r| r.chance),
        values: results.iter().map(|r| r.and_then(TaskResult::main)).collect(),
        intervals: results.iter().map(|r| r.and_then(TaskResult::main_interval)).collect(),
        against: Vec::new(),
    };
    let outcomes: Vec<Option<(Outcome, Shape)>> =
        evaluated.iter().map(|e| e.outcome(key)).collect::<Result<_>>()?;
    let seed = cx.seed_for(&format!("bootstrap/{key}"));
    let draws: Vec<Option<Drawn>> = outcomes
        .iter()
        .map(|found| {
            let (outcome, shape) = found.as_ref()?;
            draw(outcome, shape, shape.metric.as_deref()?, samples, seed, cx.threads)
        })
        .collect();
    for other in 1..evaluated.len() {
        let pair = (&outcomes[0], &outcomes[other], &draws[0], &draws[other]);
        let (Some((a, _)), Some((b, shape)), Some(before), Some(after)) = pair else {
            row.against.push(None);
            continue;
        };
        if let Err(error) = same_samples(a, b) {
            notes.push(format!("{}, {}: {error}", row.name, evaluated[other].name));
            row.against.push(None);
            continue;
        }
        row.against.push(Some(Against {
            difference: difference(before, after),
            adjusted: 1.0,
            mcnemar: mcnemar(a, b),
            classes: changed_classes(a, b, shape),
        }));
    }
    Ok((row, draws))
}

/// The classes that lost and gained most pictures.
fn changed_classes(a: &Outcome, b: &Outcome, shape: &Shape) -> Vec<(String, u64, f64, f64)> {
    let (Answers::Classified(a), Answers::Classified(b)) = (&a.answers, &b.answers) else {
        return Vec::new();
    };
    let count = shape.classes.len();
    let mut rows: Vec<(String, u64, f64, f64)> = a
        .class_rows(count)
        .into_iter()
        .zip(b.class_rows(count))
        .filter_map(|(a, b)| {
            Some((shape.classes.get(a.class)?.clone(), a.pictures, a.recall?, b.recall?))
        })
        .filter(|(_, _, before, after)| before != after)
        .collect();
    let change = |row: &(String, u64, f64, f64)| (row.3 - row.2) * row.1 as f64;
    rows.sort_by(|x, y| change(x).total_cmp(&change(y)));
    if rows.len() > 2 * CLASSES {
        rows.drain(CLASSES..rows.len() - CLASSES);
    }
    rows
}

fn average(count: usize, tasks: &[TaskRow], drawn: &[Vec<Option<Drawn>>]) -> AverageRow {
    let common: Vec<usize> =
        (0..tasks.len()).filter(|i| tasks[*i].values.iter().all(Option::is_some)).collect();
    let mut row = AverageRow { tasks: common.len(), ..AverageRow::default() };
    let mut means: Vec<Option<Drawn>> = Vec::new();
    for checkpoint in 0..count {
        let values: Vec<f64> = common.iter().filter_map(|i| tasks[*i].values[checkpoint]).collect();
        let sum: f64 = values.iter().sum();
        row.values.push((!values.is_empty()).then(|| sum / values.len() as f64));
        let all: Option<Vec<&Drawn>> =
            common.iter().map(|i| drawn[*i].get(checkpoint)?.as_ref()).collect();
        means.push(all.and_then(|all| mean(&all)));
    }
    let interval = |d: &Drawn| crate::bootstrap::interval(d.samples.iter().copied());
    row.intervals = means.iter().map(|m| m.as_ref().and_then(interval)).collect();
    row.against = (1..count)
        .map(|other| {
            let paired = common.iter().all(|i| tasks[*i].against[other - 1].is_some());
            let (Some(a), Some(b), true) = (&means[0], &means[other], paired) else { return None };
            Some(difference(a, b))
        })
        .collect();
    row
}

/// Names that differ: those that do not get the folder above them.
fn names(evaluated: &[Evaluated]) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    evaluated.iter().for_each(|e| *counts.entry(&e.name).or_default() += 1);
    evaluated
        .iter()
        .map(|e| if counts[e.name.as_str()] > 1 { e.folder.clone() } else { e.name.clone() })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;
    use crate::classification::Classified;
    use crate::results::jsonl;

    fn write(root: &Path, name: &str, right: impl Fn(usize) -> bool, keep: bool) {
        let folder = root.join(name);
        std::fs::create_dir_all(folder.join(PREDICTIONS)).unwrap();
        let ranks: Vec<u32> = (0..300).map(|i| u32::from(!right(i))).collect();
        let labels: Vec<u32> = (0..300).map(|i| i % 2).collect();
        let predicted = labels.iter().zip(&ranks).map(|(l, r)| l ^ r).collect();
        let acc = ranks.iter().filter(|r| **r == 0).count() as f64 / 300.0;
        let metrics = Map::from_iter([("main_metric".to_owned(), json!(acc))]);
        let line = jsonl(&[TaskResult::new("mnist", "MNIST", metrics)]);
        std::fs::write(folder.join(RESULTS), line).unwrap();
        if keep {
            let outcome = Outcome {
                keys: (0..300).map(|i| i.to_string()).collect(),
                metadata: Vec::new(),
                answers: Answers::Classified(Classified { labels, predicted, ranks }),
            };
            let shape = Shape {
                classes: vec!["even".into(), "odd".into()],
                metric: Some("acc1".into()),
                ..Shape::default()
            };
            let file = |ending| folder.join(PREDICTIONS).join(format!("mnist.{ending}"));
            outcome.write(std::fs::File::create(file("parquet")).unwrap()).unwrap();
            std::fs::write(file("json"), serde_json::to_vec(&shape).unwrap()).unwrap();
        }
    }

    #[test]
    fn checkpoints_are_compared_sample_by_sample_with_the_first() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "a", |i| i < 150, true);
        write(dir.path(), "b", |i| i < 150 || i % 2 == 0, true);
        let runs = Evaluated::open(&dir.path().display().to_string()).unwrap();
        let suite = Suite::open("datacomp").unwrap();
        let got = compare(&runs, &suite, 500, &Context::default()).unwrap();
        assert_eq!(got.names, ["a", "b"]);
        let against = got.tasks[0].against[0].as_ref().unwrap();
        assert!((against.difference.value - 0.25).abs() < 1e-12);
        assert!(against.difference.p < 0.01 && against.adjusted == against.difference.p);
        assert_eq!(against.mcnemar.unwrap().only_second, 75);
        assert_eq!(against.classes, [("even".to_owned(), 150, 0.5, 1.0)]);
        assert_eq!(got.average.tasks, 1);
        assert!((got.average.against[0].unwrap().value - 0.25).abs() < 1e-12);
    }

    #[test]
    fn results_without_their_samples_are_shown_and_not_tested() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "a", |i| i < 150, true);
        write(dir.path(), "b", |i| i < 100, false);
        let open = |name: &str| Evaluated::open(&dir.path().join(name).display().to_string());
        let runs = [open("a").unwrap(), open("b").unwrap()].concat();
        let suite = Suite::open("datacomp").unwrap();
        let got = compare(&runs, &suite, 100, &Context::default()).unwrap();
        assert_eq!(got.tasks[0].values, [Some(0.5), Some(1.0 / 3.0)]);
        assert_eq!((got.tasks[0].against[0].clone(), got.average.against[0]), (None, None));
        assert!(open("c").unwrap_err().to_string().contains("no such folder"));
    }
}
