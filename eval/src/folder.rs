//! A test set as DataComp distributes it: a folder of text files and tars.
//!
//! ```text
//! wds_<key>_test/
//!   classnames.txt                       one class a line, its number is its line from 0
//!   zeroshot_classification_templates.txt  one prompt a line, `{c}` for the class
//!   dataset_type.txt                     `retrieval` or `multilabel`; absent: classification
//!   test/nshards.txt                     number of tars
//!   test/0.tar …                         webp, png, jpg or jpeg; with it cls, npy or txt
//! ```

use stage::{Error, Kind, Result};
use store::Blob;

use crate::suite::TaskKind;

/// Largest text file.
const MOST_BYTES: u64 = 64 << 20;
/// Most tars of a test set.
const MOST_SHARDS: u32 = 100_000;

/// A folder of this form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folder(String);

impl Folder {
    pub(crate) fn new(dir: &str) -> Self {
        Self(dir.trim_end_matches('/').to_owned())
    }

    /// A file in it.
    pub(crate) fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.0)
    }

    /// The folder's name without what the form adds to a key.
    pub(crate) fn key(&self) -> String {
        let name = self.0.rsplit('/').next().unwrap_or(&self.0);
        let name = name.strip_prefix("wds_").unwrap_or(name);
        name.strip_suffix("_test").unwrap_or(name).to_owned()
    }

    /// Whether there is a split of this name, or a file that stands for it.
    pub(crate) fn has(&self, name: &str) -> Result<bool> {
        Ok(open(&self.path(name))?.is_some())
    }

    /// What `dataset_type.txt` says; classification without it.
    pub(crate) fn kind(&self) -> Result<TaskKind> {
        const NAME: &str = "dataset_type.txt";
        let Some(blob) = open(&self.path(NAME))? else { return Ok(TaskKind::Classification) };
        match text(&blob)?.trim().to_lowercase().as_str() {
            "classification" => Ok(TaskKind::Classification),
            "multilabel" => Ok(TaskKind::Multilabel),
            "retrieval" => Ok(TaskKind::Retrieval),
            other => Err(Error::input(format!("no type of dataset `{other}`"))
                .at(blob.name())
                .hint("there are classification, multilabel and retrieval")),
        }
    }

    /// The tars of a split, in order.
    pub(crate) fn tars(&self, split: &str) -> Result<Vec<String>> {
        let name = self.path(&format!("{split}/nshards.txt"));
        let blob = open(&name)?.ok_or_else(|| {
            Error::input("no such file").at(&name).hint(
                "a test set is a folder with test/nshards.txt and test/0.tar, test/1.tar, ... beside \
                 classnames.txt; DataComp's download_evalsets.py makes them",
            )
        })?;
        let count: u32 =
            text(&blob)?.trim().parse().ok().filter(|n| (1..=MOST_SHARDS).contains(n)).ok_or_else(
                || Error::input(format!("must be one number, 1..={MOST_SHARDS}")).at(&name),
            )?;
        Ok((0..count).map(|i| self.path(&format!("{split}/{i}.tar"))).collect())
    }

    /// Class names.
    pub(crate) fn classes(&self) -> Result<Vec<String>> {
        lines(&self.path("classnames.txt"))
    }
}

/// The lines of a list without blanks around them.
///
/// # Errors
/// A file that is missing or empty, or an empty line before the last: the number of a class is its
/// line, so that it cannot be passed over.
pub(crate) fn lines(name: &str) -> Result<Vec<String>> {
    let text = text(&Blob::open(name)?)?;
    let mut lines: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    if lines.is_empty() {
        return Err(Error::input("the list is empty").at(name));
    }
    match lines.iter().position(String::is_empty) {
        Some(line) => Err(Error::input(format!("line {} is empty", line + 1)).at(name)),
        None => Ok(lines),
    }
}

/// [`lines`], each with a place for the class.
pub(crate) fn templates(name: &str) -> Result<Vec<String>> {
    let lines = lines(name)?;
    match lines.iter().position(|line| !line.contains("{c}")) {
        Some(line) => Err(Error::input(format!(
            "line {}: template `{}` has no {{c}} for the class name",
            line + 1,
            lines[line]
        ))
        .at(name)),
        None => Ok(lines),
    }
}

fn open(name: &str) -> Result<Option<Blob>> {
    match Blob::open(name) {
        Ok(blob) => Ok(Some(blob)),
        Err(error) if error.kind() == Kind::Input => Ok(None),
        Err(error) => Err(error),
    }
}

fn text(blob: &Blob) -> Result<String> {
    if blob.len() > MOST_BYTES {
        return Err(Error::input("too large for a list").at(blob.name()));
    }
    let bytes = blob.read_all()?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|e| Error::input("not UTF-8").because(e).at(blob.name()))?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let folder = Folder::new(&dir.path().display().to_string());
        (dir, folder)
    }

    #[test]
    fn the_key_is_the_name_without_its_frame() {
        assert_eq!(Folder::new("/data/wds_vtab-dtd_test/").key(), "vtab-dtd");
        assert_eq!(Folder::new("wds_voc2007_multilabel").key(), "voc2007_multilabel");
    }

    #[test]
    fn tars_are_counted_by_nshards() {
        let (_dir, found) = folder(&[("test/nshards.txt", "2\n")]);
        let tars = found.tars("test").unwrap();
        assert!(tars.len() == 2 && tars[1].ends_with("/test/1.tar"));
        assert_eq!(found.kind().unwrap(), TaskKind::Classification);
        let missing = found.tars("train").unwrap_err();
        assert!(missing.to_string().contains("train/nshards.txt") && missing.hint_text().is_some());
        let (_dir, broken) = folder(&[("test/nshards.txt", "many")]);
        assert!(broken.tars("test").unwrap_err().to_string().contains("one number"));
    }

    #[test]
    fn an_empty_line_within_a_list_is_refused_and_at_its_end_is_not() {
        let (_dir, found) = folder(&[("classnames.txt", "cat\n dog \n\n\n")]);
        assert_eq!(found.classes().unwrap(), ["cat", "dog"]);
        let (_dir, found) = folder(&[("classnames.txt", "cat\n\ndog\n")]);
        assert!(found.classes().unwrap_err().to_string().contains("line 2 is empty"));
        let (_dir, found) = folder(&[("classnames.txt", "\n")]);
        assert!(found.classes().unwrap_err().to_string().contains("the list is empty"));
    }

    #[test]
    fn a_template_without_a_place_for_the_class_is_named_with_its_line() {
        let name = "zeroshot_classification_templates.txt";
        let (_dir, found) = folder(&[(name, "a {c}\na photo\n")]);
        let error = templates(&found.path(name)).unwrap_err().to_string();
        assert!(error.contains("line 2: template `a photo` has no {c}"), "{error}");
    }

    #[test]
    fn an_unknown_type_is_refused() {
        let (_dir, found) = folder(&[("dataset_type.txt", "Retrieval\n")]);
        assert_eq!(found.kind().unwrap(), TaskKind::Retrieval);
        let (_dir, found) = folder(&[("dataset_type.txt", "captioning")]);
        assert!(found.kind().unwrap_err().to_string().contains("`captioning`"));
    }
}
