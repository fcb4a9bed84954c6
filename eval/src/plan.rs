//! What a recipe says about an evaluation.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage::{Error, Result};

use crate::suite::Suite;

/// Zero-shot tasks and linear probes, each run on every checkpoint that the stage takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvalPlan {
    /// A list of tasks with the rule of their average: `datacomp`, or a JSON file of your own in the
    /// form of `eval/suites/datacomp.json`. Needs `data`. Default none.
    pub suite: Option<String>,
    /// Folder that holds the suite's test sets as `wds_<key>_test` folders. Default none.
    pub data: Option<String>,
    /// Tasks of the suite to run, by key or by name. Default all.
    pub tasks: Vec<String>,
    /// Whether tasks whose folder is missing are left out; the average then says of how many tasks
    /// it is. Default false: a missing folder is an error.
    pub skip_missing: bool,
    /// Files of class names and templates instead of those in a task's folder, by the task's key.
    /// Default none.
    pub prompts: BTreeMap<String, PromptFiles>,
    /// Test sets outside a suite: folders with `test/nshards.txt`, as CLIP_benchmark writes them. The
    /// key is the folder's name without `wds_` and `_test`. Default none.
    pub wds: Vec<String>,
    /// Linear probes on the train split of such folders. Default none.
    pub linear_probe: Vec<ProbePlan>,
    /// Image-text retrieval over shards, default none.
    pub retrieval: Option<RetrievalPlan>,
    /// Zero-shot classifications over shards, default none.
    pub classification: Vec<ClassificationPlan>,
    /// Bootstrap samples of each 95 % interval, 0..=100000; 0 gives no intervals. Default 1000.
    pub bootstrap: u32,
    /// Samples in a forward pass, 1..=4096. Default 64. Changes no result beyond rounding.
    pub batch_size: u32,
}

impl Default for EvalPlan {
    fn default() -> Self {
        Self {
            suite: None,
            data: None,
            tasks: Vec::new(),
            skip_missing: false,
            prompts: BTreeMap::new(),
            wds: Vec::new(),
            linear_probe: Vec::new(),
            retrieval: None,
            classification: Vec::new(),
            bootstrap: 1000,
            batch_size: 64,
        }
    }
}

/// Files that stand for those in a task's folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PromptFiles {
    /// File of class names, one a line. Default the folder's `classnames.txt`.
    pub classes: Option<String>,
    /// File of prompts, one a line, `{c}` for the class. Default the folder's
    /// `zeroshot_classification_templates.txt`.
    pub templates: Option<String>,
}

/// A linear probe: logistic regression on frozen image features. The weight decay is searched on
/// the validation samples; the last fit is on both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProbePlan {
    /// Folder with `train/` and `test/` splits and `classnames.txt`. Required.
    pub wds: String,
    /// Key in `eval_results.jsonl`. Default the folder's key and `/linear_probe`.
    #[serde(default)]
    pub name: Option<String>,
    /// Split to fit on. Default `train`.
    #[serde(default = "train")]
    pub train: String,
    /// Split to search the weight decay on. Default none: a share of the train split.
    #[serde(default)]
    pub validation: Option<String>,
    /// Share of the train split that is held out for the search, above 0 and below 1. Default 0.1.
    #[serde(default = "tenth")]
    pub validation_share: f64,
    /// Split to measure on. Default `test`.
    #[serde(default = "test")]
    pub test: String,
    /// Most iterations of L-BFGS in one fit, at least 1. Default 1000.
    #[serde(default = "thousand")]
    pub iterations: u32,
}

/// Image-text retrieval over shards. A caption of several lines is several captions of its
/// picture, as the WebDataset forms of Flickr30k and MSCOCO have them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetrievalPlan {
    /// Tar files: paths, folders, globs, brace ranges. Required.
    pub data: Vec<String>,
    /// Key in `eval_results.jsonl`. Default `retrieval`.
    #[serde(default = "retrieval")]
    pub name: String,
    /// The k of recall@k, each at least 1. Default [1, 5, 10].
    #[serde(default = "one_five_ten")]
    pub recall_k: Vec<u32>,
}

/// Zero-shot classification over shards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClassificationPlan {
    /// Tar files: paths, folders, globs, brace ranges. Required.
    pub data: Vec<String>,
    /// Field of a sample's json that holds the class, by name or by number. Default `label`.
    #[serde(default = "label")]
    pub label: String,
    /// File of class names, one a line; the number of a class is its line, from 0. Without a
    /// file, the classes are the labels that occur, in alphabetical order.
    #[serde(default)]
    pub classes: Option<String>,
    /// Prompts with `{c}` in the place of the class name. Default [`a photo of a {c}.`].
    #[serde(default = "photo")]
    pub templates: Vec<String>,
    /// Key in `eval_results.jsonl`. Default `classification`.
    #[serde(default = "classification")]
    pub name: String,
}

fn train() -> String {
    "train".to_owned()
}

fn test() -> String {
    "test".to_owned()
}

fn tenth() -> f64 {
    0.1
}

fn thousand() -> u32 {
    1000
}

fn retrieval() -> String {
    "retrieval".to_owned()
}

fn classification() -> String {
    "classification".to_owned()
}

fn label() -> String {
    "label".to_owned()
}

fn one_five_ten() -> Vec<u32> {
    vec![1, 5, 10]
}

fn photo() -> Vec<String> {
    vec!["a photo of a {c}.".to_owned()]
}

impl EvalPlan {
    /// Checks the ranges.
    pub fn validate(&self) -> Result<()> {
        let nothing = self.suite.is_none() && self.wds.is_empty() && self.linear_probe.is_empty();
        if nothing && self.retrieval.is_none() && self.classification.is_empty() {
            return Err(Error::recipe("nothing to evaluate").hint(
                "give `suite: datacomp` with `data: DIR`, `wds: [DIR]`, `linear_probe: [{wds: DIR}]`, \
                 `retrieval: {data: [...]}` or `classification: [{data: [...]}]`",
            ));
        }
        match (&self.suite, &self.data) {
            (Some(suite), None) => {
                return Err(Error::recipe(format!("suite {suite}: its test sets are not named"))
                    .hint("give `data`, the folder that holds the wds_*_test folders"));
            }
            (None, Some(_)) => {
                return Err(Error::recipe("`data` belongs to a suite, and none is named")
                    .hint("give `suite: datacomp`, or name single test sets with `wds`"));
            }
            (None, None) if !self.tasks.is_empty() => {
                return Err(Error::recipe("`tasks` chooses from a suite, and none is named"));
            }
            _ => {}
        }
        if self.suite.as_deref() == Some("datacomp") {
            Suite::open("datacomp")?.choose(&self.tasks)?;
        }
        if self.bootstrap > 100_000 {
            let message = format!("bootstrap must lie in 0..=100000, got {}", self.bootstrap);
            return Err(Error::recipe(message));
        }
        for probe in &self.linear_probe {
            if !(probe.validation_share > 0.0 && probe.validation_share < 1.0) {
                return Err(Error::recipe(format!(
                    "validation_share must lie above 0 and below 1, got {}",
                    probe.validation_share
                )));
            }
            if probe.iterations == 0 {
                return Err(Error::recipe("iterations must be at least 1"));
            }
        }
        if !(1..=4096).contains(&self.batch_size) {
            return Err(Error::recipe(format!(
                "batch_size must lie in 1..=4096, got {}",
                self.batch_size
            )));
        }
        let mut names = Vec::new();
        for task in &self.classification {
            if task.data.is_empty() {
                return Err(Error::recipe(format!(
                    "classification `{}`: data is empty",
                    task.name
                )));
            }
            if task.templates.is_empty() {
                return Err(Error::recipe(format!(
                    "classification `{}`: templates is empty",
                    task.name
                )));
            }
            if let Some(template) = task.templates.iter().find(|t| !t.contains("{c}")) {
                let message = format!("template `{template}` has no {{c}} for the class name");
                return Err(Error::recipe(message));
            }
            names.push(&task.name);
        }
        if let Some(task) = &self.retrieval {
            if task.data.is_empty() {
                return Err(Error::recipe("retrieval: data is empty"));
            }
            if task.recall_k.is_empty() || task.recall_k.contains(&0) {
                return Err(Error::recipe("recall_k must hold numbers of at least 1"));
            }
            names.push(&task.name);
        }
        names.sort();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Error::recipe(format!("two tasks are called `{}`", pair[0]))
                .hint("give each a `name`")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> Result<EvalPlan> {
        let plan: EvalPlan =
            serde_json::from_str(text).map_err(|e| Error::recipe(e.to_string()))?;
        plan.validate().map(|()| plan)
    }

    #[test]
    fn a_template_without_a_place_for_the_class_is_refused() {
        let text = r#"{"classification": [{"data": ["a"], "templates": ["a photo"]}]}"#;
        assert!(plan(text).unwrap_err().to_string().contains("`a photo` has no {c}"));
    }

    #[test]
    fn two_tasks_of_one_name_are_refused() {
        let text = r#"{"classification": [{"data": ["a"]}, {"data": ["b"]}]}"#;
        assert!(
            plan(text).unwrap_err().to_string().contains("two tasks are called `classification`")
        );
    }

    #[test]
    fn a_suite_needs_its_data_and_data_needs_a_suite() {
        for (text, expected) in [
            (r#"{"suite": "datacomp"}"#, "test sets are not named"),
            (r#"{"data": "evalsets"}"#, "nothing to evaluate"),
            (r#"{"data": "evalsets", "wds": ["a"]}"#, "belongs to a suite"),
            (r#"{"wds": ["a"], "tasks": ["mnist"]}"#, "chooses from a suite"),
            (r#"{"suite": "datacomp", "data": "d", "tasks": ["x"]}"#, "no task `x`"),
        ] {
            let error = plan(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let good = plan(r#"{"suite": "datacomp", "data": "d", "tasks": ["MNIST"]}"#).unwrap();
        assert_eq!((good.bootstrap, good.skip_missing), (1000, false));
    }

    #[test]
    fn a_probe_without_samples_to_search_on_is_refused() {
        let text = r#"{"linear_probe": [{"wds": "d", "validation_share": 0}]}"#;
        assert!(plan(text).unwrap_err().to_string().contains("validation_share"));
        let probe = &plan(r#"{"linear_probe": [{"wds": "d"}]}"#).unwrap().linear_probe[0];
        assert_eq!((probe.train.as_str(), probe.validation_share), ("train", 0.1));
    }

    #[test]
    fn an_evaluation_of_nothing_is_refused() {
        assert!(plan("{}").is_err());
        assert_eq!(
            plan(r#"{"retrieval": {"data": ["a"]}}"#).unwrap().retrieval.unwrap().recall_k,
            [1, 5, 10]
        );
    }
}
