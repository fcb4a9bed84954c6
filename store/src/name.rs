//! Names of stages, units and files: checked once, so that no name leaves its folder.

use stage::{Error, Result};

/// Folders of a stage that belong to this crate.
pub(crate) const COMMITS: &str = "_commits";
pub(crate) const ATTEMPTS: &str = "_attempts";
pub(crate) const WORK: &str = "_work";
/// Event files for people, kept beside the logs when a work folder is tidied.
pub(crate) const TENSORBOARD: &str = "tensorboard";
/// The folder of an output that belongs to this crate.
pub(crate) const HOUSE: &str = ".clipmill";
/// Where small files of a local output are written before they get their names.
pub(crate) const TEMPORARY: &str = ".clipmill/tmp";

/// Leaves room for a nonce within the 255 bytes that file systems allow a name.
const MAX_PART: usize = 200;

/// A stage's id or a unit: one part, which does not start with a dot.
pub(crate) fn check_part(what: &str, name: &str) -> Result<()> {
    if name.contains('/') || name.starts_with('.') {
        return Err(refuse(what, name, "a single name that does not start with a dot"));
    }
    check_path(what, name)
}

/// A file of an attempt: a relative path outside the folders of this crate.
pub(crate) fn check_file(name: &str) -> Result<()> {
    let first = name.split('/').next().unwrap_or(name);
    if [COMMITS, ATTEMPTS, WORK].contains(&first) {
        return Err(refuse("file", name, "outside the folders _commits, _attempts and _work"));
    }
    check_path("file", name)
}

/// A relative path of plain parts, spelt alike by file systems and object stores.
pub(crate) fn check_path(what: &str, name: &str) -> Result<()> {
    for part in name.split('/') {
        if part.is_empty() || part == "." || part == ".." {
            return Err(refuse(what, name, "a relative path without empty parts, `.` and `..`"));
        }
        if part.len() > MAX_PART {
            return Err(refuse(what, name, "at most 200 bytes a part"));
        }
    }
    // object_store percent-encodes these, so that a listing would not show the name that was put.
    let odd = |c: char| c.is_control() || r#"\{}^%`[]"<>~#|*?"#.contains(c);
    match name.chars().find(|c| odd(*c)) {
        Some(c) => Err(refuse(what, name, &format!("without {c:?}"))),
        None => Ok(()),
    }
}

/// 128 random bits in hex: attempts and records that differ in nothing else differ in this.
pub(crate) fn nonce() -> String {
    format!("{:032x}", rand::random::<u128>())
}

fn refuse(what: &str, name: &str, rule: &str) -> Error {
    Error::internal(format!("{what} name {name:?} must be {rule}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leaves_its_folder_is_refused() {
        for name in ["", "/etc/passwd", "a/../b", "a//b", ".", "..", "a\\b", "a\0b", "a*"] {
            assert!(check_file(name).is_err(), "{name:?}");
        }
        for name in ["_commits/x.json", "_attempts", "_work/a"] {
            assert!(check_file(name).is_err(), "{name:?}");
        }
        for name in ["00000.tar", "00000_stats.json", "logs/events.1", "a-b=c@d+e,f g"] {
            check_file(name).unwrap();
        }
    }

    #[test]
    fn a_unit_is_one_part() {
        check_part("unit", "00042").unwrap();
        assert!(check_part("unit", "a/b").is_err());
        assert!(check_part("unit", ".hidden").is_err());
    }
}
