//! Operators that move numbers and compute nothing.

use stage::{Error, Result};

use super::array::{Array, MOST_SIDES, Numbers, axes_of, axis_of, count};
use super::budget::{Budget, steps};

/// `Shape`, or a part of it from one side to another.
pub(super) fn shape_of(x: &Array, start: i64, end: i64) -> Result<Array> {
    let sides = x.shape();
    let place = |p: i64| {
        let p = if p < 0 { p.saturating_add(sides.len() as i64) } else { p };
        usize::try_from(p).unwrap_or(0).min(sides.len())
    };
    let sides = sides.get(place(start)..place(end)).unwrap_or(&[]);
    Array::ints(&[sides.len()], sides.iter().map(|side| *side as i64).collect())
}

/// `Reshape`: -1 is what is left, and 0 keeps a side, or is one where `zero` says so.
pub(super) fn reshape(x: Array, wanted: &[i64], zero: bool) -> Result<Array> {
    if wanted.len() > MOST_SIDES || (zero && wanted.contains(&0) && wanted.contains(&-1)) {
        return Err(Error::model(format!("a shape {wanted:?}")));
    }
    let mut shape = Vec::with_capacity(wanted.len());
    let mut open = None;
    for (i, side) in wanted.iter().enumerate() {
        shape.push(match *side {
            0 if !zero => {
                *x.shape().get(i).ok_or_else(|| Error::model(format!("no side {i} to keep")))?
            }
            -1 if open.is_none() => {
                open = Some(i);
                1
            }
            side => usize::try_from(side).map_err(|_| Error::model(format!("shape {wanted:?}")))?,
        });
    }
    if let Some(open) = open {
        let rest = count(&shape)?;
        shape[open] = x.len().checked_div(rest).unwrap_or(0);
    }
    x.reshaped(shape)
}

/// `Flatten` to two sides, cut before `axis`.
pub(super) fn flatten(x: Array, axis: i64) -> Result<Array> {
    let rank = x.shape().len();
    let axis = if axis == rank as i64 { rank } else { axis_of(axis, rank)? };
    let (front, back) = x.shape().split_at(axis);
    let shape = vec![count(front)?, count(back)?];
    x.reshaped(shape)
}

pub(super) fn unsqueeze(x: Array, axes: &[i64]) -> Result<Array> {
    if axes.len() > MOST_SIDES {
        return Err(Error::model(format!("{} more sides", axes.len())));
    }
    let axes = axes_of(axes, x.shape().len() + axes.len())?;
    let rank = x.shape().len() + axes.len();
    let mut old = x.shape().iter();
    let sides = (0..rank).map(|i| match axes.contains(&i) {
        true => 1,
        false => old.next().copied().unwrap_or(1),
    });
    let shape = sides.collect();
    x.reshaped(shape)
}

/// `Squeeze` of these sides, each of length 1, or of all that are.
pub(super) fn squeeze(x: Array, axes: Option<&[i64]>) -> Result<Array> {
    let axes = axes.map(|axes| axes_of(axes, x.shape().len())).transpose()?;
    if let Some(axis) = axes.iter().flatten().find(|axis| x.shape()[**axis] != 1) {
        return Err(Error::model(format!("side {axis} of {:?} is not 1", x.shape())));
    }
    let gone = |i: usize, side: usize| side == 1 && axes.as_ref().is_none_or(|a| a.contains(&i));
    let sides = x.shape().iter().enumerate().filter(|(i, side)| !gone(*i, **side));
    let shape = sides.map(|(_, side)| *side).collect();
    x.reshaped(shape)
}

/// `Transpose`; without an order the sides are reversed.
pub(super) fn transpose(
    x: &Array,
    order: Option<&[i64]>,
    budget: &mut Budget<'_>,
) -> Result<Array> {
    let rank = x.shape().len();
    let order = match order {
        None => (0..rank).rev().collect(),
        Some(order) => axes_of(order, rank)?,
    };
    if order.len() != rank {
        return Err(Error::model(format!("the order {order:?} of {rank} sides")));
    }
    let distances = distances(x.shape());
    let shape: Vec<usize> = order.iter().map(|axis| x.shape()[*axis]).collect();
    let distances: Vec<usize> = order.iter().map(|axis| distances[*axis]).collect();
    pick(x, shape, &distances, 0, budget)
}

/// `Slice` with starts, ends, axes and steps of 1.
pub(super) fn slice(
    x: &Array,
    starts: &[i64],
    ends: &[i64],
    axes: Option<&[i64]>,
    budget: &mut Budget<'_>,
) -> Result<Array> {
    let rank = x.shape().len();
    let axes = match axes {
        Some(axes) => axes_of(axes, rank)?,
        None => (0..starts.len().min(rank)).collect(),
    };
    if starts.len() != ends.len() || starts.len() != axes.len() {
        return Err(Error::model("starts, ends and axes of different lengths"));
    }
    let (mut shape, distances, mut from) = (x.shape().to_vec(), distances(x.shape()), 0);
    for ((start, end), axis) in starts.iter().zip(ends).zip(axes) {
        let side = x.shape()[axis];
        let place = |p: i64| {
            let p = if p < 0 { p.saturating_add(side as i64) } else { p };
            usize::try_from(p).unwrap_or(0).min(side)
        };
        let (start, end) = (place(*start), place(*end));
        shape[axis] = end.saturating_sub(start);
        from += start * distances[axis];
    }
    pick(x, shape, &distances, from, budget)
}

/// `Gather` of whole slices along an axis.
pub(super) fn gather(
    x: &Array,
    indices: &Array,
    axis: i64,
    budget: &mut Budget<'_>,
) -> Result<Array> {
    let axis = x.axis(axis)?;
    let side = x.shape()[axis];
    let (front, rest) = x.shape().split_at(axis);
    let back = &rest[1..];
    let shape = [front, indices.shape(), back].concat();
    let (outer, inner, total) = (count(front)?, count(back)?, count(&shape)?);
    let room = total.saturating_add(indices.len()).saturating_mul(2);
    budget.take(steps(&shape).saturating_mul(2), room)?;
    let places = indices.integers()?.iter().map(|index| axis_of(*index, side));
    let places = places.collect::<Result<Vec<_>>>()?;
    let each = |outer: usize| places.iter().map(move |place| (outer * side + place) * inner);
    let starts = (0..outer).flat_map(each);
    let numbers = match x.numbers() {
        Numbers::F32(x) => {
            Numbers::F32(starts.flat_map(|s| x[s..s + inner].iter().copied()).collect())
        }
        Numbers::I64(x) => {
            Numbers::I64(starts.flat_map(|s| x[s..s + inner].iter().copied()).collect())
        }
    };
    Array::of(shape, numbers)
}

pub(super) fn concat(inputs: &[&Array], axis: i64, budget: &mut Budget<'_>) -> Result<Array> {
    let first = *inputs.first().ok_or_else(|| Error::model("nothing to join"))?;
    let axis = first.axis(axis)?;
    let mut shape = first.shape().to_vec();
    shape[axis] = 0;
    for input in inputs {
        let mut other = input.shape().to_vec();
        let side = other.get(axis).copied();
        if let Some(place) = other.get_mut(axis) {
            *place = first.shape()[axis];
        }
        if other != first.shape() {
            return Err(Error::model(format!("{:?} beside {:?}", input.shape(), first.shape())));
        }
        shape[axis] = shape[axis].saturating_add(side.unwrap_or(0));
    }
    let total = count(&shape)?;
    let outer = count(&shape[..axis])?;
    let pieces = steps(&[outer, inputs.len()]);
    budget.take(steps(&shape).saturating_add(pieces), total.saturating_mul(2))?;
    match first.numbers() {
        Numbers::F32(_) => {
            let parts = inputs.iter().map(|input| input.floats()).collect::<Result<Vec<_>>>()?;
            Array::of(shape, Numbers::F32(interleave(&parts, outer, total)))
        }
        Numbers::I64(_) => {
            let parts = inputs.iter().map(|input| input.integers()).collect::<Result<Vec<_>>>()?;
            Array::of(shape, Numbers::I64(interleave(&parts, outer, total)))
        }
    }
}

fn interleave<T: Copy>(parts: &[&[T]], outer: usize, total: usize) -> Vec<T> {
    let mut joined = Vec::with_capacity(total);
    for i in 0..outer {
        for part in parts {
            let piece = part.len() / outer;
            joined.extend_from_slice(&part[i * piece..(i + 1) * piece]);
        }
    }
    joined
}

/// How far apart neighbours along each side lie.
pub(super) fn distances(shape: &[usize]) -> Vec<usize> {
    let mut distances = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        distances[i - 1] = distances[i] * shape[i];
    }
    distances
}

/// The numbers at these distances from `from`.
fn pick(
    x: &Array,
    shape: Vec<usize>,
    distances: &[usize],
    from: usize,
    budget: &mut Budget<'_>,
) -> Result<Array> {
    let total = count(&shape)?;
    budget.take(steps(&shape), total.saturating_mul(2))?;
    let numbers = match x.numbers() {
        Numbers::F32(x) => Numbers::F32(picked(x, &shape, distances, from, total)),
        Numbers::I64(x) => Numbers::I64(picked(x, &shape, distances, from, total)),
    };
    Array::of(shape, numbers)
}

/// Line after line along the last side.
fn picked<T: Copy>(
    x: &[T],
    shape: &[usize],
    distances: &[usize],
    from: usize,
    total: usize,
) -> Vec<T> {
    let (Some((&side, lines)), Some((&step, steps))) = (shape.split_last(), distances.split_last())
    else {
        return x.iter().skip(from).take(total).copied().collect();
    };
    let mut numbers = Vec::with_capacity(total);
    if total == 0 {
        return numbers;
    }
    for start in Places::new(lines, steps, from, total / side) {
        if step == 1 {
            numbers.extend_from_slice(&x[start..start + side]);
        } else {
            numbers.extend((0..side).map(|i| x[start + i * step]));
        }
    }
    numbers
}

/// Places in row-major order of a shape, at any distances.
pub(super) struct Places<'a> {
    shape: &'a [usize],
    distances: &'a [usize],
    at: [usize; MOST_SIDES],
    place: usize,
    left: usize,
}

impl<'a> Places<'a> {
    /// `count` of them from `place` on; at most [`MOST_SIDES`] sides.
    pub(super) fn new(
        shape: &'a [usize],
        distances: &'a [usize],
        place: usize,
        count: usize,
    ) -> Self {
        Self { shape, distances, at: [0; MOST_SIDES], place, left: count }
    }
}

impl Iterator for Places<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        let place = self.place;
        let sides = self.at.iter_mut().zip(self.shape).zip(self.distances);
        for ((at, side), distance) in sides.rev() {
            *at += 1;
            self.place += distance;
            if *at < *side {
                break;
            }
            self.place -= distance * side;
            *at = 0;
        }
        Some(place)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}
