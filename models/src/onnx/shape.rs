//! Operators that move numbers and compute nothing.

use stage::{Error, Result};

use super::array::{Array, Numbers, axis_of, count};
use super::graph::Node;

/// `Reshape`: 0 keeps a side, -1 is what is left.
pub(super) fn reshape(x: &Array, wanted: &[i64]) -> Result<Array> {
    let mut shape = Vec::with_capacity(wanted.len());
    let mut open = None;
    for (i, side) in wanted.iter().enumerate() {
        shape.push(match *side {
            0 => *x.shape().get(i).ok_or_else(|| Error::model(format!("no side {i} to keep")))?,
            -1 if open.is_none() => {
                open = Some(i);
                1
            }
            side => usize::try_from(side).map_err(|_| Error::model(format!("shape {wanted:?}")))?,
        });
    }
    if let Some(open) = open {
        let rest = count(&shape)?;
        shape[open] = count(x.shape())?.checked_div(rest).unwrap_or(0);
    }
    x.reshaped(shape)
}

/// `Flatten` to two sides, cut before `axis`.
pub(super) fn flatten(x: &Array, axis: i64) -> Result<Array> {
    let rank = x.shape().len();
    let axis = if axis == rank as i64 { rank } else { axis_of(axis, rank)? };
    let (front, back) = x.shape().split_at(axis);
    x.reshaped(vec![count(front)?, count(back)?])
}

pub(super) fn unsqueeze(x: &Array, axes: &[i64]) -> Result<Array> {
    let rank = x.shape().len() + axes.len();
    let axes = axes.iter().map(|axis| axis_of(*axis, rank)).collect::<Result<Vec<_>>>()?;
    let mut old = x.shape().iter();
    let shape = (0..rank).map(|i| if axes.contains(&i) { Some(1) } else { old.next().copied() });
    let shape: Option<Vec<usize>> = shape.collect();
    x.reshaped(shape.ok_or_else(|| Error::model(format!("axes {axes:?} twice")))?)
}

pub(super) fn squeeze(x: &Array, axes: Option<&[i64]>) -> Result<Array> {
    let axes =
        axes.map(|axes| axes.iter().map(|a| x.axis(*a)).collect::<Result<Vec<_>>>()).transpose()?;
    let gone = |i: usize, side: usize| side == 1 && axes.as_ref().is_none_or(|a| a.contains(&i));
    let sides = x.shape().iter().enumerate().filter(|(i, side)| !gone(*i, **side));
    x.reshaped(sides.map(|(_, side)| *side).collect())
}

/// `Transpose`; without an order the sides are reversed.
pub(super) fn transpose(x: &Array, order: Option<&[i64]>) -> Result<Array> {
    let rank = x.shape().len();
    let order: Vec<usize> = match order {
        None => (0..rank).rev().collect(),
        Some(order) => order.iter().map(|axis| x.axis(*axis)).collect::<Result<_>>()?,
    };
    let mut sorted = order.clone();
    sorted.sort_unstable();
    if sorted != (0..rank).collect::<Vec<_>>() {
        return Err(Error::model(format!("the order {order:?} of {rank} sides")));
    }
    let steps = steps(x.shape());
    let shape: Vec<usize> = order.iter().map(|axis| x.shape()[*axis]).collect();
    let steps: Vec<usize> = order.iter().map(|axis| steps[*axis]).collect();
    pick(x, shape, &steps, 0)
}

/// `Slice` with starts, ends, axes and steps of 1.
pub(super) fn slice(
    x: &Array,
    starts: &[i64],
    ends: &[i64],
    axes: Option<&[i64]>,
) -> Result<Array> {
    let all: Vec<i64> = (0..starts.len() as i64).collect();
    let axes = axes.unwrap_or(&all);
    if starts.len() != ends.len() || starts.len() != axes.len() {
        return Err(Error::model("starts, ends and axes of different lengths"));
    }
    let (mut shape, steps, mut from) = (x.shape().to_vec(), steps(x.shape()), 0);
    for ((start, end), axis) in starts.iter().zip(ends).zip(axes) {
        let axis = x.axis(*axis)?;
        let side = x.shape()[axis];
        let place = |p: i64| {
            let p = if p < 0 { p.saturating_add(side as i64) } else { p };
            usize::try_from(p).unwrap_or(0).min(side)
        };
        let (start, end) = (place(*start), place(*end));
        shape[axis] = end.saturating_sub(start);
        from += start * steps[axis];
    }
    pick(x, shape, &steps, from)
}

/// `Gather` of whole slices along an axis.
pub(super) fn gather(x: &Array, indices: &Array, axis: i64) -> Result<Array> {
    let axis = x.axis(axis)?;
    let side = x.shape()[axis];
    let places = indices.integers()?.iter().map(|index| axis_of(*index, side));
    let places = places.collect::<Result<Vec<_>>>()?;
    let (front, rest) = x.shape().split_at(axis);
    let back = &rest[1..];
    let shape = [front, indices.shape(), back].concat();
    let (outer, inner) = (count(front)?, count(back)?);
    count(&shape)?;
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

pub(super) fn concat(inputs: &[&Array], axis: i64) -> Result<Array> {
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
    count(&shape)?;
    let outer = count(&shape[..axis])?;
    match first.numbers() {
        Numbers::F32(_) => {
            let parts = inputs.iter().map(|input| input.floats()).collect::<Result<Vec<_>>>()?;
            Array::of(shape, Numbers::F32(interleave(&parts, outer)))
        }
        Numbers::I64(_) => {
            let parts = inputs.iter().map(|input| input.integers()).collect::<Result<Vec<_>>>()?;
            Array::of(shape, Numbers::I64(interleave(&parts, outer)))
        }
    }
}

fn interleave<T: Copy>(parts: &[&[T]], outer: usize) -> Vec<T> {
    let mut joined = Vec::new();
    for i in 0..outer {
        for part in parts {
            let piece = part.len() / outer;
            joined.extend_from_slice(&part[i * piece..(i + 1) * piece]);
        }
    }
    joined
}

/// `Resize` and `Upsample` by whole factors, nearest: what detectors use.
pub(super) fn resize(node: &Node, x: &Array, scales: &[f32], sizes: &[i64]) -> Result<Array> {
    let [n, c, h, w] = x.picture_shape()?;
    let mode = node.text("mode").unwrap_or(b"nearest");
    let coordinates = node.text("coordinate_transformation_mode").unwrap_or(b"asymmetric");
    let factor = match (scales, sizes) {
        ([1.0, 1.0, a, b], _) if a == b => Some(*a),
        (_, &[sn, sc, sh, sw])
            if sn == n as i64
                && sc == c as i64
                && h > 0
                && w > 0
                && sh as f32 / h as f32 == sw as f32 / w as f32 =>
        {
            Some(sh as f32 / h as f32)
        }
        _ => None,
    };
    let factor = factor.filter(|f| f.fract() == 0.0 && (1.0..=64.0).contains(f));
    let (Some(factor), b"nearest", b"asymmetric") = (factor, mode, coordinates) else {
        return Err(Error::model(format!(
            "scales {scales:?}, sizes {sizes:?}; only nearest, asymmetric and whole factors are known"
        )));
    };
    let factor = factor as usize;
    let shape = [n, c, h * factor, w * factor];
    let mut out = Vec::with_capacity(count(&shape)?);
    for line in x.floats()?.chunks_exact(w.max(1)) {
        for _ in 0..factor {
            out.extend(line.iter().flat_map(|value| std::iter::repeat_n(*value, factor)));
        }
    }
    Array::new(&shape, out)
}

/// How far apart neighbours along each side lie.
pub(super) fn steps(shape: &[usize]) -> Vec<usize> {
    let mut steps = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        steps[i - 1] = steps[i] * shape[i];
    }
    steps
}

/// The numbers at these steps from `from`.
fn pick(x: &Array, shape: Vec<usize>, steps: &[usize], from: usize) -> Result<Array> {
    let total = count(&shape)?;
    let places =
        Places { shape: &shape, steps, at: vec![0; shape.len()], place: from, left: total };
    let numbers = match x.numbers() {
        Numbers::F32(x) => Numbers::F32(places.map(|place| x[place]).collect()),
        Numbers::I64(x) => Numbers::I64(places.map(|place| x[place]).collect()),
    };
    Array::of(shape, numbers)
}

/// Places in row-major order of a shape, at any steps.
pub(super) struct Places<'a> {
    pub(super) shape: &'a [usize],
    pub(super) steps: &'a [usize],
    pub(super) at: Vec<usize>,
    pub(super) place: usize,
    pub(super) left: usize,
}

impl Iterator for Places<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        let place = self.place;
        for i in (0..self.shape.len()).rev() {
            self.at[i] += 1;
            self.place += self.steps[i];
            if self.at[i] < self.shape[i] {
                break;
            }
            self.place -= self.steps[i] * self.shape[i];
            self.at[i] = 0;
        }
        Some(place)
    }
}
