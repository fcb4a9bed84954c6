//! `clipmill purge` takes pairs out of a release, `clipmill verify-purge` proves that they are gone.

use std::path::Path;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::json;
use shard::release::{self, Purge, Selectors};
use stage::{Context, Error, Result};

use super::{Output, text_of};
use crate::recipe::clean;

const ABOUT: &str = "\
Take pairs out of a release: write the next version beside it (RELEASE.v2, then RELEASE.v3).

Only the shards and metadata that hold such a pair are written again; the others get a second name,
or are copied where the disk has none. The new version lists salted hashes of what was taken out
(tombstones.json), names its parent, and the old one is marked with REVOKED.json. The old folder
stays: remove it when the new one is published. A stopped purge goes on with the same command. A URL or
domain is looked for in every column, captions too. What met no pair is named.";

/// Selectors without a pair that are named one by one; with `--json` all are.
const UNMATCHED: usize = 20;

pub(crate) fn command() -> Command {
    Command::new("purge")
        .about("Take pairs out of a release, into its next version")
        .long_about(ABOUT)
        .arg(folder())
        .args(selectors())
        .arg(threads())
}

pub(crate) fn verify_command() -> Command {
    Command::new("verify-purge")
        .about("Read every byte of a release to prove that what was purged is not there")
        .long_about(
            "Read every byte of a release to prove that what was purged is not there: what its own \
             tombstones list, and what is named. Members, texts and pictures of shards, every column of \
             every parquet, subset files, all other files; each is held against the manifest, too. Ends \
             with 3 where something is found.",
        )
        .arg(folder())
        .args(selectors())
        .arg(threads())
}

pub(crate) fn folder() -> Arg {
    Arg::new("release").required(true).value_name("RELEASE").help("The folder of a release")
}

fn selectors() -> Vec<Arg> {
    let many = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).action(ArgAction::Append).help(help)
    };
    vec![
        many("uid", "HEX", "A pair, by its uid of 32 hex digits; repeat for several"),
        many("url", "URL", "All pairs of this URL, exactly"),
        many(
            "domain",
            "NAME",
            "All pairs whose URL is of this domain or below it; `*.` before it changes nothing",
        ),
        many("sha256", "HEX", "All pairs with this picture, as downloaded or as stored"),
        many(
            "list",
            "FILE",
            "A file with one of these a line (`uid:…`, `url:…`, `domain:…`, `sha256:…`, or told by its form), or the tombstones.json of a release",
        ),
    ]
}

pub(crate) fn threads() -> Arg {
    Arg::new("threads")
        .long("threads")
        .value_parser(value_parser!(u16).range(1..=1024))
        .help("CPU threads [default: every core]")
}

pub(crate) fn context(args: &ArgMatches) -> Context {
    let default = Context::default();
    let threads = args.get_one::<u16>("threads").map(|n| usize::from(*n));
    Context { threads: threads.unwrap_or(default.threads), ..default }
}

/// The output that holds a folder, and the folder's name in it.
pub(crate) fn place(folder: &str) -> Result<(String, String)> {
    let folder = folder.trim_end_matches('/');
    if !folder.contains("://") {
        // `.` and `..` have no name of their own.
        let whole = std::fs::canonicalize(Path::new(folder))
            .map_err(|e| Error::input("cannot open the release").because(e).at(folder))?;
        let name = whole.file_name().map(|name| name.to_string_lossy().into_owned());
        if let (Some(parent), Some(name)) = (whole.parent(), name) {
            return Ok((parent.display().to_string(), name));
        }
        return Err(Error::input("this folder has no name").at(folder));
    }
    match folder.rsplit_once('/') {
        Some((parent, name)) if !parent.ends_with(":/") && !name.is_empty() => {
            Ok((parent.to_owned(), name.to_owned()))
        }
        _ => Err(Error::recipe("a release lies below a bucket, not at its top").at(folder)),
    }
}

fn named(args: &ArgMatches) -> Result<Selectors> {
    let mut selectors = Selectors::default();
    let values = |name: &str| args.get_many::<String>(name).into_iter().flatten();
    values("uid").try_for_each(|text| selectors.uid(text))?;
    values("url").try_for_each(|text| selectors.url(text))?;
    values("domain").try_for_each(|text| selectors.domain(text))?;
    values("sha256").try_for_each(|text| selectors.sha256(text))?;
    values("list").try_for_each(|file| selectors.list(&store::Blob::open(file)?))?;
    Ok(selectors)
}

pub(crate) fn purge(args: &ArgMatches) -> Result<Output> {
    let selectors = named(args)?;
    if selectors.is_empty() {
        return Err(Error::recipe("nothing is named")
            .hint("name what to take out: --uid, --url, --domain, --sha256 or --list"));
    }
    let (parent, id) = place(&text_of(args, "release")?)?;
    // Whether it is a release is known before anything is written beside it.
    release::Manifest::read(&store::Output::open_existing(&parent)?.stage(&id))?;
    let output = store::Output::open(&parent)?;
    let _lease = output.lock("purge")?;
    let context = context(args);
    super::run::stop_on_signals(&context)?;
    let done = Purge::run(&context, &output, &id, &selectors)?;
    let unmatched = unmatched(&done);
    let Some(folder) = &done.folder else {
        let text =
            format!("no pair of {} units fits; nothing was written\n{unmatched}", done.units);
        let json = json!({
            "removed": 0, "folder": null, "unmatched": done.unmatched,
            "unmatched_hashes": done.unmatched_hashes,
        });
        return Ok(Output::new(text, json));
    };
    // Copies that a killed purge left hold what was to go. The purge itself is done.
    if let Err(error) = output.gc_stage(folder) {
        eprintln!("warning: copies of a stopped purge may be left in {folder}/_attempts: {error}");
    }
    let place = output.locate(folder);
    let text = format!(
        "{} pairs taken out; {} of {} units written again\nnew version: {place}\nroot: {}\n\
         the old version is marked as revoked and stays where it is\n{unmatched}",
        done.removed, done.rewritten, done.units, done.merkle_root
    );
    let json = json!({
        "removed": done.removed, "folder": place, "rewritten": done.rewritten, "units": done.units,
        "merkle_root": done.merkle_root, "unmatched": done.unmatched,
        "unmatched_hashes": done.unmatched_hashes,
    });
    Ok(Output::new(text, json))
}

/// What met no pair, a line each: a typing error looks just like that.
fn unmatched(done: &Purge) -> String {
    let mut text = String::new();
    for name in done.unmatched.iter().take(UNMATCHED) {
        text.push_str(&format!("met no pair: {name}\n"));
    }
    if let Some(more) = done.unmatched.len().checked_sub(UNMATCHED).filter(|more| *more > 0) {
        text.push_str(&format!("met no pair: {more} more\n"));
    }
    if done.unmatched_hashes > 0 {
        text.push_str(&format!("met no pair: {} hashes of lists\n", done.unmatched_hashes));
    }
    text
}

pub(crate) fn verify(args: &ArgMatches) -> Result<Output> {
    let selectors = named(args)?;
    let (parent, id) = place(&text_of(args, "release")?)?;
    let output = store::Output::open_existing(&parent)?;
    let context = context(args);
    super::run::stop_on_signals(&context)?;
    let absence = release::verify_purge(&context, &output.stage(&id), &selectors)?;
    let read = format!(
        "{} files, {} bytes, {} members, {} rows read for {} things",
        absence.files, absence.bytes, absence.members, absence.rows, absence.sought
    );
    if let Some(first) = absence.found.first() {
        for found in &absence.found {
            let place = clean(&found.place, 300);
            eprintln!("  {}: {place}: a purged {}", clean(&found.path, 300), found.kind);
        }
        return Err(Error::input(format!(
            "what was purged is still there, at {} places or more; first a {}, {}",
            absence.found.len(),
            first.kind,
            first.place
        ))
        .at(&first.path)
        .hint(format!(
            "{read}; purge again, and name by its uid a pair of which only the shard says it: in another field of its json, or in a second picture"
        )));
    }
    if let Some(first) = absence.faults.first() {
        absence.faults.iter().for_each(|fault| eprintln!("  {}", clean(fault, 600)));
        return Err(Error::input(format!(
            "nothing of it was found, but there are {} faults, so that this proves nothing: {first}",
            absence.faults.len()
        ))
        .hint("remove what does not belong there, or fetch the release again"));
    }
    let json = json!({
        "files": absence.files, "bytes": absence.bytes, "members": absence.members,
        "rows": absence.rows, "sought": absence.sought, "found": [],
    });
    Ok(Output::new(format!("{read}: nothing of it is there\n"), json))
}
