//! What this process and a worker say to each other: frames of a length and bytes.
//!
//! First the plan, as JSON, and a byte back; then, for each picture, the boxes of its faces (four
//! little-endian doubles each) and its bytes, and back either a word or sizes, EXIF and bytes.

use std::io::{self, Read, Write};

use super::super::Reason;
use super::super::picture::Finished;
use pixels::blur::Face;

/// Largest frame: a body has at most 1 GiB, a picture of 40 megapixels less than 200 MB.
const MAX: u64 = 1 << 30;

/// Writes one frame.
pub(super) fn put(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(&(bytes.len() as u64).to_le_bytes())?;
    to.write_all(bytes)
}

/// Reads one frame. Memory grows with what comes, not with what is announced.
pub(super) fn take(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 8];
    from.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame over 1 GiB"));
    }
    let mut bytes = Vec::new();
    from.take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == length { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Boxes as bytes: JSON would not give every double back.
pub(super) fn from_faces(faces: &[Face]) -> Vec<u8> {
    faces.iter().flatten().flat_map(|edge| edge.to_le_bytes()).collect()
}

/// The boxes in these bytes.
pub(super) fn to_faces(bytes: &[u8]) -> Vec<Face> {
    let edges: Vec<f64> =
        bytes.as_chunks::<8>().0.iter().map(|edge| f64::from_le_bytes(*edge)).collect();
    edges.as_chunks::<4>().0.to_vec()
}

/// Writes what became of a picture.
pub(super) fn put_result(to: &mut impl Write, result: &Result<Finished, Reason>) -> io::Result<()> {
    match result {
        Err(reason) => put(to, reason.word().as_bytes())?,
        Ok(made) => {
            put(to, b"")?;
            let sizes = [made.size.0, made.size.1, made.original_size.0, made.original_size.1];
            put(to, &sizes.map(u32::to_le_bytes).concat())?;
            put(to, made.exif.as_deref().unwrap_or_default().as_bytes())?;
            put(to, &made.bytes)?;
        }
    }
    to.flush()
}

/// Reads what became of a picture.
pub(super) fn take_result(from: &mut impl Read) -> io::Result<Result<Finished, Reason>> {
    let nonsense = || io::Error::new(io::ErrorKind::InvalidData, "not a worker's answer");
    let word = take(from)?;
    if !word.is_empty() {
        let known = WORDS.iter().find(|known| known.as_bytes() == word);
        return match (known, word.as_slice()) {
            (_, b"not_an_image") => Ok(Err(Reason::NotAnImage)),
            (_, b"decoder_panic") => Ok(Err(Reason::DecoderPanic)),
            (Some(known), _) => Ok(Err(Reason::Picture(known))),
            (None, _) => Err(nonsense()),
        };
    }
    let sizes = take(from)?;
    let sizes: Vec<u32> =
        sizes.as_chunks::<4>().0.iter().map(|size| u32::from_le_bytes(*size)).collect();
    let [width, height, original_width, original_height] = sizes[..] else {
        return Err(nonsense());
    };
    let exif = String::from_utf8(take(from)?).map_err(|_| nonsense())?;
    Ok(Ok(Finished {
        bytes: take(from)?,
        size: (width, height),
        original_size: (original_width, original_height),
        // Even without a tag it is `{}`.
        exif: (!exif.is_empty()).then_some(exif),
    }))
}

/// The words of [`pixels::Refused`].
const WORDS: [&str; 15] = [
    "aspect_too_large",
    "broken",
    "empty",
    "jpeg_arithmetic",
    "jpeg_dnl",
    "jpeg_hierarchical",
    "jpeg_lossless",
    "jpeg_precision",
    "output_too_large",
    "side_too_large",
    "too_many_pixels",
    "too_many_scans",
    "truncated",
    "unsupported_format",
    "zero_size",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn through(result: &Result<Finished, Reason>) -> Result<Finished, Reason> {
        let mut pipe = Vec::new();
        put_result(&mut pipe, result).unwrap();
        take_result(&mut pipe.as_slice()).unwrap()
    }

    #[test]
    fn what_a_worker_says_is_what_is_heard() {
        let made = Finished {
            bytes: vec![1, 2, 3],
            size: (4, 5),
            original_size: (6, 7),
            exif: Some("{}".to_owned()),
        };
        for result in [
            Ok(Finished { exif: None, bytes: Vec::new(), ..made.clone() }),
            Ok(made),
            Err(Reason::Picture("truncated")),
            Err(Reason::NotAnImage),
            Err(Reason::DecoderPanic),
        ] {
            assert_eq!(through(&result), result);
        }
        let faces = vec![[0.1, 1.0 / 3.0, f64::MIN_POSITIVE, 1.0], [0.0; 4]];
        assert_eq!(to_faces(&from_faces(&faces)), faces);
    }

    #[test]
    fn every_word_of_the_decoders_is_known() {
        let table = include_str!("../../../../pixels/src/limits.rs");
        let cells =
            table.lines().filter_map(|line| line.strip_prefix("/// | `")?.split('|').next());
        let words = cells.flat_map(|cell| cell.split('`').step_by(2));
        let mut count = 0;
        for word in words.filter(|word| *word != "decoder_panic") {
            assert!(WORDS.contains(&word), "`{word}` is missing");
            count += 1;
        }
        assert_eq!(count, WORDS.len());
    }

    #[test]
    fn a_length_without_bytes_allocates_nothing_and_is_an_error() {
        assert!(take(&mut [0xff; 8].as_slice()).is_err());
        let announced = [&(1_u64 << 29).to_le_bytes()[..], b"abc"].concat();
        assert!(take(&mut announced.as_slice()).is_err());
        assert!(take_result(&mut [&3_u64.to_le_bytes()[..], b"abc"].concat().as_slice()).is_err());
    }
}
