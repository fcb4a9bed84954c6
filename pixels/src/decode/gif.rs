//! The first frame of a GIF: own LZW, so that nothing but the frame is ever held, and colours
//! under transparency stay what they are.

use super::Raw;
use crate::probe::gif::Details;
use crate::{Header, Picture, Refused};

/// Decodes the first frame onto its screen. Around the frame the picture is transparent, in the
/// colour of the transparent index or of index 0, as Pillow leaves it.
pub(super) fn decode(bytes: &[u8], header: &Header, details: &Details) -> Result<Raw, Refused> {
    let (width, height) = (header.width as usize, header.height as usize);
    let (frame_width, frame_height) = (details.width as usize, details.height as usize);
    let mut indices = vec![0_u8; frame_width * frame_height];
    unpack(bytes, details.data, &mut indices)?;

    let colours = palette(&bytes[details.palette.clone()]);
    let around = colours[usize::from(details.transparent.unwrap_or(0))];
    let mut rgb = around.repeat(width * height);
    let mut alpha = vec![0_u8; width * height];
    let rows = row_order(frame_height, details.interlaced);
    for (row, y) in indices.chunks_exact(frame_width).zip(rows) {
        let at = (details.top as usize + y) * width + details.left as usize;
        let pixels = rgb[at * 3..].chunks_exact_mut(3).zip(&mut alpha[at..]);
        for (&index, (pixel, alpha)) in row.iter().zip(pixels) {
            pixel.copy_from_slice(&colours[usize::from(index)]);
            *alpha = if details.transparent == Some(index) { 0 } else { 255 };
        }
    }
    let picture = Picture { width: header.width, height: header.height, rgb };
    Ok(Raw { picture, alpha: Some(alpha) })
}

/// All 256 colours; those that the file does not give are the greys of their index, as in Pillow.
fn palette(bytes: &[u8]) -> Vec<[u8; 3]> {
    let mut colours: Vec<[u8; 3]> = (0..=255).map(|index| [index; 3]).collect();
    for (colour, given) in colours.iter_mut().zip(bytes.chunks_exact(3)) {
        colour.copy_from_slice(given);
    }
    colours
}

/// Where each stored row belongs: interlaced files store every eighth row, then those between.
fn row_order(height: usize, interlaced: bool) -> Vec<usize> {
    if !interlaced {
        return (0..height).collect();
    }
    let passes = [(0, 8), (4, 8), (2, 4), (1, 2)];
    passes.iter().flat_map(|&(first, step)| (first..height).step_by(step)).collect()
}

const MAX_CODES: usize = 4096;

/// Unpacks LZW (GIF89a specification, appendix F) until every pixel is there.
fn unpack(bytes: &[u8], at: usize, out: &mut [u8]) -> Result<(), Refused> {
    let mut data = Blocks { bytes, at: at + 1, left: 0 };
    let size = *bytes.get(at).ok_or_else(truncated)?;
    // Above 8 the colour's upper bits are lost; Pillow and OpenCV read such files, so do we.
    if !(1..=11).contains(&size) {
        return Err(Refused::new("broken", format!("code size {size}")));
    }
    let clear = 1_usize << size;
    let mut table = Table::new(clear);
    let mut width = u32::from(size) + 1;
    let mut last: Option<usize> = None;
    let (mut bits, mut held) = (0_u32, 0_u32);
    let mut filled = 0;
    while filled < out.len() {
        while held < width {
            bits |= u32::from(data.next()?) << held;
            held += 8;
        }
        let code = (bits & ((1 << width) - 1)) as usize;
        bits >>= width;
        held -= width;
        if code == clear {
            table.next = clear + 2;
            width = u32::from(size) + 1;
            last = None;
            continue;
        }
        if code == clear + 1 {
            return Err(Refused::new("broken", "fewer pixels than the frame has"));
        }
        if let Some(before) = last {
            let first = match code {
                _ if code < table.next => table.first[code],
                _ if code == table.next && table.next < MAX_CODES => table.first[before],
                _ => return Err(Refused::new("broken", format!("code {code}"))),
            };
            table.add(before, first);
            if table.next >= 1 << width && width < 12 {
                width += 1;
            }
        } else if code > clear {
            return Err(Refused::new("broken", format!("code {code}")));
        }
        filled += table.write(code, &mut out[filled..]);
        last = Some(code);
    }
    Ok(())
}

/// The strings known so far: each is another string and one more byte.
struct Table {
    prefix: Vec<u16>,
    suffix: Vec<u8>,
    first: Vec<u8>,
    length: Vec<u16>,
    next: usize,
}

impl Table {
    fn new(clear: usize) -> Self {
        let bytes: Vec<u8> = (0..MAX_CODES).map(|code| code as u8).collect();
        Self {
            prefix: vec![0; MAX_CODES],
            suffix: bytes.clone(),
            first: bytes,
            length: vec![1; MAX_CODES],
            next: clear + 2,
        }
    }

    fn add(&mut self, before: usize, suffix: u8) {
        if self.next < MAX_CODES {
            self.prefix[self.next] = before as u16;
            self.suffix[self.next] = suffix;
            self.first[self.next] = self.first[before];
            self.length[self.next] = self.length[before] + 1;
            self.next += 1;
        }
    }

    /// Writes a string from its end, as much of it as fits, and says how much that was.
    fn write(&self, mut code: usize, out: &mut [u8]) -> usize {
        let length = usize::from(self.length[code]);
        let fits = length.min(out.len());
        for at in (0..length).rev() {
            if at < fits {
                out[at] = self.suffix[code];
            }
            code = usize::from(self.prefix[code]);
        }
        fits
    }
}

/// The bytes of a chain of sub-blocks.
struct Blocks<'a> {
    bytes: &'a [u8],
    at: usize,
    left: u8,
}

impl Blocks<'_> {
    fn next(&mut self) -> Result<u8, Refused> {
        if self.left == 0 {
            self.left = self.take()?;
            if self.left == 0 {
                return Err(Refused::new("truncated", "the data end before the frame does"));
            }
        }
        self.left -= 1;
        self.take()
    }

    fn take(&mut self) -> Result<u8, Refused> {
        let byte = *self.bytes.get(self.at).ok_or_else(truncated)?;
        self.at += 1;
        Ok(byte)
    }
}

fn truncated() -> Refused {
    Refused::new("truncated", "the file ends within the frame")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first bytes of the worked example that every GIF text has: 10 by 10, three colours,
    /// rows of runs; here its first 20 pixels.
    const DATA: [u8; 24] = [
        2, 22, 0x8c, 0x2d, 0x99, 0x87, 0x2a, 0x1c, 0xdc, 0x33, 0xa0, 0x02, 0x75, 0xec, 0x95, 0xfa,
        0xa8, 0xde, 0x60, 0x8c, 0x04, 0x91, 0x4c, 0x01,
    ];

    #[test]
    fn strings_are_unpacked() {
        let mut bytes = DATA.to_vec();
        bytes.push(0);
        let mut out = [9; 100];
        unpack(&bytes, 0, &mut out).unwrap();
        assert_eq!(out[..10], [1, 1, 1, 1, 1, 2, 2, 2, 2, 2]);
        assert_eq!(out[30..40], [1, 1, 1, 0, 0, 0, 0, 2, 2, 2]);
        assert_eq!(out[90..], [2, 2, 2, 2, 2, 1, 1, 1, 1, 1]);
        let one_more = unpack(&bytes, 0, &mut [9; 101]).unwrap_err();
        assert_eq!(one_more.reason, "broken");
        for end in 0..23 {
            assert_eq!(unpack(&bytes[..end], 0, &mut out).unwrap_err().reason, "truncated");
        }
    }

    #[test]
    fn codes_from_nowhere_are_broken() {
        // Code size 2, 3-bit codes: clear, 7.
        assert_eq!(unpack(&[2, 1, 0b111_100, 0], 0, &mut [0; 4]).unwrap_err().reason, "broken");
        assert_eq!(unpack(&[12, 1, 0, 0], 0, &mut [0; 4]).unwrap_err().reason, "broken");
    }

    #[test]
    fn interlaced_rows_come_eighth_by_eighth() {
        assert_eq!(row_order(10, true), [0, 8, 4, 2, 6, 1, 3, 5, 7, 9]);
        assert_eq!(row_order(1, true), [0]);
    }
}
