//! `checkpoint`: a model that is there already, as the source of evaluation or compression; and
//! the way from a finished stage to its checkpoint.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stage::{Checkpoint, Context, Counts, Error, Result};
use store::Attempt;

use super::{Done, Outcome, Site, Stage, Worker, fingerprint, fingerprint_if_file};

/// An existing model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckpointPlan {
    /// `checkpoint.json` of a clipmill model, or the folder that holds it; a folder as model hubs
    /// lay it, with open_clip's or a Hugging Face CLIP's configuration beside the weights; or bare
    /// weights together with `model`.
    #[serde(alias = "pretrained")]
    pub checkpoint: String,
    /// For bare weights (`.safetensors`, `.pt`, `.pth`, `.bin`, `.index.json`): the name of
    /// open_clip's configuration, or a JSON file. Default: none, the configuration lies beside the
    /// weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

const LINK: &str = "link.json";

/// A handle made for a model that has none, and the folder of its weights.
#[derive(Serialize, Deserialize)]
struct Made {
    folder: PathBuf,
    checkpoint: Checkpoint,
}

impl Stage for CheckpointPlan {
    fn validate(&self) -> Result<()> {
        if self.checkpoint.is_empty() {
            return Err(Error::recipe("checkpoint is empty"));
        }
        Ok(())
    }

    fn identity(&self) -> Value {
        self.model.as_ref().map_or(Value::Null, |model| json!({ "model": model }))
    }

    fn external(&self, _context: &Context) -> Result<Value> {
        let files = models::checkpoint_files(Path::new(&self.checkpoint))?;
        let configuration = self.model.iter().map(PathBuf::from).filter(|path| path.is_file());
        let files: Vec<String> =
            files.into_iter().chain(configuration).map(|path| path.display().to_string()).collect();
        fingerprint(&files)
    }

    fn worker<'a>(&'a self, site: &'a Site) -> Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(Link { plan: self, site }))
    }
}

struct Link<'a> {
    plan: &'a CheckpointPlan,
    site: &'a Site,
}

impl Worker for Link<'_> {
    fn units(&self) -> Vec<String> {
        vec!["link".to_owned()]
    }

    fn run(&mut self, _unit: &str, out: &mut Attempt) -> Result<Outcome> {
        let path = Path::new(&self.plan.checkpoint);
        let checkpoint = match &self.plan.model {
            Some(model) => models::checkpoint_of(path, model)?,
            None => models::read_checkpoint(path)?,
        };
        let own = path.join("checkpoint.json");
        let own = if path.is_dir() { own } else { path.to_owned() };
        let info = match checkpoint.lineage.get("tensors") {
            Some(tensors) => {
                tracing::info!("{}: {tensors}", path.display());
                self.site.context.progress.update(1, 1, tensors);
                json!({ "tensors": tensors })
            }
            None => Value::Null,
        };
        // A handle of ours is read again when it is needed, so that its folder can move its weights.
        let link = if self.plan.model.is_none() && own.is_file() && !info.is_object() {
            json!(own)
        } else {
            json!(Made { folder: folder_of(path), checkpoint })
        };
        out.put(LINK, link.to_string().as_bytes())?;
        Ok(Outcome { counts: Counts::default(), info })
    }
}

/// The folder that the paths of this checkpoint are relative to.
fn folder_of(path: &Path) -> PathBuf {
    if path.is_dir() { path.to_owned() } else { path.parent().unwrap_or(Path::new(".")).to_owned() }
}

/// What a key holds of checkpoints that a plan names by path: the handle, which has its weights'
/// sha256, or configuration and weights of a folder without one. A stage's id holds nothing here.
///
/// # Errors
/// When one cannot be read.
pub(crate) fn fingerprints<'a>(names: impl Iterator<Item = &'a str>) -> Result<Value> {
    names
        .map(|name| match models::checkpoint_files(Path::new(name)) {
            Ok(files) if files.len() > 1 => {
                let files: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
                fingerprint(&files)
            }
            Ok(files) => match files.first() {
                Some(file) => fingerprint_if_file(&file.display().to_string()),
                None => Ok(Value::Null),
            },
            // A stage's id that is the name of a folder too.
            Err(_) => Ok(Value::Null),
        })
        .collect()
}

/// The checkpoint of a finished stage, and the folder that its paths are relative to.
///
/// # Errors
/// When its files cannot be read.
pub(crate) fn of(done: &Done) -> Result<(Checkpoint, PathBuf)> {
    let path = if done.kind == "checkpoint" {
        let bytes = done.dir.blob(LINK)?.read_all()?;
        let broken =
            |e: serde_json::Error| Error::store("broken link").because(e).at(done.dir.locate(LINK));
        let link: Value = serde_json::from_slice(&bytes).map_err(broken)?;
        if link.is_object() {
            let made: Made = serde_json::from_value(link).map_err(broken)?;
            return Ok((made.checkpoint, made.folder));
        }
        serde_json::from_value(link).map_err(broken)?
    } else {
        // The weights too, so that both lie in one local folder.
        done.dir.blob("weights.safetensors")?.local_path()?;
        done.dir.blob("checkpoint.json")?.local_path()?
    };
    open(&path)
}

/// What CLIP_benchmark calls `model` and `pretrained`: the name of the architecture, and of the
/// weights the stage that made them, or the folder or file that they lie in; without what a path is
/// parted by.
pub(crate) fn names(done: &Done, checkpoint: &Checkpoint, folder: &Path) -> (String, String) {
    let model = checkpoint.lineage.get("model").cloned().or_else(|| {
        let config = models::ClipConfig::from_json(&checkpoint.model).ok()?;
        let same = |name: &String| models::ClipConfig::named(name).is_ok_and(|own| own == config);
        models::ClipConfig::names().find(same)
    });
    let weights = checkpoint.weights.split('.').next().unwrap_or_default();
    let pretrained = match done.kind {
        "checkpoint" => pretrained(folder, weights),
        _ => done.id.clone(),
    };
    (one_part(model.as_deref().unwrap_or("custom")), one_part(&pretrained))
}

/// Names of weights that say nothing of whose they are.
const PLAIN: [&str; 5] =
    ["weights", "open_clip_model", "open_clip_pytorch_model", "model", "pytorch_model"];

fn pretrained(folder: &Path, weights: &str) -> String {
    let mut parts = folder.components().rev().filter_map(|part| match part {
        std::path::Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    });
    if !weights.is_empty() && !PLAIN.contains(&weights) {
        return weights.to_owned();
    }
    match (parts.next(), parts.next()) {
        // A stage's folder in an output has the same name in all of them.
        (Some(stage), Some(output)) if ["train", "compress"].contains(&stage.as_str()) => {
            format!("{output}-{stage}")
        }
        (Some(name), _) => name,
        (None, _) => "checkpoint".to_owned(),
    }
}

/// As a part of a file's name.
fn one_part(name: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "._@+=,-".contains(c);
    let name = name.trim_start_matches('.').chars().take(60);
    name.map(|c| if plain(c) { c } else { '-' }).collect()
}

/// The checkpoint at this path.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn open(path: &Path) -> Result<(Checkpoint, PathBuf)> {
    Ok((models::read_checkpoint(path)?, folder_of(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder as open_clip's releases lay it, with one number.
    fn hub() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let config = json!({"model_cfg": {
            "embed_dim": 8,
            "vision_cfg": {"image_size": 8, "layers": 1, "width": 64, "patch_size": 4},
            "text_cfg": {"width": 8, "heads": 2, "layers": 1},
        }});
        let header = r#"{"logit_scale":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#;
        let mut weights = (header.len() as u64).to_le_bytes().to_vec();
        weights.extend(header.bytes().chain([0; 4]));
        let put = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes);
        put("open_clip_config.json", config.to_string().as_bytes()).unwrap();
        put("open_clip_model.safetensors", &weights).unwrap();
        folder
    }

    #[test]
    fn weights_are_called_by_the_folder_or_the_file_that_tells_them_from_others() {
        let of = |folder: &str, weights: &str| pretrained(Path::new(folder), weights);
        assert_eq!(of("/data/run-1/train", "weights"), "run-1-train");
        assert_eq!(of("run/second", "weights"), "second");
        assert_eq!(of("hub/ViT-B-32-laion", "open_clip_model"), "ViT-B-32-laion");
        assert_eq!(of("run/train/checkpoints", "epoch_3"), "epoch_3");
        assert_eq!(of(".", "weights"), "checkpoint");
        assert_eq!(one_part("../a b/c"), "-a-b-c");
    }

    #[test]
    fn a_hubs_folder_is_known_by_its_configuration_and_its_weights() {
        let folder = hub();
        let path = folder.path().display().to_string();
        let known = fingerprints([path.as_str(), "scorer"].into_iter()).unwrap();
        let names: Vec<&str> =
            known[0].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["open_clip_config.json", "open_clip_model.safetensors"]);
        assert_eq!(known[1], Value::Null);
    }

    #[test]
    fn a_hubs_folder_opens_as_a_handle_with_its_folder() {
        let folder = hub();
        let (checkpoint, base) = open(folder.path()).unwrap();
        assert_eq!(checkpoint.weights, "open_clip_model.safetensors");
        assert_eq!(base, folder.path());
        let (same, base) = open(&folder.path().join("open_clip_config.json")).unwrap();
        assert_eq!((same, base.as_path()), (checkpoint, folder.path()));
    }

    #[test]
    fn bare_weights_are_known_by_their_file_and_the_name_of_their_model() {
        let folder = hub();
        let weights = folder.path().join("open_clip_model.safetensors");
        let plan = CheckpointPlan {
            checkpoint: weights.display().to_string(),
            model: Some("ViT-B-32".to_owned()),
        };
        assert_eq!(plan.identity(), json!({"model": "ViT-B-32"}));
        let known = plan.external(&Context::default()).unwrap();
        assert_eq!(known[0]["name"], "open_clip_model.safetensors");
        assert_eq!(known.as_array().unwrap().len(), 1);
        let without = CheckpointPlan { model: None, ..plan };
        assert_eq!(without.identity(), Value::Null);
        let error = open(&weights).unwrap_err().to_string();
        assert!(error.contains("these are weights without a configuration"), "{error}");
    }
}
