//! What a recipe says of a release.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage::{Error, Result};

/// Writes a release: shards, metadata, subset file, manifest, checksums, card and Croissant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleasePlan {
    /// The licence of what is released, by the hub's identifier: `cc-by-4.0`, `cc0-1.0`, `mit`,
    /// `other`; small letters, digits, `.`, `-`, `+`. Needed: there is no default.
    pub license: String,
    /// What stands in the file LICENSE below the licence's name: who holds the rights, where the
    /// whole text is. Default: that the metadata is under this licence and that pictures and texts
    /// keep the rights of whoever made them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license_note: Option<String>,
    /// The name that people see. Default: the id of the stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What it is, in a few sentences. Default: a sentence made from the counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Who publishes it. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creator: Option<String>,
    /// How it is to be cited (BibTeX or a sentence). Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub citation: Option<String>,
    /// Where it will be found (`https://…`). Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The day of publication, `YYYY-MM-DD`; a recipe's, since no clock enters an output. Default
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// Version, three numbers; a purge raises the first. Default `1.0.0`.
    #[serde(default = "first_version")]
    pub version: String,
    /// The hub's task categories. Default `zero-shot-image-classification`, `image-to-text`,
    /// `text-to-image`.
    #[serde(default = "tasks", alias = "task_categories")]
    pub tasks: Vec<String>,
    /// Languages of the captions (`en`). Default none: not said.
    #[serde(default)]
    pub languages: Vec<String>,
    /// Whether only URLs, captions and scores are released, as DataComp does; default false: the
    /// shards too. From a selection or scores only this can be made.
    #[serde(default)]
    pub metadata_only: bool,
    /// Whether a release without a single pair is written; default false: it is refused.
    #[serde(default)]
    pub allow_empty: bool,
    /// Models that belong to it: ids of stages that give a checkpoint. They stand in the lineage;
    /// their weights are not copied. Default none.
    #[serde(default)]
    pub checkpoints: Vec<String>,
    /// Whether what the Hugging Face hub would refuse (more than 10,000 files in a folder, 100,000
    /// in all, a file over 50 GB, odd names) is an error; default true. With false it is a warning.
    #[serde(default = "yes")]
    pub hub_limits: bool,
}

fn first_version() -> String {
    "1.0.0".to_owned()
}

fn tasks() -> Vec<String> {
    ["zero-shot-image-classification", "image-to-text", "text-to-image"].map(str::to_owned).to_vec()
}

fn yes() -> bool {
    true
}

impl ReleasePlan {
    /// A plan with this licence and every default.
    #[must_use]
    pub fn new(license: &str) -> Self {
        Self {
            license: license.to_owned(),
            license_note: None,
            title: None,
            description: None,
            creator: None,
            citation: None,
            url: None,
            date: None,
            version: first_version(),
            tasks: tasks(),
            languages: Vec::new(),
            metadata_only: false,
            allow_empty: false,
            checkpoints: Vec::new(),
            hub_limits: true,
        }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// Names the field, its rule and what it got.
    pub fn validate(&self) -> Result<()> {
        let id = |text: &str| {
            !text.is_empty()
                && text.len() <= 64
                && text.chars().all(|c| {
                    c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '+')
                })
        };
        if !id(&self.license) {
            return Err(Error::recipe(format!(
                "license must be an identifier of small letters, digits, `.`, `-` and `+`, got {:?}",
                self.license
            ))
            .hint("the hub's identifiers: cc-by-4.0, cc-by-nc-4.0, cc0-1.0, mit, apache-2.0, other"));
        }
        for (name, list) in [("tasks", &self.tasks), ("languages", &self.languages)] {
            if let Some(odd) = list.iter().find(|text| !id(text)) {
                return Err(Error::recipe(format!(
                    "{name} must be words of small letters, digits and `-`, got {odd:?}"
                )));
            }
        }
        let numbers: Vec<&str> = self.version.split('.').collect();
        let number = |text: &&str| {
            !text.is_empty() && text.len() <= 6 && text.bytes().all(|b| b.is_ascii_digit())
        };
        if numbers.len() != 3 || !numbers.iter().all(number) {
            let message = format!("version must be three numbers, got {:?}", self.version);
            return Err(Error::recipe(message).hint("write it as `1.0.0`"));
        }
        if let Some(date) = &self.date
            && !is_day(date)
        {
            return Err(Error::recipe(format!("date must be YYYY-MM-DD, got {date:?}")));
        }
        if let Some(url) = &self.url
            && !(url.starts_with("https://") || url.starts_with("http://"))
        {
            return Err(Error::recipe(format!("url must start with https://, got {url:?}")));
        }
        // They stand in the card's headings and in YAML.
        let lines = [("title", &self.title), ("creator", &self.creator), ("url", &self.url)];
        let texts = [
            ("description", &self.description),
            ("license_note", &self.license_note),
            ("citation", &self.citation),
        ];
        let odd = |text: &Option<String>, also: &[char]| {
            text.iter().flat_map(|t| t.chars()).find(|c| c.is_control() && !also.contains(c))
        };
        let one = lines.map(|(name, text)| (name, odd(text, &[])));
        let many = texts.map(|(name, text)| (name, odd(text, &['\n', '\r', '\t'])));
        for (name, odd) in one.into_iter().chain(many) {
            if let Some(odd) = odd {
                return Err(Error::recipe(format!("{name} must not have the character {odd:?}")));
            }
        }
        Ok(())
    }

    /// The same for the version after a purge: `1.4.2` becomes `2.0.0`. The day of publication was
    /// that of the version before: of this one none is known.
    #[must_use]
    pub fn next_version(&self) -> Self {
        let first: u64 = self.version.split('.').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        Self { version: format!("{}.0.0", first + 1), date: None, ..self.clone() }
    }
}

fn is_day(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [year, month, day] = parts[..] else { return false };
    let number = |text: &str, len: usize, low: u32, high: u32| {
        text.len() == len && text.parse::<u32>().is_ok_and(|n| (low..=high).contains(&n))
    };
    number(year, 4, 1, 9999) && number(month, 2, 1, 12) && number(day, 2, 1, 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_breaks_its_rule_is_named() {
        let told = |change: &dyn Fn(&mut ReleasePlan)| {
            let mut plan = ReleasePlan::new("cc-by-4.0");
            change(&mut plan);
            plan.validate().unwrap_err().to_string()
        };
        ReleasePlan::new("cc-by-4.0").validate().unwrap();
        assert!(told(&|p| p.license = "CC BY".into()).starts_with("license must be"));
        assert!(told(&|p| p.version = "1".into()).starts_with("version must be three numbers"));
        assert!(told(&|p| p.date = Some("2026-13-01".into())).starts_with("date must be"));
        assert!(told(&|p| p.tasks = vec!["a b".into()]).starts_with("tasks must be"));
        let odd = told(&|p| p.title = Some("a\n---".into()));
        assert_eq!(odd, "title must not have the character '\\n'");
        let odd = told(&|p| p.citation = Some("a\u{1b}[2J".into()));
        assert_eq!(odd, "citation must not have the character '\\u{1b}'");
    }

    #[test]
    fn a_purge_raises_the_first_number() {
        let date = Some("2026-11-22".into());
        let plan = ReleasePlan { version: "1.4.2".into(), date, ..ReleasePlan::new("mit") };
        let next = plan.next_version();
        assert_eq!((next.version.as_str(), next.date), ("2.0.0", None));
    }
}
