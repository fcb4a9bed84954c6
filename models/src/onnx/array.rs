//! Values of a network: numbers with a shape.

use stage::{Error, Result};

/// Most numbers in one value.
pub(super) const MOST_NUMBERS: usize = 1 << 28;

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
    /// When the shape is not that of so many numbers.
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

    /// Its sides.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub(super) fn numbers(&self) -> &Numbers {
        &self.numbers
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

    /// The same numbers in another shape.
    pub(super) fn reshaped(&self, shape: Vec<usize>) -> Result<Self> {
        Self::of(shape, self.numbers.clone())
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

/// How many numbers a shape holds.
pub(super) fn count(shape: &[usize]) -> Result<usize> {
    let product = shape.iter().try_fold(1usize, |product, side| product.checked_mul(*side));
    product.filter(|n| *n <= MOST_NUMBERS).ok_or_else(|| {
        Error::model(format!("a value of shape {shape:?}, more than {MOST_NUMBERS} numbers"))
    })
}
