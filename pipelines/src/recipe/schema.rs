//! The JSON schema of recipes and the reference page made from it.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::kinds::{self, KINDS};
use super::parse::Replay;
use crate::cost::Cost;

/// The JSON schema of a recipe, for editors and for the command line's flags.
#[must_use]
pub fn json_schema() -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let mut properties = Map::new();
    properties.insert("id".into(), json!({"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_-]{0,63}$", "description": "Name of the stage and of its folder; its kind by default."}));
    properties.insert("from".into(), json!({"description": "The stages it takes: one id or a list; the stage above by default.", "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}));
    let mut one_of = Vec::new();
    for ((name, schema), info) in kinds::schemas(&mut generator).into_iter().zip(KINDS) {
        let mut schema = schema.to_value();
        if let Some(object) = schema.as_object_mut() {
            object.insert("description".into(), Value::from(info.about.trim()));
        }
        properties.insert(name.into(), schema);
        one_of.push(json!({"required": [name]}));
    }
    let replay = generator.subschema_for::<Replay>().to_value();
    let mut cost = generator.subschema_for::<Cost>().to_value();
    if let Some(object) = cost.as_object_mut() {
        let about = "What an hour of the machine costs: `plan` and the report then show money for each stage. Default none, and nothing is said of money.";
        object.insert("description".into(), about.into());
    }
    let mut definitions: Map<String, Value> = generator.take_definitions(true);
    definitions.insert(
        "stage".into(),
        json!({"type": "object", "properties": properties, "oneOf": one_of, "additionalProperties": false}),
    );
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "clipmill recipe",
        "type": "object",
        "required": ["version", "name", "output", "stages"],
        "additionalProperties": false,
        "properties": {
            "version": {"const": 1, "description": "Version of the recipe language."},
            "name": {"type": "string", "description": "Name of the job."},
            "seed": {"type": "integer", "minimum": 0, "default": 0, "description": "Seed of everything random."},
            "output": {"type": "string", "description": "Folder or object store URL for everything that is written."},
            "threads": {"type": "integer", "minimum": 1, "maximum": 1024, "description": "CPU threads; every core by default."},
            "dial": {"type": "object", "additionalProperties": {"type": "string"}, "description": "Where hosts are dialled instead, by name or `*`: `{\"*\": \"127.0.0.1:8080\"}`. https is asked as http there, and the URL stays as it is."},
            "replay": replay,
            "cost": cost,
            "stages": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/stage"}, "description": "The stages."}
        },
        "$defs": definitions,
    })
}

/// `docs/recipes.md`: every stage and field with type, default and meaning.
#[must_use]
pub fn reference_page() -> String {
    let schema = json_schema();
    let mut page = String::from(concat!(
        "# Recipes\n\n",
        "This page is generated: `clipmill schema --markdown > docs/recipes.md`. A test fails when it is stale.\n\n",
        "A recipe is one page of YAML. Stages stand in order, the kind as the key. A stage may carry `id:` and `from:` ",
        "(one id or several); without `from:` it takes the stage above. Paths are relative to the working directory. ",
        "`clipmill check RECIPE.yaml` finds mistakes before anything runs.\n\n",
        "## The recipe\n\n",
    ));
    table(&mut page, &schema, &schema);
    if let Some(replay) = schema.pointer("/properties/replay") {
        page.push_str("\nFields of `replay`:\n\n");
        table(&mut page, &schema, resolve(&schema, replay));
    }
    if let Some(cost) = schema.pointer("/properties/cost") {
        page.push_str("\nFields of `cost`:\n\n");
        table(&mut page, &schema, resolve(&schema, cost));
    }
    page.push_str(
        "\n## Stages\n\n| stage | takes | gives | what it does |\n| --- | --- | --- | --- |\n",
    );
    for kind in KINDS {
        let takes: Vec<&str> = kind.takes.iter().map(|n| n.word()).collect();
        let takes = if takes.is_empty() { "–".to_owned() } else { takes.join(" or ") };
        page.push_str(&format!(
            "| [`{0}`](#{0}) | {takes} | {1} | {2} |\n",
            kind.name,
            kind.gives.word(),
            kind.about.trim()
        ));
    }
    for kind in KINDS {
        page.push_str(&format!("\n### {}\n\n{}\n\n", kind.name, kind.about.trim()));
        let plan = schema
            .pointer(&format!("/$defs/stage/properties/{}", kind.name))
            .unwrap_or(&Value::Null);
        describe(&mut page, &schema, plan);
    }
    page
}

/// A plan is a struct (a table of fields), a choice (a section each), or a list of choices.
fn describe(page: &mut String, root: &Value, plan: &Value) {
    let plan = resolve(root, plan);
    if let Some(items) = plan.get("items") {
        page.push_str("A list of:\n\n");
        describe(page, root, items);
        return;
    }
    if let Some(choices) = plan.get("oneOf").and_then(Value::as_array) {
        for choice in choices {
            for (name, inner) in
                choice.get("properties").and_then(Value::as_object).into_iter().flatten()
            {
                let about =
                    choice.get("description").or_else(|| resolve(root, inner).get("description"));
                page.push_str(&format!("#### `{name}`\n\n{}\n\n", one_line(about)));
                table(page, root, resolve(root, inner));
                page.push('\n');
            }
        }
        return;
    }
    table(page, root, plan);
    nested(page, root, plan);
}

/// The fields of the fields: what a table calls an object.
fn nested(page: &mut String, root: &Value, plan: &Value) {
    for (name, field) in plan.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let any = |key: &str| field.get(key).and_then(Value::as_array).into_iter().flatten();
        let parts = std::iter::once(field).chain(field.get("items"));
        for part in parts.chain(any("anyOf")).chain(any("oneOf")) {
            let part = resolve(root, part);
            if part.get("properties").is_some() {
                page.push_str(&format!("\nFields of `{name}`:\n\n"));
                table(page, root, part);
                nested(page, root, part);
            } else if let Some(choices) = part.get("oneOf").and_then(Value::as_array)
                && choices.iter().any(|choice| choice.get("properties").is_some())
            {
                page.push_str(&format!("\nChoices of `{name}`:\n\n"));
                choices.iter().for_each(|choice| one_choice(page, root, choice));
            }
        }
    }
}

/// A line for a word, or for a word with fields.
fn one_choice(page: &mut String, root: &Value, choice: &Value) {
    let about = choice.get("description");
    let words = choice.get("enum").and_then(Value::as_array).into_iter().flatten();
    for word in words.chain(choice.get("const")).filter_map(Value::as_str) {
        page.push_str(&format!("- `{word}`: {}\n", one_line(about)));
    }
    for (name, inner) in choice.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let inner = resolve(root, inner);
        let about = about.or_else(|| inner.get("description"));
        let fields = inner.get("properties").and_then(Value::as_object);
        let fields: Vec<String> = fields
            .into_iter()
            .flatten()
            .map(|(field, schema)| {
                let about =
                    schema.get("description").or_else(|| resolve(root, schema).get("description"));
                format!("`{field}` ({}): {}", type_of(root, schema), one_line(about))
            })
            .collect();
        page.push_str(&format!("- `{name}`: {} {}\n", one_line(about), fields.join(" ")));
    }
}

fn table(page: &mut String, root: &Value, schema: &Value) {
    let Some(properties) =
        schema.get("properties").and_then(Value::as_object).filter(|p| !p.is_empty())
    else {
        page.push_str("No fields.\n");
        return;
    };
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    page.push_str("| field | type | default | meaning |\n| --- | --- | --- | --- |\n");
    for (name, field) in properties {
        let target = resolve(root, field);
        let default = match field.get("default") {
            Some(Value::Null) | None if required.contains(&name.as_str()) => "required".to_owned(),
            Some(Value::Null) | None => "–".to_owned(),
            Some(value) => format!("`{value}`"),
        };
        let about = field.get("description").or_else(|| target.get("description"));
        page.push_str(&format!(
            "| `{name}` | {} | {default} | {} |\n",
            type_of(root, field),
            one_line(about)
        ));
    }
}

fn type_of(root: &Value, field: &Value) -> String {
    let field = resolve(root, field);
    if let Some(values) = field.get("enum").and_then(Value::as_array) {
        let words: Vec<String> =
            values.iter().filter_map(Value::as_str).map(|w| format!("`{w}`")).collect();
        return words.join(", ");
    }
    match field.get("type") {
        Some(Value::String(one)) => one.clone(),
        Some(Value::Array(many)) => {
            let words: Vec<&str> =
                many.iter().filter_map(Value::as_str).filter(|w| *w != "null").collect();
            words.join(" or ")
        }
        _ => {
            let any = field.get("anyOf").or_else(|| field.get("oneOf")).and_then(Value::as_array);
            let mut words: Vec<String> = Vec::new();
            for one in any.into_iter().flatten() {
                let word = match one.get("const").and_then(Value::as_str) {
                    Some(value) => format!("`{value}`"),
                    None => type_of(root, one),
                };
                if word != "null" && !word.is_empty() && !words.contains(&word) {
                    words.push(word);
                }
            }
            words.join(", ")
        }
    }
}

fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    match schema.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix('#')) {
        Some(pointer) => root.pointer(pointer).unwrap_or(schema),
        None => schema,
    }
}

fn one_line(text: Option<&Value>) -> String {
    let text = text.and_then(Value::as_str).unwrap_or("");
    text.replace('\n', " ").replace('|', "\\|")
}
