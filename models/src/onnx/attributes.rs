//! Attributes of a node: each is taken by its name and its type, and what nobody took is refused,
//! since it may change what the operator means.

use std::collections::BTreeMap;

use stage::{Error, Result};

use super::array::Array;
use super::graph::tensor;
use super::wire::Fields;

/// Most numbers of a list.
const MOST_LIST: usize = 1 << 16;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Attribute {
    Float(f32),
    Int(i64),
    Text(Vec<u8>),
    Tensor(Array),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
}

impl Attribute {
    /// Its name and value. The type is told by a field of its own (`AttributeProto.type`), in old
    /// files by the field that the value stands in.
    pub(super) fn read(bytes: &[u8]) -> Result<(String, Self)> {
        let (mut name, mut kind) = (String::new(), 0);
        let (mut float, mut int, mut text, mut array) = (None, None, None, None);
        let (mut floats, mut ints) = (Vec::new(), Vec::new());
        for field in Fields(bytes) {
            match field? {
                (1, value) => name = value.text()?,
                (2, value) => float = Some(value.float()?),
                (3, value) => int = Some(value.int()?),
                (4, value) => text = Some(value.bytes()?.to_vec()),
                (5, value) => array = Some(tensor(value.bytes()?)?.1),
                (7, value) => value.floats(&mut floats, MOST_LIST)?,
                (8, value) => value.ints(&mut ints, MOST_LIST)?,
                (20, value) => kind = value.int()?,
                (21, value) if !value.bytes()?.is_empty() => {
                    return Err(Error::model(format!("attribute `{name}` of a function")));
                }
                _ => {}
            }
        }
        if kind == 0 {
            kind = match (&float, &int, &text, &array) {
                (Some(_), ..) => 1,
                (_, Some(_), ..) => 2,
                (_, _, Some(_), _) => 3,
                (.., Some(_)) => 4,
                _ if !floats.is_empty() => 6,
                _ => 7,
            };
        }
        // A number that is zero, and a list without numbers, may be left out of the file.
        let value = match (kind, array) {
            (1, _) => Self::Float(float.unwrap_or(0.0)),
            (2, _) => Self::Int(int.unwrap_or(0)),
            (3, _) => Self::Text(text.unwrap_or_default()),
            (4, Some(array)) => Self::Tensor(array),
            (6, _) => Self::Floats(floats),
            (7, _) => Self::Ints(ints),
            _ => return Err(Error::model(format!("attribute `{name}` of type {kind}"))),
        };
        Ok((name, value))
    }

    /// How many integers it lists.
    pub(super) fn integers(&self) -> usize {
        match self {
            Self::Tensor(array) => array.integers().map_or(0, <[i64]>::len),
            Self::Ints(ints) => ints.len(),
            _ => 0,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Float(_) => "a float",
            Self::Int(_) => "an integer",
            Self::Text(_) => "a text",
            Self::Tensor(_) => "a tensor",
            Self::Floats(_) => "a list of floats",
            Self::Ints(_) => "a list of integers",
        }
    }
}

/// The attributes of a node that nobody took yet.
#[derive(Debug, Default)]
pub(super) struct Attributes(BTreeMap<String, Attribute>);

impl Attributes {
    pub(super) fn add(&mut self, name: String, attribute: Attribute) -> Result<()> {
        if self.0.contains_key(&name) {
            return Err(Error::model(format!("attribute `{name}` twice")));
        }
        self.0.insert(name, attribute);
        Ok(())
    }

    /// The attribute of this name and type.
    fn take<T>(
        &mut self,
        name: &str,
        wanted: &str,
        of: impl Fn(Attribute) -> std::result::Result<T, Attribute>,
    ) -> Result<Option<T>> {
        let Some(attribute) = self.0.remove(name) else { return Ok(None) };
        of(attribute).map(Some).map_err(|other| {
            Error::model(format!("attribute `{name}` is {}, not {wanted}", other.kind()))
        })
    }

    pub(super) fn int(&mut self, name: &str, default: i64) -> Result<i64> {
        let int = self.take(name, "an integer", |a| match a {
            Attribute::Int(int) => Ok(int),
            other => Err(other),
        })?;
        Ok(int.unwrap_or(default))
    }

    /// An integer that says yes (1) or no (0, the default).
    pub(super) fn flag(&mut self, name: &str) -> Result<bool> {
        match self.int(name, 0)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Error::model(format!("attribute `{name}` is {other}, not 0 or 1"))),
        }
    }

    pub(super) fn float(&mut self, name: &str) -> Result<Option<f32>> {
        self.take(name, "a float", |a| match a {
            Attribute::Float(float) => Ok(float),
            other => Err(other),
        })
    }

    pub(super) fn text(&mut self, name: &str, default: &str) -> Result<String> {
        let text = self.take(name, "a text", |a| match a {
            Attribute::Text(text) => Ok(String::from_utf8_lossy(&text).into_owned()),
            other => Err(other),
        })?;
        Ok(text.unwrap_or_else(|| default.to_owned()))
    }

    pub(super) fn ints(&mut self, name: &str) -> Result<Option<Vec<i64>>> {
        self.take(name, "a list of integers", |a| match a {
            Attribute::Ints(ints) => Ok(ints),
            other => Err(other),
        })
    }

    pub(super) fn floats(&mut self, name: &str) -> Result<Option<Vec<f32>>> {
        self.take(name, "a list of floats", |a| match a {
            Attribute::Floats(floats) => Ok(floats),
            other => Err(other),
        })
    }

    pub(super) fn tensor(&mut self, name: &str) -> Result<Option<Array>> {
        self.take(name, "a tensor", |a| match a {
            Attribute::Tensor(array) => Ok(array),
            other => Err(other),
        })
    }

    /// Lengths along height and width, each in 1..=4096.
    pub(super) fn pair(&mut self, name: &str) -> Result<Option<[usize; 2]>> {
        let Some(ints) = self.ints(name)? else { return Ok(None) };
        match ints[..] {
            [a, b] if (1..=4096).contains(&a) && (1..=4096).contains(&b) => {
                Ok(Some([a as usize, b as usize]))
            }
            _ => Err(Error::model(format!("{name} {ints:?}, not two numbers in 1..=4096"))),
        }
    }

    /// Takes an attribute that changes nothing here.
    pub(super) fn ignore(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Refuses what nobody took.
    pub(super) fn finish(&self) -> Result<()> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(Error::model(format!("attribute `{name}` is not known"))),
        }
    }
}
