//! Which rows fit a question.

use std::collections::HashMap;

use arrow_array::Array;
use serde_json::Value;
use shard::release::host_of;
use stage::{Error, Result};

use super::http::Request;
use super::rows::{Rows, value};
use super::source::Table;
use super::survey::each;

/// What a row must fulfil, all of it.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// Parts of the caption, in small letters.
    words: Vec<String>,
    domain: Option<String>,
    reason: Reason,
    score: Option<(String, f64, f64)>,
}

#[derive(Debug, Default)]
enum Reason {
    #[default]
    Any,
    Kept,
    Dropped,
    Named(String),
}

impl Search {
    pub(super) fn of(request: &Request) -> Result<Self> {
        let text = |name: &str| request.text(name).map(str::trim).filter(|text| !text.is_empty());
        let words = text("q").unwrap_or_default().split_whitespace().map(str::to_lowercase);
        let reason = match text("reason") {
            None => Reason::Any,
            Some("(kept)") => Reason::Kept,
            Some("(dropped)") => Reason::Dropped,
            Some(name) => Reason::Named(name.to_owned()),
        };
        let score = match text("score") {
            None => None,
            Some(name) => {
                let bound = |field: &str, default: f64| match text(field) {
                    None => Ok(default),
                    Some(number) => {
                        number.parse::<f64>().ok().filter(|number| !number.is_nan()).ok_or_else(
                            || Error::recipe(format!("{field}: {number:?} is no number")),
                        )
                    }
                };
                let (low, high) = (bound("min", f64::NEG_INFINITY)?, bound("max", f64::INFINITY)?);
                (low > f64::NEG_INFINITY || high < f64::INFINITY)
                    .then(|| (name.to_owned(), low, high))
            }
        };
        let domain = text("domain").map(|name| name.trim_matches('.').to_lowercase());
        Ok(Self { words: words.collect(), domain, reason, score })
    }

    /// How many rows fit, and `count` of them from the `first` on.
    pub(super) fn run(
        &self,
        tables: &[Table],
        first: usize,
        count: usize,
    ) -> Result<(u64, Vec<Value>)> {
        let (mut total, mut found) = (0_u64, Vec::new());
        each(tables, |rows| {
            for row in 0..rows.len {
                if self.fits(rows, row) {
                    if total >= first as u64 && found.len() < count {
                        found.push(rows.to_json(row));
                    }
                    total += 1;
                }
            }
        })?;
        Ok((total, found))
    }

    fn fits(&self, rows: &Rows<'_>, row: usize) -> bool {
        let reason = match &self.reason {
            Reason::Any => true,
            Reason::Kept => rows.why(row).is_none(),
            Reason::Dropped => rows.why(row).is_some(),
            Reason::Named(name) => rows.why(row) == Some(name),
        };
        if !reason {
            return false;
        }
        if let Some((name, low, high)) = &self.score {
            let column = rows.scores.iter().find(|(other, _)| other == name).map(|(_, c)| c);
            let value =
                column.filter(|column| column.is_valid(row)).map(|column| column.value(row));
            if !value.is_some_and(|value| value >= *low && value <= *high) {
                return false;
            }
        }
        if let Some(domain) = &self.domain {
            let host = value(rows.url.as_ref(), row).and_then(host_of).unwrap_or_default();
            let below = host.strip_suffix(domain.as_str());
            if !below.is_some_and(|rest| rest.is_empty() || rest.ends_with('.')) {
                return false;
            }
        }
        if self.words.is_empty() {
            return true;
        }
        let caption = value(rows.caption.as_ref(), row).unwrap_or_default().to_lowercase();
        self.words.iter().all(|word| caption.contains(word.as_str()))
    }
}

/// The rows of these uids, in their order, each with its `similarity`.
pub(super) fn of_uids(tables: &[Table], near: &[(String, f32)]) -> Result<Vec<Value>> {
    let places: HashMap<&str, usize> =
        near.iter().enumerate().map(|(i, (uid, _))| (uid.as_str(), i)).collect();
    let mut found: Vec<Option<Value>> = vec![None; near.len()];
    each(tables, |rows| {
        for row in 0..rows.len {
            let place = value(rows.uid.as_ref(), row).and_then(|uid| places.get(uid));
            let Some((slot, (_, similarity))) =
                place.and_then(|&i| Some((found.get_mut(i)?, near.get(i)?)))
            else {
                continue;
            };
            let mut json = rows.to_json(row);
            if let Some(object) = json.as_object_mut() {
                object.insert("similarity".to_owned(), Value::from(f64::from(*similarity)));
            }
            slot.get_or_insert(json);
        }
    })?;
    Ok(found.into_iter().flatten().collect())
}
