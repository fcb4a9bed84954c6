//! One unit: some WAT files in, one parquet file out.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use stage::{Context, Result, ResultExt};

use super::LinksReport;
use super::merge::{Run, merge};
use super::page::PageReader;
use super::rows::Rows;
use super::source::{self, WatSource};
use super::write::LinksWriter;
use crate::warc::Reader;

/// Reads the WAT files of a unit and writes their links as one parquet file: cc2dataset's columns,
/// sorted by uid, each uid once (the row with the smallest archive name, then the first in its
/// file), row groups cut at uid prefixes. The bytes depend on the WAT files' contents alone, not on
/// threads or memory.
///
/// # Errors
/// When a WAT file cannot be opened or read, or the output cannot be written. Broken records and
/// members are counted in the report instead.
pub fn run_unit(wats: &[WatSource], out: impl Write + Send, cx: &Context) -> Result<LinksReport> {
    let done = AtomicU64::new(0);
    let budget = Budget::new(cx);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(cx.threads.max(1))
        .build()
        .internal("cannot start threads")?;
    let read = pool.install(|| {
        wats.par_iter()
            .map(|wat| {
                let (runs, report) =
                    read_wat(wat, &budget, cx).map_err(|error| error.at(wat.url()))?;
                let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                cx.progress.update(done, wats.len() as u64, "WAT files");
                Ok((runs, report))
            })
            .collect::<Result<Vec<_>>>()
    })?;
    let mut total = LinksReport::default();
    let mut runs = Vec::with_capacity(read.len());
    for (wat_runs, report) in read {
        total.merge(&report);
        runs.extend(wat_runs);
    }
    let mut writer = LinksWriter::new(out, total.rows)?;
    merge(runs, |row| writer.push(row))?;
    total.distinct_uids = writer.finish()?;
    Ok(total)
}

/// Bytes of rows that may be in memory: half of the context's and at most 96 MiB, of which one half
/// is for the rows being read on all threads, the other for sorted runs.
struct Budget {
    reading: u64,
    sorted: u64,
    resident: AtomicU64,
}

/// Rows of a thread are not cut into runs smaller than this, however small the memory.
const LEAST_RUN: u64 = 1 << 20;
/// More would gain nothing: a run costs little to write and read beside the inflating of its file.
const MOST_MEMORY: u64 = 48 << 20;

impl Budget {
    fn new(cx: &Context) -> Self {
        let quarter = (cx.memory / 4).min(MOST_MEMORY);
        let reading = (quarter / cx.threads.max(1) as u64).max(LEAST_RUN);
        Self { reading, sorted: quarter, resident: AtomicU64::new(0) }
    }

    /// Sorts rows, and keeps them where they are or moves them to a file.
    fn run(&self, mut rows: Rows) -> Result<Run> {
        rows.sort();
        let bytes = rows.bytes();
        let before = self.resident.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes <= self.sorted {
            return Ok(Run::Memory(rows));
        }
        self.resident.fetch_sub(bytes, Ordering::Relaxed);
        Run::spill(&rows)
    }
}

fn read_wat(wat: &WatSource, budget: &Budget, cx: &Context) -> Result<(Vec<Run>, LinksReport)> {
    let mut reader = Reader::new(wat.url(), source::open(wat.url())?);
    let mut runs = Vec::new();
    let mut rows = Rows::default();
    let mut page = PageReader::default();
    let mut report = LinksReport { wats: 1, ..LinksReport::default() };
    let mut number = 0;
    while let Some(record) = reader.next_record()? {
        number += 1;
        if record.is("metadata") {
            page.read(record.body, &mut report, |place, found| rows.push(number, place, &found));
        }
        if number % 256 == 0 {
            cx.cancel.check()?;
        }
        if rows.bytes() > budget.reading {
            runs.push(budget.run(std::mem::take(&mut rows))?);
        }
    }
    if number == 0 {
        report.fail("no_record");
    }
    report.bytes = reader.position();
    report.add_damage(wat.url(), reader.damage());
    if !reader.damage().is_empty() {
        tracing::warn!(wat = wat.url(), damage = ?reader.damage().counts(), "damaged WAT file");
    }
    runs.push(budget.run(rows)?);
    Ok((runs, report))
}
