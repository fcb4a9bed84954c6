//! One URL, from the first rule to the last byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{CONNECTION, HOST, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode};
use tokio::time::{Instant, timeout_at};

use super::body::{self, Body};
use super::budget::Bodies;
use super::dns::{Addresses, Lookup};
use super::opt_out::OptOutList;
use super::plan::seconds;
use super::policy::Target;
use super::robots::RobotsCache;
use super::{FetchPlan, Reason, client, robots_tag};
use crate::DialMap;

/// Everything that the requests of one unit share.
pub(super) struct Net {
    pub(super) plan: Arc<FetchPlan>,
    dial: DialMap,
    client: Client,
    addresses: Addresses,
    robots: Arc<RobotsCache>,
    opt_out: Arc<OptOutList>,
    bodies: Arc<Bodies>,
}

/// A try that gave no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) reason: Reason,
    /// What the server asked to wait before the next try.
    pub(super) wait: Option<Duration>,
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        Self { reason, wait: None }
    }
}

impl Net {
    pub(super) fn new(
        plan: &Arc<FetchPlan>,
        dial: &DialMap,
        lookup: Arc<dyn Lookup>,
        robots: &Arc<RobotsCache>,
        opt_out: &Arc<OptOutList>,
        bodies: Arc<Bodies>,
    ) -> stage::Result<Self> {
        let addresses = Addresses::new(lookup, Arc::clone(plan));
        // Where one address serves many hosts, their limits add up.
        let dials = !dial.is_empty() || !plan.dial.is_empty();
        let idle = if dials { plan.thread_count } else { plan.max_per_host };
        Ok(Self {
            plan: Arc::clone(plan),
            dial: dial.clone(),
            client: client::build(plan, idle, &addresses.resolver())?,
            addresses,
            robots: Arc::clone(robots),
            opt_out: Arc::clone(opt_out),
            bodies,
        })
    }

    /// Fetches a target, following redirects by hand: each hop passes all rules anew.
    ///
    /// `keep_alive` says that more requests to the same domain follow.
    pub(super) async fn get(
        &self,
        mut target: Target,
        deadline: Instant,
        keep_alive: bool,
    ) -> Result<Body, Failure> {
        let mut visited = Vec::new();
        loop {
            if self.plan.robots {
                self.robots.allows(self, &target, deadline).await?;
            }
            let response = self.ask(&target, deadline, keep_alive).await?;
            let status = response.status();
            if let Some(next) = self.redirect(&target, &response)? {
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
                let wait = retry_after(response.headers());
                return Err(Failure { reason: Reason::Http(status.as_u16()), wait });
            }
            if robots_tag::forbids(response.headers(), &self.plan) {
                return Err(Reason::Noai.into());
            }
            return Ok(body::read(response, &self.plan, deadline, &self.bodies).await?);
        }
    }

    /// Sends one request and waits for the head of the answer.
    pub(super) async fn ask(
        &self,
        target: &Target,
        deadline: Instant,
        keep_alive: bool,
    ) -> Result<Response, Reason> {
        let dial = self.dial_of(target);
        let first_byte = Instant::now() + seconds(self.plan.first_byte_timeout);
        let until = first_byte.min(deadline);
        let late =
            if first_byte < deadline { Reason::TimeoutFirstByte } else { Reason::TimeoutTotal };
        let url =
            timeout_at(until, self.addresses.admit(target, dial)).await.map_err(|_| late)??;
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
            match timeout_at(until, request.send()).await {
                Ok(Ok(response)) => return Ok(response),
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
        if self.opt_out.covers(&target) { Err(Reason::OptOut) } else { Ok(Some(target)) }
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

/// `Retry-After` in seconds. A date is not read: it needs the clock of the server to be right,
/// and the wait is clamped to a few seconds anyway, so a date counts as the longest wait.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    Some(value.parse().map_or(Duration::MAX, Duration::from_secs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_and_a_date_is_the_longest_wait() {
        let read = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(value));
            retry_after(&headers)
        };
        assert_eq!(read("3"), Some(Duration::from_secs(3)));
        assert_eq!(read("31536000"), Some(Duration::from_hours(8760)));
        assert_eq!(read("Wed, 21 Oct 2037 07:28:00 GMT"), Some(Duration::MAX));
        assert_eq!(read("-5"), Some(Duration::MAX));
        assert_eq!(retry_after(&HeaderMap::new()), None);
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
