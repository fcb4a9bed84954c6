#![allow(missing_docs, clippy::print_stdout)]
use pixels::*;
use std::io::Write;
// args: mode file.. ; writes <w> <h> <len>\n raw
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let limits = Limits { max_aspect: 1e9, ..Limits::default() };
    let mut out = std::io::stdout().lock();
    for f in &a[2..] {
        let b = std::fs::read(f).unwrap();
        let r = match a[1].as_str() {
            "rgb" => decode_rgb_first(&b, &limits),
            "decode" => decode(&b, &limits),
            m => {
                let (mode, size) = m.split_once(':').unwrap();
                decode(&b, &limits).and_then(|p| {
                    img2dataset::resize(
                        &p,
                        size.parse().unwrap(),
                        serde_json::from_str(&format!("\"{mode}\"")).unwrap(),
                        false,
                    )
                })
            }
        };
        match r {
            Ok(p) => {
                writeln!(out, "{} {} {}", p.width, p.height, p.rgb.len()).unwrap();
                out.write_all(&p.rgb).unwrap();
            }
            Err(e) => {
                eprintln!("{f}: {e}");
                writeln!(out, "0 0 0").unwrap();
            }
        }
    }
}
