//! CLIP's byte-pair tokenizer, with open_clip's cleaning ("lower").
//!
//! open_clip `tokenizer.py`, `SimpleTokenizer`. Vocabulary and merges come from
//! `instant-clip-tokenizer`; words are split here, because its pattern does not fold case as the
//! original's does.

use std::sync::LazyLock;

use instant_clip_tokenizer::{Token, Tokenizer as Vocabulary};
use regex::Regex;

/// The start token.
const START: u32 = 49406;
/// The end token.
const END: u32 = 49407;
/// Characters of a raw text that are looked at; no caption fills a context with more.
const MOST_RAW: usize = 1 << 15;
/// Characters of a cleaned text that are looked at: merging a word takes time quadratic in its
/// length, and 77 tokens never hold as many.
const MOST_CLEAN: usize = 1 << 12;
/// The id of `'` inside a word.
const APOSTROPHE: u32 = 6;

/// The original's pattern. It folds case throughout, by which U+0345 (a mark that folds to the
/// letter iota) is neither a letter nor anything else, and is left out.
static WORDS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?i:<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}\u{345}]+",
    )
    .expect("a fixed pattern")
});

/// Escape sequences that colour terminals.
static TERMINAL: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\x1b\[[0-9;]*[a-zA-Z]").expect("a fixed pattern"));

/// CLIP's tokenizer. Building one parses the vocabulary; build it once.
pub struct Tokenizer {
    vocabulary: Vocabulary,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokenizer(clip)")
    }
}

impl Tokenizer {
    /// CLIP's own vocabulary of 49,408 ids.
    #[must_use]
    pub fn clip() -> Self {
        Self { vocabulary: Vocabulary::new() }
    }

    /// The ids of a text, without start and end. Of very long texts the first 4,096 cleaned
    /// characters count.
    #[must_use]
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let clean = Self::clean(text);
        let clean = first_chars(&clean, MOST_CLEAN);
        let mut ids = Vec::new();
        let mut tokens: Vec<Token> = Vec::new();
        for word in WORDS.find_iter(clean) {
            let mut word = word.as_str();
            // The long s folds to s, so `'ſ` is one word; the vocabulary's own splitter would cut
            // it in two. No merge begins with an apostrophe and the first byte of ſ.
            if let Some(rest) = word.strip_prefix('\'')
                && rest == "ſ"
            {
                ids.push(APOSTROPHE);
                word = rest;
            }
            tokens.clear();
            self.vocabulary.encode(word, &mut tokens);
            ids.extend(tokens.iter().map(|token| u32::from(token.to_u16())));
        }
        ids
    }

    /// Start, ids, end, zeros: exactly `context_length` ids. A text that is too long is cut and
    /// still ends with the end token.
    #[must_use]
    pub fn context(&self, text: &str, context_length: usize) -> Vec<u32> {
        let mut ids = vec![START];
        ids.extend(self.encode(text));
        ids.push(END);
        if ids.len() > context_length {
            ids.truncate(context_length);
            if let Some(last) = ids.last_mut() {
                *last = END;
            }
        }
        ids.resize(context_length, 0);
        ids
    }

    /// open_clip's "lower" cleaning: `ftfy.fix_text`, HTML unescaped twice, whitespace runs to one
    /// space, lower case.
    #[must_use]
    pub fn clean(text: &str) -> String {
        let fixed = fix_text(first_chars(text, MOST_RAW));
        let plain = htmlize::unescape(htmlize::unescape(fixed)).into_owned();
        let spaced: Vec<&str> =
            plain.split(is_python_space).filter(|word| !word.is_empty()).collect();
        spaced.join(" ").to_lowercase()
    }
}

/// `ftfy.fix_text`, around two faults of plsfix 0.1.8: its pattern of terminal escapes matches
/// none, and it unescapes HTML even in and after a line that holds a `<`, where ftfy does not.
fn fix_text(text: &str) -> String {
    let config = plsfix::TextFixerConfig { remove_terminal_escapes: false, ..Default::default() };
    let text = TERMINAL.replace_all(text, "");
    let mut fixed = String::with_capacity(text.len());
    let mut markup = false;
    for line in text.split_inclusive('\n') {
        markup |= line.contains('<');
        if markup && line.contains('&') {
            // Tildes behind the `&` keep an entity from being seen; as many as the line has not.
            let mask = (1..).map(|n| format!("&{}", "~".repeat(n))).find(|m| !line.contains(m));
            let mask = mask.unwrap_or_default();
            let line = plsfix::fix_text(&line.replace('&', &mask), Some(&config));
            fixed += &line.replace(&mask, "&");
        } else {
            fixed += &plsfix::fix_text(line, Some(&config));
        }
    }
    fixed
}

/// Python's `str.isspace`, which counts four control characters that Unicode's property does not.
fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

fn first_chars(text: &str, most: usize) -> &str {
    text.char_indices().nth(most).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_get_open_clips_ids() {
        let tokenizer = Tokenizer::clip();
        let check = |text: &str, ids: &[u32]| assert_eq!(tokenizer.encode(text), ids, "{text}");
        check("a photo of a cat", &[320, 1125, 539, 320, 2368]);
        check("A dog's  toy &amp;amp; 123abc", &[320, 1929, 568, 5988, 261, 272, 273, 274, 5334]);
        check("naïve café — 日本語", &[1097, 35689, 563, 15304, 2005, 39121, 44353, 34002, 508]);
        check("ﬁne “quotes” \u{a0} x", &[3797, 257, 5808, 257, 343]);
    }

    #[test]
    fn a_context_is_start_ids_end_and_zeros() {
        let tokenizer = Tokenizer::clip();
        assert_eq!(tokenizer.context("cat", 5), [START, 2368, END, 0, 0]);
        assert_eq!(tokenizer.context("a photo of a cat", 4), [START, 320, 1125, END]);
        assert_eq!(tokenizer.context("", 2), [START, END]);
    }

    #[test]
    fn a_hostile_caption_costs_little() {
        let tokenizer = Tokenizer::clip();
        let long = "é".repeat(3_000_000);
        assert_eq!(tokenizer.context(&long, 77).len(), 77);
    }
}
