//! OpenCV's `INTER_AREA`, shrinking: each output pixel is the mean of the area it covers.
//!
//! Source: the algorithm of OpenCV's `resize.cpp` (4.14): a table of weights for each axis, sums in
//! f32 in source order, rounding half to even; ratios that are whole on both axes sum integers, and
//! 2x2 rounds half up.

use crate::Picture;

/// Shrinks to `size` (width, height), which is at least 1 and at most the picture's on both axes.
pub(super) fn shrink(picture: &Picture, size: (u32, u32)) -> Picture {
    let x_scale = scale(picture.width, size.0);
    let y_scale = scale(picture.height, size.1);
    match (whole(x_scale), whole(y_scale)) {
        (Some(x), Some(y)) => blocks(picture, size, x, y),
        _ => weighted(picture, size, x_scale, y_scale),
    }
}

/// Source pixels for one output pixel, rounded the way OpenCV comes to it.
fn scale(from: u32, to: u32) -> f64 {
    1.0 / (f64::from(to) / f64::from(from))
}

fn whole(scale: f64) -> Option<usize> {
    ((scale - scale.round()).abs() < f64::EPSILON).then_some(scale.round() as usize)
}

/// Means of whole blocks.
fn blocks(picture: &Picture, (width, height): (u32, u32), x_by: usize, y_by: usize) -> Picture {
    let stride = picture.width as usize * 3;
    let share = 1.0 / (x_by * y_by) as f32;
    let mut rgb = Vec::with_capacity(width as usize * height as usize * 3);
    let mut sums = vec![0_u32; width as usize * 3];
    for rows in picture.rgb.chunks_exact(stride * y_by).take(height as usize) {
        sums.fill(0);
        for row in rows.chunks_exact(stride) {
            for (sum, block) in sums.chunks_exact_mut(3).zip(row.chunks_exact(x_by * 3)) {
                for pixel in block.chunks_exact(3) {
                    for (sum, &value) in sum.iter_mut().zip(pixel) {
                        *sum += u32::from(value);
                    }
                }
            }
        }
        if (x_by, y_by) == (2, 2) {
            rgb.extend(sums.iter().map(|&sum| ((sum + 2) >> 2) as u8));
        } else {
            rgb.extend(sums.iter().map(|&sum| (sum as f32 * share).round_ties_even() as u8));
        }
    }
    Picture { width, height, rgb }
}

/// One share of a source position in an output position.
struct Share {
    to: usize,
    from: usize,
    weight: f32,
}

/// The shares of one axis, in source order. A sliver below a thousandth of a pixel is left out.
fn shares(from: u32, to: u32, scale: f64) -> Vec<Share> {
    const SLIVER: f64 = 1e-3;
    let mut shares = Vec::with_capacity(from as usize + 2 * to as usize);
    for to in 0..to as usize {
        let begin = to as f64 * scale;
        let end = begin + scale;
        let cell = scale.min(f64::from(from) - begin);
        let last_whole = (end.floor() as usize).min(from as usize - 1);
        let first_whole = (begin.ceil() as usize).min(last_whole);
        if first_whole as f64 - begin > SLIVER {
            let weight = ((first_whole as f64 - begin) / cell) as f32;
            shares.push(Share { to, from: first_whole - 1, weight });
        }
        let weight = (1.0 / cell) as f32;
        shares.extend((first_whole..last_whole).map(|from| Share { to, from, weight }));
        if end - last_whole as f64 > SLIVER {
            let weight = ((end - last_whole as f64).min(1.0).min(cell) / cell) as f32;
            shares.push(Share { to, from: last_whole, weight });
        }
    }
    shares
}

fn weighted(picture: &Picture, (width, height): (u32, u32), x_scale: f64, y_scale: f64) -> Picture {
    let columns = shares(picture.width, width, x_scale);
    let rows = shares(picture.height, height, y_scale);
    let stride = picture.width as usize * 3;
    let mut rgb = Vec::with_capacity(width as usize * height as usize * 3);
    let mut narrow = vec![0_f32; width as usize * 3];
    let mut sums = vec![0_f32; width as usize * 3];
    let mut current = 0;
    for Share { to, from, weight } in rows {
        narrow_row(&picture.rgb[from * stride..(from + 1) * stride], &columns, &mut narrow);
        if to == current {
            for (sum, &value) in sums.iter_mut().zip(&narrow) {
                *sum += weight * value;
            }
        } else {
            rgb.extend(sums.iter().map(|sum| sum.round_ties_even() as u8));
            for (sum, &value) in sums.iter_mut().zip(&narrow) {
                *sum = weight * value;
            }
            current = to;
        }
    }
    rgb.extend(sums.iter().map(|sum| sum.round_ties_even() as u8));
    Picture { width, height, rgb }
}

fn narrow_row(row: &[u8], columns: &[Share], narrow: &mut [f32]) {
    narrow.fill(0.0);
    for &Share { to, from, weight } in columns {
        let pixel = &row[from * 3..from * 3 + 3];
        for (sum, &value) in narrow[to * 3..to * 3 + 3].iter_mut().zip(pixel) {
            *sum += f32::from(value) * weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shrunk(values: &[u8], width: u32, size: (u32, u32)) -> Vec<u8> {
        let rgb = values.iter().flat_map(|&value| [value; 3]).collect();
        let picture = Picture { width, height: values.len() as u32 / width, rgb };
        shrink(&picture, size).rgb.chunks(3).map(|pixel| pixel[0]).collect()
    }

    #[test]
    fn two_by_two_rounds_half_up_and_other_blocks_half_to_even() {
        assert_eq!(shrunk(&[0, 1, 0, 1], 2, (1, 1)), [1]);
        assert_eq!(shrunk(&[0, 1], 2, (1, 1)), [0]);
        assert_eq!(shrunk(&[1, 2], 2, (1, 1)), [2]);
        assert_eq!(shrunk(&[0, 0, 9, 3, 3, 3], 3, (1, 2)), [3, 3]);
    }

    #[test]
    fn a_pixel_on_the_edge_is_shared_by_its_part() {
        // 3 to 2: each output covers 1.5 pixels.
        assert_eq!(shrunk(&[30, 60, 90], 3, (2, 1)), [40, 80]);
        // 5 to 2: 2.5 each.
        assert_eq!(shrunk(&[10, 20, 30, 40, 50], 5, (2, 1)), [18, 42]);
    }

    #[test]
    fn one_axis_may_stay() {
        assert_eq!(shrunk(&[10, 20, 30, 200, 210, 220], 3, (2, 2)), [13, 27, 203, 217]);
    }
}
