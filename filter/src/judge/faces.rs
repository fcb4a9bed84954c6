//! Finds faces: how many, and where, for blurring and for leaving out.
//!
//! Two detectors are known by their outputs. UltraFace (Linzaer, "version-RFB-320" and "slim-320"):
//! `scores` [1, N, 2] and `boxes` [1, N, 4], corners as shares of the picture; input 320 x 240 RGB,
//! (x - 127) / 128. YuNet (ShiqiYu, libfacedetection.train): `cls_8` ... `bbox_32` at strides 8, 16
//! and 32; input BGR as it is; score sqrt(cls · obj); a box is centre and log size in strides.
//! Overlapping boxes are thinned out by hard non-maximum suppression at IoU 0.3, as both do.

use std::sync::Arc;

use arrow_array::builder::{Float64Builder, ListBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::UInt32Type;
use arrow_array::{ArrayRef, UInt32Array};
use arrow_schema::{DataType, Field};
use models::onnx::{Array, Onnx, exp};
use pixels::{Picture, squash};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stage::{Context, Error, Pairs, Result};

use super::pictures::{look_at, open_network};
use super::{Judge, JudgeContext, JudgePlan, Scored};
use crate::asset::Asset;

/// Faces in the stored picture. Scores: `face_count`, `face_bboxes` (DataComp's column: lists of
/// `[x_min, y_min, x_max, y_max]` as shares of width and height; an empty list is no face).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Faces {
    /// UltraFace's or YuNet's network, `.onnx`: a path or URL, or `{path, sha256}`.
    pub model: Asset,
    /// Smallest score of a face, 0..=1; default 0.7.
    #[serde(default = "default_min_score")]
    pub min_score: f32,
    /// Most faces that pass; default any number. Reason: `faces`.
    #[serde(default)]
    pub max_faces: Option<u32>,
}

fn default_min_score() -> f32 {
    0.7
}

/// Boxes that share more of their union than this are one face.
const IOU: f32 = 0.3;
/// Most faces that are told of one picture.
const MOST_FACES: usize = 1000;
/// Side of the input where the network takes any.
const SIDE: usize = 320;
/// Sides of an input that are believed.
const SIDES: std::ops::RangeInclusive<usize> = 32..=4096;

/// Corners as shares of the picture's sides.
type Corners = [f32; 4];

impl JudgePlan for Faces {
    fn name(&self) -> &'static str {
        "faces"
    }

    fn validate(&self) -> Result<()> {
        self.model.validate("model")?;
        if (0.0..=1.0).contains(&self.min_score) {
            return Ok(());
        }
        Err(Error::recipe(format!("min_score must lie in 0..=1, got {}", self.min_score)))
    }

    fn scores(&self) -> Vec<Field> {
        let list = |item: DataType| DataType::List(Arc::new(Field::new("item", item, true)));
        vec![
            Field::new("face_count", DataType::UInt32, true),
            Field::new("face_bboxes", list(list(DataType::Float64)), true),
        ]
    }

    fn scoring(&self) -> Value {
        json!({"model": self.model, "min_score": self.min_score})
    }

    fn files(&self) -> Vec<&str> {
        vec![self.model.path()]
    }

    fn reasons(&self, scores: &[ArrayRef]) -> Vec<Option<&'static str>> {
        let most = self.max_faces.unwrap_or(u32::MAX);
        let counts = scores[0].as_primitive::<UInt32Type>().iter();
        counts.map(|count| count.filter(|count| *count > most).map(|_| "faces")).collect()
    }

    fn build(&self, cx: &JudgeContext<'_>) -> Result<Box<dyn Judge>> {
        self.validate()?;
        let network = open_network(&self.model)?;
        let form = Form::of(&network).map_err(|e| e.at(self.model.path().to_owned()))?;
        let context = cx.stage.clone();
        Ok(Box::new(Detector { network, form, min_score: self.min_score, context }))
    }
}

struct Detector {
    network: Onnx,
    form: Form,
    min_score: f32,
    context: Context,
}

impl Judge for Detector {
    fn score(&mut self, pairs: &Pairs) -> Result<Scored> {
        let found = look_at(pairs, &self.context, |picture| {
            let outputs =
                self.network.run_until(self.form.input(picture)?, &self.context.cancel)?;
            let faces = self.form.faces(picture, &outputs, self.min_score)?;
            Ok(thinned(faces))
        })?;
        let mut counts = Vec::with_capacity(found.len());
        let mut refused = Vec::with_capacity(found.len());
        let mut boxes = ListBuilder::new(ListBuilder::new(Float64Builder::new()));
        for row in found {
            let (faces, reason) = match row {
                None => (None, None),
                Some(Ok(faces)) => (Some(faces), None),
                Some(Err(reason)) => (None, Some(reason)),
            };
            counts.push(faces.as_ref().map(|faces| faces.len() as u32));
            refused.push(reason);
            for corners in faces.iter().flatten() {
                boxes.values().values().append_slice(&corners.map(f64::from));
                boxes.values().append(true);
            }
            boxes.append(faces.is_some());
        }
        let scores: Vec<ArrayRef> =
            vec![Arc::new(UInt32Array::from(counts)), Arc::new(boxes.finish())];
        Ok(Scored { scores, refused })
    }
}

/// Which detector a network is.
#[derive(Debug, Clone, PartialEq)]
enum Form {
    UltraFace { width: usize, height: usize, scores: usize, boxes: usize },
    YuNet { width: usize, height: usize, heads: Vec<Head> },
}

/// Where one stride's outputs stand.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Head {
    stride: usize,
    class: usize,
    object: usize,
    bbox: usize,
}

impl Form {
    fn of(network: &Onnx) -> Result<Self> {
        let (_, shape) = network.input();
        let &[_, Some(3), height, width] = shape else {
            return Err(Error::model(format!("a network of input {shape:?}, not [1, 3, H, W]")));
        };
        let (width, height) = (side(width)?, side(height)?);
        let outputs: Vec<&str> = network.outputs().collect();
        let place = |name: &str| outputs.iter().position(|output| *output == name);
        if let (Some(scores), Some(boxes)) = (place("scores"), place("boxes")) {
            return Ok(Self::UltraFace { width, height, scores, boxes });
        }
        let head = |stride: usize| {
            Some(Head {
                stride,
                class: place(&format!("cls_{stride}"))?,
                object: place(&format!("obj_{stride}"))?,
                bbox: place(&format!("bbox_{stride}"))?,
            })
        };
        let heads: Option<Vec<Head>> = [8, 16, 32].into_iter().map(head).collect();
        heads.map(|heads| Self::YuNet { width, height, heads }).ok_or_else(|| {
            Error::model(format!("no detector that is known here, by its outputs {outputs:?}"))
                .hint("UltraFace has `scores` and `boxes`, YuNet `cls_8` to `bbox_32`")
        })
    }

    /// What the network sees of a picture.
    fn input(&self, picture: &Picture) -> Result<Array> {
        match *self {
            Self::UltraFace { width, height, .. } => {
                let small = squash(picture, width as u32, height as u32);
                let plane = |c: usize| small.rgb.iter().skip(c).step_by(3);
                let pixels = (0..3).flat_map(|c| plane(c).map(|v| (f32::from(*v) - 127.0) / 128.0));
                Array::new(&[1, 3, height, width], pixels.collect())
            }
            Self::YuNet { width, height, .. } => {
                let (w, h) = fitted(picture, width, height);
                let small = squash(picture, w as u32, h as u32);
                let mut planes = vec![0f32; 3 * width * height];
                for (plane, c) in planes.chunks_exact_mut(width * height).zip([2, 1, 0]) {
                    let lines = plane.chunks_exact_mut(width).zip(small.rgb.chunks_exact(w * 3));
                    for (line, rgb) in lines {
                        let values = rgb.iter().skip(c).step_by(3);
                        line.iter_mut().zip(values).for_each(|(out, v)| *out = f32::from(*v));
                    }
                }
                Array::new(&[1, 3, height, width], planes)
            }
        }
    }

    /// Scores and corners of what may be faces.
    fn faces(&self, picture: &Picture, outputs: &[Array], min: f32) -> Result<Vec<(f32, Corners)>> {
        let get = |i: usize, width: usize| -> Result<&[f32]> {
            let output = outputs.get(i).ok_or_else(|| Error::model("an output is missing"))?;
            if output.shape().last() == Some(&width) {
                return output.floats();
            }
            Err(Error::model(format!("an output of shape {:?}", output.shape())))
        };
        let mut faces = Vec::new();
        match self {
            Self::UltraFace { scores, boxes, .. } => {
                let (scores, boxes) = (get(*scores, 2)?, get(*boxes, 4)?);
                let rows = scores.as_chunks::<2>().0.iter().zip(boxes.as_chunks::<4>().0);
                faces.extend(rows.filter(|(s, _)| s[1] >= min).map(|(s, b)| (s[1], *b)));
            }
            Self::YuNet { width, height, heads } => {
                let (w, h) = fitted(picture, *width, *height);
                for head in heads {
                    let columns = width / head.stride;
                    let (class, object) = (get(head.class, 1)?, get(head.object, 1)?);
                    let boxes = get(head.bbox, 4)?.as_chunks::<4>().0;
                    for (i, ((class, object), b)) in class.iter().zip(object).zip(boxes).enumerate()
                    {
                        let score = (class.clamp(0.0, 1.0) * object.clamp(0.0, 1.0)).sqrt();
                        if score < min {
                            continue;
                        }
                        let stride = head.stride as f32;
                        let x = ((i % columns.max(1)) as f32 + b[0]) * stride;
                        let y = ((i / columns.max(1)) as f32 + b[1]) * stride;
                        let half = |log: f32| exp(f64::from(log)) as f32 * stride / 2.0;
                        let (dx, dy) = (half(b[2]), half(b[3]));
                        let (w, h) = (w as f32, h as f32);
                        faces.push((
                            score,
                            [(x - dx) / w, (y - dy) / h, (x + dx) / w, (y + dy) / h],
                        ));
                    }
                }
            }
        }
        Ok(faces)
    }
}

/// A side of the input, [`SIDE`] where the network takes any.
///
/// # Errors
/// One that no detector has: the frame is made before anything is known of the network.
fn side(found: Option<usize>) -> Result<usize> {
    let side = found.unwrap_or(SIDE);
    if SIDES.contains(&side) {
        return Ok(side);
    }
    let message = format!("an input of {side} pixels a side; {SIDES:?} are read");
    Err(Error::model(message))
}

/// The largest size of the picture's shape in this frame.
fn fitted(picture: &Picture, width: usize, height: usize) -> (usize, usize) {
    let (w, h) = (picture.width.max(1) as usize, picture.height.max(1) as usize);
    if w * height >= h * width {
        (width, (h * width / w).max(1))
    } else {
        ((w * height / h).max(1), height)
    }
}

/// The best of each group of overlapping boxes, inside the picture, best first.
fn thinned(mut faces: Vec<(f32, Corners)>) -> Vec<Corners> {
    faces.retain(|(score, corners)| score.is_finite() && corners.iter().all(|x| x.is_finite()));
    faces.sort_by(|(a, _), (b, _)| b.total_cmp(a)); // stable: equal scores keep their order
    let mut kept: Vec<Corners> = Vec::new();
    for (_, corners) in faces {
        let corners = corners.map(|x| x.clamp(0.0, 1.0));
        let empty = corners[0] >= corners[2] || corners[1] >= corners[3];
        if !empty && kept.len() < MOST_FACES && kept.iter().all(|k| overlap(k, &corners) <= IOU) {
            kept.push(corners);
        }
    }
    kept
}

/// Intersection over union.
fn overlap(a: &Corners, b: &Corners) -> f32 {
    let side = |i: usize| (a[i + 2].min(b[i + 2]) - a[i].max(b[i])).max(0.0);
    let area = |c: &Corners| (c[2] - c[0]) * (c[3] - c[1]);
    let both = side(0) * side(1);
    both / (area(a) + area(b) - both).max(f32::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_overlapping_boxes_the_best_stays_and_what_is_outside_is_cut_off() {
        let faces = vec![
            (0.8, [0.1, 0.1, 0.5, 0.5]),
            (0.9, [0.12, 0.1, 0.52, 0.5]),
            (0.7, [0.6, 0.6, 1.2, 0.9]),
            (0.95, [0.3, 0.4, 0.3, 0.9]), // no area
            (f32::NAN, [0.0, 0.0, 1.0, 1.0]),
        ];
        assert_eq!(thinned(faces), [[0.12, 0.1, 0.52, 0.5], [0.6, 0.6, 1.0, 0.9]]);
    }

    #[test]
    fn an_input_without_pixels_or_with_billions_is_refused() {
        assert_eq!([None, Some(32), Some(4096)].map(|s| side(s).unwrap()), [320, 32, 4096]);
        for wrong in [0, 31, 4097, usize::MAX] {
            let error = side(Some(wrong)).unwrap_err();
            assert_eq!(error.kind(), stage::Kind::Model);
            assert!(error.to_string().contains("32..=4096"), "{error}");
        }
    }

    #[test]
    fn a_wide_picture_fills_the_width_of_the_frame() {
        let size = |w, h| fitted(&Picture::filled(w, h, [0; 3]), 320, 320);
        assert_eq!(
            (size(640, 320), size(100, 400), size(5000, 1)),
            ((320, 160), (80, 320), (320, 1))
        );
    }
}
