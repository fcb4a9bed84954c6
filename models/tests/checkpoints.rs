//! Checkpoints: written, read, refused.

use std::collections::BTreeMap;
use std::fs;

use candle_core::{DType, Device, Tensor};
use models::{Clip, ClipConfig, Mode, open, open_weights, read_checkpoint, write_checkpoint};
use stage::{Change, Kind};

fn small() -> ClipConfig {
    ClipConfig::from_json(&serde_json::json!({
        "embed_dim": 8,
        "vision_cfg": {"image_size": 8, "layers": 2, "width": 12, "patch_size": 4, "head_width": 4},
        "text_cfg": {"context_length": 7, "vocab_size": 20, "width": 8, "heads": 2, "layers": 1}
    }))
    .unwrap()
}

fn bits(clip: &Clip) -> BTreeMap<String, Vec<u32>> {
    let bits = |t: &Tensor| -> Vec<u32> {
        t.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|v| v.to_bits()).collect()
    };
    clip.params().tensors().iter().map(|(name, t)| (name.clone(), bits(t))).collect()
}

#[test]
fn a_checkpoint_comes_back_bit_by_bit_and_equal_models_give_equal_files() {
    for changes in
        [vec![], vec![Change::IdleChannels { ratio: 0.75 }], vec![Change::Folded { ratio: 0.5 }]]
    {
        let clip = Clip::init(&small(), &changes, 3, &Device::Cpu).unwrap();
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let lineage = BTreeMap::from([("seed".to_owned(), "3".to_owned())]);
        let written = write_checkpoint(&clip, one.path(), lineage.clone()).unwrap();
        write_checkpoint(&clip, two.path(), lineage).unwrap();
        let mut names = Vec::new();
        for entry in fs::read_dir(one.path()).unwrap() {
            let name = entry.unwrap().file_name();
            let bytes = |dir: &tempfile::TempDir| fs::read(dir.path().join(&name)).unwrap();
            assert_eq!(bytes(&one), bytes(&two), "{name:?}");
            names.push(name.to_string_lossy().into_owned());
        }
        names.sort();
        assert_eq!(names, ["checkpoint.json", "open_clip_config.json", "weights.safetensors"]);
        let read = read_checkpoint(one.path()).unwrap();
        assert_eq!(read, written);
        assert_eq!(read_checkpoint(&one.path().join("checkpoint.json")).unwrap(), written);
        let opened = open(&read, one.path(), &Device::Cpu).unwrap();
        assert_eq!(opened.changes(), changes);
        assert_eq!(opened.config(), clip.config());
        assert_eq!(bits(&opened), bits(&clip));
    }
}

#[test]
fn the_configuration_beside_the_weights_is_open_clips() {
    let dir = tempfile::tempdir().unwrap();
    let clip = Clip::init(&small(), &[], 0, &Device::Cpu).unwrap();
    write_checkpoint(&clip, dir.path(), BTreeMap::new()).unwrap();
    let path = dir.path().join("open_clip_config.json");
    let value: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(value["model_cfg"]["embed_dim"], 8);
    assert_eq!(value["preprocess_cfg"]["interpolation"], "bicubic");
    assert_eq!(value["preprocess_cfg"]["resize_mode"], "shortest");
    assert_eq!(ClipConfig::named(path.to_str().unwrap()).unwrap(), small());
}

#[test]
fn damaged_weights_are_refused_by_their_digest() {
    let dir = tempfile::tempdir().unwrap();
    let clip = Clip::init(&small(), &[], 0, &Device::Cpu).unwrap();
    let checkpoint = write_checkpoint(&clip, dir.path(), BTreeMap::new()).unwrap();
    let path = dir.path().join("weights.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = open(&checkpoint, dir.path(), &Device::Cpu).unwrap_err();
    assert_eq!(error.kind(), Kind::Input);
    let message = error.to_string();
    assert!(message.contains("weights.safetensors: sha256 is"), "{message}");
}

#[test]
fn an_unknown_change_or_tokenizer_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let clip = Clip::init(&small(), &[], 0, &Device::Cpu).unwrap();
    let mut checkpoint = write_checkpoint(&clip, dir.path(), BTreeMap::new()).unwrap();
    let path = dir.path().join("checkpoint.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"changes\": []", "\"changes\": [{\"melted\": {}}]")).unwrap();
    let message = read_checkpoint(dir.path()).unwrap_err().to_string();
    assert!(message.contains("unknown variant `melted`"), "{message}");
    checkpoint.tokenizer = "t5".to_owned();
    let message = open(&checkpoint, dir.path(), &Device::Cpu).unwrap_err().to_string();
    assert!(message.contains("`t5`"), "{message}");
}

#[test]
fn bare_weights_open_by_the_name_of_their_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let clip = Clip::init(&small(), &[], 5, &Device::Cpu).unwrap();
    let (weights, model) = (dir.path().join("w.safetensors"), dir.path().join("m.json"));
    clip.save(&weights).unwrap();
    fs::write(&model, small().to_json().to_string()).unwrap();
    let opened = open_weights(&weights, model.to_str().unwrap(), &Device::Cpu).unwrap();
    assert_eq!(bits(&opened), bits(&clip));
    let error = open_weights(&weights, "tiny-32", &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("missing `transformer.resblocks.1."), "{error}");
    assert!(
        error.contains("has shape [8], expected [64]") || error.contains("expected ["),
        "{error}"
    );
}

#[test]
fn missing_extra_and_misshapen_tensors_are_named_with_both_shapes() {
    let clip = Clip::init(&small(), &[], 0, &Device::Cpu).unwrap();
    let mut tensors = clip.params().tensors();
    tensors.remove("ln_final.bias");
    tensors.insert("visual.head".to_owned(), Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap());
    let wrong = Tensor::zeros((8, 13), DType::F32, &Device::Cpu).unwrap();
    tensors.insert("visual.proj".to_owned(), wrong);
    let message = Clip::from_tensors(&small(), &[], tensors, &Device::Cpu).unwrap_err().to_string();
    assert_eq!(
        message,
        "the tensors do not fit the model: missing `ln_final.bias`; unknown `visual.head`; \
         `visual.proj` has shape [8, 13], expected [12, 8]"
    );
}

/// A safetensors file with this header, its length as given or its own.
fn hostile(header: &str, length: Option<u64>, data: usize) -> Vec<u8> {
    let mut bytes = length.unwrap_or(header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

#[test]
fn hostile_safetensors_headers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let cases = [
        ("a header longer than the file", hostile("{}", Some(1 << 40), 0)),
        ("a header of 101 MB", hostile("{}", Some(101 << 20), 0)),
        ("no header", vec![1, 2, 3]),
        ("not JSON", hostile("{nonsense", None, 0)),
        (
            "overlapping tensors",
            hostile(
                r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
                None,
                12,
            ),
        ),
        (
            "an offset past the end",
            hostile(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, None, 4),
        ),
        (
            "a shape that does not fit its bytes",
            hostile(r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, None, 8),
        ),
        (
            "a shape that overflows",
            hostile(
                r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}"#,
                None,
                8,
            ),
        ),
        (
            "bytes behind the last tensor",
            hostile(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, None, 9),
        ),
    ];
    for (name, bytes) in cases {
        fs::write(&path, bytes).unwrap();
        let error = open_weights(&path, "tiny-32", &Device::Cpu).unwrap_err();
        assert_eq!(error.kind(), Kind::Model, "{name}");
        let message = error.to_string();
        assert!(
            message.contains("x.safetensors: not a whole safetensors file"),
            "{name}: {message}"
        );
    }
    let dtype = hostile(r#"{"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#, None, 8);
    fs::write(&path, dtype).unwrap();
    let message = open_weights(&path, "tiny-32", &Device::Cpu).unwrap_err().to_string();
    assert!(message.contains("tensor `a` has dtype I64, expected F32"), "{message}");
}

#[test]
fn a_file_larger_than_the_model_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    fs::File::create(&path).unwrap().set_len(1 << 40).unwrap(); // sparse
    let message = open_weights(&path, "tiny-32", &Device::Cpu).unwrap_err().to_string();
    assert!(message.contains("bytes, more than the"), "{message}");
}

#[test]
fn names_that_distributed_training_leaves_are_stripped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ddp.safetensors");
    let model = dir.path().join("m.json");
    fs::write(&model, small().to_json().to_string()).unwrap();
    let clip = Clip::init(&small(), &[], 1, &Device::Cpu).unwrap();
    let tensors: std::collections::HashMap<String, Tensor> =
        clip.params().tensors().into_iter().map(|(n, t)| (format!("module.{n}"), t)).collect();
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let opened = open_weights(&path, model.to_str().unwrap(), &Device::Cpu).unwrap();
    assert_eq!(bits(&opened), bits(&clip));
}

#[test]
fn inputs_of_another_shape_are_refused_with_both_shapes() {
    let clip = Clip::init(&small(), &[], 0, &Device::Cpu).unwrap();
    let pixels = Tensor::zeros((1, 3, 9, 8), DType::F32, &Device::Cpu).unwrap();
    let message = clip.encode_image(&pixels, Mode::Eval).unwrap_err().to_string();
    assert_eq!(message, "pixels have shape [1, 3, 9, 8], the model takes [B, 3, 8, 8]");
    let tokens = Tensor::zeros((1, 8), DType::U32, &Device::Cpu).unwrap();
    assert!(clip.encode_text(&tokens, Mode::Eval).is_err());
    let id = Tensor::new(&[[20u32, 0]], &Device::Cpu).unwrap();
    let message = clip.encode_text(&id, Mode::Eval).unwrap_err().to_string();
    assert!(message.contains("id 20 of a table of 20 rows"), "{message}");
}
