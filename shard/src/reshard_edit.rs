//! What resharding may change in a sample before others get it: personal data in captions is masked,
//! faces are blurred. A sample in which nothing is found is copied byte for byte.

use std::borrow::Cow;
use std::collections::BTreeMap;

use pixels::blur::{Face, blur, upright};
use pixels::{Format, Limits, Refused, decode, encode_jpeg, encode_png, encode_webp, probe};
use serde_json::{Map, Value};
use stage::pii::PiiKind;
use stage::{Context, Gate};

use crate::caption_mask::{Masked, mask_json, mask_text};
use crate::face_boxes::FaceBoxes;
use crate::picture_suffix::{PICTURES, is_called_picture, is_picture};
use crate::reshard::ReshardPlan;

/// Why a sample does not go out whose faces ought to be blurred: its picture cannot be decoded, or it
/// has another one, of whose faces nothing is known.
const UNDECODABLE: &str = "faces_undecodable";
pub(crate) const OTHER_PICTURE: &str = "faces_other_picture";

/// What is changed on the way; by default nothing.
#[derive(Debug)]
pub struct Edits {
    mask: Vec<PiiKind>,
    faces: Option<FaceBoxes>,
    quality: u8,
    /// For pictures that are blurred at once.
    gate: Gate,
}

impl Default for Edits {
    fn default() -> Self {
        Self { mask: Vec::new(), faces: None, quality: 0, gate: Gate::new(0) }
    }
}

/// Bytes that a pixel takes while it is blurred: itself, once more in the decoder or encoder, and
/// two numbers beside it.
const PIXEL: u64 = 16;

/// What was changed in the samples of a shard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edited {
    /// Tokens written into members, for each kind of [`PiiKind::ALL`].
    pub masked: [u64; 5],
    /// Samples with such a token.
    pub captions: u64,
    /// Samples with a picture of which a pixel was blurred.
    pub blurred: u64,
}

/// One sample as it is written.
pub(crate) enum Change<'a> {
    /// As it lies in its tar.
    None,
    /// With these members, in the order of the old ones.
    Members(Vec<Cow<'a, [u8]>>),
    /// Not at all, for this reason.
    Dropped(&'static str),
}

impl Edits {
    /// What this plan asks for; `faces` where it names boxes. A quarter of the memory is for
    /// pictures that are blurred.
    #[must_use]
    pub fn new(cx: &Context, plan: &ReshardPlan, faces: Option<FaceBoxes>) -> Self {
        let (mask, quality) = (plan.mask_pii.clone(), plan.blur_quality);
        Self { mask, faces, quality, gate: Gate::new(cx.memory / 4) }
    }

    /// Whether there is anything to look for.
    pub(crate) fn any(&self) -> bool {
        !self.mask.is_empty() || self.faces.is_some()
    }

    /// Whether the faces of this sample ought to be blurred and nobody looked for them.
    pub(crate) fn unknown_faces(&self, sample: usize) -> bool {
        self.faces.as_ref().is_some_and(|faces| faces.of(sample).is_none())
    }

    /// Whether faces are blurred and a sample with these members has a picture beside its own, of
    /// whose faces nothing is known.
    pub(crate) fn other_picture<'a>(&self, mut suffixes: impl Iterator<Item = &'a str>) -> bool {
        let mut pictures = 0;
        self.faces.is_some()
            && suffixes.any(|suffix| {
                pictures += u32::from(is_called_picture(suffix));
                pictures > 1
            })
    }

    /// Whether this sample has a face that is blurred.
    pub(crate) fn has_faces(&self, sample: usize) -> bool {
        self.faces.as_ref().and_then(|faces| faces.of(sample)).is_some_and(|f| !f.is_empty())
    }

    /// What becomes of a sample with these members; what is changed is counted.
    pub(crate) fn of<'a>(
        &self,
        sample: usize,
        members: &[(&str, &'a [u8])],
        edited: &mut Edited,
    ) -> Change<'a> {
        let faces = self.faces.as_ref().and_then(|faces| faces.of(sample)).unwrap_or_default();
        let own = PICTURES.iter().find(|own| members.iter().any(|(suffix, _)| suffix == *own));
        let other = |(suffix, member): &(&str, &[u8])| Some(suffix) != own && is_picture(member);
        if self.faces.is_some() && members.iter().any(other) {
            return Change::Dropped(OTHER_PICTURE);
        }
        let mut here = Masked::default();
        let mut new: Vec<Cow<'a, [u8]>> = Vec::with_capacity(members.len());
        let (mut changed, mut blurred) = (false, false);
        for &(suffix, member) in members {
            let change = match suffix {
                "txt" if !self.mask.is_empty() => mask_text(member, &self.mask, &mut here),
                "json" if !self.mask.is_empty() => mask_json(member, &self.mask, &mut here),
                picture if !faces.is_empty() && Some(&picture) == own => {
                    match self.blurred_picture(member, faces) {
                        Err(_) => return Change::Dropped(UNDECODABLE),
                        Ok(bytes) => {
                            blurred = bytes.is_some();
                            bytes
                        }
                    }
                }
                _ => None,
            };
            changed |= change.is_some();
            new.push(change.map_or(Cow::Borrowed(member), Cow::Owned));
        }
        edited.captions += u64::from(here.iter().any(|count| *count > 0));
        edited.blurred += u64::from(blurred);
        edited.masked.iter_mut().zip(here).for_each(|(all, here)| *all += here);
        if changed { Change::Members(new) } else { Change::None }
    }

    /// The picture with its faces blurred, in the format that it had: JPEG at this quality, PNG, or
    /// WebP without loss; what has another format becomes a JPEG. It is stored upright, and its EXIF
    /// data are gone. Nothing where no box holds a pixel.
    fn blurred_picture(&self, bytes: &[u8], faces: &[Face]) -> Result<Option<Vec<u8>>, Refused> {
        let limits = Limits::default();
        let header = probe(bytes, &limits)?;
        let pixels = u64::from(header.width) * u64::from(header.height);
        let _room = self.gate.enter(pixels.saturating_mul(PIXEL));
        let mut picture = decode(bytes, &limits)?;
        let faces: Vec<_> = faces.iter().map(|face| upright(*face, header.orientation)).collect();
        if !blur(&mut picture, &faces) {
            return Ok(None);
        }
        Ok(Some(match header.format {
            Format::Png => encode_png(&picture, 6),
            Format::WebP if picture.width.max(picture.height) <= 16_383 => encode_webp(&picture),
            _ => encode_jpeg(&picture, self.quality),
        }))
    }
}

impl Edited {
    /// Adds what another shard, or another part of this one, has.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.masked.iter_mut().zip(other.masked).for_each(|(sum, more)| *sum += more);
        self.captions += other.captions;
        self.blurred += other.blurred;
    }

    /// For people and statistics: `masked` (tokens by kind, those that were written),
    /// `masked_samples` and `blurred_samples`.
    #[must_use]
    pub fn to_json(&self) -> Map<String, Value> {
        let kinds = PiiKind::ALL.iter().zip(self.masked).filter(|(_, count)| *count > 0);
        let masked: BTreeMap<&str, u64> = kinds.map(|(kind, count)| (kind.name(), count)).collect();
        let mut fields = Map::new();
        fields.insert("masked".to_owned(), serde_json::json!(masked));
        fields.insert("masked_samples".to_owned(), self.captions.into());
        fields.insert("blurred_samples".to_owned(), self.blurred.into());
        fields
    }
}
