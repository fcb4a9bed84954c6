//! Reads shards: `read [--case raw|pairs|shuffled|list] [--threads N] [--repeat N] [--runs N] SHARDS...`.
//!
//! `raw` streams every member of every sample, as webdataset does without a decoder; `pairs` opens
//! the shards and reads image, caption and json as batches of pairs; `shuffled` reads every member
//! of every sample in the order of a pass (`EpochPlan`), a share a thread. All print one JSON
//! document: samples and member bytes of one run, and the seconds of each. `list` prints a line for each
//! member, `[key, suffix, sha256]`, for comparison with other readers.

use std::io::Write;
use std::time::Instant;

use sha2::{Digest, Sha256};
use shard::{EpochPlan, Samples, Shards, Share, TarReader};
use stage::{Error, Result, ResultExt};
use store::Blob;

struct Options {
    case: String,
    threads: usize,
    repeat: usize,
    runs: usize,
    shards: Vec<String>,
}

fn main() -> Result<()> {
    let options = options()?;
    if options.case == "list" {
        return options.shards.iter().try_for_each(|url| list(url));
    }
    let mut counted = (0, 0);
    let mut seconds = Vec::new();
    for _ in 0..options.runs {
        let start = Instant::now();
        counted = read(&options)?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    let (samples, bytes) = counted;
    let result = serde_json::json!({
        "case": options.case, "threads": options.threads, "samples": samples, "bytes": bytes,
        "seconds": seconds,
    });
    writeln!(std::io::stdout(), "{result}").store("cannot write the result")
}

fn options() -> Result<Options> {
    let mut options =
        Options { case: "raw".to_owned(), threads: 1, repeat: 1, runs: 1, shards: Vec::new() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| Error::recipe(format!("{word} what?")));
        let number = |text: String| text.parse::<usize>().kind(stage::Kind::Recipe, "not a number");
        match word.as_str() {
            "--case" => options.case = value()?,
            "--threads" => options.threads = number(value()?)?.max(1),
            "--repeat" => options.repeat = number(value()?)?.max(1),
            "--runs" => options.runs = number(value()?)?.max(1),
            _ => options.shards.extend(store::expand(&word)?),
        }
    }
    if options.shards.is_empty() {
        return Err(Error::recipe("no shards named"));
    }
    Ok(options)
}

/// Samples and member bytes; each thread takes every nth shard.
fn read(options: &Options) -> Result<(u64, u64)> {
    let shards = match options.case.as_str() {
        "shuffled" => Some(Shards::open(&options.shards)?),
        _ => None,
    };
    let all: Vec<&String> =
        std::iter::repeat_n(&options.shards, options.repeat).flatten().collect();
    let one = |thread: usize| {
        if let Some(shards) = &shards {
            return shuffled(shards, thread, options);
        }
        let mut total = (0, 0);
        for url in all.iter().skip(thread).step_by(options.threads) {
            let (samples, bytes) = match options.case.as_str() {
                "raw" => raw(url)?,
                "pairs" => pairs(url)?,
                other => return Err(Error::recipe(format!("no case {other}"))),
            };
            total = (total.0 + samples, total.1 + bytes);
        }
        Ok(total)
    };
    std::thread::scope(|scope| {
        let one = &one;
        let threads: Vec<_> =
            (0..options.threads).map(|thread| scope.spawn(move || one(thread))).collect();
        threads.into_iter().try_fold((0, 0), |total, thread| {
            let part = thread.join().map_err(|_| Error::internal("a thread panicked"))??;
            Ok((total.0 + part.0, total.1 + part.1))
        })
    })
}

/// One thread's share of as many passes as `--repeat` says.
fn shuffled(shards: &Shards, thread: usize, options: &Options) -> Result<(u64, u64)> {
    let share = Share { index: thread as u64, of: options.threads as u64 };
    let plan = EpochPlan { share, ..EpochPlan::default() };
    let mut total = (0, 0);
    for pass in 0..options.repeat as u64 {
        let mut epoch = plan.epoch(shards, pass)?;
        while let Some(sample) = epoch.next_sample() {
            let bytes: usize = sample?.1.parts.iter().map(|(_, data)| data.len()).sum();
            total = (total.0 + 1, total.1 + bytes as u64);
        }
    }
    Ok(total)
}

fn raw(url: &str) -> Result<(u64, u64)> {
    let mut total = (0, 0);
    for sample in Samples::new(TarReader::new(url, Blob::open(url)?.reader())) {
        let bytes: usize = sample?.parts.iter().map(|(_, data)| data.len()).sum();
        total = (total.0 + 1, total.1 + bytes as u64);
    }
    Ok(total)
}

fn list(url: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for sample in Samples::new(TarReader::new(url, Blob::open(url)?.reader())) {
        let sample = sample?;
        for (suffix, data) in &sample.parts {
            let line =
                serde_json::json!([sample.key, suffix, format!("{:x}", Sha256::digest(data))]);
            writeln!(out, "{line}").store("cannot write the list")?;
        }
    }
    Ok(())
}

fn pairs(url: &str) -> Result<(u64, u64)> {
    let mut total = (0, 0);
    for pairs in Shards::open(&[url.to_owned()])?.pairs(256) {
        let pairs = pairs?;
        let images: usize = (0..pairs.len()).filter_map(|i| pairs.image(i)).map(<[u8]>::len).sum();
        total = (total.0 + pairs.len() as u64, total.1 + images as u64);
    }
    Ok(total)
}
