//! The viewer over HTTP: what it answers, and to whom.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use common::{World, clipmill, run_well};
use serde_json::Value;

/// A running `clipmill view`; stopped when dropped.
struct Viewer {
    child: Child,
    host: String,
}

impl Viewer {
    fn of(folder: &Path) -> Self {
        let mut child = clipmill().arg("view").arg(folder).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let url = lines.map(Result::unwrap).find(|line| line.starts_with("http://")).unwrap();
        let host = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        assert!(host.starts_with("127.0.0.1:"), "{host}");
        Self { child, host }
    }

    /// Status line with headers, and the body.
    fn ask_as(&self, host: &str, path: &str) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(&self.host).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        let body = answer.split_off(end + 4);
        (String::from_utf8(answer).unwrap(), body)
    }

    fn ask(&self, path: &str) -> (String, Vec<u8>) {
        self.ask_as(&self.host.clone(), path)
    }

    fn json(&self, path: &str) -> Value {
        let (head, body) = self.ask(path);
        assert!(
            head.starts_with("HTTP/1.1 200 "),
            "{path}: {head} {}",
            String::from_utf8_lossy(&body)
        );
        serde_json::from_slice(&body).unwrap()
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn world() -> World {
    let world = World::new(Duration::ZERO);
    let path = world.ordinary("view", "min_words: 2");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}  - release: {{license: mit}}\n")).unwrap();
    run_well(&path, &[]);
    world
}

/// Asks for a picture of this row.
fn picture(viewer: &Viewer, row: &Value) -> (String, Vec<u8>) {
    let text = |name: &str| row[name].as_str().unwrap().to_owned();
    viewer.ask(&format!("/picture?shard={}&key={}", text("shard"), text("key")))
}

#[test]
fn a_judged_stage_is_searched_by_words_reason_score_and_domain() {
    let world = world();
    let viewer = Viewer::of(&world.path("out/judge"));
    let info = viewer.json("/api/info");
    assert_eq!((&info["rows"], &info["kept"]), (&40.into(), &31.into()), "{info}");
    let total = |query: &str| viewer.json(&format!("/api/rows?{query}"))["total"].as_u64().unwrap();
    assert_eq!(total(""), 40);
    assert_eq!(total("q=Number+12"), 1);
    assert_eq!(total("reason=(kept)"), 31);
    assert_eq!(total("reason=(dropped)"), 9);
    assert_eq!(total("domain=site-1.example"), 10);
    assert_eq!(total("domain=example"), 40);
    assert_eq!(total("domain=ite-1.example"), 0);
    assert_eq!(total("score=caption_words&max=1"), 3);
    assert_eq!(total("score=caption_words&min=2&max=9&reason=(kept)"), 31);
    let first = viewer.json("/api/rows?q=number+12")["rows"][0].clone();
    assert_eq!(first["caption"], "a grey picture number 12");
    // The picture lies in the stage above the judge's.
    let (head, png) = picture(&viewer, &first);
    assert!(head.contains("image/jpeg") || head.contains("image/png"), "{head}");
    assert!(png.len() > 50);
    let (head, _) = viewer.ask("/api/rows?score=caption_words&min=x");
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
    for path in ["/picture?shard=..%2f..&key=x", "/picture?shard=00000&key=none", "/etc/passwd"] {
        let (head, _) = viewer.ask(path);
        assert!(head.starts_with("HTTP/1.1 404 "), "{path}: {head}");
    }
}

#[test]
fn a_release_is_shown_with_its_pictures_and_pages() {
    let world = world();
    let viewer = Viewer::of(&world.path("out/release"));
    let info = viewer.json("/api/info");
    assert_eq!((&info["kind"], &info["rows"]), (&"release".into(), &31.into()));
    assert_eq!(info["about"], "version 1.0.0 · mit");
    let rows = viewer.json("/api/rows?page=0");
    assert_eq!((&rows["total"], &rows["pages"]), (&31.into(), &1.into()));
    let (head, _) = picture(&viewer, &rows["rows"][30]);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(viewer.json("/api/rows?page=7")["rows"].as_array().unwrap().len(), 0);
}

#[test]
fn the_page_loads_nothing_from_elsewhere_and_answers_no_other_name() {
    let world = world();
    let viewer = Viewer::of(&world.path("out/fetch"));
    let (head, html) = viewer.ask("/");
    assert!(
        head.contains("Content-Security-Policy: default-src 'none'; script-src 'self'"),
        "{head}"
    );
    let html = String::from_utf8(html).unwrap();
    assert!(html.contains("class=\"blurred\"") && !html.contains("://"), "{html}");
    for path in ["/view.js", "/view.css"] {
        assert!(viewer.ask(path).0.starts_with("HTTP/1.1 200 "));
    }
    let (head, _) = viewer.ask_as("evil.example", "/api/rows");
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
}

#[test]
fn a_runs_whole_output_is_answered_with_the_folders_that_can_be_looked_at() {
    let world = world();
    let output = clipmill().arg("view").arg(world.path("out")).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let told = common::stderr(&output);
    assert!(told.contains("dedup, fetch, judge, links, release"), "{told}");
}

#[test]
fn similar_pictures_come_by_embedding_the_asked_one_first() {
    let folder = tempfile::tempdir().unwrap();
    let uid = |i: usize| format!("{i:032x}");
    let pool = folder.path().join("pool");
    let embed = folder.path().join("embed");
    for path in [&pool, &embed.join("img_emb"), &embed.join("metadata")] {
        std::fs::create_dir_all(path).unwrap();
    }
    let mut tar = shard::TarWriter::new(Vec::new());
    for i in 0..4 {
        tar.append(&format!("{i:09}.png"), &common::picture(i)).unwrap();
    }
    std::fs::write(pool.join("00000.tar"), tar.finish().unwrap()).unwrap();
    let strings = |values: Vec<String>| -> arrow_array::ArrayRef {
        std::sync::Arc::new(arrow_array::StringArray::from(values))
    };
    let table = |path: &Path, columns: Vec<(&str, arrow_array::ArrayRef)>| {
        let batch = arrow_array::RecordBatch::try_from_iter(columns).unwrap();
        let mut bytes = Vec::new();
        let layout = store::parquet::Layout::default();
        store::write_parquet(&mut bytes, &batch.schema(), [Ok(batch.clone())], &layout).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    let uids = || strings((0..4).map(uid).collect());
    let keys = strings((0..4).map(|i| format!("{i:09}")).collect());
    let captions = strings((0..4).map(|i| format!("picture {i}")).collect());
    table(
        &pool.join("00000.parquet"),
        vec![
            ("uid", uids()),
            ("key", keys),
            ("caption", captions),
            ("language", strings(["en", "de", "en", "fr"].map(str::to_owned).to_vec())),
        ],
    );
    table(&embed.join("metadata/metadata_0.parquet"), vec![("uid", uids())]);
    let vectors: [f32; 8] = [1.0, 0.0, 0.0, 1.0, 0.8, 0.6, -1.0, 0.0];
    let mut file = Vec::new();
    store::npy::write(&mut file, &[4, 2], &vectors).unwrap();
    std::fs::write(embed.join("img_emb/img_emb_0.npy"), file).unwrap();
    let viewer = Viewer::of(&pool);
    assert_eq!(viewer.json("/api/info")["similar"], true);
    let near = viewer.json(&format!("/api/similar?uid={}", uid(0)));
    let captions: Vec<&str> =
        near["rows"].as_array().unwrap().iter().map(|r| r["caption"].as_str().unwrap()).collect();
    assert_eq!(captions, ["picture 0", "picture 2", "picture 1", "picture 3"]);
    assert_eq!(near["rows"][3]["similarity"], -1.0);
    assert_eq!(near["rows"][2]["labels"]["language"], "de");
}

#[test]
fn of_a_release_only_what_its_manifest_lists_is_shown() {
    let world = world();
    let release = world.path("out/release");
    let mut tar = shard::TarWriter::new(Vec::new());
    tar.append("0.png", &common::picture(1)).unwrap();
    let outside = world.path("private.tar");
    std::fs::write(&outside, tar.finish().unwrap()).unwrap();
    let list = serde_json::json!([outside, "http://127.0.0.1:9/far.tar"]);
    std::fs::write(release.join("shards/shards.json"), list.to_string()).unwrap();
    std::fs::copy(&outside, release.join("shards/stray.tar")).unwrap();
    let viewer = Viewer::of(&release);
    for shard in ["private", "far", "stray"] {
        let (head, _) = viewer.ask(&format!("/picture?shard={shard}&key=0"));
        assert!(head.starts_with("HTTP/1.1 404 "), "{shard}: {head}");
    }
    let rows = viewer.json("/api/rows?page=0");
    let (head, _) = picture(&viewer, &rows["rows"][0]);
    assert!(
        head.starts_with("HTTP/1.1 200 ") && head.contains("Cache-Control: no-store"),
        "{head}"
    );
}

#[test]
fn those_who_ask_for_half_a_page_do_not_keep_others_from_theirs() {
    let world = world();
    let viewer = Viewer::of(&world.path("out/release"));
    let halves: Vec<TcpStream> = (0..16)
        .map(|_| {
            let mut stream = TcpStream::connect(&viewer.host).unwrap();
            write!(stream, "GET / HTTP/1.1\r\n").unwrap();
            stream
        })
        .collect();
    assert_eq!(viewer.json("/api/info")["rows"], 31);
    // They were sent away without an answer.
    for mut half in halves {
        let mut answer = Vec::new();
        half.read_to_end(&mut answer).unwrap();
        assert!(answer.is_empty());
    }
}
