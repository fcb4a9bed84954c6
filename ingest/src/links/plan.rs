//! The plan: which WAT files, and how they are cut into units.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read};

use flate2::read::MultiGzDecoder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use stage::{Context, Error, Result, ResultExt};

use super::source::{self, WatSource};

/// Image links out of Common Crawl's WAT files, with cc2dataset's rules and columns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinksPlan {
    /// WAT files: paths, globs or URLs (`s3://`, `https://`), and lists of them: a name that ends
    /// in `.paths`, `.paths.gz`, `.txt` or `.txt.gz` holds one WAT file a line.
    #[schemars(length(min = 1))]
    pub wat: Vec<String>,
    /// Put before each line of a list, such as `https://data.commoncrawl.org/` or
    /// `s3://commoncrawl/`. Default: nothing.
    #[serde(default)]
    pub prefix: String,
    /// Take only so many of the WAT files (at least 1), chosen by the recipe's seed without
    /// repetition; a larger sample of the same seed holds the smaller one. Default: all.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub sample: Option<u32>,
    /// WAT files in a unit of work, 1 to 4096. A unit writes one parquet file. Default 64.
    #[serde(default = "default_wats_per_unit")]
    #[schemars(range(min = 1, max = 4096))]
    pub wats_per_unit: u32,
    /// What the links lead to. Default `image`.
    #[serde(default)]
    pub document_type: DocumentType,
}

fn default_wats_per_unit() -> u32 {
    64
}

/// What links lead to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DocumentType {
    /// `IMG@/src` links with an alt text.
    #[default]
    Image,
}

/// One unit of work: the WAT files behind one parquet file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinksUnit {
    /// `00000`, `00001`, ...
    pub name: String,
    /// The WAT files, in the order of the plan.
    pub wats: Vec<WatSource>,
}

/// Longest list of WAT files, unpacked. A crawl's list has about 15 MB.
const MAX_LIST_BYTES: u64 = 256 << 20;

impl LinksPlan {
    /// A plan for these WAT files with every default.
    #[must_use]
    pub fn of(wat: Vec<String>) -> Self {
        Self {
            wat,
            prefix: String::new(),
            sample: None,
            wats_per_unit: default_wats_per_unit(),
            document_type: DocumentType::Image,
        }
    }

    /// Checks ranges.
    ///
    /// # Errors
    /// Names the field, its range and the value.
    pub fn validate(&self) -> Result<()> {
        if self.wat.is_empty() {
            return Err(Error::recipe("`wat` must name at least one WAT file or list"));
        }
        if self.sample == Some(0) {
            return Err(Error::recipe("`sample` must be at least 1, got 0"));
        }
        if !(1..=4096).contains(&self.wats_per_unit) {
            let got = self.wats_per_unit;
            let message = format!("`wats_per_unit` must lie in 1..=4096, got {got}");
            return Err(Error::recipe(message));
        }
        Ok(())
    }

    /// Reads the lists, samples, and cuts into units. The same plan, lists and seed give the same
    /// units in the same order.
    ///
    /// # Errors
    /// When a list cannot be read, or when there is no WAT file at all.
    pub fn units(&self, cx: &Context) -> Result<Vec<LinksUnit>> {
        self.validate()?;
        let wats = self.wats(cx)?;
        let units = wats.chunks(self.wats_per_unit as usize).enumerate();
        Ok(units
            .map(|(i, wats)| LinksUnit { name: format!("{i:05}"), wats: wats.to_vec() })
            .collect())
    }

    fn wats(&self, cx: &Context) -> Result<Vec<WatSource>> {
        let mut urls = Vec::new();
        for entry in &self.wat {
            for name in source::expand(entry)? {
                if is_list(&name) {
                    let lines = read_list(&name).map_err(|error| error.at(&name))?;
                    urls.extend(lines.into_iter().map(|line| format!("{}{line}", self.prefix)));
                } else {
                    urls.push(name);
                }
            }
        }
        let mut seen = HashSet::new();
        urls.retain(|url| seen.insert(url.clone()));
        if urls.is_empty() {
            return Err(Error::input(format!("no WAT file in {}", self.wat.join(", "))));
        }
        if let Some(sample) = self.sample {
            keep_sample(&mut urls, sample as usize, cx.seed_for("links/sample"));
        }
        Ok(urls.into_iter().map(WatSource::new).collect())
    }
}

fn is_list(name: &str) -> bool {
    let name = name.strip_suffix(".gz").unwrap_or(name);
    [".paths", ".txt"].iter().any(|ending| name.ends_with(ending))
}

fn read_list(name: &str) -> Result<Vec<String>> {
    let mut reader = BufReader::new(source::open(name)?);
    let gzip = reader.fill_buf().input("cannot read")?.starts_with(&[0x1f, 0x8b]);
    let plain: Box<dyn Read> =
        if gzip { Box::new(MultiGzDecoder::new(reader)) } else { Box::new(reader) };
    let mut text = String::new();
    plain.take(MAX_LIST_BYTES + 1).read_to_string(&mut text).input("cannot read the list")?;
    if text.len() as u64 > MAX_LIST_BYTES {
        return Err(Error::input(format!("the list is longer than {MAX_LIST_BYTES} bytes")));
    }
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// Keeps the `count` names with the smallest digests, in their old order: a choice that neither the
/// order of the list nor a library's generator changes.
fn keep_sample(urls: &mut Vec<String>, count: usize, seed: u64) {
    if urls.len() <= count {
        return;
    }
    let digest =
        |url: &String| Sha256::new().chain_update(seed.to_le_bytes()).chain_update(url).finalize();
    let mut order: Vec<_> = urls.iter().enumerate().map(|(i, url)| (digest(url), i)).collect();
    order.sort_unstable();
    let mut kept: Vec<usize> = order[..count].iter().map(|&(_, i)| i).collect();
    kept.sort_unstable();
    *urls = kept.into_iter().map(|i| std::mem::take(&mut urls[i])).collect();
}
