//! Names of members: what we write, what we accept, and how a name splits into key and suffix.

use stage::{Error, Result};

/// Longest name that fits ustar's name field, bytes.
const MAX_WRITTEN: usize = 100;
/// Longest name that is accepted when reading, bytes (Linux's `PATH_MAX`).
const MAX_READ: usize = 4096;

/// Checks a name that is about to be written: `<stem>.<suffix>`, at most 100 bytes of
/// `0-9 A-Z a-z _ . -`, the stem not empty and without a dot, no empty part of the suffix.
///
/// WebDataset's readers split a name at its first dot, so a stem with a dot would lose its end to
/// the suffix.
///
/// # Errors
/// Names the rule that is broken.
pub fn check_written(name: &str) -> Result<()> {
    let wrong = |rule: &str| Err(Error::input(format!("member name {name:?} {rule}")));
    if name.len() > MAX_WRITTEN {
        return wrong(&format!("has {} bytes, at most {MAX_WRITTEN} fit", name.len()));
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-')) {
        return wrong("has a character other than 0-9 A-Z a-z _ . -");
    }
    let mut parts = name.split('.');
    if parts.clone().count() < 2 || parts.any(str::is_empty) {
        return wrong("is not <stem>.<suffix>");
    }
    Ok(())
}

/// The name as read, without leading `./`, or why it is refused: empty, too long, not UTF-8,
/// absolute, with `..`, NUL or a backslash.
pub(crate) fn check_read(name: &[u8]) -> Result<String, String> {
    let shown = || String::from_utf8_lossy(&name[..name.len().min(200)]).into_owned();
    if name.len() > MAX_READ {
        return Err(format!("name of {} bytes, at most {MAX_READ} are accepted", name.len()));
    }
    let Ok(text) = std::str::from_utf8(name) else {
        return Err(format!("name {:?} is not UTF-8", shown()));
    };
    let refused = |why: &str| Err(format!("name {text:?} {why}"));
    if text.contains('\0') {
        return refused("contains NUL");
    }
    if text.contains('\\') {
        return refused("contains a backslash");
    }
    if text.starts_with('/') {
        return refused("is absolute");
    }
    if text.split('/').any(|part| part == "..") {
        return refused("climbs out with `..`");
    }
    let mut rest = text;
    while let Some(shorter) = rest.strip_prefix("./") {
        rest = shorter.trim_start_matches('/');
    }
    if rest.is_empty() && text.is_empty() {
        return Err("empty name".to_owned());
    }
    Ok(rest.to_owned())
}

/// Splits a name as WebDataset does: the key is the folder and the base name up to its first dot,
/// the suffix is the rest in lower case. `None` for names that belong to no sample: without a dot,
/// with nothing before it, or under a `__meta__` name.
///
/// ```
/// use shard::split_name;
/// assert_eq!(split_name("a.b/0001.seg.PNG"), Some(("a.b/0001", "seg.png".to_owned())));
/// assert_eq!(split_name("README"), None);
/// ```
#[must_use]
pub fn split_name(name: &str) -> Option<(&str, String)> {
    let first = name.split('/').next().unwrap_or(name);
    if first.len() >= 4 && first.starts_with("__") && first.ends_with("__") {
        return None;
    }
    let base = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = base + name[base..].find('.')?;
    (dot > base).then(|| (&name[..dot], name[dot + 1..].to_lowercase()))
}

/// Whether a path or URL names a tar: it ends with `.tar`, before its query where it has one, or is
/// what a command writes.
#[must_use]
pub fn is_tar(url: &str) -> bool {
    url.starts_with("pipe:") || without_query(url).strip_suffix(".tar").is_some()
}

/// Where the parquet of a tar's rows lies, as img2dataset writes it: beside it, under its name. What
/// a command writes has none, for with another ending it would be another command.
#[must_use]
pub fn parquet_beside(tar: &str) -> Option<String> {
    let stem = tar.strip_suffix(".tar").filter(|stem| !stem.starts_with("pipe:"))?;
    Some(format!("{stem}.parquet"))
}

/// The last part of a path or URL, without a URL's query.
pub(crate) fn base_name(url: &str) -> &str {
    let url = without_query(url);
    url.rsplit('/').next().unwrap_or(url)
}

fn without_query(url: &str) -> &str {
    let is_web = url.starts_with("http://") || url.starts_with("https://");
    if is_web { url.split(['?', '#']).next().unwrap_or(url) } else { url }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn written_names_have_one_stem_without_dots() {
        for good in ["000420031.jpg", "0023-fe0f-20e3.json", "A_b.seg.png"] {
            check_written(good).unwrap();
        }
        let too_long = format!("{}.jpg", "k".repeat(97));
        for bad in
            ["", "jpg", ".jpg", "a.", "a..jpg", "a/b.jpg", "a b.jpg", "ü.jpg", "..", &too_long]
        {
            assert!(check_written(bad).is_err(), "{bad}");
        }
        check_written(&format!("{}.jpg", "k".repeat(96))).unwrap();
    }

    #[test]
    fn names_that_leave_the_archive_are_refused() {
        for bad in ["/etc/x.jpg", "../x.jpg", "a/../../x.jpg", "a\\b.jpg", "a\0.jpg", "", ".."] {
            assert!(check_read(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(check_read(b"caf\xe9.jpg").unwrap_err().contains("not UTF-8"));
        assert_eq!(check_read(b"./a/x..y.jpg").unwrap(), "a/x..y.jpg");
    }

    #[test]
    fn a_name_splits_at_the_first_dot_of_its_base_name() {
        assert_eq!(split_name("0001.jpg"), Some(("0001", "jpg".into())));
        assert_eq!(split_name("d.x/0001.tar.GZ"), Some(("d.x/0001", "tar.gz".into())));
        assert_eq!(split_name(".hidden.jpg"), None);
        assert_eq!(split_name("a.b/c"), None);
        assert_eq!(split_name("__meta__/x.jpg"), None);
        assert_eq!(split_name("__a.b__"), None);
    }

    #[test]
    fn a_tar_is_told_by_its_name_before_a_query() {
        for tar in ["a.tar", "s3://b/a.tar", "https://a.example/0.tar?x=1", "pipe:cat 0.tar"] {
            assert!(is_tar(tar), "{tar}");
        }
        for other in ["a.tar.gz", "a?.tar.x", "https://a.example/?f=0.tar", "a.tar?x"] {
            assert!(!is_tar(other), "{other}");
        }
        assert_eq!(base_name("https://a.example/b/0.tar?x=/y"), "0.tar");
    }

    #[test]
    fn a_command_is_never_run_with_another_ending() {
        assert_eq!(parquet_beside("a/0.tar").unwrap(), "a/0.parquet");
        assert_eq!(parquet_beside("s3://b/0.tar").unwrap(), "s3://b/0.parquet");
        for none in ["pipe:rm x; cat 0.tar", "https://a.example/0.tar?x=1", "0.tar.gz"] {
            assert_eq!(parquet_beside(none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn every_written_name_is_read_back_whole(name in "[0-9A-Za-z_-]{1,40}\\.[0-9a-z_-]{1,9}") {
            check_written(&name).unwrap();
            prop_assert_eq!(check_read(name.as_bytes()).unwrap(), name.clone());
            let (stem, suffix) = name.split_once('.').unwrap();
            // A stem like `__a` never meets `__`-ended suffixes here by chance: allow that case.
            if !(name.starts_with("__") && name.ends_with("__")) {
                prop_assert_eq!(split_name(&name), Some((stem, suffix.to_owned())));
            }
        }
    }
}
