//! Commands that look and change nothing: `check`, `stages`, `schema`, `completions`.

use std::path::Path;

use clap::ArgMatches;
use serde_json::{Value, json};
use stage::{Error, Result};

use super::{Output, args};
use crate::recipe::{Graph, KINDS, Recipe, json_schema, reference_page};

pub(crate) fn check(args: &ArgMatches) -> Result<Output> {
    let graph = graph(args)?;
    let stages: Vec<Value> = graph.nodes.iter().map(|node| {
        let kind = &graph.recipe.stages[node.entry].kind;
        json!({"id": node.id, "kind": kind.name(), "from": node.inputs, "references": node.references, "plan": kind.to_json()})
    }).collect();
    let mut text = format!("{}: {} stages, no mistake found\n", graph.recipe.file(), stages.len());
    for node in &graph.nodes {
        let kind = &graph.recipe.stages[node.entry].kind;
        let from = if node.inputs.is_empty() {
            String::new()
        } else {
            format!("  ← {}", node.inputs.join(", "))
        };
        text.push_str(&format!("  {:<16} {:<10}{from}\n", node.id, kind.name()));
    }
    Ok(Output::new(
        text,
        json!({"recipe": graph.recipe.name, "output": graph.recipe.output, "stages": stages}),
    ))
}

/// The recipe named on the command line, checked.
pub(crate) fn graph(args: &ArgMatches) -> Result<Graph> {
    let path = args.get_one::<String>("recipe").ok_or_else(|| Error::recipe("no recipe"))?;
    Graph::new(Recipe::read(Path::new(path))?)
}

pub(crate) fn stages() -> Output {
    let mut text = String::new();
    for kind in KINDS {
        let takes: Vec<&str> = kind.takes.iter().map(|n| n.word()).collect();
        let takes = if takes.is_empty() { "nothing".to_owned() } else { takes.join(" or ") };
        text.push_str(&format!(
            "{:<10} {} → {}\n           {}\n",
            kind.name,
            takes,
            kind.gives.word(),
            kind.about.trim()
        ));
    }
    let list: Vec<Value> = KINDS
        .iter()
        .map(|k| {
            json!({
                "name": k.name,
                "about": k.about.trim(),
                "takes": k.takes.iter().map(|n| n.word()).collect::<Vec<_>>(),
                "gives": k.gives.word(),
                "many": k.many,
                "optional": k.optional,
            })
        })
        .collect();
    Output::new(text, Value::Array(list))
}

pub(crate) fn schema(args: &ArgMatches) -> Output {
    let schema = json_schema();
    let text = if args.get_flag("markdown") {
        reference_page()
    } else {
        serde_json::to_string_pretty(&schema).unwrap_or_default()
    };
    Output::new(text, schema)
}

pub(crate) fn completions(matches: &ArgMatches) -> Result<Output> {
    let shell = *matches
        .get_one::<clap_complete::Shell>("shell")
        .ok_or_else(|| Error::recipe("no shell named"))?;
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut args::command(), "clipmill", &mut text);
    let text = String::from_utf8(text).map_err(|e| Error::internal("completions").because(e))?;
    let json = json!({"shell": shell.to_string(), "script": text});
    Ok(Output::new(text, json))
}
