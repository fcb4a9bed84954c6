//! Words and characters of a caption as Python counts them: `len(text.split())`, `len(text)`.
//!
//! DataComp's caption rules are written in Python (`baselines/apply_filter.py`), so a rule that
//! agrees with it must agree on what separates two words.

/// Number of words: runs of anything but white space, as Python's `str.split()` finds them.
#[must_use]
pub fn count_words(text: &str) -> usize {
    split_words(text).count()
}

/// The words: Python's `str.split()`.
pub fn split_words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_python_space).filter(|word| !word.is_empty())
}

/// Number of Unicode scalar values: Python's `len`.
#[must_use]
pub fn count_chars(text: &str) -> usize {
    text.chars().count()
}

/// Unicode's `White_Space`, and the four separators U+001C..=U+001F that Python's `str.isspace`
/// takes in for their bidirectional class (B, S).
fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_separated_by_what_python_calls_space() {
        assert_eq!(count_words("a red car"), 3);
        assert_eq!(count_words("  a\u{a0}red\t\ncar "), 3);
        assert_eq!(count_words("a\u{1c}b\u{1f}c\u{85}d\u{3000}e"), 5);
        assert_eq!(count_words("zero\u{200b}width"), 1);
        assert_eq!(count_words(" \n"), 0);
    }

    #[test]
    fn characters_are_unicode_scalar_values() {
        assert_eq!(count_chars("naïve"), 5);
        assert_eq!(count_chars("👍🏽"), 2);
    }
}
