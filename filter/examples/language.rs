//! Languages of captions: `cargo run --release -p clipmill-filter --example language -- MODEL CAPTIONS [REPEAT]`
//!
//! CAPTIONS holds one caption a line. Prints label and probability of each to stdout, and the speed
//! to stderr; `CLIPMILL_THREADS` sets the threads (default 1).

use std::io::Write;
use std::time::Instant;

use filter::asset::Asset;
use filter::fasttext::Scratch;
use filter::judge::language::Identifier;
use stage::{Error, Result, ResultExt};

fn main() -> Result<()> {
    let usage = || Error::recipe("usage: language MODEL CAPTIONS [REPEAT]");
    let mut args = std::env::args().skip(1);
    let model = Identifier::open(&Asset::Unchecked(args.next().ok_or_else(usage)?))?;
    let text = std::fs::read_to_string(args.next().ok_or_else(usage)?).input("CAPTIONS")?;
    let repeat: usize = args.next().and_then(|n| n.parse().ok()).unwrap_or(1);
    let threads = std::env::var("CLIPMILL_THREADS").ok().and_then(|t| t.parse().ok()).unwrap_or(1);
    let captions: Vec<&str> = text.lines().collect();
    let start = Instant::now();
    let share = captions.len().div_ceil(threads).max(1);
    let mut found = Vec::new();
    std::thread::scope(|scope| {
        let work = |part: &[&str]| {
            let mut scratch = Scratch::default();
            let mut found = Vec::new();
            for _ in 0..repeat {
                found.clear();
                found.extend(part.iter().map(|caption| model.language(caption, &mut scratch)));
            }
            found
        };
        let threads: Vec<_> =
            captions.chunks(share).map(|part| scope.spawn(move || work(part))).collect();
        for thread in threads {
            found.extend(thread.join().unwrap_or_default());
        }
    });
    let seconds = start.elapsed().as_secs_f64();
    let rate = (captions.len() * repeat) as f64 / seconds;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for found in found {
        match found {
            Some((label, score)) => writeln!(out, "{label}\t{score}"),
            None => writeln!(out, "\t"),
        }
        .store("stdout")?;
    }
    out.flush().store("stdout")?;
    writeln!(std::io::stderr(), "{rate:.0} captions/s, {threads} threads, {seconds:.3} s")
        .store("stderr")
}
