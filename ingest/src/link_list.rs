//! Link lists that are there already: csv, tsv, txt, json, json lines or parquet, gzipped or not.
//!
//! The formats and the flag names are img2dataset's (`reader.py`). Rows stay in the order of the
//! files; a row without a URL (`no_url`) or that cannot be read (`broken_row`) is counted as failed. Files are streamed: memory does not grow with
//! their length.

mod json;
mod table;

use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;

use arrow_array::builder::{ArrayBuilder, StringBuilder};
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow_cast::cast;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use arrow_select::filter::filter;
use flate2::read::MultiGzDecoder;
use md5::{Digest, Md5};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage::{Context, Counts, Error, Links, Result, ResultExt};
use store::parquet::{Layout, read_parquet, write_parquet};
use store::{Attempt, Blob};

/// Rows in one batch.
const ROWS: usize = 8192;
/// Column that says of a row whether it could not be read.
const BROKEN: &str = "\u{0}broken";
/// The columns of every link.
const LINK_COLUMNS: [&str; 3] = ["uid", "url", "alt"];
/// Longest line of a text format, and longest object of json; anything longer is no link list.
const MAX_LINE: u64 = 1 << 20;

/// Image links out of files that name them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkListPlan {
    /// Files, folders, globs or object store URLs; `.gz` is unpacked. Required.
    #[serde(deserialize_with = "one_or_many")]
    pub url_list: Vec<String>,
    /// `txt` (a URL a line), `csv`, `tsv`, `json` (an array of objects), `jsonl` or `parquet`; by
    /// the files' endings when left out.
    #[serde(default)]
    pub input_format: Option<Format>,
    /// Column of the URL. Default `url`.
    #[serde(default = "url")]
    pub url_col: String,
    /// Column of the caption; without one, captions are empty.
    #[serde(default)]
    pub caption_col: Option<String>,
    /// Column of the uid, 32 hex characters. Default: a column `uid` where there is one, else the
    /// md5 of caption and URL, as cc2dataset has it.
    #[serde(default)]
    pub uid_col: Option<String>,
    /// Further columns that the links keep, for `save_additional_columns`, `bbox_col` and
    /// `verify_hash` of `fetch`; of json, what is no string becomes JSON text. Default none.
    #[serde(default)]
    pub columns: Vec<String>,
}

fn url() -> String {
    "url".to_owned()
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(d)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}

/// File formats of link lists, in img2dataset's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Format {
    Txt,
    Csv,
    Tsv,
    Json,
    Jsonl,
    Parquet,
}

impl LinkListPlan {
    /// Checks the fields.
    pub fn validate(&self) -> Result<()> {
        if self.url_list.is_empty() {
            return Err(Error::recipe("url_list must name at least one file"));
        }
        for name in &self.columns {
            if LINK_COLUMNS.contains(&name.as_str()) {
                return Err(Error::recipe(format!("columns: every link has a `{name}` already"))
                    .hint("leave it out"));
            }
        }
        Ok(())
    }

    /// The files, in order.
    pub fn files(&self) -> Result<Vec<String>> {
        let mut files = Vec::new();
        for pattern in &self.url_list {
            files.extend(store::expand(pattern)?);
        }
        Ok(files)
    }

    /// Reads all files into `links-00000.parquet`.
    ///
    /// # Errors
    /// A missing file or column, or a file that is broken as a whole.
    pub fn run(&self, cx: &Context, out: &mut Attempt) -> Result<Counts> {
        let mut file = out.file("links-00000.parquet")?;
        let mut counts = Counts::default();
        let files = self.files()?;
        let batches = files.iter().enumerate().flat_map(|(i, name)| {
            cx.progress.update(i as u64, files.len() as u64, name);
            match self.open(name) {
                Ok(batches) => batches,
                Err(error) => Box::new(std::iter::once(Err(error))),
            }
            .map(move |batch| batch.map_err(|e| e.at(name)))
        });
        let mut batches = batches.peekable();
        let first = match batches.peek() {
            Some(Ok(batch)) => Some(batch),
            _ => None, // an error comes up again below
        };
        let schema = self.schema(first)?;
        let links = batches.map(|batch| self.links(&batch?, &schema, &mut counts));
        write_parquet(&mut file, &schema, links, &Layout::default())?;
        file.finish()?;
        counts.check()?;
        Ok(counts)
    }

    /// `uid, url, alt` and `columns`, whose types are those of the first file.
    fn schema(&self, first: Option<&RecordBatch>) -> Result<SchemaRef> {
        let mut fields = LINK_COLUMNS.map(|name| Field::new(name, DataType::Utf8, false)).to_vec();
        for name in self.columns.iter().filter(|_| first.is_some()) {
            let column = first.map(|batch| column(batch, name)).transpose()?;
            let kind = column.map_or(DataType::Utf8, |column| column.data_type().clone());
            fields.push(Field::new(name, kind, true));
        }
        Ok(Arc::new(Schema::new(fields)))
    }

    fn open(&self, name: &str) -> Result<Batches> {
        let plain = name.strip_suffix(".gz").unwrap_or(name);
        let format = match self.input_format {
            Some(format) => format,
            None => by_ending(plain).ok_or_else(|| {
                Error::input("the ending does not tell the format")
                    .at(name)
                    .hint("say it: `input_format: csv`")
            })?,
        };
        let blob = Blob::open(name)?;
        if format == Format::Parquet {
            return Ok(Box::new(read_parquet(&blob)?));
        }
        let raw = blob.reader();
        let text: Box<dyn Read + Send> =
            if plain == name { raw } else { Box::new(MultiGzDecoder::new(raw)) };
        match format {
            Format::Csv => table::read(text, b',', &self.columns(), &self.needed()),
            Format::Tsv => table::read(text, b'\t', &self.columns(), &self.needed()),
            Format::Txt => Ok(Box::new(lines(text, self.url_col.clone()))),
            Format::Json | Format::Jsonl => Ok(json::read(text, format, self.columns())),
            Format::Parquet => Err(Error::internal("parquet is read above")),
        }
    }

    /// The columns that are read, for formats without a schema.
    fn columns(&self) -> Vec<String> {
        let uid = self.uid_col.clone().unwrap_or_else(|| "uid".to_owned());
        let own = std::iter::once(&self.url_col).chain(&self.caption_col).chain([&uid]);
        let mut names: Vec<String> = Vec::new();
        for name in own.chain(&self.columns) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }

    /// The columns that must be there.
    fn needed(&self) -> Vec<String> {
        let own = std::iter::once(&self.url_col).chain(&self.caption_col).chain(&self.uid_col);
        own.chain(&self.columns).cloned().collect()
    }

    fn links(
        &self,
        batch: &RecordBatch,
        schema: &SchemaRef,
        counts: &mut Counts,
    ) -> Result<RecordBatch> {
        let urls = text_column(batch, &self.url_col)?;
        let captions =
            self.caption_col.as_ref().map(|name| text_column(batch, name)).transpose()?;
        let uids = match &self.uid_col {
            Some(name) => Some(text_column(batch, name)?),
            None => batch.column_by_name("uid").map(|_| text_column(batch, "uid")).transpose()?,
        };
        let broken = batch.column_by_name(BROKEN).map(AsArray::as_boolean);
        let mut columns = [StringBuilder::new(), StringBuilder::new(), StringBuilder::new()];
        let mut good = Vec::with_capacity(batch.num_rows());
        for i in 0..batch.num_rows() {
            let value = |column: &ArrayRef| {
                let column = column.as_string::<i32>();
                if column.is_valid(i) { column.value(i).to_owned() } else { String::new() }
            };
            let url = value(&urls);
            good.push(false);
            if broken.is_some_and(|broken| broken.value(i)) {
                counts.fail("broken_row");
                continue;
            }
            if url.trim().is_empty() {
                counts.fail("no_url");
                continue;
            }
            let alt = captions.as_ref().map(value).unwrap_or_default();
            let given = uids.as_ref().map(value).filter(|uid| !uid.is_empty());
            if given.as_ref().is_some_and(|uid| store::subset::Uid::parse(uid).is_none()) {
                counts.fail("bad_uid");
                continue;
            }
            let uid = given.unwrap_or_else(|| {
                format!("{:x}", Md5::new_with_prefix(alt.as_bytes()).chain_update(&url).finalize())
            });
            counts.keep();
            if let Some(good) = good.last_mut() {
                *good = true;
            }
            for (column, text) in columns.iter_mut().zip([uid, url, alt]) {
                column.append_value(text);
            }
        }
        let mut columns = columns.map(|mut column| Arc::new(column.finish()) as ArrayRef).to_vec();
        let good = BooleanArray::from(good);
        for (name, field) in self.columns.iter().zip(schema.fields().iter().skip(columns.len())) {
            let kept = filter(column(batch, name)?, &good).internal("links")?;
            let kept = cast(&kept, field.data_type()).input(format!(
                "column `{name}` is {}, in the first file it is {}",
                kept.data_type(),
                field.data_type()
            ))?;
            columns.push(kept);
        }
        let batch = RecordBatch::try_new(Arc::clone(schema), columns).internal("links")?;
        Links::try_new(batch).map(Links::into_batch)
    }
}

type Batches = Box<dyn Iterator<Item = Result<RecordBatch>>>;

fn by_ending(name: &str) -> Option<Format> {
    Some(match name.rsplit_once('.')?.1 {
        "txt" => Format::Txt,
        "csv" => Format::Csv,
        "tsv" => Format::Tsv,
        "json" => Format::Json,
        "jsonl" | "ndjson" => Format::Jsonl,
        "parquet" => Format::Parquet,
        _ => return None,
    })
}

/// A column as text, whatever its type was.
fn text_column(batch: &RecordBatch, name: &str) -> Result<ArrayRef> {
    cast(column(batch, name)?, &DataType::Utf8).input(format!("column `{name}` is no text"))
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    batch.column_by_name(name).ok_or_else(|| {
        let schema = batch.schema();
        no_column(name, &mut schema.fields().iter().map(|f| f.name().as_str()))
    })
}

fn no_column(name: &str, there: &mut dyn Iterator<Item = &str>) -> Error {
    let have: Vec<&str> = there.filter(|name| *name != BROKEN).take(20).collect();
    Error::input(format!("no column `{name}`; there are {}", have.join(", ")))
        .hint("name the columns with `url_col`, `caption_col` and `columns`")
}

/// One URL a line.
fn lines(text: Box<dyn Read + Send>, column: String) -> impl Iterator<Item = Result<RecordBatch>> {
    let mut text = BufReader::new(text);
    let schema = Arc::new(Schema::new(vec![Field::new(column, DataType::Utf8, true)]));
    std::iter::from_fn(move || {
        let mut urls = StringBuilder::new();
        while urls.len() < ROWS {
            match next_line(&mut text) {
                Ok(Some(line)) if line.is_empty() => {}
                Ok(Some(line)) => urls.append_value(line),
                Ok(None) => break,
                Err(error) => return Some(Err(error)),
            }
        }
        let urls = urls.finish();
        (!urls.is_empty()).then(|| {
            RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(urls)]).internal("lines")
        })
    })
}

fn next_line(text: &mut impl BufRead) -> Result<Option<String>> {
    let mut line = Vec::new();
    let read = text.take(MAX_LINE).read_until(b'\n', &mut line).input("cannot read the file")?;
    if read as u64 == MAX_LINE && !line.ends_with(b"\n") {
        return Err(Error::input(format!("a line of more than {MAX_LINE} bytes")));
    }
    let line = String::from_utf8_lossy(&line).trim().to_owned();
    Ok((read > 0).then_some(line))
}
