//! Bytes out of a few words: what a case writes down instead of a large or binary file.

use std::io::Write;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use pixels::Picture;
use serde::Deserialize;

/// Pieces one behind the other.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub(crate) struct Pieces(Vec<Piece>);

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Piece {
    /// UTF-8.
    Text(String),
    /// UTF-16, little endian, with its mark.
    Utf16(String),
    /// Two digits a byte; blanks do not count.
    Hex(String),
    /// The same so many times.
    Repeat { times: usize, of: Pieces },
    /// A gzip member.
    Gzip(Pieces),
    /// A zlib stream.
    Zlib(Pieces),
    /// The first bytes.
    Start { bytes: usize, of: Pieces },
    /// All but the first bytes.
    Skip { bytes: usize, of: Pieces },
    /// All but the last bytes.
    Without { last: usize, of: Pieces },
    /// One byte changed.
    Flip { at: usize, of: Pieces },
    /// A sound picture in which neighbours differ.
    Jpeg { width: u32, height: u32 },
    /// The same.
    Png { width: u32, height: u32 },
    /// The same.
    Webp { width: u32, height: u32 },
    /// A JPEG segment: marker, length, body.
    Segment { marker: String, body: Pieces },
    /// A PNG chunk: length, kind, data, checksum.
    Chunk { kind: String, data: Pieces },
    /// A WARC record of type metadata; `length` where it lies about its body.
    Record {
        #[serde(default)]
        length: Option<u64>,
        body: Pieces,
    },
    /// The WAT record of a page: its pictures' addresses and alt texts.
    Page { images: Vec<(String, String)> },
    /// A tar member; `size` where it lies about its data, `kind` where it is no file.
    Member {
        name: String,
        #[serde(default)]
        size: Option<u64>,
        #[serde(default)]
        kind: Option<char>,
        data: Pieces,
    },
}

impl Pieces {
    /// All bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(Piece::bytes).collect()
    }
}

impl Piece {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.clone().into_bytes(),
            Self::Utf16(text) => std::iter::once(0xfeff)
                .chain(text.encode_utf16())
                .flat_map(u16::to_le_bytes)
                .collect(),
            Self::Hex(digits) => hex(digits),
            Self::Repeat { times, of } => of.bytes().repeat(*times),
            Self::Gzip(of) => {
                let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
                gzip.write_all(&of.bytes()).unwrap();
                gzip.finish().unwrap()
            }
            Self::Zlib(of) => {
                let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
                zlib.write_all(&of.bytes()).unwrap();
                zlib.finish().unwrap()
            }
            Self::Start { bytes, of } => of.bytes()[..*bytes].to_vec(),
            Self::Skip { bytes, of } => of.bytes()[*bytes..].to_vec(),
            Self::Without { last, of } => {
                let of = of.bytes();
                of[..of.len() - last].to_vec()
            }
            Self::Flip { at, of } => {
                let mut of = of.bytes();
                of[*at] ^= 1;
                of
            }
            Self::Jpeg { width, height } => pixels::encode_jpeg(&busy(*width, *height), 90),
            Self::Png { width, height } => pixels::encode_png(&busy(*width, *height), 6),
            Self::Webp { width, height } => pixels::encode_webp(&busy(*width, *height)),
            Self::Segment { marker, body } => {
                let body = body.bytes();
                let length = u16::try_from(body.len() + 2).unwrap().to_be_bytes();
                [&[0xff][..], &hex(marker), &length, &body].concat()
            }
            Self::Chunk { kind, data } => {
                let data = data.bytes();
                let mut sum = flate2::Crc::new();
                sum.update(kind.as_bytes());
                sum.update(&data);
                let length = u32::try_from(data.len()).unwrap().to_be_bytes();
                [&length[..], kind.as_bytes(), &data, &sum.sum().to_be_bytes()].concat()
            }
            Self::Record { length, body } => record(*length, &body.bytes()),
            Self::Page { images } => record(None, page(images).as_bytes()),
            Self::Member { name, size, kind, data } => {
                member(name, *size, kind.unwrap_or('0'), &data.bytes())
            }
        }
    }
}

fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u32> =
        digits.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).unwrap()).collect();
    assert!(digits.len().is_multiple_of(2), "half a byte");
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

/// A picture in which neighbours differ, so that its file has data to lose.
fn busy(width: u32, height: u32) -> Picture {
    let rgb =
        (0..width * height * 3).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    Picture { width, height, rgb }
}

fn record(length: Option<u64>, body: &[u8]) -> Vec<u8> {
    let length = length.unwrap_or(body.len() as u64);
    let head = format!(
        "WARC/1.0\r\nWARC-Type: metadata\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body, b"\r\n\r\n"].concat()
}

fn page(images: &[(String, String)]) -> String {
    let links: Vec<_> = images
        .iter()
        .map(|(url, alt)| serde_json::json!({"path": "IMG@/src", "url": url, "alt": alt}))
        .collect();
    serde_json::json!({
        "Container": {"Filename": "t.warc.gz"},
        "Envelope": {
            "WARC-Header-Metadata": {"WARC-Target-URI": "http://a.example/page.html"},
            "Payload-Metadata": {"HTTP-Response-Metadata": {"HTML-Metadata": {"Links": links}}}
        }
    })
    .to_string()
}

fn member(name: &str, size: Option<u64>, kind: char, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0_u8; 512];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    bytes[100..108].copy_from_slice(b"0000644\0");
    let size = format!("{:011o}", size.unwrap_or(data.len() as u64));
    bytes[124..135].copy_from_slice(size.as_bytes());
    bytes[156] = kind as u8;
    bytes[257..265].copy_from_slice(b"ustar\x0000");
    bytes[148..156].fill(b' ');
    let sum: u32 = bytes.iter().map(|&b| u32::from(b)).sum();
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}
