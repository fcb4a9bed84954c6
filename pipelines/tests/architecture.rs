//! The arrows between rooms, held to docs/architecture.md by the manifests themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// What each room may import of the others, in the order in which data passes them.
const ARROWS: &[(&str, &[&str])] = &[
    ("stage", &[]),
    ("store", &["stage"]),
    ("pixels", &["stage"]),
    ("kernels", &["stage"]),
    ("models", &["stage", "store", "pixels", "kernels"]),
    ("ingest", &["stage", "store", "pixels"]),
    ("filter", &["stage", "store", "pixels", "models", "kernels"]),
    ("shard", &["stage", "store", "pixels"]),
    ("train", &["stage", "store", "pixels", "models", "kernels"]),
    ("compress", &["stage", "store", "pixels", "models", "train"]),
    ("eval", &["stage", "store", "pixels", "models", "train"]),
    ("tasks", &["stage", "store", "pixels", "models", "kernels", "train"]),
    ("report", &["stage", "store"]),
];

/// The room of a package: `clipmill-filter` is `filter`, `clipmill` is `pipelines`.
fn room(package: &str) -> Option<&str> {
    match package {
        "clipmill" => Some("pipelines"),
        other => other.strip_prefix("clipmill-"),
    }
}

fn metadata() -> serde_json::Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn no_room_imports_what_the_architecture_does_not_allow() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        ARROWS.iter().map(|(room, may)| (*room, may.iter().copied().collect())).collect();
    let metadata = metadata();
    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().unwrap() {
        let Some(from) = room(package["name"].as_str().unwrap()) else { continue };
        seen.insert(from.to_owned());
        for dependency in package["dependencies"].as_array().unwrap() {
            // Tests may point where code must not.
            if dependency["kind"] == "dev" {
                continue;
            }
            let Some(to) = room(dependency["name"].as_str().unwrap()) else { continue };
            assert_ne!(to, "pipelines", "{from} imports pipelines, which nobody may");
            if from != "pipelines" {
                let may =
                    allowed.get(from).unwrap_or_else(|| panic!("room {from} is not in the list"));
                assert!(may.contains(to), "{from} imports {to}; it may import {may:?}");
            }
        }
    }
    for (room, _) in ARROWS {
        assert!(seen.contains(*room), "room {room} is listed and does not exist");
    }
}

#[test]
fn only_kernels_may_allow_unsafe_code() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut folders = vec![root.to_owned()];
    let mut found = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !name.starts_with('.') && name != "target" {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let marker = ["allow(unsafe", "_code)"].concat();
                if text.contains(&marker) {
                    let place = path.strip_prefix(root).unwrap();
                    found.insert(
                        place
                            .components()
                            .next()
                            .unwrap()
                            .as_os_str()
                            .to_string_lossy()
                            .into_owned(),
                    );
                }
            }
        }
    }
    assert!(found.iter().all(|room| room == "kernels"), "{found:?}");
}
