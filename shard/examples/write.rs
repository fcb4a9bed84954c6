//! Writes one pool shard and reshards it: `write FOLDER`, for the checks with other tools in
//! `bench/interop/webdataset_reads_ours.py`.
//!
//! Forty rows: every seventh failed, pictures are tiny PNGs and JPEGs, captions have quotes, accents
//! and emoji. `FOLDER/pool` gets img2dataset's triple, `FOLDER/shards` the resharder's files.

use std::collections::HashSet;

use shard::{Edits, PoolWriter, ReshardPlan, Selection, Shards, finish, run_unit};
use stage::{Context, Counts, Error, PairRow, PairsBuilder, Result, Status};
use store::Output;

fn main() -> Result<()> {
    let folder = std::env::args().nth(1).ok_or_else(|| Error::recipe("write where?"))?;
    let output = Output::open(&folder)?;
    let pool = output.stage("pool");
    let mut attempt = pool.begin("00000000")?;
    let mut writer = PoolWriter::new(attempt.file("00000000.tar")?);
    for start in [0, 25] {
        writer.push(&rows(start, if start == 0 { 25 } else { 40 }))?;
    }
    let mut parquet = attempt.file("00000000.parquet")?;
    let mut stats = attempt.file("00000000_stats.json")?;
    let (tar, summary) = writer.finish(&mut parquet, &mut stats)?;
    tar.finish()?;
    parquet.finish()?;
    stats.finish()?;
    attempt.commit("example", summary.counts, serde_json::Value::Null)?;

    let cx = Context::default();
    let sources = Shards::open(&[pool.locate("00000000.tar")])?;
    let plan = ReshardPlan { samples_per_shard: 12, ..ReshardPlan::default() };
    let none = HashSet::new();
    let planned = plan.plan(&cx, &sources, Selection::AllBut(&none))?;
    let shards = output.stage("shards");
    for shard in &planned.shards {
        let mut attempt = shards.begin(&shard.unit())?;
        let (counts, _) = run_unit(&cx, shard, &sources, &Edits::default(), &mut attempt)?;
        attempt.commit("example", counts, serde_json::Value::Null)?;
    }
    let mut attempt = shards.begin("finish")?;
    finish(&planned, &sources, None, &mut attempt)?;
    attempt.commit("example", Counts::default(), serde_json::Value::Null).map(|_| ())
}

fn rows(start: u32, end: u32) -> stage::Pairs {
    let mut builder = PairsBuilder::default();
    for i in start..end {
        let side = 8 + i;
        let rgb = (0..side * side * 3).map(|v| (v * i) as u8).collect();
        let picture = pixels::Picture { width: side, height: side, rgb };
        let image = if i % 2 == 0 {
            pixels::encode_png(&picture, 6)
        } else {
            pixels::encode_jpeg(&picture, 95)
        };
        let failed = i % 7 == 3;
        builder.push(PairRow {
            uid: &format!(
                "{:032x}",
                0x0139_e4a9_b22a_6147_71f0_6c70_0a8e_be15_u128 * u128::from(i + 1)
            ),
            key: &format!("{i:012}"),
            url: &format!("http://a.example/{i}.png"),
            caption: &format!("picture \"{i}\"\n café \u{1f408} \u{7f}"),
            status: if failed { Status::FailedToDownload } else { Status::Success },
            error_message: failed.then_some("http_404"),
            size: (!failed).then_some((side, side)),
            original_size: (!failed).then_some((side, side)),
            sha256: (!failed).then_some("ab"),
            image: (!failed).then_some(&image),
        });
    }
    builder.finish()
}
