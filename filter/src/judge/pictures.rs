//! What judges of pictures share: decoding a batch on all threads, and opening a network.

use models::onnx::Onnx;
use pixels::{Limits, Picture};
use stage::{Context, Error, Pairs, Result, in_parallel};

use super::is_success;
use crate::asset::Asset;

/// Largest file of a network.
const MOST_BYTES: u64 = 1 << 30;

/// What `look` finds in each picture of a batch, on the context's threads, in the order of the
/// rows: `None` for a row without success, and the word for why where a picture cannot be decoded
/// (`no_image`, or the decoder's own).
///
/// # Errors
/// The first of `look`, or an interruption.
pub(super) fn look_at<T: Send>(
    pairs: &Pairs,
    context: &Context,
    look: impl Fn(&Picture) -> Result<T> + Sync,
) -> Result<Vec<Option<Result<T, &'static str>>>> {
    let limits = Limits::default();
    in_parallel(context.threads, pairs.len(), |i| {
        context.cancel.check()?;
        if !is_success(pairs, i) {
            return Ok(None);
        }
        let Some(bytes) = pairs.image(i) else { return Ok(Some(Err("no_image"))) };
        Ok(Some(match pixels::decode_rgb_first(bytes, &limits) {
            Ok(picture) => Ok(look(&picture)?),
            Err(refused) => Err(refused.reason),
        }))
    })
}

/// Opens a network, after its checksum.
///
/// # Errors
/// When it is not there, not readable, or another file.
pub(super) fn open_network(asset: &Asset) -> Result<Onnx> {
    let read = || {
        let blob = asset.open()?;
        if blob.len() > MOST_BYTES {
            let message = format!("{} bytes are no small network", blob.len());
            return Err(Error::input(message).at(blob.name()));
        }
        Onnx::read(&blob.read_all()?).map_err(|e| e.at(blob.name()))
    };
    read().map_err(|e| e.hint("docs/judges.md says where the models come from"))
}
