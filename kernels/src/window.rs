//! Where the 3 × 3 windows of convolutions and pooling lie: padding 1, stride 1 or 2.

use candle_core::{Result, Tensor};

/// Pictures (B, H, W, C), channels last, seen through 3 × 3 windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Windows {
    pub(crate) batch: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) channels: usize,
    pub(crate) stride: usize,
}

impl Windows {
    /// Of a tensor (B, H, W, C) with no empty side.
    pub(crate) fn of(op: &'static str, x: &Tensor, stride: usize) -> Result<Self> {
        let (batch, height, width, channels) = x.dims4()?;
        if stride == 0 || batch * height * width * channels == 0 {
            candle_core::bail!("{op}: x {:?} with stride {stride}", x.dims());
        }
        Ok(Self { batch, height, width, channels, stride })
    }

    /// Height of the result: ⌈H / stride⌉.
    pub(crate) fn rows(&self) -> usize {
        self.height.div_ceil(self.stride)
    }

    /// Width of the result: ⌈W / stride⌉.
    pub(crate) fn columns(&self) -> usize {
        self.width.div_ceil(self.stride)
    }

    /// Elements of one row of the input.
    pub(crate) fn line(&self) -> usize {
        self.width * self.channels
    }

    /// The taps 0..9 (row by row) of the window at row `oy` and column `ox` that lie inside, each
    /// with the place of its pixel within the picture.
    #[inline(always)]
    pub(crate) fn taps(&self, oy: usize, ox: usize) -> impl Iterator<Item = (usize, usize)> {
        let Self { height, width, stride, .. } = *self;
        let (top, left) = (oy * stride, ox * stride);
        (0..9).filter_map(move |tap| {
            // One less than the padded coordinate; below zero wraps far beyond the side.
            let y = (top + tap / 3).wrapping_sub(1);
            let x = (left + tap % 3).wrapping_sub(1);
            (y < height && x < width).then(|| (tap, y * width + x))
        })
    }

    /// The windows that the pixel at (y, x) lies in: each tap with the place of its window within
    /// the result.
    #[inline(always)]
    pub(crate) fn windows(&self, y: usize, x: usize) -> impl Iterator<Item = (usize, usize)> {
        let (stride, rows, columns) = (self.stride, self.rows(), self.columns());
        (0..9).filter_map(move |tap| {
            let (down, right) = ((y + 1).checked_sub(tap / 3)?, (x + 1).checked_sub(tap % 3)?);
            let (oy, ox) = (down / stride, right / stride);
            let here = down.is_multiple_of(stride) && right.is_multiple_of(stride);
            (here && oy < rows && ox < columns).then(|| (tap, oy * columns + ox))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_and_a_pixel_see_each_other() {
        for (height, width, stride) in [(1, 1, 1), (4, 5, 1), (4, 5, 2), (5, 4, 2), (1, 3, 2)] {
            let windows = Windows { batch: 1, height, width, channels: 1, stride };
            let mut seen = Vec::new();
            for oy in 0..windows.rows() {
                for ox in 0..windows.columns() {
                    let at = oy * windows.columns() + ox;
                    seen.extend(windows.taps(oy, ox).map(|(tap, pixel)| (tap, pixel, at)));
                }
            }
            let mut back = Vec::new();
            for y in 0..height {
                for x in 0..width {
                    let pixel = y * width + x;
                    back.extend(windows.windows(y, x).map(|(tap, at)| (tap, pixel, at)));
                }
            }
            seen.sort_unstable();
            back.sort_unstable();
            assert_eq!(seen, back);
        }
    }

    #[test]
    fn the_first_window_of_a_picture_has_four_taps_inside() {
        let windows = Windows { batch: 1, height: 3, width: 3, channels: 1, stride: 2 };
        assert_eq!(windows.taps(0, 0).collect::<Vec<_>>(), [(4, 0), (5, 1), (7, 3), (8, 4)]);
        assert_eq!((windows.rows(), windows.columns()), (2, 2));
    }
}
