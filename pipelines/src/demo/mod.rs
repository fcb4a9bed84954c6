//! `clipmill demo`: the ordinary recipe on a small real web that this binary serves on loopback.
//!
//! What the run can read lies in `world/`: a WAT file that describes the pages, clean shards of
//! a seed set, and shards of held-out concepts. What is true of each link lies in `truth/`; only
//! the report reads it, and a test runs the recipe without it to the same bytes.

mod concepts;
mod faults;
mod serve;
mod subgroups;
mod truth;
mod wat;
mod world;

use std::path::Path;

use serde_json::json;
use stage::{Error, Result, ResultExt};

use concepts::Emoji;
pub(crate) use serve::Web;
pub(crate) use truth::judge;
use world::World;

/// The recipe of the demo, the same file that lies in `pipelines/`.
pub(crate) const RECIPE: &str = include_str!("../../demo.yaml");
/// Where the truth is kept, relative to the demo's folder.
pub(crate) const TRUTH: &str = "truth/links.json";

/// Writes the world under `folder` and returns what serves it.
///
/// # Errors
/// When the folder cannot be written.
pub(crate) fn prepare(folder: &Path, seed: u64) -> Result<Web> {
    let world = World::new(seed);
    write(folder, "world/crawl.warc.wat.gz", &wat::write(&world.pages)?)?;
    write(folder, "world/seed/00000.tar", &shard_of(&world.seed_set)?)?;
    write(folder, "world/heldout/00000.tar", &shard_of(&world.held_out)?)?;
    let classes: Vec<&str> = concepts::categories();
    write(folder, "world/categories.txt", (classes.join("\n") + "\n").as_bytes())?;
    let truth = serde_json::to_vec(&world.truth).internal("cannot write the truth")?;
    write(folder, TRUTH, &truth)?;
    Ok(Web::new(world.answers, &world.closed))
}

/// Clean pairs as one WebDataset shard; on white, as the fetcher makes of the pool's pictures.
fn shard_of(pairs: &[Emoji]) -> Result<Vec<u8>> {
    let mut tar = shard::TarWriter::new(Vec::new());
    let mut sorted: Vec<&Emoji> = pairs.iter().collect();
    sorted.sort_by(|a, b| a.code.cmp(&b.code));
    for emoji in sorted {
        let json = json!({"caption": emoji.caption, "category": emoji.category, "key": emoji.code});
        tar.append(&format!("{}.json", emoji.code), json.to_string().as_bytes())?;
        tar.append(&format!("{}.png", emoji.code), &faults::on_white(emoji.png))?;
        tar.append(&format!("{}.txt", emoji.code), emoji.caption.as_bytes())?;
    }
    tar.finish()
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = folder.join(name);
    let failed = |e: std::io::Error| Error::store("cannot write").because(e).at(path.display());
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    // A run that goes on finds the same world: leave its files and their times alone.
    if std::fs::read(&path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    std::fs::write(&path, bytes).map_err(failed)
}
