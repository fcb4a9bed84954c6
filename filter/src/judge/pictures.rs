//! What judges of pictures share: decoding a batch on all threads, and opening a network.

use std::path::Path;

use models::onnx::Onnx;
use pixels::{Limits, Picture};
use stage::{Context, Error, Pairs, Result, in_parallel};

use super::is_success;

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

/// Opens a network and holds it against the digest that the recipe gives.
///
/// # Errors
/// When it is not there, not readable, or another file.
pub(super) fn open_network(path: &str, sha256: Option<&str>) -> Result<Onnx> {
    if !Path::new(path).is_file() {
        return Err(Error::input(format!("there is no model `{path}`"))
            .hint("docs/judges.md says where the models come from"));
    }
    let network = Onnx::open(Path::new(path))?;
    match sha256 {
        Some(sha256) if !sha256.eq_ignore_ascii_case(network.sha256()) => {
            let message = format!("sha256 {}, not {sha256}", network.sha256());
            Err(Error::input(message).at(path.to_owned()).hint("another file lies under this name"))
        }
        _ => Ok(network),
    }
}

/// Checks the field `sha256` of a plan.
pub(super) fn validate_sha256(sha256: Option<&str>) -> Result<()> {
    match sha256 {
        Some(hex) if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) => {
            Err(Error::recipe(format!("sha256 must be 64 hex digits, got `{hex}`")))
        }
        _ => Ok(()),
    }
}
