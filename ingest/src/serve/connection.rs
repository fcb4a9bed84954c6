//! One connection: requests in, answers out, until either side ends it.

use std::io;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::response::reason_phrase;
use super::{Request, Response};
use crate::warc::header_block;

pub(super) type Handler = Arc<dyn Fn(&Request) -> Response + Send + Sync>;

/// Longest request header block.
const MAX_HEAD: usize = 64 << 10;
/// Longest request body that is read to its end.
const MAX_BODY: usize = 1 << 20;

/// Answers requests until the client closes or an answer ends the connection.
pub(super) async fn serve_connection(mut stream: TcpStream, handler: &Handler) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = BytesMut::with_capacity(4096);
    loop {
        let block = loop {
            if let Some(length) = header_block(&buffer) {
                break buffer.split_to(length).freeze();
            }
            if buffer.len() > MAX_HEAD {
                return send(&mut stream, None, &refusal(431), false).await;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let Some(request) = Request::parse(&block) else {
            return send(&mut stream, None, &refusal(400), false).await;
        };
        let sound = read_body(&mut stream, &mut buffer, &request).await?;
        let asked = request.header("Connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
        let response = if sound { handler(&request) } else { refusal(413) };
        let keep =
            sound && !asked && matches!(response, Response::Full { .. } | Response::Drip { .. });
        send(&mut stream, Some(&request), &response, keep).await?;
        if !keep {
            return stream.shutdown().await;
        }
    }
}

fn refusal(status: u16) -> Response {
    Response::status(status)
}

/// Throws a request's body away; false when it is too long or of unknown length.
async fn read_body(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    request: &Request,
) -> io::Result<bool> {
    if request.header("Transfer-Encoding").is_some() {
        return Ok(false);
    }
    let length = match request.header("Content-Length").map(str::parse::<usize>) {
        None => 0,
        Some(Ok(length)) if length <= MAX_BODY => length,
        Some(_) => return Ok(false),
    };
    while buffer.len() < length {
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let _thrown_away = buffer.split_to(length);
    Ok(true)
}

async fn send(
    stream: &mut TcpStream,
    request: Option<&Request>,
    response: &Response,
    keep: bool,
) -> io::Result<()> {
    let with_body = request.is_none_or(|request| request.method != "HEAD");
    match response {
        Response::Full { status, headers, body } => {
            // RFC 9110, 8.6: these have no body and no length.
            let bodiless = matches!(status, 100..=199 | 204 | 304);
            let length = (!bodiless).then_some(body.len());
            let mut message = head(*status, headers, length, keep);
            if with_body && !bodiless {
                message.extend_from_slice(body);
            }
            stream.write_all(&message).await
        }
        Response::Raw(bytes) => stream.write_all(bytes).await,
        Response::Drip { content_type, body, chunk, pause } => {
            stream.write_all(&head(200, &typed(content_type), Some(body.len()), keep)).await?;
            if with_body {
                for piece in body.chunks((*chunk).max(1)) {
                    stream.write_all(piece).await?;
                    tokio::time::sleep(*pause).await;
                }
            }
            Ok(())
        }
        Response::Silent => {
            let mut sink = [0; 1024];
            while stream.read(&mut sink).await? > 0 {}
            Ok(())
        }
        Response::CloseEarly { content_type, body, sent } => {
            let mut message = head(200, &typed(content_type), Some(body.len()), keep);
            message.extend_from_slice(&body[..(*sent).min(body.len())]);
            stream.write_all(&message).await
        }
        Response::Endless { content_type, chunk } => {
            let mut headers = typed(content_type);
            headers.push(("Transfer-Encoding".to_owned(), "chunked".to_owned()));
            stream.write_all(&head(200, &headers, None, keep)).await?;
            let chunk = chunked(chunk);
            loop {
                stream.write_all(&chunk).await?;
            }
        }
    }
}

fn typed(content_type: &str) -> Vec<(String, String)> {
    vec![("Content-Type".to_owned(), content_type.to_owned())]
}

fn head(status: u16, headers: &[(String, String)], length: Option<usize>, keep: bool) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} {}\r\n", reason_phrase(status)).into_bytes();
    for (name, value) in headers {
        // What came from an archive may hold line ends; they must not end the header.
        let value: String = value.chars().filter(|c| !matches!(c, '\r' | '\n' | '\0')).collect();
        head.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    if let Some(length) = length {
        head.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes());
    }
    if !keep {
        head.extend_from_slice(b"Connection: close\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

fn chunked(bytes: &Bytes) -> Bytes {
    let mut chunk = BytesMut::with_capacity(bytes.len() + 16);
    chunk.put_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
    chunk.put_slice(bytes);
    chunk.put_slice(b"\r\n");
    chunk.freeze()
}
