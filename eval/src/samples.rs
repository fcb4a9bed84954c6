//! Samples of a task: image features with what is true of each.

use std::collections::BTreeMap;

use models::Encoder;
use stage::{Context, Error, PairSource, Pairs, Result};

use crate::matrix::Matrix;

/// Opens shards.
pub type Open<'a> = dyn Fn(&[String], Columns<'_>) -> Result<Opened> + 'a;

/// What a task wants of its samples beside picture and caption.
#[derive(Debug, Clone, Copy, Default)]
pub struct Columns<'a> {
    /// Fields of the json, as text columns of these names.
    pub json: &'a [&'a str],
    /// Members, as binary columns of these names; null where a sample has none.
    pub members: &'a [&'a str],
}

/// Shards that are open.
pub struct Opened {
    /// The samples with a picture.
    pub pairs: Box<dyn PairSource>,
    /// Samples that have none.
    pub without_picture: u64,
}

/// Fewest samples that are read at once.
const READ: usize = 256;

/// The samples of a task whose picture can be decoded.
pub(crate) struct Samples<T> {
    /// L2-normalised.
    pub(crate) features: Matrix,
    pub(crate) keys: Vec<String>,
    pub(crate) truths: Vec<T>,
    /// What is missing, by reason.
    pub(crate) left_out: BTreeMap<String, u64>,
}

/// Reads all samples. `truth` says what is true of one, or why it is left out.
///
/// # Errors
/// What `truth` refuses, a broken shard, no usable sample, features that are no numbers.
pub(crate) fn read<T>(
    encoder: &Encoder,
    data: &Opened,
    batch_size: u32,
    cx: &Context,
    truth: impl Fn(&Pairs, usize) -> Result<Result<T, &'static str>>,
) -> Result<Samples<T>> {
    let mut samples = Samples {
        features: Matrix::default(),
        keys: Vec::new(),
        truths: Vec::new(),
        left_out: BTreeMap::new(),
    };
    if data.without_picture > 0 {
        samples.left_out.insert("no_picture".to_owned(), data.without_picture);
    }
    let indices: Vec<usize> = (0..data.pairs.len()).collect();
    // Whole batches of the encoder: a part of one costs as much as all of it.
    let batch = batch_size.max(1) as usize;
    for chunk in indices.chunks(batch * (READ / batch).max(1)) {
        cx.cancel.check()?;
        let pairs = data.pairs.read(chunk)?;
        let (mut rows, mut truths) = (Vec::new(), Vec::new());
        for row in 0..pairs.len() {
            match truth(&pairs, row)? {
                Ok(truth) => {
                    rows.push(row);
                    truths.push(truth);
                }
                Err(reason) => *samples.left_out.entry(reason.to_owned()).or_default() += 1,
            }
        }
        let found = encoder.images(&pairs, &rows)?;
        Encoder::check_finite(found.iter().flatten().map(Vec::as_slice), "pictures")?;
        for ((row, truth), features) in rows.into_iter().zip(truths).zip(found) {
            match features {
                Ok(features) => {
                    samples.features.push_normalized(&features);
                    samples.keys.push(pairs.keys().value(row).to_owned());
                    samples.truths.push(truth);
                }
                Err(reason) => *samples.left_out.entry(reason.to_owned()).or_default() += 1,
            }
        }
        cx.progress.update((chunk[0] + chunk.len()) as u64, data.pairs.len() as u64, "pictures");
    }
    if samples.keys.is_empty() {
        let reasons: Vec<String> =
            samples.left_out.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
        let reasons = if reasons.is_empty() { "no sample".to_owned() } else { reasons.join(", ") };
        return Err(Error::input(format!(
            "no picture that can be decoded and has what the task needs: {reasons}"
        )));
    }
    Ok(samples)
}
