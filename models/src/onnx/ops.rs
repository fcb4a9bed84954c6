//! Operators: what a node of a file asks for, checked when the file is opened, and how it is run.

use std::borrow::Cow;
use std::collections::HashMap;

use stage::{Error, Result};

use super::array::Array;
use super::budget::{Budget, steps};
use super::conv::Conv;
use super::graph::Node;
use super::numbers::{Map, Pairwise, Rows, batch_norm, cast, map, pairwise, softmax};
use super::pool::{Pool, global_average};
use super::product::{Gemm, matmul};
use super::resize::Resize;
use super::shape::{
    concat, flatten, gather, reshape, shape_of, slice, squeeze, transpose, unsqueeze,
};

/// Every operator that is run, and how many inputs it has: at least, at most.
const KNOWN: [(&str, usize, usize); 32] = [
    ("Add", 2, 2),
    ("AveragePool", 1, 1),
    ("BatchNormalization", 5, 5),
    ("Cast", 1, 1),
    ("Clip", 1, 3),
    ("Concat", 1, 4096),
    ("Conv", 2, 3),
    ("Div", 2, 2),
    ("Dropout", 1, 2),
    ("Exp", 1, 1),
    ("Flatten", 1, 1),
    ("Gather", 2, 2),
    ("Gemm", 2, 3),
    ("GlobalAveragePool", 1, 1),
    ("Identity", 1, 1),
    ("LeakyRelu", 1, 1),
    ("MatMul", 2, 2),
    ("MaxPool", 1, 1),
    ("Mul", 2, 2),
    ("PRelu", 2, 2),
    ("Relu", 1, 1),
    ("Reshape", 2, 2),
    ("Resize", 1, 4),
    ("Shape", 1, 1),
    ("Sigmoid", 1, 1),
    ("Slice", 1, 5),
    ("Softmax", 1, 1),
    ("Squeeze", 1, 2),
    ("Sub", 2, 2),
    ("Transpose", 1, 1),
    ("Unsqueeze", 1, 2),
    ("Upsample", 1, 2),
];

/// Starts, ends and axes.
type Cuts = (Vec<i64>, Vec<i64>, Option<Vec<i64>>);

/// An operator with what its attributes say.
#[derive(Debug, Clone)]
pub(super) enum Op {
    /// Its input.
    Same,
    Conv(Conv),
    Pool(Pool),
    GlobalAverage,
    /// With epsilon.
    BatchNorm(f64),
    MatMul,
    Gemm(Gemm),
    Pairwise(Pairwise),
    Map(Map),
    Softmax(Rows),
    /// To integers, or to floats.
    Cast {
        to_ints: bool,
    },
    Shape {
        start: i64,
        end: i64,
    },
    Concat(i64),
    /// Whether a side of 0 is one.
    Reshape {
        zero: bool,
    },
    Flatten(i64),
    Transpose(Option<Vec<i64>>),
    Gather(i64),
    /// Axes of the attribute, else they are an input.
    Unsqueeze(Option<Vec<i64>>),
    Squeeze(Option<Vec<i64>>),
    /// Starts, ends and axes of attributes, else they are inputs.
    Slice(Option<Cuts>),
    Resize(Resize),
}

impl Op {
    /// Takes the node's attributes. Bounds of a `Clip` are taken from the weights, and its other
    /// inputs dropped.
    pub(super) fn of(
        node: &mut Node,
        opset: i64,
        weights: &HashMap<String, Array>,
    ) -> Result<Self> {
        let Some((_, fewest, most)) = KNOWN.iter().find(|(name, ..)| *name == node.op) else {
            let known: Vec<&str> = KNOWN.iter().map(|(name, ..)| *name).collect();
            let error = Error::model(format!("the operator `{}` is not known", node.op));
            return Err(error.hint(format!("these are: {}", known.join(", "))));
        };
        while node.inputs.last().is_some_and(String::is_empty) {
            node.inputs.pop();
        }
        let given = node.inputs.len();
        if given > *most
            || node.inputs.iter().take(*fewest).filter(|n| !n.is_empty()).count() < *fewest
        {
            let message = format!("{given} inputs; {} takes {fewest} to {most}", node.op);
            return Err(Error::model(message));
        }
        // The mask of a dropout may be named, as long as nobody reads it. A normalisation with more
        // outputs is one in training.
        let more = node.outputs.iter().skip(1).any(|name| !name.is_empty());
        if more && node.op != "Dropout" {
            return Err(Error::model(format!("{} with {} outputs", node.op, node.outputs.len())));
        }
        let op = Self::read(node, opset, weights)?;
        node.attributes.finish()?;
        Ok(op)
    }

    fn read(node: &mut Node, opset: i64, weights: &HashMap<String, Array>) -> Result<Self> {
        let a = &mut node.attributes;
        Ok(match node.op.as_str() {
            "Identity" => Self::Same,
            "Dropout" => {
                a.ignore("ratio");
                a.ignore("seed");
                Self::Same
            }
            "Conv" => Self::Conv(Conv::of(a)?),
            "MaxPool" => Self::Pool(Pool::of(true, a)?),
            "AveragePool" => Self::Pool(Pool::of(false, a)?),
            "GlobalAveragePool" => Self::GlobalAverage,
            "BatchNormalization" => {
                a.ignore("momentum");
                if a.flag("training_mode")? || a.int("spatial", 1)? != 1 {
                    return Err(Error::model("a normalisation in training, or of single pixels"));
                }
                Self::BatchNorm(f64::from(a.float("epsilon")?.unwrap_or(1e-5)))
            }
            "MatMul" => Self::MatMul,
            "Gemm" => Self::Gemm(Gemm::of(a)?),
            "Add" => Self::Pairwise(Pairwise::Add),
            "Sub" => Self::Pairwise(Pairwise::Sub),
            "Mul" => Self::Pairwise(Pairwise::Mul),
            "Div" => Self::Pairwise(Pairwise::Div),
            "PRelu" => Self::Pairwise(Pairwise::PRelu),
            "Relu" => Self::Map(Map::Relu),
            "LeakyRelu" => Self::Map(Map::LeakyRelu(a.float("alpha")?.unwrap_or(0.01))),
            "Clip" => {
                let [low, high] = bounds(node, opset, weights)?;
                node.inputs.truncate(1);
                Self::Map(Map::Clip(low.unwrap_or(f32::MIN), high.unwrap_or(f32::MAX)))
            }
            "Sigmoid" => Self::Map(Map::Sigmoid),
            "Exp" => Self::Map(Map::Exp),
            "Softmax" if opset < 13 => Self::Softmax(Rows::From(a.int("axis", 1)?)),
            "Softmax" => Self::Softmax(Rows::Along(a.int("axis", -1)?)),
            "Cast" => match a.int("to", 0)? {
                1 => Self::Cast { to_ints: false },
                7 => Self::Cast { to_ints: true },
                to => return Err(Error::model(format!("a cast to element type {to}"))),
            },
            "Shape" => Self::Shape { start: a.int("start", 0)?, end: a.int("end", i64::MAX)? },
            "Concat" => Self::Concat(a.int("axis", 0)?),
            "Reshape" => Self::Reshape { zero: a.flag("allowzero")? },
            "Flatten" => Self::Flatten(a.int("axis", 1)?),
            "Transpose" => Self::Transpose(a.ints("perm")?),
            "Gather" => Self::Gather(a.int("axis", 0)?),
            "Unsqueeze" => {
                let axes = a.ints("axes")?;
                match (&axes, node.inputs.len()) {
                    (Some(_), 1) | (None, 2) => Self::Unsqueeze(axes),
                    _ => return Err(Error::model("an Unsqueeze without axes, or with two")),
                }
            }
            "Squeeze" => Self::Squeeze(a.ints("axes")?),
            "Slice" => match (a.ints("starts")?, a.ints("ends")?, node.inputs.len()) {
                (Some(starts), Some(ends), 1) => Self::Slice(Some((starts, ends, a.ints("axes")?))),
                (None, None, 3..) => Self::Slice(None),
                _ => return Err(Error::model("a Slice without starts and ends")),
            },
            "Resize" if opset < 10 => {
                return Err(Error::model(format!("Resize in operator set {opset}")));
            }
            "Resize" => Self::Resize(Resize::of(opset, a)?),
            "Upsample" => Self::Resize(Resize::upsample(opset, a)?),
            op => return Err(Error::model(format!("the operator `{op}` is not known"))),
        })
    }

    /// Runs it; `x` is the first input and may be changed where it is owned.
    pub(super) fn run(
        &self,
        x: Cow<'_, Array>,
        others: &[Option<&Array>],
        budget: &mut Budget<'_>,
    ) -> Result<Array> {
        let optional = |i: usize| others.get(i - 1).copied().flatten();
        let get =
            |i: usize| optional(i).ok_or_else(|| Error::model(format!("input {i} is missing")));
        let ints = |i: usize| optional(i).map(Array::integers).transpose();
        match self {
            Self::Same => moved(x, budget),
            Self::Conv(conv) => conv.run(&x, get(1)?, optional(2), budget),
            Self::Pool(pool) => pool.run(&x, budget),
            Self::GlobalAverage => global_average(&x, budget),
            Self::BatchNorm(epsilon) => {
                batch_norm(*epsilon, x, [get(1)?, get(2)?, get(3)?, get(4)?], budget)
            }
            Self::MatMul => matmul(&x, get(1)?, budget),
            Self::Gemm(gemm) => gemm.run(&x, get(1)?, optional(2), budget),
            Self::Pairwise(op) => pairwise(*op, x, get(1)?, budget),
            Self::Map(f) => map(x, *f, budget),
            Self::Softmax(rows) => softmax(x, *rows, budget),
            Self::Cast { to_ints } => cast(x, *to_ints, budget),
            Self::Shape { start, end } => shape_of(&x, *start, *end),
            Self::Concat(axis) => {
                let mut inputs = vec![x.as_ref()];
                for i in 1..=others.len() {
                    inputs.push(get(i)?);
                }
                concat(&inputs, *axis, budget)
            }
            Self::Reshape { zero } => reshape(moved(x, budget)?, get(1)?.integers()?, *zero),
            Self::Flatten(axis) => flatten(moved(x, budget)?, *axis),
            Self::Transpose(order) => transpose(&x, order.as_deref(), budget),
            Self::Gather(axis) => gather(&x, get(1)?, *axis, budget),
            Self::Unsqueeze(axes) => match axes {
                Some(axes) => unsqueeze(moved(x, budget)?, axes),
                None => unsqueeze(moved(x, budget)?, get(1)?.integers()?),
            },
            Self::Squeeze(axes) => squeeze(moved(x, budget)?, ints(1)?.or(axes.as_deref())),
            Self::Slice(Some((starts, ends, axes))) => {
                slice(&x, starts, ends, axes.as_deref(), budget)
            }
            Self::Slice(None) => {
                if ints(4)?.is_some_and(|steps| steps.iter().any(|step| *step != 1)) {
                    return Err(Error::model("a Slice in steps; only 1 is known"));
                }
                slice(&x, get(1)?.integers()?, get(2)?.integers()?, ints(3)?, budget)
            }
            Self::Resize(resize) => resize.run(&x, others, budget),
        }
    }
}

/// The value itself, copied only where others read it too.
fn moved(x: Cow<'_, Array>, budget: &mut Budget<'_>) -> Result<Array> {
    if matches!(x, Cow::Borrowed(_)) {
        budget.take(steps(x.shape()), x.len().saturating_mul(2))?;
    }
    Ok(x.into_owned())
}

/// The bounds of a `Clip`: attributes before operator set 11, weights since.
fn bounds(
    node: &mut Node,
    opset: i64,
    weights: &HashMap<String, Array>,
) -> Result<[Option<f32>; 2]> {
    if opset < 11 {
        if node.inputs.len() > 1 {
            return Err(Error::model("a Clip with bounds as inputs"));
        }
        return Ok([node.attributes.float("min")?, node.attributes.float("max")?]);
    }
    let bound = |i: usize| match node.inputs.get(i).map(String::as_str) {
        None | Some("") => Ok(None),
        Some(name) => match weights.get(name).map(Array::floats).transpose()? {
            Some(&[bound]) => Ok(Some(bound)),
            _ => Err(Error::model(format!("a bound `{name}` that is no number in the file"))),
        },
    };
    Ok([bound(1)?, bound(2)?])
}
