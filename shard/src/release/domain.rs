//! The host of a URL, and whether it belongs to a domain.

/// The host of a URL in small letters, without user, port and a dot at its end; `None` where there
/// is no `scheme://host`. Hosts are compared as they are spelt: an international name is purged by
/// the spelling that the URLs have.
#[must_use]
pub fn host_of(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    if scheme.is_empty()
        || !scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    {
        return None;
    }
    let authority = rest.split(['/', '?', '#', '\\']).next()?;
    let host = authority.rsplit('@').next()?;
    let host = match host.strip_prefix('[') {
        Some(six) => six.split(']').next()?,
        None => host.split(':').next()?,
    };
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    (!host.is_empty()).then_some(host)
}

/// The domains that a host belongs to: itself, and what is left after each dot.
pub(crate) fn domains_of(host: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(host), |host| host.split_once('.').map(|(_, rest)| rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_stands_between_the_slashes() {
        for (url, host) in [
            ("https://A.Example/x.jpg", Some("a.example")),
            ("http://user:pw@b.example:8080?x", Some("b.example")),
            ("http://[::1]:80/x", Some("::1")),
            ("http://c.example./x", Some("c.example")),
            ("a.example/x", None),
            ("http:///x", None),
            ("", None),
        ] {
            assert_eq!(host_of(url).as_deref(), host, "{url}");
        }
    }

    #[test]
    fn a_host_belongs_to_the_domains_above_it() {
        let all: Vec<&str> = domains_of("a.b.example").collect();
        assert_eq!(all, ["a.b.example", "b.example", "example"]);
    }
}
