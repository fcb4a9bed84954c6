//! What a case's server answers.

use std::collections::BTreeMap;
use std::time::Duration;

use ingest::serve::{Response, Server};
use serde::Deserialize;

use crate::make::Pieces;

/// The answer to a path.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Answer {
    /// Status 200 and this body.
    Body(Pieces),
    /// An answer as it should be, with these headers.
    Status(u16, BTreeMap<String, String>, Pieces),
    /// These bytes, then the connection is closed.
    Raw(Pieces),
    /// A body a few bytes at a time, with a pause in milliseconds after each.
    Drip { chunk: usize, pause_ms: u64, body: Pieces },
    /// Nothing at all.
    Silent(()),
    /// The body's first bytes, then the connection is closed.
    CloseEarly { sent: usize, body: Pieces },
    /// This again and again, without an end.
    Endless(Pieces),
}

impl Answer {
    fn response(&self) -> Response {
        let content_type = "image/jpeg".to_owned();
        match self {
            Self::Body(body) => Response::ok(&content_type, body.bytes()),
            Self::Status(status, headers, body) => Response::Full {
                status: *status,
                headers: headers.clone().into_iter().collect(),
                body: body.bytes().into(),
            },
            Self::Raw(bytes) => Response::Raw(bytes.bytes().into()),
            Self::Drip { chunk, pause_ms, body } => Response::Drip {
                content_type,
                body: body.bytes().into(),
                chunk: *chunk,
                pause: Duration::from_millis(*pause_ms),
            },
            Self::Silent(()) => Response::Silent,
            Self::CloseEarly { sent, body } => {
                Response::CloseEarly { content_type, body: body.bytes().into(), sent: *sent }
            }
            Self::Endless(chunk) => Response::Endless { content_type, chunk: chunk.bytes().into() },
        }
    }
}

/// A server for these paths, and none for none; every other path is a 404.
pub(crate) fn serve(answers: &BTreeMap<String, Answer>) -> Option<Server> {
    let answers: BTreeMap<String, Response> =
        answers.iter().map(|(path, answer)| (path.clone(), answer.response())).collect();
    if answers.is_empty() {
        return None;
    }
    let server = Server::start(move |request| {
        answers.get(&request.path).cloned().unwrap_or_else(|| Response::status(404))
    });
    Some(server.unwrap())
}
