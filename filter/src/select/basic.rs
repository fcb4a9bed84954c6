//! Row tests of captions and sizes, as DataComp's baselines have them.

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{Array, Float64Array};
use arrow_cast::cast;
use arrow_schema::DataType;
use stage::{Error, Result, ResultExt};

use super::tally::{Fate, RowTest, Scratch, texts};
use crate::judge::language::Identifier;
use crate::scan::Part;
use crate::words::split_words;

/// The rules of `basic_filter` that need no model (`load_uids_with_basic_filter_helper`): more than
/// 2 words, more than 5 characters, shorter side at least 200 pixels, aspect ratio at most 3.
pub(super) struct CaptionAndSize {
    pub(super) text: String,
}

impl RowTest for CaptionAndSize {
    fn columns(&self) -> Vec<String> {
        vec![self.text.clone(), "original_width".into(), "original_height".into()]
    }

    fn test(&self, part: &Part<'_>, fates: &mut [Fate], _: &mut Scratch) -> Result<()> {
        let captions = captions(part, &self.text)?;
        let (widths, heights) =
            (numbers(part, "original_width")?, numbers(part, "original_height")?);
        for (i, fate) in fates.iter_mut().enumerate().filter(|(_, fate)| **fate == Fate::Selected) {
            let known = widths.is_valid(i) && heights.is_valid(i) && captions.is_valid(i);
            // Sizes first: they are read without a look at the text.
            let (width, height) = (widths.value(i), heights.value(i));
            let (shorter, longer) = (width.min(height), width.max(height));
            let sized = shorter >= 200.0 && longer / shorter <= 3.0;
            if !(known && sized && has_more_than(captions.value(i), 5, 2)) {
                *fate = Fate::NotSelected;
            }
        }
        Ok(())
    }
}

/// Whether a text has more characters and words than these, as Python counts them.
fn has_more_than(text: &str, chars: usize, words: usize) -> bool {
    text.chars().nth(chars).is_some() && split_words(text).nth(words).is_some()
}

/// Which words make a caption of `image_based` long enough.
pub(super) struct CaptionOfImageBased {
    pub(super) text: String,
}

impl RowTest for CaptionOfImageBased {
    fn columns(&self) -> Vec<String> {
        vec![self.text.clone()]
    }

    /// `caption_filter`: more than one word of `fasttext.tokenize`, more than 5 characters.
    fn test(&self, part: &Part<'_>, fates: &mut [Fate], _: &mut Scratch) -> Result<()> {
        let captions = captions(part, &self.text)?;
        for (i, fate) in fates.iter_mut().enumerate().filter(|(_, fate)| **fate == Fate::Selected) {
            let text = if captions.is_valid(i) { captions.value(i) } else { "" };
            if text.chars().nth(5).is_none() || tokens(text) <= 1 {
                *fate = Fate::NotSelected;
            }
        }
        Ok(())
    }
}

/// Words as `Dictionary::readWord` finds them: between seven ASCII signs, and each line break is
/// one by itself.
fn tokens(text: &str) -> usize {
    let words = text.split([' ', '\n', '\r', '\t', '\x0b', '\x0c', '\0']);
    words.filter(|word| !word.is_empty()).count() + text.matches('\n').count()
}

/// The caption is English by a fastText model.
pub(super) struct English {
    pub(super) text: String,
    pub(super) identifier: Identifier,
}

impl RowTest for English {
    fn columns(&self) -> Vec<String> {
        vec![self.text.clone()]
    }

    fn test(&self, part: &Part<'_>, fates: &mut [Fate], scratch: &mut Scratch) -> Result<()> {
        let captions = captions(part, &self.text)?;
        for (i, fate) in fates.iter_mut().enumerate().filter(|(_, fate)| **fate == Fate::Selected) {
            let text = if captions.is_valid(i) { captions.value(i) } else { "" };
            let language = self.identifier.language(text, &mut scratch.fasttext);
            if language.is_none_or(|(language, _)| language != "en") {
                *fate = Fate::NotSelected;
            }
        }
        Ok(())
    }
}

pub(super) fn captions(part: &Part<'_>, name: &str) -> Result<arrow_array::StringArray> {
    let captions = texts(&part.batch, name).map_err(|e| e.at(part.path))?;
    captions.ok_or_else(|| Error::internal("a column is lost"))
}

/// Integers of a pool are far below 2^53, where f64 has gaps.
fn numbers(part: &Part<'_>, name: &str) -> Result<Float64Array> {
    let column = part.batch.column_by_name(name);
    let column = column.ok_or_else(|| Error::internal("a column is lost"))?;
    let column = cast(column, &DataType::Float64);
    let column =
        column.input(format!("column `{name}` is no number")).map_err(|e| e.at(part.path))?;
    Ok(column.as_primitive::<Float64Type>().clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_break_is_a_token_of_its_own_for_fasttext() {
        // fasttext.tokenize of fasttext-wheel 0.9.2: lengths of the lists.
        assert_eq!(
            [tokens("a b"), tokens("a\nb"), tokens("ab\n"), tokens(" a\u{a0}b ")],
            [2, 3, 2, 1]
        );
        assert_eq!([tokens(""), tokens("\0"), tokens("\n\n")], [0, 0, 2]);
    }

    #[test]
    fn six_characters_and_three_words_are_needed() {
        assert!(has_more_than("a b cd", 5, 2));
        assert!(!has_more_than("a b c", 5, 2));
        assert!(!has_more_than("abcd efgh", 5, 2));
    }
}
