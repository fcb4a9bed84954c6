//! Coloured shapes with captions that say what they show: a source made on the spot.

use pixels::Picture;
use stage::{Error, PairRow, PairSource, Pairs, PairsBuilder, Result, Status};

/// Encoded pictures and captions in memory.
pub(crate) struct Shapes {
    samples: Vec<(String, Vec<u8>)>,
    side: u32,
}

const COLOURS: [(&str, [u8; 3]); 6] = [
    ("red", [220, 40, 40]),
    ("green", [40, 180, 60]),
    ("blue", [40, 70, 220]),
    ("yellow", [230, 210, 40]),
    ("black", [20, 20, 20]),
    ("violet", [150, 50, 190]),
];
const SHAPES: [&str; 4] = ["circle", "square", "bar", "cross"];
const PLACES: [&str; 4] = ["upper left", "upper right", "lower left", "lower right"];

impl Shapes {
    /// `count` pictures of `side` × `side` pixels; from number 96 on shapes repeat in other sizes.
    pub(crate) fn new(count: usize, side: u32) -> Self {
        let sample = |i: usize| {
            let (colour, shape, place) = (i % 6, i / 6 % 4, i / 24 % 4);
            let caption =
                format!("a {} {} in the {}", COLOURS[colour].0, SHAPES[shape], PLACES[place]);
            let small = (i / 96 % 8) as u32;
            let picture = draw(side, side / 4 - small * side / 64, COLOURS[colour].1, shape, place);
            (caption, pixels::encode_jpeg(&picture, 90))
        };
        Self { samples: (0..count).map(sample).collect(), side }
    }

    /// Cuts the picture of this sample off in the middle of its header.
    #[allow(dead_code, reason = "not every test breaks something")]
    pub(crate) fn break_sample(&mut self, index: usize) {
        self.samples[index].1.truncate(40);
    }
}

fn draw(side: u32, radius: u32, rgb: [u8; 3], shape: usize, place: usize) -> Picture {
    let centre = |far: bool| (if far { 3 * side / 4 } else { side / 4 }).cast_signed();
    let (cx, cy, r) = (centre(place % 2 == 1), centre(place / 2 == 1), radius.cast_signed());
    let inside = |x: i32, y: i32| match shape {
        0 => x * x + y * y <= r * r,
        1 => x.abs() <= r && y.abs() <= r,
        2 => x.abs() <= r && y.abs() <= r / 3,
        _ => (x.abs() <= r / 3 && y.abs() <= r) || (x.abs() <= r && y.abs() <= r / 3),
    };
    let mut pixels = Vec::new();
    for y in 0..side.cast_signed() {
        for x in 0..side.cast_signed() {
            pixels.extend(if inside(x - cx, y - cy) { rgb } else { [255; 3] });
        }
    }
    Picture { width: side, height: side, rgb: pixels }
}

impl PairSource for Shapes {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn read(&self, indices: &[usize]) -> Result<Pairs> {
        let mut pairs = PairsBuilder::default();
        for &i in indices {
            let (caption, image) =
                self.samples.get(i).ok_or_else(|| Error::input(format!("no sample {i}")))?;
            pairs.push(PairRow {
                uid: &format!("{i:032x}"),
                key: &format!("{i:09}"),
                url: "",
                caption,
                status: Status::Success,
                error_message: None,
                size: Some((self.side, self.side)),
                original_size: None,
                sha256: None,
                image: Some(image),
            });
        }
        Ok(pairs.finish())
    }

    fn fingerprint(&self) -> String {
        format!("shapes of {} samples at {}", self.samples.len(), self.side)
    }
}
