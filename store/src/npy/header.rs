//! The header: magic, version, length, and a Python dict of three known keys.

use stage::{Error, Result};

use crate::Blob;

/// First bytes of a `.npy` file.
pub(crate) const MAGIC: &[u8; 6] = b"\x93NUMPY";
const MAX_HEADER: usize = 64 << 10;
/// numpy has at most 64 dimensions.
const MAX_DIMS: usize = 64;
/// numpy leaves room for the first dimension to grow to this many digits.
const GROWTH_DIGITS: usize = 21;
const ALIGN: usize = 64;

/// What a `.npy` file says of itself, checked against its length as far as `descr` is a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    descr: String,
    shape: Vec<usize>,
    data_offset: u64,
}

impl Header {
    /// Reads and checks the header of a file.
    ///
    /// # Errors
    /// [`stage::Kind::Input`] that says what is wrong.
    pub fn read(blob: &Blob) -> Result<Self> {
        Self::parse_from(blob).map_err(|error| error.at(blob.name()))
    }

    /// numpy's name of the type, such as `<f4`.
    #[must_use]
    pub fn descr(&self) -> &str {
        &self.descr
    }

    /// Length of each dimension, slowest first; empty for a single number.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Where the numbers begin.
    #[must_use]
    pub fn data_offset(&self) -> u64 {
        self.data_offset
    }

    fn parse_from(blob: &Blob) -> Result<Self> {
        let head = |len: u64| blob.read_at(0, blob.len().min(len) as usize);
        let start = head(12)?;
        if start.len() < 10 || &start[..6] != MAGIC {
            return Err(Error::input("not a .npy file"));
        }
        let (prefix, len) = match (start[6], start.len()) {
            (1, _) => (10, usize::from(u16::from_le_bytes([start[8], start[9]]))),
            (2 | 3, 12..) => {
                let len = u32::from_le_bytes([start[8], start[9], start[10], start[11]]);
                (12, len as usize)
            }
            (version, _) => {
                return Err(Error::input(format!("unknown .npy version {version}.{}", start[7])));
            }
        };
        if len > MAX_HEADER {
            let message = format!("a header of {len} bytes; at most {MAX_HEADER} are read");
            return Err(Error::input(message));
        }
        let bytes = head((prefix + len) as u64)?;
        if bytes.len() < prefix + len {
            return Err(Error::input("truncated in the header"));
        }
        let text = std::str::from_utf8(&bytes[prefix..])
            .map_err(|_| Error::input("the header is not text"))?;
        let (descr, fortran, shape) = Parser { rest: text.trim_end() }.dict()?;
        let header = Self { descr, shape, data_offset: (prefix + len) as u64 };
        header.check(fortran, blob.len())?;
        Ok(header)
    }

    fn check(&self, fortran: bool, file_len: u64) -> Result<()> {
        if self.descr.trim_start_matches(['|', '<', '>', '=']).starts_with('O') {
            return Err(Error::input(
                "dtype object: it holds Python pickles, which are never read",
            )
            .hint("save it as a plain array: numpy.save(path, array.astype(numpy.float32))"));
        }
        // Empty dimensions count as 1 here, so that no part of the shape overflows either.
        let whole = self.shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim.max(1)));
        let overflow = || Error::input(format!("shape {:?} overflows", self.shape));
        let whole = whole.filter(|n| *n <= isize::MAX as usize / 16).ok_or_else(overflow)?;
        let count = if self.shape.contains(&0) { 0 } else { whole as u64 };
        // In one dimension both orders are the same; numpy then writes False, but may read True.
        if fortran && self.shape.iter().filter(|&&dim| dim != 1).count() > 1 && count > 0 {
            return Err(Error::input("fortran_order: True; only C order is read")
                .hint("save it with numpy.ascontiguousarray(array)"));
        }
        let Some(item) = item_size(&self.descr) else { return Ok(()) };
        let wanted = count.checked_mul(item).ok_or_else(overflow)?;
        let left = file_len.saturating_sub(self.data_offset);
        if wanted == left {
            return Ok(());
        }
        Err(Error::input(format!(
            "shape {:?} of {} needs {wanted} bytes, {left} follow the header",
            self.shape, self.descr
        )))
    }
}

/// Bytes of one item; `None` for types that only their reader knows.
fn item_size(descr: &str) -> Option<u64> {
    if descr == "[('f0', '<u8'), ('f1', '<u8')]" {
        return Some(16);
    }
    let mut letters = descr.chars();
    matches!(letters.next(), Some('<' | '|')).then_some(())?;
    matches!(letters.next(), Some('f' | 'i' | 'u' | 'b')).then_some(())?;
    letters.as_str().parse().ok().filter(|size| matches!(size, 1 | 2 | 4 | 8 | 16))
}

/// The header that numpy writes: `numpy/lib/_format_impl.py`, `_write_array_header`.
pub(crate) fn header(descr: &str, shape: &[usize]) -> Vec<u8> {
    let quoted = if descr.starts_with('[') { descr.to_owned() } else { format!("'{descr}'") };
    let dims: Vec<String> = shape.iter().map(usize::to_string).collect();
    let tuple = match &dims[..] {
        [one] => format!("({one},)"),
        many => format!("({})", many.join(", ")),
    };
    let mut text = format!("{{'descr': {quoted}, 'fortran_order': False, 'shape': {tuple}, }}");
    if let Some(first) = dims.first() {
        text.extend(std::iter::repeat_n(' ', GROWTH_DIGITS.saturating_sub(first.len())));
    }
    let prefix = MAGIC.len() + 4;
    // Like numpy, pads by a whole block when nothing is missing.
    let padding = ALIGN - (prefix + text.len() + 1) % ALIGN;
    text.extend(std::iter::repeat_n(' ', padding));
    text.push('\n');
    let mut bytes = MAGIC.to_vec();
    if let Ok(len) = u16::try_from(text.len()) {
        bytes.extend([1, 0]);
        bytes.extend(len.to_le_bytes());
    } else {
        // Needs thousands of dimensions, and is then still a valid file.
        bytes.extend([2, 0]);
        bytes.extend((text.len() as u32).to_le_bytes());
    }
    bytes.extend(text.into_bytes());
    bytes
}

/// Python's dict literal, as far as numpy writes it.
struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn dict(mut self) -> Result<(String, bool, Vec<usize>)> {
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        self.expect('{')?;
        while !self.eat('}') {
            let key = self.string()?;
            self.expect(':')?;
            let again = match key.as_str() {
                "descr" => descr.replace(self.descr()?).is_some(),
                "fortran_order" => fortran.replace(self.boolean()?).is_some(),
                "shape" => shape.replace(self.tuple()?).is_some(),
                _ => return Err(Error::input(format!("unknown header field {key:?}"))),
            };
            if again {
                return Err(Error::input(format!("header field {key:?} occurs twice")));
            }
            if !self.eat(',') {
                self.expect('}')?;
                break;
            }
        }
        if !self.rest.trim().is_empty() {
            return Err(self.broken("nothing more"));
        }
        match (descr, fortran, shape) {
            (Some(descr), Some(fortran), Some(shape)) => Ok((descr, fortran, shape)),
            _ => Err(Error::input("the header lacks descr, fortran_order or shape")),
        }
    }

    /// A quoted name, or a structured type, whose text is kept with single spaces.
    fn descr(&mut self) -> Result<String> {
        self.rest = self.rest.trim_start();
        if !self.rest.starts_with('[') {
            return self.string();
        }
        let end = self.rest.find(']').ok_or_else(|| self.broken("`]`"))?;
        let (list, rest) = self.rest.split_at(end + 1);
        self.rest = rest;
        Ok(list.split_whitespace().collect::<Vec<_>>().join(" ").replace(",)", ")"))
    }

    fn string(&mut self) -> Result<String> {
        self.rest = self.rest.trim_start();
        let quote = self.rest.chars().next().filter(|c| matches!(c, '\'' | '"'));
        let quote = quote.ok_or_else(|| self.broken("a quoted word"))?;
        let inside = &self.rest[1..];
        let end = inside.find(quote).ok_or_else(|| self.broken("a closing quote"))?;
        let word = inside[..end].to_owned();
        self.rest = &inside[end + 1..];
        Ok(word)
    }

    fn boolean(&mut self) -> Result<bool> {
        self.rest = self.rest.trim_start();
        for (word, value) in [("True", true), ("False", false)] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest;
                return Ok(value);
            }
        }
        Err(self.broken("True or False"))
    }

    fn tuple(&mut self) -> Result<Vec<usize>> {
        let mut dims = Vec::new();
        self.expect('(')?;
        while !self.eat(')') {
            self.rest = self.rest.trim_start();
            let digits = self.rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, rest) = self.rest.split_at(digits);
            dims.push(number.parse().map_err(|_| self.broken("a length"))?);
            // numpy on Python 2 wrote `3L`.
            self.rest = rest.strip_prefix('L').unwrap_or(rest);
            if dims.len() > MAX_DIMS {
                return Err(Error::input(format!("more than {MAX_DIMS} dimensions")));
            }
            if !self.eat(',') {
                self.expect(')')?;
                break;
            }
        }
        Ok(dims)
    }

    fn eat(&mut self, c: char) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(c) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, c: char) -> Result<()> {
        if self.eat(c) { Ok(()) } else { Err(self.broken(&format!("`{c}`"))) }
    }

    fn broken(&self, wanted: &str) -> Error {
        let here: String = self.rest.chars().take(20).collect();
        Error::input(format!("broken header: {wanted} expected at {here:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dict: &str, data: usize) -> Blob {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0]);
        bytes.extend((dict.len() as u16).to_le_bytes());
        bytes.extend(dict.bytes());
        bytes.extend(vec![0; data]);
        Blob::from_bytes("x.npy", bytes.into())
    }

    fn refusal(blob: &Blob) -> String {
        let error = Header::read(blob).unwrap_err();
        assert_eq!(error.kind(), stage::Kind::Input);
        error.to_string()
    }

    #[test]
    fn fourteen_bytes_that_ask_for_a_gibibyte_are_refused() {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([2, 0]);
        bytes.extend((1u32 << 30).to_le_bytes());
        bytes.extend([0, 0]);
        assert_eq!(bytes.len(), 14);
        let message = refusal(&Blob::from_bytes("x.npy", bytes.into()));
        assert_eq!(message, "x.npy: a header of 1073741824 bytes; at most 65536 are read");
    }

    #[test]
    fn objects_and_fortran_order_are_refused_by_name() {
        let objects = file("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n", 8);
        assert!(refusal(&objects).contains("dtype object"));
        let fortran = file("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 2), }\n", 16);
        assert!(refusal(&fortran).contains("fortran_order: True"));
    }

    #[test]
    fn a_shape_must_fit_the_bytes_that_follow() {
        let short = file("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }\n", 8);
        assert!(refusal(&short).contains("needs 12 bytes, 8 follow"));
        let huge =
            "{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296, 4), }";
        assert!(refusal(&file(huge, 8)).contains("overflows"));
        let empty =
            "{'descr': '<f8', 'fortran_order': False, 'shape': (0, 4294967296, 4294967296), }";
        assert!(refusal(&file(empty, 0)).contains("overflows"));
    }

    #[test]
    fn headers_outside_the_grammar_are_refused() {
        for dict in [
            "",
            "{",
            "{}",
            "{'descr': '<f4', 'fortran_order': False}",
            "{'descr': '<f4', 'fortran_order': 0, 'shape': (1,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'x': 1}",
            "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} + __import__('os')",
            "{'descr': '<f4, 'fortran_order': False, 'shape': (99999999999999999999999,)}",
        ] {
            refusal(&file(dict, 4));
        }
    }

    #[test]
    fn every_cut_of_a_good_file_is_refused() {
        let mut good = header("<f4", &[2, 3]);
        good.extend([0; 24]);
        Header::read(&Blob::from_bytes("x", good.clone().into())).unwrap();
        for len in 0..good.len() {
            refusal(&Blob::from_bytes("x", good[..len].to_vec().into()));
        }
    }

    #[test]
    fn the_subset_header_is_numpys_own() {
        let mut wanted = b"\x93NUMPY\x01\x00v\x00{'descr': [('f0', '<u8'), ('f1', '<u8')], \
            'fortran_order': False, 'shape': (4,), }"
            .to_vec();
        wanted.resize(127, b' ');
        wanted.push(b'\n');
        assert_eq!(header("[('f0', '<u8'), ('f1', '<u8')]", &[4]), wanted);
    }
}
