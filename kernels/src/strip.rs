//! What a tile of a matrix product reads and where it goes.

use std::mem::MaybeUninit;

/// Columns of the right factor come in multiples of this, zeros beyond the last.
pub(crate) const PAD: usize = 16;

/// One product `into (+)= a b` of a few rows, or a part of one.
pub(crate) struct Strip<'a> {
    /// The left factor; element (i, l) is `a[offset + i·down + l·right]`.
    pub(crate) a: &'a [f32],
    pub(crate) offset: usize,
    pub(crate) down: usize,
    pub(crate) right: usize,
    /// The right factor; element (l, j) is `b[l·stride + j]`, stride a multiple of [`PAD`].
    pub(crate) b: &'a [f32],
    pub(crate) stride: usize,
    /// Length of the inner dimension.
    pub(crate) steps: usize,
    /// Which of the steps can be other than zero.
    pub(crate) span: Span,
    /// The product; element (i, j) is `into[i·into_stride + j]` for j < columns.
    pub(crate) into: Place<'a>,
    pub(crate) into_stride: usize,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// What the product is added to.
    pub(crate) to: Start<'a>,
    /// What is read after this: the right factor of the next product, brought nearer meanwhile.
    pub(crate) next: &'a [f32],
}

/// Where a product goes: numbers are all that is written there.
pub(crate) struct Place<'a>(pub(super) &'a mut [MaybeUninit<f32>]);

impl<'a> Place<'a> {
    /// A buffer that may hold nothing yet.
    pub(crate) fn fresh(buffer: &'a mut [MaybeUninit<f32>]) -> Self {
        Self(buffer)
    }

    /// A buffer of numbers.
    pub(crate) fn of(numbers: &'a mut [f32]) -> Self {
        let (first, len) = (numbers.as_mut_ptr().cast(), numbers.len());
        // SAFETY: the same numbers, borrowed as long; nothing but numbers is written to a place.
        Self(unsafe { std::slice::from_raw_parts_mut(first, len) })
    }
}

/// What a product is added to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Start<'a> {
    /// Nothing: the product is written.
    Nothing,
    /// The same number for all rows of a column; at least as many as there are columns.
    Row(&'a [f32]),
    /// What `into` holds.
    Held,
}

/// Which steps l of the inner dimension can be other than zero in row i.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Span {
    /// All.
    All,
    /// l ≤ i
    UpToRow,
    /// l ≥ i
    FromRow,
}

impl Span {
    /// The steps that rows `first..first + rows` need, of `steps`.
    #[inline(always)]
    pub(crate) fn of(self, first: usize, rows: usize, steps: usize) -> (usize, usize) {
        match self {
            Self::All => (0, steps),
            Self::UpToRow => (0, steps.min(first + rows)),
            Self::FromRow => (first.min(steps), steps),
        }
    }
}

impl Strip<'_> {
    /// Every index that a kernel reads without a check lies inside.
    pub(crate) fn check(&self) {
        let Self { a, offset, down, right, b, stride, steps, rows, columns, .. } = *self;
        assert!(rows > 0 && columns > 0 && self.into_stride >= columns);
        assert!(self.into.0.len() >= (rows - 1) * self.into_stride + columns);
        if let Start::Row(row) = self.to {
            assert!(row.len() >= columns);
        }
        assert!(stride.is_multiple_of(PAD) && stride >= columns.next_multiple_of(PAD));
        if steps > 0 {
            assert!(a.len() > offset + (rows - 1) * down + (steps - 1) * right);
            assert!(b.len() >= (steps - 1) * stride + columns.next_multiple_of(PAD));
        }
    }
}
