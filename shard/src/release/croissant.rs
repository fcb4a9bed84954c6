//! `croissant.json`: Croissant 1.1 with the responsible-AI fields, filled from counters.
//!
//! Source: the Croissant format 1.1 (MLCommons, 2026-01-29) and its RAI vocabulary 1.0. What no
//! counter knows is said to be unknown rather than left out.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::card::{description, title};
use super::scan_tokens::{Token, tokens};
use super::{Manifest, SUBSET, StageRecord};

/// What the description conforms to.
const VOCABULARIES: [&str; 2] =
    ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"];
/// Reasons and columns that tell of persons: parts of their names.
const PERSONAL: [&str; 4] = ["pii", "face", "nsfw", "unsafe"];

/// The description; `gone` pairs were purged so far.
pub(crate) fn croissant(manifest: &Manifest, gone: u64) -> Value {
    let plan = &manifest.plan;
    let mut top = Map::new();
    top.insert("@context".to_owned(), context());
    let mut say = |name: &str, value: Value| {
        top.insert(name.to_owned(), value);
    };
    say("@type", json!("sc:Dataset"));
    say("name", json!(title(manifest)));
    say("description", json!(description(manifest)));
    say("conformsTo", json!(VOCABULARIES));
    say("license", json!(license_url(&plan.license)));
    say("version", json!(plan.version));
    let optional = [
        ("url", plan.url.clone().map(Value::from)),
        ("datePublished", plan.date.clone().map(Value::from)),
        ("citeAs", plan.citation.clone().map(Value::from)),
        (
            "creator",
            plan.creator.as_ref().map(|name| json!({"@type": "sc:Organization", "name": name})),
        ),
        ("inLanguage", (!plan.languages.is_empty()).then(|| json!(plan.languages))),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            say(name, value);
        }
    }
    say("keywords", json!(["CLIP", "image-text pairs", "web data"]));
    for (name, text) in responsible(manifest, gone) {
        say(name, json!(text));
    }
    say("distribution", distribution(manifest));
    say("recordSet", json!([record_set(manifest)]));
    Value::Object(top)
}

/// The URLs that our own hand writes into the files beside the data: of vocabularies, the licence,
/// the publisher's page, and the names of source files. They are nobody's data, and a purge of their
/// domain takes none of them out.
pub(crate) fn own_urls(manifest: &Manifest) -> BTreeSet<String> {
    let sources = manifest.lineage.iter().flat_map(|stage| {
        let files = stage.identity.get("external").and_then(Value::as_array);
        files.into_iter().flatten().filter_map(|file| file.get("name")?.as_str())
    });
    let mut urls: BTreeSet<String> = sources.map(str::to_owned).collect();
    urls.extend(manifest.plan.url.clone());
    urls.insert(license_url(&manifest.plan.license));
    let whole: Vec<String> = urls.iter().cloned().collect();
    for text in whole.into_iter().chain([context().to_string(), json!(VOCABULARIES).to_string()]) {
        tokens(text.as_bytes(), |token| {
            if let Token::Url(url) = token {
                urls.insert(url.to_owned());
            }
        });
    }
    urls
}

fn context() -> Value {
    json!({
        "@language": "en",
        "@vocab": "https://schema.org/",
        "arrayShape": "cr:arrayShape",
        "citeAs": "cr:citeAs",
        "column": "cr:column",
        "conformsTo": "dct:conformsTo",
        "containedIn": "cr:containedIn",
        "cr": "http://mlcommons.org/croissant/",
        "data": {"@id": "cr:data", "@type": "@json"},
        "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
        "dct": "http://purl.org/dc/terms/",
        "description": {"@container": "@language"},
        "equivalentProperty": "cr:equivalentProperty",
        "examples": {"@id": "cr:examples", "@type": "@json"},
        "extract": "cr:extract",
        "field": "cr:field",
        "fileObject": "cr:fileObject",
        "fileProperty": "cr:fileProperty",
        "fileSet": "cr:fileSet",
        "format": "cr:format",
        "includes": "cr:includes",
        "isArray": "cr:isArray",
        "isLiveDataset": "cr:isLiveDataset",
        "jsonPath": "cr:jsonPath",
        "key": "cr:key",
        "md5": "cr:md5",
        "name": {"@container": "@language"},
        "parentField": "cr:parentField",
        "path": "cr:path",
        "rai": "http://mlcommons.org/croissant/RAI/",
        "recordSet": "cr:recordSet",
        "references": "cr:references",
        "regex": "cr:regex",
        "repeated": "cr:repeated",
        "replace": "cr:replace",
        "samplingRate": "cr:samplingRate",
        "sc": "https://schema.org/",
        "separator": "cr:separator",
        "source": "cr:source",
        "subField": "cr:subField",
        "transform": "cr:transform"
    })
}

/// The page of a licence, where the identifier says it; else the identifier.
fn license_url(id: &str) -> String {
    let parts: Vec<&str> = id.rsplitn(2, '-').collect();
    match (id, &parts[..]) {
        ("cc0-1.0", _) => "https://creativecommons.org/publicdomain/zero/1.0/".to_owned(),
        (_, [version, kind]) if kind.starts_with("cc-") => {
            let kind = kind.trim_start_matches("cc-");
            format!("https://creativecommons.org/licenses/{kind}/{version}/")
        }
        ("mit", _) => "https://spdx.org/licenses/MIT.html".to_owned(),
        ("apache-2.0", _) => "https://spdx.org/licenses/Apache-2.0.html".to_owned(),
        _ => id.to_owned(),
    }
}

fn distribution(manifest: &Manifest) -> Value {
    let mut list = vec![json!({
        "@type": "cr:FileSet",
        "@id": "metadata-files",
        "description": "One parquet file a shard: a row a pair.",
        "encodingFormat": "application/x-parquet",
        "includes": "metadata/*.parquet"
    })];
    if !manifest.plan.metadata_only {
        list.push(json!({
            "@type": "cr:FileSet",
            "@id": "shard-files",
            "description": "WebDataset tar files: picture, caption and json of each pair.",
            "encodingFormat": "application/x-tar",
            "includes": "shards/*.tar"
        }));
    }
    if let Some(subset) = manifest.file(SUBSET) {
        list.push(json!({
            "@type": "cr:FileObject",
            "@id": SUBSET,
            "name": SUBSET,
            "description": "The uids, sorted, as numpy rows of two unsigned 64-bit integers.",
            "contentUrl": SUBSET,
            "contentSize": format!("{} B", subset.bytes),
            "encodingFormat": "application/octet-stream",
            "sha256": subset.sha256
        }));
    }
    Value::Array(list)
}

fn record_set(manifest: &Manifest) -> Value {
    let about = |name: &str| match name {
        "uid" => "Name of the pair: 32 hex digits.".to_owned(),
        "url" => "Where the picture came from.".to_owned(),
        "text" => "The caption.".to_owned(),
        "shard" => "The tar that holds it, without folder and ending.".to_owned(),
        "key" => "Its name in the tar.".to_owned(),
        "sha256" => "sha256 of the picture as it was downloaded.".to_owned(),
        "image_sha256" => "sha256 of the picture as it is stored.".to_owned(),
        "width" | "height" => format!("{name} of the stored picture, pixels."),
        "original_width" | "original_height" => format!("{name} as downloaded, pixels."),
        other => format!("The score `{other}`."),
    };
    let field = |(name, kind): (&String, &String)| {
        json!({
            "@type": "cr:Field",
            "@id": format!("pairs/{name}"),
            "name": name,
            "description": about(name),
            "dataType": data_type(kind),
            "source": {"fileSet": {"@id": "metadata-files"}, "extract": {"column": name}}
        })
    };
    // A list of lists has no one type in Croissant.
    let plain = manifest.columns.iter().filter(|(_, kind)| !kind.starts_with("List"));
    json!({
        "@type": "cr:RecordSet",
        "@id": "pairs",
        "name": "pairs",
        "description": "One record a pair.",
        "key": {"@id": "pairs/uid"},
        "field": plain.map(field).collect::<Vec<_>>()
    })
}

fn data_type(kind: &str) -> &'static str {
    match kind {
        "Boolean" => "sc:Boolean",
        _ if kind.starts_with("Int") || kind.starts_with("UInt") => "sc:Integer",
        _ if kind.starts_with("Float") => "sc:Float",
        _ => "sc:Text",
    }
}

/// The responsible-AI fields.
fn responsible(manifest: &Manifest, gone: u64) -> Vec<(&'static str, String)> {
    let from_web = manifest.stage("links").is_some();
    let mut fields = Vec::new();
    let stages: Vec<String> = manifest.lineage.iter().map(StageRecord::sentence).collect();
    let collection = if stages.is_empty() {
        "The shards were given; how they were collected is not known to this release.".to_owned()
    } else {
        format!("Stages, sources first. {}.", stages.join(". "))
    };
    fields.push(("rai:dataCollection", collection));
    let kind = if from_web || manifest.stage("link_list").is_some() {
        "Web Scraping"
    } else {
        "Secondary Data Analysis"
    };
    fields.push(("rai:dataCollectionType", kind.to_owned()));
    fields.push((
        "rai:dataCollectionMissingData",
        match manifest.stage("fetch") {
            Some(fetch) => format!(
                "Of {} links {} gave a picture. Dropped: {}. Failed: {}.",
                fetch.counts.entered,
                fetch.counts.kept,
                list(&fetch.counts.dropped),
                list(&fetch.counts.failed)
            ),
            None => "Not known: nothing was downloaded for this release.".to_owned(),
        },
    ));
    if let Some(links) = manifest.stage("links") {
        fields.push((
            "rai:dataCollectionRawData",
            format!(
                "Common Crawl WAT files, {}; names and sha256 are in manifest.json.",
                links.sentence()
            ),
        ));
    }
    let rules: Vec<String> = manifest
        .lineage
        .iter()
        .filter(|stage| !stage.counts.dropped.is_empty() && stage.kind != "fetch")
        .map(|stage| {
            format!(
                "{} ({}): {} of {} kept, dropped {}",
                stage.id,
                stage.kind,
                stage.counts.kept,
                stage.counts.entered,
                list(&stage.counts.dropped)
            )
        })
        .collect();
    fields.push((
        "rai:dataPreprocessingProtocol",
        if rules.is_empty() {
            "No pair was dropped by a rule.".to_owned()
        } else {
            format!("{}.", rules.join(". "))
        },
    ));
    if let Some(size) = manifest.stage("fetch").and_then(|s| s.identity.pointer("/plan/image_size"))
    {
        fields.push((
            "rai:dataManipulationProtocol",
            format!("Pictures were resized (image_size {size}) and encoded again; originals are not kept."),
        ));
    }
    if !manifest.scores.is_empty() {
        let names: Vec<&str> = manifest.scores.keys().map(String::as_str).collect();
        fields.push((
            "rai:machineAnnotationTools",
            format!("Scores by machine, none by persons: {}.", names.join(", ")),
        ));
        fields.push(("rai:annotationsPerItem", names.len().to_string()));
    }
    fields.push(("rai:personalSensitiveInformation", personal(manifest)));
    fields.push((
        "rai:dataBiases",
        "Not measured. Captions and pictures have the biases of the pages that they come from, and each rule and score above selects among them.".to_owned(),
    ));
    fields.push((
        "rai:dataLimitations",
        "Captions are alternative texts of web pages and may not describe their pictures. URLs may have changed since; sha256 tells whether a picture is the same.".to_owned(),
    ));
    fields.push((
        "rai:dataUseCases",
        "Training and evaluation of contrastive image-text models, and research on data selection."
            .to_owned(),
    ));
    fields.push((
        "rai:dataReleaseMaintenancePlan",
        format!(
            "Pairs are taken out on request: a new version names its parent, lists salted hashes of what was taken out, and revokes the version before. Version {}; {gone} pairs were taken out so far.",
            manifest.version
        ),
    ));
    fields
}

/// What counters say of persons.
fn personal(manifest: &Manifest) -> String {
    let tells = |name: &str| PERSONAL.iter().any(|part| name.contains(part));
    let mut found: BTreeMap<String, u64> = BTreeMap::new();
    for stage in &manifest.lineage {
        let reasons = stage.counts.dropped.iter().chain(&stage.counts.failed);
        for (reason, count) in reasons.filter(|(reason, _)| tells(reason)) {
            // A reason is counted again by every stage behind the one that gave it.
            let most = found.entry(reason.clone()).or_default();
            *most = (*most).max(*count);
        }
    }
    let columns: Vec<&str> =
        manifest.columns.keys().map(String::as_str).filter(|name| tells(name)).collect();
    let mut text = String::from("Pictures and captions from the web may show or name persons. ");
    if found.is_empty() {
        text.push_str("No stage counted pairs dropped for personal or unsafe content.");
    } else {
        text.push_str(&format!("Dropped for it: {}.", list(&found)));
    }
    if !columns.is_empty() {
        text.push_str(&format!(" Columns that tell of it: {}.", columns.join(", ")));
    }
    text
}

fn list(reasons: &BTreeMap<String, u64>) -> String {
    let words: Vec<String> = reasons.iter().map(|(why, n)| format!("{why} {n}")).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_licence_that_has_a_page_is_named_by_it() {
        let by = "https://creativecommons.org/licenses/by/4.0/";
        assert_eq!(license_url("cc-by-4.0"), by);
        assert_eq!(license_url("cc-by-nc-4.0"), "https://creativecommons.org/licenses/by-nc/4.0/");
        assert_eq!(license_url("other"), "other");
    }

    #[test]
    fn arrow_types_become_schema_orgs() {
        let kinds = ["Utf8", "Int32", "Float32", "Boolean"].map(data_type);
        assert_eq!(kinds, ["sc:Text", "sc:Integer", "sc:Float", "sc:Boolean"]);
    }
}
