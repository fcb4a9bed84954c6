//! Judges of pairs, embeddings, duplicates, DataComp's baselines, selection.
//!
//! A pair is judged, never edited: a judge writes its scores beside every pair and a reason where
//! a threshold fails; [`select`] then picks among what was judged.
//!
//! ```
//! use filter::judge::{AnyJudge, JudgeContext, run_unit};
//! use stage::{PairRow, PairsBuilder, Status};
//!
//! let plans: Vec<AnyJudge> = serde_json::from_str(r#"[{"caption_length": {"min_words": 3}}]"#)?;
//! let cx = stage::Context::default();
//! let cx = JudgeContext::new(&cx);
//! let mut judges = plans.iter().map(|p| p.plan().build(&cx)).collect::<stage::Result<Vec<_>>>()?;
//!
//! let mut pairs = PairsBuilder::default();
//! for (key, caption) in [("0", "a red car"), ("1", "IMG_0042.jpg")] {
//!     pairs.push(PairRow {
//!         uid: "139e4a9b22a614771f06c700a8ebe150",
//!         key,
//!         url: "",
//!         caption,
//!         status: Status::Success,
//!         error_message: None,
//!         size: Some((256, 256)),
//!         original_size: Some((800, 600)),
//!         sha256: None,
//!         image: None,
//!     });
//! }
//! let (mut scores, mut verdicts) = (Vec::new(), Vec::new());
//! let pairs = [Ok(pairs.finish())];
//! let counts = run_unit(&plans, &mut judges, pairs, &mut scores, &mut verdicts)?;
//! assert_eq!((counts.kept, counts.dropped["caption_words"]), (1, 1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Reading order: [`judge`] (the judges and how a unit is judged), [`asset`], [`words`],
//! [`fasttext`], [`clip`] (pictures and captions to features), [`embed`], [`dedup`], [`near`],
//! [`select`]. `scan` (one pass over many parquet files) and `engine` (DataFusion) serve them.

pub mod judge;

pub mod asset;
pub mod fasttext;
pub mod words;

pub mod clip;
pub mod embed;

pub mod dedup;
pub mod near;
pub mod select;

mod engine;
mod reasons;
mod scan;

/// The first file and how many there are, for messages.
pub(crate) fn name_files(files: &[String]) -> String {
    match files {
        [] => "no file".to_owned(),
        [one] => one.clone(),
        [first, rest @ ..] => format!("{first} and {} more files", rest.len()),
    }
}
