//! Writes what a resharding planned: one unit a shard, and the files beside them at the end.

use std::fmt::Write as _;
use std::io::Write;

use serde_json::{Map, Value, json};
use stage::{Context, Counts, Result, ResultExt};
use store::subset::Uid;
use store::{Attempt, write_error};

use crate::reshard::{OutputShard, Resharding};
use crate::reshard_copy::for_each_block;
use crate::reshard_edit::{Edited, Edits};
use crate::shards::Shards;
use crate::tar_header::BLOCK;

/// Bytes from which a file's hash is worth a thread of its own.
const HASH_BESIDE: u64 = 4 << 20;

/// Writes `{number:08}.tar` and `{number:08}_stats.json` of one output shard: the members of each
/// sample, unchanged but for the edits, in alphabetical order of their suffixes, under the key
/// `{uid}-{copy}`. The statistics name the edits where any were asked for.
///
/// The counts have each written sample and, at the first shard, all that were passed over.
///
/// # Errors
/// When a source cannot be read or the output fails.
pub fn run_unit(
    cx: &Context,
    shard: &OutputShard,
    sources: &Shards,
    edits: &Edits,
    out: &mut Attempt,
) -> Result<(Counts, Edited)> {
    let mut file = out.file(&shard.tar_name())?;
    if cx.threads > 1 && shard.bytes >= HASH_BESIDE {
        file = file.hash_beside();
    }
    let (counts, edited) = write_edited_tar(cx, shard, sources, edits, &mut file)?;
    file.finish()?;
    let mut stats = format!("{{\"successes\": {}", counts.kept);
    if edits.any() {
        for (name, value) in edited.to_json() {
            let _ = write!(stats, ", \"{name}\": {value}");
        }
    }
    stats.push('}');
    out.put(&format!("{}_stats.json", shard.unit()), stats.as_bytes())?;
    Ok((counts, edited))
}

/// The tar of [`run_unit`] alone, to any output, without edits.
pub fn write_tar(
    cx: &Context,
    shard: &OutputShard,
    sources: &Shards,
    out: impl Write,
) -> Result<Counts> {
    write_edited_tar(cx, shard, sources, &Edits::default(), out).map(|(counts, _)| counts)
}

/// The tar of [`run_unit`] alone, to any output.
pub fn write_edited_tar(
    cx: &Context,
    shard: &OutputShard,
    sources: &Shards,
    edits: &Edits,
    mut out: impl Write,
) -> Result<(Counts, Edited)> {
    let (mut counts, mut edited) = (Counts::default(), Edited::default());
    for (reason, &count) in &shard.passed_over {
        counts.entered += count;
        counts.dropped.insert(reason.clone(), count);
    }
    for_each_block(cx, sources, edits, &shard.picks, |block| {
        out.write_all(&block.bytes).map_err(write_error)?;
        counts.entered += block.samples as u64;
        counts.kept += block.samples as u64;
        block.dropped.iter().for_each(|reason| counts.drop(reason));
        edited.merge(&block.edited);
        cx.progress.update(counts.kept, shard.picks.len() as u64, "");
        Ok(())
    })?;
    out.write_all(&[0; 2 * BLOCK]).and_then(|()| out.flush()).map_err(write_error)?;
    counts.check()?;
    Ok((counts, edited))
}

/// Writes what stands once beside all shards: `sizes.json` (tar name to samples, which open_clip and
/// the resharder read), `meta.json` (which DataComp's `train.py` reads) and `sample_ids.npy` (the
/// subset; without one, the uids that were written).
///
/// `meta.json` has the resharder's names for what we have too; its paths, clock values and working
/// folder are left out, so that equal inputs give equal bytes. All three tell what was planned: a
/// picture whose faces could not be blurred is in them, and not in its shard.
pub fn finish(
    resharding: &Resharding,
    sources: &Shards,
    subset: Option<&[Uid]>,
    out: &mut Attempt,
) -> Result<()> {
    let sizes: Map<String, Value> =
        resharding.shards.iter().map(|s| (s.tar_name(), s.picks.len().into())).collect();
    put_json(out, "sizes.json", &Value::Object(sizes))?;
    let plan = &resharding.plan;
    let meta = json!({
        "first_shard": plan.first_shard.to_string(),
        "shard_size": plan.samples_per_shard.to_string(),
        "output_shard_format": "{:08d}.tar",
        "output_shard_stats_format": "{:08d}_stats.json",
        "shard_table": "sizes.json",
        "shuffle": plan.shuffle.to_string(),
        "max_shard_bytes": plan.bytes_per_shard.to_string(),
        "processed_count": resharding.processed,
        "output_count": resharding.counts.kept,
        "blur_count": resharding.with_faces,
        "output_shard_count": resharding.shards.len(),
        "worker_success": 1,
    });
    put_json(out, "meta.json", &meta)?;
    let mut file = out.file("sample_ids.npy")?;
    if let Some(subset) = subset {
        store::subset::write(&mut file, subset)?;
    } else {
        let uids = sources.uids()?;
        let picks = resharding.shards.iter().flat_map(|shard| &shard.picks);
        let mut written: Vec<Uid> =
            picks.filter_map(|pick| uids.get(pick.index()).copied()).collect();
        written.sort_unstable();
        store::subset::write(&mut file, &written)?;
    }
    file.finish()
}

fn put_json(out: &mut Attempt, name: &str, value: &Value) -> Result<()> {
    let mut text = serde_json::to_vec(value).internal("cannot write json")?;
    text.push(b'\n');
    out.put(name, &text)
}
