//! What a reader of YAML says where a name stands without its fields, or fields where there are
//! none, in words that help.

use serde_json::Value;

use super::parse::Place;
use super::schema::json_schema;

/// A message of the YAML reader's, explained: where the name stands, what is wrong, what to write.
/// Nothing where the message says enough by itself.
pub(super) fn explained(message: &str, text: &str, at: Place) -> Option<(Place, String, String)> {
    let (place, word) = word_before(text, at)?;
    if message.contains("expected mapping start") {
        let example = fields_of(&json_schema(), &word)?;
        return Some((
            place,
            format!("`{word}` has fields, and none stands here"),
            format!("write `{word}: {{{example}}}`"),
        ));
    }
    if message.contains("unexpected value for unit") {
        return Some((
            place,
            format!("`{word}` has no fields"),
            format!("write `{word}` alone, without a colon"),
        ));
    }
    None
}

/// The last name in front of a place, and where it begins.
fn word_before(text: &str, at: Place) -> Option<(Place, String)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let lines: Vec<&str> = text.lines().take(usize::try_from(at.line).ok()?).collect();
    for (number, line) in lines.iter().enumerate().rev() {
        let line = line.split('#').next().unwrap_or(line);
        let before: String = match number + 1 == at.line as usize {
            true => line.chars().take((at.column as usize).saturating_sub(1)).collect(),
            false => line.to_owned(),
        };
        let trimmed = before.trim_end_matches(|c| !is_word(c));
        let start = trimmed
            .rfind(|c| !is_word(c))
            .map_or(0, |i| i + trimmed[i..].chars().next().map_or(1, char::len_utf8));
        if start < trimmed.len() {
            let column = trimmed[..start].chars().count() as u64 + 1;
            let place = Place { line: number as u64 + 1, column };
            return Some((place, trimmed[start..].to_owned()));
        }
    }
    None
}

/// `language_model: ...`: the fields that a name needs, else the first that it has.
fn fields_of(root: &Value, name: &str) -> Option<String> {
    let plan = resolve(root, find(root, name)?);
    let fields = plan.get("properties")?.as_object()?;
    let required: Vec<&str> = plan
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let shown: Vec<&str> = match required.as_slice() {
        [] => fields.keys().map(String::as_str).take(1).collect(),
        required => required.to_vec(),
    };
    Some(shown.iter().map(|field| format!("{field}: ...")).collect::<Vec<_>>().join(", "))
}

/// A property of this name that has fields of its own, wherever the schema has one.
fn find<'a>(root: &'a Value, name: &str) -> Option<&'a Value> {
    let mut waiting = vec![root];
    while let Some(value) = waiting.pop() {
        match value {
            Value::Object(map) => {
                let property = map.get("properties").and_then(|properties| properties.get(name));
                if let Some(found) = property
                    && resolve(root, found).get("properties").is_some()
                {
                    return Some(found);
                }
                waiting.extend(map.values());
            }
            Value::Array(list) => waiting.extend(list),
            _ => {}
        }
    }
    None
}

fn resolve<'a>(root: &'a Value, value: &'a Value) -> &'a Value {
    let target = value.get("$ref").and_then(Value::as_str).and_then(|at| at.strip_prefix('#'));
    target.and_then(|at| root.pointer(at)).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use crate::recipe::Recipe;

    fn mistake(select: &str) -> (String, String) {
        let text = format!(
            "version: 1\nname: x\noutput: o\nstages:\n  - pool: {{parquet: [a]}}\n  - select:{select}\n"
        );
        let error = Recipe::parse("r.yaml", &text).unwrap_err();
        let first = error.to_string().lines().next().unwrap_or_default().to_owned();
        (first, error.hint_text().unwrap_or_default().to_owned())
    }

    #[test]
    fn a_name_without_its_fields_is_told_with_the_fields_that_it_needs() {
        let told = "has fields, and none stands here";
        let expected = |place: &str, name: &str| format!("r.yaml:{place}: `{name}` {told}");
        let (message, hint) = mistake(" {baseline: basic_filter}");
        assert_eq!(message, expected("6:24", "basic_filter"));
        assert_eq!(hint, "write `basic_filter: {language_model: ...}`");
        let (message, hint) = mistake("\n      baseline: clip_score");
        assert_eq!(message, expected("7:17", "clip_score"));
        assert_eq!(hint, "write `clip_score: {arch: ...}`");
        let (message, _) = mistake(" {baseline: {text_based: all}}");
        assert_eq!(message, expected("6:25", "text_based"));
    }

    #[test]
    fn fields_of_a_name_that_has_none_are_told() {
        let (message, hint) = mistake(" {baseline: {no_filter: {}}}");
        assert_eq!(message, "r.yaml:6:25: `no_filter` has no fields");
        assert_eq!(hint, "write `no_filter` alone, without a colon");
    }
}
