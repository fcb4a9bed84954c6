//! Small ONNX networks on the CPU: the face and safety models that judges use.
//!
//! Format: onnx/onnx, `onnx/onnx.proto` and `docs/Operators.md`. Of the operators those that
//! convolutional classifiers and detectors are made of, in operator sets 7 to 18; a file with another
//! one, or with an attribute that is not known here, is refused when it is opened, with the node's
//! name. Numbers are f32, shapes i64.
//!
//! A file is somebody's claim: what it may take is capped when it is read (256 outputs, 4096 inputs
//! of a node, 8 sides, 2^28 numbers of a value) and when it runs (2^36 steps, 1 GiB of values at a
//! time), and a run looks at a [`stage::Cancel`] before every node.
//!
//! Why not a library: tract would bring 46 crates and choose other sums on other CPUs, while a score
//! that a release is cut by should not. Matrix products are those of [`kernels`]: on x86-64 with AVX2
//! and FMA, or AVX-512, the same bits on every CPU. Without FMA, and on other processors, products
//! are the `gemm` crate's, whose sums follow the machine; scores then differ in the last digits.
//! Everything else here adds up in the order of the numbers.
//!
//! Reading order: [`Onnx`], `graph` and `attributes` (what the file says), `wire` (protobuf), `plan`
//! (the steps of a run), `budget` (what it may take), `array` (values), `ops` (operators), `windows`,
//! `conv`, `pool`, `product`, `numbers`, `shape` and `resize`.

mod array;
mod attributes;
mod budget;
mod conv;
mod graph;
mod numbers;
mod ops;
mod plan;
mod pool;
mod product;
mod resize;
mod shape;
mod windows;
mod wire;

use std::borrow::Cow;
use std::path::Path;

use sha2::{Digest, Sha256};
use stage::{Cancel, Error, Result, ResultExt};

pub use array::Array;
use budget::Budget;
use graph::Graph;
pub use numbers::exp;
use plan::{Plan, Source, Step};

/// Largest file that is read.
const MOST_BYTES: u64 = 1 << 30;

/// A network, ready to run.
#[derive(Debug)]
pub struct Onnx {
    plan: Plan,
    input: (String, Vec<Option<usize>>),
    outputs: Vec<String>,
    sha256: String,
}

impl Onnx {
    /// Opens a file.
    ///
    /// # Errors
    /// When it cannot be read, is no ONNX file, is larger than 1 GiB, keeps its weights elsewhere,
    /// or has an operator, an attribute or a mode that is not known here.
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
        let (input, outputs) = (graph.input.clone(), graph.outputs.clone());
        let sha256 = format!("{:x}", Sha256::digest(bytes));
        Ok(Self { plan: Plan::of(graph)?, input, outputs, sha256 })
    }

    /// Hex sha256 of the file.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The name of its input and the shape, `None` for a side that may have any length.
    #[must_use]
    pub fn input(&self) -> (&str, &[Option<usize>]) {
        (&self.input.0, &self.input.1)
    }

    /// How many tensors of the file its run reads: a normalisation that went into a convolution left
    /// two of six.
    #[must_use]
    pub fn weights(&self) -> usize {
        self.plan.weights.iter().filter(|weight| !weight.shape().contains(&0)).count()
    }

    /// The names of its outputs.
    pub fn outputs(&self) -> impl Iterator<Item = &str> {
        self.outputs.iter().map(String::as_str)
    }

    /// Runs the network on one input and gives the outputs in their order.
    ///
    /// # Errors
    /// A shape that the network does not take, named with the node where it did not fit; a run of
    /// more than 2^36 steps (multiply-adds, or numbers looked at or moved), or of more than 1 GiB of
    /// values at a time.
    pub fn run(&self, input: Array) -> Result<Vec<Array>> {
        self.run_until(input, &Cancel::default())
    }

    /// [`Self::run`] that stops before the next node when asked to.
    ///
    /// # Errors
    /// As [`Self::run`], and [`stage::Kind::Interrupted`].
    pub fn run_until(&self, input: Array, cancel: &Cancel) -> Result<Vec<Array>> {
        self.check_input(&input)?;
        let mut budget = Budget::new(cancel);
        budget.keep(input.bytes());
        let mut values = Values { all: vec![None; self.plan.values], weights: &self.plan.weights };
        values.put(0, input);
        for step in &self.plan.steps {
            budget.check()?;
            let output = values.run(step, &mut budget);
            let output = output.map_err(|e| e.at(format!("node {}", step.name)))?;
            values.put(step.output, output);
        }
        let mut outputs = Vec::with_capacity(self.plan.outputs.len());
        for source in &self.plan.outputs {
            outputs.push(match source {
                Source::Value(value) => values.take(*value)?,
                source => values.get(source).cloned().ok_or_else(missing)?,
            });
        }
        Ok(outputs)
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

/// What the steps made so far.
struct Values<'a> {
    all: Vec<Option<Array>>,
    weights: &'a [Array],
}

impl Values<'_> {
    fn get(&self, source: &Source) -> Option<&Array> {
        match source {
            Source::Absent => None,
            Source::Weight(weight) => self.weights.get(*weight),
            Source::Value(value) => self.all.get(*value).and_then(Option::as_ref),
        }
    }

    fn put(&mut self, value: usize, array: Array) {
        if let Some(place) = self.all.get_mut(value) {
            *place = Some(array);
        }
    }

    fn take(&mut self, value: usize) -> Result<Array> {
        self.all.get_mut(value).and_then(Option::take).ok_or_else(missing)
    }

    /// Runs a step on its inputs, and forgets those that nobody reads after it.
    fn run(&mut self, step: &Step, budget: &mut Budget<'_>) -> Result<Array> {
        let mut first = None;
        if step.owns_first
            && let Some(Source::Value(value)) = step.inputs.first()
        {
            first = Some(self.take(*value)?);
        }
        let mut freed = first.as_ref().map_or(0, Array::bytes);
        let others: Vec<Option<&Array>> =
            step.inputs.iter().skip(1).map(|source| self.get(source)).collect();
        let first = match (first, step.inputs.first()) {
            (Some(first), _) => Cow::Owned(first),
            (None, Some(source)) => Cow::Borrowed(self.get(source).ok_or_else(missing)?),
            (None, None) => return Err(missing()),
        };
        let output = step.op.run(first, &others, budget)?;
        budget.keep(output.bytes());
        for value in &step.done {
            freed += self.all.get_mut(*value).and_then(Option::take).map_or(0, |a| a.bytes());
        }
        budget.forget(freed);
        Ok(output)
    }
}

fn missing() -> Error {
    Error::model("an input is missing")
}
