//! Image links of WAT files: `cargo run --release --example links -- OUT.parquet WAT...`
//!
//! Prints the counts and the speed on one line; `CLIPMILL_THREADS` sets the threads (default 1).

use std::fs::File;
use std::io::Write;
use std::time::Instant;

use ingest::links::{LinksPlan, LinksReport, run_unit};
use stage::{Context, Error, Result, ResultExt};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let out = args.next().ok_or_else(|| Error::recipe("usage: links OUT.parquet WAT..."))?;
    let threads = std::env::var("CLIPMILL_THREADS").ok().and_then(|t| t.parse().ok()).unwrap_or(1);
    let cx = Context { threads, ..Context::default() };
    let mut plan = LinksPlan::of(args.collect());
    plan.wats_per_unit = 4096;
    let start = Instant::now();
    let mut total = LinksReport::default();
    for unit in plan.units(&cx)? {
        let file = File::create(&out).store("cannot create the parquet file")?;
        total.merge(&run_unit(&unit.wats, file, &cx)?);
    }
    let seconds = start.elapsed().as_secs_f64();
    let rate = total.bytes as f64 / seconds / 1e6;
    writeln!(
        std::io::stdout(),
        "clipmill: pages {}, image_links {}, rows {}, distinct_uids {}, failed {:?}, {seconds:.2} s, \
         {rate:.2} MB/s of gzip, {:.0} rows/s",
        total.pages,
        total.image_links,
        total.rows,
        total.distinct_uids,
        total.failed,
        total.rows as f64 / seconds,
    )
    .store("stdout")
}
