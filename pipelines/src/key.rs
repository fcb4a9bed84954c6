//! A stage's key: the hash of everything that changes its bytes, and of nothing else.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use stage::{Context, Error, Result};

use crate::recipe::Kind;

/// What a key is made of; kept beside the output as `_stage.json`, so that a difference can be
/// shown field by field.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Identity(pub(crate) Value);

/// A stage's identity and, where it has scores, theirs.
pub(crate) struct Identities {
    pub(crate) stage: Identity,
    /// Thresholds left out.
    pub(crate) scores: Option<Identity>,
}

impl Identities {
    /// `external` is what [`crate::stages::Stage::external`] gives, `inputs` the keys of the stages
    /// that it takes, `references` the keys of those that its plan names, by id.
    pub(crate) fn of(
        kind: &Kind,
        context: &Context,
        external: &Value,
        inputs: &[String],
        references: &BTreeMap<String, String>,
    ) -> Self {
        let stage = kind.stage();
        let identity = |plan: Value| {
            Identity(json!({
                "kind": kind.name(),
                "code": stage.code(),
                "seed": context.seed,
                "plan": plan,
                "inputs": inputs,
                "references": references,
                "external": external,
            }))
        };
        Self { stage: identity(stage.identity()), scores: stage.scoring().map(identity) }
    }
}

impl Identity {
    pub(crate) fn key(&self) -> String {
        // serde_json keeps the order of insertion; every part is built in a fixed order.
        format!("{:x}", Sha256::digest(self.0.to_string()))
    }

    /// `field: before → now` for each leaf that differs.
    pub(crate) fn differences(&self, before: &Value) -> Vec<String> {
        differences(before, &self.0)
    }
}

/// `field: before → now` for each leaf that differs.
pub(crate) fn differences(before: &Value, now: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    differ("", before, now, &mut lines);
    lines
}

fn differ(path: &str, before: &Value, now: &Value, lines: &mut Vec<String>) {
    if before == now {
        return;
    }
    if let (Value::Object(a), Value::Object(b)) = (before, now) {
        let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
        names.sort();
        names.dedup();
        for name in names {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            differ(
                &path,
                a.get(name).unwrap_or(&Value::Null),
                b.get(name).unwrap_or(&Value::Null),
                lines,
            );
        }
        return;
    }
    if let (Value::Array(a), Value::Array(b)) = (before, now)
        && a.len() == b.len()
    {
        for (i, (a, b)) in a.iter().zip(b).enumerate() {
            differ(&format!("{path}[{i}]"), a, b, lines);
        }
        return;
    }
    lines.push(format!("{path}: {} → {}", short(before), short(now)));
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 {
        text
    } else {
        text.chars().take(57).chain("...".chars()).collect()
    }
}

/// Another recipe made what lies in this stage's folder. `scores`: its scores can be used again.
pub(crate) fn changed(id: &str, differences: &[String], scores: bool) -> Error {
    let kept = if scores { "; its scores are used again" } else { "" };
    Error::conflict(format!(
        "stage `{id}`: its output was made by another recipe\n    {}",
        differences.join("\n    ")
    ))
    .hint(format!(
        "add `--redo {id}` to make this stage and all after it again{kept}, or choose another output"
    ))
}

/// Reads a stored identity.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|e| {
        Error::store("broken _stage.json")
            .because(e)
            .hint("restore it, or make the stage again with `--redo`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_changed_field_is_named_with_both_values() {
        let now = Identity(json!({"plan": {"min_side": 256, "mode": "border"}}));
        let before = json!({"plan": {"min_side": 200, "mode": "border"}});
        assert_eq!(now.differences(&before), ["plan.min_side: 200 → 256"]);
    }

    #[test]
    fn a_changed_judge_is_named_by_its_place_in_the_list() {
        let now = Identity(json!({"plan": [{"caption_length": {"min_words": 3}}]}));
        let before = json!({"plan": [{"caption_length": {"min_words": 2}}]});
        assert_eq!(now.differences(&before), ["plan[0].caption_length.min_words: 2 → 3"]);
    }

    #[test]
    fn equal_identities_have_equal_keys() {
        let a = Identity(json!({"kind": "fetch", "plan": {"x": 1}}));
        assert_eq!(a.key(), a.clone().key());
        assert_ne!(a.key(), Identity(json!({"kind": "fetch", "plan": {"x": 2}})).key());
    }
}
