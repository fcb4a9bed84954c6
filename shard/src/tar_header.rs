//! One 512-byte tar header: ustar written; ustar, GNU and v7 read.
//!
//! Source: POSIX.1-2017 `pax`, "ustar Interchange Format"; the GNU tar manual, "Basic Tar Format".

/// Tar's unit.
pub(crate) const BLOCK: usize = 512;
/// One header or one piece of data.
pub(crate) type Block = [u8; BLOCK];

/// Largest member that is accepted, bytes.
pub const MAX_MEMBER: u64 = 64 << 20;
/// Largest long-name or PAX block that is accepted, bytes.
pub(crate) const MAX_EXTENSION: u64 = 64 << 10;

const CHECKSUM: std::ops::Range<usize> = 148..156;

/// What a header says.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) name: Vec<u8>,
    pub(crate) size: u64,
}

/// What follows a header.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    /// GNU `L`: the data is the next member's name.
    LongName,
    /// PAX `x`: the data are records for the next member.
    Pax,
    /// PAX `g`: the data are records for all that follows.
    GlobalPax,
    /// Anything that has no place in a shard, in words.
    Refused(&'static str),
}

/// The ustar header of a regular file: mode 0444, uid, gid and mtime 0, no user or group name.
///
/// img2dataset writes `bigdata` as user and group and the clock as mtime; no reader looks at
/// either, and without them equal pairs give equal bytes.
pub(crate) fn encode(name: &str, size: u64) -> Block {
    let mut block = [0; BLOCK];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice(b"0000444\0");
    block[108..116].copy_from_slice(b"0000000\0");
    block[116..124].copy_from_slice(b"0000000\0");
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[136..148].copy_from_slice(b"00000000000\0");
    block[156] = b'0';
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[329..337].copy_from_slice(b"0000000\0");
    block[337..345].copy_from_slice(b"0000000\0");
    let sum = checksums(&block).0;
    block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// Reads a header, or says why it is none. A block of zeros is `None`: the archive ends there.
pub(crate) fn decode(block: &Block) -> Result<Option<Header>, String> {
    if block.iter().all(|&b| b == 0) {
        return Ok(None);
    }
    let stored = number(&block[CHECKSUM]).map_err(|_| "header without a checksum".to_owned())?;
    // Old tars summed signed bytes; every reader accepts both.
    let (unsigned, signed) = checksums(block);
    if stored != u64::from(unsigned) && i64::try_from(stored) != Ok(i64::from(signed)) {
        return Err(format!("header checksum is {unsigned}, the header says {stored}"));
    }
    let size = number(&block[124..136]).map_err(|why| format!("size {why}"))?;
    let mut name = text(&block[..100]).to_vec();
    let prefix = text(&block[345..500]);
    // GNU keeps times where POSIX keeps the prefix.
    if &block[257..263] == b"ustar\0" && !prefix.is_empty() {
        name = [prefix, b"/", &name].concat();
    }
    let kind = match block[156] {
        0 if name.ends_with(b"/") => Kind::Directory,
        0 | b'0' | b'7' => Kind::File,
        b'5' => Kind::Directory,
        b'L' => Kind::LongName,
        b'x' => Kind::Pax,
        b'g' => Kind::GlobalPax,
        b'1' => Kind::Refused("hard link"),
        b'2' | b'K' => Kind::Refused("symbolic link"),
        b'3' => Kind::Refused("character device"),
        b'4' => Kind::Refused("block device"),
        b'6' => Kind::Refused("named pipe"),
        b'S' => Kind::Refused("sparse file"),
        _ => Kind::Refused("member of unknown type"),
    };
    Ok(Some(Header { kind, name, size }))
}

/// Bytes that fill data of this length up to a whole block.
pub(crate) fn padding(len: u64) -> u64 {
    len.next_multiple_of(BLOCK as u64) - len
}

/// The sums of the bytes as unsigned and as signed numbers, the checksum's own field as blanks.
fn checksums(block: &Block) -> (u32, i32) {
    // Sums over the whole block first: the compiler makes vectors of them.
    let unsigned = |bytes: &[u8]| bytes.iter().map(|&b| u32::from(b)).sum::<u32>();
    let high = |bytes: &[u8]| bytes.iter().map(|&b| u32::from(b >> 7)).sum::<u32>();
    let field = &block[CHECKSUM];
    let sum = unsigned(block) - unsigned(field) + u32::from(b' ') * field.len() as u32;
    let negative = high(block) - high(field);
    (sum, sum.cast_signed() - 256 * negative.cast_signed())
}

/// Up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    &field[..end]
}

/// Octal text, or GNU's base 256 marked by the top bit.
fn number(field: &[u8]) -> Result<u64, String> {
    let wrong = || format!("field {:?} is not a number", String::from_utf8_lossy(text(field)));
    if field[0] & 0x80 != 0 {
        if field[0] != 0x80 {
            return Err("is negative or beyond 64 bits".to_owned());
        }
        return field[1..].iter().try_fold(0_u64, |value, &byte| {
            let value = value.checked_mul(256).ok_or("is beyond 64 bits".to_owned())?;
            Ok(value | u64::from(byte))
        });
    }
    let digits = text(field).trim_ascii();
    if !digits.iter().all(|d| (b'0'..=b'7').contains(d)) {
        return Err(wrong());
    }
    // Twelve octal digits are 36 bits.
    Ok(digits.iter().fold(0, |value, digit| value * 8 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_as_written() {
        let header = decode(&encode("000000000.jpg", 12345)).unwrap().unwrap();
        assert_eq!((header.kind, header.size), (Kind::File, 12345));
        assert_eq!(header.name, b"000000000.jpg");
    }

    #[test]
    fn a_flipped_bit_breaks_the_checksum() {
        let mut block = encode("a.jpg", 1);
        block[0] ^= 1;
        assert!(decode(&block).unwrap_err().contains("checksum"));
    }

    #[test]
    fn both_sums_count_the_field_itself_as_blanks() {
        let mut block = [0; BLOCK];
        (block[0], block[511], block[150]) = (0xff, 0x80, 0x99);
        assert_eq!(checksums(&block), (8 * 32 + 255 + 128, 8 * 32 - 1 - 128));
    }

    #[test]
    fn gnu_base_256_sizes_are_read_and_negative_ones_refused() {
        let field = [0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2];
        assert_eq!(number(&field), Ok(258));
        assert!(number(&[0xff; 12]).is_err());
        let mut large = [0xff; 12];
        large[0] = 0x80;
        assert!(number(&large).is_err());
    }

    #[test]
    fn zeros_end_the_archive() {
        assert!(decode(&[0; BLOCK]).unwrap().is_none());
    }

    #[test]
    fn data_is_padded_to_whole_blocks() {
        assert_eq!([padding(0), padding(1), padding(512), padding(513)], [0, 511, 0, 511]);
    }
}
