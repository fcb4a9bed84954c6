//! A small HTTP/1.1 server for loopback, well behaved or badly on purpose.
//!
//! Tests, the replay of archives and the demo's web are served by it. The handler decides by host
//! name and path, so that one port plays any number of sites. It is no server for a network: it
//! listens on 127.0.0.1 alone.
//!
//! ```
//! use ingest::serve::{Response, Server};
//! use std::io::{Read, Write};
//!
//! let server = Server::start(|request| match (request.host.as_str(), request.path.as_str()) {
//!     ("a.example", "/cat.txt") => Response::ok("text/plain", "a cat"),
//!     _ => Response::status(404),
//! })?;
//! let mut stream = std::net::TcpStream::connect(server.address()).unwrap();
//! stream.write_all(b"GET /cat.txt HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n").unwrap();
//! let mut answer = String::new();
//! stream.read_to_string(&mut answer).unwrap();
//! assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\na cat"));
//! # Ok::<(), stage::Error>(())
//! ```
//!
//! Reading order: [`Server`], [`Request`], [`Response`].

mod connection;
mod request;
mod response;
mod server;

pub use request::Request;
pub use response::Response;
pub use server::Server;
