//! Training shards from a pool: which samples, under which names, in which shard.
//!
//! Source: `mlfoundations/datacomp`, `resharder.py`. Same names, same files, same meaning of a uid
//! that stands several times in a subset. We differ in that the plan is made before anything is
//! written, so that it is a function of the inputs alone (theirs numbers shards in the order in
//! which workers open them), each output shard is a unit of its own, and a sample without a uid of
//! its own gets one.

use std::collections::{BTreeMap, HashSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage::pii::PiiKind;
use stage::{Context, Counts, Error, Result};
use store::subset::Uid;

use crate::reshard_edit::{Edits, OTHER_PICTURE};
use crate::shard_index::Row;
use crate::shards::Shards;
use crate::shuffle::permutation;
use crate::tar_name::check_written;

/// Rewrites shards for training: only the selected samples, evenly cut, uid first in every name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReshardPlan {
    /// A subset file (DataComp's `.npy`), or the id of a `select` stage, that names the samples of
    /// the shards that this stage takes, each as often as its uid stands there; read by the runner.
    /// Default none: those that the stage takes.
    #[serde(alias = "subset_file", skip_serializing_if = "Option::is_none")]
    pub subset: Option<String>,
    /// Most samples in one output shard, 1 to 1,000,000; default 10,000.
    #[serde(alias = "shard_size")]
    pub samples_per_shard: u32,
    /// A shard that has reached this many bytes of members takes no further sample; 1 to 10^12,
    /// default 3,000,000,000.
    pub bytes_per_shard: u64,
    /// Number of the first output shard, 0 to 99,999,999; default 0.
    pub first_shard: u32,
    /// Whether samples are shuffled over all output shards, by the recipe's seed; default false:
    /// the order of the input.
    pub shuffle: bool,
    /// Kinds of personal data that are masked in the members `txt` and in the field `caption` of
    /// `json`: each mail address becomes `[EMAIL]`, and so on with `[PHONE]`, `[CARD]`, `[IBAN]` and
    /// `[IP]`. The rules are those of the judge `pii`; all other bytes stay. Default none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mask_pii: Vec<PiiKind>,
    /// Where the boxes of faces are that are blurred: the id of a `judge` stage with the rule
    /// `faces`, or parquet files (path, folder, glob) with `uid` and `face_bboxes`: shares of the
    /// sides of the pictures as these shards hold them. Behind a `fetch` that has to be a judge of
    /// the same shards: boxes of the pictures as they lay on the web go to `fetch` as `bbox_col`. A
    /// sample that has none there is passed over as `faces_unknown`, one whose picture cannot be
    /// decoded as `faces_undecodable`, one with a second picture (`orig.jpg`) as
    /// `faces_other_picture`. Default none: every picture is copied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blur_faces: Option<String>,
    /// Quality of a JPEG with blurred faces, 1 to 100; default 95. PNG and WebP are written without
    /// loss, pictures without faces are copied.
    #[serde(skip_serializing_if = "is_usual_quality")]
    pub blur_quality: u8,
}

/// img2dataset's quality.
const USUAL_QUALITY: u8 = 95;

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_usual_quality(quality: &u8) -> bool {
    *quality == USUAL_QUALITY
}

impl Default for ReshardPlan {
    fn default() -> Self {
        Self {
            subset: None,
            samples_per_shard: 10_000,
            bytes_per_shard: 3_000_000_000,
            first_shard: 0,
            shuffle: false,
            mask_pii: Vec::new(),
            blur_faces: None,
            blur_quality: USUAL_QUALITY,
        }
    }
}

/// Which samples are written.
#[derive(Debug, Clone, Copy)]
pub enum Selection<'a> {
    /// All but these (pairs that a judge gave a reason).
    AllBut(&'a HashSet<Uid>),
    /// These, sorted; a uid that stands `k` times is written `k` times.
    Subset(&'a [Uid]),
}

/// One output shard: a unit of work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputShard {
    /// Its number; the tar is `{number:08}.tar`.
    pub number: u32,
    /// What it holds, in order.
    pub picks: Vec<Pick>,
    /// Bytes of all members as they lie in the input.
    pub bytes: u64,
    /// Input samples that no shard holds, by reason; all of them stand at the first shard, so that
    /// the counts of the units add up to those of the stage.
    pub passed_over: BTreeMap<String, u64>,
}

/// One sample of an output shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pick {
    /// Its index in the input [`Shards`].
    pub sample: u64,
    /// Which copy it is, from 0; its key is `{uid}-{copy}`.
    pub copy: u32,
}

/// A whole resharding, before any of it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resharding {
    /// The units.
    pub shards: Vec<OutputShard>,
    /// Input samples (each further copy counts as one more), those written, and those passed over:
    /// `not_selected`, `judged_out`, `duplicate_uid`, `no_picture`, `bad_member_name`,
    /// `faces_unknown`, `faces_other_picture`. A picture whose faces cannot be blurred, and one under
    /// the name of something else, are found out when they are written, and counted there:
    /// `faces_undecodable`, `faces_other_picture`.
    pub counts: Counts,
    /// Samples to be written that have a face to blur.
    pub(crate) with_faces: u64,
    /// Different uids of the subset that no input shard holds.
    pub missing: u64,
    /// Shape of the plan, for `meta.json`.
    pub(crate) plan: ReshardPlan,
    /// Input samples that were looked at.
    pub(crate) processed: u64,
}

impl OutputShard {
    /// The name of its unit: `00000042`.
    #[must_use]
    pub fn unit(&self) -> String {
        format!("{:08}", self.number)
    }

    /// The name of its tar: `00000042.tar`.
    #[must_use]
    pub fn tar_name(&self) -> String {
        format!("{:08}.tar", self.number)
    }
}

impl Pick {
    pub(crate) fn index(self) -> usize {
        usize::try_from(self.sample).unwrap_or(usize::MAX)
    }
}

impl ReshardPlan {
    /// Checks every range.
    ///
    /// # Errors
    /// Names the field, its range and what it got.
    pub fn validate(&self) -> Result<()> {
        let check = |name: &str, value: u64, low: u64, high: u64| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(Error::recipe(format!("{name} must be {low} to {high}, got {value}")))
        };
        check("samples_per_shard", self.samples_per_shard.into(), 1, 1_000_000)?;
        check("bytes_per_shard", self.bytes_per_shard, 1, 1_000_000_000_000)?;
        check("first_shard", self.first_shard.into(), 0, 99_999_999)?;
        check("blur_quality", self.blur_quality.into(), 1, 100)
    }

    /// Decides what goes where: input order unless shuffled, a new shard at `samples_per_shard`
    /// samples or once `bytes_per_shard` is reached. Of samples with one uid the first is taken.
    ///
    /// # Errors
    /// When nothing is left to write, when the subset is not sorted, or when uids cannot be read.
    pub fn plan(
        &self,
        cx: &Context,
        sources: &Shards,
        selection: Selection<'_>,
    ) -> Result<Resharding> {
        self.plan_edited(cx, sources, selection, &Edits::default())
    }

    /// As [`Self::plan`], for samples that are changed on the way.
    pub fn plan_edited(
        &self,
        cx: &Context,
        sources: &Shards,
        selection: Selection<'_>,
        edits: &Edits,
    ) -> Result<Resharding> {
        self.validate()?;
        if let Selection::Subset(subset) = selection
            && !subset.is_sorted()
        {
            return Err(Error::input("the subset is not sorted")
                .hint("sort the uids; every reader of subset files relies on it"));
        }
        let uids = sources.uids()?;
        let mut counts = Counts::default();
        for _ in 0..sources.without_picture() {
            counts.drop("no_picture");
        }
        let mut picks = Vec::new();
        let mut seen = HashSet::new();
        for (index, &uid) in uids.iter().enumerate() {
            let (copies, reason) = match selection {
                Selection::AllBut(skip) => (u32::from(!skip.contains(&uid)), "judged_out"),
                Selection::Subset(subset) => (occurrences(subset, uid), "not_selected"),
            };
            if copies == 0 {
                counts.drop(reason);
            } else if !seen.insert(uid) {
                counts.drop("duplicate_uid");
            } else if !can_be_written(sources.row(index), uid, copies - 1) {
                counts.drop("bad_member_name");
            } else if edits.unknown_faces(index) {
                counts.drop("faces_unknown");
            } else if edits.other_picture(sources.row(index).parts.iter().map(|part| &*part.0)) {
                counts.drop(OTHER_PICTURE);
            } else {
                picks.extend((0..copies).map(|copy| Pick { sample: index as u64, copy }));
            }
            cx.cancel.check()?;
        }
        let passed_over = counts.dropped.clone();
        counts.entered += picks.len() as u64;
        counts.kept += picks.len() as u64;
        if picks.is_empty() {
            return Err(Error::input(format!(
                "no sample is left to write: {} entered, {}",
                counts.entered,
                reasons(&passed_over)
            ))
            .hint("loosen the thresholds, or check that the subset belongs to these shards"));
        }
        let with_faces = picks.iter().filter(|pick| edits.has_faces(pick.index())).count() as u64;
        if self.shuffle {
            let order = permutation(picks.len(), cx.seed_for("reshard/shuffle"));
            picks = order.into_iter().map(|i| picks[i]).collect();
        }
        let missing = match selection {
            Selection::AllBut(_) => 0,
            Selection::Subset(subset) => {
                let different = 1 + subset.windows(2).filter(|pair| pair[0] != pair[1]).count();
                (different - seen.len()) as u64
            }
        };
        let mut shards = self.cut(sources, picks)?;
        if let Some(first) = shards.first_mut() {
            first.passed_over = passed_over;
        }
        let processed = uids.len() as u64;
        counts.check()?;
        Ok(Resharding { shards, counts, with_faces, missing, plan: self.clone(), processed })
    }

    fn cut(&self, sources: &Shards, picks: Vec<Pick>) -> Result<Vec<OutputShard>> {
        let mut shards: Vec<OutputShard> = Vec::new();
        for pick in picks {
            let full = shards.last().is_none_or(|shard| {
                shard.picks.len() >= self.samples_per_shard as usize
                    || shard.bytes >= self.bytes_per_shard
            });
            if full {
                let number = u32::try_from(shards.len())
                    .ok()
                    .and_then(|count| self.first_shard.checked_add(count))
                    .ok_or_else(|| Error::recipe("more output shards than 32 bits can number"))?;
                shards.push(OutputShard {
                    number,
                    picks: Vec::new(),
                    bytes: 0,
                    passed_over: BTreeMap::new(),
                });
            }
            if let Some(shard) = shards.last_mut() {
                shard.picks.push(pick);
                shard.bytes += sources.sample_bytes(pick.index());
            }
        }
        Ok(shards)
    }
}

fn occurrences(subset: &[Uid], uid: Uid) -> u32 {
    let start = subset.partition_point(|other| *other < uid);
    let count = subset[start..].partition_point(|other| *other == uid);
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Whether every member has a name in ustar under the new key of the last copy, the longest one.
fn can_be_written(row: &Row, uid: Uid, last_copy: u32) -> bool {
    let key = format!("{uid}-{last_copy}");
    row.parts.iter().all(|(suffix, _)| check_written(&format!("{key}.{suffix}")).is_ok())
}

fn reasons(dropped: &BTreeMap<String, u64>) -> String {
    let list: Vec<String> =
        dropped.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    if list.is_empty() { "none passed over".to_owned() } else { list.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_out_of_range_is_named() {
        let plan = ReshardPlan { samples_per_shard: 0, ..ReshardPlan::default() };
        let message = plan.validate().unwrap_err().to_string();
        assert_eq!(message, "samples_per_shard must be 1 to 1000000, got 0");
    }

    #[test]
    fn a_uid_counts_as_often_as_it_stands() {
        let subset = [Uid(1, 0), Uid(2, 5), Uid(2, 5), Uid(2, 6)];
        let counts = [Uid(0, 0), Uid(1, 0), Uid(2, 5), Uid(2, 7)].map(|u| occurrences(&subset, u));
        assert_eq!(counts, [0, 1, 2, 0]);
    }
}
