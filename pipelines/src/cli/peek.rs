//! Commands that look into shards without unpacking them: `ls`, `cat`, `stat`.

use std::collections::BTreeMap;

use clap::ArgMatches;
use serde_json::{Value, json};
use shard::{Indexes, Member, split_name};
use stage::{Error, Result};
use store::Blob;

use super::{Output, text_of, to_stdout};

/// One sample: its key and its members in the order of the tar.
struct Entry {
    key: String,
    members: Vec<Member>,
}

pub(crate) fn ls(args: &ArgMatches) -> Result<Output> {
    let (mut text, mut list, indexes) = (String::new(), Vec::new(), Indexes::default());
    for blob in &shards(args)? {
        for Entry { key, members } in entries(&indexes, blob)? {
            let part = |member: &Member| format!("{} {}", suffix(&member.name), member.len);
            let parts: Vec<String> = members.iter().map(part).collect();
            text.push_str(&format!("{key}\t{}\n", parts.join(", ")));
            let parts: Vec<Value> = members
                .iter()
                .map(|m| json!({"name": m.name, "offset": m.offset, "bytes": m.len}))
                .collect();
            list.push(json!({"shard": blob.name(), "key": key, "members": parts}));
        }
    }
    Ok(Output::new(text, Value::Array(list)))
}

pub(crate) fn cat(args: &ArgMatches) -> Result<Output> {
    let wanted = text_of(args, "key")?;
    let as_json = args.get_flag("json");
    let (blobs, indexes) = (shards(args)?, Indexes::default());
    for blob in &blobs {
        for Entry { key, members } in entries(&indexes, blob)? {
            if key == wanted || members.iter().any(|member| member.name == wanted) {
                return show(blob, &wanted, &members, as_json);
            }
        }
    }
    Err(Error::input(format!("no sample and no member is called `{wanted}`"))
        .hint("`clipmill ls` shows the names; give a key, or a key with its extension"))
}

/// The member of this name, or the sample of this key.
fn show(blob: &Blob, wanted: &str, members: &[Member], as_json: bool) -> Result<Output> {
    let Some(member) = members.iter().find(|member| member.name == wanted) else {
        return sample(blob, wanted, members);
    };
    let bytes = blob.read_at(member.offset, member.len as usize)?;
    if as_json {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        return Ok(Output::new(
            "",
            json!({"name": member.name, "bytes": member.len, "text": text}),
        ));
    }
    to_stdout(&bytes)?;
    Ok(Output::new("", Value::Null))
}

/// A sample's texts as they are, and the sizes of the rest.
fn sample(blob: &Blob, key: &str, members: &[Member]) -> Result<Output> {
    let mut text = format!("{key} in {}\n", blob.name());
    let mut parts = serde_json::Map::new();
    for member in members {
        let suffix = suffix(&member.name);
        if !matches!(suffix.as_str(), "txt" | "json" | "cls") {
            text.push_str(&format!("{suffix}: {} bytes\n", member.len));
            parts.insert(suffix, json!({"bytes": member.len}));
            continue;
        }
        let bytes = blob.read_at(member.offset, member.len as usize)?;
        let content = String::from_utf8_lossy(&bytes);
        text.push_str(&format!("{suffix}: {content}\n"));
        let value = serde_json::from_str(&content).ok().filter(|_| suffix == "json");
        parts.insert(suffix, value.unwrap_or_else(|| json!(content)));
    }
    Ok(Output::new(text, json!({"shard": blob.name(), "key": key, "parts": parts})))
}

pub(crate) fn stat(args: &ArgMatches) -> Result<Output> {
    let (mut text, mut list, indexes) = (String::new(), Vec::new(), Indexes::default());
    let mut total = (0_u64, 0_u64);
    for blob in &shards(args)? {
        let samples = entries(&indexes, blob)?;
        let mut parts: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for member in samples.iter().flat_map(|sample| &sample.members) {
            let part = parts.entry(suffix(&member.name)).or_default();
            *part = (part.0 + 1, part.1 + member.len);
        }
        let said: Vec<String> =
            parts.iter().map(|(s, (n, bytes))| format!("{n} {s} of {} bytes", bytes / n)).collect();
        text.push_str(&format!(
            "{}  {} samples, {} bytes: {}\n",
            blob.name(),
            samples.len(),
            blob.len(),
            said.join(", ")
        ));
        let parts: serde_json::Map<String, Value> = parts
            .into_iter()
            .map(|(s, (n, bytes))| (s, json!({"count": n, "bytes": bytes})))
            .collect();
        list.push(json!({"shard": blob.name(), "samples": samples.len(), "bytes": blob.len(), "parts": parts}));
        total = (total.0 + samples.len() as u64, total.1 + blob.len());
    }
    if list.len() > 1 {
        let (samples, bytes) = total;
        text.push_str(&format!("{} shards, {samples} samples, {bytes} bytes\n", list.len()));
    }
    let all = json!({"samples": total.0, "bytes": total.1, "shards": list});
    Ok(Output::new(text, all))
}

/// The shards that the command names: paths, URLs, folders, brace ranges, lists joined by `::`.
fn shards(args: &ArgMatches) -> Result<Vec<Blob>> {
    let mut blobs = Vec::new();
    for pattern in args.get_many::<String>("shards").into_iter().flatten() {
        let files = store::expand(pattern)?;
        let named = files.len() == 1 && files[0] == *pattern;
        for file in files.into_iter().filter(|file| named || shard::is_tar(file)) {
            blobs.push(Blob::open(&file)?);
        }
    }
    if blobs.is_empty() {
        return Err(Error::input("no tar found"));
    }
    Ok(blobs)
}

/// Samples by runs of equal keys, as webdataset groups them.
fn entries(indexes: &Indexes, blob: &Blob) -> Result<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::new();
    let (members, cut) = indexes.members(blob)?;
    if let Some(cut) = cut {
        return Err(cut);
    }
    for member in members {
        let key = split_name(&member.name).map_or(member.name.as_str(), |(key, _)| key).to_owned();
        match entries.last_mut().filter(|entry| entry.key == key) {
            Some(entry) => entry.members.push(member),
            None => entries.push(Entry { key, members: vec![member] }),
        }
    }
    Ok(entries)
}

fn suffix(name: &str) -> String {
    split_name(name).map_or_else(String::new, |(_, suffix)| suffix)
}
