//! `urllib.parse.urljoin` of Python 3.11, character for character.
//!
//! A link's uid is a digest of its URL's text, so that a URL joined otherwise is another sample.
//! The `url` crate follows the WHATWG standard, which encodes and normalises; Python follows RFC
//! 3986 section 5.2 over RFC 1808 splitting, and leaves the text alone. Source:
//! `Lib/urllib/parse.py` of CPython 3.11.7 (`urlsplit`, `urlparse`, `urljoin`, `urlunsplit`).

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// Joins the links of a page. Most are joined by putting what all of them share before them.
#[derive(Debug, Default)]
pub(crate) struct Joiner {
    base: String,
    /// What comes before addresses that start with a slash, and before those that do not; empty
    /// where nothing is known.
    before: [String; 2],
    /// Whether `before` is that of `base`.
    ready: bool,
    joined: String,
}

impl Joiner {
    /// Starts a page with this address and this `<base>`, which is passed over where Python raises
    /// `ValueError`.
    pub(crate) fn start(&mut self, page_url: &str, own: Option<&str>) {
        let joined = own.and_then(|own| urljoin(page_url, own));
        self.base.clear();
        self.base.push_str(joined.as_deref().unwrap_or(page_url));
        self.ready = false;
    }

    /// Joins an address to the base; gives it as it is where Python raises `ValueError`.
    pub(crate) fn join<'a>(&'a mut self, url: &'a str) -> &'a str {
        if let Some(kind) = plain(url) {
            self.prepare();
            let before = &self.before[kind];
            if !before.is_empty() {
                self.joined.clear();
                self.joined.push_str(before);
                self.joined.push_str(url);
                return &self.joined;
            }
        }
        match urljoin(&self.base, url) {
            Some(Cow::Owned(joined)) => {
                self.joined = joined;
                &self.joined
            }
            Some(Cow::Borrowed(same)) => same,
            None => url,
        }
    }

    fn prepare(&mut self) {
        if self.ready {
            return;
        }
        self.ready = true;
        for (before, probe) in self.before.iter_mut().zip(["/x", "x"]) {
            before.clear();
            let joined = urljoin(&self.base, probe);
            if let Some(shared) = joined.as_deref().and_then(|joined| joined.strip_suffix(probe))
                && (shared.starts_with("http://") || shared.starts_with("https://"))
            {
                before.push_str(shared);
            }
        }
    }
}

/// Whether an address has a path, and perhaps a query, that pass through [`urljoin`] unchanged: 0
/// for one that starts with a slash, 1 for one that does not. No scheme, host, parameters, fragment,
/// empty or dotted segments, nothing to be cleaned away.
fn plain(url: &str) -> Option<usize> {
    let bytes = url.as_bytes();
    let (&first, &last) = (bytes.first()?, bytes.last()?);
    let mut before = b'/';
    let mut fits = first > b' ' && first != b'?' && last != b'?';
    for &byte in &bytes[usize::from(first == b'/')..] {
        fits &= !matches!(byte, b':' | b';' | b'#' | b'\t' | b'\r' | b'\n');
        fits &= before != b'/' || !matches!(byte, b'/' | b'.' | b'?');
        before = byte;
    }
    fits.then_some(usize::from(first != b'/'))
}

/// Joins `base` and `url`; `None` where Python raises `ValueError`.
pub(crate) fn urljoin<'a>(base: &'a str, url: &'a str) -> Option<Cow<'a, str>> {
    if base.is_empty() {
        return Some(Cow::Borrowed(url));
    }
    if url.is_empty() {
        return Some(Cow::Borrowed(base));
    }
    let base_text = cleaned(base);
    let url_text = cleaned(url);
    let base = Parts::parse(&base_text, "")?;
    let part = Parts::parse(&url_text, &base.scheme)?;
    if part.scheme != base.scheme || !has(USES_RELATIVE, &part.scheme) {
        return Some(Cow::Borrowed(url));
    }
    let mut joined = part.clone();
    if has(USES_NETLOC, &part.scheme) {
        if !part.netloc.is_empty() {
            return Some(Cow::Owned(joined.unparse()));
        }
        joined.netloc = base.netloc;
    }
    if part.path.is_empty() && part.params.is_empty() {
        joined.path = base.path;
        joined.params = base.params;
        if part.query.is_empty() {
            joined.query = base.query;
        }
        return Some(Cow::Owned(joined.unparse()));
    }
    let path = resolve(base.path, part.path);
    joined.path = &path;
    Some(Cow::Owned(joined.unparse()))
}

/// The path `path` seen from the document `base` (RFC 3986, 5.2.3 and 5.2.4, as Python has them:
/// empty segments inside a relative path vanish).
fn resolve(base: &str, path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    if path.starts_with('/') {
        segments.extend(path.split('/'));
    } else {
        segments.extend(base.split('/'));
        // The last segment names the document, unless it is empty.
        if segments.last().is_some_and(|last| !last.is_empty()) {
            segments.pop();
        }
        segments.extend(path.split('/'));
        let last = segments.len() - 1;
        let mut index = 0;
        segments.retain(|segment| {
            let inner = index != 0 && index != last;
            index += 1;
            !(inner && segment.is_empty())
        });
    }
    let mut resolved: Vec<&str> = Vec::with_capacity(segments.len());
    for segment in &segments {
        match *segment {
            ".." => {
                resolved.pop();
            }
            "." => {}
            name => resolved.push(name),
        }
    }
    if matches!(segments.last(), Some(&("." | ".."))) {
        resolved.push("");
    }
    let joined = resolved.join("/");
    if joined.is_empty() { "/".to_owned() } else { joined }
}

/// A URL in Python's six parts.
#[derive(Clone)]
struct Parts<'a> {
    scheme: Cow<'a, str>,
    netloc: &'a str,
    path: &'a str,
    params: &'a str,
    query: &'a str,
    fragment: &'a str,
}

impl<'a> Parts<'a> {
    /// Splits a cleaned URL; `scheme` is the default.
    fn parse(url: &'a str, scheme: &str) -> Option<Self> {
        let (scheme, mut rest) = match split_scheme(url) {
            Some((scheme, rest)) => (Cow::Owned(scheme.to_ascii_lowercase()), rest),
            None => (Cow::Owned(scheme.to_owned()), url),
        };
        let mut netloc = "";
        if let Some(after) = rest.strip_prefix("//") {
            let end = after.find(['/', '?', '#']).unwrap_or(after.len());
            (netloc, rest) = after.split_at(end);
            check_brackets(netloc)?;
        }
        let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
        let (mut path, query) = rest.split_once('?').unwrap_or((rest, ""));
        if expands_to_delimiter(netloc) {
            return None;
        }
        let mut params = "";
        if has(USES_PARAMS, &scheme) {
            let last = path.rfind('/').unwrap_or(0);
            if let Some(semicolon) = path[last..].find(';') {
                params = &path[last + semicolon + 1..];
                path = &path[..last + semicolon];
            }
        }
        Some(Self { scheme, netloc, path, params, query, fragment })
    }

    fn unparse(&self) -> String {
        let mut path = Cow::Borrowed(self.path);
        if !self.params.is_empty() {
            path = Cow::Owned(format!("{path};{}", self.params));
        }
        let mut url = String::with_capacity(
            self.netloc.len() + path.len() + self.query.len() + self.fragment.len() + 16,
        );
        if !self.scheme.is_empty() {
            url.push_str(&self.scheme);
            url.push(':');
        }
        let named = !self.scheme.is_empty() && has(USES_NETLOC, &self.scheme);
        if !self.netloc.is_empty() || (named && !path.starts_with("//")) {
            url.push_str("//");
            url.push_str(self.netloc);
            if !path.is_empty() && !path.starts_with('/') {
                url.push('/');
            }
        }
        url.push_str(&path);
        for (mark, part) in [('?', self.query), ('#', self.fragment)] {
            if !part.is_empty() {
                url.push(mark);
                url.push_str(part);
            }
        }
        url
    }
}

/// Without the controls and spaces before a URL and the line ends and tabs anywhere in it.
fn cleaned(url: &str) -> Cow<'_, str> {
    let url = url.trim_start_matches(|c| c <= ' ');
    if url.contains(['\t', '\r', '\n']) {
        Cow::Owned(url.replace(['\t', '\r', '\n'], ""))
    } else {
        Cow::Borrowed(url)
    }
}

fn split_scheme(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once(':')?;
    let starts = scheme.starts_with(|c: char| c.is_ascii_alphabetic());
    let letters = scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    (starts && letters).then_some((scheme, rest))
}

/// Square brackets must hold an IPv6 address or an `IPvFuture`.
fn check_brackets(netloc: &str) -> Option<()> {
    match (netloc.contains('['), netloc.contains(']')) {
        (false, false) => Some(()),
        (true, true) => {
            let host = netloc.split_once('[')?.1;
            let host = host.split_once(']').map_or(host, |(host, _)| host);
            if let Some(future) = host.strip_prefix('v') {
                let (version, address) = future.split_once('.')?;
                let hex = !version.is_empty() && version.bytes().all(|b| b.is_ascii_hexdigit());
                return (hex && !address.is_empty() && !address.starts_with('\n')).then_some(());
            }
            let (address, zone) = host.split_once('%').map_or((host, None), |(a, z)| (a, Some(z)));
            if zone.is_some_and(|zone| zone.is_empty() || zone.contains('%')) {
                return None;
            }
            address.parse::<Ipv6Addr>().ok().map(|_| ())
        }
        _ => None,
    }
}

/// Whether NFKC turns a character of the host into one that ends a host: the full list of such
/// characters (Unicode 15.0).
fn expands_to_delimiter(netloc: &str) -> bool {
    const EXPANDING: [char; 19] = [
        '\u{2047}', '\u{2048}', '\u{2049}', '\u{2100}', '\u{2101}', '\u{2105}', '\u{2106}',
        '\u{2a74}', '\u{fe13}', '\u{fe16}', '\u{fe55}', '\u{fe56}', '\u{fe5f}', '\u{fe6b}',
        '\u{ff03}', '\u{ff0f}', '\u{ff1a}', '\u{ff1f}', '\u{ff20}',
    ];
    !netloc.is_ascii() && netloc.contains(EXPANDING)
}

fn has(list: &[&str], scheme: &str) -> bool {
    list.contains(&scheme)
}

const USES_RELATIVE: &[&str] = &[
    "", "ftp", "http", "gopher", "nntp", "imap", "wais", "file", "https", "shttp", "mms",
    "prospero", "rtsp", "rtsps", "rtspu", "sftp", "svn", "svn+ssh", "ws", "wss",
];
const USES_NETLOC: &[&str] = &[
    "", "ftp", "http", "gopher", "nntp", "telnet", "imap", "wais", "file", "mms", "https", "shttp",
    "snews", "prospero", "rtsp", "rtsps", "rtspu", "rsync", "svn", "svn+ssh", "sftp", "nfs", "git",
    "git+ssh", "ws", "wss",
];
const USES_PARAMS: &[&str] = &[
    "", "ftp", "hdl", "prospero", "http", "imap", "https", "shttp", "rtsp", "rtsps", "rtspu",
    "sip", "sips", "mms", "sftp", "tel",
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::urljoin_cases::CASES;
    use super::*;

    #[test]
    fn every_join_is_pythons_to_the_character() {
        for &(base, url, joined) in CASES {
            assert_eq!(urljoin(base, url).as_deref(), joined, "urljoin({base:?}, {url:?})");
        }
    }

    /// Joins after another join to the same base, as on a page.
    fn by_joiner(base: &str, url: &str) -> String {
        let mut joiner = Joiner::default();
        joiner.start("http://before.example/a/b", None);
        joiner.join("c");
        joiner.start(base, None);
        joiner.join("first");
        joiner.join(url).to_owned()
    }

    #[test]
    fn a_joiner_joins_as_urljoin_does() {
        for &(base, url, joined) in CASES {
            assert_eq!(by_joiner(base, url), joined.unwrap_or(url), "urljoin({base:?}, {url:?})");
        }
        assert_eq!(
            by_joiner("http://a.example/b/c.html?d/e", "f/g.png?h"),
            "http://a.example/b/f/g.png?h"
        );
        assert_eq!(by_joiner("https://a.example", "/f"), "https://a.example/f");
    }

    proptest! {
        #[test]
        fn a_joiner_joins_any_two_texts_as_urljoin_does(
            base in "(https?://a\\.example|HTTPS:|ftp://f)?[a-z/.:?#;@\\[ \\tß]{0,12}",
            url in "([a-z/.]{1,3}[a-z/.?]{0,8}|[a-z/:?#;.@\\[\\] \\tß⩴]{0,12})",
        ) {
            let joined = urljoin(&base, &url);
            prop_assert_eq!(by_joiner(&base, &url), joined.as_deref().unwrap_or(&url));
        }

        #[test]
        fn any_two_texts_are_joined_or_refused(
            base in "(http://a\\.example)?[a-zß/:?#;.@\\[\\] \\t⩴]{0,12}",
            url in "[a-zß/:?#;.@\\[\\] \\t⩴]{0,12}",
        ) {
            let joined = urljoin(&base, &url);
            prop_assert!(joined.is_none_or(|joined| joined.len() <= base.len() + url.len() + 4));
        }
    }
}
