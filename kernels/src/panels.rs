//! Products in f32 with a right factor laid out in panels.
//!
//! A task multiplies some rows of the left factor with all panels. The order of its loops keeps a
//! block of the left factor and what it adds to in the second-level cache; the right factor comes by
//! once, and is asked for before it is used.

use std::cell::Cell;
use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::fresh::{repeated, written, zeros};
use crate::gemm::Matrix;
use crate::simd::Level;
use crate::strip::{Place, Span, Start, Strip};
use crate::tiles::{fused, has_fused};

/// Steps of the inner dimension in one block.
pub(crate) const DEPTH: usize = 256;

/// Rows of the left factor that are so many numbers apart, or a multiple of it, meet in the same few
/// places of the first- and second-level caches and drive each other out: half of the speed on a
/// machine whose neighbours are busy. A block of them is copied to rows [`APART`] numbers apart.
const ALIKE: usize = 512;

/// A block's length and a line more.
const APART: usize = DEPTH + 16;

/// Panels for which a block is copied: by its bytes the copy costs about as much as one of them.
const WORTH: usize = 8;

/// Columns of a panel of the right factor.
const WIDE: usize = 32;

/// Panels that are finished before the next ones begin. Where several blocks of the inner dimension
/// add to a part of the product that is larger than the second-level cache, it goes to and fro once a
/// block; of this many panels it stays there. Every element's sum keeps its order.
pub(crate) fn panels_together(rows: usize, depth: usize, columns: usize) -> usize {
    /// Bytes of the product beside which a block of both factors has room.
    const STAYS: usize = 700 << 10;
    const FEW: usize = 8;
    let all = columns.div_ceil(WIDE);
    if depth <= DEPTH || rows * columns * 4 <= STAYS { all } else { FEW.min(all) }
}

/// Rows of the product in one task: as many as still share the work evenly, but so few that their
/// part of the left factor stays in the second-level cache. Every element has its own sum, so the
/// bits do not depend on this.
pub(crate) fn rows_in_a_task(rows: usize) -> usize {
    /// Both kernels' rows, 6 and 12, divide it.
    const STEP: usize = 12;
    const MOST: usize = 32 * STEP;
    if ALONE.get() {
        return MOST;
    }
    // Several tasks a thread, for machines whose cores are not equally fast at all times.
    let tasks = 2 * rayon::current_num_threads().max(1);
    rows.div_ceil(tasks).next_multiple_of(STEP).min(MOST)
}

thread_local! {
    /// Whether the products of this thread are one of many at once.
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` with products that are not cut for other threads: where as many as there are threads
/// run at once, cutting makes each read its right factor more than once.
pub fn on_one_thread<R>(work: impl FnOnce() -> R) -> R {
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            ALONE.set(self.0);
        }
    }
    let _before = Before(ALONE.replace(true));
    work()
}

/// Whether a row of a product in f32 is the same bits whatever rows are beside it: where products are
/// this crate's own.
#[must_use]
pub fn rows_stand_alone() -> bool {
    has_fused(Level::best())
}

/// Steps of the inner dimension that are copied at a time, so that their lines stay in the
/// first-level cache until they are full.
const COPIED: usize = 64;

/// The right factor in panels: for each [`WIDE`] columns all rows, zeros beyond the last column.
pub(crate) fn panels(b: Matrix<f32>) -> Vec<f32> {
    let (down, right) = b.strides;
    let mut packed = zeros(b.columns.div_ceil(WIDE) * b.rows * WIDE);
    packed.par_chunks_mut((b.rows * WIDE).max(1)).enumerate().for_each(|(panel, packed)| {
        let first = panel * WIDE;
        let count = WIDE.min(b.columns - first);
        if right == 1 {
            for (row, to) in packed.chunks_exact_mut(WIDE).enumerate() {
                to[..count].copy_from_slice(&b.data[row * down + first..][..count]);
            }
        } else {
            for (block, packed) in packed.chunks_mut(COPIED * WIDE).enumerate() {
                for column in 0..count {
                    let from = &b.data[(first + column) * right + block * COPIED * down..];
                    let from = from.iter().step_by(down);
                    for (row, from) in packed.chunks_exact_mut(WIDE).zip(from) {
                        row[column] = *from;
                    }
                }
            }
        }
    });
    packed
}

/// A right factor laid out once for many products.
#[derive(Debug, Clone)]
pub(crate) struct Panels {
    packed: Vec<f32>,
    /// Rows and columns of the factor.
    depth: usize,
    columns: usize,
}

impl Panels {
    /// None where products are the `gemm` crate's.
    pub(crate) fn new(b: Matrix<f32>) -> Option<Self> {
        has_fused(Level::best()).then(|| Self {
            packed: panels(b),
            depth: b.rows,
            columns: b.columns,
        })
    }

    /// `a b`, every row plus `row`.
    pub(crate) fn product(&self, a: Matrix<f32>, row: &[f32]) -> Vec<f32> {
        assert_eq!(a.columns, self.depth, "inner dimensions");
        assert_eq!(row.len(), self.columns, "the row");
        if self.depth == 0 || self.columns == 0 {
            return repeated(row, a.rows);
        }
        from_panels(Level::best(), a, &self.packed, self.columns, Start::Row(row))
    }
}

/// `a b` plus what it is added to, in a new buffer; `depth` and `columns` are not 0.
pub(crate) fn from_panels(
    level: Level,
    a: Matrix<f32>,
    packed: &[f32],
    columns: usize,
    start: Start,
) -> Vec<f32> {
    assert!(!matches!(start, Start::Held) && a.columns > 0 && columns > 0);
    let write = |into: &mut [MaybeUninit<f32>]| {
        // SAFETY: nothing is held before.
        unsafe { packed_product(level, into, start, a, packed, (a.columns, columns)) };
    };
    // SAFETY: the product writes every element.
    unsafe { written(a.rows * columns, write) }
}

/// Writes every element of the product, numbers alone.
///
/// # Safety
/// With [`Start::Held`] all of `into` is numbers.
pub(crate) unsafe fn packed_product(
    level: Level,
    into: &mut [MaybeUninit<f32>],
    to: Start,
    a: Matrix<f32>,
    packed: &[f32],
    (depth, columns): (usize, usize),
) {
    if into.is_empty() {
        return;
    }
    let (down, right) = a.strides;
    let task_rows = rows_in_a_task(a.rows);
    let all = columns.div_ceil(WIDE);
    let alike = right == 1 && down.is_multiple_of(ALIKE);
    // A panel's part, in the order of their use.
    let part = |panel: usize, start: usize| {
        &packed[(panel * depth + start) * WIDE..][..DEPTH.min(depth - start) * WIDE]
    };
    into.par_chunks_mut(task_rows * columns).enumerate().for_each(|(task, into)| {
        let rows = into.len() / columns;
        let together = panels_together(rows, depth, columns);
        let mut apart = if alike { vec![0f32; rows * APART] } else { Vec::new() };
        for group in (0..all).step_by(together) {
            let end = (group + together).min(all);
            for start in (0..depth).step_by(DEPTH) {
                let steps = DEPTH.min(depth - start);
                let mut left = Left { a: a.data, offset: task * task_rows * down, down, right };
                left.offset += start * right;
                if alike && end - group >= WORTH {
                    left = left.copied(&mut apart, rows, steps);
                }
                for panel in group..end {
                    let next = if panel + 1 < end {
                        part(panel + 1, start)
                    } else if start + DEPTH < depth {
                        part(group, start + DEPTH)
                    } else if end < all {
                        part(end, 0)
                    } else {
                        &[]
                    };
                    let first = panel * WIDE;
                    let strip = Strip {
                        a: left.a,
                        offset: left.offset,
                        down: left.down,
                        right: left.right,
                        b: part(panel, start),
                        stride: WIDE,
                        steps,
                        span: Span::All,
                        into: Place::fresh(&mut into[first..]),
                        into_stride: columns,
                        rows,
                        columns: WIDE.min(columns - first),
                        to: match to {
                            _ if start > 0 => Start::Held,
                            Start::Row(row) => Start::Row(&row[first..]),
                            other => other,
                        },
                        next,
                    };
                    // SAFETY: what is held before the first block of the inner dimension is numbers,
                    // says the caller; the first block writes all of these columns in all rows of
                    // this task, and later ones come after it.
                    unsafe { fused(level, strip) };
                }
            }
        }
    });
}

/// Where a task's part of the left factor lies: element (i, l) is `a[offset + i·down + l·right]`.
#[derive(Clone, Copy)]
struct Left<'a> {
    a: &'a [f32],
    offset: usize,
    down: usize,
    right: usize,
}

impl<'a> Left<'a> {
    /// The same numbers in rows [`APART`] apart; for neighbours that lie beside each other.
    fn copied(self, apart: &'a mut [f32], rows: usize, steps: usize) -> Self {
        let from = self.a[self.offset..].chunks(self.down);
        for (to, from) in apart.chunks_exact_mut(APART).zip(from).take(rows) {
            to[..steps].copy_from_slice(&from[..steps]);
        }
        Left { a: apart, offset: 0, down: APART, right: 1 }
    }
}
