//! Which token stands where in which window: the shift, the cut into windows, the padding and the
//! mask of one block, as lists of rows.
//!
//! One gather then does what rolling, padding and permuting would do in four passes over the tokens,
//! and its backward pass is a scatter.

use candle_core::{Device, Result, Tensor};

/// The windows of a grid of G × G tokens.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Windows {
    /// Number of windows of a picture.
    pub(super) count: usize,
    /// Tokens of a window.
    pub(super) tokens: usize,
    /// For each place of each window the token that stands there; nothing where the grid is padded.
    rows: Vec<Option<usize>>,
    /// For each token of the grid its place in the windows.
    places: Vec<usize>,
    /// (count, tokens, tokens): 0, or -100 between tokens that the shift brought together.
    mask: Option<Vec<f64>>,
}

impl Windows {
    /// Windows of `window` × `window` over a grid of `grid` × `grid`, after a cyclic shift up and to
    /// the left by `shift`, after which zeros fill the grid up to whole windows.
    pub(super) fn new(grid: usize, window: usize, shift: usize) -> Self {
        let across = grid.div_ceil(window);
        let padded = across * window;
        let tokens = window * window;
        let mut rows = Vec::with_capacity(padded * padded);
        let mut places = vec![0; grid * grid];
        let mut regions = Vec::with_capacity(padded * padded);
        // What lies left of the last window, in it, and in the part that the shift brought there.
        let region =
            |at: usize| usize::from(at + window >= padded) + usize::from(at + shift >= padded);
        for top in 0..across {
            for left in 0..across {
                for y in top * window..(top + 1) * window {
                    for x in left * window..(left + 1) * window {
                        let row = (y < grid && x < grid)
                            .then(|| (y + shift) % grid * grid + (x + shift) % grid);
                        if let Some(row) = row {
                            places[row] = rows.len();
                        }
                        rows.push(row);
                        regions.push(3 * region(y) + region(x));
                    }
                }
            }
        }
        let mask = (shift > 0).then(|| {
            let windows = regions.chunks_exact(tokens);
            let pair = |a: &usize, b: &usize| if a == b { 0.0 } else { -100.0 };
            windows
                .flat_map(|w| w.iter().flat_map(move |a| w.iter().map(move |b| pair(a, b))))
                .collect()
        });
        Self { count: across * across, tokens, rows, places, mask }
    }

    /// (B, G·G, C) → (B·windows, tokens, C)
    pub(super) fn cut(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, grid, width) = x.dims3()?;
        let flat = x.flatten_to(1)?;
        let rows = self.rows.iter().map(|row| row.map(|row| row as u32));
        let ids = of_batch(&rows, batch, grid, x.device())?;
        let windows = gather(&flat, &ids, self.rows.contains(&None))?;
        windows.reshape((batch * self.count, self.tokens, width))
    }

    /// (B·windows, tokens, C) → (B, G·G, C)
    pub(super) fn join(&self, x: &Tensor) -> Result<Tensor> {
        let (windows, tokens, width) = x.dims3()?;
        let batch = windows / self.count.max(1);
        let places = self.places.iter().map(|place| Some(*place as u32));
        let ids = of_batch(&places, batch, self.count * tokens, x.device())?;
        gather(&x.flatten_to(1)?, &ids, false)?.reshape((batch, self.places.len(), width))
    }

    /// (windows, 1, tokens, tokens), if the shift needs one.
    pub(super) fn mask(&self, like: &Tensor) -> Result<Option<Tensor>> {
        let Some(mask) = &self.mask else { return Ok(None) };
        let shape = (self.count, 1, self.tokens, self.tokens);
        let mask = Tensor::from_slice(mask, shape, like.device())?;
        Ok(Some(mask.to_dtype(like.dtype())?))
    }
}

/// For each pair of tokens of a window the row of the relative position table: query minus key, of
/// y and then x, each from 0 on.
pub(super) fn relative_positions(window: usize) -> Vec<u32> {
    let side = 2 * window - 1;
    let at = |token: usize| (token / window, token % window);
    let pair = |query: usize, key: usize| {
        let ((y, x), (v, u)) = (at(query), at(key));
        ((y + window - 1 - v) * side + (x + window - 1 - u)) as u32
    };
    let tokens = window * window;
    (0..tokens).flat_map(|q| (0..tokens).map(move |k| pair(q, k))).collect()
}

/// The four tokens that each merged one is made of, in timm's order: down, then right. Odd grids
/// are padded.
#[derive(Debug, Clone)]
pub(super) struct Quads {
    rows: Vec<Option<usize>>,
}

impl Quads {
    pub(super) fn new(grid: usize) -> Self {
        let half = grid.div_ceil(2);
        let mut rows = Vec::with_capacity(4 * half * half);
        for y in 0..half {
            for x in 0..half {
                for (dx, dy) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                    let (y, x) = (2 * y + dy, 2 * x + dx);
                    rows.push((y < grid && x < grid).then_some(y * grid + x));
                }
            }
        }
        Self { rows }
    }

    /// (B, G·G, C) → (B, G/2·G/2, 4·C)
    pub(super) fn gather(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, grid, width) = x.dims3()?;
        let rows = self.rows.iter().map(|row| row.map(|row| row as u32));
        let ids = of_batch(&rows, batch, grid, x.device())?;
        let quads = gather(&x.flatten_to(1)?, &ids, self.rows.contains(&None))?;
        quads.reshape((batch, self.rows.len() / 4, 4 * width))
    }
}

/// Rows of one picture repeated for a batch of pictures of `count` rows each; the row behind the
/// last stands for padding.
fn of_batch(
    rows: &(impl Iterator<Item = Option<u32>> + Clone),
    batch: usize,
    count: usize,
    device: &Device,
) -> Result<Tensor> {
    let padding = (batch * count) as u32;
    let ids: Vec<u32> = (0..batch)
        .flat_map(|i| {
            let first = (i * count) as u32;
            rows.clone().map(move |row| row.map_or(padding, |row| first + row))
        })
        .collect();
    Tensor::new(ids, device)
}

/// Rows of (R, C) by number; row R is zero.
fn gather(x: &Tensor, ids: &Tensor, padded: bool) -> Result<Tensor> {
    if !padded {
        return kernels::embedding(x, ids);
    }
    let zero = Tensor::zeros((1, x.dim(1)?), x.dtype(), x.device())?;
    kernels::embedding(&Tensor::cat(&[x, &zero], 0)?, ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_of_a_shifted_grid_hold_these_tokens() {
        // 4 x 4 tokens 0..16, windows of 2 x 2, shifted by 1: the grid begins at token 5.
        let windows = Windows::new(4, 2, 1);
        let rows: Vec<usize> = windows.rows.iter().map(|row| row.unwrap()).collect();
        assert_eq!(rows, [5, 6, 9, 10, 7, 4, 11, 8, 13, 14, 1, 2, 15, 12, 3, 0]);
        assert_eq!((windows.count, windows.tokens), (4, 4));
        for (place, row) in rows.iter().enumerate() {
            assert_eq!(windows.places[*row], place);
        }
        let mask = windows.mask.unwrap();
        // The first window is of one piece; the second of two columns; the last of four tokens.
        assert!(mask[..16].iter().all(|m| *m == 0.0));
        assert_eq!(mask[16..20], [0.0, -100.0, 0.0, -100.0]);
        assert_eq!(mask[48..52], [0.0, -100.0, -100.0, -100.0]);
    }

    #[test]
    fn windows_without_shift_have_no_mask() {
        let windows = Windows::new(4, 2, 0);
        let rows: Vec<usize> = windows.rows.iter().map(|row| row.unwrap()).collect();
        assert_eq!(rows, [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]);
        assert_eq!(windows.mask, None);
    }

    #[test]
    fn a_grid_that_does_not_divide_is_padded_below_and_to_the_right() {
        let windows = Windows::new(3, 2, 0);
        let rows: Vec<Option<usize>> = windows.rows[4..8].to_vec();
        assert_eq!(rows, [Some(2), None, Some(5), None]);
        assert_eq!(windows.count, 4);
    }

    #[test]
    fn cutting_and_joining_gives_the_tokens_back() {
        let x: Vec<f32> = (0..2 * 25 * 3).map(|i| i as f32).collect();
        let x = Tensor::from_vec(x, (2, 25, 3), &Device::Cpu).unwrap();
        for (window, shift) in [(5, 0), (4, 2), (2, 1), (3, 0)] {
            let windows = Windows::new(5, window, shift);
            let back = windows.join(&windows.cut(&x).unwrap()).unwrap();
            assert_eq!(back.to_vec3::<f32>().unwrap(), x.to_vec3::<f32>().unwrap());
        }
    }

    #[test]
    fn relative_positions_count_from_the_lower_right_key() {
        // Query 0 against itself is the middle; against the last key the first row.
        assert_eq!(relative_positions(2), [4, 3, 1, 0, 5, 4, 2, 1, 7, 6, 4, 3, 8, 7, 5, 4]);
    }

    #[test]
    fn merged_tokens_take_the_one_below_before_the_one_to_the_right() {
        let x = Tensor::arange(0f32, 16.0, &Device::Cpu).unwrap().reshape((1, 16, 1)).unwrap();
        let merged = Quads::new(4).gather(&x).unwrap().to_vec3::<f32>().unwrap();
        assert_eq!(merged[0][0], [0.0, 4.0, 1.0, 5.0]);
        assert_eq!(merged[0][3], [10.0, 14.0, 11.0, 15.0]);
        let odd = Quads::new(3).gather(&x.narrow(1, 0, 9).unwrap()).unwrap();
        assert_eq!(odd.to_vec3::<f32>().unwrap()[0][3], [8.0, 0.0, 0.0, 0.0]);
    }
}
