//! What a recipe says about an evaluation.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage::{Error, Result};

/// Zero-shot tasks, each run on every checkpoint that the stage takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvalPlan {
    /// Image-text retrieval, default none.
    pub retrieval: Option<RetrievalPlan>,
    /// Zero-shot classifications, default none.
    pub classification: Vec<ClassificationPlan>,
    /// Samples in a forward pass, 1..=4096. Default 64. Changes no result beyond rounding.
    pub batch_size: u32,
}

impl Default for EvalPlan {
    fn default() -> Self {
        Self { retrieval: None, classification: Vec::new(), batch_size: 64 }
    }
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
        if self.retrieval.is_none() && self.classification.is_empty() {
            return Err(Error::recipe("nothing to evaluate")
                .hint("give `retrieval: {data: [...]}` or `classification: [{data: [...]}]`"));
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
    fn an_evaluation_of_nothing_is_refused() {
        assert!(plan("{}").is_err());
        assert_eq!(
            plan(r#"{"retrieval": {"data": ["a"]}}"#).unwrap().retrieval.unwrap().recall_k,
            [1, 5, 10]
        );
    }
}
