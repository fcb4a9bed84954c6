//! What the headers of an answer forbid: X-Robots-Tag, read as img2dataset reads it
//! (`downloader.py`, `is_disallowed`), and tdm-reservation (W3C Community Group's TDM Reservation
//! Protocol, "tdm-reservation" in an HTTP response).

use reqwest::header::HeaderMap;

use super::FetchPlan;
use super::plan::AGENT;

/// Whether a header forbids the use of the answer.
///
/// Every value is split once at `:`. What stands before it, if anything, is the agent that the
/// directives are for; the directives are separated by commas. Case makes no difference. A value
/// counts when it names no agent or ours.
pub(super) fn forbids(headers: &HeaderMap, plan: &FetchPlan) -> bool {
    headers.get_all("x-robots-tag").iter().any(|value| {
        let value = String::from_utf8_lossy(value.as_bytes());
        let (agent, directives) = match value.split_once(':') {
            Some((agent, directives)) => (Some(agent.trim()), directives),
            None => (None, value.as_ref()),
        };
        let ours = agent.is_none_or(|agent| {
            agent.eq_ignore_ascii_case(plan.agent()) || agent.eq_ignore_ascii_case(AGENT)
        });
        ours && directives.split(',').any(|directive| {
            let directive = directive.trim();
            plan.disallowed_header_directives.iter().any(|d| d.eq_ignore_ascii_case(directive))
        })
    })
}

/// Whether the owner reserves the right to mine the answer: `tdm-reservation: 1`, in any instance.
pub(super) fn reserves(headers: &HeaderMap) -> bool {
    headers.get_all("tdm-reservation").iter().any(|value| value.as_bytes().trim_ascii() == b"1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("X-Robots-Tag", value.parse().unwrap());
        }
        let plan = FetchPlan { user_agent_token: Some("MillBot".into()), ..FetchPlan::default() };
        forbids(&headers, &plan)
    }

    #[test]
    fn any_listed_directive_of_any_header_forbids_in_any_case() {
        assert!(check(&["noai"]));
        assert!(check(&["nofollow, NoAI"]));
        assert!(check(&["nosnippet", "nofollow", "NOIMAGEINDEX"]));
        assert!(!check(&[]));
        assert!(!check(&["nofollow, nosnippet", "none"]));
        assert!(!check(&["noaix"]));
    }

    #[test]
    fn a_directive_for_another_agent_does_not_count() {
        assert!(!check(&["googlebot: noai"]));
        assert!(check(&["millbot: noindex"]));
        assert!(check(&["clipmill: noai"]));
        assert!(check(&["googlebot: noai", "MILLBOT : noai"]));
    }

    #[test]
    fn a_reservation_is_the_number_one() {
        let reserved = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("TDM-Reservation", value.parse().unwrap());
            }
            reserves(&headers)
        };
        assert!(reserved(&["1"]) && reserved(&["0", " 1 "]));
        assert!(!reserved(&[]) && !reserved(&["0"]) && !reserved(&["10", "yes"]));
    }

    #[test]
    fn a_date_with_colons_is_no_opt_out() {
        assert!(!check(&["unavailable_after: 25 Jun 2030 15:00:00 PST"]));
    }
}
