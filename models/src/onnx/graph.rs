//! What an ONNX file says: nodes, weights, the input and the outputs.

use std::collections::HashMap;

use stage::{Error, Result};

use super::array::{Array, count};
use super::wire::{Fields, Value, broken};

/// Most nodes of a graph.
const MOST_NODES: usize = 100_000;
/// The operator sets that are read: older ones have other forms of the operators.
const OPSETS: std::ops::RangeInclusive<i64> = 7..=18;

#[derive(Debug)]
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
    pub(super) weights: HashMap<String, Array>,
    pub(super) input: (String, Vec<Option<usize>>),
    pub(super) outputs: Vec<String>,
}

/// One operator with its attributes.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) op: String,
    pub(super) inputs: Vec<String>,
    pub(super) outputs: Vec<String>,
    attributes: HashMap<String, Attribute>,
}

#[derive(Debug, Default)]
struct Attribute {
    float: Option<f32>,
    int: Option<i64>,
    text: Option<Vec<u8>>,
    ints: Vec<i64>,
    tensor: Option<Array>,
}

impl Graph {
    pub(super) fn read(bytes: &[u8]) -> Result<Self> {
        let (mut graph, mut opset) = (None, None);
        for field in Fields(bytes) {
            match field? {
                (7, value) => graph = Some(value.bytes()?),
                (8, value) => {
                    if let Some(version) = standard_opset(value.bytes()?)? {
                        opset = Some(version);
                    }
                }
                _ => {}
            }
        }
        let graph = graph.ok_or_else(|| broken("it has no graph"))?;
        let opset = opset.ok_or_else(|| broken("it names no operator set"))?;
        if !OPSETS.contains(&opset) {
            let message =
                format!("operator set {opset}; {} to {} are read", OPSETS.start(), OPSETS.end());
            return Err(Error::model(message).hint("export the model for another operator set"));
        }
        Self::from_message(graph)
    }

    fn from_message(bytes: &[u8]) -> Result<Self> {
        let (mut nodes, mut weights) = (Vec::new(), HashMap::new());
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        for field in Fields(bytes) {
            match field? {
                (1, value) => {
                    let node = Node::read(value.bytes()?, nodes.len())?;
                    if nodes.len() == MOST_NODES {
                        return Err(Error::model(format!("more than {MOST_NODES} nodes")));
                    }
                    // A constant is a weight that stands among the nodes.
                    if node.op == "Constant" {
                        let (name, value) = node.constant()?;
                        weights.insert(name, value);
                    } else {
                        nodes.push(node);
                    }
                }
                (5, value) => {
                    let (name, tensor) = tensor(value.bytes()?)?;
                    weights.insert(name, tensor);
                }
                (11, value) => inputs.push(value_info(value.bytes()?)?),
                (12, value) => outputs.push(value_info(value.bytes()?)?.0),
                _ => {}
            }
        }
        inputs.retain(|(name, _)| !weights.contains_key(name)); // older files list weights too
        match <[_; 1]>::try_from(inputs) {
            Ok([input]) if !outputs.is_empty() => Ok(Self { nodes, weights, input, outputs }),
            Ok(_) => Err(broken("it has no output")),
            Err(inputs) => Err(Error::model(format!(
                "a network with {} inputs; one is run here",
                inputs.len()
            ))),
        }
    }
}

impl Node {
    fn read(bytes: &[u8], number: usize) -> Result<Self> {
        let mut node = Self::default();
        for field in Fields(bytes) {
            match field? {
                (1, value) => node.inputs.push(value.text()?),
                (2, value) => node.outputs.push(value.text()?),
                (3, value) => node.name = value.text()?,
                (4, value) => node.op = value.text()?,
                (5, value) => {
                    let (name, attribute) = Attribute::read(value.bytes()?)?;
                    node.attributes.insert(name, attribute);
                }
                (7, value) => {
                    let domain = value.text()?;
                    if !domain.is_empty() && domain != "ai.onnx" {
                        return Err(Error::model(format!("an operator of the domain `{domain}`")));
                    }
                }
                _ => {}
            }
        }
        if node.name.is_empty() {
            node.name = format!("{number}");
        }
        Ok(node)
    }

    fn constant(&self) -> Result<(String, Array)> {
        let value = self.attributes.get("value").and_then(|attribute| attribute.tensor.clone());
        match (self.outputs.first(), value) {
            (Some(name), Some(value)) => Ok((name.clone(), value)),
            _ => {
                Err(Error::model("a constant that is no tensor").at(format!("node {}", self.name)))
            }
        }
    }

    pub(super) fn int(&self, name: &str, default: i64) -> i64 {
        self.attributes.get(name).and_then(|a| a.int).unwrap_or(default)
    }

    pub(super) fn float(&self, name: &str, default: f32) -> f32 {
        self.attributes.get(name).and_then(|a| a.float).unwrap_or(default)
    }

    pub(super) fn text(&self, name: &str) -> Option<&[u8]> {
        self.attributes.get(name).and_then(|a| a.text.as_deref())
    }

    pub(super) fn ints(&self, name: &str) -> Option<&[i64]> {
        self.attributes.get(name).map(|a| a.ints.as_slice())
    }

    /// Lengths along height and width, each in 0..=4096.
    pub(super) fn pair(&self, name: &str, default: usize) -> Result<[usize; 2]> {
        let Some(ints) = self.ints(name) else { return Ok([default; 2]) };
        let small = |n: i64| usize::try_from(n).ok().filter(|n| *n <= 4096);
        match ints {
            [a, b] if small(*a).zip(small(*b)).is_some() => Ok([*a as usize, *b as usize]),
            _ => Err(Error::model(format!("{name} {ints:?}, not two small numbers"))),
        }
    }
}

impl Attribute {
    fn read(bytes: &[u8]) -> Result<(String, Self)> {
        let (mut name, mut attribute) = (String::new(), Self::default());
        for field in Fields(bytes) {
            match field? {
                (1, value) => name = value.text()?,
                (2, value) => attribute.float = Some(value.float()?),
                (3, value) => attribute.int = Some(value.int()?),
                (4, value) => attribute.text = Some(value.bytes()?.to_vec()),
                (5, value) => attribute.tensor = Some(tensor(value.bytes()?)?.1),
                (8, value) => value.ints(&mut attribute.ints)?,
                _ => {}
            }
        }
        Ok((name, attribute))
    }
}

fn standard_opset(bytes: &[u8]) -> Result<Option<i64>> {
    let (mut domain, mut version) = (String::new(), 0);
    for field in Fields(bytes) {
        match field? {
            (1, value) => domain = value.text()?,
            (2, value) => version = value.int()?,
            _ => {}
        }
    }
    Ok((domain.is_empty() || domain == "ai.onnx").then_some(version))
}

/// A tensor with its name: floats (type 1) or 64-bit integers (type 7).
fn tensor(bytes: &[u8]) -> Result<(String, Array)> {
    let (mut name, mut kind, mut raw) = (String::new(), 0, None);
    let (mut sides, mut floats, mut ints) = (Vec::new(), Vec::new(), Vec::new());
    for field in Fields(bytes) {
        match field? {
            (1, value) => value.ints(&mut sides)?,
            (2, value) => kind = value.int()?,
            (4, value) => value.floats(&mut floats)?,
            (7, value) => value.ints(&mut ints)?,
            (8, value) => name = value.text()?,
            (9, value) => raw = Some(value.bytes()?),
            (14, value) if value.int()? != 0 => {
                return Err(Error::model("its weights lie in another file")
                    .hint("save the model with its weights inside"));
            }
            _ => {}
        }
    }
    let at = |e: Error| e.at(format!("tensor `{name}`"));
    let shape: Option<Vec<usize>> = sides.iter().map(|side| usize::try_from(*side).ok()).collect();
    let shape = shape.ok_or_else(|| at(Error::model(format!("the shape {sides:?}"))))?;
    count(&shape).map_err(at)?;
    let array = match kind {
        1 => Array::new(
            &shape,
            raw.map_or(Ok(floats), |raw| little_endian(raw, f32::from_le_bytes)).map_err(at)?,
        ),
        7 => Array::ints(
            &shape,
            raw.map_or(Ok(ints), |raw| little_endian(raw, i64::from_le_bytes)).map_err(at)?,
        ),
        kind => {
            Err(Error::model(format!("element type {kind}; floats (1) and int64 (7) are read")))
        }
    };
    Ok((name.clone(), array.map_err(at)?))
}

fn little_endian<const N: usize, T>(bytes: &[u8], number: fn([u8; N]) -> T) -> Result<Vec<T>> {
    match bytes.as_chunks::<N>() {
        (numbers, []) => Ok(numbers.iter().map(|bytes| number(*bytes)).collect()),
        _ => Err(broken("numbers that end in the middle")),
    }
}

/// The name of an input or output, and its shape.
fn value_info(bytes: &[u8]) -> Result<(String, Vec<Option<usize>>)> {
    let (mut name, mut shape) = (String::new(), Vec::new());
    for field in Fields(bytes) {
        match field? {
            (1, value) => name = value.text()?,
            (2, value) => shape = tensor_type(value)?,
            _ => {}
        }
    }
    Ok((name, shape))
}

fn tensor_type(value: Value<'_>) -> Result<Vec<Option<usize>>> {
    let mut shape = Vec::new();
    for field in Fields(value.bytes()?) {
        let (1, tensor) = field? else { continue };
        for field in Fields(tensor.bytes()?) {
            let (2, dims) = field? else { continue };
            for field in Fields(dims.bytes()?) {
                let (1, dim) = field? else { continue };
                let mut side = None;
                for field in Fields(dim.bytes()?) {
                    if let (1, value) = field? {
                        side = usize::try_from(value.int()?).ok().filter(|side| *side > 0);
                    }
                }
                shape.push(side);
            }
        }
    }
    Ok(shape)
}
