//! Arrays: whole, row by row, or written as a stream.

use std::fmt;
use std::io::Write;
use std::ops::Range;

use half::f16;
use stage::{Error, Result};

use super::header::{Header, header};
use crate::{Blob, write_error};

/// Bytes that are converted at once.
const CHUNK: usize = 1 << 20;

/// A number that a `.npy` file can hold.
pub trait Element: Copy + private::Sealed {
    /// numpy's name of the type.
    const DESCR: &'static str;
}

mod private {
    pub trait Sealed: Sized {
        const SIZE: usize;
        fn append(bytes: &[u8], out: &mut Vec<Self>);
        fn put(self, out: &mut Vec<u8>);
    }
}

macro_rules! elements {
    ($($type:ty: $descr:literal),+ $(,)?) => {$(
        impl Element for $type {
            const DESCR: &'static str = $descr;
        }
        impl private::Sealed for $type {
            const SIZE: usize = size_of::<$type>();
            fn append(bytes: &[u8], out: &mut Vec<Self>) {
                let (items, _) = bytes.as_chunks::<{ size_of::<$type>() }>();
                out.extend(items.iter().map(|item| <$type>::from_le_bytes(*item)));
            }
            fn put(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        }
    )+};
}

elements! {
    f16: "<f2", f32: "<f4", f64: "<f8",
    i8: "|i1", i16: "<i2", i32: "<i4", i64: "<i8",
    u8: "|u1", u16: "<u2", u32: "<u4", u64: "<u8",
}

/// Numbers and their shape, slowest dimension first.
#[derive(Debug, Clone, PartialEq)]
pub struct Array<T> {
    /// Length of each dimension; its product is the length of `data`.
    pub shape: Vec<usize>,
    /// The numbers, last dimension fastest.
    pub data: Vec<T>,
}

/// Reads a whole array of exactly this type.
///
/// # Errors
/// [`stage::Kind::Input`] when the file is broken or of another type.
pub fn read<T: Element>(blob: &Blob) -> Result<Array<T>> {
    let file = File::open(blob)?;
    let data = file.rows(0..file.len())?;
    Ok(Array { shape: file.header.shape().to_vec(), data })
}

/// Reads a whole array of f16, f32 or f64 as f32 (rounded to nearest).
///
/// # Errors
/// [`stage::Kind::Input`] when the file is broken or not of floats.
pub fn read_as_f32(blob: &Blob) -> Result<Array<f32>> {
    let file = File::open(blob)?;
    let data = file.rows_as_f32(0..file.len())?;
    Ok(Array { shape: file.header.shape().to_vec(), data })
}

/// Writes an array as `numpy.save` would.
///
/// # Errors
/// [`stage::Kind::Internal`] when `data` does not fill `shape`, [`stage::Kind::Store`] when
/// writing fails.
pub fn write<T: Element>(out: impl Write, shape: &[usize], data: &[T]) -> Result<()> {
    let mut writer = Writer::new(out, shape)?;
    writer.write(data)?;
    writer.finish().map(|_| ())
}

/// An array on disk or in a store, read row by row (a row is everything behind the first index).
#[derive(Debug, Clone)]
pub struct File {
    blob: Blob,
    header: Header,
}

impl File {
    /// Reads and checks the header.
    pub fn open(blob: &Blob) -> Result<Self> {
        Ok(Self { header: Header::read(blob)?, blob: blob.clone() })
    }

    /// What the file says of itself.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Rows; 1 for a single number without dimensions.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.header.shape().first().copied().unwrap_or(1)
    }

    /// Numbers in a row.
    #[must_use]
    pub fn row_len(&self) -> usize {
        self.header.shape().iter().skip(1).product()
    }

    /// The numbers of some rows.
    ///
    /// # Errors
    /// [`stage::Kind::Input`] when the file is of another type, [`stage::Kind::Internal`] for rows
    /// it does not have.
    pub fn rows<T: Element>(&self, rows: Range<usize>) -> Result<Vec<T>> {
        if self.header.descr() != T::DESCR && !alias(self.header.descr(), T::DESCR) {
            return Err(Error::input(format!(
                "dtype {} where {} is needed",
                self.header.descr(),
                T::DESCR
            ))
            .at(self.blob.name()));
        }
        if rows.start > rows.end || rows.end > self.len() {
            return Err(
                Error::internal(format!("rows {rows:?} of {}", self.len())).at(self.blob.name())
            );
        }
        // Cannot overflow: the header's shape fits the file.
        let row = self.row_len() * T::SIZE;
        let mut offset = self.header.data_offset() + (rows.start * row) as u64;
        let mut left = rows.len() * row;
        let mut numbers = Vec::new();
        numbers.try_reserve_exact(rows.len() * self.row_len()).map_err(|_| {
            Error::input(format!("{left} bytes of numbers do not fit in memory"))
                .at(self.blob.name())
        })?;
        while left > 0 {
            let bytes = self.blob.read_at(offset, left.min(CHUNK))?;
            T::append(&bytes, &mut numbers);
            offset += bytes.len() as u64;
            left -= bytes.len();
        }
        Ok(numbers)
    }

    /// The numbers of some rows of f16, f32 or f64, as f32.
    ///
    /// # Errors
    /// As [`File::rows`].
    pub fn rows_as_f32(&self, rows: Range<usize>) -> Result<Vec<f32>> {
        match self.header.descr() {
            "<f2" => Ok(self.rows::<f16>(rows)?.into_iter().map(f16::to_f32).collect()),
            "<f8" => Ok(self.rows::<f64>(rows)?.into_iter().map(|x| x as f32).collect()),
            _ => self.rows(rows),
        }
    }
}

/// numpy names one-byte types with `|`, other writers with `<`.
fn alias(descr: &str, wanted: &str) -> bool {
    wanted.strip_prefix('|').is_some_and(|name| descr.strip_prefix('<') == Some(name))
}

/// Writes an array whose shape is known before its numbers.
pub struct Writer<W, T> {
    out: W,
    left: usize,
    buffer: Vec<u8>,
    _type: std::marker::PhantomData<T>,
}

impl<W, T> fmt::Debug for Writer<W, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("left", &self.left).finish_non_exhaustive()
    }
}

impl<W: Write, T: Element> Writer<W, T> {
    /// Writes the header.
    pub fn new(mut out: W, shape: &[usize]) -> Result<Self> {
        let left = shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim));
        let left = left.ok_or_else(|| Error::internal(format!("shape {shape:?} overflows")))?;
        out.write_all(&header(T::DESCR, shape)).map_err(write_error)?;
        Ok(Self { out, left, buffer: Vec::new(), _type: std::marker::PhantomData })
    }

    /// Writes the next numbers.
    pub fn write(&mut self, data: &[T]) -> Result<()> {
        self.left = self.left.checked_sub(data.len()).ok_or_else(|| {
            Error::internal(format!("{} numbers too many for the array", data.len() - self.left))
        })?;
        for chunk in data.chunks(CHUNK / T::SIZE) {
            self.buffer.clear();
            for &number in chunk {
                number.put(&mut self.buffer);
            }
            self.out.write_all(&self.buffer).map_err(write_error)?;
        }
        Ok(())
    }

    /// Checks that the shape is filled, and gives the inner writer back.
    pub fn finish(mut self) -> Result<W> {
        if self.left > 0 {
            return Err(Error::internal(format!("{} numbers are missing of the array", self.left)));
        }
        self.out.flush().map_err(write_error)?;
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip<T: Element + PartialEq + fmt::Debug>(data: &[T]) {
        let mut bytes = Vec::new();
        write(&mut bytes, &[data.len()], data).unwrap();
        let array = read::<T>(&Blob::from_bytes("x", bytes.into())).unwrap();
        assert_eq!((array.shape, &array.data[..]), (vec![data.len()], data));
    }

    #[test]
    fn each_type_comes_back() {
        round_trip(&[f16::from_f32(0.5), f16::MAX, f16::NEG_INFINITY]);
        round_trip(&[0.1f32, f32::MIN_POSITIVE]);
        round_trip(&[0.1f64, f64::MAX]);
        round_trip(&[i8::MIN, i8::MAX]);
        round_trip(&[i16::MIN, i16::MAX]);
        round_trip(&[i32::MIN, i32::MAX]);
        round_trip(&[i64::MIN, i64::MAX]);
        round_trip(&[0u8, u8::MAX]);
        round_trip(&[0u16, u16::MAX]);
        round_trip(&[0u32, u32::MAX]);
        round_trip(&[0u64, u64::MAX]);
        round_trip::<f32>(&[]);
    }

    #[test]
    fn halves_are_read_as_floats_and_integers_are_not() {
        let mut bytes = Vec::new();
        write(&mut bytes, &[1, 2], &[f16::from_f32(0.5), f16::from_f32(-2.0)]).unwrap();
        let array = read_as_f32(&Blob::from_bytes("x", bytes.into())).unwrap();
        assert_eq!(array, Array { shape: vec![1, 2], data: vec![0.5, -2.0] });

        let mut bytes = Vec::new();
        write(&mut bytes, &[1], &[7i32]).unwrap();
        let error = read_as_f32(&Blob::from_bytes("x", bytes.into())).unwrap_err();
        assert_eq!(error.to_string(), "x: dtype <i4 where <f4 is needed");
    }

    #[test]
    fn rows_are_read_from_the_middle() {
        let mut bytes = Vec::new();
        write(&mut bytes, &[3, 2], &[0u8, 1, 2, 3, 4, 5]).unwrap();
        let file = File::open(&Blob::from_bytes("x", bytes.into())).unwrap();
        assert_eq!((file.len(), file.row_len()), (3, 2));
        assert_eq!(file.rows::<u8>(1..3).unwrap(), [2, 3, 4, 5]);
        assert!(file.rows::<u8>(2..4).is_err());
    }

    #[test]
    fn an_array_must_fill_its_shape() {
        assert!(write(Vec::new(), &[3], &[1u8, 2]).is_err());
        assert!(write(Vec::new(), &[1], &[1u8, 2]).is_err());
        assert!(write(Vec::new(), &[usize::MAX, 2], &[1u8]).is_err());
    }
}
