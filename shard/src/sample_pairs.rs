//! The members of samples become a batch of pairs.

use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use stage::{PairRow, Pairs, PairsBuilder, Result, Status};

use crate::identity::uid_of;
use crate::sample_json::SampleJson;

/// Collects samples into [`Pairs`].
pub(crate) struct PairsOfSamples<'a> {
    pairs: PairsBuilder,
    json_columns: Vec<(&'a str, StringBuilder)>,
    limits: pixels::Limits,
}

impl<'a> PairsOfSamples<'a> {
    pub(crate) fn new(json_columns: &'a [String]) -> Self {
        let json_columns =
            json_columns.iter().map(|name| (name.as_str(), StringBuilder::new())).collect();
        let limits = pixels::Limits::default();
        Self { pairs: PairsBuilder::default(), json_columns, limits }
    }

    /// `shard` is the tar's file name without `.tar`.
    pub(crate) fn push(
        &mut self,
        shard: &str,
        key: &str,
        picture: &[u8],
        text: Option<&[u8]>,
        json: Option<&[u8]>,
    ) {
        let json = json.map(SampleJson::parse).unwrap_or_default();
        let caption = caption_of(text, &json);
        let uid = uid_of(&json, &caption, key, shard).to_string();
        let size = json.size("width", "height").or_else(|| {
            let header = pixels::probe(picture, &self.limits).ok()?;
            Some((header.width, header.height))
        });
        self.pairs.push(PairRow {
            uid: &uid,
            key,
            url: json.text("url").unwrap_or_default(),
            caption: &caption,
            status: Status::Success,
            error_message: None,
            size,
            original_size: json.size("original_width", "original_height").or(size),
            sha256: json.text("sha256"),
            image: Some(picture),
        });
        for (name, column) in &mut self.json_columns {
            column.append_option(json.scalar(name));
        }
    }

    pub(crate) fn finish(mut self) -> Result<Pairs> {
        let mut pairs = self.pairs.finish();
        for (name, mut column) in self.json_columns {
            pairs = pairs.with_column(name, Arc::new(column.finish()))?;
        }
        Ok(pairs)
    }
}

/// The txt member, else the json's caption.
pub(crate) fn caption_of(text: Option<&[u8]>, json: &SampleJson) -> String {
    match text {
        Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        None => json.text("caption").unwrap_or_default().to_owned(),
    }
}
