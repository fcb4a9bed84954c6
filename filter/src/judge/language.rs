//! Turns away captions of other languages, by a fastText model such as lid.176.
//!
//! The model is not shipped: `lid.176.ftz` (938 kB) and `lid.176.bin` (131 MB) are Facebook's,
//! CC-BY-SA 3.0, <https://fasttext.cc/docs/en/language-identification.html>. The label is that of
//! `predict(caption.replace("\n", " "))`, as DataComp asks it (`baselines/apply_filter.py`).

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_array::{Array, ArrayRef, Float32Array, StringArray};
use arrow_schema::{DataType, Field};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stage::{Error, Pairs, Result};

use super::{Judge, JudgeContext, JudgePlan, Scored, is_success};
use crate::asset::Asset;
use crate::fasttext::{Model, Scratch};

/// Language of the caption. Scores: `language` (the model's label without `__label__`, for lid.176
/// an ISO 639 code) and `language_score` (its probability, 0..=1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Language {
    /// The fastText model, `.ftz` or `.bin`: a path or URL, or `{path, sha256}`.
    pub model: Asset,
    /// Languages that are kept, default `[en]`; empty keeps all. Reason: `language`.
    #[serde(default = "english")]
    pub languages: Vec<String>,
    /// Smallest probability that is kept, 0..=1, default 0. Reason: `language`.
    #[serde(default)]
    pub min_score: f32,
}

fn english() -> Vec<String> {
    vec!["en".to_owned()]
}

impl JudgePlan for Language {
    fn name(&self) -> &'static str {
        "language"
    }

    fn validate(&self) -> Result<()> {
        self.model.validate("model")?;
        if !(0.0..=1.0).contains(&self.min_score) {
            let message = format!("min_score must lie in 0..=1, got {}", self.min_score);
            return Err(Error::recipe(message));
        }
        Ok(())
    }

    fn scores(&self) -> Vec<Field> {
        vec![
            Field::new("language", DataType::Utf8, true),
            Field::new("language_score", DataType::Float32, true),
        ]
    }

    fn scoring(&self) -> Value {
        json!({"model": self.model})
    }

    fn files(&self) -> Vec<&str> {
        vec![self.model.path()]
    }

    fn reasons(&self, scores: &[ArrayRef]) -> Vec<Option<&'static str>> {
        let labels = scores[0].as_string::<i32>();
        let scores = scores[1].as_primitive::<Float32Type>();
        let wanted = |label: &str| {
            self.languages.is_empty() || self.languages.iter().any(|wanted| wanted == label)
        };
        (0..labels.len())
            .map(|i| {
                let known = labels.is_valid(i) && scores.is_valid(i);
                let kept = known && wanted(labels.value(i)) && scores.value(i) >= self.min_score;
                (!kept).then_some("language")
            })
            .collect()
    }

    fn build(&self, _cx: &JudgeContext<'_>) -> Result<Box<dyn Judge>> {
        self.validate()?;
        let identifier = Identifier::open(&self.model).map_err(|e| e.at("language"))?;
        self.check_labels(&identifier.names).map_err(|e| e.at("language"))?;
        Ok(Box::new(Labels { identifier, scratch: Scratch::default() }))
    }
}

impl Language {
    /// A label that the model does not have would turn every caption away.
    fn check_labels(&self, names: &[String]) -> Result<()> {
        let Some(unknown) = self.languages.iter().find(|label| !names.contains(label)) else {
            return Ok(());
        };
        let asked = unknown.strip_prefix("__label__").unwrap_or(unknown).to_lowercase();
        let mut near: Vec<(f64, &String)> =
            names.iter().map(|name| (strsim::jaro_winkler(&asked, name), name)).collect();
        near.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
        let near: Vec<&str> = near.iter().take(5).map(|(_, name)| name.as_str()).collect();
        let message = format!("languages: the model has no label `{unknown}`");
        let hint = format!("near to it are {}; lid.176 has ISO 639 codes", near.join(", "));
        Err(Error::recipe(message).hint(hint))
    }
}

/// A fastText model whose labels are languages.
#[derive(Debug)]
pub struct Identifier {
    model: Model,
    names: Vec<String>,
}

impl Identifier {
    /// Opens a model.
    ///
    /// # Errors
    /// [`stage::Kind::Input`] that names the file, when it is missing or no such model.
    pub fn open(asset: &Asset) -> Result<Self> {
        let model = asset.open().and_then(|blob| Model::read(&blob));
        let model = model.map_err(|e| {
            e.hint("fasttext.cc offers lid.176.ftz (938 kB) and lid.176.bin (131 MB); name either as `model`")
        })?;
        let short = |label: &String| label.strip_prefix("__label__").unwrap_or(label).to_owned();
        let names = model.labels().iter().map(short).collect();
        Ok(Self { model, names })
    }

    /// Language and probability; line breaks count as blanks. `None` where the model knows no part
    /// of the text.
    #[must_use]
    pub fn language(&self, text: &str, scratch: &mut Scratch) -> Option<(&str, f32)> {
        let (label, score) = if text.contains('\n') {
            self.model.predict(&text.replace('\n', " "), scratch)?
        } else {
            self.model.predict(text, scratch)?
        };
        // fastText's guard against the logarithm of 0 makes some sums a little larger than 1.
        Some((self.names.get(label)?, score))
    }
}

struct Labels {
    identifier: Identifier,
    scratch: Scratch,
}

impl Judge for Labels {
    fn score(&mut self, pairs: &Pairs) -> Result<Scored> {
        let captions = pairs.captions();
        let mut labels = Vec::with_capacity(pairs.len());
        let mut scores = Vec::with_capacity(pairs.len());
        for i in 0..pairs.len() {
            let found = is_success(pairs, i)
                .then(|| self.identifier.language(captions.value(i), &mut self.scratch))
                .flatten();
            labels.push(found.map(|(label, _)| label));
            scores.push(found.map(|(_, score)| score));
        }
        let (labels, scores) = (StringArray::from(labels), Float32Array::from(scores));
        Ok(Scored::of(vec![Arc::new(labels), Arc::new(scores)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> Language {
        serde_json::from_str(json).unwrap()
    }

    fn columns() -> Vec<ArrayRef> {
        let labels = StringArray::from(vec![Some("en"), Some("en"), Some("de"), None]);
        let scores = Float32Array::from(vec![Some(0.9), Some(0.3), Some(0.9), None]);
        vec![Arc::new(labels), Arc::new(scores)]
    }

    #[test]
    fn english_is_kept_by_default_and_what_has_no_language_is_not() {
        let language = Some("language");
        let english = plan(r#"{"model": "m"}"#);
        assert_eq!(english.reasons(&columns()), [None, None, language, language]);
        let sure = plan(r#"{"model": "m", "languages": ["de", "en"], "min_score": 0.5}"#);
        assert_eq!(sure.reasons(&columns()), [None, language, None, language]);
        let any = plan(r#"{"model": "m", "languages": []}"#);
        assert_eq!(any.reasons(&columns()), [None, None, None, language]);
    }

    #[test]
    fn a_language_that_the_model_does_not_know_is_refused_with_those_near_to_it() {
        let names = ["de", "en", "eo", "fr"].map(str::to_owned);
        let check = |json: &str| plan(json).check_labels(&names);
        check(r#"{"model": "m"}"#).unwrap();
        check(r#"{"model": "m", "languages": []}"#).unwrap();
        let error = check(r#"{"model": "m", "languages": ["en", "eng"]}"#).unwrap_err();
        assert_eq!(error.kind(), stage::Kind::Recipe);
        assert_eq!(error.to_string(), "languages: the model has no label `eng`");
        assert!(error.hint_text().unwrap().starts_with("near to it are en, "), "{error}");
    }

    #[test]
    fn a_missing_model_is_an_input_error_that_names_the_file_and_where_models_are() {
        let cx = stage::Context::default();
        let plan = plan(r#"{"model": "no/such.ftz"}"#);
        let error = plan.build(&JudgeContext::new(&cx)).err().unwrap();
        assert_eq!(error.kind(), stage::Kind::Input);
        assert!(error.to_string().contains("no/such.ftz"), "{error}");
        assert!(error.hint_text().unwrap().contains("fasttext.cc"), "{error}");
    }

    #[test]
    fn a_probability_beyond_one_is_refused() {
        let error = plan(r#"{"model": "m", "min_score": 65.0}"#).validate().unwrap_err();
        assert_eq!(error.to_string(), "min_score must lie in 0..=1, got 65");
    }
}
