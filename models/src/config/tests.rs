//! What a configuration says, against open_clip's own numbers.

use super::*;

/// Name, parameters of the image tower, of the whole model, tensors of the state dict: open_clip
/// 3.3.0 with timm 1.0.31, built on the meta device.
const OPEN_CLIP: &[(&str, u64, u64, usize)] = &[
    ("ViT-B-16-plus-240", 117_213_824, 208_377_345, 302),
    ("ViT-B-16-plus", 117_187_840, 208_351_361, 302),
    ("ViT-B-16-quickgelu", 86_192_640, 149_620_737, 302),
    ("ViT-B-16", 86_192_640, 149_620_737, 302),
    ("ViT-B-32-256", 87_860_736, 151_288_833, 302),
    ("ViT-B-32-plus-256", 119_133_952, 210_297_473, 302),
    ("ViT-B-32-quickgelu", 87_849_216, 151_277_313, 302),
    ("ViT-B-32", 87_849_216, 151_277_313, 302),
    ("ViT-H-14-378-quickgelu", 632_682_240, 986_714_881, 686),
    ("ViT-H-14-378", 632_682_240, 986_714_881, 686),
    ("ViT-H-14-CLIPA-336", 632_483_840, 968_644_609, 684),
    ("ViT-H-14-CLIPA", 632_074_240, 968_235_009, 684),
    ("ViT-H-14-quickgelu", 632_076_800, 986_109_441, 686),
    ("ViT-H-14-worldwide-378", 632_682_240, 1_859_389_185, 686),
    ("ViT-H-14-worldwide-quickgelu", 632_076_800, 1_858_783_745, 686),
    ("ViT-H-14-worldwide", 632_076_800, 1_858_783_745, 686),
    ("ViT-H-14", 632_076_800, 986_109_441, 686),
    ("ViT-H-16", 632_230_400, 986_263_041, 686),
    ("ViT-L-14-280", 304_113_664, 427_763_969, 446),
    ("ViT-L-14-336-quickgelu", 304_293_888, 427_944_193, 446),
    ("ViT-L-14-336", 304_293_888, 427_944_193, 446),
    ("ViT-L-14-CLIPA-336", 304_291_840, 414_538_241, 444),
    ("ViT-L-14-CLIPA", 303_964_160, 414_210_561, 444),
    ("ViT-L-14-quickgelu", 303_966_208, 427_616_513, 446),
    ("ViT-L-14-worldwide-quickgelu", 303_966_208, 581_747_969, 446),
    ("ViT-L-14-worldwide", 303_966_208, 581_747_969, 446),
    ("ViT-L-14", 303_966_208, 427_616_513, 446),
    ("ViT-L-16-320", 304_297_984, 427_948_289, 446),
    ("ViT-L-16", 304_089_088, 427_739_393, 446),
    ("ViT-M-16-alt", 38_534_144, 78_978_177, 326),
    ("ViT-M-16", 38_587_392, 102_015_489, 302),
    ("ViT-M-32-alt", 39_626_240, 80_070_273, 302),
    ("ViT-M-32", 39_691_776, 103_119_873, 302),
    ("ViT-S-16-alt", 21_764_352, 42_396_161, 278),
    ("ViT-S-16", 21_813_504, 62_257_537, 302),
    ("ViT-S-32-alt", 22_592_640, 43_224_449, 278),
    ("ViT-S-32", 22_641_792, 63_085_825, 302),
    ("ViT-bigG-14-CLIPA-336", 1_845_436_416, 2_517_756_417, 972),
    ("ViT-bigG-14-CLIPA", 1_844_903_936, 2_517_223_937, 972),
    ("ViT-bigG-14-quickgelu", 1_844_907_264, 2_539_567_105, 974),
    ("ViT-bigG-14-worldwide-378", 1_845_694_336, 3_631_197_057, 974),
    ("ViT-bigG-14-worldwide", 1_844_907_264, 3_630_409_985, 974),
    ("ViT-bigG-14", 1_844_907_264, 2_539_567_105, 974),
    ("ViT-e-14", 3_807_716_864, 4_581_086_465, 1118),
    ("ViT-g-14", 1_012_645_632, 1_366_678_273, 782),
    ("ViTamin-B-LTT", 87_721_856, 211_372_161, 438),
    ("ViTamin-B", 87_525_248, 150_953_345, 438),
    ("ViTamin-L-256", 333_379_488, 457_029_793, 710),
    ("ViTamin-L-336", 333_568_928, 457_219_233, 710),
    ("ViTamin-L-384", 333_707_168, 457_357_473, 710),
    ("ViTamin-L", 333_318_048, 456_968_353, 710),
    ("ViTamin-L2-256", 333_641_632, 687_674_273, 854),
    ("ViTamin-L2-336", 333_831_072, 687_863_713, 854),
    ("ViTamin-L2-384", 333_969_312, 688_001_953, 854),
    ("ViTamin-L2", 333_580_192, 687_612_833, 854),
    ("ViTamin-S-LTT", 22_172_608, 145_822_913, 438),
    ("ViTamin-S", 22_025_152, 62_469_185, 438),
    ("ViTamin-XL-256", 436_054_080, 924_776_257, 905),
    ("ViTamin-XL-336", 436_054_080, 924_776_257, 905),
    ("ViTamin-XL-384", 436_054_080, 924_776_257, 905),
];

#[test]
fn parameters_and_tensors_of_every_configuration_equal_open_clips() {
    for (name, image, all, tensors) in OPEN_CLIP {
        let config = ClipConfig::named(name).unwrap();
        assert_eq!((config.image_parameters(), config.parameters()), (*image, *all), "{name}");
        assert_eq!(shapes::of(&config, None).len(), *tensors, "{name}");
    }
}

#[test]
fn every_configuration_of_open_clips_without_a_foreign_trunk_is_there() {
    let ours = ClipConfig::names().filter(|name| name.starts_with("ViT"));
    let mut ours: Vec<String> = ours.collect();
    let mut theirs: Vec<&str> = OPEN_CLIP.iter().map(|row| row.0).collect();
    ours.sort_unstable();
    theirs.sort_unstable();
    assert_eq!(ours, theirs);
}

#[test]
fn every_built_in_configuration_survives_a_round_trip() {
    for name in ClipConfig::names() {
        let config = ClipConfig::named(&name).unwrap();
        assert_eq!(ClipConfig::from_json(&config.to_json()).unwrap(), config, "{name}");
        assert_eq!(config.quick_gelu, name.ends_with("-quickgelu"));
    }
}

#[test]
fn defaults_are_open_clips() {
    let config =
        ClipConfig::from_json(&json!({"embed_dim": 512, "vision_cfg": {}, "text_cfg": {}}));
    let mut expected = ClipConfig::named("ViT-B-16").unwrap();
    expected.init_logit_scale = (1.0f64 / 0.07).ln();
    assert_eq!(config.unwrap(), expected);
}

fn refused(change: impl FnOnce(&mut Value)) -> String {
    let mut value = ClipConfig::named("tiny-32").unwrap().to_json();
    change(&mut value);
    ClipConfig::from_json(&value).unwrap_err().to_string()
}

#[test]
fn what_would_change_the_architecture_is_refused_by_name() {
    let message = refused(|v| v["vision_cfg"]["attentional_pool"] = json!(true));
    assert_eq!(message, "`vision_cfg.attentional_pool: true` is not implemented");
    let message = refused(|v| v["text_cfg"]["hf_model_name"] = json!("roberta-base"));
    assert!(message.contains("text_cfg.hf_model_name"), "{message}");
    let message = refused(|v| v["vision_cfg"]["timm_model_name"] = json!("vitamin_small"));
    assert!(message.contains("vision_cfg.timm_model_name"), "{message}");
    let message = refused(|v| v["vision_cfg"]["widht"] = json!(3));
    assert_eq!(message, "unknown field `vision_cfg.widht: 3`");
}

#[test]
fn sizes_out_of_range_are_refused_with_field_and_value() {
    let message = refused(|v| v["vision_cfg"]["layers"] = json!(0));
    assert_eq!(message, "`vision_cfg.layers` must be a whole number in 1..=256, got 0");
    let message = refused(|v| v["text_cfg"]["layers"] = json!(1 << 20));
    assert_eq!(message, "`text_cfg.layers` must be a whole number in 1..=256, got 1048576");
    let message = refused(|v| v["vision_cfg"]["image_size"] = json!(1 << 15));
    assert_eq!(message, "16777216 tokens, at most 2097152");
    let message = refused(|v| v["vision_cfg"]["width"] = json!(1 << 18));
    assert!(message.contains("parameters, at most 34359738368"), "{message}");
    let message = refused(|v| v["text_cfg"]["vocab_size"] = json!(1e30));
    assert!(message.contains("text_cfg.vocab_size"), "{message}");
    let message = refused(|v| v["vision_cfg"]["head_width"] = json!(48));
    assert_eq!(message, "vision_cfg.width 128 is not a multiple of head_width 48");
    let message = refused(|v| drop(v.as_object_mut().unwrap().remove("embed_dim")));
    assert_eq!(message, "the field `embed_dim` is missing");
}

#[test]
fn neutral_fields_of_published_files_are_accepted() {
    let mut value = ClipConfig::named("ViT-B-32").unwrap().to_json();
    value["custom_text"] = json!(false);
    value["vision_cfg"]["ls_init_value"] = Value::Null;
    value["vision_cfg"]["patch_dropout"] = json!(0.0);
    value["vision_cfg"]["norm_kwargs"] = json!({});
    value["text_cfg"]["pad_id"] = json!(0);
    assert_eq!(ClipConfig::from_json(&value).unwrap(), ClipConfig::named("ViT-B-32").unwrap());
}

#[test]
fn a_wrong_name_is_answered_with_the_few_that_are_near() {
    let hint = |name: &str| {
        let error = ClipConfig::named(name).unwrap_err();
        assert_eq!(error.to_string(), format!("no model named `{name}`"));
        error.hint_text().unwrap().to_owned()
    };
    for name in ["vit-b-32", "ViT-B/32", "vit_b_32"] {
        assert!(hint(name).starts_with("did you mean ViT-B-32? `clipmill model` lists all "));
    }
    assert!(hint("ViT-B-33").starts_with("did you mean ViT-B-32, "), "{}", hint("ViT-B-33"));
    assert!(hint("tiny-33").starts_with("did you mean tiny-32"), "{}", hint("tiny-33"));
    assert!(hint("something else").starts_with("`clipmill model` lists all "));
    assert!(hint("ViT-B-33").len() < 200);
}

#[test]
fn what_clips_tokenizer_is_told_is_refused_by_field_unless_it_is_its_default() {
    let told = |kwargs: Value| {
        let mut config = ClipConfig::named("tiny-32").unwrap().to_json();
        config["text_cfg"]["tokenizer_kwargs"] = kwargs;
        ClipConfig::from_json(&config).unwrap().check_tokenizer(0)
    };
    told(json!({})).unwrap();
    told(json!({"clean": "lower", "reduction_mask": "", "additional_special_tokens": []})).unwrap();
    for (field, value) in [
        ("clean", json!("canonicalize")),
        ("reduction_mask", json!("simple")),
        ("additional_special_tokens", json!(["<a>"])),
        ("strip_sep_token", json!(true)),
    ] {
        let mut kwargs = serde_json::Map::new();
        kwargs.insert(field.to_owned(), value.clone());
        let message = told(Value::Object(kwargs)).unwrap_err().to_string();
        let expected = format!("`text_cfg.tokenizer_kwargs.{field}` is {value}");
        assert!(message.contains(&expected), "{message}");
    }
}
