//! What the Hugging Face hub would refuse.
//!
//! Source: the hub's documentation, "Storage limits" and "Repository limitations and
//! recommendations": under 100,000 files in a repository, at most 10,000 in a folder, files of at
//! most 50 GB.

use std::collections::BTreeMap;

use super::ReleaseFile;

/// Files in a repository; two come on top: manifest and checksums.
const FILES: usize = 100_000 - 2;
/// Files and folders in a folder.
const ENTRIES: usize = 10_000;
/// Bytes of a file.
const BYTES: u64 = 50_000_000_000;
/// Bytes of a path.
const PATH: usize = 255;

/// What breaks a limit, one sentence each; empty where nothing does.
#[must_use]
pub fn lint(files: &[ReleaseFile]) -> Vec<String> {
    let mut found = Vec::new();
    if files.len() > FILES {
        found.push(format!("{} files, at most {FILES} are taken", files.len()));
    }
    let mut folders: BTreeMap<&str, usize> = BTreeMap::new();
    for file in files {
        let (folder, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
        *folders.entry(folder).or_default() += 1;
        if file.bytes > BYTES {
            found
                .push(format!("{} has {} bytes, at most {BYTES} are taken", file.path, file.bytes));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+' | '=');
        if name.starts_with('.') || !file.path.split('/').all(|part| part.chars().all(plain)) {
            found.push(format!(
                "{:?} has a name of other characters than letters, digits, `.`, `_`, `-`, `+`, `=`",
                file.path
            ));
        }
        if file.path.len() > PATH {
            found.push(format!("{} is longer than {PATH} bytes", file.path));
        }
    }
    for (folder, entries) in folders.into_iter().filter(|(_, entries)| *entries > ENTRIES) {
        let folder = if folder.is_empty() { "the release's own folder" } else { folder };
        found.push(format!("{entries} files in {folder}, at most {ENTRIES} are taken"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, bytes: u64) -> ReleaseFile {
        ReleaseFile { path: path.into(), bytes, sha256: String::new(), samples: None }
    }

    #[test]
    fn what_breaks_a_limit_is_named() {
        assert!(lint(&[file("shards/00000.tar", 50_000_000_000)]).is_empty());
        let told = lint(&[file("shards/00000.tar", 50_000_000_001)]);
        assert_eq!(told, ["shards/00000.tar has 50000000001 bytes, at most 50000000000 are taken"]);
        assert!(lint(&[file("shards/a b.tar", 1)])[0].contains("other characters"));
        assert!(lint(&[file(".hidden", 1)])[0].contains("other characters"));
        let many: Vec<_> = (0..10_001).map(|i| file(&format!("shards/{i}.tar"), 1)).collect();
        assert_eq!(lint(&many), ["10001 files in shards, at most 10000 are taken"]);
    }
}
