//! What a sample's json member says, read as far as pairs need it.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// A sample's json object; empty where there is none or it cannot be read.
#[derive(Debug, Default)]
pub(crate) struct SampleJson(Map<String, Value>);

impl SampleJson {
    /// Never an error: a sample with a broken json is still a picture with a caption.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        Self::read(bytes).unwrap_or_default()
    }

    /// `None` for what is no object. What Python's `json.dumps` writes beside JSON is read: `NaN`,
    /// `Infinity` and numbers beyond f64 as null, half a surrogate pair as U+FFFD; so are a byte
    /// order mark, bytes that are no UTF-8 (U+FFFD) and bare control characters in strings. A depth
    /// over 128 is not.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let strict = serde_json::from_slice(bytes);
        strict.or_else(|_| serde_json::from_str(&repaired(bytes))).ok().map(Self)
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// Two positive sides within `i32`.
    pub(crate) fn size(&self, width: &str, height: &str) -> Option<(u32, u32)> {
        let side = |name| {
            let side = self.0.get(name)?.as_u64()?;
            u32::try_from(side).ok().filter(|side| (1..=i32::MAX as u32).contains(side))
        };
        Some((side(width)?, side(height)?))
    }

    /// A string as it is, a number or boolean as JSON; `None` for null, lists and objects.
    pub(crate) fn scalar(&self, name: &str) -> Option<String> {
        match self.0.get(name)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(flag) => Some(flag.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }
}

/// The text of one field, as [`SampleJson::parse`] and [`SampleJson::text`] give it, without the
/// other fields' values in memory.
pub(crate) fn text_field<'a>(bytes: &'a [u8], name: &str) -> Option<Cow<'a, str>> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    match json.deserialize_map(Field(name)).and_then(|found| json.end().map(|()| found)) {
        Ok(found) => found,
        Err(_) => SampleJson::read(bytes)?.text(name).map(|text| Cow::Owned(text.to_owned())),
    }
}

/// Shows every string of a JSON text of any kind, some twice: names of fields, and of a field that
/// stands there twice both values. False when it cannot be read as [`SampleJson::read`] would.
pub(crate) fn strings(bytes: &[u8], show: &mut dyn FnMut(&str)) -> bool {
    let mut walk = |bytes: &[u8]| {
        let mut json = serde_json::Deserializer::from_slice(bytes);
        Walk(&mut *show).deserialize(&mut json).and_then(|()| json.end()).is_ok()
    };
    walk(bytes) || walk(repaired(bytes).as_bytes())
}

/// The text with what [`SampleJson::read`] forgives written as JSON has it.
fn repaired(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes));
    let mut out = String::with_capacity(text.len());
    let mut rest: &str = &text;
    while let Some(first) = rest.chars().next() {
        let len = match first {
            '"' => string(rest, &mut out),
            '-' | '0'..='9' | 'A'..='Z' | 'a'..='z' => {
                let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
                let len = rest.find(|c| !word(c)).unwrap_or(rest.len());
                let (word, _) = rest.split_at(len);
                let digits = word.trim_start_matches('-').starts_with(|c: char| c.is_ascii_digit());
                let beyond = digits && word.parse::<f64>().is_ok_and(f64::is_infinite);
                let none = beyond || matches!(word, "NaN" | "Infinity" | "-Infinity");
                out.push_str(if none { "null" } else { word });
                len
            }
            other => {
                out.push(other);
                other.len_utf8()
            }
        };
        rest = rest.get(len..).unwrap_or_default();
    }
    out
}

/// Copies the string at the beginning of `text`, quotes included; its length there.
fn string(text: &str, out: &mut String) -> usize {
    out.push('"');
    let mut at = 1;
    while let Some(next) = text.get(at..).and_then(|rest| rest.chars().next()) {
        let len = match next {
            '"' => {
                out.push('"');
                return at + 1;
            }
            '\\' => match (unit(text, at), unit(text, at + 6)) {
                (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
                (Some(0xd800..=0xdfff), _) => {
                    out.push('\u{fffd}');
                    at += 6;
                    continue;
                }
                (Some(_), _) => 6,
                (None, _) => 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8),
            },
            control if control < ' ' => {
                out.push_str(&format!("\\u{:04x}", control as u32));
                at += 1;
                continue;
            }
            other => other.len_utf8(),
        };
        out.push_str(text.get(at..at + len).unwrap_or_default());
        at += len;
    }
    text.len()
}

/// The value of an escape of the form `\uXXXX`, if one begins here.
fn unit(text: &str, at: usize) -> Option<u16> {
    let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
    let all = digits.bytes().all(|b| b.is_ascii_hexdigit());
    all.then(|| u16::from_str_radix(digits, 16).ok()).flatten()
}

/// Shows the strings of any value.
struct Walk<'s>(&'s mut dyn FnMut(&str));

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        (self.0)(text);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Walk(&mut *self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key_seed(Walk(&mut *self.0))?.is_some() {
            map.next_value_seed(Walk(&mut *self.0))?;
        }
        Ok(())
    }
}

/// Looks for a field; of several the last counts.
struct Field<'n>(&'n str);

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Option<Cow<'de, str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(Any(key)) = map.next_key()? {
            let Any(value) = map.next_value()?;
            if key.as_deref() == Some(self.0) {
                found = value;
            }
        }
        Ok(found)
    }
}

/// Any value, checked as [`Value`] would be; a string is kept.
struct Any<'a>(Option<Cow<'a, str>>);

impl<'de> Deserialize<'de> for Any<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Check).map(Any)
    }
}

struct Check;

impl<'de> Visitor<'de> for Check {
    type Value = Option<Cow<'de, str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while let Some(Any(_)) = list.next_element()? {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while let Some((Any(_), Any(_))) = map.next_entry()? {}
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_broken_json_says_nothing() {
        for broken in [&b"{"[..], b"[1]", b"{\"uid\": nan}", b"{\"uid\": \"x}", b"", b"\xff"] {
            assert!(SampleJson::read(broken).is_none(), "{}", String::from_utf8_lossy(broken));
            assert!(SampleJson::parse(broken).0.is_empty());
        }
    }

    #[test]
    fn what_python_writes_beside_json_is_read() {
        let text = r#"{"url": "http://a.example/\ud800x\ud83d\ude00", "a": NaN, "b": [-Infinity, 1e999],
            "NaN": "NaN, \\\"Infinity", "width": 3}"#;
        let json = SampleJson::read(text.as_bytes()).unwrap();
        assert_eq!(json.text("url"), Some("http://a.example/\u{fffd}x\u{1f600}"));
        assert_eq!(json.text("NaN"), Some("NaN, \\\"Infinity"));
        assert_eq!((json.scalar("a"), json.size("width", "width")), (None, Some((3, 3))));
        let odd = b"\xef\xbb\xbf{\"a\": \"x\ny\xff\"}";
        assert_eq!(SampleJson::read(odd).unwrap().text("a"), Some("x\ny\u{fffd}"));
    }

    #[test]
    fn every_string_is_shown_of_a_repeated_field_too() {
        let of = |text: &str| {
            let mut found = Vec::new();
            let whole = strings(text.as_bytes(), &mut |text| found.push(text.to_owned()));
            (whole, found)
        };
        let twice = r#"{"a": "\u00e9", "a": ["x", {"b": 1}]}"#;
        assert_eq!(of(twice), (true, ["a", "é", "a", "x", "b"].map(str::to_owned).to_vec()));
        assert!(of(r#"[NaN, "x"]"#).0);
        assert!(!of(r#"{"a": "x""#).0);
    }

    #[test]
    fn scalars_become_text_and_sizes_must_be_positive() {
        let json = SampleJson::parse(
            br#"{"a": "x", "b": 1.5, "c": true, "d": [1], "e": null, "width": 3, "height": 0}"#,
        );
        let got: Vec<_> = ["a", "b", "c", "d", "e", "f"].map(|n| json.scalar(n)).into();
        let text = |t: &str| Some(t.to_owned());
        assert_eq!(got, [text("x"), text("1.5"), text("true"), None, None, None]);
        assert_eq!(json.size("width", "height"), None);
        assert_eq!(json.size("width", "width"), Some((3, 3)));
    }

    fn check_same(bytes: &[u8]) {
        let whole = SampleJson::parse(bytes);
        assert_eq!(text_field(bytes, "uid").as_deref(), whole.text("uid"), "{bytes:?}");
    }

    #[test]
    fn one_field_is_read_as_the_whole_would_be() {
        assert_eq!(text_field(br#"{"a": [{"uid": "x"}], "uid": "y"}"#, "uid").unwrap(), "y");
        let deep = format!(r#"{{"uid": "y", "a": {}{}}}"#, "[".repeat(200), "]".repeat(200));
        for json in [
            r#"{"uid": "y", "uid": "z"}"#,
            r#"{"uid": "y", "uid": 3}"#,
            r#"{"\u0075id": "y"}"#,
            r#"{"uid": "y", "a": "\ud800"}"#,
            r#"{"uid": "y", "a": 1e999}"#,
            r#"{"uid": "y", "a": -1.5, "b": null, "c": true, "d": {"e": 1}}"#,
            r#"{"uid": "y"} x"#,
            r#"{"uid": "y"} "#,
            r#"["uid", "y"]"#,
            "null",
            r#"{"uid": null}"#,
            &deep,
        ] {
            check_same(json.as_bytes());
        }
        check_same(b"{\"uid\": \"y\", \"a\": \"\xff\"}");
        check_same(b"{\"uid\": \"y\", \"a\": NaN}");
    }

    proptest! {
        #[test]
        fn what_is_json_is_repaired_into_itself(text in r#"(["\\\[\]{}:,a-u0-9é.+-]|\\u[0-9a-f]{4}){0,30}"#) {
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                let again: Value = serde_json::from_str(&repaired(text.as_bytes())).unwrap();
                prop_assert_eq!(again, value);
            }
        }

        #[test]
        fn one_field_of_random_text_is_read_as_the_whole_would_be(
            text in r#"\{("(uid|a)"(: ?("y"|1|null|\[\]|\{"uid": "q"\}|"\\u00e9"))?,? ?){0,4}\}?"#,
        ) {
            check_same(text.as_bytes());
        }
    }
}
