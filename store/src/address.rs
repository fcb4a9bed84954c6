//! Tells paths from URLs.

use std::path::PathBuf;

use stage::{Error, Result};
use url::Url;

pub(crate) enum Address {
    Local(PathBuf),
    Remote(Url),
}

/// A path, unless it starts with `scheme://`.
pub(crate) fn parse(text: &str) -> Result<Address> {
    if text.is_empty() {
        return Err(Error::recipe("the path is empty"));
    }
    if text.contains('\0') {
        return Err(Error::recipe(format!("the path {text:?} holds a zero byte")));
    }
    if !is_url(text) {
        return Ok(Address::Local(text.into()));
    }
    let url =
        Url::parse(text).map_err(|error| Error::recipe("not a URL").at(text).because(error))?;
    if url.scheme() != "file" {
        return Ok(Address::Remote(url));
    }
    let path = url.to_file_path();
    path.map(Address::Local).map_err(|()| Error::recipe("not a file of this machine").at(text))
}

/// Checks that an address is of a kind that can be opened, without opening it.
///
/// # Errors
/// [`stage::Kind::Recipe`]: an unknown scheme, a bucket without a name, a home folder by `~`.
pub fn check_address(text: &str) -> Result<()> {
    if text.contains("${") {
        return Err(Error::recipe("variables of the environment are not filled in").at(text).hint(
            "write the address out, or give it on the command line: `--output \"$NAME/out\"`",
        ));
    }
    match parse(text)? {
        Address::Local(_) if text == "~" || text.starts_with("~/") => {
            Err(Error::recipe("`~` is a shell's word for the home folder")
                .at(text)
                .hint("write the folder's whole path; `./~` is the folder of that name"))
        }
        Address::Remote(url) if !["s3", "s3a", "memory"].contains(&url.scheme()) => {
            let message = format!("cannot open `{}://` addresses", url.scheme());
            Err(Error::recipe(message).at(text).hint("use a path, `file://` or `s3://`"))
        }
        Address::Remote(url) if url.host_str().is_none_or(str::is_empty) => {
            Err(Error::recipe("the bucket has no name").at(text))
        }
        Address::Local(_) | Address::Remote(_) => Ok(()),
    }
}

/// Whether `text` starts with `scheme://`.
pub(crate) fn is_url(text: &str) -> bool {
    let Some((scheme, _)) = text.split_once("://") else { return false };
    let mut letters = scheme.chars();
    letters.next().is_some_and(|c| c.is_ascii_alphabetic())
        && letters.all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_scheme_makes_a_url() {
        for text in ["out", "/a/b", "a:b/c", "./x://y", "1s://x"] {
            assert!(
                matches!(parse(text).unwrap(), Address::Local(path) if path.as_os_str() == text)
            );
        }
        assert!(matches!(parse("s3://b/k").unwrap(), Address::Remote(_)));
        assert!(
            matches!(parse("file:///a/b%20c").unwrap(), Address::Local(path) if path.as_os_str() == "/a/b c")
        );
    }
}
