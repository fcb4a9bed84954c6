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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use stage::Context;

    use super::*;
    use crate::recipe::{Graph, Recipe};
    use crate::run::{Options, run};
    use crate::watch::Board;

    /// The demo's stages that need no training, with short deadlines: bytes of what they publish.
    fn published(keep_truth: bool) -> BTreeMap<String, Vec<u8>> {
        let folder = tempfile::tempdir().unwrap();
        let server = prepare(folder.path(), 0).unwrap().serve().unwrap();
        if !keep_truth {
            std::fs::remove_dir_all(folder.path().join("truth")).unwrap();
        }
        let text = format!(
            "version: 1\nname: t\noutput: {0}/run\nstages:\n  - links: {{wat: [{0}/world/crawl.warc.wat.gz]}}\n  - dedup: {{}}\n  - fetch: {{image_size: 72, resize_mode: border, number_sample_per_shard: 500, retries: 0, timeout: 4, connect_timeout: 4, first_byte_timeout: 4, total_timeout: 4}}\n  - judge:\n      - caption_length: {{min_words: 2, min_chars: 6}}\n      - image_size: {{min_side: 32, max_aspect: 3.0}}\n  - select: {{}}\n  - reshard: {{}}\n",
            folder.path().display()
        );
        let graph = Graph::new(Recipe::parse("t.yaml", &text).unwrap()).unwrap();
        let output = store::Output::open(&graph.recipe.output).unwrap();
        let context = Context::default();
        run(&graph, &output, &context, &server.dial(), &Options::default(), &Board::default())
            .unwrap();
        let mut files = BTreeMap::new();
        for stage in ["links", "dedup", "fetch", "judge", "select", "reshard"] {
            for commit in output.stage(stage).commits().unwrap().into_values() {
                for file in commit.files {
                    let bytes = output.stage(stage).blob(&file.name).unwrap().read_all().unwrap();
                    files.insert(format!("{stage}/{}", file.name), bytes.to_vec());
                }
            }
        }
        files
    }

    #[test]
    fn a_run_gives_the_same_bytes_without_the_truth() {
        let with = published(true);
        assert!(with.len() > 10, "{:?}", with.keys());
        assert_eq!(with, published(false));
    }
}
