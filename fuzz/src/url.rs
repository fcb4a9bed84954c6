//! URLs as pages write them, before any name is looked up.

use ingest::fetch::{FetchPlan, check_url};

/// What may be asked for is http or https without a password, on a port of the plan, and may be
/// asked for as it is then written.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let plan = FetchPlan::default();
    let Ok(url) = check_url(&text, &plan) else { return };
    assert!(matches!(url.scheme(), "http" | "https"), "{url}");
    assert!(url.username().is_empty() && url.password().is_none(), "{url}");
    assert!(url.fragment().is_none(), "{url}");
    assert!(url.port_or_known_default().is_some_and(|port| plan.ports.contains(&port)), "{url}");
    assert!(url.host_str().is_some_and(|host| !host.is_empty()), "{url}");
    // Escaping may make a URL longer than pages may write them.
    if url.as_str().len() <= 2083 {
        assert_eq!(check_url(url.as_str(), &plan).as_ref(), Ok(&url));
    }
}
