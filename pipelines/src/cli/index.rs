//! `index`: where every member of a folder's shards lies, and the list of shards that wids reads.

use clap::ArgMatches;
use serde_json::json;
use shard::{INDEX_STAGE, MEMBERS, SHARD_LIST, write_index};
use stage::{Context, Counts, Error, Result};

use super::{Output, text_of};
use crate::stages::base_name;
use crate::stages::shards::tars;

pub(crate) fn index(args: &ArgMatches) -> Result<Output> {
    let folder = text_of(args, "folder")?;
    let folder = match folder.trim_end_matches('/') {
        "" if folder.is_empty() => {
            return Err(Error::recipe("the folder has no name")
                .hint("name the folder of the shards; `.` is the one you are in"));
        }
        "" => "/".to_owned(),
        trimmed => trimmed.to_owned(),
    };
    let shards = tars(&[format!("{folder}/")])?;
    let threads = args.get_one::<u16>("threads").map(|&n| usize::from(n));
    let context = Context::default();
    let context = Context { threads: threads.unwrap_or(context.threads), ..context };
    let output = store::Output::open(&folder)?;
    let _lease = output.lock(INDEX_STAGE)?;
    let stage = output.stage(INDEX_STAGE);
    // Made before, and the shards may be others now.
    stage.clear()?;
    let mut attempt = stage.begin(INDEX_STAGE)?;
    let listed: Vec<(String, String)> =
        shards.iter().map(|url| (url.clone(), format!("../{}", base_name(url)))).collect();
    let summary = write_index(&context, base_name(&folder), &listed, &mut attempt)?;
    attempt.commit("index", Counts::default(), json!({}))?;
    let places = [MEMBERS, SHARD_LIST].map(|name| stage.locate(name));
    let text = format!(
        "{} shards, {} samples, {} members, {} bytes\n{}\n{}\n",
        summary.shards, summary.samples, summary.members, summary.bytes, places[0], places[1]
    );
    if summary.members == 0 {
        return Err(Error::input("the shards have no member").at(folder));
    }
    let json = json!({
        "shards": summary.shards, "samples": summary.samples, "members": summary.members,
        "bytes": summary.bytes, "files": places,
    });
    Ok(Output::new(text, json))
}
