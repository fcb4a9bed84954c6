//! Shards and pictures over https, from servers on loopback under authorities of the test's own.

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;

use common::{clipmill, picture, stderr, stdout};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Signs certificates; `file` is its own one, for `SSL_CERT_FILE`.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: PathBuf,
    folder: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        Self::named("an authority of one test")
    }

    fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let own = params.self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("authority.pem");
        std::fs::write(&file, pem(own.der())).unwrap();
        Self { issuer: Issuer::new(params, key), file, folder }
    }

    /// What a server needs to say that it is `name`, up to the year `until`.
    fn server(&self, name: &str, until: i32) -> Arc<ServerConfig> {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        let own: CertificateDer<'static> =
            params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own], key)
            .unwrap();
        Arc::new(config)
    }

    /// `clipmill stat` of this URL, of one who trusts this authority and no other.
    fn stat(&self, url: &str) -> Output {
        clipmill()
            .args(["stat", url])
            .env("SSL_CERT_FILE", &self.file)
            .env_remove("SSL_CERT_DIR")
            .env("CLIPMILL_PRIVATE_HOSTS", "localhost")
            .output()
            .unwrap()
    }
}

/// RFC 7468.
fn pem(der: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for (number, three) in der.chunks(3).enumerate() {
        let [a, b, c] = [0, 1, 2].map(|i| u32::from(three.get(i).copied().unwrap_or(0)));
        let bits = a << 16 | b << 8 | c;
        for i in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * i) & 63) as usize];
            text.push(if i <= three.len() { letter.into() } else { '=' });
        }
        if number % 16 == 15 {
            text.push('\n');
        }
    }
    text + "\n-----END CERTIFICATE-----\n"
}

type Answer = dyn Fn(&str, &BTreeMap<String, String>) -> Vec<u8> + Send + Sync;

/// Serves over TLS, or without where there is no `tls`; gives the port.
fn serve(
    tls: Option<Arc<ServerConfig>>,
    answer: impl Fn(&str, &BTreeMap<String, String>) -> Vec<u8> + Send + Sync + 'static,
) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer: Arc<Answer> = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, tls, answer) = (stream.unwrap(), tls.clone(), Arc::clone(&answer));
            std::thread::spawn(move || match tls {
                None => one(stream, &*answer),
                Some(tls) => {
                    let connection = ServerConnection::new(tls).unwrap();
                    one(StreamOwned::new(connection, stream), &*answer);
                }
            });
        }
    });
    port
}

/// One request and its answer.
fn one(mut stream: impl Read + Write, answer: &Answer) {
    let mut lines = BufReader::new(&mut stream)
        .lines()
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty());
    // A client that does not trust us says nothing.
    let Some(first) = lines.next() else { return };
    let path = first.split(' ').nth(1).unwrap().to_owned();
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| {
            let (name, value) = line.split_once(": ")?;
            Some((name.to_lowercase(), value.to_owned()))
        })
        .collect();
    let _gone = stream.write_all(&answer(&path, &headers)).and_then(|()| stream.flush());
}

fn response(head: &str, body: &[u8]) -> Vec<u8> {
    let length = format!("Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    [head.as_bytes(), b"\r\n", length.as_bytes(), body].concat()
}

/// The range that was asked for.
fn ranged(file: &[u8], headers: &BTreeMap<String, String>) -> Vec<u8> {
    let range = headers["range"].strip_prefix("bytes=").unwrap();
    let (first, last) = range.split_once('-').unwrap();
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    let range = format!("Content-Range: bytes {first}-{last}/{}", file.len());
    response(
        &format!("HTTP/1.1 206 Partial Content\r\n{range}\r\nETag: \"1\""),
        &file[first..=last],
    )
}

/// A shard of three samples.
fn shard() -> Vec<u8> {
    let mut tar = shard::TarWriter::new(Vec::new());
    for number in 0..3 {
        tar.append(&format!("{number:05}.png"), &picture(number)).unwrap();
        tar.append(&format!("{number:05}.txt"), b"a grey picture").unwrap();
    }
    tar.finish().unwrap()
}

fn shards(tls: Option<Arc<ServerConfig>>) -> u16 {
    serve(tls, |path, headers| match path {
        "/00000.tar" => ranged(&shard(), headers),
        _ => response("HTTP/1.1 404 Not Found", b""),
    })
}

#[test]
fn a_shard_is_read_over_https_from_a_server_that_is_trusted() {
    let ours = Authority::new();
    let port = shards(Some(ours.server("localhost", 2100)));
    let told = ours.stat(&format!("https://localhost:{port}/00000.tar"));
    assert!(told.status.success(), "{}", stderr(&told));
    assert!(stdout(&told).contains('3'), "{}", stdout(&told));
}

#[test]
fn a_certificate_of_another_authority_or_name_or_time_is_refused_in_words_that_say_so() {
    let (ours, forger) = (Authority::new(), Authority::new());
    let other = Authority::named("an authority of nobody");
    for (tls, why) in [
        (other.server("localhost", 2100), "UnknownIssuer"),
        (forger.server("localhost", 2100), "BadSignature"),
        (ours.server("elsewhere.example", 2100), "not valid for name"),
        (ours.server("localhost", 2000), "certificate expired"),
    ] {
        let port = shards(Some(tls));
        let told = ours.stat(&format!("https://localhost:{port}/00000.tar?signature=secret"));
        let text = stderr(&told);
        assert_eq!(told.status.code(), Some(3), "{text}");
        assert!(text.contains("the server's certificate is not trusted"), "{text}");
        assert!(text.contains(why), "{text}");
        assert!(text.contains("hint: ") && text.contains("SSL_CERT_FILE"), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }
}

#[test]
fn a_redirect_from_https_to_http_is_refused_and_one_within_https_is_followed() {
    let ours = Authority::new();
    let plain = shards(None);
    let port = serve(Some(ours.server("localhost", 2100)), move |path, headers| match path {
        "/down" => {
            let place = format!("Location: http://localhost:{plain}/00000.tar");
            response(&format!("HTTP/1.1 302 Found\r\n{place}"), b"")
        }
        "/within" => response("HTTP/1.1 302 Found\r\nLocation: /00000.tar", b""),
        _ => ranged(&shard(), headers),
    });
    // What is asked for under http is read, so that it is the way down that is refused.
    let told = ours.stat(&format!("http://localhost:{plain}/00000.tar"));
    assert!(told.status.success(), "{}", stderr(&told));
    let within = ours.stat(&format!("https://localhost:{port}/within"));
    assert!(within.status.success(), "{}", stderr(&within));
    let down = ours.stat(&format!("https://localhost:{port}/down"));
    let text = stderr(&down);
    assert_eq!(down.status.code(), Some(3), "{text}");
    assert!(text.contains("a redirect from https to http"), "{text}");
}

#[test]
fn a_picture_is_fetched_over_https_where_the_server_is_trusted_and_counted_as_tls_where_not() {
    let (ours, other) = (Authority::new(), Authority::new());
    let pictures = |tls| serve(Some(tls), |_, _| response("HTTP/1.1 200 OK", &picture(7)));
    let trusted = pictures(ours.server("localhost", 2100));
    let strange = pictures(other.server("localhost", 2100));
    let list = ours.folder.path().join("links.txt");
    let lines = format!("https://localhost:{trusted}/1.png\nhttps://localhost:{strange}/2.png\n");
    std::fs::write(&list, lines).unwrap();
    let recipe = ours.folder.path().join("https.yaml");
    let text = format!(
        "version: 1\nname: https\noutput: {}\nstages:\n  - link_list: {{url_list: [{}], input_format: txt}}\n  - fetch: {{image_size: 32, retries: 0, robots: false, allow_loopback: [localhost], ports: [{trusted}, {strange}], min_success_rate: 0}}\n",
        ours.folder.path().join("out").display(),
        list.display(),
    );
    std::fs::write(&recipe, text).unwrap();
    let told = clipmill()
        .args(["run", recipe.to_str().unwrap(), "--json"])
        .env("SSL_CERT_FILE", &ours.file)
        .env_remove("SSL_CERT_DIR")
        .output()
        .unwrap();
    assert!(told.status.success(), "{}", stderr(&told));
    let said: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    let counts = &said["stages"][1]["counts"];
    assert_eq!(counts["kept"], 1, "{counts}");
    assert_eq!(counts["failed"]["tls"], 1, "{counts}");
}
