//! Which URLs may be asked for, before any name is looked up.

use std::net::IpAddr;

use store::{is_loopback, is_public};
use url::{Host, Url};

use super::{FetchPlan, Reason};

/// Whether a URL may be asked for as far as its text says: http or https, no password, a port of the
/// plan, no address that is not public. Gives it as it would be asked for, without its fragment.
///
/// # Errors
/// The rule that it breaks. A name's addresses, robots.txt and opt-outs come later.
pub fn check_url(text: &str, plan: &FetchPlan) -> Result<Url, Reason> {
    Target::parse(text, plan).map(|target| target.url)
}

/// A URL that passed the rules.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// Without a fragment.
    pub(super) url: Url,
    /// The host in lower case, without port, brackets and trailing dot.
    pub(super) host: String,
    /// The host as an address, where it is written as one.
    pub(super) literal: Option<IpAddr>,
}

/// Longest URL, bytes: Scrapy's `URLLENGTH_LIMIT`, once Internet Explorer's.
const MAX_URL: usize = 2083;

impl Target {
    /// Checks a URL as a page wrote it.
    pub(super) fn parse(text: &str, plan: &FetchPlan) -> Result<Self, Reason> {
        // HTML strips white space around an attribute's URL; inside, a URL parser would delete
        // tabs and line ends silently, and two spellings would be one.
        let text = text.trim_matches(|c: char| c.is_ascii_whitespace());
        if text.len() > MAX_URL || text.chars().any(char::is_control) {
            return Err(Reason::BadUrl);
        }
        Self::check(Url::parse(text).map_err(|_| Reason::BadUrl)?, plan)
    }

    /// Checks a URL that a redirect leads to.
    pub(super) fn check(mut url: Url, plan: &FetchPlan) -> Result<Self, Reason> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Reason::Scheme);
        }
        if url.as_str().len() > 3 * MAX_URL {
            return Err(Reason::BadUrl); // escaping makes three bytes of one
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Reason::Userinfo);
        }
        let (host, literal) = match url.host().ok_or(Reason::BadUrl)? {
            Host::Domain(name) => (name.trim_end_matches('.').to_ascii_lowercase(), None),
            Host::Ipv4(v4) => (v4.to_string(), Some(IpAddr::V4(v4))),
            Host::Ipv6(v6) => (v6.to_string(), Some(IpAddr::V6(v6))),
        };
        if host.is_empty()
            || host.len() > 253
            || host.split('.').any(|l| l.is_empty() || l.len() > 63)
        {
            return Err(Reason::BadUrl);
        }
        if !url.port_or_known_default().is_some_and(|port| plan.ports.contains(&port)) {
            return Err(Reason::Port);
        }
        if literal.is_some_and(|address| !may_dial(&host, address, plan)) {
            return Err(Reason::PrivateAddress);
        }
        url.set_fragment(None);
        Ok(Self { url, host, literal })
    }

    /// What shares one queue: the registrable domain, or the address.
    pub(super) fn domain(&self) -> &str {
        match self.literal {
            Some(_) => &self.host,
            None => psl::domain_str(&self.host).unwrap_or(&self.host),
        }
    }

    /// What shares one robots.txt: scheme, host and port.
    pub(super) fn origin(&self) -> String {
        let port = self.url.port_or_known_default().unwrap_or(0);
        format!("{}://{}:{port}", self.url.scheme(), self.host)
    }
}

/// Whether this address may be dialled for this host: a public one, or loopback where the plan
/// names the host.
pub(super) fn may_dial(host: &str, address: IpAddr, plan: &FetchPlan) -> bool {
    is_public(address)
        || (is_loopback(address)
            && plan.allow_loopback.iter().any(|name| name.eq_ignore_ascii_case(host)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(url: &str) -> Result<Target, Reason> {
        Target::parse(url, &FetchPlan::default())
    }

    fn check(reason: Reason, urls: &[&str]) {
        for url in urls {
            assert_eq!(verdict(url).err(), Some(reason), "{url}");
        }
    }

    #[test]
    fn every_spelling_of_a_private_address_is_refused() {
        check(
            Reason::PrivateAddress,
            &[
                // 127.0.0.1: dotted, short, decimal, hex, octal, mixed
                "http://127.0.0.1/",
                "http://127.1/",
                "http://127.0.1/",
                "http://127.255.255.254/",
                "http://2130706433/",
                "http://0x7f000001/",
                "http://0x7f.0.0.1/",
                "http://0x7F.0x0.0x0.0x1/",
                "http://0177.0.0.1/",
                "http://017700000001/",
                "http://0177.0x0.0.1/",
                "http://00000177.1/",
                "http://127.0.0.1./",
                "https://127.0.0.1:8443/",
                "HTTP://127.0.0.1:80/",
                "http:127.0.0.1/",
                "http:\\\\127.0.0.1/",
                "http:///127.0.0.1/",
                "http://127.0.0.1#@example.com/",
                "http://127.0.0.1?@example.com/",
                "http://127.0.0.1\\@example.com/",
                // percent signs, full width, circled digits and dots of other scripts
                "http://%31%32%37.0.0.1/",
                "http://127%2e0%2e0%2e1/",
                "http://１２７.０.０.１/",
                "http://①②⑦.⓪.⓪.①/",
                "http://127。0。0。1/",
                // zero, metadata, private, carrier-grade NAT, multicast, broadcast
                "http://0/",
                "http://0.0.0.0/",
                "http://0x0/",
                "http://169.254.169.254/latest/",
                "http://2852039166/",
                "http://0xa9fea9fe/",
                "http://0251.0376.0251.0376/",
                "http://169.254.43518/",
                "http://10.0.0.1/",
                "http://167772161/",
                "http://172.16.0.1/",
                "http://192.168.0.1/",
                "http://3232235521/",
                "http://100.100.100.200/",
                "http://168.63.129.16/",
                "http://224.0.0.1/",
                "http://255.255.255.255/",
                "http://4294967295/",
                // IPv6: loopback, mapped, compatible, NAT64, 6to4, Teredo, local
                "http://[::1]/",
                "http://[0:0:0:0:0:0:0:1]/",
                "http://[::]/",
                "http://[::ffff:127.0.0.1]/",
                "http://[::ffff:7f00:1]/",
                "http://[::127.0.0.1]/",
                "http://[64:ff9b::127.0.0.1]/",
                "http://[64:ff9b::a9fe:a9fe]/",
                "http://[2002:7f00:1::]/",
                "http://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/",
                "http://[fe80::1]/",
                "http://[fc00::1]/",
                "http://[fd00:ec2::254]/",
                "http://[ff02::1]/",
            ],
        );
    }

    #[test]
    fn what_is_not_http_or_has_a_password_is_refused() {
        check(
            Reason::Scheme,
            &[
                "file:///etc/passwd",
                "ftp://a.example/1.jpg",
                "gopher://a.example/",
                "data:image/png;base64,AAAA",
                "javascript:alert(1)",
                "blob:https://a.example/1",
                "ws://a.example/",
                "FILE://a.example/x",
            ],
        );
        check(
            Reason::Userinfo,
            &[
                "http://good.example@127.0.0.1/",
                "http://user:pass@a.example/",
                "http://:pass@a.example/",
                "http://a.example%40b@c.example/",
            ],
        );
    }

    #[test]
    fn what_is_no_url_is_refused() {
        check(
            Reason::BadUrl,
            &[
                "",
                "cat.jpg",
                "//a.example/1.jpg",
                "http://",
                "http://a b.example/",
                "http://[::1%25eth0]/",
                "http://[::1",
                "http://1.2.3.4.5/",
                "http://256.1.1.1/",
                "http://0x100000000/",
                "http://a.example:99999/",
                "http://a..example/",
                "http://a.example/\n1.jpg",
                "http://a.exa\tmple/",
                "http://a.example/\u{0}",
                "http://xn--/",
                "http://a.0x7f/",
                "http://./",
            ],
        );
        let long = format!("http://a.example/{}", "x".repeat(2083));
        check(Reason::BadUrl, &[&long]);
        let label = format!("http://{}.example/", "x".repeat(64));
        check(Reason::BadUrl, &[&label]);
    }

    #[test]
    fn only_ports_of_the_plan_are_dialled() {
        check(
            Reason::Port,
            &[
                "http://a.example:22/",
                "http://a.example:25/",
                "https://a.example:6379/",
                "http://a.example:0/",
            ],
        );
        for url in ["http://a.example:8080/", "https://a.example:443/", "http://a.example:443/"] {
            assert!(verdict(url).is_ok(), "{url}");
        }
    }

    #[test]
    fn loopback_is_dialled_only_for_hosts_that_the_plan_names() {
        let plan = FetchPlan { allow_loopback: vec!["127.0.0.1".into()], ..FetchPlan::default() };
        assert!(Target::parse("http://127.0.0.1/", &plan).is_ok());
        assert!(Target::parse("http://127.0.0.2/", &plan).is_err());
        assert!(may_dial(
            "LOCALHOST",
            "::1".parse().unwrap(),
            &FetchPlan { allow_loopback: vec!["localhost".into()], ..FetchPlan::default() }
        ));
        let private = FetchPlan { allow_loopback: vec!["10.0.0.1".into()], ..FetchPlan::default() };
        assert!(Target::parse("http://10.0.0.1/", &private).is_err());
    }

    #[test]
    fn case_and_a_trailing_dot_make_no_second_queue() {
        let domain = |url| verdict(url).unwrap().domain().to_owned();
        assert_eq!(domain("http://IMG.Example.COM./1.jpg"), "example.com");
        assert_eq!(domain("https://cdn.example.com/2.jpg"), "example.com");
        assert_eq!(domain("http://a.example.co.uk/"), "example.co.uk");
        assert_eq!(domain("http://8.8.8.8/"), "8.8.8.8");
        assert_eq!(domain("http://localhost/"), "localhost");
    }

    #[test]
    fn a_fragment_is_no_part_of_what_is_asked() {
        let target = verdict(" https://a.example/1.jpg?x=1#top\n").unwrap();
        assert_eq!(target.url.as_str(), "https://a.example/1.jpg?x=1");
        assert_eq!(target.origin(), "https://a.example:443");
    }

    mod any {
        use proptest::prelude::*;

        use super::super::*;

        /// Pieces that mean something to a URL parser, in any order, and anything else.
        fn url() -> impl Strategy<Value = String> {
            let piece = prop_oneof![
                prop::sample::select(vec![
                    "http",
                    "https",
                    "file",
                    "HTTP",
                    ":",
                    "/",
                    "//",
                    "\\\\",
                    "@",
                    "?",
                    "#",
                    "[",
                    "]",
                    "::",
                    "127.0.0.1",
                    "0x7f",
                    "2130706433",
                    "localhost",
                    "a.example",
                    "xn--",
                    "%2e",
                    "%00",
                    ".",
                    "..",
                    ":80",
                    ":443",
                    ":8443",
                    ":22",
                    ":0",
                    "\t",
                    " ",
                    "。",
                    "é",
                    "１",
                ])
                .prop_map(str::to_owned),
                any::<String>(),
                "[a-z0-9.%-]{0,12}",
            ];
            let free = prop::collection::vec(piece.clone(), 0..8).prop_map(|p| p.concat());
            let http =
                prop::collection::vec(piece, 0..8).prop_map(|p| format!("http://{}", p.concat()));
            prop_oneof![free, http, "https?://[a-z0-9.-]{1,20}(:[0-9]{1,5})?/[ -~]{0,20}"]
        }

        proptest! {
            #![proptest_config(ProptestConfig { failure_persistence: None, cases: 4096, ..ProptestConfig::default() })]

            #[test]
            fn url_that_is_accepted_keeps_all_rules_and_is_its_own_normal_form(text in url()) {
                let plan = FetchPlan::default();
                if let Ok(target) = Target::parse(&text, &plan) {
                    let url = &target.url;
                    prop_assert!(matches!(url.scheme(), "http" | "https"));
                    prop_assert!(!target.host.is_empty() && target.host == target.host.to_ascii_lowercase());
                    prop_assert!(plan.ports.contains(&url.port_or_known_default().unwrap()));
                    prop_assert!(url.username().is_empty() && url.password().is_none());
                    prop_assert!(url.fragment().is_none());
                    prop_assert!(target.literal.is_none_or(is_public));
                    prop_assert!(!target.domain().is_empty());
                    let again = Target::check(Url::parse(url.as_str()).unwrap(), &plan).unwrap();
                    prop_assert_eq!(again.url.as_str(), url.as_str());
                    prop_assert_eq!(again.host, target.host);
                }
            }
        }
    }
}
