//! Turns away captions with personal data: mail addresses, telephone numbers, payment cards,
//! bank accounts, internet addresses.
//!
//! The rules are [`stage::pii`]'s, and `reshard` masks by the same.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt32Type;
use arrow_array::{Array, ArrayRef, UInt32Array};
use arrow_schema::{DataType, Field};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use stage::pii::{PiiKind, count};
use stage::{Pairs, Result};

use super::{Judge, JudgeContext, JudgePlan, Scored, is_success};

/// Personal data in the caption. Scores: how many there are of each kind, `pii_emails`,
/// `pii_phones`, `pii_cards`, `pii_ibans`, `pii_ips`. Nothing is masked here; `reshard` can.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Pii {
    /// Kinds for which a caption is turned away; default all, empty only scores. Reasons:
    /// `pii_email`, `pii_phone`, `pii_card`, `pii_iban`, `pii_ip`.
    pub drop: Vec<PiiKind>,
}

impl Default for Pii {
    fn default() -> Self {
        Self { drop: PiiKind::ALL.to_vec() }
    }
}

/// The column of its count.
fn column(kind: PiiKind) -> &'static str {
    match kind {
        PiiKind::Email => "pii_emails",
        PiiKind::Phone => "pii_phones",
        PiiKind::Card => "pii_cards",
        PiiKind::Iban => "pii_ibans",
        PiiKind::Ip => "pii_ips",
    }
}

/// The word for why a caption goes.
fn reason(kind: PiiKind) -> &'static str {
    match kind {
        PiiKind::Email => "pii_email",
        PiiKind::Phone => "pii_phone",
        PiiKind::Card => "pii_card",
        PiiKind::Iban => "pii_iban",
        PiiKind::Ip => "pii_ip",
    }
}

impl JudgePlan for Pii {
    fn name(&self) -> &'static str {
        "pii"
    }

    fn validate(&self) -> Result<()> {
        Ok(())
    }

    fn scores(&self) -> Vec<Field> {
        PiiKind::ALL.map(|kind| Field::new(column(kind), DataType::UInt32, true)).to_vec()
    }

    fn scoring(&self) -> Value {
        Value::Null
    }

    fn reasons(&self, scores: &[ArrayRef]) -> Vec<Option<&'static str>> {
        let columns: Vec<&UInt32Array> =
            scores.iter().map(AsArray::as_primitive::<UInt32Type>).collect();
        let rows = scores.first().map_or(0, Array::len);
        let found = |i: usize| {
            let kinds =
                PiiKind::ALL.iter().zip(&columns).filter(|(kind, _)| self.drop.contains(kind));
            let mut found = kinds.filter(|(_, column)| column.is_valid(i) && column.value(i) > 0);
            found.next().map(|(kind, _)| reason(*kind))
        };
        (0..rows).map(found).collect()
    }

    fn build(&self, _cx: &JudgeContext<'_>) -> Result<Box<dyn Judge>> {
        Ok(Box::new(Finder))
    }
}

struct Finder;

impl Judge for Finder {
    fn score(&mut self, pairs: &Pairs) -> Result<Scored> {
        let captions = pairs.captions();
        let mut counts = vec![vec![None; pairs.len()]; PiiKind::ALL.len()];
        for i in (0..pairs.len()).filter(|&i| is_success(pairs, i)) {
            for (column, count) in counts.iter_mut().zip(count(captions.value(i))) {
                column[i] = Some(count);
            }
        }
        let columns = counts.into_iter().map(|c| Arc::new(UInt32Array::from(c)) as ArrayRef);
        Ok(Scored::of(columns.collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::tests::{check, failed_row, row};

    #[test]
    fn each_kind_is_counted_and_gives_its_reason() {
        // A card number of the issuers' own test pages, the IBAN of the standard's example.
        let rows = [
            row("write to ann.lee+x@mail.example.org today", None),
            row("call (555) 123-4567 now", None),
            row("card 4111 1111 1111 1111", None),
            row("IBAN GB82 WEST 1234 5698 7654 32", None),
            row("router at 192.168.0.1.", None),
            row("a red car, 1967", None),
            failed_row(),
        ];
        let (scores, reasons) = check(&Pii::default(), &rows);
        let expected = [
            Some("pii_email"),
            Some("pii_phone"),
            Some("pii_card"),
            Some("pii_iban"),
            Some("pii_ip"),
            None,
            None,
        ];
        assert_eq!(reasons, expected);
        assert!(scores.iter().all(|column| column.is_null(6)));
    }

    #[test]
    fn without_kinds_nothing_is_dropped_and_all_is_scored() {
        let plan: Pii = serde_json::from_str(r#"{"drop": []}"#).unwrap();
        let (scores, reasons) = check(&plan, &[row("a@b.example", None)]);
        assert_eq!(reasons, [None]);
        assert_eq!(scores[0].as_primitive::<UInt32Type>().value(0), 1);
        let only: Pii = serde_json::from_str(r#"{"drop": ["card"]}"#).unwrap();
        assert_eq!(check(&only, &[row("a@b.example", None)]).1, [None]);
    }
}
