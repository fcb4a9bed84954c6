//! Blurs faces whose boxes are known.
//!
//! The formula is the resharder's of DataComp (`mlfoundations/datacomp`, `resharder.py`), which
//! img2dataset had until 1.45: sigma is a tenth of the longest side of all boxes, over the whole
//! Gaussian. Since 1.46 img2dataset derives sigma from a shorter kernel and blurs about three
//! times less; a face can be told again there, so the stronger one stays here.

use std::ops::Range;

use crate::Picture;

/// A box as shares of width and height: `[x_min, y_min, x_max, y_max]`.
pub type Face = [f64; 4];

/// Checks a box: finite, not the wrong way round, and of shares. A box that lies wholly outside the
/// picture, or a corner beyond -1 or 2, is one of pixels; what else lies outside is cut off.
#[must_use]
pub fn is_box(face: &[f64]) -> bool {
    let &[x0, y0, x1, y1] = face else { return false };
    let share = |low: f64, high: f64| low <= high && low >= -1.0 && high <= 2.0;
    let inside = |low: f64, high: f64| low <= 1.0 && high >= 0.0;
    share(x0, x1) && share(y0, y1) && inside(x0, x1) && inside(y0, y1)
}

/// A box of the stored pixels, where a viewer sees it: boxes of img2dataset and DataComp know
/// nothing of the EXIF orientation, which is applied here.
#[must_use]
pub fn upright(face: Face, orientation: u8) -> Face {
    let turn = |x: f64, y: f64| match orientation {
        2 => (1.0 - x, y),
        3 => (1.0 - x, 1.0 - y),
        4 => (x, 1.0 - y),
        5 => (y, x),
        6 => (1.0 - y, x),
        7 => (1.0 - y, 1.0 - x),
        8 => (y, 1.0 - x),
        _ => (x, y),
    };
    let ((a, b), (c, d)) = (turn(face[0], face[1]), turn(face[2], face[3]));
    [a.min(c), b.min(d), a.max(c), b.max(d)]
}

/// Blurs the boxes, each grown by a tenth of its longer side, with soft edges.
///
/// `out = image · (1 − mask) + blurred image · mask`, where the mask is 1 in the grown boxes and is
/// itself blurred; sigma is a tenth of the longest side of all boxes and the kernel has
/// `2 · ceil(4 · sigma) + 1` taps. Pixels beyond an edge are mirrored. One channel at a time is held
/// as numbers beside the mask: 8 bytes for each pixel that is looked at.
///
/// Says whether there was a pixel to blur: boxes may be smaller than one, or empty.
pub fn blur(picture: &mut Picture, faces: &[Face]) -> bool {
    let (width, height) = (picture.width as usize, picture.height as usize);
    let boxes: Vec<(Area, usize)> =
        faces.iter().filter_map(|face| grown(*face, width, height)).collect();
    let Some(longest) = boxes.iter().map(|(_, side)| *side).max() else { return false };
    let Some(all) = boxes.iter().map(|(area, _)| *area).reduce(Area::union) else { return false };
    let kernel = Kernel::new(0.1 * longest as f64, all.width() * all.height());
    // The mask reaches one radius beyond its boxes, and a blurred pixel is made of what lies
    // within one more.
    let changed = all.wider(kernel.radius(), width, height);
    let read = changed.wider(kernel.radius(), width, height);
    let mut mask = Plane::new(read);
    for (area, _) in &boxes {
        mask.fill(*area);
    }
    let mut spare = Vec::new();
    mask.blur(&kernel, &mut spare);
    let mut soft = Plane::new(read);
    for channel in 0..3 {
        soft.take(picture, channel);
        soft.blur(&kernel, &mut spare);
        for y in changed.top..changed.bottom {
            for x in changed.left..changed.right {
                let value = &mut picture.rgb[(y * width + x) * 3 + channel];
                let (share, old) = (mask.at(x, y), f32::from(*value));
                let new = old * (1.0 - share) + soft.at(x, y) * share;
                *value = new.clamp(0.0, 255.0) as u8;
            }
        }
    }
    true
}

/// A box in pixels, grown, and its longer side before that; none for a box without a pixel.
fn grown(face: Face, width: usize, height: usize) -> Option<(Area, usize)> {
    let pixel = |share: f64, side: usize| (share.clamp(0.0, 1.0) * side as f64) as usize;
    let (left, right) = (pixel(face[0], width), pixel(face[2], width));
    let (top, bottom) = (pixel(face[1], height), pixel(face[3], height));
    let side = (right - left).max(bottom - top);
    if side == 0 {
        return None;
    }
    // A box thinner than a pixel still hides the pixel that it lies in, or at the edge the last.
    let (left, top) = (left.min(width.saturating_sub(1)), top.min(height.saturating_sub(1)));
    let area = Area { left, top, right: right.max(left + 1), bottom: bottom.max(top + 1) };
    Some((area.wider((0.1 * side as f64) as usize, width, height), side))
}

/// A rectangle of pixels; right and bottom are the first outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Area {
    left: usize,
    top: usize,
    right: usize,
    bottom: usize,
}

impl Area {
    fn union(self, other: Self) -> Self {
        Self {
            left: self.left.min(other.left),
            top: self.top.min(other.top),
            right: self.right.max(other.right),
            bottom: self.bottom.max(other.bottom),
        }
    }

    fn wider(self, by: usize, width: usize, height: usize) -> Self {
        Self {
            left: self.left.saturating_sub(by),
            top: self.top.saturating_sub(by),
            right: (self.right + by).min(width),
            bottom: (self.bottom + by).min(height),
        }
    }

    fn width(self) -> usize {
        self.right - self.left
    }

    fn height(self) -> usize {
        self.bottom - self.top
    }
}

/// The values of one channel, or of the mask, in a part of the picture.
struct Plane {
    area: Area,
    values: Vec<f32>,
}

/// Columns that are blurred at once: what a core's cache holds of a high picture.
const STRIP: usize = 64;

impl Plane {
    /// Zeros.
    fn new(area: Area) -> Self {
        Self { area, values: vec![0.0; area.width() * area.height()] }
    }

    /// Takes the values of this channel.
    fn take(&mut self, picture: &Picture, channel: usize) {
        let (width, area) = (picture.width as usize, self.area);
        let rows = self.values.chunks_exact_mut(area.width().max(1));
        for (y, row) in (area.top..area.bottom).zip(rows) {
            for (x, value) in (area.left..area.right).zip(row) {
                *value = f32::from(picture.rgb[(y * width + x) * 3 + channel]);
            }
        }
    }

    fn at(&self, x: usize, y: usize) -> f32 {
        self.values[(y - self.area.top) * self.area.width() + (x - self.area.left)]
    }

    fn fill(&mut self, area: Area) {
        let (width, origin) = (self.area.width(), self.area);
        for y in area.top..area.bottom {
            let row = &mut self.values[(y - origin.top) * width..][..width];
            row[area.left - origin.left..area.right - origin.left].fill(1.0);
        }
    }

    /// Rows, then columns. An edge of the part is mirrored like the picture's own: where it lies
    /// inside the picture, that only changes values that nobody reads. `spare` is memory to use.
    fn blur(&mut self, kernel: &Kernel, spare: &mut Vec<f32>) {
        let width = self.area.width();
        for pass in &kernel.passes {
            for row in self.values.chunks_exact_mut(width.max(1)) {
                pass.along(row, spare);
            }
            for left in (0..width).step_by(STRIP) {
                pass.across(&mut self.values, width, left..width.min(left + STRIP), spare);
            }
        }
    }
}

/// A Gaussian, or three boxes that are nearly one.
struct Kernel {
    passes: Vec<Pass>,
}

/// Multiplications of one plane and direction up to which the Gaussian itself is used. A picture of
/// 512 pixels never comes near; without this a link list could make one picture cost minutes.
const MOST_WORK: usize = 1 << 28;

impl Kernel {
    fn new(sigma: f64, area: usize) -> Self {
        let radius = (4.0 * sigma).ceil() as usize;
        if (2 * radius + 1).saturating_mul(area) <= MOST_WORK {
            let weight = |i: usize| {
                let x = i as f64 - radius as f64;
                if radius == 0 { 1.0 } else { (-x * x / (2.0 * sigma * sigma)).exp() }
            };
            let weights: Vec<f64> = (0..=2 * radius).map(weight).collect();
            let sum: f64 = weights.iter().sum();
            let taps = weights.iter().map(|w| (w / sum) as f32).collect();
            return Self { passes: vec![Pass::Taps(taps)] };
        }
        // Three boxes of width w have the variance (w² − 1) / 4.
        let side = (4.0 * sigma * sigma + 1.0).sqrt() as usize;
        Self { passes: (0..3).map(|_| Pass::Mean(side / 2)).collect() }
    }

    fn radius(&self) -> usize {
        self.passes.iter().map(Pass::radius).sum()
    }
}

enum Pass {
    /// Weights, an odd number.
    Taps(Vec<f32>),
    /// The mean of all within this radius.
    Mean(usize),
}

impl Pass {
    fn radius(&self) -> usize {
        match self {
            Self::Taps(taps) => taps.len() / 2,
            Self::Mean(radius) => *radius,
        }
    }

    /// Along one row; `mirrored` is memory to use.
    fn along(&self, row: &mut [f32], mirrored: &mut Vec<f32>) {
        let (radius, len) = (self.radius(), row.len());
        mirrored.clear();
        let places = 0..len + 2 * radius;
        mirrored.extend(places.map(|i| row[mirror(i as isize - radius as isize, len)]));
        match self {
            Self::Taps(taps) => {
                row.fill(0.0);
                for (tap, from) in taps.iter().zip(mirrored.windows(len)) {
                    add(row, from, *tap);
                }
            }
            Self::Mean(_) => {
                let width = 2 * radius + 1;
                let mut sum: f64 = mirrored[..width].iter().map(|v| f64::from(*v)).sum();
                for (i, out) in row.iter_mut().enumerate() {
                    *out = (sum / width as f64) as f32;
                    if let Some(next) = mirrored.get(i + width) {
                        sum += f64::from(*next) - f64::from(mirrored[i]);
                    }
                }
            }
        }
    }

    /// Along these columns of a plane; `strip` is memory to use.
    fn across(&self, plane: &mut [f32], width: usize, columns: Range<usize>, strip: &mut Vec<f32>) {
        let radius = self.radius() as isize;
        strip.clear();
        plane.chunks_exact(width).for_each(|row| strip.extend_from_slice(&row[columns.clone()]));
        let height = plane.len() / width;
        let row = |y: isize| &strip[mirror(y, height) * columns.len()..][..columns.len()];
        let outs = plane.chunks_exact_mut(width).map(|row| &mut row[columns.clone()]).enumerate();
        match self {
            Self::Taps(taps) => {
                for (y, out) in outs {
                    out.fill(0.0);
                    for (i, tap) in taps.iter().enumerate() {
                        add(out, row(y as isize + i as isize - radius), *tap);
                    }
                }
            }
            Self::Mean(_) => {
                let mut sums = vec![0.0_f64; columns.len()];
                for y in -radius..=radius {
                    sums.iter_mut().zip(row(y)).for_each(|(sum, v)| *sum += f64::from(*v));
                }
                for (y, out) in outs {
                    let (old, new) = (row(y as isize - radius), row(y as isize + radius + 1));
                    for (x, out) in out.iter_mut().enumerate() {
                        *out = (sums[x] / (2 * radius + 1) as f64) as f32;
                        sums[x] += f64::from(new[x]) - f64::from(old[x]);
                    }
                }
            }
        }
    }
}

fn add(out: &mut [f32], from: &[f32], weight: f32) {
    out.iter_mut().zip(from).for_each(|(out, value)| *out += weight * value);
}

/// The place of `i` in `0..len` when the sequence is mirrored at its first and last value again
/// and again: `2 1 0 1 2 1 0` for 3.
fn mirror(i: isize, len: usize) -> usize {
    let period = (2 * len as isize - 2).max(1);
    let i = i.rem_euclid(period) as usize;
    if i < len { i } else { period as usize - i }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Grey noise from a counter.
    fn noise(width: u32, height: u32) -> Picture {
        let mut state = 1_u64;
        let rgb = (0..width * height * 3).map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        });
        Picture { width, height, rgb: rgb.collect() }
    }

    /// Standard deviation of the first channel in a square.
    fn deviation(picture: &Picture, left: usize, top: usize, side: usize) -> f64 {
        let at = |x: usize, y: usize| f64::from(picture.rgb[(y * picture.width as usize + x) * 3]);
        let values: Vec<f64> =
            (0..side * side).map(|i| at(left + i % side, top + i / side)).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
    }

    #[test]
    fn a_face_is_blurred_by_the_strong_formula_and_what_lies_far_away_is_not_touched() {
        let before = noise(512, 512);
        let mut after = before.clone();
        blur(&mut after, &[[0.3, 0.3, 0.7, 0.7]]);
        // img2dataset 1.47 leaves 21.9 of 79.5 here; the formula before it, 5.6.
        assert!(deviation(&before, 153, 153, 200) > 70.0);
        let left = deviation(&after, 153, 153, 200);
        assert!(left < 7.0, "{left}");
        for corner in [0, 511, 512 * 511, 512 * 512 - 1] {
            assert_eq!(before.rgb[corner * 3..][..3], after.rgb[corner * 3..][..3]);
        }
    }

    #[test]
    fn a_smooth_picture_stays_what_it_is() {
        let mut grey = Picture::filled(64, 48, [100, 0, 255]);
        blur(&mut grey, &[[0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.5, 0.5]]);
        let off = grey.rgb.chunks(3).map(|p| [p[0].abs_diff(100), p[1], 255 - p[2]]);
        assert!(off.flatten().all(|off| off <= 1));
    }

    #[test]
    fn the_whole_box_is_hidden_up_to_the_edge_of_the_picture() {
        let mut picture = noise(200, 100);
        blur(&mut picture, &[[0.5, -3.0, 9.0, 7.0]]);
        assert!(deviation(&picture, 170, 30, 30) < 10.0);
    }

    #[test]
    fn three_boxes_stand_for_a_gaussian_that_would_take_too_long() {
        let (mut exact, mut spare) = (vec![0.0; 401], Vec::new());
        exact[200] = 1000.0;
        let mut quick = exact.clone();
        let taps = Kernel::new(30.0, 1);
        taps.passes[0].along(&mut exact, &mut spare);
        let boxes = Kernel::new(30.0, MOST_WORK);
        assert_eq!(boxes.passes.len(), 3);
        for pass in &boxes.passes {
            pass.along(&mut quick, &mut spare);
        }
        let apart = exact.iter().zip(&quick).map(|(a, b): (&f32, &f32)| (a - b).abs());
        let peak = exact[200];
        assert!(apart.fold(0.0, f32::max) < 0.1 * peak, "{peak}");
    }

    #[test]
    fn boxes_turn_with_the_picture() {
        let face = [0.0, 0.0, 0.25, 0.5]; // upper left, half as high as the picture
        assert_eq!(upright(face, 1), face);
        assert_eq!(upright(face, 3), [0.75, 0.5, 1.0, 1.0]);
        assert_eq!(upright(face, 6), [0.5, 0.0, 1.0, 0.25]); // a quarter turn clockwise
        assert_eq!(upright(face, 8), [0.0, 0.75, 0.5, 1.0]);
        assert_eq!(upright(face, 2), [0.75, 0.0, 1.0, 0.5]);
    }

    #[test]
    fn what_is_no_box_is_told() {
        assert!(is_box(&[0.1, 0.1, 0.2, 0.2]) && is_box(&[-1.0, 0.0, 2.0, 0.0]));
        for bad in [
            &[0.1, 0.1, 0.2][..],
            &[0.2, 0.1, 0.1, 0.2],
            &[f64::NAN, 0.0, 1.0, 1.0],
            &[],
            // In pixels.
            &[10.0, 20.0, 50.0, 60.0],
            &[0.0, 0.0, 40.0, 40.0],
            &[1.5, 0.0, 2.0, 1.0],
            &[0.0, -1.0, 1.0, -0.5],
        ] {
            assert!(!is_box(bad), "{bad:?}");
        }
    }

    #[test]
    fn it_is_told_whether_a_pixel_was_blurred() {
        let mut picture = noise(96, 64);
        let before = picture.clone();
        assert!(!blur(&mut picture, &[]) && !blur(&mut picture, &[[0.5, 0.5, 0.5, 0.5]]));
        assert!(before == picture);
        // At the edge the last column is meant.
        assert!(blur(&mut picture, &[[1.0, 0.2, 1.0, 0.8]]) && before != picture);
    }

    #[test]
    fn an_edge_is_mirrored_without_being_doubled() {
        let places: Vec<usize> = (-4..7).map(|i| mirror(i, 3)).collect();
        assert_eq!(places, [0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2]);
        assert_eq!(mirror(-5, 1), 0);
    }
}
