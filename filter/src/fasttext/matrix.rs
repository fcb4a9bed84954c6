//! Matrices, dense or quantised in the file, dense in memory.

use stage::{Error, Kind, Result};

use super::bytes::Bytes;

/// Centroids of a part of a vector.
const CENTROIDS: usize = 256;
/// A quantised matrix may grow by this factor over its whole file: lid.176.ftz grows 4 times.
const MAX_GROWTH: usize = 64;
/// Numbers that are added at once.
const LANES: usize = 16;

/// Rows of f32.
#[derive(Debug)]
pub(super) struct Matrix {
    data: Vec<f32>,
    width: usize,
}

impl Matrix {
    /// Reads a matrix of this many rows and columns.
    ///
    /// # Errors
    /// Another shape, before memory is taken for it; a broken file; no memory.
    pub(super) fn read(bytes: &mut Bytes<'_>, quantised: bool, needed: [usize; 2]) -> Result<Self> {
        let norms = quantised && bytes.flag()?;
        let (rows, width) = (bytes.i64()?, bytes.i64()?);
        let each = if quantised { 1 } else { 4 };
        let rows = bytes.count(rows, each, "rows")?;
        let width = usize::try_from(width).ok().filter(|width| (1..=4096).contains(width));
        let width = width.ok_or_else(|| Error::input("a matrix of an impossible width"))?;
        if [rows, width] != needed {
            let message = format!("a matrix of {:?} where {needed:?} is needed", [rows, width]);
            return Err(Error::input(message));
        }
        let numbers = rows.checked_mul(width).filter(|n| n / MAX_GROWTH <= bytes.whole());
        let numbers = numbers.ok_or_else(|| Error::input(format!("{rows} rows of {width}")))?;
        if !quantised {
            return Ok(Self { data: bytes.floats(numbers)?, width });
        }
        let length = bytes.i32()?;
        let codes = bytes.count(i64::from(length), 1, "codes")?;
        let codes = bytes.take(codes)?;
        let quantiser = Quantiser::read(bytes, width)?;
        if codes.len() != rows * quantiser.parts {
            let message =
                format!("{} codes for {rows} rows of {} parts", codes.len(), quantiser.parts);
            return Err(Error::input(message));
        }
        let norms = if norms {
            let codes = bytes.take(rows)?;
            let norms = Quantiser::read(bytes, 1)?;
            codes.iter().map(|&code| norms.centroid(0, code)[0]).collect()
        } else {
            vec![1.0; rows]
        };
        let mut data = Vec::new();
        data.try_reserve_exact(numbers).map_err(|_| {
            Error::new(Kind::Memory, format!("no memory for a matrix of {rows} rows of {width}"))
        })?;
        for (codes, norm) in codes.chunks_exact(quantiser.parts).zip(norms) {
            for (part, &code) in codes.iter().enumerate() {
                data.extend(quantiser.centroid(part, code).iter().map(|c| norm * c));
            }
        }
        Ok(Self { data, width })
    }

    pub(super) fn rows(&self) -> usize {
        self.data.len() / self.width
    }

    pub(super) fn row(&self, row: usize) -> &[f32] {
        self.data.get(row * self.width..(row + 1) * self.width).unwrap_or_default()
    }

    /// Puts the rows from `first` on into this order of their old numbers (less `first`); nothing
    /// is done without an order.
    pub(super) fn order_from(&mut self, first: usize, order: &[u32]) {
        if order.is_empty() {
            return;
        }
        let mut data = self.data[..first * self.width].to_vec();
        for &old in order {
            data.extend_from_slice(self.row(first + old as usize));
        }
        self.data = data;
    }

    /// The mean of some rows, added up one by one in their order as fastText does.
    pub(super) fn mean(&self, rows: &[u32], out: &mut Vec<f32>) {
        out.clear();
        out.resize(self.width, 0.0);
        if self.width == LANES {
            // The width of lid.176: the sum stays in registers.
            let (data, _) = self.data.as_chunks::<LANES>();
            let mut sum = [0.0; LANES];
            for row in rows.iter().filter_map(|&row| data.get(row as usize)) {
                for (sum, x) in sum.iter_mut().zip(row) {
                    *sum += x;
                }
            }
            out.copy_from_slice(&sum);
        } else {
            for &row in rows {
                for (sum, x) in out.iter_mut().zip(self.row(row as usize)) {
                    *sum += x;
                }
            }
        }
        let share = (1.0 / rows.len().max(1) as f64) as f32;
        out.iter_mut().for_each(|sum| *sum *= share);
    }

    /// The product of a row with a vector, in four sums whose order is fixed.
    pub(super) fn dot(&self, row: usize, vector: &[f32]) -> f32 {
        let (rows, rest) = self.row(row).as_chunks::<4>();
        let (vectors, vector_rest) = vector.as_chunks::<4>();
        let mut sums = [0.0; 4];
        for (row, vector) in rows.iter().zip(vectors) {
            for ((sum, a), b) in sums.iter_mut().zip(row).zip(vector) {
                *sum += a * b;
            }
        }
        let rest: f32 = rest.iter().zip(vector_rest).map(|(a, b)| a * b).sum();
        (sums[0] + sums[1]) + (sums[2] + sums[3]) + rest
    }
}

/// A product quantiser: 256 centroids for each part of a vector (`productquantizer.cc`).
struct Quantiser {
    parts: usize,
    /// Numbers of a part, and of the last one.
    part: usize,
    last: usize,
    centroids: Vec<f32>,
}

impl Quantiser {
    fn read(bytes: &mut Bytes<'_>, width: usize) -> Result<Self> {
        let mut fields = [0; 4];
        for field in &mut fields {
            *field = usize::try_from(bytes.i32()?).unwrap_or(0);
        }
        let [dim, parts, part, last] = fields;
        let sound = dim == width && parts >= 1 && part >= 1 && (1..=part).contains(&last);
        let whole = (parts.max(1) - 1).checked_mul(part).and_then(|n| n.checked_add(last));
        if !sound || whole != Some(dim) {
            let message =
                format!("{parts} parts of {part} numbers and {last} for a width of {width}");
            return Err(Error::input(message));
        }
        Ok(Self { parts, part, last, centroids: bytes.floats(dim * CENTROIDS)? })
    }

    fn centroid(&self, part: usize, code: u8) -> &[f32] {
        let length = if part + 1 == self.parts { self.last } else { self.part };
        let start = part * CENTROIDS * self.part + usize::from(code) * length;
        self.centroids.get(start..start + length).unwrap_or_default()
    }
}
