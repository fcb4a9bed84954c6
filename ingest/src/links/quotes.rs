//! The first pass over a JSON text: where its strings begin and end.
//!
//! Sixty-four bytes at a time are compared with the few that matter (quote, backslash, controls),
//! after Langdale and Lemire, "Parsing Gigabytes of JSON per Second" (2019, arXiv 1902.08318),
//! section 3.1; only quotes are kept, since the pass behind this one reads every byte between
//! strings anyway. What stands inside strings is checked here: escapes, surrogates, controls.

/// Places are kept for so many quotes at a time.
const KEPT: usize = 2048;
/// Quotes that can be looked at after [`Quotes::refill`].
pub(super) const AHEAD: usize = 8;
const BLOCK: usize = 64;

/// Places of the unescaped quotes of a text, in order.
///
/// The list ends before a fault inside a string (a control character, an escape that JSON does not
/// have, a lone surrogate), so that this string has no end. Outside of strings nothing is checked.
#[derive(Debug)]
pub(super) struct Quotes<'a> {
    text: &'a [u8],
    places: &'a mut Places,
    /// The next quote is `places[next]`.
    next: usize,
    /// Places beyond are not filled.
    filled: usize,
    /// Where the next block starts.
    at: usize,
    /// Whether the next block's first byte is escaped.
    escaped: bool,
    /// Whether the next block starts inside a string.
    inside: bool,
    /// Where a low surrogate is due.
    low_surrogate: usize,
    seen: Seen,
}

/// What stood in the blocks so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) escapes: bool,
    pub(super) beyond_ascii: bool,
}

/// Memory for [`Quotes`], to be used again.
#[derive(Debug)]
pub(super) struct Places {
    list: Box<[u32; KEPT + BLOCK + AHEAD]>,
    level: Level,
}

impl Default for Places {
    fn default() -> Self {
        Self::at_level(Level::detect())
    }
}

impl Places {
    fn at_level(level: Level) -> Self {
        Self { list: Box::new([0; KEPT + BLOCK + AHEAD]), level }
    }
}

/// Instructions that blocks are looked at with. What is seen is the same.
#[derive(Debug, Clone, Copy)]
enum Level {
    Any,
    #[cfg(target_arch = "x86_64")]
    Avx2(pulp::x86::V3),
}

impl Level {
    fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(avx2) = pulp::x86::V3::try_new() {
            return Self::Avx2(avx2);
        }
        Self::Any
    }
}

impl<'a> Quotes<'a> {
    /// Looks at nothing yet. Texts have less than 4 GiB.
    pub(super) fn new(text: &'a [u8], places: &'a mut Places) -> Self {
        Self {
            text,
            places,
            next: 0,
            filled: 0,
            at: 0,
            escaped: false,
            inside: false,
            low_surrogate: usize::MAX,
            seen: Seen { escapes: false, beyond_ascii: false },
        }
    }

    /// The place of the quote `n` quotes ahead, `n` below [`AHEAD`]; behind the last quote the
    /// length of the text. Right after [`Quotes::refill`] only.
    #[inline(always)]
    pub(super) fn peek(&self, n: usize) -> usize {
        self.places.list[self.next + n] as usize
    }

    /// Moves over `n` quotes, at most [`AHEAD`] since the last refill.
    #[inline(always)]
    pub(super) fn advance(&mut self, n: usize) {
        self.next += n;
    }

    /// What stood in strings so far; of what is beyond the quotes peeked at it may tell too.
    pub(super) fn seen(&self) -> Seen {
        self.seen
    }

    /// Makes sure that the next [`AHEAD`] quotes are at hand.
    #[inline(always)]
    pub(super) fn refill(&mut self) {
        if self.next + AHEAD > self.filled {
            self.fill();
        }
    }

    #[inline(never)]
    fn fill(&mut self) {
        match self.places.level {
            Level::Any => self.fill_with(Bytewise),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(avx2) => avx2.vectorize(
                #[inline(always)]
                || self.fill_with(avx2),
            ),
        }
    }

    #[inline(always)]
    fn fill_with(&mut self, look: impl Look) {
        let left = self.filled.saturating_sub(self.next);
        self.places.list.copy_within(self.filled - left..self.filled, 0);
        self.next = 0;
        self.filled = left;
        while self.filled < KEPT && self.at < self.text.len() {
            let (at, rest) = (self.at, &self.text[self.at..]);
            self.at += BLOCK;
            if let Some(block) = rest.first_chunk() {
                self.block(block, at, look);
            } else {
                let mut block = [b' '; BLOCK];
                block[..rest.len()].copy_from_slice(rest);
                self.block(&block, at, look);
            }
        }
        if self.at >= self.text.len() {
            self.places.list[self.filled..][..AHEAD].fill(self.text.len() as u32);
            self.filled += AHEAD;
        }
    }

    #[inline(always)]
    fn block(&mut self, block: &[u8; BLOCK], at: usize, look: impl Look) {
        let (mut quotes, plain) = look.look(block);
        if !plain || self.escaped {
            let others =
                Others { backslashes: look.backslashes(block), controls: look.controls(block) };
            quotes = self.look_closely(block, at, quotes, &others);
        }
        let count = quotes.count_ones() as usize;
        self.inside ^= count % 2 == 1;
        let Some(room) = self.places.list.get_mut(self.filled..self.filled + BLOCK) else { return };
        let mut rest = quotes;
        // Twelve without asking whether there are so many: a wrong guess costs more.
        for place in &mut room[..12] {
            *place = at as u32 + rest.trailing_zeros();
            rest &= rest.wrapping_sub(1);
        }
        let mut n = 12;
        while rest != 0 {
            room[n] = at as u32 + rest.trailing_zeros();
            rest &= rest - 1;
            n += 1;
        }
        self.filled += count;
    }

    /// The quotes of a block that holds escapes, controls or bytes beyond ASCII.
    #[inline(never)]
    fn look_closely(
        &mut self,
        block: &[u8; BLOCK],
        at: usize,
        quotes: u64,
        others: &Others,
    ) -> u64 {
        self.seen.beyond_ascii = self.seen.beyond_ascii || !block.is_ascii();
        let mut escaped = u64::from(self.escaped);
        self.escaped = false;
        let mut fault = BLOCK as u32;
        let mut backslashes = others.backslashes & !escaped;
        self.seen.escapes |= backslashes != 0;
        while backslashes != 0 {
            let n = backslashes.trailing_zeros();
            if !self.is_escape(at + n as usize) {
                fault = n;
                break;
            }
            let next = 1 << n << 1;
            escaped |= next;
            self.escaped = n == BLOCK as u32 - 1;
            backslashes &= backslashes - 1;
            backslashes &= !next;
        }
        let quotes = quotes & !escaped;
        if others.controls != 0 {
            fault = fault.min((others.controls & inside(quotes, self.inside)).trailing_zeros());
        }
        if fault == BLOCK as u32 {
            return quotes;
        }
        self.at = self.text.len();
        quotes & ((1 << fault) - 1)
    }

    /// Whether an escape starts here that JSON has, surrogates in pairs.
    fn is_escape(&mut self, at: usize) -> bool {
        match self.text.get(at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => true,
            Some(b'u') => match hex(self.text, at) {
                Some(0xd800..=0xdbff) => {
                    let low = at + 6;
                    self.low_surrogate = low;
                    self.text.get(low..low + 2) == Some(b"\\u")
                        && hex(self.text, low).is_some_and(|code| code & 0xfc00 == 0xdc00)
                }
                Some(0xdc00..=0xdfff) => self.low_surrogate == at,
                code => code.is_some(),
            },
            _ => false,
        }
    }
}

/// The number of a `\uXXXX` that starts at `at`.
pub(super) fn hex(text: &[u8], at: usize) -> Option<u32> {
    let digits = text.get(at + 2..at + 6)?;
    digits.iter().try_fold(0, |code, &digit| Some(code << 4 | char::from(digit).to_digit(16)?))
}

/// Bit n tells of byte n.
fn bits(block: &[u8; BLOCK], is: impl Fn(u8) -> bool) -> u64 {
    block.iter().rev().fold(0, |bits, &byte| bits << 1 | u64::from(is(byte)))
}

/// The bytes inside strings, opening quotes included.
fn inside(quotes: u64, starts_inside: bool) -> u64 {
    let mut inside = quotes;
    for shift in [1, 2, 4, 8, 16, 32] {
        inside ^= inside << shift;
    }
    if starts_inside { !inside } else { inside }
}

/// Bytes of a block that are no quotes: bit n tells of byte n.
struct Others {
    backslashes: u64,
    controls: u64,
}

/// A way to look at a block. A trait and not a closure, since what is not inlined into the function
/// that has the vector instructions is called for every one of them.
trait Look: Copy {
    /// The quotes of a block, and whether it is of printable ASCII without backslashes.
    fn look(self, block: &[u8; BLOCK]) -> (u64, bool);

    fn backslashes(self, block: &[u8; BLOCK]) -> u64;

    /// The bytes below a space.
    fn controls(self, block: &[u8; BLOCK]) -> u64;
}

/// Written so that the comparisons become any machine's vector instructions; bits are then gathered
/// eight at a time.
#[derive(Debug, Clone, Copy)]
struct Bytewise;

impl Look for Bytewise {
    #[inline(always)]
    fn look(self, block: &[u8; BLOCK]) -> (u64, bool) {
        let is_quote = block.map(|byte| if byte == b'"' { 0x80 } else { 0 });
        let other = block.map(|byte| u8::from(byte < b' ') | u8::from(byte == b'\\') | (byte >> 7));
        let mut quotes = 0;
        for (eight, flags) in is_quote.as_chunks().0.iter().enumerate() {
            // Bit 8 n + 7 moves to bit 56 + n: the sum of shifts by 49 - 7 n, none of which meet there.
            let bits = u64::from_le_bytes(*flags).wrapping_mul(0x0002_0408_1020_4081) >> 56;
            quotes |= bits << (8 * eight);
        }
        (quotes, other.iter().fold(0, |any, &byte| any | byte) == 0)
    }

    #[inline(always)]
    fn backslashes(self, block: &[u8; BLOCK]) -> u64 {
        bits(block, |byte| byte == b'\\')
    }

    #[inline(always)]
    fn controls(self, block: &[u8; BLOCK]) -> u64 {
        bits(block, |byte| byte < b' ')
    }
}

#[cfg(target_arch = "x86_64")]
impl Look for pulp::x86::V3 {
    #[inline(always)]
    fn look(self, block: &[u8; BLOCK]) -> (u64, bool) {
        let (avx, avx2) = (self.avx, self.avx2);
        let [low, high]: [std::arch::x86_64::__m256i; 2] = pulp::cast(*block);
        let quote = avx._mm256_set1_epi8(b'"' as i8);
        let low_quotes = avx2._mm256_movemask_epi8(avx2._mm256_cmpeq_epi8(low, quote));
        let high_quotes = avx2._mm256_movemask_epi8(avx2._mm256_cmpeq_epi8(high, quote));
        // The highest bit of a byte is set in comparisons that hold, and beyond ASCII.
        let backslash = avx._mm256_set1_epi8(b'\\' as i8);
        let low_backslash = avx2._mm256_cmpeq_epi8(low, backslash);
        let high_backslash = avx2._mm256_cmpeq_epi8(high, backslash);
        let control = avx._mm256_set1_epi8(0x1f);
        let low_control = avx2._mm256_cmpeq_epi8(avx2._mm256_min_epu8(low, control), low);
        let high_control = avx2._mm256_cmpeq_epi8(avx2._mm256_min_epu8(high, control), high);
        let low = avx2._mm256_or_si256(low, avx2._mm256_or_si256(low_backslash, low_control));
        let high = avx2._mm256_or_si256(high, avx2._mm256_or_si256(high_backslash, high_control));
        let plain = avx2._mm256_movemask_epi8(avx2._mm256_or_si256(low, high)) == 0;
        (u64::from(low_quotes as u32) | u64::from(high_quotes as u32) << 32, plain)
    }

    #[inline(always)]
    fn backslashes(self, block: &[u8; BLOCK]) -> u64 {
        let [low, high]: [std::arch::x86_64::__m256i; 2] = pulp::cast(*block);
        let backslash = self.avx._mm256_set1_epi8(b'\\' as i8);
        let low = self.avx2._mm256_movemask_epi8(self.avx2._mm256_cmpeq_epi8(low, backslash));
        let high = self.avx2._mm256_movemask_epi8(self.avx2._mm256_cmpeq_epi8(high, backslash));
        u64::from(low as u32) | u64::from(high as u32) << 32
    }

    #[inline(always)]
    fn controls(self, block: &[u8; BLOCK]) -> u64 {
        let [low, high]: [std::arch::x86_64::__m256i; 2] = pulp::cast(*block);
        let control = self.avx._mm256_set1_epi8(0x1f);
        let low_control = self.avx2._mm256_cmpeq_epi8(self.avx2._mm256_min_epu8(low, control), low);
        let high_control =
            self.avx2._mm256_cmpeq_epi8(self.avx2._mm256_min_epu8(high, control), high);
        let low = self.avx2._mm256_movemask_epi8(low_control);
        let high = self.avx2._mm256_movemask_epi8(high_control);
        u64::from(low as u32) | u64::from(high as u32) << 32
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quotes(text: &str) -> Vec<usize> {
        let found = quotes_at(Level::detect(), text);
        assert_eq!(found, quotes_at(Level::Any, text));
        found
    }

    fn quotes_at(level: Level, text: &str) -> Vec<usize> {
        let mut places = Places::at_level(level);
        let mut quotes = Quotes::new(text.as_bytes(), &mut places);
        let mut all = Vec::new();
        loop {
            quotes.refill();
            if quotes.peek(0) == text.len() {
                return all;
            }
            all.push(quotes.peek(0));
            quotes.advance(1);
        }
    }

    #[test]
    fn escaped_quotes_do_not_count_wherever_a_block_ends() {
        assert_eq!(quotes(r#"{"a\"b":"\\"}"#), [1, 6, 8, 11]);
        for pad in 0..130 {
            let spaces = " ".repeat(pad);
            assert_eq!(quotes(&format!(r#"{spaces}"\\\"""#)), [pad, pad + 5], "{pad}");
        }
    }

    #[test]
    fn a_string_with_a_fault_has_no_end() {
        for fault in [r"\x", r"\u12g4", r"\ud800", r"\udc00", r"\ud800\u0041", "\t", r"\u00"] {
            for pad in [0, 57, 58, 63, 64] {
                let text = format!(r#"{}"{fault}" "x""#, " ".repeat(pad));
                assert_eq!(quotes(&text), [pad], "{text:?}");
            }
        }
        assert_eq!(quotes(r#""\ud83d\ude00\n\/""#), [0, 17]);
        assert_eq!(quotes("\"a\"\t\n\"b\""), [0, 2, 5, 7]);
    }

    #[test]
    fn more_quotes_than_are_kept_come_in_order() {
        let text = r#""""#.repeat(5000);
        assert!(quotes(&text).into_iter().eq(0..10_000));
    }

    proptest! {
        #[test]
        fn a_block_is_seen_as_byte_by_byte(bytes in prop::collection::vec(any::<u8>(), 64)) {
            let block: [u8; 64] = bytes.try_into().unwrap();
            let printable = block.map(|byte| if byte % 8 == 0 { b'"' } else { b' ' + byte % 60 });
            for block in [block, printable] {
                let plain = block.iter().all(|b| (b' '..0x80).contains(b) && *b != b'\\');
                let quotes = bits(&block, |byte| byte == b'"');
                prop_assert_eq!(Bytewise.look(&block), (quotes, plain));
                #[cfg(target_arch = "x86_64")]
                if let Level::Avx2(avx2) = Level::detect() {
                    prop_assert_eq!(avx2.look(&block), (quotes, plain));
                    prop_assert_eq!(avx2.backslashes(&block), Bytewise.backslashes(&block));
                    prop_assert_eq!(avx2.controls(&block), Bytewise.controls(&block));
                }
            }
        }
    }
}
