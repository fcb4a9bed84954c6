//! One URL, from the first rule to the last byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::{CONNECTION, DATE, HOST, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use super::body::{self, Body};
use super::budget::Bodies;
use super::dns::{Addresses, Lookup};
use super::meter::{Meter, Step};
use super::opt_out::OptOutList;
use super::plan::seconds;
use super::policy::Target;
use super::robots::RobotsCache;
use super::turns::{AtAddress, Rhythm};
use super::{FetchPlan, Reason, client, http_date, robots_tag};
use crate::DialMap;

/// What a fetcher keeps from unit to unit.
pub(super) struct Sites {
    pub(super) addresses: Addresses,
    pub(super) robots: RobotsCache,
    pub(super) opt_out: Arc<OptOutList>,
    rhythm: Rhythm,
    at_address: AtAddress,
}

impl Sites {
    pub(super) fn new(
        plan: &Arc<FetchPlan>,
        lookup: Arc<dyn Lookup>,
        opt_out: Arc<OptOutList>,
    ) -> Self {
        Self {
            addresses: Addresses::new(lookup, Arc::clone(plan)),
            robots: RobotsCache::default(),
            opt_out,
            rhythm: Rhythm::default(),
            at_address: AtAddress::new(plan.max_per_ip),
        }
    }
}

/// Everything that the requests of one unit share.
pub(super) struct Net {
    pub(super) plan: Arc<FetchPlan>,
    pub(super) sites: Arc<Sites>,
    dial: DialMap,
    client: Client,
    bodies: Arc<Bodies>,
    pub(super) meter: Arc<Meter>,
}

/// A try that gave no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) reason: Reason,
    /// What the server asked to wait before the next try.
    pub(super) wait: Option<Duration>,
    /// When its turn comes, where nothing was asked because its site wants to be asked slowly.
    pub(super) turn: Option<Instant>,
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        Self { reason, wait: None, turn: None }
    }
}

/// The head of an answer, and the turn at its address, which lasts as long as the body.
pub(super) struct Asked {
    pub(super) response: Response,
    _turn: Option<OwnedSemaphorePermit>,
}

impl Net {
    pub(super) fn new(
        plan: &Arc<FetchPlan>,
        dial: &DialMap,
        sites: &Arc<Sites>,
        bodies: Arc<Bodies>,
        meter: Arc<Meter>,
    ) -> stage::Result<Self> {
        // Where one address serves many hosts, their limits add up.
        let dials = !dial.is_empty() || !plan.dial.is_empty();
        let idle = if dials { plan.thread_count } else { plan.max_per_host };
        Ok(Self {
            plan: Arc::clone(plan),
            sites: Arc::clone(sites),
            dial: dial.clone(),
            client: client::build(plan, idle, &sites.addresses.resolver())?,
            bodies,
            meter,
        })
    }

    /// Fetches a target, following redirects by hand: each hop passes all rules anew.
    ///
    /// `keep_alive` says that more requests to the same domain follow.
    pub(super) async fn get(
        &self,
        mut target: Target,
        mut deadline: Instant,
        keep_alive: bool,
    ) -> Result<Body, Failure> {
        let mut visited = Vec::new();
        loop {
            if self.plan.robots {
                let delay = self.sites.robots.allows(self, &target, deadline).await?;
                while let Err(turn) = self.take_turn(&target, delay) {
                    if visited.is_empty() {
                        return Err(Failure { turn: Some(turn), ..Reason::CrawlDelay.into() });
                    }
                    // In the middle of a chain: a short wait, for which nobody is to blame.
                    deadline += turn.saturating_duration_since(Instant::now());
                    let _resting = self.meter.enter(Step::Politeness);
                    tokio::time::sleep_until(turn).await;
                }
            }
            let asked = self.ask(&target, &mut deadline, keep_alive).await?;
            let response = &asked.response;
            let status = response.status();
            if let Some(next) = self.redirect(&target, response)? {
                visited.push(target.url);
                if visited.contains(&next.url) {
                    return Err(Reason::RedirectLoop.into());
                }
                if visited.len() > self.plan.max_redirects as usize {
                    return Err(Reason::TooManyRedirects.into());
                }
                target = next;
                continue;
            }
            if status != StatusCode::OK {
                let wait = retry_after(response.headers(), unix_now());
                return Err(Failure { wait, ..Reason::Http(status.as_u16()).into() });
            }
            if robots_tag::forbids(response.headers(), &self.plan) {
                return Err(Reason::Noai.into());
            }
            if self.plan.tdm_reservation && robots_tag::reserves(response.headers()) {
                return Err(Reason::TdmReserved.into());
            }
            let _reading = self.meter.enter(Step::Network);
            return Ok(body::read(asked, &self.plan, deadline, &self.bodies).await?);
        }
    }

    fn take_turn(&self, target: &Target, delay: Duration) -> Result<(), Instant> {
        if delay.is_zero() {
            return Ok(());
        }
        self.sites.rhythm.take(target.domain(), delay)
    }

    /// Sends one request and waits for the head of the answer.
    ///
    /// The deadline is moved by the time for which other requests to the same address went first.
    pub(super) async fn ask(
        &self,
        target: &Target,
        deadline: &mut Instant,
        keep_alive: bool,
    ) -> Result<Asked, Reason> {
        let dial = self.dial_of(target);
        let at = self.meter.enter(Step::Dns);
        let resolving = timeout_at(*deadline, self.sites.addresses.admit(target, dial)).await;
        let (url, address) = resolving.map_err(|_| Reason::TimeoutTotal)??;
        drop(at);
        let waiting = Instant::now();
        let at = self.meter.enter(Step::Politeness);
        let turn = match address {
            Some(address) => self.sites.at_address.turn(address).await,
            None => None,
        };
        drop(at);
        *deadline += waiting.elapsed();
        let _asking = self.meter.enter(Step::Network);
        let first_byte = Instant::now() + seconds(self.plan.first_byte_timeout);
        let until = first_byte.min(*deadline);
        let late =
            if first_byte < *deadline { Reason::TimeoutFirstByte } else { Reason::TimeoutTotal };
        // A kept connection can be closed by the server in the moment in which it is used again.
        // That says nothing about the URL, so one lost connection before any answer is free.
        let mut free = true;
        loop {
            let mut request = self.client.get(url.clone());
            if dial.is_some() {
                request = request.header(HOST, host_header(target).ok_or(Reason::BadUrl)?);
            }
            if !keep_alive && dial.is_none() {
                request = request.header(CONNECTION, HeaderValue::from_static("close"));
            }
            self.meter.request();
            match timeout_at(until, request.send()).await {
                Ok(Ok(response)) => return Ok(Asked { response, _turn: turn }),
                Ok(Err(error)) => match client::reason(&error) {
                    Reason::Reset if free => free = false,
                    reason => return Err(reason),
                },
                Err(_) => return Err(late),
            }
        }
    }

    /// Where a redirect leads, if the answer is one; the place is vetted like any URL.
    pub(super) fn redirect(
        &self,
        from: &Target,
        response: &Response,
    ) -> Result<Option<Target>, Reason> {
        if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Ok(None);
        }
        let location = response.headers().get(LOCATION).ok_or(Reason::BadRedirect)?;
        let location = std::str::from_utf8(location.as_bytes()).map_err(|_| Reason::BadRedirect)?;
        let url = from.url.join(location).map_err(|_| Reason::BadRedirect)?;
        let target = Target::check(url, &self.plan)?;
        if self.sites.opt_out.covers(&target) { Err(Reason::OptOut) } else { Ok(Some(target)) }
    }

    fn dial_of(&self, target: &Target) -> Option<SocketAddr> {
        self.dial.lookup(&target.host).or_else(|| self.plan.dial.lookup(&target.host))
    }
}

/// How long to wait before the try after number `attempt` (from 0): what the server asked for, else
/// a quarter of a second, doubled each time; at most `max_retry_wait`.
pub(super) fn back_off(attempt: u32, asked: Option<Duration>, plan: &FetchPlan) -> Duration {
    let own = Duration::from_millis(250).saturating_mul(1 << attempt.min(16));
    asked.unwrap_or(own).min(seconds(plan.max_retry_wait))
}

/// Host and, where it is not the scheme's own, port of the URL.
fn host_header(target: &Target) -> Option<HeaderValue> {
    let host = target.url.host_str()?;
    let text = match target.url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    HeaderValue::from_str(&text).ok()
}

/// What `Retry-After` asks for, in seconds or as a date. A date is measured by the server's own
/// clock where the answer says what it shows. What cannot be read counts as the longest wait.
fn retry_after(headers: &HeaderMap, now: i64) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let Some(then) = http_date::parse(value) else { return Some(Duration::MAX) };
    let now = text(DATE).and_then(http_date::parse).unwrap_or(now);
    Some(Duration::from_secs(u64::try_from(then - now).unwrap_or(0)))
}

/// Seconds since 1970.
fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date_by_the_servers_clock() {
        let read = |value: &'static str, date: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(value));
            if let Some(date) = date {
                headers.insert(DATE, HeaderValue::from_static(date));
            }
            retry_after(&headers, 784_111_777).map(|wait| wait.as_secs())
        };
        assert_eq!(read("3", None), Some(3));
        assert_eq!(read("31536000", None), Some(31_536_000));
        assert_eq!(read("Sun, 06 Nov 1994 08:50:37 GMT", None), Some(60));
        let date = Some("Sun, 06 Nov 1994 08:50:07 GMT");
        assert_eq!(read("Sun, 06 Nov 1994 08:50:37 GMT", date), Some(30));
        assert_eq!(read("Sun, 06 Nov 1994 08:00:00 GMT", None), Some(0));
        assert_eq!(read("-5", None), Some(u64::MAX));
        assert_eq!(read("soon", None), Some(u64::MAX));
        assert_eq!(retry_after(&HeaderMap::new(), 0), None);
    }

    #[test]
    fn waits_double_and_no_server_can_make_them_longer_than_the_plan_allows() {
        let plan = FetchPlan { max_retry_wait: 2.0, ..FetchPlan::default() };
        let waits = [0, 1, 2, 3, 4, 40].map(|attempt| back_off(attempt, None, &plan).as_millis());
        assert_eq!(waits, [250, 500, 1000, 2000, 2000, 2000]);
        assert_eq!(back_off(0, Some(Duration::MAX), &plan), Duration::from_secs(2));
        assert_eq!(back_off(3, Some(Duration::ZERO), &plan), Duration::ZERO);
    }

    #[test]
    fn the_host_header_names_a_port_only_where_the_url_does() {
        let host = |url| {
            let target = Target::parse(url, &FetchPlan::default()).unwrap();
            host_header(&target).unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(host("https://a.example/x"), "a.example");
        assert_eq!(host("https://a.example:8443/x"), "a.example:8443");
        assert_eq!(host("https://a.example:443/x"), "a.example");
        assert_eq!(host("http://[2606::1]/x"), "[2606::1]");
    }
}
