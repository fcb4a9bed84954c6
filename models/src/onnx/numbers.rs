//! Operators that compute number by number, or along one side.

use std::borrow::Cow;

use rayon::prelude::*;
use stage::{Error, Result};

use super::array::{Array, Numbers, count};
use super::budget::{Budget, steps};
use super::shape::{Places, distances};

/// Numbers of one task.
const PART: usize = 1 << 15;

/// A function of one number. NaN stays NaN in all of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Map {
    Relu,
    /// The slope below zero.
    LeakyRelu(f32),
    /// The bounds.
    Clip(f32, f32),
    Sigmoid,
    Exp,
}

impl Map {
    /// In place, on this thread.
    pub(super) fn apply(self, numbers: &mut [f32]) {
        match self {
            Self::Relu => each(numbers, |x| if x <= 0.0 { 0.0 } else { x }),
            Self::LeakyRelu(slope) => each(numbers, |x| if x < 0.0 { x * slope } else { x }),
            Self::Clip(low, high) => each(numbers, |x| {
                let x = if x < low { low } else { x };
                if x > high { high } else { x }
            }),
            Self::Sigmoid => each(numbers, |x| (1.0 / (1.0 + exp(-f64::from(x)))) as f32),
            Self::Exp => each(numbers, |x| exp(f64::from(x)) as f32),
        }
    }
}

fn each(numbers: &mut [f32], f: impl Fn(f32) -> f32) {
    numbers.iter_mut().for_each(|x| *x = f(*x));
}

/// The floats of a value that may be changed: its own where nobody else reads it, else a copy.
pub(super) fn own(x: Cow<'_, Array>, budget: &mut Budget<'_>) -> Result<(Vec<usize>, Vec<f32>)> {
    budget.take(steps(x.shape()), if matches!(x, Cow::Owned(_)) { 0 } else { x.len() })?;
    match x.into_owned().into_parts() {
        (shape, Numbers::F32(numbers)) => Ok((shape, numbers)),
        _ => Err(Error::model("integers where floats belong")),
    }
}

pub(super) fn map(x: Cow<'_, Array>, f: Map, budget: &mut Budget<'_>) -> Result<Array> {
    let (shape, mut numbers) = own(x, budget)?;
    numbers.par_chunks_mut(PART).for_each(|part| f.apply(part));
    Array::new(&shape, numbers)
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

/// What stands beside each other in a row of a softmax.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Rows {
    /// The numbers along this side.
    Along(i64),
    /// All numbers of this side and those behind it: operator sets before 13.
    From(i64),
}

pub(super) fn softmax(x: Cow<'_, Array>, rows: Rows, budget: &mut Budget<'_>) -> Result<Array> {
    let (Rows::Along(axis) | Rows::From(axis)) = rows;
    let axis = x.axis(axis)?;
    let behind = count(&x.shape()[axis + 1..])?;
    // A row, and the distance of its numbers.
    let (length, step) = match rows {
        Rows::Along(_) => (x.shape()[axis], behind),
        Rows::From(_) => (count(&x.shape()[axis..])?, 1),
    };
    let (shape, mut numbers) = own(x, budget)?;
    budget.take(steps(&shape), length.saturating_mul(2))?;
    for block in numbers.chunks_exact_mut((length * step).max(1)) {
        for first in 0..step {
            let row = || block.iter().skip(first).step_by(step);
            let most = row().copied().fold(f32::NEG_INFINITY, f32::max);
            let powers: Vec<f64> = row().map(|x| exp(f64::from(*x) - f64::from(most))).collect();
            let sum: f64 = powers.iter().sum();
            let row = block.iter_mut().skip(first).step_by(step);
            row.zip(&powers).for_each(|(x, power)| *x = (power / sum) as f32);
        }
    }
    Array::new(&shape, numbers)
}

pub(super) fn cast(x: Cow<'_, Array>, to_ints: bool, budget: &mut Budget<'_>) -> Result<Array> {
    budget.take(steps(x.shape()), x.len().saturating_mul(2))?;
    match (x.numbers(), to_ints) {
        (Numbers::F32(_), false) | (Numbers::I64(_), true) => Ok(x.into_owned()),
        (Numbers::I64(ints), false) => {
            Array::new(x.shape(), ints.iter().map(|i| *i as f32).collect())
        }
        (Numbers::F32(floats), true) => {
            Array::ints(x.shape(), floats.iter().map(|x| *x as i64).collect())
        }
    }
}

/// An operator of two numbers: of floats, and of integers where it has a result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Pairwise {
    Add,
    Sub,
    Mul,
    Div,
    /// The second is the slope below zero.
    PRelu,
}

impl Pairwise {
    fn ints(self, a: i64, b: i64) -> Option<i64> {
        match self {
            Self::Add => a.checked_add(b),
            Self::Sub => a.checked_sub(b),
            Self::Mul => a.checked_mul(b),
            Self::Div => a.checked_div(b),
            Self::PRelu => None,
        }
    }
}

/// A binary operator with numpy's broadcasting.
pub(super) fn pairwise(
    op: Pairwise,
    a: Cow<'_, Array>,
    b: &Array,
    budget: &mut Budget<'_>,
) -> Result<Array> {
    let shape = common(a.shape(), b.shape())?;
    let total = count(&shape)?;
    let in_place = matches!(a, Cow::Owned(_)) && shape == a.shape();
    budget.take(steps(&shape), if in_place { 0 } else { total.saturating_mul(2) })?;
    if op == Pairwise::PRelu && shape != a.shape() {
        let message = format!("slopes {:?} for {:?}", b.shape(), a.shape());
        return Err(Error::model(message));
    }
    let distances = distances_in(b.shape(), &shape);
    let a = expanded(a, &shape, total)?;
    match (a.into_parts(), b.numbers()) {
        ((_, Numbers::F32(mut a)), Numbers::F32(b)) => {
            match op {
                Pairwise::Add => floats(&mut a, b, &shape, &distances, |a, b| *a += b),
                Pairwise::Sub => floats(&mut a, b, &shape, &distances, |a, b| *a -= b),
                Pairwise::Mul => floats(&mut a, b, &shape, &distances, |a, b| *a *= b),
                Pairwise::Div => floats(&mut a, b, &shape, &distances, |a, b| *a /= b),
                Pairwise::PRelu => floats(&mut a, b, &shape, &distances, |a, slope| {
                    *a = if *a < 0.0 { *a * slope } else { *a };
                }),
            }
            Array::new(&shape, a)
        }
        ((_, Numbers::I64(mut a)), Numbers::I64(b)) => {
            let mut beyond = false;
            joined(&mut a, b, &shape, &distances, |a, b| match op.ints(*a, b) {
                Some(number) => *a = number,
                None => beyond = true,
            });
            if beyond {
                return Err(Error::model("integers beyond their range"));
            }
            Array::ints(&shape, a)
        }
        _ => Err(Error::model("floats beside integers")),
    }
}

/// The shape that both go into.
fn common(a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let rank = a.len().max(b.len());
    let side = |x: &[usize], i: usize| (i + x.len()).checked_sub(rank).map_or(1, |i| x[i]);
    let sides = (0..rank).map(|i| match (side(a, i), side(b, i)) {
        (a, b) if a == b => Ok(a),
        (1, side) | (side, 1) => Ok(side),
        _ => Err(Error::model(format!("{a:?} and {b:?} do not go together"))),
    });
    sides.collect()
}

/// Distances of neighbours along the sides of `shape` in a value of this one; 0 along those that it
/// lacks or has once.
fn distances_in(own: &[usize], shape: &[usize]) -> Vec<usize> {
    let before = shape.len() - own.len();
    let distances = distances(own);
    let along = |i: usize| match i.checked_sub(before) {
        Some(i) if own[i] != 1 => distances[i],
        _ => 0,
    };
    (0..shape.len()).map(along).collect()
}

/// The value repeated to a shape.
fn expanded(x: Cow<'_, Array>, shape: &[usize], total: usize) -> Result<Array> {
    if x.shape() == shape {
        return Ok(x.into_owned());
    }
    let steps = distances_in(x.shape(), shape);
    let places = Places::new(shape, &steps, 0, total);
    let numbers = match x.numbers() {
        Numbers::F32(x) => Numbers::F32(places.map(|place| x[place]).collect()),
        Numbers::I64(x) => Numbers::I64(places.map(|place| x[place]).collect()),
    };
    Array::of(shape.to_vec(), numbers)
}

/// [`joined`], in parts at the same time where nothing is repeated.
fn floats(
    a: &mut [f32],
    b: &[f32],
    shape: &[usize],
    distances: &[usize],
    join: impl Fn(&mut f32, f32) + Sync,
) {
    if a.len() != b.len() {
        return joined(a, b, shape, distances, join);
    }
    a.par_chunks_mut(PART).zip(b.par_chunks(PART)).for_each(|(a, b)| {
        a.iter_mut().zip(b).for_each(|(a, b)| join(a, *b));
    });
}

/// Joins every number of `a`, of this shape, with its partner in `b`, which lies at these distances:
/// runs of neighbours beside runs of neighbours, or beside one number.
fn joined<T: Copy>(
    a: &mut [T],
    b: &[T],
    shape: &[usize],
    distances: &[usize],
    mut join: impl FnMut(&mut T, T),
) {
    if a.is_empty() {
        return;
    }
    let (mut cut, mut run, mut moves) = (shape.len(), 1, None);
    while let Some(i) = cut.checked_sub(1) {
        if shape[i] != 1 {
            let along = distances[i] != 0;
            if moves.is_some_and(|moves| moves != along) {
                break;
            }
            moves = Some(along);
        }
        (cut, run) = (i, run * shape[i]);
    }
    let places = Places::new(&shape[..cut], &distances[..cut], 0, a.len() / run);
    for (a, place) in a.chunks_exact_mut(run).zip(places) {
        if moves == Some(true) {
            a.iter_mut().zip(&b[place..place + run]).for_each(|(a, b)| join(a, *b));
        } else {
            let b = b[place];
            a.iter_mut().for_each(|a| join(a, b));
        }
    }
}

/// Batch normalisation of a channel as it is after training.
pub(super) struct Channel {
    pub(super) factor: f64,
    bias: f64,
    mean: f64,
}

impl Channel {
    /// What is added to numbers multiplied by `factor`.
    pub(super) fn summand(&self, factor: f64) -> f64 {
        self.bias - self.mean * factor
    }
}

/// Of each channel, from scale, bias, mean and variance.
pub(super) fn channels(epsilon: f64, parameters: [&Array; 4]) -> Result<Vec<Channel>> {
    let [scale, bias, mean, variance] = parameters;
    let sides = [scale.len()];
    if parameters.iter().any(|p| p.shape() != sides) {
        return Err(Error::model("statistics of different lengths"));
    }
    let [scale, bias] = [scale.floats()?, bias.floats()?];
    let [mean, variance] = [mean.floats()?, variance.floats()?];
    let channel = |c: usize| Channel {
        factor: f64::from(scale[c]) / (f64::from(variance[c]) + epsilon).sqrt(),
        bias: f64::from(bias[c]),
        mean: f64::from(mean[c]),
    };
    Ok((0..scale.len()).map(channel).collect())
}

pub(super) fn batch_norm(
    epsilon: f64,
    x: Cow<'_, Array>,
    parameters: [&Array; 4],
    budget: &mut Budget<'_>,
) -> Result<Array> {
    let Some(&side) = x.shape().get(1) else {
        let message = format!("a value of shape {:?} where [N, C, ..] belongs", x.shape());
        return Err(Error::model(message));
    };
    let channels = channels(epsilon, parameters)?;
    if channels.len() != side {
        return Err(Error::model(format!("statistics that are not of {side} channels")));
    }
    let (shape, mut numbers) = own(x, budget)?;
    let plane = count(&shape[2..])?.max(1);
    if side > 0 {
        numbers.par_chunks_exact_mut(plane).enumerate().for_each(|(i, plane)| {
            let channel = &channels[i % side];
            let factor = channel.factor as f32;
            let summand = channel.summand(f64::from(factor)) as f32;
            each(plane, |x| x * factor + summand);
        });
    }
    Array::new(&shape, numbers)
}

#[cfg(test)]
mod tests {
    use stage::Cancel;

    use super::*;

    fn array(shape: &[usize], numbers: &[f32]) -> Array {
        Array::new(shape, numbers.to_vec()).unwrap()
    }

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
        let cancel = Cancel::default();
        let budget = &mut Budget::new(&cancel);
        let a = array(&[2, 1, 2], &[1.0, 2.0, 3.0, 4.0]);
        let b = array(&[3, 1], &[10.0, 20.0, 30.0]);
        let sum = pairwise(Pairwise::Add, Cow::Borrowed(&a), &b, budget).unwrap();
        assert_eq!(sum.shape(), [2, 3, 2]);
        let expected = [11., 12., 21., 22., 31., 32., 13., 14., 23., 24., 33., 34.];
        assert_eq!(sum.floats().unwrap(), expected);
        let difference = pairwise(Pairwise::Sub, Cow::Owned(sum), &a, budget).unwrap();
        let expected = [10., 10., 20., 20., 30., 30., 10., 10., 20., 20., 30., 30.];
        assert_eq!(difference.floats().unwrap(), expected);
        let c = array(&[4], &[0.0; 4]);
        assert!(pairwise(Pairwise::Add, Cow::Borrowed(&a), &c, budget).is_err());
        let ints = Array::ints(&[2], vec![i64::MAX, 1]).unwrap();
        assert!(pairwise(Pairwise::Add, Cow::Borrowed(&ints), &ints, budget).is_err());
    }

    #[test]
    fn slopes_do_not_make_a_value_larger() {
        let cancel = Cancel::default();
        let budget = &mut Budget::new(&cancel);
        let (x, slopes) =
            (array(&[1, 2, 2], &[-1.0, 1.0, -2.0, 2.0]), array(&[2, 1], &[0.5, 0.25]));
        let y = pairwise(Pairwise::PRelu, Cow::Borrowed(&x), &slopes, budget).unwrap();
        assert_eq!(y.floats().unwrap(), [-0.5, 1.0, -0.5, 2.0]);
        assert!(pairwise(Pairwise::PRelu, Cow::Borrowed(&slopes), &x, budget).is_err());
    }

    #[test]
    fn a_softmax_goes_along_a_side_or_over_all_from_a_side_on() {
        let cancel = Cancel::default();
        let budget = &mut Budget::new(&cancel);
        let x = array(&[1, 2, 2], &[0.0; 4]);
        let of = |rows, budget: &mut Budget<'_>| {
            softmax(Cow::Borrowed(&x), rows, budget).unwrap().floats().unwrap().to_vec()
        };
        assert_eq!(of(Rows::From(1), budget), [0.25; 4]);
        assert_eq!(of(Rows::Along(-1), budget), [0.5; 4]);
        assert_eq!(of(Rows::Along(0), budget), [1.0; 4]);
        let third = 1.0f32.exp() / (1.0f32.exp() + 1.0);
        let x = array(&[2, 2], &[1.0, 0.0, 0.0, 0.0]);
        let y = softmax(Cow::Borrowed(&x), Rows::Along(0), budget).unwrap();
        assert!((y.floats().unwrap()[0] - third).abs() < 1e-6);
        assert_eq!(y.floats().unwrap()[1], 0.5);
    }
}
