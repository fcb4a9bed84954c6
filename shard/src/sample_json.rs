//! What a sample's json member says, read as far as pairs need it.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// A sample's json object; empty where there is none or it cannot be read.
#[derive(Debug, Default)]
pub(crate) struct SampleJson(Map<String, Value>);

impl SampleJson {
    /// Never an error: a sample with a broken json is still a picture with a caption. `NaN`, a lone
    /// surrogate or a depth over 128 count as broken.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        Self(serde_json::from_slice(bytes).unwrap_or_default())
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
    let found = json.deserialize_map(Field(name)).ok()?;
    json.end().is_ok().then_some(found).flatten()
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
        for broken in [&b"{"[..], b"[1]", b"{\"uid\": NaN}", b"{\"uid\": \"\\ud800\"}", b"\xff"] {
            assert!(SampleJson::parse(broken).0.is_empty());
        }
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
    }

    proptest! {
        #[test]
        fn one_field_of_random_text_is_read_as_the_whole_would_be(
            text in r#"\{("(uid|a)"(: ?("y"|1|null|\[\]|\{"uid": "q"\}|"\\u00e9"))?,? ?){0,4}\}?"#,
        ) {
            check_same(text.as_bytes());
        }
    }
}
