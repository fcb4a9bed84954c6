//! What an ONNX file says: nodes, weights, the input and the outputs.

use std::collections::{HashMap, HashSet};

use stage::{Error, Result};

use super::array::{Array, MOST_NUMBERS, MOST_SIDES, count};
use super::attributes::{Attribute, Attributes};
use super::wire::{Fields, Value, broken};

/// Most nodes of a graph, and most weights.
const MOST_NODES: usize = 100_000;
/// Most inputs of a node.
const MOST_INPUTS: usize = 4096;
/// Most outputs of a graph, and of a node.
const MOST_OUTPUTS: usize = 256;
/// Most inputs, outputs and attributes of all nodes together: two bytes of the file name one.
const MOST_NAMES: usize = 1 << 20;
/// Most integers that one tensor lists as varints. Longer tables lie as plain bytes in a file.
const MOST_VARINTS: usize = 1 << 20;
/// Most integers of all tensors and attributes together: a byte of the file becomes eight.
const MOST_INTEGERS: usize = 16 * MOST_VARINTS;
/// The operator sets that are read: older ones have other forms of the operators.
const OPSETS: std::ops::RangeInclusive<i64> = 7..=18;

#[derive(Debug)]
pub(super) struct Graph {
    /// Which meaning of the operators.
    pub(super) opset: i64,
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
    pub(super) attributes: Attributes,
}

/// What was read so far of what a file has in any number; asked before more is kept.
#[derive(Default)]
struct Counted {
    names: usize,
    integers: usize,
}

impl Counted {
    fn name(&mut self) -> Result<()> {
        self.names += 1;
        if self.names > MOST_NAMES {
            return Err(Error::model(format!(
                "more than {MOST_NAMES} inputs, outputs and attributes"
            )));
        }
        Ok(())
    }

    fn integers(&mut self, more: usize) -> Result<()> {
        self.integers = self.integers.saturating_add(more);
        if self.integers > MOST_INTEGERS {
            return Err(Error::model(format!("more than {MOST_INTEGERS} integers")));
        }
        Ok(())
    }
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
        Self::from_message(graph, opset)
    }

    fn from_message(bytes: &[u8], opset: i64) -> Result<Self> {
        let (mut nodes, mut weights) = (Vec::new(), HashMap::new());
        let (mut outputs, mut counted) = (Vec::<String>::new(), Counted::default());
        let mut add = |name: String, value: Array| {
            if weights.len() == MOST_NODES {
                return Err(Error::model(format!("more than {MOST_NODES} weights")));
            }
            match weights.insert(name.clone(), value) {
                None => Ok(()),
                Some(_) => Err(Error::model(format!("two weights of the name `{name}`"))),
            }
        };
        for field in Fields(bytes) {
            match field? {
                (1, value) => {
                    let mut node = Node::read(value.bytes()?, nodes.len(), &mut counted)?;
                    if nodes.len() == MOST_NODES {
                        return Err(Error::model(format!("more than {MOST_NODES} nodes")));
                    }
                    // A constant is a weight that stands among the nodes.
                    if node.op == "Constant" {
                        let (name, value) =
                            node.constant().map_err(|e| e.at(format!("node {}", node.name)))?;
                        add(name, value)?;
                    } else {
                        nodes.push(node);
                    }
                }
                (5, value) => {
                    let (name, array) = tensor(value.bytes()?)?;
                    counted.integers(array.integers().map_or(0, <[i64]>::len))?;
                    add(name, array)?;
                }
                (12, value) => {
                    let (name, _) = value_info(value.bytes()?)?;
                    if outputs.len() == MOST_OUTPUTS || outputs.contains(&name) {
                        let message =
                            format!("the output `{name}` twice, or more than {MOST_OUTPUTS}");
                        return Err(Error::model(message));
                    }
                    outputs.push(name);
                }
                _ => {}
            }
        }
        if outputs.is_empty() {
            return Err(broken("it has no output"));
        }
        let input = the_input(bytes, &weights)?;
        Ok(Self { opset, nodes, weights, input, outputs })
    }
}

/// The one input that is no weight; older files list the weights too.
fn the_input(
    bytes: &[u8],
    weights: &HashMap<String, Array>,
) -> Result<(String, Vec<Option<usize>>)> {
    let (mut found, mut others) = (None, HashSet::new());
    for field in Fields(bytes) {
        let (11, value) = field? else { continue };
        let (name, shape) = value_info(value.bytes()?)?;
        if weights.contains_key(&name) {
            continue;
        }
        if found.is_none() {
            found = Some((name, shape));
        } else if others.len() < MOST_INPUTS {
            others.insert(name);
        }
    }
    match found {
        Some(input) if others.is_empty() => Ok(input),
        found => {
            let count = others.len() + usize::from(found.is_some());
            Err(Error::model(format!("a network with {count} inputs; one is run here")))
        }
    }
}

impl Node {
    fn read(bytes: &[u8], number: usize, counted: &mut Counted) -> Result<Self> {
        let mut node = Self::default();
        for field in Fields(bytes) {
            let field = field?;
            if let (1 | 2 | 5, _) = field {
                counted.name()?;
            }
            match field {
                (1, value) if node.inputs.len() < MOST_INPUTS => node.inputs.push(value.text()?),
                (2, value) if node.outputs.len() < MOST_OUTPUTS => node.outputs.push(value.text()?),
                (1 | 2, _) => {
                    let message = format!(
                        "a node of more than {MOST_INPUTS} inputs or {MOST_OUTPUTS} outputs"
                    );
                    return Err(Error::model(message));
                }
                (3, value) => node.name = value.text()?,
                (4, value) => node.op = value.text()?,
                (5, value) => {
                    let (name, attribute) = Attribute::read(value.bytes()?)?;
                    counted.integers(attribute.integers())?;
                    node.attributes.add(name, attribute)?;
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

    fn constant(&mut self) -> Result<(String, Array)> {
        let a = &mut self.attributes;
        let value = if let Some(array) = a.tensor("value")? {
            Some(array)
        } else if let Some(float) = a.float("value_float")? {
            Some(Array::new(&[], vec![float])?)
        } else if let Some(floats) = a.floats("value_floats")? {
            Some(Array::new(&[floats.len()], floats)?)
        } else if let Some(ints) = a.ints("value_ints")? {
            Some(Array::ints(&[ints.len()], ints)?)
        } else {
            let int = a.int("value_int", i64::MIN)?;
            (int != i64::MIN).then(|| Array::ints(&[], vec![int])).transpose()?
        };
        a.finish()?;
        match (self.outputs.first(), value) {
            (Some(name), Some(value)) => Ok((name.clone(), value)),
            _ => Err(Error::model("a constant that is no tensor")),
        }
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
pub(super) fn tensor(bytes: &[u8]) -> Result<(String, Array)> {
    let (mut name, mut kind, mut raw) = (String::new(), 0, None);
    let (mut sides, mut floats, mut ints) = (Vec::new(), Vec::new(), Vec::new());
    for field in Fields(bytes) {
        match field? {
            (1, value) => value.ints(&mut sides, MOST_SIDES)?,
            (2, value) => kind = value.int()?,
            (4, value) => value.floats(&mut floats, MOST_NUMBERS)?,
            (7, value) => value.ints(&mut ints, MOST_VARINTS)?,
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
                if shape.len() == MOST_SIDES {
                    return Err(Error::model(format!("a value of more than {MOST_SIDES} sides")));
                }
                shape.push(side);
            }
        }
    }
    Ok(shape)
}
