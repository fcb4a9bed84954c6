//! From YAML text to a [`Recipe`], with errors that show the line and the word meant.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::{Deserialize as DeserializeDerive, Serialize};
use serde_saphyr::Spanned;
use stage::{Error, Result};

use super::kinds::{KINDS, Kind};
use super::shape;
use crate::cost::Cost;

/// Newest recipe version that this binary reads.
const VERSION: u32 = 1;
/// Largest recipe in bytes; a page of YAML has a few thousand.
const MAX_BYTES: usize = 1 << 20;

/// A whole job.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// Name for headings and lock messages.
    pub name: String,
    /// Seed of everything random.
    pub seed: u64,
    /// Where everything is written: a folder or an object store URL.
    pub output: String,
    /// CPU threads; every core by default.
    pub threads: Option<usize>,
    /// Hosts that are dialled elsewhere, by name or `*`.
    pub dial: BTreeMap<String, SocketAddr>,
    /// WARC files that answer instead of the network.
    pub replay: Option<Replay>,
    /// What an hour of the machine costs, for `plan` and the report; changes no byte of a stage.
    pub cost: Option<Cost>,
    /// The stages, in the order in which they are written.
    pub stages: Vec<Entry>,
    /// The text it was parsed from, for messages.
    source: Source,
}

/// A WARC archive that is served on loopback while the recipe runs.
#[derive(Debug, Clone, DeserializeDerive, Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Replay {
    /// WARC files, `.warc` or `.warc.gz`; globs and brace ranges are expanded.
    pub warc: Vec<String>,
}

/// One stage of a recipe.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name, where one was given.
    pub id: Option<Spanned<String>>,
    /// The stages it takes, where they were given; otherwise the stage above.
    pub from: Option<Vec<Spanned<String>>>,
    /// What it does.
    pub kind: Kind,
    /// Where its kind stands in the text.
    pub place: Place,
}

/// Line and column in a recipe, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// Line, from 1; 0 when unknown.
    pub line: u64,
    /// Column, from 1.
    pub column: u64,
}

impl<T> From<&Spanned<T>> for Place {
    fn from(spanned: &Spanned<T>) -> Self {
        Self { line: spanned.referenced.line(), column: spanned.referenced.column() }
    }
}

#[derive(Debug, Clone, Default)]
struct Source {
    name: String,
    text: String,
}

#[derive(DeserializeDerive)]
#[serde(deny_unknown_fields)]
struct Raw {
    version: Spanned<u32>,
    name: Spanned<String>,
    #[serde(default)]
    seed: u64,
    output: Spanned<String>,
    #[serde(default)]
    threads: Option<Spanned<usize>>,
    #[serde(default)]
    dial: BTreeMap<String, SocketAddr>,
    #[serde(default)]
    replay: Option<Replay>,
    #[serde(default)]
    cost: Option<Spanned<Cost>>,
    stages: Spanned<Vec<Entry>>,
}

impl Recipe {
    /// Reads a recipe file.
    ///
    /// # Errors
    /// [`stage::Kind::Recipe`] with file, line, column, the source line and the word meant.
    pub fn read(path: &std::path::Path) -> Result<Self> {
        let name = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|e| {
            Error::recipe("cannot read the recipe").because(e).at(&name).hint("check the path")
        })?;
        let text = String::from_utf8(bytes).map_err(|_| {
            Error::recipe("the recipe is not UTF-8 text").at(&name).hint("save it as UTF-8")
        })?;
        Self::parse(&name, &text)
    }

    /// Parses a recipe; `name` stands in messages.
    ///
    /// # Errors
    /// As [`Recipe::read`].
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let source = Source { name: name.to_owned(), text: text.to_owned() };
        if text.len() > MAX_BYTES {
            return Err(Error::recipe(format!(
                "{} bytes; a recipe has at most {MAX_BYTES}",
                text.len()
            ))
            .at(name));
        }
        let options = serde_saphyr::options! {
            strict_booleans: true,
        };
        let raw: Raw = serde_saphyr::from_str_with_options(text, options)
            .map_err(|error| source.yaml_error(&error))?;
        if raw.version.value > VERSION {
            return Err(source
                .error_at(
                    Place::from(&raw.version),
                    &format!(
                        "version {} is newer than this binary knows ({VERSION})",
                        raw.version.value
                    ),
                )
                .hint("update clipmill, or write `version: 1`"));
        }
        if raw.version.value == 0 {
            return Err(source.error_at(Place::from(&raw.version), "versions start at 1"));
        }
        for (field, spanned) in [("name", &raw.name), ("output", &raw.output)] {
            if spanned.value.trim().is_empty() {
                return Err(source.error_at(Place::from(spanned), &format!("`{field}` is empty")));
            }
        }
        if let Some(threads) = raw.threads.as_ref().filter(|t| !(1..=1024).contains(&t.value)) {
            let message = format!("threads must lie in 1..=1024, got {}", threads.value);
            return Err(source.error_at(Place::from(threads), &message));
        }
        if let Err(error) = store::check_address(&raw.output.value) {
            let message = format!("output: {error}");
            let located = source.error_at(Place::from(&raw.output), &message);
            return Err(match error.hint_text() {
                Some(hint) => located.hint(hint),
                None => located,
            });
        }
        if let Some(cost) = &raw.cost {
            let located = |e: Error| source.error_at(Place::from(cost), &format!("cost: {e}"));
            cost.value.validate().map_err(located)?;
        }
        if raw.stages.value.is_empty() {
            return Err(
                source.error_at(Place::from(&raw.stages), "a recipe has at least one stage")
            );
        }
        let recipe = Self {
            name: raw.name.value,
            seed: raw.seed,
            output: raw.output.value,
            threads: raw.threads.map(|t| t.value),
            dial: raw.dial,
            replay: raw.replay,
            cost: raw.cost.map(|cost| cost.value),
            stages: raw.stages.value,
            source,
        };
        for entry in &recipe.stages {
            entry.kind.validate().map_err(|error| {
                let place = recipe.field_place(entry.place, &error.to_string());
                recipe.located(place, &error.at(entry.kind.name()))
            })?;
        }
        Ok(recipe)
    }

    /// A recipe error that shows this place of the text.
    #[must_use]
    pub fn error_at(&self, place: Place, message: &str) -> Error {
        self.source.error_at(place, message)
    }

    /// An error that shows this place of the text, with its hint.
    pub(crate) fn located(&self, place: Place, error: &Error) -> Error {
        let located = self.error_at(place, &error.to_string());
        match error.hint_text() {
            Some(hint) => located.hint(hint),
            None => located,
        }
    }

    /// Where the field stands that a message begins with; else where its stage does.
    fn field_place(&self, stage: Place, message: &str) -> Place {
        let after = self.stages.iter().map(|entry| entry.place.line).filter(|&at| at > stage.line);
        let end = after.min().unwrap_or(u64::MAX);
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        for name in message.split(|c| !is_word(c)).filter(|name| name.len() > 1).take(3) {
            let lines = self.source.text.lines().zip(1_u64..);
            for (text, line) in lines.filter(|(_, line)| (stage.line..end).contains(line)) {
                let text = text.split('#').next().unwrap_or(text);
                let key = text.match_indices(name).find(|(at, _)| {
                    let before = text[..*at].chars().next_back();
                    !before.is_some_and(is_word) && text[at + name.len()..].starts_with(':')
                });
                if let Some((at, _)) = key {
                    return Place { line, column: text[..at].chars().count() as u64 + 1 };
                }
            }
        }
        stage
    }

    /// The text as it was read.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.source.text
    }

    /// The file it was read from.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.source.name
    }
}

impl Source {
    fn error_at(&self, place: Place, message: &str) -> Error {
        if place.line == 0 {
            return Error::recipe(format!("{}: {}", self.name, clean(message, MESSAGE)));
        }
        let line = self.text.lines().nth(place.line as usize - 1).unwrap_or("");
        let message = clean(message, MESSAGE);
        let line = clean(line, LINE.max(place.column as usize));
        let gutter = place.line.to_string();
        let pad = " ".repeat(gutter.len());
        let caret = " ".repeat(place.column.saturating_sub(1) as usize);
        Error::recipe(format!(
            "{}:{}:{}: {message}\n{pad} |\n{gutter} | {line}\n{pad} | {caret}^",
            self.name, place.line, place.column
        ))
    }

    fn yaml_error(&self, error: &serde_saphyr::Error) -> Error {
        use serde_saphyr::Error as Yaml;
        let place = error
            .location()
            .map_or_else(Place::default, |l| Place { line: l.line(), column: l.column() });
        let allowed = |names: &[&str]| names.join(", ");
        let (message, hint) = match error.without_snippet() {
            Yaml::SerdeUnknownField { field, expected, .. } => (
                format!("unknown field `{field}`; allowed here: {}", allowed(expected)),
                of_open_clip(field, expected).or_else(|| meant(field, expected)),
            ),
            Yaml::SerdeUnknownVariant { variant, expected, .. } => (
                format!("unknown name `{variant}`; there are: {}", allowed(expected)),
                meant(variant, expected),
            ),
            Yaml::SerdeMissingField { field, .. } => {
                (format!("the field `{field}` is missing"), Some(format!("add `{field}:`")))
            }
            Yaml::DuplicateMappingKey { key, .. } => {
                let key = key.as_deref().unwrap_or("?");
                (format!("the key `{key}` stands here a second time"), Some("keep one".to_owned()))
            }
            other if other.to_string().contains("from_str_multiple") => (
                "a second document begins here, and a recipe is one".to_owned(),
                Some("put the other into a file of its own".to_owned()),
            ),
            other => {
                let message = strip_location(&other.to_string());
                match shape::explained(&message, &self.text, place) {
                    Some((place, message, hint)) => {
                        let error = self.error_at(place, &message);
                        return error.hint(hint);
                    }
                    None => (message, None),
                }
            }
        };
        let located = self.error_at(place, &message);
        match hint {
            Some(hint) => located.hint(hint),
            None => located,
        }
    }
}

/// What to do about a flag of open_clip's that a training does not have.
fn of_open_clip(field: &str, expected: &[&str]) -> Option<String> {
    let trains = expected.contains(&"accum_freq");
    trains.then(|| train::plan::open_clip::hint(field)).flatten().map(str::to_owned)
}

/// Characters of a message and of a line of the recipe that are shown.
const MESSAGE: usize = 1000;
const LINE: usize = 200;

/// Without control characters, which a terminal would obey, and of bounded length.
pub(crate) fn clean(text: &str, most: usize) -> String {
    let safe = |c: char| if c.is_control() && c != '\n' { '\u{fffd}' } else { c };
    let mut short: String = text.chars().take(most).map(safe).collect();
    if text.chars().nth(most).is_some() {
        short.push_str("...");
    }
    short
}

/// serde-saphyr ends or begins its messages with the place, which stands in front of ours already.
fn strip_location(message: &str) -> String {
    let first = message.lines().next().unwrap_or(message);
    let cut = first.find(" at line ").map_or(first, |at| &first[..at]);
    cut.strip_prefix("error: ").unwrap_or(cut).to_owned()
}

/// `did you mean ...?` for the nearest of `names`, where one is near enough to be meant.
pub(crate) fn meant<S: AsRef<str>>(word: &str, names: &[S]) -> Option<String> {
    let distance = |name: &str| strsim::damerau_levenshtein(word, name);
    let best = names.iter().map(AsRef::as_ref).min_by_key(|name| distance(name))?;
    (distance(best) <= 1 + word.chars().count() / 3).then(|| format!("did you mean `{best}`?"))
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(EntryVisitor)
    }
}

struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a stage, its kind as the key: `- fetch: {image_size: 256}`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entry, A::Error> {
        let (mut id, mut from) = (None, None);
        let mut kind: Option<(Kind, Place)> = None;
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            match key.value.as_str() {
                "id" => id = Some(map.next_value::<Spanned<String>>()?),
                "from" => from = Some(map.next_value::<FromIds>()?.0),
                name => {
                    if let Some((first, _)) = &kind {
                        return Err(de::Error::custom(format!(
                            "a stage has one kind, and this one is `{}` already; start the next stage with `- {name}:`",
                            first.name()
                        )));
                    }
                    let place = Place::from(&key);
                    kind = Some((Kind::from_map(name, &mut map)?, place));
                }
            }
        }
        let Some((kind, place)) = kind else {
            let names: Vec<&str> = KINDS.iter().map(|k| k.name).collect();
            return Err(de::Error::custom(format!(
                "a stage without a kind; kinds: {}",
                names.join(", ")
            )));
        };
        Ok(Entry { id, from, kind, place })
    }
}

/// `from:` takes one id or a list.
struct FromIds(Vec<Spanned<String>>);

impl<'de> Deserialize<'de> for FromIds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let value = Spanned::<OneOrMany>::deserialize(deserializer)?;
        let at = value.referenced;
        Ok(Self(match value.value {
            OneOrMany::One(id) => vec![Spanned { value: id, referenced: at, defined: at }],
            OneOrMany::Many(ids) => ids
                .into_iter()
                .map(|id| Spanned { value: id, referenced: at, defined: at })
                .collect(),
        }))
    }
}

#[derive(DeserializeDerive)]
#[serde(untagged, expecting = "`from` takes one stage id or a list of them")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}
