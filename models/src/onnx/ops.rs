//! Which operators there are, and those that compute number by number.

use candle_core::{Device, Tensor};
use stage::{Error, Result, ResultExt};

use super::array::{Array, Numbers, count};
use super::conv::{conv, global_average, pool};
use super::graph::Node;
use super::shape::{
    Places, concat, flatten, gather, reshape, resize, slice, squeeze, steps, transpose, unsqueeze,
};

/// Every operator that is run.
const KNOWN: [&str; 32] = [
    "Add",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Clip",
    "Concat",
    "Conv",
    "Div",
    "Dropout",
    "Exp",
    "Flatten",
    "Gather",
    "Gemm",
    "GlobalAveragePool",
    "Identity",
    "LeakyRelu",
    "MatMul",
    "MaxPool",
    "Mul",
    "PRelu",
    "Relu",
    "Reshape",
    "Resize",
    "Shape",
    "Sigmoid",
    "Slice",
    "Softmax",
    "Squeeze",
    "Sub",
    "Transpose",
    "Unsqueeze",
    "Upsample",
];

/// Refuses a node that cannot be run.
pub(super) fn check(node: &Node) -> Result<()> {
    if !KNOWN.contains(&node.op.as_str()) {
        let error = Error::model(format!("the operator `{}` is not known", node.op));
        return Err(error.hint(format!("these are: {}", KNOWN.join(", "))));
    }
    if node.outputs.iter().skip(1).any(|name| !name.is_empty())
        && node.op != "BatchNormalization"
        && node.op != "Dropout"
    {
        return Err(Error::model(format!("{} with {} outputs", node.op, node.outputs.len())));
    }
    Ok(())
}

/// Runs a node.
pub(super) fn run(node: &Node, inputs: &[Option<&Array>]) -> Result<Array> {
    let optional = |i: usize| inputs.get(i).copied().flatten();
    let get = |i: usize| optional(i).ok_or_else(|| Error::model(format!("input {i} is missing")));
    let ints = |i: usize| optional(i).map(Array::integers).transpose();
    let x = get(0)?;
    match node.op.as_str() {
        "Identity" | "Dropout" => Ok(x.clone()),
        "Conv" => conv(node, x, get(1)?, optional(2)),
        "MaxPool" | "AveragePool" => pool(node, x),
        "GlobalAveragePool" => global_average(x),
        "BatchNormalization" => batch_norm(node, x, [get(1)?, get(2)?, get(3)?, get(4)?]),
        "MatMul" => matmul(x, get(1)?),
        "Gemm" => gemm(node, x, get(1)?, optional(2)),
        "Add" => binary(x, get(1)?, |a, b| a + b, i64::checked_add),
        "Sub" => binary(x, get(1)?, |a, b| a - b, i64::checked_sub),
        "Mul" => binary(x, get(1)?, |a, b| a * b, i64::checked_mul),
        "Div" => binary(x, get(1)?, |a, b| a / b, i64::checked_div),
        "PRelu" => binary(x, get(1)?, |a, slope| if a < 0.0 { a * slope } else { a }, |_, _| None),
        "Relu" => map(x, |x| x.max(0.0)),
        "LeakyRelu" => {
            let slope = node.float("alpha", 0.01);
            map(x, |x| if x < 0.0 { x * slope } else { x })
        }
        "Clip" => {
            let bound = |i: usize, name: &str, none: f32| match optional(i) {
                Some(bound) => bound.floats().map(|b| b.first().copied().unwrap_or(none)),
                None => Ok(node.float(name, none)),
            };
            let (low, high) = (bound(1, "min", f32::MIN)?, bound(2, "max", f32::MAX)?);
            map(x, |x| x.max(low).min(high))
        }
        "Sigmoid" => map(x, |x| (1.0 / (1.0 + exp(-f64::from(x)))) as f32),
        "Exp" => map(x, |x| exp(f64::from(x)) as f32),
        "Softmax" => softmax(x, node.int("axis", -1)),
        "Cast" => cast(x, node.int("to", 0)),
        "Shape" => {
            Array::ints(&[x.shape().len()], x.shape().iter().map(|side| *side as i64).collect())
        }
        "Concat" => {
            let inputs = (0..inputs.len()).map(get).collect::<Result<Vec<_>>>()?;
            concat(&inputs, node.int("axis", 0))
        }
        "Reshape" => reshape(x, get(1)?.integers()?),
        "Flatten" => flatten(x, node.int("axis", 1)),
        "Transpose" => transpose(x, node.ints("perm")),
        "Gather" => gather(x, get(1)?, node.int("axis", 0)),
        "Unsqueeze" => match node.ints("axes") {
            Some(axes) => unsqueeze(x, axes),
            None => unsqueeze(x, get(1)?.integers()?),
        },
        "Squeeze" => squeeze(x, ints(1)?.or(node.ints("axes"))),
        "Slice" => {
            if let Some(steps) = ints(4)?
                && steps.iter().any(|step| *step != 1)
            {
                return Err(Error::model(format!("steps {steps:?}; only 1 is known")));
            }
            match node.ints("starts") {
                Some(starts) => {
                    slice(x, starts, node.ints("ends").unwrap_or(&[]), node.ints("axes"))
                }
                None => slice(x, get(1)?.integers()?, get(2)?.integers()?, ints(3)?),
            }
        }
        "Resize" => {
            let scales = optional(2).map(Array::floats).transpose()?.unwrap_or(&[]);
            resize(node, x, scales, ints(3)?.unwrap_or(&[]))
        }
        "Upsample" => resize(node, x, get(1)?.floats()?, &[]),
        op => Err(Error::model(format!("the operator `{op}` is not known"))),
    }
}

fn map(x: &Array, f: impl Fn(f32) -> f32) -> Result<Array> {
    Array::new(x.shape(), x.floats()?.iter().map(|x| f(*x)).collect())
}

/// e^x by arithmetic that every machine does alike: powers of two, and Taylor's series on ±ln(2)/2
/// to the 13th term, which f64 cannot tell from the limit.
#[must_use]
pub fn exp(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    let x = x.clamp(-745.0, 709.0);
    let k = (x * std::f64::consts::LOG2_E).round();
    let r = (x - k * 0.693_147_180_369_123_8) - k * 1.908_214_929_270_587_7e-10;
    let series = (1..=13).rev().fold(1.0, |sum, n| 1.0 + sum * r / f64::from(n));
    // Two factors, since 2^-1074 is no normal number.
    let half = (k / 2.0).trunc() as i32;
    let power = |k: i32| f64::from_bits(((1023 + i64::from(k)) as u64) << 52);
    series * power(half) * power(k as i32 - half)
}

/// Softmax along an axis. Up to operator set 12 everything from the axis on was one row, which is
/// the same where the axis is the last; another axis is refused.
fn softmax(x: &Array, axis: i64) -> Result<Array> {
    let axis = x.axis(axis)?;
    if axis + 1 != x.shape().len() {
        return Err(Error::model(format!("a softmax along side {axis} of {:?}", x.shape())));
    }
    let side = x.shape()[axis].max(1);
    let mut out = Vec::with_capacity(x.floats()?.len());
    for row in x.floats()?.chunks_exact(side) {
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let powers: Vec<f64> = row.iter().map(|x| exp(f64::from(*x) - f64::from(most))).collect();
        let sum: f64 = powers.iter().sum();
        out.extend(powers.iter().map(|power| (power / sum) as f32));
    }
    Array::new(x.shape(), out)
}

fn cast(x: &Array, to: i64) -> Result<Array> {
    match (x.numbers(), to) {
        (Numbers::F32(_), 1) | (Numbers::I64(_), 7) => Ok(x.clone()),
        (Numbers::I64(ints), 1) => Array::new(x.shape(), ints.iter().map(|i| *i as f32).collect()),
        (Numbers::F32(floats), 7) => {
            Array::ints(x.shape(), floats.iter().map(|x| *x as i64).collect())
        }
        _ => Err(Error::model(format!("a cast to element type {to}"))),
    }
}

/// A binary operator with numpy's broadcasting.
fn binary(
    a: &Array,
    b: &Array,
    floats: impl Fn(f32, f32) -> f32,
    ints: impl Fn(i64, i64) -> Option<i64>,
) -> Result<Array> {
    let rank = a.shape().len().max(b.shape().len());
    let side =
        |x: &Array, i: usize| (i + x.shape().len()).checked_sub(rank).map_or(1, |i| x.shape()[i]);
    let mut shape = Vec::with_capacity(rank);
    for i in 0..rank {
        shape.push(match (side(a, i), side(b, i)) {
            (a, b) if a == b => a,
            (1, side) | (side, 1) => side,
            _ => {
                let message = format!("{:?} and {:?} do not go together", a.shape(), b.shape());
                return Err(Error::model(message));
            }
        });
    }
    let total = count(&shape)?;
    let places = |x: &Array| -> Vec<usize> {
        let own = steps(x.shape());
        let before = rank - x.shape().len();
        let step = |i: usize| if side(x, i) == 1 { 0 } else { own[i - before] };
        let steps: Vec<usize> = (0..rank).map(step).collect();
        Places { shape: &shape, steps: &steps, at: vec![0; rank], place: 0, left: total }.collect()
    };
    let same = a.shape() == b.shape();
    let numbers = match (a.numbers(), b.numbers()) {
        (Numbers::F32(a), Numbers::F32(b)) if same => {
            Numbers::F32(a.iter().zip(b).map(|(a, b)| floats(*a, *b)).collect())
        }
        (Numbers::F32(x), Numbers::F32(y)) => {
            let places = places(a).into_iter().zip(places(b));
            Numbers::F32(places.map(|(i, j)| floats(x[i], y[j])).collect())
        }
        (Numbers::I64(x), Numbers::I64(y)) => {
            let places = places(a).into_iter().zip(places(b));
            let values: Option<Vec<i64>> = places.map(|(i, j)| ints(x[i], y[j])).collect();
            Numbers::I64(values.ok_or_else(|| Error::model("integers beyond their range"))?)
        }
        _ => return Err(Error::model("floats beside integers")),
    };
    Array::of(shape, numbers)
}

/// Batch normalisation as it is after training: scale, bias, mean, variance of each channel.
fn batch_norm(node: &Node, x: &Array, parameters: [&Array; 4]) -> Result<Array> {
    let channels = x.shape().get(1).copied().unwrap_or(0);
    if parameters.iter().any(|p| p.shape() != [channels]) {
        return Err(Error::model(format!("statistics that are not of {channels} channels")));
    }
    let [scale, bias, mean, variance] = parameters;
    let [scale, bias] = [scale.floats()?, bias.floats()?];
    let [mean, variance] = [mean.floats()?, variance.floats()?];
    let epsilon = f64::from(node.float("epsilon", 1e-5));
    let plane = count(&x.shape()[2..])?;
    let mut out = x.floats()?.to_vec();
    for (i, plane) in out.chunks_exact_mut(plane.max(1)).enumerate() {
        let c = i % channels;
        let factor = (f64::from(scale[c]) / (f64::from(variance[c]) + epsilon).sqrt()) as f32;
        let shift = (f64::from(bias[c]) - f64::from(mean[c]) * f64::from(factor)) as f32;
        plane.iter_mut().for_each(|x| *x = *x * factor + shift);
    }
    Array::new(x.shape(), out)
}

/// A product of matrices; of more sides only the left may have them.
fn matmul(a: &Array, b: &Array) -> Result<Array> {
    let ([.., k], [rows, n]) = (a.shape(), b.shape()) else {
        return Err(Error::model(format!("{:?} times {:?}", a.shape(), b.shape())));
    };
    if k != rows || *k == 0 || *n == 0 {
        return Err(Error::model(format!("{:?} times {:?}", a.shape(), b.shape())));
    }
    let shape = [&a.shape()[..a.shape().len() - 1], &[*n]].concat();
    let transposed = transpose(b, None)?;
    product(a.floats()?, *k, transposed.floats()?, *n, None)
        .and_then(|numbers| Array::new(&shape, numbers))
}

/// `alpha` and `beta` of 1, `a` as it stands, `b` either way, `c` a row.
fn gemm(node: &Node, a: &Array, b: &Array, c: Option<&Array>) -> Result<Array> {
    let plain = node.float("alpha", 1.0) == 1.0 && node.float("beta", 1.0) == 1.0;
    let turned;
    let b = if node.int("transB", 0) == 0 {
        turned = transpose(b, None)?;
        &turned
    } else {
        b
    };
    match (a.shape(), b.shape()) {
        (&[m, k], &[n, other])
            if k == other
                && k > 0
                && n > 0
                && plain
                && node.int("transA", 0) == 0
                && c.is_none_or(|c| c.shape() == [n]) =>
        {
            let bias = c.map(Array::floats).transpose()?;
            Array::new(&[m, n], product(a.floats()?, k, b.floats()?, n, bias)?)
        }
        _ => Err(Error::model(format!(
            "a Gemm of {:?} and {:?} of a form that is not known",
            a.shape(),
            b.shape()
        ))),
    }
}

/// `a` (.., k) times the transpose of `b` (n, k).
fn product(a: &[f32], k: usize, b: &[f32], n: usize, bias: Option<&[f32]>) -> Result<Vec<f32>> {
    let run = || -> candle_core::Result<Vec<f32>> {
        let a = Tensor::from_slice(a, (a.len() / k, k), &Device::Cpu)?;
        let b = Tensor::from_slice(b, (n, k), &Device::Cpu)?;
        let bias = bias.map(|bias| Tensor::from_slice(bias, n, &Device::Cpu)).transpose()?;
        kernels::linear(&a, &b, bias.as_ref())?.flatten_all()?.to_vec1()
    };
    run().internal("a product failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_that_of_the_library_to_the_last_bits() {
        for i in -7000..7000 {
            let x = f64::from(i) / 10.0;
            let error = (exp(x) / x.exp() - 1.0).abs();
            assert!(error < 1e-15, "{x}: {error}");
        }
        assert_eq!((exp(0.0), exp(-1e9) as f32), (1.0, 0.0));
        assert!(exp(f64::NAN).is_nan());
    }

    #[test]
    fn shapes_go_together_as_in_numpy() {
        let a = Array::new(&[2, 1, 2], vec![1.0, 2.0, 3.0, 4.0]).unwrap();
        let b = Array::new(&[3, 1], vec![10.0, 20.0, 30.0]).unwrap();
        let sum = binary(&a, &b, |a, b| a + b, i64::checked_add).unwrap();
        assert_eq!(sum.shape(), [2, 3, 2]);
        let expected = [11., 12., 21., 22., 31., 32., 13., 14., 23., 24., 33., 34.];
        assert_eq!(sum.floats().unwrap(), expected);
        let c = Array::new(&[4], vec![0.0; 4]).unwrap();
        assert!(binary(&a, &c, |a, b| a + b, i64::checked_add).is_err());
    }
}
