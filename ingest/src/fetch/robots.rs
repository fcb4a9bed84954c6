//! robots.txt (RFC 9309): asked once an origin, obeyed for every hop.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant as Clock};

use robotxt::{ANY_AGENT, BYTE_LIMIT, Robots};
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};
use url::Position;

use super::get::{Net, back_off};
use super::plan::{AGENT, seconds};
use super::policy::Target;
use super::{FetchPlan, Reason, body, client};

/// How long an answer holds (RFC 9309, 2.4: at most a day).
const FRESH: Duration = Duration::from_hours(24);
/// How long the lack of an answer holds.
const UNREACHABLE: Duration = Duration::from_mins(10);
/// Bytes of what is kept of all origins: names, robots.txt files, and what each takes besides.
const CAPACITY: usize = 64 << 20;
/// What an origin takes beside its name and its rules: two allocations and its place in the map.
const OVERHEAD: usize = 512;
/// Redirects that RFC 9309, 2.3.1.2, wants followed.
const MAX_REDIRECTS: usize = 5;

/// The rules of all origins that a fetcher has met.
#[derive(Default)]
pub(super) struct RobotsCache(Mutex<Cache>);

#[derive(Default)]
struct Cache {
    by_origin: HashMap<String, Arc<Entry>>,
    weight: usize,
}

struct Entry {
    born: Clock,
    site: OnceCell<Site>,
}

/// What an origin says.
enum Site {
    Rules(Rules),
    Unreachable(Reason),
}

impl RobotsCache {
    /// Whether a target may be asked for, and how long after the request before.
    ///
    /// # Errors
    /// [`Reason::Robots`] where a rule forbids it. Where robots.txt cannot be had: the reason, if
    /// the target itself would fail for the same (no address, no connection), else
    /// [`Reason::RobotsUnreachable`].
    pub(super) async fn allows(
        &self,
        net: &Net,
        target: &Target,
        deadline: Instant,
    ) -> Result<Duration, Reason> {
        let origin = target.origin();
        let entry = self.entry(&origin);
        let asked = entry.site.get_or_init(|| async {
            let (site, bytes) = load(net, target).await;
            self.weigh(bytes + origin.len() + OVERHEAD);
            site
        });
        match timeout_at(deadline, asked).await.map_err(|_| Reason::TimeoutTotal)? {
            Site::Rules(rules) if rules.allow(target) => Ok(rules.delay),
            Site::Rules(_) => Err(Reason::Robots),
            Site::Unreachable(reason) => Err(*reason),
        }
    }

    fn entry(&self, origin: &str) -> Arc<Entry> {
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = cache.by_origin.get(origin) {
            let limit = match entry.site.get() {
                Some(Site::Unreachable(_)) => UNREACHABLE,
                _ => FRESH,
            };
            if entry.born.elapsed() < limit {
                return Arc::clone(entry);
            }
        }
        let entry = Arc::new(Entry { born: Clock::now(), site: OnceCell::new() });
        cache.by_origin.insert(origin.to_owned(), Arc::clone(&entry));
        entry
    }

    /// Starts anew when the rules of too many sites have come together: asking a site twice is
    /// polite enough, and an exact account is not worth its code.
    fn weigh(&self, bytes: usize) {
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cache.weight += bytes;
        if cache.weight > CAPACITY {
            *cache = Cache::default();
        }
    }
}

/// Asks an origin for its rules; with the length of the file.
async fn load(net: &Net, target: &Target) -> (Site, usize) {
    // Half of a URL's time, so that no picture is given up for a slow robots.txt alone.
    let deadline = Instant::now() + seconds(net.plan.total_timeout) / 2;
    let mut attempt = 0;
    loop {
        let reason = match text(net, target, deadline).await {
            Ok(text) => {
                return (Site::Rules(Rules::parse(&text, &net.plan)), text.len());
            }
            Err(reason) => reason,
        };
        let wait = back_off(attempt, None, &net.plan);
        if attempt < net.plan.retries && reason.is_transient() && Instant::now() + wait < deadline {
            tokio::time::sleep(wait).await;
            attempt += 1;
            continue;
        }
        let same_for_target = matches!(
            reason,
            Reason::Dns
                | Reason::PrivateAddress
                | Reason::Connect
                | Reason::TimeoutConnect
                | Reason::Tls
                | Reason::OpenFiles
                | Reason::LocalPorts
        );
        let reason = if same_for_target { reason } else { Reason::RobotsUnreachable };
        return (Site::Unreachable(reason), 0);
    }
}

/// The file as far as it counts; nothing for a site without one.
async fn text(net: &Net, target: &Target, mut deadline: Instant) -> Result<Vec<u8>, Reason> {
    let mut target = target.clone();
    target.url.set_path("/robots.txt");
    target.url.set_query(None);
    for _ in 0..=MAX_REDIRECTS {
        let mut asked = net.ask(&target, &mut deadline, true).await?;
        let response = &mut asked.response;
        if let Some(next) = net.redirect(&target, response)? {
            target = next;
            continue;
        }
        let status = response.status().as_u16();
        match status {
            200..=299 => {}
            // Too many requests is a busy server, not one without rules.
            400..=499 if status != 429 => return Ok(Vec::new()),
            _ => return Err(Reason::Http(status)),
        }
        if !body::is_identity(response) {
            return Err(Reason::ContentEncoding);
        }
        let mut bytes = Vec::new();
        while bytes.len() <= BYTE_LIMIT {
            match timeout_at(deadline, response.chunk()).await {
                Ok(Ok(Some(chunk))) => bytes.extend_from_slice(&chunk),
                Ok(Ok(None)) => break,
                Ok(Err(error)) => return Err(client::reason(&error)),
                Err(_) => return Err(Reason::TimeoutTotal),
            }
        }
        return Ok(bytes);
    }
    // RFC 9309, 2.3.1.2: after five redirects a crawler may assume that there is no file.
    Ok(Vec::new())
}

/// The rules for us.
struct Rules {
    /// For the plan's agent.
    ours: Robots,
    /// For `clipmill`, where the plan's agent has another name.
    general: Option<Robots>,
    /// The crawl-delay for us, clamped; zero for none.
    delay: Duration,
}

impl Rules {
    fn parse(text: &[u8], plan: &FetchPlan) -> Self {
        let other = !plan.agent().eq_ignore_ascii_case(AGENT);
        let ours = Robots::parse(text, plan.agent());
        let general = other.then(|| Robots::parse(text, AGENT));
        let delays = general.iter().chain([&ours]).filter_map(Robots::crawl_delay);
        let delay = delays.max().unwrap_or_default().min(seconds(plan.max_crawl_delay));
        Self { ours, general, delay }
    }

    /// A group that names either agent binds us; `*` speaks only where none does.
    fn allow(&self, target: &Target) -> bool {
        let path = &target.url[Position::BeforePath..Position::AfterQuery];
        match &self.general {
            Some(general) if general.user_agent() != ANY_AGENT => {
                let ours = self.ours.user_agent() == ANY_AGENT || self.ours.is_allowed(path);
                ours && general.is_allowed(path)
            }
            _ => self.ours.is_allowed(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(text: &str, token: Option<&str>, path: &str) -> bool {
        let plan = FetchPlan { user_agent_token: token.map(str::to_owned), ..FetchPlan::default() };
        let target = Target::parse(&format!("http://a.example{path}"), &plan).unwrap();
        Rules::parse(text.as_bytes(), &plan).allow(&target)
    }

    #[test]
    fn the_longest_rule_of_our_group_decides() {
        let text = "User-agent: *\nDisallow: /img/\nAllow: /img/free/\n";
        assert!(!allowed(text, None, "/img/1.jpg"));
        assert!(allowed(text, None, "/img/free/1.jpg"));
        assert!(allowed(text, None, "/1.jpg"));
        assert!(!allowed("User-agent: *\nDisallow: /*?size=", None, "/1.jpg?size=2"));
    }

    #[test]
    fn a_group_for_either_of_our_names_comes_before_the_star() {
        let text = "User-agent: *\nDisallow: /\n\nUser-agent: MillBot\nDisallow: /no/\n";
        assert!(allowed(text, Some("millbot"), "/1.jpg"));
        assert!(!allowed(text, Some("millbot"), "/no/1.jpg"));
        assert!(!allowed(text, None, "/1.jpg"));
        let against = "User-agent: clipmill\nDisallow: /\n";
        assert!(!allowed(against, Some("millbot"), "/1.jpg"));
        let both = format!("{text}\nUser-agent: clipmill\nDisallow: /x/\n");
        assert!(!allowed(&both, Some("millbot"), "/no/1.jpg"));
        assert!(!allowed(&both, Some("millbot"), "/x/1.jpg"));
        assert!(allowed(&both, Some("millbot"), "/1.jpg"));
    }

    #[test]
    fn a_web_page_or_nothing_forbids_nothing() {
        assert!(allowed("", None, "/1.jpg"));
        assert!(allowed(
            "<html><body>Not found: Disallow everything</body></html>",
            None,
            "/1.jpg"
        ));
    }

    #[test]
    fn only_the_first_500_kib_count() {
        let mut text = "# filler\n".repeat(BYTE_LIMIT / 9 + 1);
        text.push_str("User-agent: *\nDisallow: /\n");
        assert!(allowed(&text, None, "/1.jpg"));
    }

    #[test]
    fn a_crawl_delay_is_clamped_whatever_it_says() {
        let delay = |value: &str| {
            let text = format!("User-agent: *\nCrawl-delay: {value}\nDisallow: /x\n");
            Rules::parse(text.as_bytes(), &FetchPlan::default()).delay.as_millis()
        };
        assert_eq!([delay("1.5"), delay("2"), delay("30")], [1500, 2000, 30_000]);
        assert_eq!([delay("3600"), delay("-1"), delay("often"), delay("")], [30_000, 0, 0, 0]);
        assert!([0, 30_000].contains(&delay("1e309")) && [0, 30_000].contains(&delay("inf")));
        let none = FetchPlan { max_crawl_delay: 0.0, ..FetchPlan::default() };
        assert!(Rules::parse(b"User-agent: *\nCrawl-delay: 9", &none).delay.is_zero());
    }
}
