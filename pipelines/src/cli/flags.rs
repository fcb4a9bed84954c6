//! Command-line flags out of a plan's JSON schema: a stage's command has the recipe's fields.
//!
//! So `clipmill fetch` knows img2dataset's flag names and `clipmill train` open_clip's without a
//! second list that could grow apart from the recipes. Underscores and hyphens are the same.

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Map, Value};
use stage::{Error, Result};

/// Adds one `--flag VALUE` for each field of this schema.
pub(crate) fn add(mut command: Command, schema: &Value, skip: &[&str]) -> Command {
    for (name, field) in fields(schema) {
        if skip.contains(&name.as_str()) {
            continue;
        }
        let mut help =
            field.get("description").and_then(Value::as_str).unwrap_or("").replace('\n', " ");
        if let Some(default) = field.get("default").filter(|v| !v.is_null()) {
            help = format!("{help} [default: {default}]");
        }
        let hyphens = name.replace('_', "-");
        let id = name.clone();
        let mut arg =
            Arg::new(id.clone()).long(id).help(help).value_name("VALUE").action(ArgAction::Append);
        if hyphens != name {
            arg = arg.alias(hyphens);
        }
        for alias in field.get("aliases").and_then(Value::as_array).into_iter().flatten() {
            let alias = alias.as_str().unwrap_or_default();
            arg = arg.alias(alias.to_owned()).alias(alias.replace('_', "-"));
        }
        if let Some(count) = numbers(&field) {
            // `--image-mean 0.5 0.5 0.5`, as Python's parsers take lists.
            arg = arg.num_args(1..=count).allow_negative_numbers(true);
        }
        if accepts(&field, "boolean") && !accepts(&field, "string") {
            // `--lock-image` alone is `--lock-image true`, as Python's flags are.
            arg = arg.num_args(0..=1).default_missing_value("true");
        }
        command = command.arg(arg);
    }
    command
}

/// The fields that were given, as JSON; a value is read as YAML, so `3`, `true`, `[a, b]` and
/// `{k: v}` work; a flag that is repeated makes a list.
pub(crate) fn read(
    matches: &ArgMatches,
    schema: &Value,
    skip: &[&str],
) -> Result<Map<String, Value>> {
    let mut plan = Map::new();
    for (name, field) in fields(schema) {
        if skip.contains(&name.as_str()) {
            continue;
        }
        let Ok(Some(values)) = matches.try_get_many::<String>(&name) else { continue };
        // As Python says "the default".
        let default = values.clone().all(|text| text == "None");
        if default && accepts(&field, "array") && !accepts(&field, "null") {
            continue;
        }
        let values: Vec<Value> =
            values.map(|text| parse(&name, text, &field)).collect::<Result<_>>()?;
        let list = accepts(&field, "array");
        let value = match values.len() {
            1 if !list || values[0].is_array() || values[0].is_null() => {
                values.into_iter().next().unwrap_or(Value::Null)
            }
            _ if list => Value::Array(values),
            n => {
                return Err(Error::recipe(format!(
                    "--{name} was given {n} times and takes one value"
                )));
            }
        };
        plan.insert(name, value);
    }
    Ok(plan)
}

fn parse(name: &str, text: &str, field: &Value) -> Result<Value> {
    // As Python writes them, whose tools' users come with their commands.
    match text {
        "None" | "inf" if accepts(field, "null") => return Ok(Value::Null),
        "True" | "False" if accepts(field, "boolean") => return Ok(Value::Bool(text == "True")),
        _ => {}
    }
    // A word that looks like a number stays a word where the field wants text.
    if accepts(field, "string") && !accepts(field, "number") && !accepts(field, "integer") {
        return Ok(Value::String(text.to_owned()));
    }
    // `*.tar`, `{00000..00009}.tar` and `[ab].tar` are names of files, not YAML.
    if texts(field) {
        let list = serde_saphyr::from_str::<Vec<String>>(text).ok();
        return Ok(list.filter(|_| text.starts_with('[')).map_or_else(
            || Value::String(text.to_owned()),
            |list| list.into_iter().map(Value::String).collect(),
        ));
    }
    serde_saphyr::from_str::<Value>(text)
        .map_err(|e| Error::recipe(format!("--{name} {text}: not readable")).because(e.to_string()))
}

/// The properties of a schema, through one `$ref` if need be.
fn fields(schema: &Value) -> Vec<(String, Value)> {
    let target = resolve(schema, schema);
    // A plan that is a choice has one flag a choice: `--mil '{...}'`.
    if let Some(choices) = target.get("oneOf").and_then(Value::as_array) {
        let named = |choice: &Value| {
            let about = choice.get("description").cloned();
            let (name, inner) = choice.get("properties")?.as_object()?.iter().next()?;
            let mut field = merged(schema, inner);
            if let (Some(field), Some(about)) = (field.as_object_mut(), about) {
                field.insert("description".to_owned(), about);
            }
            Some((name.clone(), field))
        };
        return choices.iter().filter_map(named).collect();
    }
    let Some(properties) = target.get("properties").and_then(Value::as_object) else {
        return Vec::new();
    };
    properties.iter().map(|(name, field)| (name.clone(), merged(schema, field))).collect()
}

fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    match schema.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix('#')) {
        Some(pointer) => root.pointer(pointer).unwrap_or(schema),
        None => schema,
    }
}

/// The field with what its `$ref` says below what it says itself.
fn merged(root: &Value, field: &Value) -> Value {
    let mut all = resolve(root, field).as_object().cloned().unwrap_or_default();
    for (key, value) in field.as_object().into_iter().flatten() {
        all.insert(key.clone(), value.clone());
    }
    Value::Object(all)
}

/// How many numbers a field has, where it is a list of just so many.
fn numbers(field: &Value) -> Option<usize> {
    let kind = field.pointer("/items/type")?;
    let most = field.get("maxItems").and_then(Value::as_u64)?;
    (kind == "number" && (2..=16).contains(&most)).then_some(most as usize)
}

/// Whether a field is a list of words.
fn texts(field: &Value) -> bool {
    accepts(field, "array") && field.pointer("/items/type").is_some_and(|kind| kind == "string")
}

fn accepts(field: &Value, kind: &str) -> bool {
    match field.get("type") {
        Some(Value::String(one)) => one == kind,
        Some(Value::Array(many)) => many.iter().any(|one| one == kind),
        _ => field
            .get("anyOf")
            .or_else(|| field.get("oneOf"))
            .and_then(Value::as_array)
            .is_some_and(|any| any.iter().any(|one| accepts(one, kind))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(schemars::JsonSchema)]
    #[allow(dead_code, reason = "only its schema is used")]
    struct Plan {
        /// Pixels.
        image_size: u32,
        wat: Vec<String>,
        name: Option<String>,
        only: bool,
        scale: Option<[f64; 2]>,
    }

    fn read_flags(args: &[&str]) -> Map<String, Value> {
        let schema = serde_json::to_value(schemars::schema_for!(Plan)).unwrap();
        let command = add(Command::new("t"), &schema, &[]);
        let matches = command.try_get_matches_from(std::iter::once(&"t").chain(args)).unwrap();
        read(&matches, &schema, &[]).unwrap()
    }

    #[test]
    fn hyphens_and_underscores_are_the_same() {
        assert_eq!(read_flags(&["--image-size", "256"]), read_flags(&["--image_size", "256"]));
        assert_eq!(read_flags(&["--image_size", "256"])["image_size"], 256);
    }

    #[test]
    fn one_value_or_several_make_a_list_where_a_list_is_wanted() {
        assert_eq!(read_flags(&["--wat", "a.gz"])["wat"], serde_json::json!(["a.gz"]));
        assert_eq!(read_flags(&["--wat", "a", "--wat", "b"])["wat"], serde_json::json!(["a", "b"]));
        assert_eq!(read_flags(&["--wat", "[a, b]"])["wat"], serde_json::json!(["a", "b"]));
    }

    #[test]
    fn a_glob_and_a_brace_range_are_names_and_not_yaml() {
        for name in ["*.wat.gz", "{00000..00001}.tar", "[ab].tar", "a.gz # b", "?x: y"] {
            assert_eq!(read_flags(&["--wat", name])["wat"], serde_json::json!([name]));
        }
    }

    #[test]
    fn a_choice_is_a_flag_of_its_own() {
        #[derive(schemars::JsonSchema)]
        #[serde(rename_all = "snake_case")]
        #[allow(dead_code, reason = "only its schema is used")]
        enum Choice {
            /// One way.
            Mil(Plan),
        }
        let schema = serde_json::to_value(schemars::schema_for!(Choice)).unwrap();
        let command = add(Command::new("t"), &schema, &[]);
        let matches = command.try_get_matches_from(["t", "--mil", "{image_size: 3}"]).unwrap();
        assert_eq!(read(&matches, &schema, &[]).unwrap()["mil"]["image_size"], 3);
    }

    #[test]
    fn numbers_of_a_short_list_may_stand_side_by_side() {
        let pair = serde_json::json!([0.5, 1.0]);
        assert_eq!(read_flags(&["--scale", "0.5", "1.0"])["scale"], pair);
        assert_eq!(read_flags(&["--scale", "[0.5, 1.0]", "--only"])["scale"], pair);
    }

    #[test]
    fn null_is_no_list() {
        assert_eq!(read_flags(&["--scale", "null"])["scale"], Value::Null);
    }

    #[test]
    fn a_switch_needs_no_value() {
        assert_eq!(read_flags(&["--only", "--name", "x"])["only"], true);
        assert_eq!(read_flags(&["--only", "false"])["only"], false);
    }

    #[test]
    fn text_stays_text() {
        assert_eq!(read_flags(&["--name", "010"])["name"], "010");
        assert_eq!(read_flags(&["--only", "true"])["only"], true);
    }
}
