//! What each stage took, beside what was expected.

use std::sync::Arc;

use report::{Block, Section, Table};
use serde_json::Value;
use stage::Result;
use store::Output;

use super::collect;
use super::page::thousands;
use crate::cli::ESTIMATE;
use crate::cost::Cost;
use crate::estimate;
use crate::stages::Done;
use crate::wall;

/// Seconds and bytes of each stage, and money where the recipe names a price, beside what `plan`
/// expected before the run.
pub(super) fn time(stages: &[Arc<Done>], output: &Output, cost: Option<&Cost>) -> Result<Section> {
    let title = if cost.is_some() { "Time and money" } else { "Time" };
    let mut section = Section::new("time", title);
    let expected = output.get(ESTIMATE)?;
    let expected: Value =
        expected.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let range = |id: &str, field: &str, word: &dyn Fn(f64) -> String| {
        let basis = expected.get(id)?.get("basis")?.as_str()?;
        let range = expected.get(id)?.get(field)?.as_array()?;
        let (low, high) = (range.first()?.as_f64()?, range.get(1)?.as_f64()?);
        (basis != "unknown" && high > 0.0).then(|| estimate::span((low, high), word))
    };
    let mut table = Table::new(&[
        "stage",
        "kind",
        "units",
        "seconds",
        "expected",
        "kept",
        "expected kept",
        "written",
        "expected written",
    ]);
    if cost.is_some() {
        table.head.extend(["cost", "expected cost"].map(str::to_owned));
    }
    for done in stages {
        let none = || "–".to_owned();
        let written: u64 = done.commits.iter().flat_map(|c| &c.files).map(|f| f.bytes).sum();
        table = table.row(&[
            &done.id,
            done.kind,
            &done.commits.len().to_string(),
            &format!("{:.1}", collect::seconds(done)),
            &range(&done.id, "seconds", &|n| estimate::time(n)).unwrap_or_else(none),
            &thousands(done.counts.kept),
            &range(&done.id, "samples", &|n| thousands(n as u64)).unwrap_or_else(none),
            &estimate::bytes(written as f64),
            &range(&done.id, "bytes", &|n| estimate::bytes(n)).unwrap_or_else(none),
        ]);
        if let (Some(cost), Some(row)) = (cost, table.rows.last_mut()) {
            row.push(cost.say(cost.of(collect::seconds(done))));
            let expected = range(&done.id, "seconds", &|n| cost.say(cost.of(n)));
            row.push(expected.unwrap_or_else(none));
        }
    }
    section.say("Expected: what `clipmill plan` said before the first unit was made. Ranges are wide where nothing had been measured yet, and a training is not estimated.");
    if let Some(cost) = cost {
        let all = cost.of(wall::seconds(stages.iter().flat_map(|done| &done.commits)));
        section.say(format!(
            "All stages together: {}, at {} {} for an hour of the machine. Units that one machine had at work together count once, and so do the stages of one stream here, of which each has the whole of its time above; several machines (`--units`) count each.",
            cost.say(all),
            cost.per_hour,
            cost.currency
        ));
    }
    section.push(Block::Table(table));
    Ok(section)
}
