//! A little web on loopback, a crawl that describes it, and the binary.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use ingest::serve::{Response, Server};

/// Pictures on the web; every seventh is missing, every eleventh has a caption of one word.
pub(crate) const PICTURES: usize = 40;

/// A folder with `crawl.warc.wat`, and a server that answers for its hosts after `pause`.
pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    server: Server,
}

impl World {
    pub(crate) fn new(pause: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("crawl.warc.wat"), wat()).unwrap();
        let server = Server::start(move |request| {
            let Some(number) = request.path.strip_prefix("/p").and_then(|p| p.strip_suffix(".png"))
            else {
                return Response::status(404);
            };
            let number: usize = number.parse().unwrap();
            if number.is_multiple_of(7) {
                return Response::status(404);
            }
            let png = picture(number);
            if pause.is_zero() {
                return Response::ok("image/png", png);
            }
            let half = png.len() / 2 + 1;
            Response::Drip {
                content_type: "image/png".into(),
                body: png.into(),
                chunk: half,
                pause,
            }
        })
        .unwrap();
        Self { folder, server }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a recipe of these stages; hosts are dialled at the world's server.
    pub(crate) fn recipe(&self, name: &str, stages: &str) -> PathBuf {
        let text = format!(
            "version: 1\nname: {name}\noutput: {}\ndial: {{\"*\": \"{}\"}}\nstages:\n{stages}",
            self.path("out").display(),
            self.server.address(),
        );
        let path = self.path(&format!("{name}.yaml"));
        std::fs::write(&path, text).unwrap();
        path
    }

    /// links → dedup → fetch → judge → select → reshard, with these fields for `fetch`.
    pub(crate) fn ordinary(&self, name: &str, judge: &str) -> PathBuf {
        self.recipe(
            name,
            &format!(
                "  - links: {{wat: [{}]}}\n  - dedup: {{by: uid}}\n  - fetch: {{image_size: 32, resize_mode: border, number_sample_per_shard: 10, retries: 0, thread_count: 4}}\n  - judge:\n      - caption_length: {{{judge}}}\n  - select: {{}}\n  - reshard: {{samples_per_shard: 7}}\n",
                self.path("crawl.warc.wat").display()
            ),
        )
    }
}

/// A 20 × 12 picture of one grey.
pub(crate) fn picture(number: usize) -> Vec<u8> {
    let rgb = vec![(number * 6) as u8; 20 * 12 * 3];
    pixels::encode_png(&pixels::Picture { width: 20, height: 12, rgb }, 6)
}

fn wat() -> Vec<u8> {
    let mut file = Vec::new();
    for page in 0..4 {
        let links: Vec<_> = (0..PICTURES)
            .filter(|n| n % 4 == page)
            .map(|n| {
                let alt = if n % 11 == 0 {
                    "grey".to_owned()
                } else {
                    format!("a grey picture number {n}")
                };
                serde_json::json!({"path": "IMG@/src", "url": format!("/p{n}.png"), "alt": alt})
            })
            .collect();
        let body = serde_json::json!({
            "Container": {"Filename": "t.warc.gz"},
            "Envelope": {
                "WARC-Header-Metadata": {"WARC-Target-URI": format!("http://site-{page}.example/index.html")},
                "Payload-Metadata": {"HTTP-Response-Metadata": {"HTML-Metadata": {"Links": links}}}
            }
        })
        .to_string();
        file.extend(
            format!(
                "WARC/1.0\r\nWARC-Type: metadata\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}\r\n\r\n",
                body.len()
            )
            .into_bytes(),
        );
    }
    file
}

/// The binary.
pub(crate) fn clipmill() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clipmill"));
    command
        .env_remove("CLIPMILL_FAIL")
        .env_remove("SLURM_ARRAY_TASK_ID")
        .env_remove("JOB_COMPLETION_INDEX");
    command
}

pub(crate) fn run(recipe: &Path, flags: &[&str]) -> Output {
    clipmill().arg("run").arg(recipe).args(flags).output().unwrap()
}

/// Runs and wants exit code 0.
pub(crate) fn run_well(recipe: &Path, flags: &[&str]) {
    let output = run(recipe, flags);
    assert!(output.status.success(), "{}", stderr(&output));
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Every published file of these stages and its bytes; records and attempts apart, which hold
/// clock values and random names.
pub(crate) fn published(output: &Path, stages: &[&str]) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for stage in stages {
        let mut folders = vec![output.join(stage)];
        while let Some(folder) = folders.pop() {
            for entry in
                std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
            {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                if name.starts_with('_') {
                    continue;
                }
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(output).unwrap().display().to_string();
                    files.insert(name, std::fs::read(&path).unwrap());
                }
            }
        }
    }
    files
}

/// The stages of [`World::ordinary`].
pub(crate) const STAGES: [&str; 6] = ["links", "dedup", "fetch", "judge", "select", "reshard"];
