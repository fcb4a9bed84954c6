//! A forward cursor over a JSON text that picks out a few values and passes over the others.
//!
//! It takes and refuses what serde_json does when it reads into types (RFC 8259, strictly; numbers
//! within f64; at most 127 containers in each other; no lone surrogates), and says which of the two
//! kinds of fault comes first. Nothing is allocated, and depth costs a bit, not a stack frame.

use super::quotes::{Places, Quotes, Seen, hex};

/// Why a text was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// No JSON, or deeper, or with larger numbers than is allowed.
    Syntax,
    /// JSON so far, but a value of another type than it must have.
    Shape,
}

/// What stands between two quotes: `text[start..end]`, escapes and all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Span {
    pub(super) fn of(self, text: &[u8]) -> &[u8] {
        &text[self.start as usize..self.end as usize]
    }
}

/// A value that should be a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loose {
    Text(Span),
    Other,
}

/// Containers in each other, one less than serde_json refuses.
const MAX_DEPTH: u32 = 127;

/// Where in the text reading has come. Outside of strings.
pub(super) struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
    quotes: Quotes<'a>,
}

impl<'a> Cursor<'a> {
    /// Starts at the front of a text of less than 4 GiB.
    pub(super) fn new(text: &'a [u8], places: &'a mut Places) -> Self {
        Self { text, at: 0, quotes: Quotes::new(text, places) }
    }

    /// What stood in the strings so far, at least.
    pub(super) fn seen(&self) -> Seen {
        self.quotes.seen()
    }

    /// Nothing but blanks may follow.
    pub(super) fn end(&mut self) -> Result<(), Fault> {
        if self.token().is_none() { Ok(()) } else { Err(Fault::Syntax) }
    }

    /// Enters the object that must come; whether it has a key, on which the cursor then is.
    pub(super) fn object(&mut self) -> Result<bool, Fault> {
        if self.token() == Some(b'{') { self.first_key() } else { Err(self.other_type()) }
    }

    /// Moves behind a value to the next key; false behind the end of the object.
    #[inline(always)]
    pub(super) fn next_key(&mut self) -> Result<bool, Fault> {
        match self.token() {
            Some(b',') => {
                self.at += 1;
                if self.token() == Some(b'"') { Ok(true) } else { Err(Fault::Syntax) }
            }
            Some(b'}') => {
                self.at += 1;
                Ok(false)
            }
            _ => Err(Fault::Syntax),
        }
    }

    /// Reads the key that the cursor is on, and its colon.
    #[inline(always)]
    pub(super) fn key(&mut self) -> Result<Span, Fault> {
        let key = self.string()?;
        if self.token() != Some(b':') {
            return Err(Fault::Syntax);
        }
        self.at += 1;
        Ok(key)
    }

    /// Enters the array that must come; whether it has an element, before which the cursor then is.
    pub(super) fn array(&mut self) -> Result<bool, Fault> {
        if self.token() == Some(b'[') { Ok(self.first_element()) } else { Err(self.other_type()) }
    }

    /// Moves behind an element before the next one; false behind the end of the array.
    #[inline(always)]
    pub(super) fn next_element(&mut self) -> Result<bool, Fault> {
        match self.token() {
            Some(b',') => {
                self.at += 1;
                Ok(true)
            }
            Some(b']') => {
                self.at += 1;
                Ok(false)
            }
            _ => Err(Fault::Syntax),
        }
    }

    /// Reads the string that must come.
    pub(super) fn text(&mut self) -> Result<Span, Fault> {
        if self.token() == Some(b'"') { self.string() } else { Err(self.other_type()) }
    }

    /// Reads any value; `depth` containers are open.
    pub(super) fn loose(&mut self, depth: u32) -> Result<Loose, Fault> {
        if self.token() == Some(b'"') {
            return self.string().map(Loose::Text);
        }
        self.skip(depth).map(|()| Loose::Other)
    }

    /// The eight bytes from the cursor on.
    #[inline(always)]
    pub(super) fn word(&self) -> Option<u64> {
        self.text.get(self.at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
    }

    /// Reads key and value where the `head` bytes from the cursor on are known to be
    /// `"key":"`: the value.
    #[inline(always)]
    pub(super) fn value_behind(&mut self, head: usize) -> Result<Span, Fault> {
        self.quotes.refill();
        let end = self.quotes.peek(3);
        if end == self.text.len() {
            return Err(Fault::Syntax);
        }
        self.quotes.advance(4);
        let start = self.at + head;
        self.at = end + 1;
        Ok(Span { start: start as u32, end: end as u32 })
    }

    /// Passes over any value; `depth` containers are open.
    pub(super) fn skip(&mut self, depth: u32) -> Result<(), Fault> {
        // The lowest bit tells whether the innermost container is an object.
        let mut objects: u128 = 0;
        let mut open = 0;
        loop {
            let mut more = match self.token() {
                Some(b'"') => {
                    self.string()?;
                    None
                }
                Some(bracket @ (b'{' | b'[')) => {
                    open += 1;
                    if depth + open > MAX_DEPTH {
                        return Err(Fault::Syntax);
                    }
                    let object = bracket == b'{';
                    objects = objects << 1 | u128::from(object);
                    Some(if object { self.first_key()? } else { self.first_element() })
                }
                _ => {
                    self.scalar()?;
                    None
                }
            };
            // Out of all containers that end here, to the next value.
            loop {
                if more == Some(false) {
                    open -= 1;
                    objects >>= 1;
                }
                if more != Some(true) {
                    if open == 0 {
                        return Ok(());
                    }
                    let object = objects & 1 == 1;
                    more = Some(if object { self.next_key()? } else { self.next_element()? });
                }
                if more == Some(true) {
                    break;
                }
            }
            if objects & 1 == 1 {
                self.key()?;
            }
        }
    }

    fn first_key(&mut self) -> Result<bool, Fault> {
        self.at += 1;
        match self.token() {
            Some(b'"') => Ok(true),
            Some(b'}') => {
                self.at += 1;
                Ok(false)
            }
            _ => Err(Fault::Syntax),
        }
    }

    fn first_element(&mut self) -> bool {
        self.at += 1;
        let ends = self.token() == Some(b']');
        self.at += usize::from(ends);
        !ends
    }

    /// Moves over blanks; the byte behind them.
    #[inline(always)]
    fn token(&mut self) -> Option<u8> {
        loop {
            match self.text.get(self.at) {
                Some(b' ' | b'\n' | b'\t' | b'\r') => self.at += 1,
                byte => return byte.copied(),
            }
        }
    }

    /// Reads the string that the cursor is on.
    #[inline(always)]
    fn string(&mut self) -> Result<Span, Fault> {
        self.quotes.refill();
        let (start, end) = (self.quotes.peek(0), self.quotes.peek(1));
        // The list of quotes stops short of a fault.
        if start != self.at || end == self.text.len() {
            return Err(Fault::Syntax);
        }
        self.quotes.advance(2);
        self.at = end + 1;
        Ok(Span { start: start as u32 + 1, end: end as u32 })
    }

    /// What is wrong with a value that is not of the type it must have: strings and scalars are
    /// read to their end first.
    fn other_type(&mut self) -> Fault {
        let read = match self.token() {
            Some(b'"') => self.string().map(|_| ()),
            Some(b'{' | b'[') => Ok(()),
            _ => self.scalar(),
        };
        read.err().unwrap_or(Fault::Shape)
    }

    /// Passes over a word or a number.
    fn scalar(&mut self) -> Result<(), Fault> {
        let rest = &self.text[self.at..];
        for word in ["null", "true", "false"] {
            if rest.starts_with(word.as_bytes()) {
                self.at += word.len();
                return Ok(());
            }
        }
        let length = number(rest).ok_or(Fault::Syntax)?;
        let number = &rest[..length];
        // Without an exponent it takes over 300 digits to leave f64; who decides then is serde_json,
        // whose rounding at the very border is its own.
        if (length > 300 || number.iter().any(|byte| matches!(byte, b'e' | b'E')))
            && serde_json::from_slice::<f64>(number).is_err()
        {
            return Err(Fault::Syntax);
        }
        self.at += length;
        Ok(())
    }
}

/// Length of the number at the front (RFC 8259, section 6).
fn number(text: &[u8]) -> Option<usize> {
    let digits = |from: usize| {
        let rest = text.get(from..).unwrap_or_default();
        let length = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        (length > 0).then_some(from + length)
    };
    let sign = usize::from(text.first() == Some(&b'-'));
    let mut at = digits(sign)?;
    if text[sign] == b'0' && at > sign + 1 {
        return None;
    }
    if text.get(at) == Some(&b'.') {
        at = digits(at + 1)?;
    }
    if matches!(text.get(at), Some(b'e' | b'E')) {
        at += 1;
        at = digits(at + usize::from(matches!(text.get(at), Some(b'+' | b'-'))))?;
    }
    Some(at)
}

/// Adds a checked string to `to`, escapes resolved.
pub(super) fn unescape(mut text: &str, to: &mut String) {
    while let Some(at) = memchr::memchr(b'\\', text.as_bytes()) {
        to.push_str(&text[..at]);
        let bytes = text.as_bytes();
        let mut length = 2;
        let plain = match bytes.get(at + 1) {
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                length = 6;
                let mut code = hex(bytes, at).unwrap_or_default();
                if (0xd800..0xdc00).contains(&code) {
                    length = 12;
                    let low = hex(bytes, at + 6).unwrap_or_default();
                    code = 0x10000 + ((code & 0x3ff) << 10 | (low & 0x3ff));
                }
                char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            Some(&itself) => char::from(itself),
            None => char::REPLACEMENT_CHARACTER,
        };
        to.push(plain);
        text = text.get(at + length..).unwrap_or_default();
    }
    to.push_str(text);
}
