//! The fields of a JSON object, taken one by one; what is left at the end is unknown.

use serde_json::{Map, Value, json};
use stage::{Error, Result};

/// Largest value of any size in a configuration; keeps a hostile file from asking for all memory.
const LARGEST: usize = 1 << 20;
/// Most layers of a tower, each of which has a dozen tensors; open_clip's deepest has 48.
pub(super) const MOST_LAYERS: usize = 256;

/// A JSON object that is read field by field.
pub(super) struct Fields {
    map: Map<String, Value>,
    place: &'static str,
}

impl Fields {
    pub(super) fn new(value: &Value, place: &'static str) -> Result<Self> {
        match value {
            Value::Object(map) => Ok(Self { map: map.clone(), place }),
            other => Err(Error::model(format!(
                "{} is not an object but {other}",
                if place.is_empty() { "the model configuration" } else { place }
            ))),
        }
    }

    pub(super) fn required(&mut self, field: &str) -> Result<Value> {
        self.map
            .remove(field)
            .ok_or_else(|| Error::model(format!("the field `{}{field}` is missing", self.place)))
    }

    pub(super) fn wrong(&self, field: &str, value: &Value, expected: &str) -> Error {
        Error::model(format!("`{}{field}` must be {expected}, got {value}", self.place))
    }

    pub(super) fn unsupported(&self, field: &str, value: &Value) -> Error {
        Error::model(format!("`{}{field}: {value}` is not implemented", self.place))
            .hint("use a plain ViT CLIP configuration")
    }

    pub(super) fn size(&mut self, field: &str, default: Option<usize>) -> Result<usize> {
        self.size_to(field, default, LARGEST)
    }

    /// Layers of a tower, 12 where nothing is said.
    pub(super) fn layers(&mut self) -> Result<usize> {
        self.size_to("layers", Some(12), MOST_LAYERS)
    }

    fn size_to(&mut self, field: &str, default: Option<usize>, most: usize) -> Result<usize> {
        let value = match (self.map.remove(field), default) {
            (Some(value), _) => value,
            (None, Some(default)) => return Ok(default),
            (None, None) => return self.required(field).map(|_| 0),
        };
        match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) if (1..=most).contains(&n) => Ok(n),
            _ => Err(self.wrong(field, &value, &format!("a whole number in 1..={most}"))),
        }
    }

    /// A number, or a list of two equal ones.
    pub(super) fn side(&mut self, field: &str, default: usize) -> Result<usize> {
        if let Some(Value::Array(sides)) = self.map.get(field) {
            match sides.as_slice() {
                [a, b] if a == b => {
                    let side = a.clone();
                    self.map.insert(field.to_owned(), side);
                }
                _ => {
                    let value = self.required(field)?;
                    return Err(self.wrong(field, &value, "one number or two equal ones"));
                }
            }
        }
        self.size(field, Some(default))
    }

    pub(super) fn number(&mut self, field: &str, default: f64) -> Result<f64> {
        match self.map.remove(field) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => match value.as_f64() {
                Some(number) if number.is_finite() => Ok(number),
                _ => Err(self.wrong(field, &value, "a finite number")),
            },
        }
    }

    pub(super) fn ratio(&mut self) -> Result<f64> {
        let ratio = self.number("mlp_ratio", 4.0)?;
        if (0.01..=64.0).contains(&ratio) {
            return Ok(ratio);
        }
        Err(self.wrong("mlp_ratio", &json!(ratio), "in 0.01..=64"))
    }

    pub(super) fn switch(&mut self, field: &str) -> Result<bool> {
        match self.map.remove(field) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(value)) => Ok(value),
            Some(other) => Err(self.wrong(field, &other, "true or false")),
        }
    }

    pub(super) fn text(&mut self, field: &str, default: &str) -> Result<String> {
        match self.map.remove(field) {
            None => Ok(default.to_owned()),
            Some(Value::String(value)) => Ok(value),
            Some(other) => Err(self.wrong(field, &other, "a string")),
        }
    }

    /// A field of which only one value is implemented. An empty object, `null`, 0 and `false` are
    /// one and the same "not used".
    pub(super) fn only(&mut self, field: &str, implemented: &Value) -> Result<()> {
        let unused = |v: &Value| match v {
            Value::Null | Value::Bool(false) => true,
            Value::Object(map) => map.is_empty(),
            Value::Number(n) => n.as_f64() == Some(0.0),
            _ => false,
        };
        match self.map.remove(field) {
            None => Ok(()),
            Some(value) if value == *implemented => Ok(()),
            Some(value) if unused(&value) && unused(implemented) => Ok(()),
            Some(value) => Err(self.unsupported(field, &value)),
        }
    }

    pub(super) fn ignore(&mut self, field: &str) {
        self.map.remove(field);
    }

    pub(super) fn finish(&self) -> Result<()> {
        match self.map.iter().next() {
            None => Ok(()),
            Some((field, value)) => {
                Err(Error::model(format!("unknown field `{}{field}: {value}`", self.place))
                    .hint("remove it, or use a configuration of open_clip's plain ViT models"))
            }
        }
    }

    /// A whole number from 0.
    pub(super) fn size_or_zero(&mut self, field: &str, default: usize) -> Result<usize> {
        match self.map.remove(field) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
                Some(n) if n <= LARGEST => Ok(n),
                _ => Err(self.wrong(field, &value, &format!("a whole number in 0..={LARGEST}"))),
            },
        }
    }

    /// Three sizes.
    pub(super) fn sizes(&mut self, field: &str) -> Result<[usize; 3]> {
        let value = self.required(field)?;
        let numbers: Option<Vec<usize>> = value.as_array().and_then(|list| {
            let size = |n: u64| usize::try_from(n).ok().filter(|n| (1..=LARGEST).contains(n));
            list.iter().map(|n| n.as_u64().and_then(size)).collect()
        });
        match numbers.as_deref() {
            Some([a, b, c]) => Ok([*a, *b, *c]),
            _ => Err(self.wrong(field, &value, &format!("three whole numbers in 1..={LARGEST}"))),
        }
    }

    /// A share, 0 or more and less than 1; 0 where it is missing.
    pub(super) fn share(&mut self, field: &str) -> Result<f64> {
        let share = self.number(field, 0.0)?;
        if (0.0..1.0).contains(&share) {
            return Ok(share);
        }
        Err(self.wrong(field, &json!(share), "in 0.0..1.0"))
    }

    pub(super) fn optional_text(&mut self, field: &str) -> Result<Option<String>> {
        match self.map.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(other) => Err(self.wrong(field, &other, "a string")),
        }
    }

    /// A JSON object as it is; None where it is missing or empty.
    pub(super) fn object(&mut self, field: &str) -> Result<Option<Value>> {
        match self.map.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(map)) if map.is_empty() => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Value::Object(map))),
            Some(other) => Err(self.wrong(field, &other, "an object")),
        }
    }

    pub(super) fn has(&self, field: &str) -> bool {
        !matches!(self.map.get(field), None | Some(Value::Null))
    }
}
