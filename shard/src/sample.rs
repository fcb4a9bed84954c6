//! Members become samples, by WebDataset's rules.
//!
//! Source: `webdataset/tariterators.py` (`base_plus_ext`, `group_by_keys`), and the rule on repeated
//! suffixes that open_clip and DataComp's resharder add to it.

use std::io::Read;

use bytes::Bytes;
use stage::Result;

use crate::tar_name::split_name;
use crate::tar_read::TarReader;

/// Members that share a key: `T` is where a member's data are, or the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample<T> {
    /// The common part of the names: folder and base name up to its first dot.
    pub key: String,
    /// Suffix (lower case) and data, in the order of the tar; no suffix occurs twice.
    pub parts: Vec<(String, T)>,
}

impl<T> Sample<T> {
    /// The part of this suffix.
    #[must_use]
    pub fn part(&self, suffix: &str) -> Option<&T> {
        self.parts.iter().find(|(s, _)| s == suffix).map(|(_, part)| part)
    }
}

/// Gathers members into samples: a sample ends when the key changes or a suffix repeats.
#[derive(Debug)]
pub struct Grouper<T> {
    open: Option<Sample<T>>,
}

impl<T> Default for Grouper<T> {
    fn default() -> Self {
        Self { open: None }
    }
}

impl<T> Grouper<T> {
    /// Takes the next member; gives the sample before it when that is complete. Names that belong
    /// to no sample (see [`split_name`]) are passed over.
    pub fn push(&mut self, name: &str, part: T) -> Option<Sample<T>> {
        let (key, suffix) = split_name(name)?;
        if let Some(open) = &mut self.open
            && open.key == key
            && open.part(&suffix).is_none()
        {
            open.parts.push((suffix, part));
            return None;
        }
        self.open.replace(Sample { key: key.to_owned(), parts: vec![(suffix, part)] })
    }

    /// The last sample.
    pub fn finish(&mut self) -> Option<Sample<T>> {
        self.open.take()
    }
}

/// The samples of a tar stream with their data.
#[derive(Debug)]
pub struct Samples<R> {
    tar: TarReader<R>,
    grouper: Grouper<Bytes>,
}

impl<R: Read> Samples<R> {
    /// Groups the members of this tar.
    pub fn new(tar: TarReader<R>) -> Self {
        Self { tar, grouper: Grouper::default() }
    }

    /// The tar itself, to ask where it was cut.
    pub fn tar(&self) -> &TarReader<R> {
        &self.tar
    }
}

impl<R: Read> Iterator for Samples<R> {
    type Item = Result<Sample<Bytes>>;

    fn next(&mut self) -> Option<Self::Item> {
        for entry in self.tar.by_ref() {
            match entry {
                Ok((member, data)) => {
                    if let Some(sample) = self.grouper.push(&member.name, data) {
                        return Some(Ok(sample));
                    }
                }
                Err(error) => {
                    // The open sample may lack members: it is not whole.
                    self.grouper.finish();
                    return Some(Err(error));
                }
            }
        }
        // Of a cut tar the last sample may lack members, too.
        let last = self.grouper.finish();
        if self.tar.cut().is_some() { None } else { last.map(Ok) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(names: &[&str], expected: &[(&str, &[&str])]) {
        let mut grouper = Grouper::default();
        let mut samples: Vec<_> = names.iter().filter_map(|n| grouper.push(n, ())).collect();
        samples.extend(grouper.finish());
        let got: Vec<(&str, Vec<&str>)> = samples
            .iter()
            .map(|s| (s.key.as_str(), s.parts.iter().map(|(suffix, ())| suffix.as_str()).collect()))
            .collect();
        let expected: Vec<(&str, Vec<&str>)> =
            expected.iter().map(|(key, suffixes)| (*key, suffixes.to_vec())).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn a_sample_ends_when_the_key_changes() {
        check(&["0.jpg", "0.txt", "1.jpg"], &[("0", &["jpg", "txt"]), ("1", &["jpg"])]);
    }

    #[test]
    fn a_sample_ends_when_a_suffix_repeats_in_any_case() {
        check(&["0.jpg", "0.txt", "0.JPG"], &[("0", &["jpg", "txt"]), ("0", &["jpg"])]);
    }

    #[test]
    fn folders_are_part_of_the_key_and_later_dots_of_the_suffix() {
        check(&["a/0.x.png", "b/0.x.png"], &[("a/0", &["x.png"]), ("b/0", &["x.png"])]);
    }

    #[test]
    fn names_without_a_dot_do_not_end_a_sample() {
        check(&["0.jpg", "LICENSE", "0.txt"], &[("0", &["jpg", "txt"])]);
    }
}
