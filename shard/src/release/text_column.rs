//! A column of text, in whichever of Arrow's types it lies, and the values of a column of any type.

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow_cast::CastOptions;
use arrow_schema::DataType;
use stage::{Error, Result};

/// Deepest nesting of a type that is looked into.
const DEPTH: usize = 32;

/// The column of this name as text; `None` where there is none.
///
/// # Errors
/// When its type is no text: what cannot be read cannot be said not to be there.
pub(crate) fn text(batch: &RecordBatch, name: &str) -> Result<Option<StringArray>> {
    batch.column_by_name(name).map(|column| as_text(column, name)).transpose()
}

/// As [`text`], of a column that has to be there.
pub(crate) fn needed(batch: &RecordBatch, name: &str) -> Result<StringArray> {
    text(batch, name)?.ok_or_else(|| Error::input(format!("no column `{name}`")))
}

/// A column as text: strings of any length of offsets, views, dictionaries, and bytes that are UTF-8.
pub(crate) fn as_text(column: &ArrayRef, name: &str) -> Result<StringArray> {
    let kind = column.data_type();
    let told = || {
        Error::input(format!("column `{name}` is of the type {kind}, which is no text"))
            .hint("write it as strings")
    };
    if !is_text(kind) {
        return Err(told());
    }
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let column = arrow_cast::cast_with_options(column, &DataType::Utf8, &strict)
        .map_err(|error| told().because(error))?;
    column.as_string_opt::<i32>().cloned().ok_or_else(told)
}

/// The value of a row that has one.
pub(crate) fn value(column: &StringArray, row: usize) -> Option<&str> {
    column.is_valid(row).then(|| column.value(row))
}

fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Utf8View
        | DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::Null => true,
        DataType::Dictionary(_, value) => is_text(value),
        _ => false,
    }
}

/// A value in which something may be named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Text(&'a str),
    Bytes(&'a [u8]),
}

/// Shows every text and every run of bytes of a column with its row, those inside lists, structures
/// and dictionaries among them; numbers and times are none.
///
/// # Errors
/// The type that cannot be looked into.
pub(crate) fn values(
    column: &dyn Array,
    show: &mut dyn FnMut(usize, Value<'_>),
) -> std::result::Result<(), String> {
    walk(column, DEPTH, show)
}

fn walk(
    column: &dyn Array,
    depth: usize,
    show: &mut dyn FnMut(usize, Value<'_>),
) -> std::result::Result<(), String> {
    let kind = column.data_type();
    let unread = || kind.to_string().chars().take(200).collect::<String>();
    let depth = depth.checked_sub(1).ok_or_else(unread)?;
    macro_rules! each {
        ($column:expr, $value:path) => {
            $column
                .iter()
                .enumerate()
                .filter_map(|(row, value)| Some((row, value?)))
                .for_each(|(row, value)| show(row, $value(value)))
        };
    }
    // The values of a row are shown under the row that holds them.
    macro_rules! lists {
        ($column:expr) => {{
            for (row, list) in $column.iter().enumerate() {
                if let Some(list) = list {
                    walk(&list, depth, &mut |_, value| show(row, value))?;
                }
            }
        }};
    }
    match kind {
        DataType::Utf8 => each!(column.as_string::<i32>(), Value::Text),
        DataType::LargeUtf8 => each!(column.as_string::<i64>(), Value::Text),
        DataType::Utf8View => each!(column.as_string_view(), Value::Text),
        DataType::Binary => each!(column.as_binary::<i32>(), Value::Bytes),
        DataType::LargeBinary => each!(column.as_binary::<i64>(), Value::Bytes),
        DataType::BinaryView => each!(column.as_binary_view(), Value::Bytes),
        DataType::FixedSizeBinary(_) => each!(column.as_fixed_size_binary(), Value::Bytes),
        DataType::Dictionary(_, value) => {
            let plain = arrow_cast::cast(column, value).map_err(|_| unread())?;
            walk(&plain, depth, show)?;
        }
        DataType::List(_) => lists!(column.as_list::<i32>()),
        DataType::LargeList(_) => lists!(column.as_list::<i64>()),
        DataType::FixedSizeList(..) => lists!(column.as_fixed_size_list()),
        DataType::Struct(_) => {
            for column in column.as_struct().columns() {
                walk(column, depth, show)?;
            }
        }
        DataType::Map(..) => {
            for (row, entries) in column.as_map().iter().enumerate() {
                if let Some(entries) = entries {
                    walk(&entries, depth, &mut |_, value| show(row, value))?;
                }
            }
        }
        DataType::Null | DataType::Boolean => {}
        number if number.is_primitive() => {}
        _ => return Err(unread()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{BinaryArray, DictionaryArray, Int64Array, types::Int32Type};
    use arrow_schema::Field;

    use super::*;

    fn strings() -> StringArray {
        vec![Some("a"), None, Some("b"), Some("a")].into()
    }

    fn of(column: &dyn Array) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        let seen = values(column, &mut |row, value| {
            found.push((
                row,
                match value {
                    Value::Text(text) => text.to_owned(),
                    Value::Bytes(bytes) => format!("{bytes:?}"),
                },
            ));
        });
        seen.unwrap();
        found
    }

    #[test]
    fn text_is_read_from_every_type_that_holds_it() {
        let column: ArrayRef = Arc::new(strings());
        let dictionary =
            DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::LargeUtf8));
        for kind in [
            DataType::LargeUtf8,
            DataType::Utf8View,
            DataType::Binary,
            DataType::LargeBinary,
            DataType::BinaryView,
            dictionary,
        ] {
            let other = arrow_cast::cast(&column, &kind).unwrap();
            assert_eq!(as_text(&other, "x").unwrap(), strings(), "{kind}");
        }
    }

    #[test]
    fn a_column_that_is_no_text_is_refused_by_name_and_type() {
        let told = |column: ArrayRef| as_text(&column, "url").unwrap_err().to_string();
        let numbers = told(Arc::new(Int64Array::from(vec![1])));
        assert_eq!(numbers, "column `url` is of the type Int64, which is no text");
        let odd = told(Arc::new(BinaryArray::from_vec(vec![b"\xff"])));
        assert!(odd.starts_with("column `url` is of the type Binary, which is no text"), "{odd}");
    }

    #[test]
    fn values_of_every_type_are_shown_with_their_rows() {
        let expected = [(0, "a"), (2, "b"), (3, "a")].map(|(row, text)| (row, text.to_owned()));
        let column: ArrayRef = Arc::new(strings());
        for kind in [DataType::Utf8, DataType::LargeUtf8, DataType::Utf8View] {
            assert_eq!(of(&arrow_cast::cast(&column, &kind).unwrap()), expected, "{kind}");
        }
        for kind in [DataType::Binary, DataType::LargeBinary, DataType::BinaryView] {
            let found = of(&arrow_cast::cast(&column, &kind).unwrap());
            assert_eq!(found, [(0, "[97]"), (2, "[98]"), (3, "[97]")].map(|(r, t)| (r, t.into())));
        }
        let dictionary: DictionaryArray<Int32Type> =
            vec![Some("a"), None, Some("b"), Some("a")].into_iter().collect();
        assert_eq!(of(&dictionary), expected);
        let list = DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)));
        assert_eq!(of(&arrow_cast::cast(&column, &list).unwrap()), expected);
        assert_eq!(of(&Int64Array::from(vec![1, 2])), []);
    }
}
