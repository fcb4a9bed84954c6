//! Opt-out lists: what must not be asked for, or not be kept.
//!
//! A URL is looked up before anything is dialled for it, and so is every place that a redirect
//! leads to; a digest is looked up before a picture is decoded. Lists may have many millions of
//! entries: in memory an entry is eight bytes, the 64 bit hash of its normal form. Two that
//! collide by chance (at a billion entries, one lookup in 18 billion) turn away one picture too many
//! and never let one through.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};

use flate2::read::MultiGzDecoder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage::{Error, Result, ResultExt};
use store::Blob;
use url::{Host, Position, Url};

use super::policy::Target;

/// Lists of what must not be fetched or kept: files with one entry a line, plain or `.gz`; empty
/// lines and lines that begin with `#` say nothing. Paths, folders, globs or object store URLs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OptOut {
    /// Lists of hosts; each stands for its subdomains too. `*.` and `.` before a name are the
    /// same. Default none.
    pub domains: Vec<String>,
    /// Lists of URLs. http and https are one, and so are spellings that a browser asks for alike.
    /// Default none.
    pub urls: Vec<String>,
    /// Lists of beginnings of URLs, host included: `https://a.example/people/`. Default none.
    pub prefixes: Vec<String>,
    /// Lists of sha256 digests of files, 64 hex digits; what follows after a space is a comment.
    /// Default none.
    pub sha256: Vec<String>,
}

impl OptOut {
    /// The patterns of all lists, in the order of the fields.
    pub fn patterns(&self) -> impl Iterator<Item = &String> {
        [&self.domains, &self.urls, &self.prefixes, &self.sha256].into_iter().flatten()
    }
}

/// The lists, read.
#[derive(Debug, Default)]
pub(super) struct OptOutList {
    domains: Hashes,
    urls: Hashes,
    prefixes: Hashes,
    /// Lengths that prefixes have, so that others are not looked up.
    prefix_lengths: BTreeSet<usize>,
    sha256: Hashes,
}

impl OptOutList {
    /// Reads all lists.
    ///
    /// # Errors
    /// A file that is not there, and a line that is no entry of its list: an opt-out that cannot
    /// be understood must not pass for none.
    pub(super) fn read(plan: &OptOut) -> Result<Self> {
        let mut list = Self::default();
        each(&plan.domains, "domains", |line| {
            list.domains.0.push(hash(domain(line)?.as_bytes()));
            Some(())
        })?;
        each(&plan.urls, "urls", |line| {
            list.urls.0.push(hash(resource(&Url::parse(line).ok()?)?.as_bytes()));
            Some(())
        })?;
        each(&plan.prefixes, "prefixes", |line| {
            let prefix = resource(&Url::parse(line).ok()?)?;
            list.prefix_lengths.insert(prefix.len());
            list.prefixes.0.push(hash(prefix.as_bytes()));
            Some(())
        })?;
        each(&plan.sha256, "sha256", |line| {
            list.sha256.0.push(digest(line.split_ascii_whitespace().next()?)?);
            Some(())
        })?;
        for hashes in [&mut list.domains, &mut list.urls, &mut list.prefixes, &mut list.sha256] {
            hashes.settle();
        }
        Ok(list)
    }

    /// Whether the target's owner has opted out.
    pub(super) fn covers(&self, target: &Target) -> bool {
        self.covers_host(target) || self.covers_resource(target)
    }

    /// Whether a file with this digest (hex) must not be kept.
    pub(super) fn covers_digest(&self, hex: &str) -> bool {
        digest(hex).is_some_and(|digest| self.sha256.has(digest))
    }

    /// Whether digests are needed to obey.
    pub(super) fn wants_digests(&self) -> bool {
        !self.sha256.0.is_empty()
    }

    fn covers_host(&self, target: &Target) -> bool {
        if self.domains.0.is_empty() {
            return false;
        }
        let mut name = target.host.as_str();
        loop {
            if self.domains.has(hash(name.as_bytes())) {
                return true;
            }
            match name.split_once('.') {
                Some((_, parent)) if target.literal.is_none() => name = parent,
                _ => return false,
            }
        }
    }

    fn covers_resource(&self, target: &Target) -> bool {
        if self.urls.0.is_empty() && self.prefixes.0.is_empty() {
            return false;
        }
        let Some(resource) = resource(&target.url) else { return false };
        let mut state = START;
        for (at, byte) in resource.bytes().enumerate() {
            state = step(state, byte);
            if self.prefix_lengths.contains(&(at + 1)) && self.prefixes.has(mix(state)) {
                return true;
            }
        }
        self.urls.has(mix(state))
    }
}

/// A set of hashes, sorted.
#[derive(Debug, Default)]
struct Hashes(Vec<u64>);

impl Hashes {
    fn settle(&mut self) {
        self.0.sort_unstable();
        self.0.dedup();
        self.0.shrink_to_fit();
    }

    fn has(&self, hash: u64) -> bool {
        self.0.binary_search(&hash).is_ok()
    }
}

/// FNV-1a, whose state after each byte is the hash of a prefix...
const START: u64 = 0xcbf2_9ce4_8422_2325;

fn step(state: u64, byte: u8) -> u64 {
    (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
}

/// ...and MurmurHash3's last step, which spreads what short names have left together.
fn mix(state: u64) -> u64 {
    let state = (state ^ (state >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let state = (state ^ (state >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    state ^ (state >> 33)
}

fn hash(bytes: &[u8]) -> u64 {
    mix(bytes.iter().fold(START, |state, byte| step(state, *byte)))
}

/// A URL without its scheme, fragment, credentials and trailing dot of the host: what is left is
/// one string for each thing that can be asked for.
fn resource(url: &Url) -> Option<String> {
    if !matches!(url.scheme(), "http" | "https") {
        return None;
    }
    let host = url.host_str()?.trim_end_matches('.').to_ascii_lowercase();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    Some(format!("{host}{port}{}", &url[Position::BeforePath..Position::AfterQuery]))
}

/// The host as the URL policy writes it.
fn domain(line: &str) -> Option<String> {
    let name = line.strip_prefix("*.").or_else(|| line.strip_prefix('.')).unwrap_or(line);
    if name.is_empty() || name.contains(['/', '?', '#', '@', '\\']) {
        return None;
    }
    // A colon is a port's, but for an IPv6 address.
    if name.contains(':') && !(name.starts_with('[') && name.ends_with(']')) {
        return None;
    }
    let url = Url::parse(&format!("http://{name}/")).ok()?;
    let host = match url.host()? {
        Host::Domain(name) => name.trim_end_matches('.').to_ascii_lowercase(),
        Host::Ipv4(v4) => v4.to_string(),
        Host::Ipv6(v6) => v6.to_string(),
    };
    (!host.is_empty()).then_some(host)
}

/// The first 64 bits: a digest is its own hash.
fn digest(hex: &str) -> Option<u64> {
    let whole = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    if whole { u64::from_str_radix(&hex[..16], 16).ok() } else { None }
}

/// Longest line of a list.
const MAX_LINE: u64 = 64 << 10;

/// Hands each entry of these lists to `take`, which gives nothing for what is no entry.
fn each(patterns: &[String], field: &str, mut take: impl FnMut(&str) -> Option<()>) -> Result<()> {
    for pattern in patterns {
        for name in store::expand(pattern)? {
            entries(&name, &mut take).map_err(|e| e.at(format!("opt_out.{field}: {name}")))?;
        }
    }
    Ok(())
}

fn entries(name: &str, take: &mut impl FnMut(&str) -> Option<()>) -> Result<()> {
    let raw = Blob::open(name)?.reader();
    let text: Box<dyn Read> =
        if name.ends_with(".gz") { Box::new(MultiGzDecoder::new(raw)) } else { raw };
    let mut text = BufReader::new(text);
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let read = (&mut text).take(MAX_LINE).read_until(b'\n', &mut line);
        if read.input("cannot read the list")? == 0 {
            break;
        }
        let entry = std::str::from_utf8(&line).ok().map(str::trim);
        let entry = entry.map(|text| text.trim_start_matches('\u{feff}'));
        if entry.is_some_and(|text| text.is_empty() || text.starts_with('#')) {
            continue;
        }
        if entry.and_then(&mut *take).is_none() {
            let shown = String::from_utf8_lossy(&line[..line.len().min(80)]).trim().to_owned();
            let message = format!("line {number} is no entry of this list: {shown:?}");
            return Err(Error::input(message)
                .hint("correct it, or make it a comment with `#` at its beginning"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::fetch::FetchPlan;

    fn read(field: &str, text: &str) -> Result<OptOutList> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.txt");
        std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        let files = vec![path.to_str().unwrap().to_owned()];
        let mut plan = OptOut::default();
        match field {
            "domains" => plan.domains = files,
            "urls" => plan.urls = files,
            "prefixes" => plan.prefixes = files,
            _ => plan.sha256 = files,
        }
        OptOutList::read(&plan)
    }

    fn covered(field: &str, text: &str, url: &str) -> bool {
        let target = Target::parse(url, &FetchPlan::default()).unwrap();
        read(field, text).unwrap().covers(&target)
    }

    #[test]
    fn a_domain_stands_for_its_subdomains_and_for_no_other_name() {
        let list = "# photographers\n\nExample.COM.\n*.other.example\n8.8.8.8\nbücher.example\r\n";
        for url in [
            "http://example.com/1.jpg",
            "https://img.cdn.Example.com.:8443/1.jpg",
            "http://other.example/",
            "http://a.other.example/",
            "http://8.8.8.8/",
            "http://www.xn--bcher-kva.example/",
        ] {
            assert!(covered("domains", list, url), "{url}");
        }
        for url in ["http://notexample.com/", "http://com/", "http://8.8.8.9/", "http://a.8.8.8/"] {
            let target = Target::parse(url, &FetchPlan::default());
            assert!(target.is_err() || !covered("domains", list, url), "{url}");
        }
    }

    #[test]
    fn a_url_is_the_same_in_every_spelling_that_asks_for_the_same_thing() {
        let list = "http://a.example:80/x/../1.jpg?size=2#top\n";
        for url in [
            "https://a.example/1.jpg?size=2",
            "http://A.EXAMPLE./1.jpg?size=2",
            " http://a.example/./1.jpg?size=2#other",
        ] {
            assert!(covered("urls", list, url), "{url}");
        }
        for url in ["http://a.example/1.jpg", "http://a.example:8080/1.jpg?size=2"] {
            assert!(!covered("urls", list, url), "{url}");
        }
    }

    #[test]
    fn a_prefix_covers_what_begins_with_it() {
        let list = "https://a.example/people/\nhttps://b.example\n";
        assert!(covered("prefixes", list, "http://a.example/people/1.jpg"));
        assert!(covered("prefixes", list, "http://a.example/x/../people/1.jpg"));
        assert!(covered("prefixes", list, "https://b.example/?x"));
        assert!(!covered("prefixes", list, "http://a.example/people"));
        assert!(!covered("prefixes", list, "http://sub.b.example/"));
        assert!(!covered("prefixes", list, "http://b.example:8080/"));
    }

    #[test]
    fn a_digest_is_known_in_either_case_and_with_a_comment_behind_it() {
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let list = read("sha256", &format!("{}  abc.bin\n", hex.to_uppercase())).unwrap();
        assert!(list.covers_digest(hex) && list.wants_digests());
        assert!(!list.covers_digest(&hex.replace('b', "c")));
    }

    #[test]
    fn a_line_that_is_no_entry_is_an_error_with_its_number() {
        for (field, line) in [
            ("domains", "http://a.example/"),
            ("domains", "a.example:80"),
            ("urls", "a.example/1.jpg"),
            ("prefixes", "ftp://a.example/"),
            ("sha256", "ba7816bf"),
        ] {
            let error = read(field, &format!("# fine\n{line}\n")).unwrap_err().to_string();
            assert!(error.contains("line 2 is no entry of this list"), "{error}");
            assert!(error.contains(&format!("opt_out.{field}")), "{error}");
        }
    }

    #[test]
    fn a_packed_list_is_unpacked_and_a_missing_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("domains.txt.gz");
        let file = std::fs::File::create(&path).unwrap();
        let mut gz = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        gz.write_all(b"a.example\n").unwrap();
        gz.finish().unwrap();
        let plan = OptOut { domains: vec![path.to_str().unwrap().to_owned()], ..OptOut::default() };
        let target = Target::parse("http://a.example/", &FetchPlan::default()).unwrap();
        assert!(OptOutList::read(&plan).unwrap().covers(&target));
        let gone = OptOut { urls: vec!["/nowhere/list.txt".to_owned()], ..OptOut::default() };
        assert!(OptOutList::read(&gone).is_err());
    }
}
