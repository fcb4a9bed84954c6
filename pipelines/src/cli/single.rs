//! One stage from the command line: the recipe is made from the flags, then run like any other.

use clap::{Arg, ArgMatches, Command};
use serde_json::{Map, Value, json};
use stage::{Error, Result};

use super::{Output, flags, img2dataset, open_clip, run};
use crate::recipe::{Graph, KindInfo, Noun, Recipe, json_schema};

/// Fields that every command has already.
pub(crate) const SKIPPED: &[&str] = &["output", "threads", "seed", "json", "verbose"];

/// Kinds that are only ever a source for another command.
const SOURCES: [&str; 5] = ["link_list", "shards", "pool", "embeddings", "checkpoint"];

/// The command of this kind, without its flags.
pub(crate) fn command(kind: &KindInfo) -> Option<Command> {
    if SOURCES.contains(&kind.name) {
        return None;
    }
    let mut command = Command::new(kind.name).about(kind.about.trim()).arg(
        Arg::new("seed")
            .long("seed")
            .value_parser(clap::value_parser!(u64))
            .default_value("0")
            .help("Seed"),
    );
    let example = example(kind.name);
    let from_peer = match kind.name {
        "fetch" => img2dataset::help(),
        "train" => open_clip::help().to_owned(),
        _ => String::new(),
    };
    command = command.after_help(format!(
        "Each flag is a field of the recipe; a value is read as YAML, so lists are [a, b] and maps {{k: v}}; \
         names of files are taken as they are.\nHyphens and underscores are the same. Without --output \
         everything is written to clipmill-{}.\n{from_peer}\nExample:\n  {example}",
        kind.name
    ));
    Some(match kind.name {
        "judge" => command.arg(rule_flag()),
        "fetch" => img2dataset::add(command),
        "train" => open_clip::add(command),
        _ => command,
    })
}

/// One line that works on files of one's own.
fn example(kind: &str) -> &'static str {
    match kind {
        "links" => "clipmill links --wat 'CC-MAIN-*.warc.wat.gz' --output links",
        "dedup" => "clipmill dedup --url_list links/links --by uid --output unique",
        "fetch" => {
            "clipmill fetch --url_list urls.parquet --caption_col text --image_size 256 --resize_mode keep_ratio --output_folder pool"
        }
        "judge" => {
            "clipmill judge --urls pool/fetch --rule 'caption_length: {min_words: 3}' --rule 'clip_score: {checkpoint: scorer/train}' --output scores"
        }
        "embed" => "clipmill embed --urls pool/fetch --checkpoint scorer/train --output embeddings",
        "select" => {
            "clipmill select --parquet scores/judge --where 'clip_score >= quantile(clip_score, 0.7)' --output chosen"
        }
        "clusters" => "clipmill clusters --folders embeddings/embed --k 1000 --output clusters",
        "near_duplicates" => {
            "clipmill near_duplicates --parquet scores/judge --max_distance 2 --output unique"
        }
        "decontaminate" => {
            "clipmill decontaminate --folders embeddings/embed --against evaluation/embed --min_cosine 0.95 --output clean"
        }
        "reshard" => {
            "clipmill reshard --urls pool/fetch --subset chosen/select/subset.npy --output training"
        }
        "release" => {
            "clipmill release --urls training/reshard --license cc-by-4.0 --title 'Grey pictures' --output published"
        }
        "train" => {
            "clipmill train --model tiny-32 --data training/reshard --epochs 5 --idle_channels 0.5 --output trained"
        }
        "compress" => "clipmill compress --checkpoint trained/train --repavit '{}' --output folded",
        "eval" => {
            "clipmill eval --checkpoint trained/train --retrieval '{data: [validation]}' --output measured"
        }
        "task" => {
            "clipmill task --checkpoint trained/train --mil '{data: [pictures], label: category, positive: flags}' --output bags"
        }
        _ => "clipmill --help",
    }
}

/// A judge stage is a list, and a list has no field names to make flags of.
fn rule_flag() -> Arg {
    Arg::new("rule")
        .long("rule")
        .value_name("YAML")
        .action(clap::ArgAction::Append)
        .required(true)
        .help("A judge, as in a recipe: 'caption_length: {min_words: 3}'; repeat for several")
}

/// The schemas that give this command its flags: its source's, then its own.
pub(crate) fn schemas(kind: &KindInfo, root: &Value) -> Vec<Value> {
    let mut names = vec![kind.name];
    names.extend(source(kind));
    names.into_iter().filter_map(|name| plan_schema(root, name)).collect()
}

/// The source that feeds a stage which runs alone.
fn source(kind: &KindInfo) -> Option<&'static str> {
    if kind.name == "reshard" {
        // A choice comes as a file; what is chosen from are shards.
        return Some("shards");
    }
    match kind.takes.first()? {
        Noun::Links => Some("link_list"),
        Noun::Scores | Noun::Subset => Some("pool"),
        Noun::Checkpoint => Some("checkpoint"),
        Noun::Embeddings => Some("embeddings"),
        _ if kind.name == "train" => None,
        _ => Some("shards"),
    }
}

fn plan_schema(root: &Value, name: &str) -> Option<Value> {
    let mut schema = root.pointer(&format!("/$defs/stage/properties/{name}"))?.clone();
    // References inside point into the root's definitions.
    if let Some(object) = schema.as_object_mut() {
        object.insert("$defs".to_owned(), root.get("$defs")?.clone());
    }
    Some(schema)
}

pub(crate) fn run(name: &str, args: &ArgMatches) -> Result<Output> {
    let recipe = recipe(name, args)?;
    let text =
        serde_json::to_string_pretty(&recipe).map_err(|e| Error::internal("recipe").because(e))?;
    let graph = Graph::new(Recipe::parse(&format!("clipmill {name}"), &text)?)?;
    run::execute(&graph, args, None)
}

/// The recipe that these flags say.
pub(crate) fn recipe(name: &str, args: &ArgMatches) -> Result<Value> {
    if name == "fetch" {
        img2dataset::check(args)?;
    }
    let kind = crate::recipe::KINDS
        .iter()
        .find(|kind| kind.name == name)
        .ok_or_else(|| Error::recipe(format!("no command `{name}`")))?;
    let root = json_schema();
    let mut stages = Vec::new();
    if let Some(source) = source(kind) {
        let mut plan = read(&root, source, args)?;
        if name == "fetch" && !plan.contains_key("columns") {
            carry_columns(&mut plan, &read(&root, name, args)?);
        }
        stages.push(json!({ source: plan }));
    }
    let plan = match name {
        "judge" => rules(args)?,
        "train" => {
            let mut plan = read(&root, name, args)?;
            open_clip::apply(args, &mut plan)?;
            Value::Object(plan)
        }
        _ => Value::Object(read(&root, name, args)?),
    };
    if name == "fetch" && plan.get("retry_failed") == Some(&Value::Bool(true)) {
        // The fetch of the same flags before it, which is done already, and then what failed there.
        let mut first = plan.clone();
        if let Some(first) = first.as_object_mut() {
            first.remove("retry_failed");
        }
        stages.push(json!({ name: first }));
        stages.push(json!({ "id": "retry", "from": name, name: plan }));
    } else {
        stages.push(json!({ name: plan }));
    }
    let default = format!("clipmill-{name}");
    let of_logs = if name == "train" { open_clip::output(args, &default)? } else { None };
    let output = args.get_one::<String>("output").cloned().or(of_logs).unwrap_or(default);
    let seed = args.get_one::<u64>("seed").copied().unwrap_or(0);
    Ok(json!({"version": 1, "name": name, "seed": seed, "output": output, "stages": stages}))
}

fn read(root: &Value, name: &str, args: &ArgMatches) -> Result<Map<String, Value>> {
    match plan_schema(root, name) {
        Some(schema) => flags::read(args, &schema, SKIPPED),
        None => Ok(Map::new()),
    }
}

/// A list of links that is read for one fetch carries the columns that the fetch names.
fn carry_columns(list: &mut Map<String, Value>, fetch: &Map<String, Value>) {
    let additional = fetch.get("save_additional_columns").and_then(Value::as_array);
    let names = additional.into_iter().flatten().chain(fetch.get("bbox_col"));
    let names = names.chain(fetch.get("verify_hash").and_then(|verify| verify.get(0)));
    let mut columns: Vec<Value> = Vec::new();
    for name in names.filter(|name| name.is_string() && *name != "uid") {
        if !columns.contains(name) {
            columns.push(name.clone());
        }
    }
    if !columns.is_empty() {
        list.insert("columns".to_owned(), Value::Array(columns));
    }
}

fn rules(args: &ArgMatches) -> Result<Value> {
    let rules = args.get_many::<String>("rule").into_iter().flatten();
    let rules: Vec<Value> = rules
        .map(|text| {
            serde_saphyr::from_str::<Value>(text).map_err(|e| {
                Error::recipe(format!("--rule {text}: not readable")).because(e.to_string())
            })
        })
        .collect::<Result<_>>()?;
    Ok(Value::Array(rules))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_every_command_is_a_command() {
        for kind in crate::recipe::KINDS.iter().filter(|kind| command(kind).is_some()) {
            // Single quotes are all that the examples use of a shell.
            let parts = example(kind.name).split('\'').enumerate();
            let words: Vec<&str> =
                parts
                    .flat_map(|(i, part)| {
                        if i % 2 == 1 { vec![part] } else { part.split_whitespace().collect() }
                    })
                    .collect();
            assert_eq!(words[1], kind.name);
            let parsed = super::super::args::command().try_get_matches_from(&words);
            parsed.unwrap_or_else(|error| panic!("{}: {error}", kind.name));
        }
    }
}
