//! What a finished run has to say: the table at its end, the HTML report.

mod about;
mod collect;
mod compare;
mod map;
mod near;
mod page;
mod pictures;
mod release;
mod time;

use std::sync::Arc;

use serde_json::{Value, json};
use stage::{Counts, Error, Result};
use store::Output;

pub(crate) use collect::{Judged, reports, scores};
pub(crate) use compare::compare_page;
pub(crate) use page::{Extra, thousands, write_report};

use crate::cli::brief;
use crate::recipe::Graph;
use crate::run::stage_file;
use crate::stages::Done;
use crate::wall;

/// One JSON object a stage.
pub(crate) fn summary(stages: &[Arc<Done>]) -> Vec<Value> {
    stages
        .iter()
        .map(|done| {
            let info = match done.commits.as_slice() {
                [one] => one.info.clone(),
                _ => added(done),
            };
            json!({
                "id": done.id,
                "kind": done.kind,
                "key": done.key,
                "counts": done.counts,
                "units": done.commits.len(),
                "folder": done.dir.locate(""),
                "info": info,
            })
        })
        .collect()
}

/// What several units say in numbers, added up (`pages`, `image_links`), and their `seconds`.
fn added(done: &Done) -> Value {
    let mut sums: serde_json::Map<String, Value> = serde_json::Map::new();
    for commit in &done.commits {
        for (name, value) in commit.info.as_object().into_iter().flatten() {
            let Some(number) = value.as_f64().filter(|_| name != wall::BEGAN) else { continue };
            let before = sums.get(name).and_then(Value::as_f64).unwrap_or(0.0);
            let sum = before + number;
            let whole = value.is_u64() && sum.fract() == 0.0;
            sums.insert(name.clone(), if whole { json!(sum as u64) } else { json!(sum) });
        }
    }
    if let Some(seconds) = sums.get_mut(wall::SECONDS) {
        *seconds = json!(wall::seconds(done.commits.iter()));
    }
    Value::Object(sums)
}

/// Two lines a stage at most: what came in and what became of it.
pub(crate) fn table(stages: &[Arc<Done>]) -> String {
    let mut text = String::new();
    for done in stages {
        text.push_str(&format!("  {:<16} {:<10}{}\n", done.id, done.kind, brief(&done.counts)));
    }
    text
}

/// The finished stages of an output, for a report after the fact.
pub(crate) fn finished(graph: &Graph, output: &Output) -> Result<Vec<Arc<Done>>> {
    let mut stages: Vec<Arc<Done>> = Vec::new();
    for node in &graph.nodes {
        let entry = &graph.recipe.stages[node.entry];
        let dir = output.stage(&node.id);
        let commits = dir.commits()?;
        let Some(list) =
            commits.get("_finished").and_then(|c| c.info.get("units")?.as_array().cloned())
        else {
            continue;
        };
        let ordered: Vec<store::Commit> =
            list.iter().filter_map(|unit| commits.get(unit.as_str()?).cloned()).collect();
        let mut counts = Counts::default();
        ordered.iter().for_each(|commit| counts.merge(&commit.counts));
        let find = |ids: &[String]| {
            let found = ids.iter().filter_map(|id| stages.iter().find(|d| d.id == *id).cloned());
            found.collect::<Vec<Arc<Done>>>()
        };
        let (inputs, references) = (find(&node.inputs), find(&node.references));
        let identity = output.get(&stage_file(&node.id))?;
        let identity = identity.map(|bytes| crate::key::parse(&bytes)).transpose()?;
        let key = ordered.first().map(|c| c.key.clone()).unwrap_or_default();
        stages.push(Arc::new(Done {
            id: node.id.clone(),
            kind: entry.kind.name(),
            noun: entry.kind.info().gives,
            key,
            dir,
            commits: ordered,
            counts,
            inputs,
            references,
            identity: identity.unwrap_or_default(),
            plan: entry.kind.to_json(),
        }));
    }
    if stages.is_empty() {
        return Err(Error::input("no finished stage in this output")
            .at(output.url())
            .hint("run the recipe first"));
    }
    Ok(stages)
}
