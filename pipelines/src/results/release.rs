//! What a release holds, for the report of the run that made it.

use report::{Block, Number, Section, Table};
use shard::release::Manifest;
use stage::Result;

use super::page::thousands;
use crate::estimate;
use crate::stages::Done;

/// The section of a `release` stage.
pub(super) fn release(done: &Done) -> Result<Section> {
    let manifest = Manifest::read(&done.dir)?;
    let mut section =
        Section::new(&format!("release-{}", done.id), &format!("Release: {}", done.id));
    section.say(format!(
        "In {}; `sha256sum -c SHA256SUMS` checks every file, `clipmill view` shows its pairs, `clipmill purge` takes some out.",
        done.dir.locate("")
    ));
    let shards = manifest.files.iter().filter(|file| file.path.starts_with("shards/")).count();
    let number =
        |label: &str, value: String, note: String| Number { label: label.to_owned(), value, note };
    section.push(Block::Numbers(vec![
        number(
            "pairs",
            thousands(manifest.samples),
            format!("{} uids stand several times", thousands(manifest.repeated_uids)),
        ),
        number(
            "bytes",
            estimate::bytes(manifest.bytes as f64),
            format!("{} files, {shards} shards", manifest.files.len()),
        ),
        number("version", manifest.plan.version.clone(), manifest.plan.license.clone()),
    ]));
    let mut table = Table::new(&["", ""]).row(&["Merkle root", &manifest.merkle_root]);
    for stage in &manifest.lineage {
        table = table.row(&[&format!("{} ({})", stage.id, stage.kind), &stage.key]);
    }
    section.push(Block::Heading("Lineage: the key of each stage".to_owned()));
    section.push(Block::Table(table));
    for warning in &manifest.hub {
        section.push(Block::Note(format!("The Hugging Face hub would refuse this: {warning}.")));
    }
    Ok(section)
}
