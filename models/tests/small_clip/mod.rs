//! A whole small CLIP of formulas against open_clip's numbers (`bench/interop/make_small_goldens.py`),
//! which lie in the repository.

use candle_core::{Device, Tensor, Var};
use models::{Clip, ClipConfig, Mode, normalize};
use serde_json::Value;

use crate::formulas::{check_gradients, check_logits, pattern, weights};
use crate::golden::loss;

/// The script's captions: an end token in the middle, behind nothing, and last.
const TOKENS: [[u32; 8]; 3] =
    [[38, 3, 17, 39, 0, 0, 0, 0], [38, 39, 0, 0, 0, 0, 0, 0], [38, 5, 9, 30, 21, 2, 11, 39]];

fn close(name: &str, got: f64, expected: f64) {
    let difference = (got - expected).abs();
    assert!(difference < 1e-11 * expected.abs().max(1.0), "{name}: {got} {expected}");
}

fn check_all(name: &str, got: &Tensor, expected: &Value) {
    let expected: Vec<f64> = serde_json::from_value(expected.clone()).unwrap();
    let got = got.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    assert_eq!(got.len(), expected.len(), "{name}");
    got.iter().zip(&expected).for_each(|(got, expected)| close(name, *got, *expected));
}

/// The product with the script's pattern.
fn probe(tensor: &Tensor) -> f64 {
    let product = (tensor * pattern(tensor.dims(), 29, 7, 11)).unwrap();
    product.sum_all().unwrap().to_scalar().unwrap()
}

/// Features, logits, loss, states and all gradients.
pub(crate) fn check(config: &Value, golden: &Value) {
    let config = ClipConfig::from_json(config).unwrap();
    let begun = Clip::init(&config, &[], 0, &Device::Cpu).unwrap();
    let clip = Clip::from_tensors(&config, &[], weights(begun.params()), &Device::Cpu).unwrap();
    let side = config.image_size() as usize;
    let pixels = Var::from_tensor(&pattern(&[3, 3, side, side], 7919, 0, 2049)).unwrap();
    let tokens = Tensor::new(&TOKENS, &Device::Cpu).unwrap();
    for mode in [Mode::Eval, Mode::Train] {
        let image = normalize(&clip.encode_image(&pixels, mode).unwrap()).unwrap();
        let text = normalize(&clip.encode_text(&tokens, mode).unwrap()).unwrap();
        check_all("image", &image, &golden["image"]);
        check_all("text", &text, &golden["text"]);
        let (logits, loss) = loss(&image, &text, clip.logit_scale());
        check_logits(&logits, golden);
        close("loss", loss.to_scalar().unwrap(), golden["loss"].as_f64().unwrap());
        if mode == Mode::Train {
            let grads = loss.backward().unwrap();
            check_gradients(&grads, clip.params(), golden);
            let input = grads.get(&pixels).unwrap();
            close("the picture's gradient", probe(input), golden["input_grad"].as_f64().unwrap());
        }
    }
    let mut states = clip.image_states(&pixels).unwrap();
    let text = clip.text_states(&tokens).unwrap().into_iter();
    states.extend(text.map(|(name, state)| (format!("text.{name}"), state)));
    for (name, expected) in golden["states"].as_object().unwrap() {
        close(name, probe(&states[name]), expected.as_f64().unwrap());
    }
}
