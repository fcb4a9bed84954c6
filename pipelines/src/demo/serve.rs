//! The demo's web on loopback: one server for all hosts, told apart by the Host header.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ingest::DialMap;
use ingest::serve::{Request, Response, Server};
use stage::Result;

use super::world::Answer;

/// The answers of a world.
pub(crate) struct Web {
    answers: Arc<BTreeMap<(String, String), Answer>>,
    closed: Arc<Vec<String>>,
}

/// The web while it is served; stopped on drop.
pub(crate) struct Serving(Server);

impl Web {
    pub(super) fn new(answers: BTreeMap<(String, String), Answer>, closed: &[String]) -> Self {
        Self { answers: Arc::new(answers), closed: Arc::new(closed.to_vec()) }
    }

    /// Starts serving on a free port of loopback.
    pub(crate) fn serve(&self) -> Result<Serving> {
        let (answers, closed) = (Arc::clone(&self.answers), Arc::clone(&self.closed));
        Server::start(move |request: &Request| {
            if request.path == "/robots.txt" {
                return robots(closed.contains(&request.host));
            }
            match answers.get(&(request.host.clone(), request.path.clone())) {
                Some(answer) => respond(answer),
                None => Response::status(404),
            }
        })
        .map(Serving)
    }
}

impl Serving {
    /// Where every host is dialled.
    pub(crate) fn dial(&self) -> DialMap {
        DialMap::everything_at(self.0.address())
    }
}

fn robots(closed: bool) -> Response {
    let rules = if closed { "User-agent: *\nDisallow: /\n" } else { "User-agent: *\nDisallow:\n" };
    Response::ok("text/plain", rules)
}

fn respond(answer: &Answer) -> Response {
    match answer {
        Answer::Picture(kind, body) => Response::ok(kind, body.clone()),
        Answer::NoAi(body) => {
            Response::ok("image/png", body.clone()).with("X-Robots-Tag", "noai, noimageai")
        }
        Answer::Html => Response::ok("image/jpeg", "<!doctype html><title>Not a picture</title>"),
        Answer::Gone => Response::status(404),
        Answer::Slow(body) => Response::Drip {
            content_type: "image/png".to_owned(),
            body: body.clone().into(),
            chunk: 1,
            pause: Duration::from_millis(200),
        },
        Answer::Endless => {
            Response::Endless { content_type: "image/png".to_owned(), chunk: vec![0; 256].into() }
        }
    }
}
