//! Link lists in csv and tsv, read row by row: a row that is broken costs itself alone.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;
use std::sync::Arc;

use arrow_array::builder::{BooleanBuilder, StringBuilder};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use stage::{Error, Result, ResultExt};

use super::{BROKEN, Batches, MAX_LINE, ROWS, no_column};

/// Most columns of a header; a link list has a few.
const MAX_COLUMNS: usize = 1000;

/// Those of the columns `names` that the header has, and all that are `needed`. A row of another number of fields, or of bytes
/// that are no UTF-8, is a row that says [`BROKEN`].
///
/// # Errors
/// A header that is none; a row of more than [`MAX_LINE`] bytes, behind which no row can be found.
pub(super) fn read(
    text: Box<dyn Read + Send>,
    delimiter: u8,
    names: &[String],
    needed: &[String],
) -> Result<Batches> {
    let since = Rc::new(Cell::new(0));
    let capped = Capped { text, since: Rc::clone(&since) };
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .flexible(true)
        .has_headers(false)
        .from_reader(capped);
    let mut row = csv::ByteRecord::new();
    if !reader.read_byte_record(&mut row).input("cannot read the header")? {
        return Err(Error::input("the file is empty: there is no header"));
    }
    if row.len() > MAX_COLUMNS {
        return Err(Error::input(format!("a header of {} columns is no link list", row.len())));
    }
    let header: Vec<String> = row
        .iter()
        .map(|name| String::from_utf8_lossy(name).trim_start_matches('\u{feff}').to_owned())
        .collect();
    if let Some(missing) = needed.iter().find(|name| !header.contains(name)) {
        return Err(no_column(missing, &mut header.iter().map(String::as_str)));
    }
    let wanted: Vec<(usize, &String)> = names
        .iter()
        .filter_map(|name| Some((header.iter().position(|h| h == name)?, name)))
        .collect();
    let mut fields: Vec<Field> =
        wanted.iter().map(|(_, name)| Field::new(name.as_str(), DataType::Utf8, true)).collect();
    fields.push(Field::new(BROKEN, DataType::Boolean, false));
    let schema = Arc::new(Schema::new(fields));
    let places: Vec<usize> = wanted.iter().map(|(place, _)| *place).collect();
    let width = header.len();
    Ok(Box::new(std::iter::from_fn(move || {
        let mut columns: Vec<StringBuilder> = places.iter().map(|_| StringBuilder::new()).collect();
        let mut broken = BooleanBuilder::new();
        for _ in 0..ROWS {
            since.set(0);
            match reader.read_byte_record(&mut row).input("cannot read the file") {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => return Some(Err(error)),
            }
            let whole = row.len() == width;
            let texts: Option<Vec<&str>> =
                places.iter().map(|&i| std::str::from_utf8(row.get(i)?).ok()).collect();
            let texts = texts.filter(|_| whole);
            broken.append_value(texts.is_none());
            for (i, column) in columns.iter_mut().enumerate() {
                column.append_option(texts.as_ref().map(|texts| texts[i]));
            }
        }
        let broken = broken.finish();
        let count = arrow_array::Array::len(&broken);
        let columns = columns.iter_mut().map(|c| Arc::new(c.finish()) as ArrayRef);
        let columns = columns.chain([Arc::new(broken) as ArrayRef]).collect();
        (count > 0).then(|| RecordBatch::try_new(Arc::clone(&schema), columns).internal("rows"))
    })))
}

/// Ends a row that does not end: an open quote would take the rest of the file into memory.
struct Capped<R> {
    text: R,
    /// Bytes read since the last row.
    since: Rc<Cell<u64>>,
}

impl<R: Read> Read for Capped<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.since.get() > MAX_LINE {
            return Err(io::Error::other(format!(
                "a row of more than {MAX_LINE} bytes; a quote may be open"
            )));
        }
        let count = self.text.read(buffer)?;
        self.since.set(self.since.get() + count as u64);
        Ok(count)
    }
}
