//! `clipmill why UID`: what became of one pair, read from the stages' own files.

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use clap::ArgMatches;
use serde_json::{Map, Value, json};
use stage::{Error, Result};
use store::subset::{self, Uid};

use super::Output;

/// Fewest characters of a uid that are looked for.
const SHORTEST: usize = 4;

pub(crate) fn why(args: &ArgMatches) -> Result<Output> {
    let (Some(uid), Some(url)) = (args.get_one::<String>("uid"), args.get_one::<String>("output"))
    else {
        return Err(Error::recipe("uid and --output are needed"));
    };
    let uid = uid.to_ascii_lowercase();
    if uid.len() < SHORTEST || uid.len() > 32 || !uid.chars().all(|c| c.is_ascii_hexdigit()) {
        return Err(Error::recipe(format!("`{uid}` is no uid"))
            .hint("a uid has 32 hex characters; the first four are enough here"));
    }
    let output = store::Output::open_existing(url)?;
    let resolved = output.get("recipe.resolved.json")?.ok_or_else(|| {
        Error::input("no run has written here").at(url).hint("name the output of a run")
    })?;
    let resolved: Value = serde_json::from_slice(&resolved)
        .map_err(|e| Error::input("broken recipe.resolved.json").because(e).at(url))?;
    let mut found = Vec::new();
    for entry in resolved.get("stages").and_then(Value::as_array).into_iter().flatten() {
        let Some(id) = entry.get("id").and_then(Value::as_str) else { continue };
        let dir = output.stage(id);
        for commit in dir.commits()?.into_values() {
            for file in &commit.files {
                if file.name.ends_with(".parquet") {
                    rows(&dir.blob(&file.name)?, &uid, id, &mut found)?;
                } else if file.name.ends_with("subset.npy") {
                    let chosen = subset::read(&dir.blob(&file.name)?)?;
                    let uids: Vec<String> = found
                        .iter()
                        .filter_map(|f: &Value| f["row"]["uid"].as_str())
                        .map(str::to_owned)
                        .collect();
                    let Some(full) = uids.first().and_then(|full| Uid::parse(full)) else {
                        continue;
                    };
                    let times = chosen.iter().filter(|one| **one == full).count();
                    found.push(json!({"stage": id, "selected": times}));
                }
            }
        }
    }
    if found.is_empty() {
        return Err(Error::input(format!(
            "no pair has the uid {uid}{}",
            if uid.len() < 32 { "…" } else { "" }
        ))
        .at(url));
    }
    let text: String = found.iter().map(describe).collect();
    Ok(Output::new(text, Value::Array(found)))
}

fn rows(blob: &store::Blob, uid: &str, stage: &str, found: &mut Vec<Value>) -> Result<()> {
    for batch in store::parquet::read_parquet(blob)? {
        let batch: RecordBatch = batch?;
        let Some(column) = batch.column_by_name("uid").and_then(|c| c.as_string_opt::<i32>())
        else {
            return Ok(());
        };
        for i in
            (0..column.len()).filter(|&i| column.is_valid(i) && column.value(i).starts_with(uid))
        {
            found.push(json!({"stage": stage, "file": blob.name(), "row": row(&batch, i)?}));
        }
    }
    Ok(())
}

fn row(batch: &RecordBatch, i: usize) -> Result<Value> {
    let mut row = Map::new();
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        if column.is_null(i) || field.name() == "image" {
            continue;
        }
        let text = arrow_cast::display::array_value_to_string(column, i)
            .map_err(|e| Error::internal("cannot show a value").because(e).at(field.name()))?;
        let number =
            field.data_type().is_numeric().then(|| serde_json::from_str(&text).ok()).flatten();
        row.insert(field.name().clone(), number.unwrap_or(Value::String(text)));
    }
    Ok(Value::Object(row))
}

fn describe(found: &Value) -> String {
    let stage = found["stage"].as_str().unwrap_or("?");
    if let Some(times) = found.get("selected") {
        let what =
            if times == 0 { "not selected".to_owned() } else { format!("selected ×{times}") };
        return format!("{stage}: {what}\n");
    }
    let mut text = format!("{stage}:\n");
    for (name, value) in found["row"].as_object().into_iter().flatten() {
        let shown =
            value.as_str().map_or_else(|| value.to_string(), |s| s.escape_debug().to_string());
        text.push_str(&format!("    {name}: {shown}\n"));
    }
    text
}
