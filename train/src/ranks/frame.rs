//! Messages between ranks on a byte stream: kind (1 byte), length (8, little endian), content.

use std::io::{self, Read, Write};

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Frame {
    /// The first of a rank: who it is.
    Hello = 1,
    /// The answer of rank 0.
    Welcome = 2,
    /// A part of an exchange.
    Data = 3,
    /// A sign of life.
    Beat = 4,
    /// An error that ends the training of all.
    Abort = 5,
    /// The last of a rank.
    Bye = 6,
}

impl Frame {
    fn of(byte: u8) -> io::Result<Self> {
        [Self::Hello, Self::Welcome, Self::Data, Self::Beat, Self::Abort, Self::Bye]
            .into_iter()
            .find(|frame| *frame as u8 == byte)
            .ok_or_else(|| broken(&format!("message of kind {byte}")))
    }
}

/// Bytes of a message before its content.
pub(super) const HEAD: usize = 9;
/// Longest text of an error.
pub(super) const TEXT: u64 = 64 << 10;

pub(super) fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// Writes the head of a message.
pub(super) fn head(out: &mut (impl Write + ?Sized), frame: Frame, length: u64) -> io::Result<()> {
    let mut bytes = [0; HEAD];
    bytes[0] = frame as u8;
    bytes[1..].copy_from_slice(&length.to_le_bytes());
    out.write_all(&bytes)
}

/// Writes a message.
pub(super) fn write(
    out: &mut (impl Write + ?Sized),
    frame: Frame,
    content: &[u8],
) -> io::Result<()> {
    head(out, frame, content.len() as u64)?;
    out.write_all(content)?;
    out.flush()
}

/// Reads the head of a message.
pub(super) fn read_head(input: &mut impl Read) -> io::Result<(Frame, u64)> {
    let mut bytes = [0; HEAD];
    input.read_exact(&mut bytes)?;
    let [kind, length @ ..] = bytes;
    Ok((Frame::of(kind)?, u64::from_le_bytes(length)))
}

/// Reads content of this length, of at most `most` bytes.
pub(super) fn read_content(input: &mut impl Read, length: u64, most: u64) -> io::Result<Vec<u8>> {
    if length > most {
        return Err(broken(&format!("message of {length} bytes, at most {most} were expected")));
    }
    let mut content = Vec::new();
    input.take(length).read_to_end(&mut content)?;
    if content.len() as u64 == length {
        return Ok(content);
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

/// Numbers written at a time: what is being written is never held twice.
const CHUNK: usize = 1 << 16;

/// Writes numbers as the content of a message whose head is written.
pub(super) fn write_floats(out: &mut (impl Write + ?Sized), values: &[f32]) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(4 * CHUNK.min(values.len()));
    for chunk in values.chunks(CHUNK) {
        buffer.clear();
        buffer.extend(chunk.iter().flat_map(|value| value.to_le_bytes()));
        out.write_all(&buffer)?;
    }
    out.flush()
}

/// Reads numbers of a message whose head is read, one after the other.
pub(super) fn read_floats(
    input: &mut impl Read,
    values: &mut [f32],
    put: impl Fn(&mut f32, f32),
) -> io::Result<()> {
    let mut buffer = vec![0; 4 * CHUNK.min(values.len())];
    for chunk in values.chunks_mut(CHUNK) {
        let bytes = &mut buffer[..4 * chunk.len()];
        input.read_exact(bytes)?;
        for (value, bytes) in chunk.iter_mut().zip(bytes.as_chunks::<4>().0) {
            put(value, f32::from_le_bytes(*bytes));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_back() {
        let mut bytes = Vec::new();
        write(&mut bytes, Frame::Abort, b"gone").unwrap();
        assert_eq!(bytes, b"\x05\x04\0\0\0\0\0\0\0gone");
        let mut input = bytes.as_slice();
        let (frame, length) = read_head(&mut input).unwrap();
        assert_eq!(frame, Frame::Abort);
        assert_eq!(read_content(&mut input, length, TEXT).unwrap(), b"gone");
    }

    #[test]
    fn what_no_rank_says_is_refused_before_memory_is_taken() {
        assert!(read_head(&mut [9_u8; 9].as_slice()).is_err(), "an unknown kind");
        let most = read_content(&mut [0_u8; 4].as_slice(), u64::MAX, 16).unwrap_err();
        assert!(most.to_string().contains("at most 16"), "{most}");
        assert!(read_content(&mut [0_u8; 4].as_slice(), 5, 16).is_err(), "a cut message");
    }

    #[test]
    fn numbers_come_back_to_the_last_bit() {
        let values: Vec<f32> = (0..CHUNK + 3).map(|i| (i as f32).sin()).collect();
        let mut bytes = Vec::new();
        write_floats(&mut bytes, &values).unwrap();
        let mut back = vec![0.0; values.len()];
        read_floats(&mut bytes.as_slice(), &mut back, |slot, value| *slot = value).unwrap();
        assert!(values == back);
    }
}
