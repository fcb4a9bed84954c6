//! What a sample's json member says, read as far as pairs need it.

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

#[cfg(test)]
mod tests {
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
}
