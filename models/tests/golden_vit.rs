//! The plain ViT classifier, forward and backward, against timm's numbers
//! (`golden/vit_tiny.json`).

mod formulas;

use candle_core::{DType, Device};
use formulas::{check_gradients, check_logits, pattern, weights};
use models::{Mode, VitClassifier, VitClassifierConfig};

fn tiny() -> (VitClassifier, serde_json::Value) {
    let golden: serde_json::Value =
        serde_json::from_str(include_str!("golden/vit_tiny.json")).unwrap();
    let config = VitClassifierConfig::from_json(&golden["config"]).unwrap();
    let begun = VitClassifier::init(&config, 0, &Device::Cpu).unwrap();
    (VitClassifier::from_tensors(&config, weights(begun.params()), &Device::Cpu).unwrap(), golden)
}

#[test]
fn scores_and_gradients_equal_timms_in_f64() {
    let (vit, golden) = tiny();
    let pixels = pattern(&[2, 3, 12, 12], 7919, 0, 2049);
    check_logits(&vit.logits(&pixels, Mode::Eval).unwrap(), &golden);
    let logits = vit.logits(&pixels, Mode::Train).unwrap();
    check_logits(&logits, &golden);
    let loss = (logits * pattern(&[2, 3], 13, 0, 7)).unwrap().sum_all().unwrap();
    check_gradients(&loss.backward().unwrap(), vit.params(), &golden);
}

#[test]
fn every_parameter_gets_a_gradient_except_the_key_biases() {
    let vit = VitClassifier::init(tiny().0.config(), 1, &Device::Cpu).unwrap();
    let pixels = pattern(&[2, 3, 12, 12], 7919, 0, 2049).to_dtype(DType::F32).unwrap();
    let loss = vit.logits(&pixels, Mode::Train).unwrap().sqr().unwrap().sum_all().unwrap();
    let grads = loss.backward().unwrap();
    let size = |part: &[f32]| part.iter().fold(0f32, |m, v| m.max(v.abs()));
    for (name, var) in vit.params().vars() {
        let grad = grads.get(var).unwrap_or_else(|| panic!("{name} has no gradient"));
        let values = grad.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        if name.ends_with("qkv.bias") {
            // Softmax ignores a shift of all keys.
            let third = values.len() / 3;
            assert!(size(&values[..third]) > 1e-9, "{name}: queries");
            assert!(size(&values[third..2 * third]) < 1e-8, "{name}: keys");
            assert!(size(&values[2 * third..]) > 1e-6, "{name}: values");
        } else {
            assert!(size(&values) > 1e-9, "{name}: {}", size(&values));
        }
    }
}

#[test]
fn states_end_in_the_class_token_that_is_pooled() {
    let (vit, _) = tiny();
    let pixels = pattern(&[2, 3, 12, 12], 7919, 0, 2049);
    let states = vit.states(&pixels).unwrap();
    assert_eq!(states.keys().collect::<Vec<_>>(), ["blocks.0", "blocks.1", "norm", "pos_embed"]);
    let class = states["norm"].narrow(1, 0, 1).unwrap().squeeze(1).unwrap();
    let pooled = vit.pooled(&pixels, Mode::Eval).unwrap();
    assert_eq!(class.to_vec2::<f64>().unwrap(), pooled.to_vec2::<f64>().unwrap());
    let wrong = pixels.narrow(2, 0, 8).unwrap();
    let message = vit.logits(&wrong, Mode::Eval).unwrap_err().to_string();
    assert_eq!(message, "pixels have shape [2, 3, 8, 12], the model takes [B, 3, 12, 12]");
}
