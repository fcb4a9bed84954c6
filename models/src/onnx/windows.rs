//! Windows over a picture, and the picture laid out for them.
//!
//! A plane is laid out with its borders and with the columns of each phase of the stride beside each
//! other. What one place of the window sees along a line of the output are then neighbours in
//! memory, whatever stride, dilation and pads are.

use stage::{Error, Result};

use super::attributes::Attributes;

/// Longest border.
const MOST_PAD: i64 = 4096;

/// How a window goes over pictures, as the attributes say.
#[derive(Debug, Clone)]
pub(super) struct Windows {
    pub(super) stride: [usize; 2],
    pub(super) dilation: [usize; 2],
    /// Before and after, of height and width.
    pub(super) pads: [[usize; 2]; 2],
    /// Whether a last window that is not whole counts.
    pub(super) ceil: bool,
}

impl Windows {
    /// Takes `strides`, `dilations`, `pads` and `auto_pad`.
    pub(super) fn of(attributes: &mut Attributes) -> Result<Self> {
        let padding = attributes.text("auto_pad", "NOTSET")?;
        if padding != "NOTSET" {
            return Err(Error::model(format!("auto_pad {padding}; only explicit pads are known")));
        }
        let stride = attributes.pair("strides")?.unwrap_or([1, 1]);
        let dilation = attributes.pair("dilations")?.unwrap_or([1, 1]);
        let pads = match attributes.ints("pads")?.as_deref() {
            None => [[0; 2]; 2],
            Some(&[top, left, bottom, right])
                if [top, left, bottom, right].iter().all(|p| (0..=MOST_PAD).contains(p)) =>
            {
                [[top as usize, bottom as usize], [left as usize, right as usize]]
            }
            Some(pads) => {
                let message = format!("pads {pads:?}, not four numbers in 0..={MOST_PAD}");
                return Err(Error::model(message));
            }
        };
        Ok(Self { stride, dilation, pads, ceil: false })
    }

    /// The windows of this kernel over a picture of this height and width.
    pub(super) fn over(&self, kernel: [usize; 2], size: [usize; 2]) -> Result<Grid> {
        let (mut out, mut lines) = ([0; 2], [0; 2]);
        for i in 0..2 {
            let padded = size[i] + self.pads[i][0] + self.pads[i][1];
            let reach = kernel[i].checked_sub(1).and_then(|k| k.checked_mul(self.dilation[i]));
            let Some((reach, room)) =
                reach.map(|r| r + 1).and_then(|r| Some((r, padded.checked_sub(r)?)))
            else {
                return Err(Error::model(format!(
                    "a window of {kernel:?} does not fit into {size:?}"
                )));
            };
            let stride = self.stride[i];
            out[i] = room / stride + 1;
            // A last, partial window counts where it begins inside the picture or before it.
            if self.ceil && room % stride != 0 && out[i] * stride < size[i] + self.pads[i][0] {
                out[i] += 1;
            }
            lines[i] = (out[i] - 1) * stride + reach;
        }
        Ok(Grid {
            kernel,
            out,
            size,
            stride: self.stride,
            dilation: self.dilation,
            before: [self.pads[0][0], self.pads[1][0]],
            lines: lines[0],
            phase: lines[1].div_ceil(self.stride[1]),
        })
    }
}

/// Windows over pictures of one size.
#[derive(Debug)]
pub(super) struct Grid {
    pub(super) kernel: [usize; 2],
    /// Height and width of the output.
    pub(super) out: [usize; 2],
    /// Of the picture.
    size: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    /// Border before the picture.
    before: [usize; 2],
    /// Lines of a laid out plane, and columns of one phase of a line.
    lines: usize,
    phase: usize,
}

impl Grid {
    /// Places of the window.
    pub(super) fn cells(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    fn line(&self) -> usize {
        self.stride[1].saturating_mul(self.phase)
    }

    /// Numbers of a laid out plane.
    pub(super) fn laid_out(&self) -> usize {
        self.lines.saturating_mul(self.line())
    }

    /// Whether a plane is laid out as it lies.
    pub(super) fn is_plain(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.out == self.size
    }

    /// Lays out a plane with this border into [`Self::laid_out`] numbers.
    pub(super) fn lay_out(&self, plane: &[f32], border: f32, into: &mut [f32]) {
        let [_, width] = self.size;
        let (stride, [above, left]) = (self.stride[1], self.before);
        into.fill(border);
        if width == 0 {
            return;
        }
        let lines = into.chunks_exact_mut(self.line()).skip(above);
        for (line, from) in lines.zip(plane.chunks_exact(width)) {
            for (phase, line) in line.chunks_exact_mut(self.phase).enumerate() {
                // The first column of the picture that has this phase, and where it goes.
                let first = (phase + stride - left % stride) % stride;
                let at = (first + left) / stride;
                let Some(line) = line.get_mut(at..) else { continue };
                if stride == 1 {
                    line.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
                } else {
                    let from = from.iter().skip(first).step_by(stride);
                    line.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
                }
            }
        }
    }

    /// Where the numbers of a laid out plane begin that this cell of the window sees along a line of
    /// the output.
    pub(super) fn place(&self, cell: usize, line: usize) -> usize {
        let (down, right) = (cell / self.kernel[1], cell % self.kernel[1] * self.dilation[1]);
        let stride = self.stride[1];
        (line * self.stride[0] + down * self.dilation[0]) * self.line()
            + right % stride * self.phase
            + right / stride
    }

    /// How many places of the window along side `i` lie inside the picture, for each output.
    pub(super) fn inside(&self, i: usize) -> Vec<usize> {
        let (before, end) = (self.before[i], self.before[i] + self.size[i]);
        let count = |out: usize| {
            let start = out * self.stride[i];
            (start + self.kernel[i]).min(end).saturating_sub(start.max(before))
        };
        (0..self.out[i]).map(count).collect()
    }

    /// The same inside the picture and its borders.
    pub(super) fn inside_padded(&self, i: usize, after: usize) -> Vec<usize> {
        let end = self.before[i] + self.size[i] + after;
        let count = |out: usize| {
            let start = out * self.stride[i];
            (start + self.kernel[i]).min(end).saturating_sub(start)
        };
        (0..self.out[i]).map(count).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(stride: usize, dilation: usize, pads: [usize; 2]) -> Windows {
        Windows { stride: [stride; 2], dilation: [dilation; 2], pads: [pads; 2], ceil: false }
    }

    /// What the cell sees in line `line`, from a picture of one line.
    fn seen(windows: &Windows, kernel: usize, picture: &[f32], cell: usize) -> Vec<f32> {
        let flat = Windows { pads: [[0; 2], windows.pads[1]], ..windows.clone() };
        let grid = flat.over([1, kernel], [1, picture.len()]).unwrap();
        let mut laid_out = vec![9.0; grid.laid_out()];
        grid.lay_out(picture, 0.0, &mut laid_out);
        laid_out[grid.place(cell, 0)..][..grid.out[1]].to_vec()
    }

    #[test]
    fn each_cell_of_a_window_sees_neighbours_in_memory() {
        let picture = [1.0, 2.0, 3.0, 4.0, 5.0];
        let plain = windows(1, 1, [1, 1]);
        assert_eq!(seen(&plain, 3, &picture, 0), [0.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(seen(&plain, 3, &picture, 2), [2.0, 3.0, 4.0, 5.0, 0.0]);
        let strided = windows(2, 1, [1, 1]);
        assert_eq!(seen(&strided, 3, &picture, 0), [0.0, 2.0, 4.0]);
        assert_eq!(seen(&strided, 3, &picture, 1), [1.0, 3.0, 5.0]);
        assert_eq!(seen(&strided, 3, &picture, 2), [2.0, 4.0, 0.0]);
        let wide = windows(3, 2, [4, 0]);
        assert_eq!(seen(&wide, 2, &picture, 0), [0.0, 0.0, 3.0]);
        assert_eq!(seen(&wide, 2, &picture, 1), [0.0, 2.0, 5.0]);
    }

    #[test]
    fn a_window_of_nothing_or_larger_than_the_picture_does_not_fit() {
        let plain = windows(1, 1, [0, 0]);
        for kernel in [[0, 1], [1, 0], [6, 1], [1, 6]] {
            assert!(plain.over(kernel, [5, 5]).is_err(), "{kernel:?}");
        }
        assert!(windows(1, 4096, [0, 0]).over([usize::MAX, 1], [5, 5]).is_err());
    }

    #[test]
    fn the_last_partial_window_is_cut_where_the_border_ends() {
        let windows = Windows { ceil: true, ..windows(2, 1, [1, 1]) };
        let grid = windows.over([3, 3], [4, 4]).unwrap();
        assert_eq!(grid.out, [3, 3]);
        assert_eq!(grid.inside(0), [2, 3, 1]);
        assert_eq!(grid.inside_padded(0, 1), [3, 3, 2]);
    }
}
