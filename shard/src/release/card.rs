//! `README.md` and `LICENSE`: what people read first.
//!
//! Front matter: Hugging Face's dataset cards (`license`, `task_categories`, `size_categories`,
//! `language`, `pretty_name`, `configs` with `data_files`).

use std::fmt::Write;

use super::{Manifest, StageRecord};

/// The word of the hub for so many samples.
pub(crate) fn size_category(samples: u64) -> &'static str {
    const STEPS: [(u64, &str); 10] = [
        (1_000, "n<1K"),
        (10_000, "1K<n<10K"),
        (100_000, "10K<n<100K"),
        (1_000_000, "100K<n<1M"),
        (10_000_000, "1M<n<10M"),
        (100_000_000, "10M<n<100M"),
        (1_000_000_000, "100M<n<1B"),
        (10_000_000_000, "1B<n<10B"),
        (100_000_000_000, "10B<n<100B"),
        (1_000_000_000_000, "100B<n<1T"),
    ];
    STEPS.iter().find(|(below, _)| samples < *below).map_or("n>1T", |(_, word)| word)
}

/// The name that people see.
pub(crate) fn title(manifest: &Manifest) -> &str {
    manifest.plan.title.as_deref().unwrap_or(&manifest.name)
}

/// What it is.
pub(crate) fn description(manifest: &Manifest) -> String {
    manifest.plan.description.clone().unwrap_or_else(|| {
        let what = if manifest.plan.metadata_only {
            "URLs, captions and scores of image-text pairs"
        } else {
            "Image-text pairs"
        };
        format!("{what} from the web: {} pairs.", manifest.samples)
    })
}

/// The file LICENSE.
pub(crate) fn license(manifest: &Manifest) -> String {
    let note = manifest.plan.license_note.as_deref().unwrap_or(
        "This licence is for what the publisher made: the selection, the metadata and the scores.\n\
         Pictures and captions come from the web and keep the rights of whoever made them.",
    );
    format!("{}: {}\n\n{}\n", title(manifest), manifest.plan.license, note.trim_end())
}

/// A YAML scalar: JSON's strings are YAML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A name from a table or a manifest as it may stand in a cell of a table, between backticks or not:
/// a judge's column may be called anything.
fn cell(text: &str) -> String {
    let plain = |c: char| match c {
        '|' => '¦',
        '`' => '\'',
        '<' => '‹',
        '>' => '›',
        c if c.is_control() => ' ',
        c => c,
    };
    text.chars().map(plain).collect()
}

/// A sentence in one line.
fn line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A fence that the text does not have.
fn fence(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    "`".repeat((longest + 1).max(3))
}

/// The file README.md; `gone` pairs were purged so far.
pub(crate) fn readme(manifest: &Manifest, gone: u64) -> String {
    let mut text = front_matter(manifest);
    let plan = &manifest.plan;
    let _ = write!(text, "# {}\n\n{}\n\n", title(manifest), description(manifest));
    let _ = write!(
        text,
        "Version {} (number {}), {} pairs, {} bytes, licence `{}`.\n\n",
        plan.version,
        manifest.version,
        manifest.samples,
        manifest.bytes_of_data(),
        plan.license
    );
    reading(&mut text, manifest);
    counts(&mut text, manifest);
    if !manifest.scores.is_empty() {
        text.push_str("## Scores\n\n| score | pairs | missing | mean | least | median | greatest |\n| --- | --- | --- | --- | --- | --- | --- |\n");
        for (name, summary) in &manifest.scores {
            let at = |tenth: usize| {
                summary.deciles.get(tenth).map_or("–".to_owned(), |value| format!("{value:.4}"))
            };
            let _ = writeln!(
                text,
                "| `{}` | {} | {} | {:.4} | {} | {} | {} |",
                cell(name),
                summary.count,
                summary.missing,
                summary.mean,
                at(0),
                at(5),
                at(10)
            );
        }
        text.push('\n');
    }
    text.push_str("## Provenance\n\n");
    for stage in &manifest.lineage {
        let _ = writeln!(text, "- {}", line(&stage.sentence()));
    }
    text.push_str(
        "\n`manifest.json` has the whole lineage, each stage with its key, and a Merkle root over all files.\n\n",
    );
    text.push_str("## What is not known\n\nPictures come from the web: they may show persons, and may be unpleasant. What was looked for is in the table of counts above; nothing else was. Biases were not measured.\n\n");
    text.push_str("## Taken out\n\n");
    if gone == 0 {
        text.push_str("Nothing so far.");
    } else {
        let _ = write!(
            text,
            "{gone} pairs were taken out since the first version. `tombstones.json` has salted hashes of their uids, URLs and pictures: whoever has copies can find them there and take them out too (`clipmill purge DIR --list tombstones.json`)."
        );
    }
    text.push_str(" Ask the publisher to take a picture out; the version after that lacks it, and the one before is marked as revoked.\n");
    if let Some(citation) = &plan.citation {
        let (citation, fence) = (citation.trim_end(), fence(citation));
        let _ = write!(text, "\n## Citation\n\n{fence}\n{citation}\n{fence}\n");
    }
    text
}

fn front_matter(manifest: &Manifest) -> String {
    let plan = &manifest.plan;
    let mut text = format!(
        "---\npretty_name: {}\nlicense: {}\n",
        quoted(title(manifest)),
        quoted(&plan.license)
    );
    let mut list = |name: &str, items: &[String]| {
        if !items.is_empty() {
            let _ = writeln!(text, "{name}:");
            items.iter().for_each(|item| {
                let _ = writeln!(text, "- {}", quoted(item));
            });
        }
    };
    list("language", &plan.languages);
    list("task_categories", &plan.tasks);
    list("size_categories", &[size_category(manifest.samples).to_owned()]);
    text.push_str("tags:\n- clip\n- image-text\n- webdataset\n- croissant\nconfigs:\n");
    // One configuration: `datasets` reads all of a folder's with the reader of the first.
    let path = if plan.metadata_only { "metadata/*.parquet" } else { "shards/*.tar" };
    let _ =
        write!(text, "- config_name: default\n  data_files:\n  - split: train\n    path: {path}\n");
    text.push_str("---\n\n");
    text
}

fn reading(text: &mut String, manifest: &Manifest) {
    text.push_str("## Reading it\n\n```python\nimport datasets\n");
    text.push_str("pairs = datasets.load_dataset(\"DIR\", split=\"train\")\n");
    if !manifest.plan.metadata_only {
        text.push_str(
            "rows = datasets.load_dataset(\"parquet\", data_files=\"DIR/metadata/*.parquet\")\n\n",
        );
        text.push_str("import webdataset, glob\npairs = webdataset.WebDataset(sorted(glob.glob(\"DIR/shards/*.tar\")), shardshuffle=False).decode(\"pil\")\nfor pair in pairs: print(pair[\"__key__\"], pair[\"txt\"])\n");
    }
    text.push_str(
        "\nimport polars\nrows = polars.read_parquet(\"DIR/metadata/*.parquet\")\n```\n\n",
    );
    text.push_str("`sha256sum -c SHA256SUMS` checks every file. `subset.npy` has the uids as DataComp's subset files do.\n\n");
    text.push_str("| column of the metadata | type |\n| --- | --- |\n");
    for (name, kind) in &manifest.columns {
        let _ = writeln!(text, "| `{}` | {} |", cell(name), cell(kind));
    }
    text.push('\n');
}

fn counts(text: &mut String, manifest: &Manifest) {
    text.push_str("## What became of every sample\n\nIn = kept + dropped + failed, at every stage.\n\n| stage | in | kept | dropped | failed |\n| --- | --- | --- | --- | --- |\n");
    let reasons = |map: &std::collections::BTreeMap<String, u64>| {
        let list: Vec<String> = map.iter().map(|(why, n)| format!("{} {n}", cell(why))).collect();
        if list.is_empty() { "0".to_owned() } else { list.join(", ") }
    };
    let stages = manifest.lineage.iter().filter(|stage| stage.counts.entered > 0);
    let stages = stages.map(|stage| (stage.id.as_str(), &stage.counts));
    for (id, counts) in stages.chain([("this release", &manifest.counts)]) {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            cell(id),
            counts.entered,
            counts.kept,
            reasons(&counts.dropped),
            reasons(&counts.failed)
        );
    }
    text.push('\n');
}

impl Manifest {
    /// Bytes of shards, metadata and subset.
    #[must_use]
    pub fn bytes_of_data(&self) -> u64 {
        let data = self.files.iter().filter(|f| {
            f.path.starts_with("shards/")
                || f.path.starts_with("metadata/")
                || f.path == super::SUBSET
        });
        data.map(|file| file.bytes).sum()
    }

    /// The first stage of this kind.
    pub(crate) fn stage(&self, kind: &str) -> Option<&StageRecord> {
        self.lineage.iter().find(|stage| stage.kind == kind)
    }
}

impl StageRecord {
    /// What it did, in one sentence.
    pub(crate) fn sentence(&self) -> String {
        let names: Vec<&str> = self
            .identity
            .get("external")
            .and_then(serde_json::Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|file| file.get("name")?.as_str())
            .collect();
        let files = match names[..] {
            [] => String::new(),
            [one] => format!(" of `{one}`"),
            [first, .., last] => format!(" of {} files, `{first}` to `{last}`", names.len()),
        };
        let from = if self.inputs.is_empty() {
            String::new()
        } else {
            format!(" from `{}`", self.inputs.join("`, `"))
        };
        let kept = if self.counts.entered > 0 {
            format!(": {} of {} kept", self.counts.kept, self.counts.entered)
        } else {
            String::new()
        };
        let key = self.key.get(..12).unwrap_or(&self.key);
        format!("`{}` ({}){files}{from}{kept}; key `{key}`", self.id, self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_categories_are_the_hubs_words() {
        let words = [0, 999, 1_000, 12_800_000, 1_000_000_000_000].map(size_category);
        assert_eq!(words, ["n<1K", "n<1K", "1K<n<10K", "10M<n<100M", "n>1T"]);
    }

    #[test]
    fn a_name_from_elsewhere_stays_in_its_cell_and_a_citation_in_its_fence() {
        assert_eq!(cell("a|b`c\n<d>"), "a¦b'c ‹d›");
        assert_eq!(line("`a`\n# b"), "`a` # b");
        assert_eq!(fence("@misc{a}"), "```");
        assert_eq!(fence("a\n````\nb"), "`````");
    }

    #[test]
    fn a_title_with_quotes_stays_one_yaml_scalar() {
        assert_eq!(quoted("a \"b\": c\n"), r#""a \"b\": c\n""#);
    }
}
