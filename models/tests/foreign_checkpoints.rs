//! Checkpoints that others left: hub folders, bare files, shards, other libraries' names.

mod archive;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use archive::{Pickle, archive, floats, put};
use candle_core::{Device, Tensor};
use models::{
    Clip, ClipConfig, Names, Weights, checkpoint_files, checkpoint_of, open, open_weights,
    read_checkpoint,
};
use serde_json::json;

fn small() -> ClipConfig {
    ClipConfig::from_json(&json!({
        "embed_dim": 8, "quick_gelu": true,
        "vision_cfg": {"image_size": 8, "layers": 2, "width": 12, "patch_size": 4, "head_width": 4},
        "text_cfg": {"context_length": 7, "vocab_size": 20, "width": 8, "heads": 2, "layers": 1}
    }))
    .unwrap()
}

fn clip() -> Clip {
    Clip::init(&small(), &[], 3, &Device::Cpu).unwrap()
}

type Tensors = HashMap<String, Tensor>;

fn tensors() -> Tensors {
    clip().params().tensors().into_iter().collect()
}

fn bits(clip: &Clip) -> BTreeMap<String, Vec<u32>> {
    let bits = |t: &Tensor| -> Vec<u32> {
        t.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|v| v.to_bits()).collect()
    };
    clip.params().tensors().iter().map(|(name, t)| (name.clone(), bits(t))).collect()
}

fn save(tensors: &Tensors, path: &Path) {
    candle_core::safetensors::save(tensors, path).unwrap();
}

fn write(folder: &Path, name: &str, value: &serde_json::Value) {
    fs::write(folder.join(name), value.to_string()).unwrap();
}

/// A `torch.save` of these tensors, with a wrapper around the dict.
fn torch(tensors: &Tensors, wrap: &dyn Fn(Pickle) -> Pickle, unwrap: &[u8]) -> Vec<u8> {
    let names: Vec<(String, &Tensor)> = tensors.iter().map(|(n, t)| (n.clone(), t)).collect();
    let mut storages: Vec<(String, Vec<u8>)> = Vec::new();
    let pickle = wrap(Pickle::new()).dict(|mut p| {
        for (key, (name, tensor)) in names.iter().enumerate() {
            let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let dims: Vec<i64> = tensor.dims().iter().map(|d| *d as i64).collect();
            let strides: Vec<i64> = tensor.stride().iter().map(|d| *d as i64).collect();
            let view = ("FloatStorage", key.to_string(), values.len() as i64);
            p = p.text(name).tensor((view.0, &view.1, view.2), 0, &dims, &strides);
            storages.push((view.1, floats(&values)));
        }
        p
    });
    let storages: Vec<(&str, &[u8])> =
        storages.iter().map(|(key, data)| (key.as_str(), data.as_slice())).collect();
    archive(&pickle.raw(unwrap).end(), &storages)
}

#[test]
fn state_dicts_and_training_checkpoints_of_pytorch_open_by_the_name_of_their_configuration() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "m.json", &small().to_json());
    let model = folder.path().join("m.json");
    let plain = torch(&tensors(), &|p| p, b"");
    let ddp: Tensors = tensors().into_iter().map(|(n, t)| (format!("module.{n}"), t)).collect();
    let training = torch(&ddp, &|p| p.raw(b"}(").text("epoch").int(2).text("state_dict"), b"u");
    for (name, bytes) in [("clip.pt", plain), ("epoch_2.pt", training)] {
        let path = put(folder.path(), name, &bytes);
        let opened = open_weights(&path, model.to_str().unwrap(), &Device::Cpu).unwrap();
        assert_eq!(bits(&opened), bits(&clip()), "{name}");
        let handle = checkpoint_of(&path, model.to_str().unwrap()).unwrap();
        assert_eq!(handle.weights, name);
        assert_eq!(bits(&open(&handle, folder.path(), &Device::Cpu).unwrap()), bits(&clip()));
        assert_eq!(checkpoint_files(&path).unwrap(), std::slice::from_ref(&path));
        let error = read_checkpoint(&path).unwrap_err();
        assert!(error.to_string().contains("weights without a configuration"), "{error}");
    }
}

#[test]
fn an_archive_of_another_model_is_refused_before_its_numbers_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = put(folder.path(), "clip.pt", &torch(&tensors(), &|p| p, b""));
    let message = open_weights(&path, "tiny-32", &Device::Cpu).unwrap_err().to_string();
    assert!(message.contains("clip.pt: the tensors do not fit the model: missing "), "{message}");
    write(folder.path(), "m.json", &small().to_json());
    let mut large = tensors();
    let zeros = Tensor::zeros((3000, 3000), candle_core::DType::F32, &Device::Cpu).unwrap();
    large.insert("x".to_owned(), zeros);
    let path = put(folder.path(), "large.pt", &torch(&large, &|p| p, b""));
    let model = folder.path().join("m.json");
    let message =
        open_weights(&path, model.to_str().unwrap(), &Device::Cpu).unwrap_err().to_string();
    assert!(message.contains("numbers, more than the"), "{message}");
}

#[test]
fn a_folder_of_open_clips_opens_by_its_path() {
    for (name, bytes) in [
        ("open_clip_pytorch_model.bin", Some(torch(&tensors(), &|p| p, b""))),
        ("open_clip_model.safetensors", None),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let preprocess = json!({"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25],
                                "interpolation": "bicubic", "resize_mode": "squash"});
        let config = json!({"model_cfg": small().to_json(), "preprocess_cfg": preprocess});
        write(folder.path(), "open_clip_config.json", &config);
        match bytes {
            Some(bytes) => drop(put(folder.path(), name, &bytes)),
            None => save(&tensors(), &folder.path().join(name)),
        }
        let handle = read_checkpoint(folder.path()).unwrap();
        assert_eq!(handle.weights, name);
        assert_eq!(handle.preprocess.mean, [0.5; 3]);
        assert_eq!(handle.preprocess.resize_mode, "squash");
        let same = read_checkpoint(&folder.path().join("open_clip_config.json")).unwrap();
        assert_eq!(same, handle);
        let opened = open(&handle, folder.path(), &Device::Cpu).unwrap();
        assert_eq!(bits(&opened), bits(&clip()));
        let expected =
            ["open_clip_config.json", name].map(|name| folder.path().join(name)).to_vec();
        assert_eq!(checkpoint_files(folder.path()).unwrap(), expected);
        // Another byte in the weights is seen by the handle.
        let path = folder.path().join(name);
        let mut bytes = fs::read(&path).unwrap();
        let place = bytes.len() / 2;
        bytes[place] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(open(&handle, folder.path(), &Device::Cpu).is_err());
    }
}

#[test]
fn a_folder_without_model_or_weights_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let message = read_checkpoint(folder.path()).unwrap_err().to_string();
    assert!(message.contains("holds no checkpoint.json, open_clip_config.json or config.json"));
    write(folder.path(), "open_clip_config.json", &json!({"model_cfg": small().to_json()}));
    let error = read_checkpoint(folder.path()).unwrap_err();
    assert!(error.to_string().contains("there are no weights beside the configuration"));
    assert!(error.hint_text().unwrap().contains("open_clip_pytorch_model.bin"));
}

/// The tensors by Hugging Face's names, with its unjoined and transposed matrices.
fn hugging_face() -> Tensors {
    let mut out = Tensors::new();
    for (name, tensor) in tensors() {
        let (tower, rest) = match name.strip_prefix("visual.") {
            Some(rest) => ("vision_model", rest),
            None => ("text_model", name.as_str()),
        };
        let flipped = || tensor.t().unwrap().contiguous().unwrap();
        let (name, tensor) = match rest {
            "class_embedding" => (format!("{tower}.embeddings.class_embedding"), tensor),
            "conv1.weight" => (format!("{tower}.embeddings.patch_embedding.weight"), tensor),
            "token_embedding.weight" => (format!("{tower}.embeddings.{rest}"), tensor),
            "positional_embedding" => {
                (format!("{tower}.embeddings.position_embedding.weight"), tensor)
            }
            "proj" => ("visual_projection.weight".to_owned(), flipped()),
            "text_projection" => ("text_projection.weight".to_owned(), flipped()),
            "logit_scale" => (rest.to_owned(), tensor),
            _ => {
                let rest = rest
                    .replace("transformer.resblocks.", "encoder.layers.")
                    .replace("ln_pre", "pre_layrnorm")
                    .replace("ln_post", "post_layernorm")
                    .replace("ln_final", "final_layer_norm")
                    .replace("ln_1", "layer_norm1")
                    .replace("ln_2", "layer_norm2")
                    .replace("mlp.c_fc", "mlp.fc1")
                    .replace("mlp.c_proj", "mlp.fc2")
                    .replace("attn.", "self_attn.");
                if let Some((layer, kind)) = rest.split_once("in_proj_") {
                    for (i, letter) in ["q", "k", "v"].iter().enumerate() {
                        let third = tensor.dim(0).unwrap() / 3;
                        let part = tensor.narrow(0, i * third, third).unwrap();
                        let name = format!("{tower}.{layer}{letter}_proj.{kind}");
                        out.insert(name, part.contiguous().unwrap());
                    }
                    continue;
                }
                (format!("{tower}.{rest}"), tensor)
            }
        };
        out.insert(name, tensor);
    }
    let positions = Tensor::arange(0i64, 5, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    out.insert("vision_model.embeddings.position_ids".to_owned(), positions);
    out
}

fn hugging_face_config() -> serde_json::Value {
    json!({
        "architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": 8,
        "logit_scale_init_value": 2.6592,
        "vision_config": {"hidden_size": 12, "intermediate_size": 48, "num_hidden_layers": 2,
                          "num_attention_heads": 3, "image_size": 8, "patch_size": 4},
        "text_config": {"hidden_size": 8, "intermediate_size": 32, "num_hidden_layers": 1,
                        "num_attention_heads": 2, "vocab_size": 20, "max_position_embeddings": 7,
                        "eos_token_id": 19, "hidden_act": "quick_gelu"},
    })
}

#[test]
fn a_folder_of_hugging_faces_clip_opens_by_its_path() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "config.json", &hugging_face_config());
    let pictures = json!({"image_mean": [0.5, 0.5, 0.5], "size": 8, "crop_size": 8});
    write(folder.path(), "preprocessor_config.json", &pictures);
    save(&hugging_face(), &folder.path().join("model.safetensors"));
    let handle = read_checkpoint(folder.path()).unwrap();
    assert_eq!(handle.preprocess.mean, [0.5; 3]);
    assert_eq!(
        handle.lineage["tensors"],
        "safetensors, 62 tensors, names: Hugging Face CLIP → open_clip; \
         left out: vision_model.embeddings.position_ids"
    );
    let opened = open(&handle, folder.path(), &Device::Cpu).unwrap();
    assert_eq!(bits(&opened), bits(&clip()));
    assert!(opened.config().quick_gelu);
}

#[test]
fn a_missing_or_unknown_tensor_of_hugging_faces_is_named() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "config.json", &hugging_face_config());
    let mut tensors = hugging_face();
    let keys = tensors.remove("text_model.encoder.layers.0.self_attn.k_proj.bias").unwrap();
    tensors.insert("text_model.adapter.bias".to_owned(), keys);
    save(&tensors, &folder.path().join("model.safetensors"));
    let handle = read_checkpoint(folder.path()).unwrap();
    let message = open(&handle, folder.path(), &Device::Cpu).unwrap_err().to_string();
    for expected in [
        "names: Hugging Face CLIP → open_clip",
        "missing `transformer.resblocks.0.attn.in_proj_bias`",
        "unknown `text_model.adapter.bias`, `text_model.encoder.layers.0.self_attn.q_proj.bias`",
    ] {
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn an_image_tower_of_timms_and_a_text_tower_under_text_become_open_clips() {
    let folder = tempfile::tempdir().unwrap();
    let mut out = Tensors::new();
    for (name, tensor) in tensors() {
        let Some(rest) = name.strip_prefix("visual.") else {
            let inside = if name == "logit_scale" { name } else { format!("text.{name}") };
            out.insert(inside, tensor);
            continue;
        };
        let (name, tensor) = match rest {
            "class_embedding" => ("cls_token".to_owned(), tensor.reshape((1, 1, 12)).unwrap()),
            "positional_embedding" => ("pos_embed".to_owned(), tensor.unsqueeze(0).unwrap()),
            "proj" => {
                let tensor = tensor.t().unwrap().contiguous().unwrap();
                out.insert("visual.head.proj.weight".to_owned(), tensor);
                continue;
            }
            _ => {
                let rest = rest
                    .replace("conv1", "patch_embed.proj")
                    .replace("transformer.resblocks.", "blocks.")
                    .replace("attn.in_proj_", "attn.qkv.")
                    .replace("attn.out_proj", "attn.proj")
                    .replace("mlp.c_fc", "mlp.fc1")
                    .replace("mlp.c_proj", "mlp.fc2")
                    .replace("ln_pre", "norm_pre")
                    .replace("ln_post", "norm")
                    .replace("ln_", "norm");
                (rest, tensor)
            }
        };
        out.insert(format!("visual.trunk.{name}"), tensor);
    }
    let path = folder.path().join("w.safetensors");
    save(&out, &path);
    write(folder.path(), "m.json", &small().to_json());
    let model = folder.path().join("m.json");
    let opened = open_weights(&path, model.to_str().unwrap(), &Device::Cpu).unwrap();
    assert_eq!(bits(&opened), bits(&clip()));
    assert_eq!(Weights::open(&path).unwrap().naming(), Names::TimmTrunk);
}

/// Two shards and their index in a folder of open_clip's.
fn sharded(folder: &Path) -> serde_json::Value {
    let (mut one, mut two, mut map) = (Tensors::new(), Tensors::new(), serde_json::Map::new());
    for (name, tensor) in tensors() {
        let first = name.starts_with("visual.");
        let file = if first { "model-1-of-2.safetensors" } else { "model-2-of-2.safetensors" };
        map.insert(name.clone(), json!(file));
        if first { &mut one } else { &mut two }.insert(name, tensor);
    }
    save(&one, &folder.join("model-1-of-2.safetensors"));
    save(&two, &folder.join("model-2-of-2.safetensors"));
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
    write(folder, "model.safetensors.index.json", &index);
    write(folder, "open_clip_config.json", &json!({"model_cfg": small().to_json()}));
    index
}

#[test]
fn shards_open_by_their_index() {
    let folder = tempfile::tempdir().unwrap();
    sharded(folder.path());
    let handle = read_checkpoint(folder.path()).unwrap();
    assert_eq!(handle.weights, "model.safetensors.index.json");
    assert!(handle.lineage["tensors"].ends_with(", 2 shards"), "{:?}", handle.lineage);
    assert_eq!(bits(&open(&handle, folder.path(), &Device::Cpu).unwrap()), bits(&clip()));
    assert_eq!(checkpoint_files(folder.path()).unwrap().len(), 4);
    // Two shards changed places: the digest sees it, and so does the index.
    let (a, b) = ("model-1-of-2.safetensors", "model-2-of-2.safetensors");
    fs::rename(folder.path().join(a), folder.path().join("x")).unwrap();
    fs::rename(folder.path().join(b), folder.path().join(a)).unwrap();
    fs::rename(folder.path().join("x"), folder.path().join(b)).unwrap();
    let message = open(&handle, folder.path(), &Device::Cpu).unwrap_err().to_string();
    assert!(message.contains("which the index places in model-"), "{message}");
}

#[test]
fn an_index_that_does_not_fit_its_shards_is_refused_by_the_tensors_name() {
    let check = |change: &dyn Fn(&Path, &mut serde_json::Value), expected: &str| {
        let folder = tempfile::tempdir().unwrap();
        let mut index = sharded(folder.path());
        change(folder.path(), &mut index);
        let path = folder.path().join("model.safetensors.index.json");
        fs::write(&path, index.to_string()).unwrap();
        let message = Weights::open(&path).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    };
    for escape in
        ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "a\\b", "./x"]
    {
        let expected = format!("the shard `{escape}` is not a file beside the index");
        check(&|_, index| index["weight_map"]["visual.proj"] = json!(escape), &expected);
    }
    check(
        &|folder, _| fs::remove_file(folder.join("model-2-of-2.safetensors")).unwrap(),
        "shard model-2-of-2.safetensors: cannot open",
    );
    check(
        &|_, index| index["weight_map"]["visual.extra"] = json!("model-1-of-2.safetensors"),
        "shard model-1-of-2.safetensors: it lacks `visual.extra`, which the index places here",
    );
    check(
        &|_, index| {
            index["weight_map"].as_object_mut().unwrap().remove("visual.proj");
        },
        "shard model-1-of-2.safetensors: it holds `visual.proj`, which the index lacks",
    );
    check(
        &|_, index| index["weight_map"]["visual.proj"] = json!("model-2-of-2.safetensors"),
        "shard model-1-of-2.safetensors: it holds `visual.proj`, which the index places in model-2",
    );
    check(&|_, index| index["weight_map"] = json!({}), "0 tensors in 0 shards");
    check(&|_, index| *index = json!({"weights": {}}), "not an index of shards");
    check(&|_, index| index["weight_map"] = json!({"a": 1}), "not an index of shards");
}

#[test]
fn a_name_that_the_index_holds_twice_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}"#;
    let path = put(folder.path(), "model.safetensors.index.json", text.as_bytes());
    let message = Weights::open(&path).unwrap_err().to_string();
    assert!(message.contains("the index places `a` twice"), "{message}");
}
