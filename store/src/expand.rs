//! Patterns of input files: folders, brace ranges, lists, and `*` in the last part.

use std::collections::BTreeSet;

use object_store::ObjectStore;
use object_store::path::Path as Key;
use stage::{Error, Kind, Result};

use crate::address::{Address, is_url, parse};
use crate::runtime::wait;
use crate::trouble::{bucket_error, read_error};
use crate::{braces, bucket};

/// Names that the braces of one pattern may stand for.
const MAX_NAMES: u64 = 10_000_000;

/// The files that a pattern stands for.
///
/// - `a::b` is both lists, in this order;
/// - `{00000..00012}` counts, keeping leading zeros; `{0..9..3}` counts in steps; `{a,b}` lists
///   (webdataset's notation, after bash);
/// - a folder is all files directly in it, sorted, without those that start with a dot or, as a
///   stage's own records do, with an underscore;
/// - `*` in the last part is any run of characters there, sorted.
///
/// Anything else is itself; opening it says whether it exists. `http(s)` addresses and
/// `pipe:COMMAND` are only expanded by lists and braces.
///
/// # Errors
/// [`Kind::Recipe`] for a pattern that stands for more than ten million names, [`Kind::Input`] for
/// a `*` or a folder without a file.
pub fn expand(pattern: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for part in pattern.split("::").filter(|part| !part.is_empty()) {
        // A file whose name holds braces is meant by its name.
        let literal = !is_url(part) && std::path::Path::new(part).exists();
        let expanded =
            if literal { vec![part.to_owned()] } else { braces::expand(part, MAX_NAMES)? };
        // One of many is a file: a listing each would cost a request each.
        let alone = expanded.len() == 1;
        for name in expanded {
            let may_list = alone || !is_url(&name) || name.ends_with('/') || name.contains('*');
            // A command's `*` is its shell's.
            let may_list = may_list && !name.starts_with(crate::pipe::PREFIX);
            match if may_list { list(&name)? } else { None } {
                Some(files) => names.extend(files),
                None => names.push(name),
            }
        }
    }
    if names.is_empty() {
        return Err(Error::input(format!("the pattern {pattern:?} stands for no file")));
    }
    Ok(names)
}

/// The files of a folder or of a `*`; `None` for the name of a file.
fn list(name: &str) -> Result<Option<Vec<String>>> {
    if name.starts_with("http://") || name.starts_with("https://") {
        return Ok(None);
    }
    let (folder, star) = match name.rsplit_once('/') {
        Some((folder, last)) if last.contains('*') => (format!("{folder}/"), Some(last)),
        None if name.contains('*') => (String::new(), Some(name)),
        _ => (name.to_owned(), None),
    };
    let literal = !is_url(name) && std::path::Path::new(name).is_file();
    if literal {
        return Ok(None);
    }
    let address = if folder.is_empty() { Address::Local(".".into()) } else { parse(&folder)? };
    let found = match address {
        Address::Local(path) => {
            if star.is_none() && !path.is_dir() {
                return Ok(None);
            }
            local_files(&path).map_err(|error| read_error(&folder, error))?
        }
        Address::Remote(url) => {
            let (store, key) = bucket::open(&url)?;
            let files = remote_files(store, key, &folder)?;
            if star.is_none() && files.is_empty() && !folder.ends_with('/') {
                return Ok(None);
            }
            files
        }
    };
    let joint = if folder.is_empty() || folder.ends_with('/') { "" } else { "/" };
    let files: Vec<String> = found
        .into_iter()
        .filter(|file| !file.starts_with('.') && (star.is_some() || !file.starts_with('_')))
        .filter(|file| star.is_none_or(|star| matches(star, file)))
        .map(|file| format!("{folder}{joint}{file}"))
        .collect();
    if files.is_empty() {
        return Err(Error::input("no file there").at(name).hint("check the path"));
    }
    Ok(Some(files))
}

fn local_files(folder: &std::path::Path) -> std::io::Result<BTreeSet<String>> {
    let mut files = BTreeSet::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // Follows links: a folder of links to shards is common.
        if std::fs::metadata(entry.path()).is_ok_and(|meta| meta.is_file())
            && let Ok(name) = entry.file_name().into_string()
        {
            files.insert(name);
        }
    }
    Ok(files)
}

fn remote_files(
    store: std::sync::Arc<dyn ObjectStore>,
    key: Key,
    place: &str,
) -> Result<BTreeSet<String>> {
    let found = wait(async move { store.list_with_delimiter(Some(&key)).await })?
        .map_err(|error| bucket_error(Kind::Input, place, "cannot list", error))?;
    Ok(found
        .objects
        .iter()
        .filter_map(|meta| meta.location.filename().map(str::to_owned))
        .collect())
}

/// Whether `name` fits `star`, whose `*` stand for any run of characters.
fn matches(star: &str, name: &str) -> bool {
    let mut parts = star.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.len() >= last.len() && rest.ends_with(last)
}
