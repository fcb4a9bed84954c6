//! Writes what a resharding planned: one unit a shard, and the files beside them at the end.

use std::io::Write;

use serde_json::{Map, Value, json};
use stage::{Context, Counts, Error, Result, ResultExt};
use store::Attempt;
use store::subset::Uid;

use crate::reshard::{OutputShard, Pick, Resharding};
use crate::shards::Shards;
use crate::spans::Span;
use crate::tar_write::TarWriter;

/// Bytes of members that are read ahead of the writer.
const CHUNK: u64 = 16 << 20;

/// Writes `{number:08}.tar` and `{number:08}_stats.json` of one output shard: the members of each
/// sample unchanged, in alphabetical order of their suffixes, under the key `{uid}-{copy}`.
///
/// The counts have each written sample and, at the first shard, all that were passed over.
///
/// # Errors
/// When a source cannot be read or the output fails.
pub fn run_unit(
    cx: &Context,
    shard: &OutputShard,
    sources: &Shards,
    out: &mut Attempt,
) -> Result<Counts> {
    let mut file = out.file(&shard.tar_name())?;
    let counts = write_tar(cx, shard, sources, &mut file)?;
    file.finish()?;
    let stats = format!("{{\"successes\": {}}}", counts.kept);
    out.put(&format!("{}_stats.json", shard.unit()), stats.as_bytes())?;
    Ok(counts)
}

/// The tar of [`run_unit`] alone, to any output.
pub fn write_tar(
    cx: &Context,
    shard: &OutputShard,
    sources: &Shards,
    out: impl Write,
) -> Result<Counts> {
    let uids = sources.uids()?;
    let mut counts = Counts::default();
    for (reason, &count) in &shard.passed_over {
        counts.entered += count;
        counts.dropped.insert(reason.clone(), count);
    }
    let mut tar = TarWriter::new(out);
    let mut rest = &shard.picks[..];
    while !rest.is_empty() {
        cx.cancel.check()?;
        let mut bytes = 0;
        let fits = rest.iter().take_while(|pick| {
            bytes += sources.sample_bytes(pick.index());
            bytes <= CHUNK
        });
        let (chunk, after) = rest.split_at(fits.count().max(1));
        copy(chunk, sources, uids, &mut tar)?;
        counts.entered += chunk.len() as u64;
        counts.kept += chunk.len() as u64;
        cx.progress.update(counts.kept, shard.picks.len() as u64, "");
        rest = after;
    }
    tar.finish()?;
    counts.check()?;
    Ok(counts)
}

fn copy(
    picks: &[Pick],
    sources: &Shards,
    uids: &[Uid],
    tar: &mut TarWriter<impl Write>,
) -> Result<()> {
    let mut names = Vec::new();
    let mut wanted: Vec<(usize, Span)> = Vec::new();
    for pick in picks {
        let Some(uid) = uids.get(pick.index()) else {
            return Err(Error::internal(format!("no input sample {}", pick.sample)));
        };
        let key = format!("{uid}-{}", pick.copy);
        let (source, _) = sources.place(pick.index());
        let mut parts: Vec<_> = sources.row(pick.index()).parts.iter().collect();
        parts.sort_by(|a, b| a.0.cmp(&b.0));
        for (suffix, span) in parts {
            names.push(format!("{key}.{suffix}"));
            wanted.push((source, *span));
        }
    }
    let members = sources.gather(&wanted)?;
    for (name, data) in names.iter().zip(members) {
        tar.append(name, &data)?;
    }
    Ok(())
}

/// Writes what stands once beside all shards: `sizes.json` (tar name to samples, which open_clip and
/// the resharder read), `meta.json` (which DataComp's `train.py` reads) and `sample_ids.npy` (the
/// subset; without one, the uids that were written).
///
/// `meta.json` has the resharder's names for what we have too; its paths, clock values and working
/// folder are left out, so that equal inputs give equal bytes.
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
        "blur_count": 0,
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
