//! A batch of rows, whichever stage wrote it.

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{Array, ArrayRef, Float64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, SchemaRef};
use serde_json::{Map, Value, json};
use stage::{Pairs, Result, ResultExt};

/// Columns that are no scores beside those of pairs.
const OTHERS: [&str; 4] = ["text", "reason", "shard", "image_sha256"];

/// The numeric columns that are scores.
pub(super) fn score_names(schema: &SchemaRef) -> Vec<String> {
    let pairs = Pairs::schema();
    let score = |name: &str, kind: &DataType| {
        kind.is_numeric() && pairs.column_with_name(name).is_none() && !OTHERS.contains(&name)
    };
    let fields = schema.fields().iter().filter(|f| score(f.name(), f.data_type()));
    fields.map(|field| field.name().clone()).collect()
}

/// The columns of a batch that are shown or searched.
pub(super) struct Rows<'a> {
    pub(super) uid: Option<StringArray>,
    pub(super) url: Option<StringArray>,
    pub(super) caption: Option<StringArray>,
    pub(super) reason: Option<StringArray>,
    status: Option<StringArray>,
    error: Option<StringArray>,
    key: Option<StringArray>,
    shard: Option<StringArray>,
    pub(super) scores: Vec<(String, Float64Array)>,
    /// Texts that judges wrote, such as a language.
    labels: Vec<(String, StringArray)>,
    sizes: Vec<(&'static str, ArrayRef)>,
    own_shard: &'a str,
    pub(super) len: usize,
}

impl<'a> Rows<'a> {
    /// `shard` is that of all rows where no column says it.
    pub(super) fn of(batch: &RecordBatch, shard: &'a str) -> Result<Self> {
        let text = |name: &str| text(batch, name);
        let caption = match text("caption")? {
            None => text("text")?,
            some => some,
        };
        let mut scores = Vec::new();
        for name in score_names(&batch.schema()) {
            if let Some(column) = batch.column_by_name(&name) {
                let column = arrow_cast::cast(column, &DataType::Float64).internal("a score")?;
                scores.push((name, column.as_primitive::<Float64Type>().clone()));
            }
        }
        let mut labels = Vec::new();
        let (pairs, schema) = (Pairs::schema(), batch.schema());
        for field in schema.fields() {
            let name = field.name().as_str();
            let known = pairs.column_with_name(name).is_some() || OTHERS.contains(&name);
            if !known && let Some(column) = text(name)? {
                labels.push((name.to_owned(), column));
            }
        }
        let sizes = ["width", "height", "original_width", "original_height"];
        let sizes = sizes.into_iter().filter_map(|name| {
            Some((name, batch.column_by_name(name).filter(|c| c.data_type().is_integer())?.clone()))
        });
        Ok(Self {
            uid: text("uid")?,
            url: text("url")?,
            caption,
            reason: text("reason")?,
            status: text("status")?,
            error: text("error_message")?,
            key: text("key")?,
            shard: text("shard")?,
            scores,
            labels,
            sizes: sizes.collect(),
            own_shard: shard,
            len: batch.num_rows(),
        })
    }

    /// Why a row was not kept: the judge's word, else the download's; `None` where it was.
    pub(super) fn why(&self, row: usize) -> Option<&str> {
        let failed = value(self.status.as_ref(), row).filter(|status| *status != "success");
        if let Some(status) = failed {
            return Some(value(self.error.as_ref(), row).unwrap_or(status));
        }
        value(self.reason.as_ref(), row)
    }

    /// A row as the page takes it.
    pub(super) fn to_json(&self, row: usize) -> Value {
        let text = |column: &Option<StringArray>| {
            value(column.as_ref(), row).unwrap_or_default().to_owned()
        };
        let scores: Map<String, Value> = self
            .scores
            .iter()
            .filter(|(_, column)| column.is_valid(row))
            .map(|(name, column)| (name.clone(), number(column.value(row))))
            .collect();
        let size = |name: &str| {
            let column = &self.sizes.iter().find(|(n, _)| *n == name)?.1;
            let text = arrow_cast::display::array_value_to_string(column, row).ok()?;
            text.parse::<i64>().ok()
        };
        let failed = value(self.status.as_ref(), row).is_some_and(|status| status != "success");
        json!({
            "uid": text(&self.uid),
            "url": text(&self.url),
            "caption": text(&self.caption),
            "reason": self.why(row),
            "scores": scores,
            "labels": self.labels.iter().filter_map(|(name, column)| {
                Some((name.clone(), Value::from(value(Some(column), row)?)))
            }).collect::<Map<String, Value>>(),
            "width": size("width"),
            "height": size("height"),
            "original_width": size("original_width"),
            "original_height": size("original_height"),
            "shard": value(self.shard.as_ref(), row).unwrap_or(self.own_shard),
            "key": text(&self.key),
            "picture": !failed && self.key.is_some(),
        })
    }
}

/// A score as JSON; what is no number there, as a word.
fn number(value: f64) -> Value {
    if value.is_finite() { json!(value) } else { Value::from(value.to_string()) }
}

/// A column of text as one type.
fn text(batch: &RecordBatch, name: &str) -> Result<Option<StringArray>> {
    let Some(column) = batch.column_by_name(name) else { return Ok(None) };
    let column = match column.data_type() {
        DataType::Utf8 => column.clone(),
        DataType::LargeUtf8 | DataType::Utf8View => {
            arrow_cast::cast(column, &DataType::Utf8).internal("cannot read text")?
        }
        _ => return Ok(None),
    };
    Ok(Some(column.as_string::<i32>().clone()))
}

/// A value that is there.
pub(super) fn value(column: Option<&StringArray>, row: usize) -> Option<&str> {
    column.filter(|column| column.is_valid(row)).map(|column| column.value(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_that_is_no_number_is_a_word() {
        assert_eq!(
            [0.25, f64::NAN, f64::NEG_INFINITY].map(number),
            [json!(0.25), json!("NaN"), json!("-inf")]
        );
    }
}
