//! Answers and bodies: each way to be wrong has its word, and every URL ends.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ingest::fetch::FetchPlan;

use crate::server::{Request, Server, chunk, head, ok, respond};
use crate::{fetch, impatient, jpeg, word};

/// Answers by path.
fn answer(request: &Request, stream: &mut TcpStream) -> std::io::Result<()> {
    let picture = jpeg(7);
    match request.path.as_str() {
        "/good.jpg" => ok(stream, &picture),
        "/chunked.jpg" => {
            head(stream, "Transfer-Encoding: chunked\r\n")?;
            picture.chunks(100).try_for_each(|part| chunk(stream, part))?;
            stream.write_all(b"0\r\n\r\n")
        }
        "/until-close.jpg" => {
            head(stream, "")?;
            stream.write_all(&picture)
        }
        "/404" => respond(stream, "404 Not Found", "", &picture),
        "/500" => respond(stream, "500 Internal Server Error", "", b""),
        "/204" => stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"),
        "/206" => respond(stream, "206 Partial Content", "", &picture),
        "/304" => stream.write_all(b"HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n"),
        "/html.jpg" => {
            respond(stream, "200 OK", "Content-Type: image/jpeg\r\n", b"<!DOCTYPE html><p>gone")
        }
        "/empty.jpg" => ok(stream, b""),
        "/truncated.jpg" => ok(stream, &picture[..picture.len() / 2]),
        "/promises-more.jpg" => {
            head(stream, "Content-Length: 5000\r\n")?;
            stream.write_all(&picture)
        }
        "/promises-less.jpg" => {
            head(stream, "Content-Length: 300\r\n")?;
            stream.write_all(&picture)
        }
        "/promises-10-gib.jpg" => {
            head(stream, "Content-Length: 10737418240\r\n")?;
            stream.write_all(&picture)
        }
        "/cut-chunk.jpg" => {
            head(stream, "Transfer-Encoding: chunked\r\n")?;
            stream.write_all(b"1000\r\nonly this")
        }
        "/no-last-chunk.jpg" => {
            head(stream, "Transfer-Encoding: chunked\r\n")?;
            chunk(stream, &picture)
        }
        "/endless.jpg" => {
            head(stream, "Transfer-Encoding: chunked\r\n")?;
            loop {
                chunk(stream, &[0; 4096])?;
            }
        }
        "/drip.jpg" => drip(stream, 1, 20),
        "/steady.jpg" => drip(stream, 200, 20),
        "/silent-body.jpg" => {
            head(stream, "Content-Length: 5000\r\n")?;
            stream.write_all(&picture[..100])?;
            wait_for_close(stream)
        }
        "/silent.jpg" => wait_for_close(stream),
        "/gzip.jpg" => respond(stream, "200 OK", "Content-Encoding: gzip\r\n", &picture),
        "/identity.jpg" => respond(stream, "200 OK", "Content-Encoding: identity\r\n", &picture),
        "/hangs-up.jpg" => Ok(()),
        "/garbage.jpg" => stream.write_all(b"220 smtp.example ready\r\n\r\n"),
        "/101-headers.jpg" => respond(stream, "200 OK", &"X-Filler: y\r\n".repeat(101), &picture),
        "/long-header.jpg" => {
            let header = format!("X-Filler: {}\r\n", "y".repeat(1 << 20));
            respond(stream, "200 OK", &header, &picture)
        }
        "/two-lengths.jpg" => {
            head(stream, "Content-Length: 3\r\nContent-Length: 4\r\n")?;
            stream.write_all(b"abcd")
        }
        _ => respond(stream, "410 Gone", "", b""),
    }
}

/// A chunked body of `bytes` every `millis`, for ever.
fn drip(stream: &mut TcpStream, bytes: usize, millis: u64) -> std::io::Result<()> {
    head(stream, "Transfer-Encoding: chunked\r\n")?;
    stream.set_nodelay(true)?;
    loop {
        chunk(stream, &vec![0; bytes])?;
        std::thread::sleep(Duration::from_millis(millis));
    }
}

/// Says nothing until the client goes.
fn wait_for_close(stream: &mut TcpStream) -> std::io::Result<()> {
    std::io::copy(stream, &mut std::io::sink())?;
    Ok(())
}

/// Path and the word that it ends in.
const TABLE: [(&str, &str); 29] = [
    ("/good.jpg", "success"),
    ("/chunked.jpg", "success"),
    ("/until-close.jpg", "success"),
    ("/identity.jpg", "success"),
    ("/404", "http_404"),
    ("/500", "http_500"),
    ("/204", "http_204"),
    ("/206", "http_206"),
    ("/304", "http_304"),
    ("/html.jpg", "not_an_image"),
    ("/empty.jpg", "empty"),
    ("/truncated.jpg", "truncated"),
    ("/promises-more.jpg", "short_body"),
    ("/promises-less.jpg", "truncated"),
    ("/promises-10-gib.jpg", "too_large"),
    ("/cut-chunk.jpg", "short_body"),
    ("/no-last-chunk.jpg", "short_body"),
    ("/endless.jpg", "too_large"),
    ("/drip.jpg", "too_slow"),
    ("/steady.jpg", "timeout_total"),
    ("/silent-body.jpg", "timeout_read"),
    ("/silent.jpg", "timeout_first_byte"),
    ("/gzip.jpg", "content_encoding"),
    ("/hangs-up.jpg", "reset"),
    ("/garbage.jpg", "bad_response"),
    ("/101-headers.jpg", "bad_response"),
    ("/long-header.jpg", "bad_response"),
    ("/two-lengths.jpg", "bad_response"),
    ("/other", "http_410"),
];

#[test]
fn every_way_to_answer_wrongly_has_its_word_and_every_url_ends() {
    let server = Server::start(answer);
    let urls: Vec<String> = TABLE
        .iter()
        .enumerate()
        .map(|(i, (path, _))| format!("http://h{i}.example{path}"))
        .collect();
    let began = Instant::now();
    let fetched = fetch(&impatient(), &server, &urls);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    for ((path, expected), word) in TABLE.iter().zip(fetched.words()) {
        assert_eq!(word, *expected, "{path}");
    }
    assert_eq!(fetched.counts.kept, 4);
    assert_eq!(fetched.counts.failed["short_body"], 3);
    assert!(server.all_closed(), "a connection outlived the unit");
}

#[test]
fn a_failed_row_has_its_status_and_no_picture() {
    let server = Server::start(answer);
    let urls = ["http://a.example/404", "http://b.example/html.jpg", "http://c.example/good.jpg"];
    let fetched = fetch(&impatient(), &server, &urls);
    let pairs = &fetched.batches[0];
    let statuses: Vec<_> = pairs.statuses().iter().flatten().collect();
    assert_eq!(statuses, ["failed_to_download", "failed_to_resize", "success"]);
    assert_eq!(pairs.image(0), None);
    assert_eq!(pairs.image(1), None);
    let hashes: Vec<bool> = pairs.text("sha256").iter().map(|hash| hash.is_some()).collect();
    assert_eq!(hashes, [false, true, true]);
    let decoded = pixels::decode(pairs.image(2).unwrap(), &pixels::Limits::default()).unwrap();
    assert_eq!((decoded.width, decoded.height), (256, 256));
    assert_eq!((pairs.int("width").value(2), pairs.int("height").value(2)), (256, 256));
    assert_eq!(pairs.int("original_width").value(2), 48);
    assert_eq!(pairs.int("original_height").value(2), 32);
}

#[test]
fn a_busy_server_is_asked_again_and_a_missing_picture_is_not() {
    let server = Server::start(|request, stream| match request.path.as_str() {
        "/busy.jpg" if request.before == 0 => {
            respond(stream, "503 Service Unavailable", "Retry-After: 0\r\n", b"")
        }
        "/many.jpg" if request.before < 2 => {
            respond(stream, "429 Too Many Requests", "Retry-After: 0\r\n", b"")
        }
        "/cut.jpg" if request.before == 0 => {
            head(stream, "Content-Length: 5000\r\n")?;
            stream.write_all(b"\xff\xd8\xff")
        }
        "/gone" => respond(stream, "404 Not Found", "", b""),
        _ => ok(stream, &jpeg(1)),
    });
    let urls =
        ["/busy.jpg", "/many.jpg", "/cut.jpg", "/gone"].map(|p| format!("http://a.example{p}"));
    let plan = FetchPlan { retries: 1, ..impatient() };
    assert_eq!(
        fetch(&plan, &server, &urls).words(),
        ["success", "http_429", "success", "http_404"]
    );
    let hits = ["/busy.jpg", "/many.jpg", "/cut.jpg", "/gone"]
        .map(|p| server.hits(&format!("a.example{p}")));
    assert_eq!(hits, [2, 2, 2, 1]);
}

#[test]
fn a_wait_that_the_total_time_does_not_hold_is_not_begun() {
    let server = Server::start(|_, stream| {
        respond(stream, "503 Service Unavailable", "Retry-After: 31536000\r\n", b"")
    });
    let plan = FetchPlan { retries: 3, ..impatient() };
    let began = Instant::now();
    assert_eq!(word(&plan, &server, "http://a.example/1.jpg"), "http_503");
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(server.hits("a.example/1.jpg"), 1);
}

#[test]
fn size_rules_of_the_plan_and_of_the_decoder_drop() {
    let server = Server::start(|request, stream| {
        let (width, height) = if request.path == "/wide.jpg" { (300, 10) } else { (48, 32) };
        let picture = pixels::Picture::filled(width, height, [9, 9, 9]);
        ok(stream, &pixels::encode_jpeg(&picture, 90))
    });
    let small = FetchPlan { min_image_size: 33, ..impatient() };
    let fetched = fetch(&small, &server, &["http://a.example/1.jpg", "http://a.example/wide.jpg"]);
    assert_eq!(fetched.words(), ["image_too_small", "aspect_too_large"]);
    assert_eq!(fetched.counts.dropped["image_too_small"], 1);
    assert_eq!(fetched.counts.dropped["aspect_too_large"], 1);
    let long = FetchPlan { max_aspect_ratio: Some(3.0), ..impatient() };
    let fetched = fetch(&long, &server, &["http://a.example/1.jpg"]);
    assert_eq!(fetched.words(), ["success"]);
}
