//! Archives behind the loopback server.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use arrow_array::cast::AsArray;
use bytes::Bytes;
use ingest::links::{WatSource, run_unit};
use ingest::replay::Archive;
use ingest::serve::{Request, Response, Server};
use ingest::warc::Reader;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use stage::{Context, Kind};
use support::{member, record, shared};

fn archive(files: &[Vec<u8>]) -> (Archive, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    for (i, bytes) in files.iter().enumerate() {
        let path = folder.path().join(format!("{i}.warc.gz"));
        std::fs::write(&path, bytes).unwrap();
        paths.push(path.display().to_string());
    }
    (Archive::open(&paths).unwrap(), folder)
}

fn response(target: &str, status: &str, body: &str) -> Vec<u8> {
    let message = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/x\r\nX-Old: 1\r\nContent-Length: 9\r\n\r\n{body}"
    );
    record("response", target, message.as_bytes())
}

fn request(host: &str, path: &str) -> Request {
    Request {
        method: "GET".to_owned(),
        host: host.to_owned(),
        path: path.to_owned(),
        headers: Vec::new(),
    }
}

/// Status and body.
fn answer(archive: &Archive, host: &str, path: &str) -> (u16, String) {
    match archive.answer(&request(host, path)).unwrap() {
        Response::Full { status, body, .. } => (status, String::from_utf8(body.to_vec()).unwrap()),
        other => panic!("{other:?}"),
    }
}

fn found(body: &str) -> (u16, String) {
    (200, body.to_owned())
}

#[test]
fn answers_come_from_plain_and_packed_files_members_of_one_and_of_many() {
    let one = response("http://a.example/1", "200 OK", "one");
    let two = response("https://a.example/2?x", "200 OK", "two");
    let three = response("http://B.example", "200 OK", "three");
    let (packed, _folder) =
        archive(&[member(&one), member(&[two.clone(), three.clone()].concat())]);
    let (plain, _folder) = archive(&[[one, two, three].concat()]);
    for archive in [packed, plain] {
        assert_eq!(archive.len(), 3);
        assert_eq!(answer(&archive, "a.example", "/1"), found("one"));
        assert_eq!(answer(&archive, "a.example", "/2?x"), found("two"));
        assert_eq!(answer(&archive, "b.example", "/"), found("three"));
        assert_eq!(answer(&archive, "a.example", "/2"), (404, String::new()));
        assert_eq!(answer(&archive, "c.example", "/1"), (404, String::new()));
    }
}

#[test]
fn the_archived_status_and_headers_go_out_without_those_of_the_connection() {
    let (archive, _folder) = archive(&[response("http://a.example/", "410 Gone", "gone")]);
    let expected = Response::status(410).with("Content-Type", "text/x").with("X-Old", "1");
    let Response::Full { status, headers, .. } = expected else { unreachable!() };
    let body = Bytes::from("gone");
    let answer = archive.answer(&request("a.example", "/")).unwrap();
    assert_eq!(answer, Response::Full { status, headers, body });
    let post = Request { method: "POST".to_owned(), ..request("a.example", "/") };
    assert_eq!(archive.answer(&post).unwrap(), Response::status(405));
}

#[test]
fn of_several_captures_the_first_with_status_200_answers() {
    let captures: Vec<u8> = [("503 Busy", "busy"), ("200 OK", "first"), ("200 OK", "second")]
        .iter()
        .flat_map(|(status, body)| member(&response("http://a.example/", status, body)))
        .collect();
    let (archive, _folder) = archive(&[captures]);
    assert_eq!(answer(&archive, "a.example", "/"), found("first"));
}

#[test]
fn an_address_is_found_as_a_browser_asks_for_it() {
    let (archive, _folder) =
        archive(&[response("http://a.example/x/../a b.jpg?ü#part", "200 OK", "found")]);
    assert_eq!(answer(&archive, "a.example", "/a%20b.jpg?%C3%BC"), found("found"));
    assert_eq!(answer(&archive, "a.example", "/x/../a b.jpg?ü"), found("found"));
}

#[test]
fn records_in_angle_brackets_and_resources_are_served_and_others_not() {
    let (archive, _folder) = archive(&[[
        response("<http://a.example/brackets>", "200 OK", "one"),
        record("resource", "http://a.example/resource", b"two"),
        record("request", "http://a.example/request", b"GET / HTTP/1.1\r\n\r\n"),
        record("response", "dns:a.example", b"20080430 a.example"),
        record("response", "http://a.example/cut", b"HTTP/1.1 200 OK\r\nContent-"),
    ]
    .concat()]);
    assert_eq!(archive.len(), 2);
    assert_eq!(answer(&archive, "a.example", "/brackets"), found("one"));
    assert_eq!(answer(&archive, "a.example", "/resource"), found("two"));
}

#[test]
fn files_without_a_response_are_refused_with_their_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.wat").display().to_string();
    std::fs::write(&path, record("metadata", "http://a.example/", b"{}")).unwrap();
    let error = Archive::open(&[&path]).unwrap_err();
    assert_eq!(error.kind(), Kind::Input);
    assert_eq!(error.to_string(), format!("no response record in {path}"));
}

/// Status line, headers and body over a real connection.
fn get(address: SocketAddr, host: &str, path: &str) -> (String, String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let (status, headers) = head.split_once("\r\n").unwrap();
    (status.to_owned(), headers.to_owned(), answer[end + 4..].to_vec())
}

/// The addresses of all `IMG@/src` links, joined to the page alone, alt text or not.
fn all_image_links(wat: &[u8]) -> BTreeSet<String> {
    let mut urls = BTreeSet::new();
    let mut reader = Reader::new("wat", wat);
    while let Some(record) = reader.next_record().unwrap() {
        let Ok(json) = serde_json::from_slice::<serde_json::Value>(record.body) else { continue };
        let envelope = &json["Envelope"];
        let html = &envelope["Payload-Metadata"]["HTTP-Response-Metadata"]["HTML-Metadata"];
        let page = envelope["WARC-Header-Metadata"]["WARC-Target-URI"].as_str().unwrap();
        let base = url::Url::parse(html["Head"]["Base"].as_str().unwrap_or(page)).unwrap();
        let links = html["Links"].as_array().into_iter().flatten();
        urls.extend(
            links
                .filter(|link| link["path"] == "IMG@/src")
                .filter_map(|link| Some(base.join(link["url"].as_str()?).ok()?.into())),
        );
    }
    urls
}

/// Whether the archive answers this address with a picture, over a real connection.
fn gives_a_picture(server: &Server, url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (status, headers, body) =
        get(server.address(), host, if path.is_empty() { "/" } else { path });
    let typed = headers.to_ascii_lowercase().contains("content-type: image/");
    let magic = [&b"\xff\xd8\xff"[..], b"\x89PNG\r\n", b"GIF8"].iter().any(|m| body.starts_with(m));
    assert_eq!(status.contains(" 200 ") && typed, magic, "{url}: {status}\n{headers}");
    magic
}

/// The example archive holds 48 of the pictures that the pages of the derived WAT file show. 24 of
/// them are shown with a caption, in 69 pairs of address and caption.
#[test]
fn the_example_archive_serves_48_pictures_24_of_them_in_69_pairs() {
    let Some(warc) = shared("data/warc-wat/aut-example.warc.gz") else { return };
    let Some(wat) = shared("data/warc-wat/derived.warc.wat.gz") else { return };
    let server = Archive::open(&[warc.display().to_string()]).unwrap().serve().unwrap();

    let shown = all_image_links(&std::fs::read(&wat).unwrap());
    assert_eq!(shown.iter().filter(|url| gives_a_picture(&server, url)).count(), 48);

    let mut parquet = Vec::new();
    let wats = [WatSource::new(wat.display().to_string())];
    run_unit(&wats, &mut parquet, &Context::default()).unwrap();
    let mut captions: BTreeMap<String, u32> = BTreeMap::new();
    let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(parquet)).unwrap();
    for batch in reader.build().unwrap() {
        for url in batch.unwrap().column(1).as_string::<i32>() {
            *captions.entry(url.unwrap().to_owned()).or_default() += 1;
        }
    }
    captions.retain(|url, _| gives_a_picture(&server, url));
    assert_eq!((captions.len(), captions.values().sum::<u32>()), (24, 69));
}
