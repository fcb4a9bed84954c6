//! What the server answers, well or badly.

use std::time::Duration;

use bytes::Bytes;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// Status, headers, `Content-Length` and body, as it should be.
    Full {
        /// Three digits.
        status: u16,
        /// Headers in order; those about length and connection are added.
        headers: Vec<(String, String)>,
        /// The body.
        body: Bytes,
    },
    /// These bytes and nothing else, then the connection is closed.
    Raw(Bytes),
    /// A sound head, then the body a few bytes at a time: the slow server.
    Drip {
        /// `Content-Type`.
        content_type: String,
        /// The body; its full length is announced.
        body: Bytes,
        /// Bytes at a time, at least 1.
        chunk: usize,
        /// Time after each chunk.
        pause: Duration,
    },
    /// Nothing, until the client goes away.
    Silent,
    /// A sound head that announces the whole body, then only its first bytes, then closed.
    CloseEarly {
        /// `Content-Type`.
        content_type: String,
        /// The body that is announced.
        body: Bytes,
        /// Bytes of it that are sent.
        sent: usize,
    },
    /// A chunked body that repeats this chunk until the client goes away.
    Endless {
        /// `Content-Type`.
        content_type: String,
        /// The chunk, not empty.
        chunk: Bytes,
    },
}

impl Response {
    /// Status 200 with this body.
    pub fn ok(content_type: &str, body: impl Into<Bytes>) -> Self {
        let headers = vec![("Content-Type".to_owned(), content_type.to_owned())];
        Self::Full { status: 200, headers, body: body.into() }
    }

    /// This status with an empty body.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self::Full { status, headers: Vec::new(), body: Bytes::new() }
    }

    /// A redirect to this address.
    #[must_use]
    pub fn redirect(status: u16, location: &str) -> Self {
        Self::status(status).with("Location", location)
    }

    /// Adds a header to a [`Response::Full`]; does nothing to the others.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        if let Self::Full { headers, .. } = &mut self {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }
}

/// The words that go with a status (RFC 9110, section 15); clients do not read them.
pub(super) fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        410 => "Gone",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Status",
    }
}
