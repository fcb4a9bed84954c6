//! Link lists in json: an array of objects, or an object a line.

use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;

use arrow_array::builder::{ArrayBuilder, BooleanBuilder, StringBuilder};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use serde::Deserialize;
use stage::{Error, Result, ResultExt};

use super::{BROKEN, Batches, Format, MAX_LINE, ROWS, next_line};

/// Objects: one a line, or an array of them.
pub(super) fn read(text: Box<dyn Read + Send>, format: Format, names: Vec<String>) -> Batches {
    let mut fields: Vec<Field> =
        names.iter().map(|name| Field::new(name, DataType::Utf8, true)).collect();
    fields.push(Field::new(BROKEN, DataType::Boolean, false));
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let mut text = BufReader::new(text);
    let mut rows: Box<dyn Iterator<Item = Result<serde_json::Value>>> = if format == Format::Json {
        let mut before = b'[';
        let objects = std::iter::from_fn(move || {
            let next = next_object(&mut text, before);
            before = b',';
            next.transpose()
        });
        Box::new(objects.fuse())
    } else {
        Box::new(std::iter::from_fn(move || match next_line(&mut text) {
            Ok(Some(line)) if line.is_empty() => Some(Ok(serde_json::Value::Null)),
            // A line that is no object is a broken row.
            Ok(Some(line)) => Some(Ok(match serde_json::from_str(&line) {
                Ok(row @ serde_json::Value::Object(_)) => row,
                _ => serde_json::Value::Bool(false),
            })),
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        }))
    };
    Box::new(std::iter::from_fn(move || {
        let mut columns: Vec<StringBuilder> = names.iter().map(|_| StringBuilder::new()).collect();
        let mut broken = BooleanBuilder::new();
        while broken.len() < ROWS {
            let row = match rows.next() {
                Some(Ok(serde_json::Value::Null)) => continue,
                Some(Ok(row)) => row,
                Some(Err(error)) => return Some(Err(error)),
                None => break,
            };
            broken.append_value(!row.is_object());
            for (name, column) in names.iter().zip(&mut columns) {
                match row.get(name) {
                    None | Some(serde_json::Value::Null) => column.append_null(),
                    Some(serde_json::Value::String(text)) => column.append_value(text),
                    Some(other) => column.append_value(other.to_string()),
                }
            }
        }
        let broken = broken.finish();
        let count = Array::len(&broken);
        let columns = columns.iter_mut().map(|c| Arc::new(c.finish()) as ArrayRef);
        let columns = columns.chain([Arc::new(broken) as ArrayRef]).collect();
        (count > 0).then(|| RecordBatch::try_new(Arc::clone(&schema), columns).internal("rows"))
    }))
}

/// The next object of an array, after `[` or a comma; none after its end. One at a time, since an
/// array may be longer than memory.
fn next_object(text: &mut impl BufRead, before: u8) -> Result<Option<serde_json::Value>> {
    let broken = || Error::input("no array of objects");
    match next_byte(text)? {
        Some(byte) if byte == before => {}
        Some(b']') if before == b',' => return Ok(None),
        _ => return Err(broken()),
    }
    if before == b'[' && peek(text)? == Some(b']') {
        return Ok(None);
    }
    if peek(text)? != Some(b'{') {
        return Err(broken());
    }
    let mut one = serde_json::Deserializer::from_reader(text.take(MAX_LINE));
    serde_json::Value::deserialize(&mut one).map(Some).input("a broken object")
}

/// The next byte that is no white space, taken.
fn next_byte(text: &mut impl BufRead) -> Result<Option<u8>> {
    let byte = peek(text)?;
    text.consume(usize::from(byte.is_some()));
    Ok(byte)
}

/// The next byte that is no white space; what stands before it is taken.
fn peek(text: &mut impl BufRead) -> Result<Option<u8>> {
    loop {
        let buffer = text.fill_buf().input("cannot read the file")?;
        if buffer.is_empty() {
            return Ok(None);
        }
        match buffer.iter().position(|byte| !byte.is_ascii_whitespace()) {
            Some(at) => {
                let byte = buffer[at];
                text.consume(at);
                return Ok(Some(byte));
            }
            None => {
                let all = buffer.len();
                text.consume(all);
            }
        }
    }
}
