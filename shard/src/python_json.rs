//! JSON byte for byte as Python's `json.dumps(value, ensure_ascii=True, indent=4)`, which is how
//! img2dataset writes its members and statistics.

use std::fmt::Write;

use serde_json::{Number, Value};

/// The text of `value`; objects keep their order.
pub(crate) fn dumps(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, value, 0);
    out
}

fn write_value(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => write_number(out, number),
        Value::String(text) => write_string(out, text),
        Value::Array(items) => {
            write_list(out, ['[', ']'], depth, items.iter(), |out, item| {
                write_value(out, item, depth + 1);
            });
        }
        Value::Object(map) => {
            write_list(out, ['{', '}'], depth, map.iter(), |out, (key, item)| {
                write_string(out, key);
                out.push_str(": ");
                write_value(out, item, depth + 1);
            });
        }
    }
}

fn write_list<T>(
    out: &mut String,
    brackets: [char; 2],
    depth: usize,
    items: impl ExactSizeIterator<Item = T>,
    mut write_item: impl FnMut(&mut String, T),
) {
    out.push(brackets[0]);
    let empty = items.len() == 0;
    for (i, item) in items.enumerate() {
        out.push_str(if i == 0 { "\n" } else { ",\n" });
        indent(out, depth + 1);
        write_item(out, item);
    }
    if !empty {
        out.push('\n');
        indent(out, depth);
    }
    out.push(brackets[1]);
}

fn indent(out: &mut String, depth: usize) {
    for _ in 0..depth {
        out.push_str("    ");
    }
}

fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
}

/// Python's `float.__repr__`: the shortest digits that read back the same, with an exponent below
/// 1e-4 and from 1e16 on.
fn write_number(out: &mut String, number: &Number) {
    let float = match number.as_f64() {
        Some(float) if number.is_f64() => float,
        _ => {
            let _ = write!(out, "{number}");
            return;
        }
    };
    let size = float.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{float:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let sign = if exponent.starts_with('-') { '-' } else { '+' };
        let _ = write!(out, "{digits}e{sign}{:0>2}", exponent.trim_start_matches('-'));
    } else {
        let _ = write!(out, "{float:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn text_is_escaped_to_ascii() {
        let text = "é\u{1f600}\"\\\n\t\u{8}\u{c}\u{1}\u{7f}/";
        let expected = r#""\u00e9\ud83d\ude00\"\\\n\t\b\f\u0001\u007f/""#;
        assert_eq!(dumps(&json!(text)), expected);
    }

    #[test]
    fn objects_keep_their_order_and_are_indented_by_four() {
        let value = json!({"b": null, "a": {"x": [1, true]}, "e": {}, "f": []});
        let expected = "{\n    \"b\": null,\n    \"a\": {\n        \"x\": [\n            1,\n            \
                        true\n        ]\n    },\n    \"e\": {},\n    \"f\": []\n}";
        assert_eq!(dumps(&value), expected);
    }

    #[test]
    fn floats_are_written_as_python_does() {
        let floats = [0.0, -0.0, 1.0, 0.1, 1e-4, 1.5e-5, 1e15, 1e16, 1.25e300, -3e-7];
        let texts: Vec<String> = floats.iter().map(|&f| dumps(&json!(f))).collect();
        let python =
            ["0.0", "-0.0", "1.0", "0.1", "0.0001", "1.5e-05", "1000000000000000.0", "1e+16"];
        assert_eq!(texts[..8], python);
        assert_eq!(texts[8..], ["1.25e+300", "-3e-07"]);
    }
}
