//! Values of a network: numbers with a shape.

use stage::{Error, Result};

/// Most numbers in one value.
pub(super) const MOST_NUMBERS: usize = 1 << 28;

/// Most sides of a value.
pub(super) const MOST_SIDES: usize = 8;

/// Numbers in row-major order with their shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    shape: Vec<usize>,
    numbers: Numbers,
}

/// What a value is made of.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Numbers {
    F32(Vec<f32>),
    /// Shapes and indices.
    I64(Vec<i64>),
}

impl Array {
    /// Floats in row-major order.
    ///
    /// # Errors
    /// When the shape is not that of so many numbers, or has more than 8 sides.
    pub fn new(shape: &[usize], numbers: Vec<f32>) -> Result<Self> {
        Self::of(shape.to_vec(), Numbers::F32(numbers))
    }

    pub(super) fn ints(shape: &[usize], numbers: Vec<i64>) -> Result<Self> {
        Self::of(shape.to_vec(), Numbers::I64(numbers))
    }

    pub(super) fn of(shape: Vec<usize>, numbers: Numbers) -> Result<Self> {
        let length = match &numbers {
            Numbers::F32(numbers) => numbers.len(),
            Numbers::I64(numbers) => numbers.len(),
        };
        if count(&shape)? == length {
            return Ok(Self { shape, numbers });
        }
        Err(Error::model(format!("{length} numbers for the shape {shape:?}")))
    }

    /// A value without numbers.
    pub(super) fn empty() -> Self {
        Self { shape: vec![0], numbers: Numbers::F32(Vec::new()) }
    }

    /// Its sides.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub(super) fn numbers(&self) -> &Numbers {
        &self.numbers
    }

    pub(super) fn into_parts(self) -> (Vec<usize>, Numbers) {
        (self.shape, self.numbers)
    }

    /// The floats in row-major order.
    ///
    /// # Errors
    /// When these are integers.
    pub fn floats(&self) -> Result<&[f32]> {
        match &self.numbers {
            Numbers::F32(numbers) => Ok(numbers),
            Numbers::I64(_) => Err(Error::model("integers where floats belong")),
        }
    }

    pub(super) fn integers(&self) -> Result<&[i64]> {
        match &self.numbers {
            Numbers::I64(numbers) => Ok(numbers),
            Numbers::F32(_) => Err(Error::model("floats where integers belong")),
        }
    }

    /// Numbers in it.
    pub(super) fn len(&self) -> usize {
        match &self.numbers {
            Numbers::F32(numbers) => numbers.len(),
            Numbers::I64(numbers) => numbers.len(),
        }
    }

    /// Bytes that its numbers take.
    pub(super) fn bytes(&self) -> u64 {
        let width = match &self.numbers {
            Numbers::F32(_) => 4,
            Numbers::I64(_) => 8,
        };
        self.len() as u64 * width
    }

    /// The same numbers in another shape.
    pub(super) fn reshaped(self, shape: Vec<usize>) -> Result<Self> {
        Self::of(shape, self.numbers)
    }

    /// Batch, channels, height, width.
    pub(super) fn picture_shape(&self) -> Result<[usize; 4]> {
        match self.shape[..] {
            [n, c, h, w] => Ok([n, c, h, w]),
            _ => Err(Error::model(format!(
                "a value of shape {:?} where [N, C, H, W] belongs",
                self.shape
            ))),
        }
    }

    /// The axis of this number; negative ones count from the end.
    pub(super) fn axis(&self, axis: i64) -> Result<usize> {
        axis_of(axis, self.shape.len())
    }
}

/// The axis of this number among `rank`; negative ones count from the end.
pub(super) fn axis_of(axis: i64, rank: usize) -> Result<usize> {
    let from_front = if axis < 0 { axis.checked_add_unsigned(rank as u64) } else { Some(axis) };
    match from_front.and_then(|axis| usize::try_from(axis).ok()).filter(|axis| *axis < rank) {
        Some(axis) => Ok(axis),
        None => Err(Error::model(format!("no axis {axis} among {rank}"))),
    }
}

/// Axes of these numbers, none of them twice.
pub(super) fn axes_of(axes: &[i64], rank: usize) -> Result<Vec<usize>> {
    if axes.len() > rank {
        return Err(Error::model(format!("{} axes among {rank}", axes.len())));
    }
    let found = axes.iter().map(|axis| axis_of(*axis, rank)).collect::<Result<Vec<_>>>()?;
    let mut sorted = found.clone();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() == found.len() {
        return Ok(found);
    }
    Err(Error::model(format!("an axis twice in {axes:?}")))
}

/// How many numbers a shape holds. A side of zero does not excuse the others: each of them is a
/// length that loops go to.
pub(super) fn count(shape: &[usize]) -> Result<usize> {
    if shape.len() > MOST_SIDES {
        let message = format!("a value of {} sides, more than {MOST_SIDES}", shape.len());
        return Err(Error::model(message));
    }
    let product = shape.iter().try_fold(1usize, |product, side| product.checked_mul(*side.max(&1)));
    match product.filter(|n| *n <= MOST_NUMBERS) {
        Some(_) if shape.contains(&0) => Ok(0),
        Some(n) => Ok(n),
        None => {
            let message = format!("a value of shape {shape:?}, more than {MOST_NUMBERS} numbers");
            Err(Error::model(message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_of_zero_hides_no_overflow() {
        assert_eq!(count(&[0, 3, 2]).unwrap(), 0);
        assert_eq!(count(&[]).unwrap(), 1);
        assert!(count(&[0, 1, 1 << 32, 1 << 32]).is_err());
        assert!(count(&[1 << 15, 1 << 14]).is_err());
        assert!(count(&[1; 9]).is_err());
    }

    #[test]
    fn an_axis_counts_from_either_end_and_once() {
        assert_eq!(axes_of(&[-1, 0], 3).unwrap(), [2, 0]);
        assert!(axes_of(&[-1, 2], 3).is_err());
        assert!(axes_of(&[3], 3).is_err() && axes_of(&[-4], 3).is_err());
        assert!(axes_of(&[i64::MIN], 3).is_err());
    }
}
