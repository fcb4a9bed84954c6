//! Reading a body that may be endless, too slow, too long, too short or packed.

use std::time::Duration;

use reqwest::Response;
use reqwest::header::CONTENT_ENCODING;
use tokio::time::{Instant, timeout_at};

use super::budget::{Bodies, Hold};
use super::client;
use super::get::Asked;
use super::plan::seconds;
use super::{FetchPlan, Reason};

/// A body in memory.
pub(super) struct Body {
    bytes: Vec<u8>,
    hold: Hold,
}

impl Body {
    /// Bytes of the body.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes, and their share of the memory budget.
    pub(super) fn into_parts(self) -> (Vec<u8>, Hold) {
        (self.bytes, self.hold)
    }
}

/// Reads a body whole, or says why not.
pub(super) async fn read(
    mut asked: Asked,
    plan: &FetchPlan,
    mut deadline: Instant,
    bodies: &std::sync::Arc<Bodies>,
) -> Result<Body, Reason> {
    let response = &mut asked.response;
    if !is_identity(response) {
        return Err(Reason::ContentEncoding);
    }
    let announced = response.content_length();
    if announced.is_some_and(|length| length > plan.max_bytes) {
        return Err(Reason::TooLarge);
    }
    let mut hold = bodies.hold();
    let mut bytes = Vec::new();
    let mut floor = Floor::new(plan);
    loop {
        let silence = Instant::now() + seconds(plan.timeout);
        let until = silence.min(deadline).min(floor.until);
        let chunk = match timeout_at(until, response.chunk()).await {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) => break,
            Ok(Err(error)) => return Err(client::reason(&error)),
            Err(_) if Instant::now() >= deadline => return Err(Reason::TimeoutTotal),
            Err(_) if floor.until <= silence => {
                floor.next_window()?;
                continue;
            }
            Err(_) => return Err(Reason::TimeoutRead),
        };
        if bytes.len() as u64 + chunk.len() as u64 > plan.max_bytes {
            return Err(Reason::TooLarge);
        }
        let waited = hold.grow_to(bytes.len() + chunk.len()).await;
        deadline += waited;
        floor.until += waited;
        bytes.extend_from_slice(&chunk);
        floor.received += chunk.len() as u64;
        // Checked here too: a drip whose every byte arrives in time never lets the wait run out.
        if Instant::now() >= deadline {
            return Err(Reason::TimeoutTotal);
        }
        if Instant::now() >= floor.until {
            floor.next_window()?;
        }
    }
    if announced.is_some_and(|length| length != bytes.len() as u64) {
        return Err(Reason::ShortBody);
    }
    Ok(Body { bytes, hold })
}

/// Whether the body comes as it is. Nobody asked for another coding, and unpacking one is how 34
/// bytes become eleven million.
pub(super) fn is_identity(response: &Response) -> bool {
    let mut encodings = response.headers().get_all(CONTENT_ENCODING).iter();
    encodings.all(|value| matches!(value.as_bytes().trim_ascii(), b"" | b"identity"))
}

/// The rate floor: enough bytes in each window of time.
struct Floor {
    window: Duration,
    needed: u64,
    received: u64,
    until: Instant,
}

impl Floor {
    fn new(plan: &FetchPlan) -> Self {
        let window = seconds(plan.min_rate_window);
        let needed = (plan.min_rate as f64 * plan.min_rate_window).ceil() as u64;
        Self { window, needed, received: 0, until: Instant::now() + window }
    }

    fn next_window(&mut self) -> Result<(), Reason> {
        if self.received < self.needed {
            return Err(Reason::TooSlow);
        }
        self.received = 0;
        self.until = Instant::now() + self.window;
        Ok(())
    }
}
