//! Small ONNX networks on the CPU: the face and safety models that judges use.
//!
//! Format: onnx/onnx, `onnx/onnx.proto` and `docs/Operators.md`. Of the operators those that
//! convolutional classifiers and detectors are made of; a file with another one is refused when it
//! is opened, with the operator's name. Numbers are f32, shapes i64.
//!
//! Why not a library: tract would bring 46 crates and choose other sums on other CPUs, while a score
//! that a release is cut by has to be the same bits everywhere. Matrix products are
//! [`kernels::linear`], which is; everything else here adds up in the order of the numbers.
//!
//! Reading order: [`Onnx`], `graph` (what the file says), `wire` (protobuf), `array` (values),
//! `conv`, `shape` and `ops` (operators).

mod array;
mod conv;
mod graph;
mod ops;
mod shape;
mod wire;

use std::collections::{HashMap, HashSet};
use std::path::Path;

use sha2::{Digest, Sha256};
use stage::{Error, Result, ResultExt};

pub use array::Array;
use graph::Graph;
pub use ops::exp;

/// Largest file that is read.
const MOST_BYTES: u64 = 1 << 30;

/// A network, ready to run.
#[derive(Debug)]
pub struct Onnx {
    graph: Graph,
    /// For each node the values that nobody reads after it.
    last_use: Vec<Vec<String>>,
    sha256: String,
}

impl Onnx {
    /// Opens a file.
    ///
    /// # Errors
    /// When it cannot be read, is no ONNX file, is larger than 1 GiB, keeps its weights elsewhere,
    /// or has an operator that is not known here.
    pub fn open(path: &Path) -> Result<Self> {
        let at = |e: Error| e.at(path.display().to_string());
        let length = std::fs::metadata(path).input("cannot open the model").map_err(at)?.len();
        if length > MOST_BYTES {
            let message = format!("{length} bytes, more than the {MOST_BYTES} that are read");
            return Err(at(Error::model(message)));
        }
        let bytes = std::fs::read(path).input("cannot read the model").map_err(at)?;
        Self::read(&bytes).map_err(at)
    }

    /// Reads a model from the bytes of its file.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let graph = Graph::read(bytes)?;
        for node in &graph.nodes {
            ops::check(node)?;
        }
        let sha256 = format!("{:x}", Sha256::digest(bytes));
        let last_use = last_use(&graph);
        Ok(Self { graph, last_use, sha256 })
    }

    /// Hex sha256 of the file.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The name of its input and the shape, `None` for a side that may have any length.
    #[must_use]
    pub fn input(&self) -> (&str, &[Option<usize>]) {
        (&self.graph.input.0, &self.graph.input.1)
    }

    /// The names of its outputs.
    pub fn outputs(&self) -> impl Iterator<Item = &str> {
        self.graph.outputs.iter().map(String::as_str)
    }

    /// Runs the network on one input and gives the outputs in their order.
    ///
    /// # Errors
    /// A shape that the network does not take, named with the node where it did not fit; a value of
    /// more than 2^28 numbers.
    pub fn run(&self, input: Array) -> Result<Vec<Array>> {
        self.check_input(&input)?;
        let mut values: HashMap<&str, Array> = HashMap::new();
        values.insert(&self.graph.input.0, input);
        for (node, unused) in self.graph.nodes.iter().zip(&self.last_use) {
            let at = |e: Error| e.at(format!("node {} ({})", node.name, node.op));
            let mut inputs = Vec::with_capacity(node.inputs.len());
            for name in &node.inputs {
                inputs.push(match name.as_str() {
                    "" => None, // an optional input that is left out
                    name => Some(self.value(&values, name).map_err(at)?),
                });
            }
            let output = ops::run(node, &inputs).map_err(at)?;
            if let Some(name) = node.outputs.first() {
                values.insert(name, output);
            }
            for name in unused {
                values.remove(name.as_str());
            }
        }
        self.graph.outputs.iter().map(|name| self.value(&values, name).cloned()).collect()
    }

    fn value<'a>(&'a self, values: &'a HashMap<&str, Array>, name: &str) -> Result<&'a Array> {
        let found = values.get(name).or_else(|| self.graph.weights.get(name));
        found.ok_or_else(|| Error::model(format!("nothing makes the value `{name}`")))
    }

    fn check_input(&self, input: &Array) -> Result<()> {
        let (name, wanted) = self.input();
        let fits = wanted.len() == input.shape().len()
            && wanted.iter().zip(input.shape()).all(|(want, is)| want.is_none_or(|w| w == *is));
        if fits {
            return Ok(());
        }
        let wanted: Vec<String> =
            wanted.iter().map(|side| side.map_or("?".to_owned(), |n| n.to_string())).collect();
        let message =
            format!("the input `{name}` is [{}], not {:?}", wanted.join(", "), input.shape());
        Err(Error::model(message))
    }
}

/// What may be forgotten after each node: values whose last reader it is.
fn last_use(graph: &Graph) -> Vec<Vec<String>> {
    let mut kept: HashSet<&str> = graph.outputs.iter().map(String::as_str).collect();
    let mut result = vec![Vec::new(); graph.nodes.len()];
    for (node, unused) in graph.nodes.iter().zip(&mut result).rev() {
        for name in &node.inputs {
            if !graph.weights.contains_key(name) && kept.insert(name) {
                unused.push(name.clone());
            }
        }
    }
    result
}
