//! GIF headers: the logical screen (GIF89a specification, section 18).

use super::{Details, Format, Header, Probed, le16};
use crate::Refused;

/// Reads the size of the logical screen.
pub(crate) fn read(bytes: &[u8]) -> Result<Probed, Refused> {
    let side = |at| {
        let truncated = || Refused::new("truncated", "in the screen descriptor");
        le16(bytes, at).map(u32::from).ok_or_else(truncated)
    };
    let (width, height) = (side(6)?, side(8)?);
    if bytes.len() < 13 {
        return Err(Refused::new("truncated", "in the screen descriptor"));
    }
    let header = Header { format: Format::Gif, width, height, orientation: 1 };
    Ok(Probed { header, details: Details::Gif })
}
