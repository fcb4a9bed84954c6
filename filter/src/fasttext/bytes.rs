//! Little-endian numbers of a file in memory, each read checked against its end.

use stage::{Error, Result};

/// What is left of a file.
pub(super) struct Bytes<'a> {
    rest: &'a [u8],
    whole: usize,
}

impl<'a> Bytes<'a> {
    pub(super) fn new(file: &'a [u8]) -> Self {
        Self { rest: file, whole: file.len() }
    }

    /// Bytes of the file, read or not: nothing it describes may be out of proportion to them.
    pub(super) fn whole(&self) -> usize {
        self.whole
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(|| {
            let at = self.whole - self.rest.len();
            Error::input(format!(
                "{count} bytes are needed at byte {at}, {} are left",
                self.rest.len()
            ))
        })?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn skip(&mut self, count: usize) -> Result<()> {
        self.take(count).map(|_| ())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| Error::internal("a slice of another length"))
    }

    pub(super) fn flag(&mut self) -> Result<bool> {
        self.array::<1>().map(|[byte]| byte != 0)
    }

    pub(super) fn byte(&mut self) -> Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn i32(&mut self) -> Result<i32> {
        self.array().map(i32::from_le_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64> {
        self.array().map(i64::from_le_bytes)
    }

    /// A count of things, each of which takes at least `each` bytes of what is left.
    pub(super) fn count(&mut self, number: i64, each: usize, what: &str) -> Result<usize> {
        let fits = |n: &usize| n.checked_mul(each).is_some_and(|bytes| bytes <= self.rest.len());
        usize::try_from(number).ok().filter(fits).ok_or_else(|| {
            let left = self.rest.len();
            Error::input(format!("{number} {what} cannot lie in the {left} bytes that are left"))
        })
    }

    /// So many f32; the count is checked before memory is taken.
    pub(super) fn floats(&mut self, count: usize) -> Result<Vec<f32>> {
        let bytes = count.checked_mul(4).ok_or_else(|| Error::input("too many numbers"))?;
        let (numbers, _) = self.take(bytes)?.as_chunks::<4>();
        Ok(numbers.iter().map(|number| f32::from_le_bytes(*number)).collect())
    }

    /// Bytes up to a zero.
    pub(super) fn text(&mut self) -> Result<&'a [u8]> {
        let length = self.rest.iter().position(|&byte| byte == 0);
        let length = length.ok_or_else(|| Error::input("a word without an end"))?;
        let text = self.take(length)?;
        self.skip(1)?;
        Ok(text)
    }
}
