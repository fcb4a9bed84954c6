//! WordNet's dictionary files, as far as `text_based` asks them: the first synset of a word.
//!
//! Files: `index.noun`, `index.verb`, `index.adj`, `index.adv` and the four `.exc` of Princeton
//! WordNet 3.0 (Debian's package wordnet-base has them), format in wndb(5WN). What is looked up is
//! `nltk.corpus.wordnet.synsets(word)[0].offset()` of nltk 3.8.1, which DataComp pins: nouns, verbs,
//! adjectives, adverbs in turn, each with the word itself and its exceptions, or without exceptions
//! the endings of morphy(7WN) taken off again and again until something is found (`womens` is
//! `women`, is `woman`). nltk 3.9 and later take them off once only, and find fewer words.

use std::collections::{HashMap, HashSet};

use stage::{Error, Result, ResultExt};
use store::Blob;

use super::basic::captions;
use super::tally::{Fate, RowTest, Scratch};
use crate::scan::Part;
use crate::words::split_words;

/// Names of the files, in the order in which a word is looked up.
const PARTS: [&str; 4] = ["noun", "verb", "adj", "adv"];

/// Endings and what takes their place (`MORPHOLOGICAL_SUBSTITUTIONS`).
const ENDINGS: [&[(&str, &str)]; 4] = [
    &[
        ("s", ""),
        ("ses", "s"),
        ("ves", "f"),
        ("xes", "x"),
        ("zes", "z"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("men", "man"),
        ("ies", "y"),
    ],
    &[
        ("s", ""),
        ("ies", "y"),
        ("es", "e"),
        ("es", ""),
        ("ed", "e"),
        ("ed", ""),
        ("ing", "e"),
        ("ing", ""),
    ],
    &[("er", ""), ("est", ""), ("er", "e"), ("est", "e")],
    &[],
];

/// Files larger than this are no dictionary: index.noun has 4.8 MB.
const MAX_FILE: u64 = 256 << 20;
/// Words that a thread remembers.
const REMEMBER: usize = 1 << 18;

/// The first synset of every lemma by part of speech.
#[derive(Debug, Default)]
pub(super) struct WordNet {
    offsets: [HashMap<String, u32>; 4],
    exceptions: [HashMap<String, Vec<String>>; 4],
    /// Bytes of the longest lemma: a longer form is none.
    longest: usize,
}

/// The files in a folder that holds a dictionary.
pub(super) fn files(folder: &str) -> Vec<String> {
    let folder = folder.trim_end_matches('/');
    PARTS
        .iter()
        .flat_map(|part| [format!("{folder}/index.{part}"), format!("{folder}/{part}.exc")])
        .collect()
}

impl WordNet {
    /// Reads the dictionary of a folder (path or URL).
    ///
    /// # Errors
    /// A file that is missing or not of the format; names it and the line.
    pub(super) fn open(folder: &str) -> Result<Self> {
        let mut words = Self::default();
        let hint = "give the folder with WordNet 3.0's index.noun and its like (Debian: wordnet-base, /usr/share/wordnet)";
        for (part, pair) in files(folder).chunks_exact(2).enumerate() {
            words.read(part, &pair[0], &pair[1]).map_err(|e| e.hint(hint))?;
        }
        Ok(words)
    }

    fn read(&mut self, part: usize, index: &str, exceptions: &str) -> Result<()> {
        for (number, line) in text(index)?.lines().enumerate() {
            // The licence stands on lines that begin with a blank.
            if line.starts_with(' ') || line.is_empty() {
                continue;
            }
            let broken = || Error::input(format!("line {} is no entry", number + 1)).at(index);
            let mut fields = line.split_ascii_whitespace();
            let lemma = fields.next().ok_or_else(broken)?;
            let pointers =
                fields.nth(2).and_then(|n| n.parse::<usize>().ok()).ok_or_else(broken)?;
            // Behind the pointers the numbers of senses and of tagged senses.
            let offset = fields.nth(pointers.saturating_add(2)).and_then(|n| n.parse().ok());
            self.longest = self.longest.max(lemma.len());
            self.offsets[part].insert(lemma.to_owned(), offset.ok_or_else(broken)?);
        }
        if self.offsets[part].is_empty() {
            return Err(Error::input("no entry").at(index));
        }
        for line in text(exceptions)?.lines() {
            let mut fields = line.split_ascii_whitespace().map(str::to_owned);
            if let Some(form) = fields.next() {
                self.exceptions[part].insert(form, fields.collect());
            }
        }
        Ok(())
    }

    /// The offset of the first synset of a word.
    pub(super) fn first_synset(&self, word: &str) -> Option<u32> {
        let word = word.to_lowercase();
        (0..PARTS.len()).find_map(|part| {
            let find = |form: &str| self.offsets[part].get(form).copied();
            find(&word).or_else(|| match self.exceptions[part].get(&word) {
                Some(forms) => forms.iter().find_map(|form| find(form)),
                None => self.without_endings(part, &word),
            })
        })
    }

    /// Takes endings off until a form is known (`_morphy`, steps 1 to 3). At most one of the forms
    /// of a round has an ending again, so that a round is short and there are fewer rounds than
    /// letters.
    fn without_endings(&self, part: usize, word: &str) -> Option<u32> {
        let (mut forms, mut text) = (vec![Form { stem: word, tail: "" }], String::new());
        while !forms.is_empty() {
            let shorter = forms.iter().flat_map(|form| {
                ENDINGS[part].iter().filter_map(|(old, new)| form.replace(old, new))
            });
            forms = shorter.collect();
            let known = forms.iter().find_map(|form| {
                if form.stem.len() + form.tail.len() > self.longest {
                    return None;
                }
                text.clear();
                text.push_str(form.stem);
                text.push_str(form.tail);
                self.offsets[part].get(&text).copied()
            });
            if known.is_some() {
                return known;
            }
        }
        None
    }
}

/// The beginning of a word, and what took the place of its end.
#[derive(Debug, Clone, Copy)]
struct Form<'w> {
    stem: &'w str,
    tail: &'static str,
}

impl<'w> Form<'w> {
    /// `None` where it does not end with `old`. What takes an ending's place is never longer than
    /// an ending that it ends with.
    fn replace(self, old: &str, new: &'static str) -> Option<Self> {
        let stem: &'w str = self.stem.strip_suffix(old.strip_suffix(self.tail)?)?;
        Some(Self { stem, tail: new })
    }
}

fn text(path: &str) -> Result<String> {
    let blob = Blob::open(path)?;
    if blob.len() > MAX_FILE {
        return Err(Error::input(format!("{} bytes are no dictionary", blob.len())).at(path));
    }
    let bytes = blob.read_all()?.to_vec();
    String::from_utf8(bytes).input("not text").map_err(|e| e.at(path))
}

/// Reads a list of synsets, one a line, such as `n01440764`: the letter is not looked at.
///
/// # Errors
/// A line that is none; names it.
pub(super) fn synsets(blob: &Blob) -> Result<HashSet<u32>> {
    let broken = |message: String| Error::input(message).at(blob.name());
    if blob.len() > MAX_FILE {
        return Err(broken(format!("{} bytes are no list of synsets", blob.len())));
    }
    let bytes = blob.read_all()?;
    let text = std::str::from_utf8(&bytes).map_err(|_| broken("not text".into()))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let offsets = lines.map(|(number, line)| {
        let line = line.trim();
        let offset = line.get(1..).and_then(|digits| digits.parse().ok());
        offset.ok_or_else(|| {
            broken(format!("line {}: `{line}` is no synset such as n01440764", number + 1))
        })
    });
    offsets.collect()
}

/// A word of the caption names one of these synsets (`does_contain_text_entity`).
pub(super) struct Entity {
    pub(super) text: String,
    pub(super) words: WordNet,
    pub(super) synsets: HashSet<u32>,
}

impl RowTest for Entity {
    fn columns(&self) -> Vec<String> {
        vec![self.text.clone()]
    }

    fn test(&self, part: &Part<'_>, fates: &mut [Fate], scratch: &mut Scratch) -> Result<()> {
        let captions = captions(part, &self.text)?;
        let known = &mut scratch.words;
        for (i, fate) in fates.iter_mut().enumerate().filter(|(_, fate)| **fate == Fate::Selected) {
            let found = split_words(captions.value(i)).any(|word| {
                known.get(word).copied().unwrap_or_else(|| {
                    let synset = self.words.first_synset(word);
                    let names = synset.is_some_and(|synset| self.synsets.contains(&synset));
                    if known.len() < REMEMBER && word.len() <= 64 {
                        known.insert(word.to_owned(), names);
                    }
                    names
                })
            });
            if !found {
                *fate = Fate::NotSelected;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A dictionary of few words in WordNet's format.
    fn dictionary() -> (tempfile::TempDir, WordNet) {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        put(
            "index.noun",
            "  1 licence\ndog n 2 3 @ ~ #m 2 1 02084071 10114209\nman n 1 1 @ 1 1 10287213\nfox n 1 0 1 0 02118333\n",
        );
        put("noun.exc", "geese goose\nmice mouse\noxen ox dog\n");
        put(
            "index.verb",
            "dog v 1 1 @ 1 0 02001858\nrun v 1 1 @ 1 1 01926311\nhope v 1 0 1 0 01826723\n",
        );
        put("verb.exc", "ran run\n");
        put("index.adj", "red a 1 1 & 1 1 00381097\n");
        put("adj.exc", "");
        put("index.adv", "well r 1 1 ! 1 1 00011093\n");
        put("adv.exc", "best well\n");
        let words = WordNet::open(folder.path().to_str().unwrap()).unwrap();
        (folder, words)
    }

    #[test]
    fn the_first_synset_is_that_of_the_first_part_of_speech_that_knows_the_word() {
        let (_folder, words) = dictionary();
        let find = |word| words.first_synset(word);
        assert_eq!(find("dog"), Some(2_084_071));
        assert_eq!(find("DOGS"), Some(2_084_071));
        assert_eq!(find("foxes"), Some(2_118_333));
        assert_eq!(find("hoping"), Some(1_826_723));
        assert_eq!(find("redder"), None);
        assert_eq!(find("men"), Some(10_287_213));
        assert_eq!(find("dog,"), None);
    }

    #[test]
    fn exceptions_come_instead_of_endings() {
        let (_folder, words) = dictionary();
        assert_eq!(words.first_synset("ran"), Some(1_926_311));
        assert_eq!(words.first_synset("best"), Some(11_093));
        assert_eq!(words.first_synset("oxen"), Some(2_084_071));
        assert_eq!(words.first_synset("mice"), None);
    }

    #[test]
    fn endings_are_taken_off_until_a_form_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        put(
            "index.noun",
            "woman n 1 0 1 1 10787470\ngentleman n 1 0 1 0 10127273\nle n 1 0 1 0 14221138\n\
             discus n 1 0 1 0 07470285\n",
        );
        put("index.verb", "discuss v 1 0 1 1 01034312\nsing v 1 0 1 0 01729431\n");
        put("index.adj", "less a 1 0 1 1 01555133\n");
        put("index.adv", "less r 1 0 1 1 00099341\n");
        for part in ["noun", "verb", "adv"] {
            put(&format!("{part}.exc"), "");
        }
        put("adj.exc", "lesser little\n");
        let words = WordNet::open(folder.path().to_str().unwrap()).unwrap();
        // womens, women, woman. nltk 3.8.1 with WordNet 3.0 has the same offsets; 3.10 has others
        // or none.
        let find = |word| words.first_synset(word);
        assert_eq!(find("womens"), Some(10_787_470));
        assert_eq!(find("gentlemens"), Some(10_127_273));
        // As a noun first, though an adjective is the word itself: less, les, le.
        assert_eq!(find("less"), Some(14_221_138));
        // As a noun first, though a verb is nearer: discusses, discuss, discus.
        assert_eq!(find("discusses"), Some(7_470_285));
        assert_eq!(find("singinging"), Some(1_729_431));
        // An exception ends the search for its part of speech.
        assert_eq!(find("lesser"), None);
        assert_eq!(find(&"s".repeat(100_000)), None);
    }

    #[test]
    fn a_broken_line_and_a_missing_file_are_named() {
        let (folder, _words) = dictionary();
        let open = || WordNet::open(folder.path().to_str().unwrap()).unwrap_err();
        std::fs::write(folder.path().join("index.adj"), "red a one\n").unwrap();
        assert!(open().to_string().ends_with("index.adj: line 1 is no entry"), "{}", open());
        std::fs::remove_file(folder.path().join("verb.exc")).unwrap();
        assert!(open().to_string().contains("verb.exc"), "{}", open());
        assert!(open().hint_text().unwrap().contains("wordnet-base"));
        let list = Blob::from_bytes("ids.txt", "n01440764\n\nn\n".into());
        let message = synsets(&list).unwrap_err().to_string();
        assert_eq!(message, "ids.txt: line 3: `n` is no synset such as n01440764");
    }
}
