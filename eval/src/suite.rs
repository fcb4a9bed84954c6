//! A suite is data: which tasks there are, where they lie, what counts as their score.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stage::{Error, Result};

use crate::results::TaskResult;

/// DataComp's tasks.
const DATACOMP: &str = include_str!("../suites/datacomp.json");
/// Largest suite file.
const MOST_BYTES: u64 = 4 << 20;

/// A list of tasks with the rule of their average.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// Its name.
    pub name: String,
    /// Where it comes from.
    #[serde(default)]
    pub about: String,
    /// Tasks with a main metric that its average is made of.
    pub average_of: usize,
    /// Named means over some of the tasks.
    #[serde(default)]
    pub groups: Vec<TaskGroup>,
    /// The tasks in the order in which they run.
    pub tasks: Vec<SuiteTask>,
}

/// A named mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskGroup {
    /// Its name.
    pub name: String,
    /// Keys of its tasks.
    pub tasks: Vec<String>,
}

/// One task of a suite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuiteTask {
    /// Key in `eval_results.jsonl`.
    pub key: String,
    /// Name for people.
    pub name: String,
    /// Folder below the suite's data.
    pub folder: String,
    /// Other names that the folder may have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
    /// Samples of the test set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// What kind of task it is, where the folder's `dataset_type.txt` does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<TaskKind>,
    /// Classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<usize>,
    /// The metric that is the task's score; none for a task that is measured and does not count.
    pub metric: Option<String>,
    /// What guessing gives for that metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chance: Option<f64>,
    /// What else is measured.
    #[serde(default, skip_serializing_if = "Rules::is_empty")]
    pub rules: Rules,
}

/// The kinds of task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// One label a picture.
    #[default]
    Classification,
    /// Any number of labels a picture.
    Multilabel,
    /// Captions find pictures and pictures find captions.
    Retrieval,
    /// A cue and the pictures that players associate with it (WinoGAViL).
    Associations,
    /// Several questions about each picture (FairFace).
    Attributes,
}

/// Metrics beyond those of the task's kind.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// Names of the numbers in a sample's `npy` member.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub metadata: Vec<String>,
    /// Whether recall and F1 are averaged over classes (WILDS' `recall-macro_all`, `F1-macro_all`).
    #[serde(rename = "macro", skip_serializing_if = "std::ops::Not::not")]
    pub macro_average: bool,
    /// Shares by group and the worst of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupRule>,
    /// Questions of a task of [`TaskKind::Attributes`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<AttributeRule>,
}

impl Rules {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A share by group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupRule {
    /// `acc` or `acc_top5`.
    pub of: String,
    /// The field of the metadata whose values are the groups.
    pub by: String,
    /// Name of the worst group's share.
    pub worst: String,
}

/// A question about every picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttributeRule {
    /// What the metrics' names begin with.
    pub name: String,
    /// Which of the folder's classifiers answers.
    pub objective: String,
    /// How an answered class becomes 1 or 0; none: the class itself is compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<Answers>,
    /// Field of the metadata that is right; none: the answer 1 is counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truth: Option<String>,
    /// Fields of the metadata by which the share is split.
    pub by: Vec<String>,
}

/// Which classes answer 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answers {
    /// Every class but this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_than: Option<u32>,
    /// Classes from this one on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u32>,
    /// Classes before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<u32>,
}

impl Answers {
    /// 1 where all that is said holds.
    #[must_use]
    pub fn of(self, class: u32) -> u32 {
        let holds = self.other_than.is_none_or(|other| class != other)
            && self.from.is_none_or(|from| class >= from)
            && self.below.is_none_or(|below| class < below);
        u32::from(holds)
    }
}

impl Suite {
    /// The suite of this name (`datacomp`), or the one in this JSON file.
    ///
    /// # Errors
    /// An unknown name, or a file that is no suite.
    pub fn open(name: &str) -> Result<Self> {
        let bytes;
        let text = if name == "datacomp" {
            DATACOMP
        } else if name.ends_with(".json") {
            let blob = store::Blob::open(name)?;
            if blob.len() > MOST_BYTES {
                return Err(Error::input("too large for a list of tasks").at(name));
            }
            bytes = blob.read_all()?;
            std::str::from_utf8(&bytes)
                .map_err(|e| Error::input("not UTF-8").because(e).at(name))?
        } else {
            return Err(Error::recipe(format!("no suite `{name}`"))
                .hint("there is `datacomp`; a suite of your own is a .json file"));
        };
        let suite: Self = serde_json::from_str(text)
            .map_err(|e| Error::input("not a suite").because(e).at(name))?;
        suite.check().map_err(|e| e.at(name))?;
        Ok(suite)
    }

    fn check(&self) -> Result<()> {
        let mut keys: Vec<&str> = self.tasks.iter().map(|t| t.key.as_str()).collect();
        keys.sort_unstable();
        if let Some([key, _]) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::input(format!("two tasks have the key `{key}`")));
        }
        for group in &self.groups {
            if let Some(key) = group.tasks.iter().find(|k| keys.binary_search(&k.as_str()).is_err())
            {
                let message = format!("group `{}` names `{key}`, which is no task", group.name);
                return Err(Error::input(message));
            }
        }
        for task in &self.tasks {
            let fields = &task.rules.metadata;
            let by = task.rules.groups.iter().map(|g| &g.by);
            let asked = task.rules.attributes.iter().flat_map(|a| a.by.iter().chain(&a.truth));
            if let Some(field) = by.chain(asked).find(|field| !fields.contains(field)) {
                let message = format!("task `{}`: no metadata field `{field}`", task.key);
                return Err(Error::input(message));
            }
        }
        Ok(())
    }

    /// The tasks that these words name, by key or by name; all for none.
    ///
    /// # Errors
    /// A word that names none.
    pub fn choose(&self, words: &[String]) -> Result<Vec<SuiteTask>> {
        if words.is_empty() {
            return Ok(self.tasks.clone());
        }
        for word in words {
            if !self.tasks.iter().any(|t| t.key == *word || t.name == *word) {
                let keys: Vec<&str> = self.tasks.iter().map(|t| t.key.as_str()).collect();
                return Err(Error::recipe(format!("suite {}: no task `{word}`", self.name))
                    .hint(format!("keys: {}", keys.join(", "))));
            }
        }
        let wanted = |t: &&SuiteTask| words.contains(&t.key) || words.contains(&t.name);
        Ok(self.tasks.iter().filter(wanted).cloned().collect())
    }

    /// Group means and the average of some results, by the main metric of each.
    ///
    /// Results whose key is no task of the suite are ignored, and those without a main metric (null)
    /// drop out.
    #[must_use]
    pub fn aggregate(&self, results: &[TaskResult]) -> Aggregate {
        let scores: BTreeMap<&str, f64> = results
            .iter()
            .filter(|r| self.tasks.iter().any(|t| t.key == r.key))
            .filter_map(|r| Some((r.key.as_str(), r.main()?)))
            .collect();
        let groups = self.groups.iter().map(|group| {
            let found: Vec<f64> =
                group.tasks.iter().filter_map(|k| scores.get(k.as_str()).copied()).collect();
            (group.name.clone(), (found.len() == group.tasks.len()).then(|| mean(&found)).flatten())
        });
        let missing = self
            .tasks
            .iter()
            .filter(|t| t.metric.is_some() && !scores.contains_key(t.key.as_str()))
            .map(|t| t.key.clone())
            .collect();
        // In the order of the tasks, so that the sum does not depend on that of the lines.
        let all: Vec<f64> =
            self.tasks.iter().filter_map(|t| scores.get(t.key.as_str()).copied()).collect();
        Aggregate {
            suite: self.name.clone(),
            groups: groups.collect(),
            average: mean(&all),
            tasks: all.len(),
            of: self.average_of,
            missing,
        }
    }
}

/// Means over the tasks of a suite.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Aggregate {
    /// The suite.
    pub suite: String,
    /// Each group's mean; none while one of its tasks is missing.
    pub groups: BTreeMap<String, Option<f64>>,
    /// Plain mean of the main metrics that are there.
    pub average: Option<f64>,
    /// How many those are.
    pub tasks: usize,
    /// How many the suite's average is made of.
    pub of: usize,
    /// Keys of the tasks that are missing for it.
    pub missing: Vec<String>,
}

impl Aggregate {
    /// Whether the average is the suite's own.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.tasks == self.of
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    fn result(key: &str, main: serde_json::Value) -> TaskResult {
        let metrics = Map::from_iter([("main_metric".to_owned(), main)]);
        TaskResult::new(key, key, metrics)
    }

    #[test]
    fn datacomp_has_40_tasks_of_which_38_count_and_13_are_vtab() {
        let suite = Suite::open("datacomp").unwrap();
        assert_eq!(suite.tasks.len(), 40);
        assert_eq!(suite.tasks.iter().filter(|t| t.metric.is_some()).count(), suite.average_of);
        let sizes: Vec<(&str, usize)> =
            suite.groups.iter().map(|g| (g.name.as_str(), g.tasks.len())).collect();
        assert_eq!(
            sizes,
            [("ImageNet", 1), ("ImageNet dist. shifts", 6), ("VTAB", 13), ("Retrieval", 3)]
        );
        let folders: Vec<&str> = suite
            .tasks
            .iter()
            .filter(|t| ["vtab/dtd", "wilds/fmow", "fairness/geode"].contains(&t.key.as_str()))
            .map(|t| t.folder.as_str())
            .collect();
        assert_eq!(folders, ["wds_vtab-dtd_test", "wds_wilds-fmow_test", "wds_geode_test"]);
    }

    #[test]
    fn null_main_metrics_and_unknown_keys_stay_out_of_the_average() {
        let suite = Suite::open("datacomp").unwrap();
        let lines = [
            result("cifar10", json!(0.5)),
            result("mnist", json!(1.0)),
            result("fairness/fairface", json!(null)),
            result("somebody's own", json!(0.0)),
        ];
        let got = suite.aggregate(&lines);
        assert_eq!((got.average, got.tasks, got.is_complete()), (Some(0.75), 2, false));
        assert_eq!(got.missing.len(), 36);
        assert_eq!(got.groups["VTAB"], None);
    }

    #[test]
    fn a_group_is_the_mean_of_its_tasks_once_all_are_there() {
        let suite = Suite::open("datacomp").unwrap();
        let keys = suite.groups[3].tasks.clone();
        let lines: Vec<TaskResult> =
            keys.iter().zip([0.1, 0.2, 0.6]).map(|(k, v)| result(k, json!(v))).collect();
        assert!((suite.aggregate(&lines).groups["Retrieval"].unwrap() - 0.3).abs() < 1e-12);
        assert_eq!(suite.aggregate(&lines[..2]).groups["Retrieval"], None);
    }

    #[test]
    fn tasks_are_chosen_by_key_or_name() {
        let suite = Suite::open("datacomp").unwrap();
        let chosen = suite.choose(&["MNIST".into(), "vtab/dtd".into()]).unwrap();
        let keys: Vec<&str> = chosen.iter().map(|t| t.key.as_str()).collect();
        assert_eq!(keys, ["vtab/dtd", "mnist"]);
        assert!(suite.choose(&["mnst".into()]).unwrap_err().to_string().contains("no task `mnst`"));
        assert!(Suite::open("datacmp").unwrap_err().hint_text().unwrap().contains("datacomp"));
    }

    #[test]
    fn crime_is_class_18_and_beyond_and_the_rest_of_the_toxic_ones_are_before_it() {
        let crime = Answers { other_than: None, from: Some(18), below: None };
        let nonhuman = Answers { other_than: None, from: Some(14), below: Some(18) };
        assert_eq!([13, 14, 17, 18].map(|c| nonhuman.of(c)), [0, 1, 1, 0]);
        assert_eq!([17, 18, 30].map(|c| crime.of(c)), [0, 1, 1]);
    }
}
