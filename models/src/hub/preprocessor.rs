//! The `preprocessor_config.json` of a Hugging Face CLIP: what `CLIPImageProcessor` does with
//! pictures, as far as ours does the same.
//!
//! Source: transformers 5.23, `image_processing_clip.py`, `image_processing_backends.py`. What a file
//! leaves out has the class's defaults, among them a size of 224. A field that asks for something
//! else than the model's square of pixels is refused by name, with both values.

use serde_json::{Map, Value, json};
use stage::{Error, Preprocess, Result, ResultExt};

/// What says nothing about pixels.
const SILENT: &[&str] = &[
    "processor_class",
    "_processor_class",
    "_valid_processor_keys",
    "data_format",
    "device",
    "disable_grouping",
    "do_convert_rgb", // pictures of other colours cannot be normalised there without it
    "input_data_format",
    "return_tensors",
];
/// Names of the class, in all versions.
const CLASSES: &[&str] = &[
    "CLIPImageProcessor",
    "CLIPImageProcessorFast",
    "CLIPImageProcessorPil",
    "CLIPFeatureExtractor",
];
/// The side that a file without one means.
const DEFAULT_SIDE: u32 = 224;

/// The preprocessing for a model of this side; of a folder without the file, CLIP's own.
pub(super) fn preprocess(file: Option<&Value>, side: u32) -> Result<Preprocess> {
    let mut preprocess = Preprocess::default();
    let Some(file) = file else { return Ok(preprocess) };
    let fields = file.as_object().ok_or_else(|| Error::model("not a JSON object"))?;
    let mut file = Fields { left: fields.clone(), side };
    for field in ["image_processor_type", "feature_extractor_type"] {
        if let Some(class) = file.take(field)
            && !class.as_str().is_some_and(|class| CLASSES.contains(&class))
        {
            return Err(Error::model(format!("`{field}` is {class}, expected CLIPImageProcessor")));
        }
    }
    for field in SILENT {
        file.left.remove(*field);
    }
    // 3 is Pillow's bicubic.
    file.only("resample", &json!(3), "3 (bicubic)")?;
    file.only("do_resize", &json!(true), "true")?;
    let crops = file.switch("do_center_crop", true)?;
    let crop = file.take("crop_size").unwrap_or(json!(DEFAULT_SIDE));
    if crops && square(&crop) != Some(side) {
        return Err(file.wrong("crop_size", &crop));
    }
    let squares = file.switch("default_to_square", false)?;
    file.resize_mode(squares, crops)?.clone_into(&mut preprocess.resize_mode);
    // (x · factor - mean) / std = (x / 255 - mean / (255 factor)) / (std / (255 factor))
    let factor = file.take("rescale_factor").unwrap_or(json!(1.0 / 255.0));
    let times = match file.switch("do_rescale", true)? {
        true => factor.as_f64().map_or(f64::NAN, |factor| factor * 255.0),
        false => 255.0,
    };
    if !(1e-6..=1e6).contains(&times) {
        return Err(Error::model(format!("`rescale_factor` is {factor}, expected about 1/255")));
    }
    let normalizes = file.switch("do_normalize", true)?;
    for (field, place, without) in
        [("image_mean", &mut preprocess.mean, 0.0), ("image_std", &mut preprocess.std, 1.0)]
    {
        if let Some(value) = file.take(field) {
            *place = serde_json::from_value(value).model(format!("`{field}`"))?;
        }
        if !normalizes {
            *place = [without; 3];
        }
        if (times - 1.0).abs() > 1e-6 {
            *place = place.map(|number| (f64::from(number) / times) as f32);
        }
    }
    match file.left.iter().find(|(_, value)| !matches!(value, Value::Null | Value::Bool(false))) {
        None => Ok(preprocess),
        Some((field, value)) => {
            Err(Error::model(format!("`{field}` is {value}, which is not known here")))
        }
    }
}

/// What of the file nobody looked at, and the model's side.
struct Fields {
    left: Map<String, Value>,
    side: u32,
}

impl Fields {
    /// A field that is there and not null.
    fn take(&mut self, field: &str) -> Option<Value> {
        self.left.remove(field).filter(|value| !value.is_null())
    }

    fn switch(&mut self, field: &str, default: bool) -> Result<bool> {
        match self.take(field) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(value),
            Some(other) => Err(Error::model(format!("`{field}` is {other}, not true or false"))),
        }
    }

    fn only(&mut self, field: &str, known: &Value, name: &str) -> Result<()> {
        match self.take(field) {
            Some(other) if other != *known => {
                Err(Error::model(format!("`{field}` is {other}, expected {name}")))
            }
            _ => Ok(()),
        }
    }

    fn wrong(&self, field: &str, value: &Value) -> Error {
        let side = self.side;
        Error::model(format!("`{field}` is {value}, the model takes {side} x {side} pixels")).hint(
            format!("set size to {{\"shortest_edge\": {side}}} and crop_size to {side}, or size to height and width {side}"),
        )
    }

    /// A whole number is the shorter side, or a square; two sides are a square.
    fn resize_mode(&mut self, squares: bool, crops: bool) -> Result<&'static str> {
        let size = self.take("size").unwrap_or(json!(DEFAULT_SIDE));
        let shortest = match &size {
            Value::Object(sides) => {
                let others = sides
                    .iter()
                    .filter(|(name, value)| !value.is_null() && *name != "shortest_edge");
                (others.count() == 0).then(|| sides.get("shortest_edge").and_then(whole)).flatten()
            }
            size if !squares => whole(size),
            _ => None,
        };
        if shortest == Some(self.side) {
            return match crops {
                true => Ok("shortest"),
                false => Err(Error::model(format!(
                    "`do_center_crop` is false with `size` {size}: pictures keep their shape, the model takes squares"
                ))),
            };
        }
        match square(&size) {
            Some(side) if shortest.is_none() && side == self.side => Ok("squash"),
            _ => Err(self.wrong("size", &size)),
        }
    }
}

fn whole(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|side| u32::try_from(side).ok())
}

/// The side of a square: a number, two equal ones, or height and width alone.
fn square(value: &Value) -> Option<u32> {
    let (height, width) = match value {
        Value::Object(sides) => {
            if sides.values().filter(|value| !value.is_null()).count() != 2 {
                return None;
            }
            (whole(sides.get("height")?)?, whole(sides.get("width")?)?)
        }
        Value::Array(sides) => match sides.as_slice() {
            [height, width] => (whole(height)?, whole(width)?),
            _ => return None,
        },
        value => (whole(value)?, whole(value)?),
    };
    (height == width).then_some(height)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: &Value) -> Preprocess {
        preprocess(Some(value), 64).unwrap()
    }

    #[test]
    fn a_size_is_the_shorter_side_cropped_or_both_sides_squashed() {
        let mode = |value: Value| of(&value).resize_mode;
        let crop = json!({"height": 64, "width": 64});
        assert_eq!(mode(json!({"size": {"shortest_edge": 64}, "crop_size": crop})), "shortest");
        assert_eq!(mode(json!({"size": 64, "crop_size": 64})), "shortest");
        let squashed = json!({"size": {"height": 64, "width": 64}, "do_center_crop": false});
        assert_eq!(mode(squashed), "squash");
        assert_eq!(mode(json!({"size": [64, 64], "crop_size": 64})), "squash");
        let square = json!({"size": 64, "crop_size": 64, "default_to_square": true});
        assert_eq!(mode(square), "squash");
        let default = preprocess(Some(&json!({"do_pad": false, "crop_pct": null})), 224).unwrap();
        assert_eq!(default, Preprocess::default());
        assert_eq!(preprocess(None, 64).unwrap(), Preprocess::default());
    }

    #[test]
    fn another_factor_and_no_normalisation_become_mean_and_deviation() {
        let with = |fields: Value| {
            let mut value = json!({"size": 64, "crop_size": 64, "image_mean": [0.5, 0.25, 1.0],
                                   "image_std": [0.5, 0.25, 1.0]});
            value.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            let Preprocess { mean, std, .. } = of(&value);
            (mean, std)
        };
        assert_eq!(with(json!({})), ([0.5, 0.25, 1.0], [0.5, 0.25, 1.0]));
        assert_eq!(with(json!({"do_normalize": false})), ([0.0; 3], [1.0; 3]));
        let doubled = with(json!({"rescale_factor": 2.0 / 255.0}));
        assert_eq!(doubled, ([0.25, 0.125, 0.5], [0.25, 0.125, 0.5]));
        let (mean, std) = with(json!({"do_rescale": false, "do_normalize": false}));
        assert_eq!((mean, std), ([0.0; 3], [1.0 / 255.0; 3]));
    }

    #[test]
    fn what_the_model_does_not_take_is_refused_by_field_with_both_values() {
        let check = |value: Value, expected: &str| {
            let message = preprocess(Some(&value), 64).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        let size = |value: Value| json!({"size": value, "crop_size": 64});
        check(
            size(json!({"shortest_edge": 96})),
            r#"`size` is {"shortest_edge":96}, the model takes 64 x 64 pixels"#,
        );
        check(size(json!({"height": 64, "width": 96})), r#"`size` is {"height":64,"width":96}"#);
        check(size(json!({"shortest_edge": 64, "longest_edge": 80})), "`size` is {");
        check(json!({}), "`crop_size` is 224, the model takes 64 x 64 pixels");
        check(json!({"crop_size": 64}), "`size` is 224, the model takes 64 x 64 pixels");
        check(json!({"size": 64, "crop_size": 32}), "`crop_size` is 32");
        check(
            json!({"size": 64, "do_center_crop": false}),
            "`do_center_crop` is false with `size`",
        );
        let fits = |field: &str, value: Value| json!({"size": 64, "crop_size": 64, field: value});
        check(fits("resample", json!(2)), "`resample` is 2, expected 3 (bicubic)");
        check(fits("do_resize", json!(false)), "`do_resize` is false, expected true");
        check(fits("rescale_factor", json!(0)), "`rescale_factor` is 0, expected about 1/255");
        check(fits("do_normalize", json!("no")), "`do_normalize` is \"no\", not true or false");
        check(fits("do_pad", json!(true)), "`do_pad` is true, which is not known here");
        check(
            fits("image_processor_type", json!("ViTImageProcessor")),
            "`image_processor_type` is \"ViTImageProcessor\", expected CLIPImageProcessor",
        );
    }
}
