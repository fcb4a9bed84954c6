//! JPEG headers: a walk over the markers (ITU-T T.81, annex B).

use std::ops::Range;

use memchr::memchr;

use super::{Format, Header, Probed, be16, exif};
use crate::{Limits, Refused};

/// Scans times pixels may not exceed this many times the pixel cap: each scan of a progressive
/// file visits every block, whatever it codes. libjpeg's own progressive script has 10 scans.
const MAX_FULL_SIZE_SCANS: u64 = 12;

/// What the decoder wants to know besides size and orientation.
pub(crate) struct Details {
    /// Whether the end marker was seen.
    pub(crate) ended: bool,
    /// Whether the coded data can hold every block at one bit a block.
    pub(crate) plausible: bool,
    /// What the components mean.
    pub(crate) colours: Colours,
    /// The parts of the file that make the picture, in order: tables, frame and scan headers,
    /// coded data. Everything else (metadata, stray bytes) is no decoder's business.
    pub(crate) parts: Vec<Range<usize>>,
}

/// What the components of a JPEG mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colours {
    Gray,
    YCbCr,
    Rgb,
    Cmyk,
    Ycck,
}

/// Walks over all markers up to the end of the picture.
pub(crate) fn read(bytes: &[u8], limits: &Limits) -> Result<Probed, Refused> {
    let mut walk = Walk { orientation: 1, ..Walk::default() };
    walk.run(bytes, limits)?;
    let Some(frame) = walk.frame.take() else {
        let reason = if walk.ended { "broken" } else { "truncated" };
        return Err(Refused::new(reason, "no frame header"));
    };
    if walk.height_follows || (frame.height == 0 && frame.width != 0) {
        return Err(Refused::new("jpeg_dnl", "the height follows the first scan"));
    }
    // The order matters: a huge declared size is named before its scans are.
    limits.check_size(frame.width, frame.height)?;
    let pixels = u64::from(frame.width) * u64::from(frame.height);
    if u64::from(walk.scans) * pixels > MAX_FULL_SIZE_SCANS.saturating_mul(limits.max_pixels) {
        let detail = format!("{} scans of {}x{}", walk.scans, frame.width, frame.height);
        return Err(Refused::new("too_many_scans", detail));
    }
    let header = Header {
        format: Format::Jpeg,
        width: frame.width,
        height: frame.height,
        orientation: walk.orientation,
    };
    let plausible = walk.coded_bytes.saturating_mul(8) >= frame.blocks;
    let colours = walk.colours(&frame);
    let details = Details { ended: walk.ended, plausible, colours, parts: walk.parts };
    Ok(Probed { header, details: super::Details::Jpeg(details) })
}

#[derive(Default)]
struct Walk {
    frame: Option<Frame>,
    orientation: u8,
    scans: u32,
    coded_bytes: u64,
    height_follows: bool,
    ended: bool,
    jfif: bool,
    /// The colour transform of an Adobe segment.
    adobe: Option<u8>,
    parts: Vec<Range<usize>>,
}

struct Frame {
    width: u32,
    height: u32,
    /// 8x8 blocks of all components.
    blocks: u64,
    ids: Vec<u8>,
}

impl Walk {
    fn run(&mut self, bytes: &[u8], limits: &Limits) -> Result<(), Refused> {
        let mut at = 2;
        let mut exif_seen = false;
        // Coded data follow a scan header, with restarts and stuffed bytes between.
        let mut in_scan = false;
        while let Some(skipped) = bytes.get(at..).and_then(|rest| memchr(0xff, rest)) {
            if in_scan {
                self.coded_bytes += skipped as u64 + 1;
                self.keep(at..at + skipped);
            }
            let start = at + skipped;
            at = start + 1;
            let Some(&marker) = bytes.get(at) else { break };
            match marker {
                // A fill byte: the marker itself is yet to come.
                0xff => continue,
                // Stuffed 0xff, restarts, TEM, SOI: no length follows.
                0x00 | 0x01 | 0xd0..=0xd8 => {
                    at += 1;
                    if in_scan && marker != 0x01 && marker != 0xd8 {
                        self.keep(start..at);
                    }
                    continue;
                }
                0xd9 => {
                    self.ended = true;
                    break;
                }
                _ => in_scan = false,
            }
            let Some(length) = be16(bytes, at + 1).map(usize::from) else { break };
            let metadata = matches!(marker, 0xe0..=0xef | 0xfe);
            if length < 2 && !metadata {
                let detail = format!("segment ff{marker:02x} of {length} bytes");
                return Err(Refused::new("broken", detail));
            }
            let end = at + 1 + length.max(2);
            let Some(segment) = bytes.get(at + 3..end) else { break };
            at = end;
            match marker {
                // Tables: quantisation, Huffman, restart interval.
                0xc4 | 0xdb | 0xdd => self.keep(start..end),
                0xc0..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                    if self.frame.is_some() {
                        return Err(Refused::new("broken", "two frame headers"));
                    }
                    self.frame = Some(Frame::read(marker, segment)?);
                    self.keep(start..end);
                }
                0xda => {
                    self.scans += 1;
                    if self.scans > limits.max_scans {
                        let detail = format!("more than {}", limits.max_scans);
                        return Err(Refused::new("too_many_scans", detail));
                    }
                    self.keep(start..end);
                    in_scan = true;
                }
                0xdc => self.height_follows = true,
                0xe0 => self.jfif |= segment.starts_with(b"JFIF\0"),
                0xe1 if !exif_seen && segment.starts_with(b"Exif\0\0") => {
                    exif_seen = true;
                    self.orientation = exif::orientation(segment);
                }
                0xee if segment.starts_with(b"Adobe") => {
                    self.adobe = segment.get(11).copied().or(self.adobe);
                }
                _ => {}
            }
        }
        if in_scan && !self.ended {
            let rest = at.min(bytes.len())..bytes.len();
            self.coded_bytes += rest.len() as u64;
            self.keep(rest);
        }
        Ok(())
    }

    fn keep(&mut self, part: Range<usize>) {
        match self.parts.last_mut() {
            Some(last) if last.end == part.start => last.end = part.end,
            _ => self.parts.push(part),
        }
    }

    /// libjpeg's rules: JFIF means YCbCr, then Adobe's word, then the components' names.
    fn colours(&self, frame: &Frame) -> Colours {
        match (frame.ids.len(), self.adobe) {
            (1, _) => Colours::Gray,
            (3, Some(0)) if !self.jfif => Colours::Rgb,
            (3, None) if !self.jfif && frame.ids == *b"RGB" => Colours::Rgb,
            (3, _) => Colours::YCbCr,
            (_, None | Some(0)) => Colours::Cmyk,
            _ => Colours::Ycck,
        }
    }
}

impl Frame {
    /// Reads a frame header: precision, height, width, and per component id, sampling, table.
    fn read(marker: u8, segment: &[u8]) -> Result<Self, Refused> {
        let name = format!("SOF{}", marker - 0xc0);
        match marker {
            0xc0..=0xc2 => {}
            0xc3 | 0xcb => return Err(Refused::new("jpeg_lossless", name)),
            0xc9 | 0xca => return Err(Refused::new("jpeg_arithmetic", name)),
            _ => return Err(Refused::new("jpeg_hierarchical", name)),
        }
        let broken = || Refused::new("broken", "frame header");
        let precision = *segment.first().ok_or_else(broken)?;
        if precision != 8 {
            return Err(Refused::new("jpeg_precision", format!("{precision} bits a sample")));
        }
        let height = u32::from(be16(segment, 1).ok_or_else(broken)?);
        let width = u32::from(be16(segment, 3).ok_or_else(broken)?);
        let count = usize::from(*segment.get(5).ok_or_else(broken)?);
        let components = segment.get(6..6 + count * 3).ok_or_else(broken)?;
        if !matches!(count, 1 | 3 | 4) {
            return Err(Refused::new("broken", format!("{count} components")));
        }
        let sampling =
            |component: &[u8]| (u32::from(component[1] >> 4), u32::from(component[1] & 15));
        let all: Vec<(u32, u32)> = components.chunks_exact(3).map(sampling).collect();
        if all.iter().any(|&(h, v)| !(1..=4).contains(&h) || !(1..=4).contains(&v)) {
            return Err(Refused::new("broken", "sampling factors"));
        }
        let h_max = all.iter().map(|&(h, _)| h).max().unwrap_or(1);
        let v_max = all.iter().map(|&(_, v)| v).max().unwrap_or(1);
        // A.1.1 and A.2.3: the size of a component, and its blocks in a scan of its own, which is
        // never more than in an interleaved scan.
        let blocks = all
            .iter()
            .map(|&(h, v)| {
                let across = (width * h).div_ceil(h_max).div_ceil(8);
                let down = (height * v).div_ceil(v_max).div_ceil(8);
                u64::from(across) * u64::from(down)
            })
            .sum();
        let ids = components.chunks_exact(3).map(|component| component[0]).collect();
        Ok(Self { width, height, blocks, ids })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(marker: u8, precision: u8, width: u16, height: u16) -> Vec<u8> {
        let mut bytes = vec![0xff, 0xd8, 0xff, marker, 0, 11, precision];
        bytes.extend(height.to_be_bytes());
        bytes.extend(width.to_be_bytes());
        bytes.extend([1, 1, 0x11, 0]);
        bytes
    }

    fn reason(bytes: &[u8]) -> Option<&'static str> {
        read(bytes, &Limits::default()).err().map(|refused| refused.reason)
    }

    #[test]
    fn kinds_that_are_not_read_are_refused_by_name() {
        assert_eq!(reason(&frame(0xc0, 8, 4, 3)), None);
        assert_eq!(reason(&frame(0xc2, 8, 4, 3)), None);
        assert_eq!(reason(&frame(0xc1, 12, 4, 3)), Some("jpeg_precision"));
        assert_eq!(reason(&frame(0xc3, 8, 4, 3)), Some("jpeg_lossless"));
        assert_eq!(reason(&frame(0xc5, 8, 4, 3)), Some("jpeg_hierarchical"));
        assert_eq!(reason(&frame(0xc9, 8, 4, 3)), Some("jpeg_arithmetic"));
        assert_eq!(reason(&frame(0xca, 8, 4, 3)), Some("jpeg_arithmetic"));
        assert_eq!(reason(&frame(0xc0, 8, 4, 0)), Some("jpeg_dnl"));
        assert_eq!(reason(&frame(0xc0, 8, 0, 0)), Some("zero_size"));
        assert_eq!(reason(&frame(0xc0, 8, 65_500, 65_500)), Some("side_too_large"));
    }

    #[test]
    fn an_end_marker_inside_a_segment_is_not_the_end() {
        let mut bytes = vec![0xff, 0xd8, 0xff, 0xe1, 0, 6, 0xff, 0xd9, 0xff, 0xd9];
        bytes.extend(&frame(0xc0, 8, 4, 3)[2..]);
        let probed = read(&bytes, &Limits::default()).unwrap();
        assert_eq!((probed.header.width, probed.header.height), (4, 3));
        assert!(matches!(
            probed.details,
            super::super::Details::Jpeg(Details { ended: false, .. })
        ));
    }

    #[test]
    fn data_too_short_for_the_declared_blocks_is_implausible() {
        let mut bytes = frame(0xc0, 8, 6000, 6000);
        bytes.extend([0xff, 0xda, 0, 8, 1, 1, 0, 0, 63, 0]);
        bytes.extend([0x55; 64]);
        bytes.extend([0xff, 0xd9]);
        let probed = read(&bytes, &Limits::default()).unwrap();
        assert!(matches!(
            probed.details,
            super::super::Details::Jpeg(Details { ended: true, plausible: false, .. })
        ));
    }
}
