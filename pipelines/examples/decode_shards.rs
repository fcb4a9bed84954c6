//! Reads shards as an evaluation does, decoded to normalised squares:
//! `decode_shards [--size 224] [--threads N] [--runs N] [--dump FILE --count N] SHARDS...`.
//!
//! Each thread takes every nth shard and makes batches of 64 squares, float32, channel first. Prints
//! one JSON document: samples of one run, and the seconds of each. `--dump` writes the first squares
//! of the first shard, for comparison with other readers.

use std::io::Write;
use std::time::Instant;

use pixels::Limits;
use shard::Shards;
use stage::{Error, PairSource, Preprocess, Result, ResultExt};

const BATCH: usize = 64;

struct Options {
    size: u32,
    threads: usize,
    runs: usize,
    dump: Option<String>,
    count: usize,
    shards: Vec<String>,
}

fn main() -> Result<()> {
    let options = options()?;
    let sets: Vec<Shards> = options
        .shards
        .iter()
        .map(|url| Shards::open(std::slice::from_ref(url)))
        .collect::<Result<_>>()?;
    if let Some(path) = &options.dump {
        let mut bytes = Vec::new();
        let rows: Vec<usize> = (0..options.count.min(sets[0].len())).collect();
        squares(&sets[0], &rows, options.size, &mut |square| {
            bytes.extend(square.iter().flat_map(|value| value.to_le_bytes()));
        })?;
        std::fs::write(path, bytes).store("cannot write the squares")?;
    }
    let mut seconds = Vec::new();
    let mut samples = 0;
    for _ in 0..options.runs {
        let start = Instant::now();
        samples = read(&options, &sets)?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    let result =
        serde_json::json!({"samples": samples, "threads": options.threads, "seconds": seconds});
    writeln!(std::io::stdout(), "{result}").store("cannot write the result")
}

fn read(options: &Options, sets: &[Shards]) -> Result<usize> {
    let one = |thread: usize| {
        let mut samples = 0;
        for set in sets.iter().skip(thread).step_by(options.threads) {
            let rows: Vec<usize> = (0..set.len()).collect();
            for rows in rows.chunks(BATCH) {
                let values = rows.len() * 3 * (options.size as usize).pow(2);
                let mut batch = Vec::with_capacity(values);
                squares(set, rows, options.size, &mut |square| batch.extend_from_slice(square))?;
                samples += rows.len();
                std::hint::black_box(&batch);
            }
        }
        Ok(samples)
    };
    std::thread::scope(|scope| {
        let one = &one;
        let threads: Vec<_> =
            (0..options.threads).map(|thread| scope.spawn(move || one(thread))).collect();
        threads.into_iter().try_fold(0, |total, thread| {
            let part: Result<usize> =
                thread.join().map_err(|_| Error::internal("a thread panicked"))?;
            Ok(total + part?)
        })
    })
}

/// The evaluation's squares of these rows.
fn squares(set: &Shards, rows: &[usize], size: u32, each: &mut dyn FnMut(&[f32])) -> Result<()> {
    let Preprocess { mean, std, resize_mode, .. } = Preprocess::default();
    let limits = Limits::default();
    let pairs = set.read(rows)?;
    for row in 0..pairs.len() {
        let bytes = pairs.image(row).ok_or_else(|| Error::input("a sample without a picture"))?;
        let picture = pixels::decode_rgb_first(bytes, &limits)
            .map_err(|refused| Error::input(refused.reason))?;
        let square = pixels::clip_pixels(&picture, size, &resize_mode);
        each(&pixels::normalize(&square, size, mean, std));
    }
    Ok(())
}

fn options() -> Result<Options> {
    let mut options =
        Options { size: 224, threads: 1, runs: 1, dump: None, count: 16, shards: Vec::new() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| Error::recipe(format!("{word} what?")));
        let number = |text: String| text.parse::<usize>().kind(stage::Kind::Recipe, "not a number");
        match word.as_str() {
            "--size" => options.size = number(value()?)? as u32,
            "--threads" => options.threads = number(value()?)?.max(1),
            "--runs" => options.runs = number(value()?)?.max(1),
            "--count" => options.count = number(value()?)?,
            "--dump" => options.dump = Some(value()?),
            _ => options.shards.extend(store::expand(&word)?),
        }
    }
    if options.shards.is_empty() {
        return Err(Error::recipe("no shards named"));
    }
    Ok(options)
}
