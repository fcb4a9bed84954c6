//! `stream`: shards as one tar on stdout, in an order that can be repeated and gone on with.

use std::io::{ErrorKind, Write};

use clap::ArgMatches;
use serde_json::Value;
use shard::{Cursor, EpochPlan, Shards, Share, TarWriter, check_written};
use stage::{Error, Result};

use super::Output;

/// A program that reads `pipe:clipmill stream ...` sees an ordinary shard without an end; each
/// sample has a further member `cursor`, the place after it.
pub(crate) fn stream(args: &ArgMatches) -> Result<Output> {
    let urls: Vec<String> = args.get_many("shards").into_iter().flatten().cloned().collect();
    let shards = Shards::open(&urls)?;
    let number = |name: &str| args.get_one::<u64>(name).copied();
    let share = args.get_one::<String>("share").map_or(Ok(Share::default()), |text| share(text))?;
    let plan = EpochPlan {
        seed: number("seed").unwrap_or(0),
        window: number("window").unwrap_or(EpochPlan::default().window),
        share,
    };
    let cursor = args.get_one::<String>("cursor").map(|text| text.parse::<Cursor>()).transpose()?;
    let mut epoch = match &cursor {
        Some(cursor) => plan.resume(&shards, cursor)?,
        None => plan.epoch(&shards, number("epoch").unwrap_or(0))?,
    };
    let passes = number("epochs").unwrap_or(1);
    let mut left = number("count").unwrap_or(u64::MAX);
    let mut tar = TarWriter::new(std::io::stdout().lock());
    let mut last = String::new();
    let mut written = || -> Result<()> {
        for pass in 1.. {
            while left > 0
                && let Some(next) = epoch.next_sample()
            {
                let (index, sample) = next?;
                let mut key = stem(&sample.key);
                // Two shards may have equal keys; side by side they would be one sample.
                if key == last {
                    key = format!("{key}-{index}");
                }
                for (suffix, data) in &sample.parts {
                    let name = format!("{key}.{suffix}");
                    if check_written(&name).is_ok() {
                        tar.append(&name, data)?;
                    } else {
                        tracing::warn!(name, "left out: no name for a shard of ours");
                    }
                }
                tar.append(&format!("{key}.cursor"), epoch.cursor().to_string().as_bytes())?;
                (last, left) = (key, left - 1);
            }
            if left == 0 || pass >= passes {
                return Ok(());
            }
            epoch = plan.epoch(&shards, epoch.number() + 1)?;
        }
        Ok(())
    };
    let done = written().and_then(|()| {
        let mut out = tar.finish()?;
        out.flush().map_err(store::write_error)
    });
    match done {
        // Whoever reads has had enough.
        Err(error) if is_broken_pipe(&error) => {}
        other => other?,
    }
    eprintln!("cursor {}", epoch.cursor());
    Ok(Output::new("", Value::Null))
}

/// The last part of a key, at most 80 characters, with `_` for what no name of ours has.
fn stem(key: &str) -> String {
    let base = key.rsplit('/').next().unwrap_or(key);
    let base = base.chars().take(80);
    base.map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect()
}

fn share(text: &str) -> Result<Share> {
    let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    let (index, of) = parts.ok_or_else(|| {
        Error::recipe(format!("`{text}` is no share")).hint("write `0/4` to `3/4`")
    })?;
    Ok(Share { index, of })
}

fn is_broken_pipe(error: &Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let io = cause.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == ErrorKind::BrokenPipe) {
            return true;
        }
        source = cause.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_becomes_a_name_that_readers_split_as_it_is() {
        assert_eq!(stem("000420031"), "000420031");
        assert_eq!(stem("a.b/c d.é"), "c_d__");
    }
}
