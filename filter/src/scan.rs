//! One pass over the columns of many parquet files, several row groups at once.
//!
//! A query engine could do it, but not tell which row of which file a value came from, which
//! embeddings beside the files need, and not leave the dear tests to the rows that passed the cheap
//! ones. What a pass finds must not depend on the order in which row groups come.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow_cast::cast;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::{Expr, SessionContext};
use stage::{Cancel, Error, Result, ResultExt};
use store::Blob;
use store::parquet::{File, Pick};

use crate::engine::query_error;

/// Rows of a batch.
const BATCH: usize = 16_384;

/// Parquet files whose footers were vetted, and the columns of all of them together.
#[derive(Debug)]
pub(crate) struct Pool {
    files: Vec<String>,
    units: Vec<Unit>,
    schema: SchemaRef,
    /// Columns whose types have nothing in common, by name: where it was found and what.
    conflicts: BTreeMap<String, (String, String)>,
    threads: usize,
    cancel: Cancel,
}

/// A row group.
#[derive(Debug, Clone, Copy)]
struct Unit {
    file: usize,
    group: usize,
    first_row: u64,
}

/// Some rows of a file.
#[derive(Debug)]
pub(crate) struct Part<'a> {
    /// Path or URL of the file.
    pub(crate) path: &'a str,
    /// Rows of the file before these.
    pub(crate) first_row: u64,
    /// The columns that were asked for, in that order.
    pub(crate) batch: RecordBatch,
}

impl Pool {
    /// Reads the footers (paths or URLs). A column that some files lack is null there; columns of
    /// one name may be numbers or strings of different widths, and of whole and other numbers those
    /// of f64 come out. A column of two types otherwise is an error for who asks for it.
    ///
    /// # Errors
    /// When a file is missing or no sound parquet; names the file.
    pub(crate) fn open(
        stage: &str,
        files: &[String],
        threads: usize,
        cancel: &Cancel,
    ) -> Result<Self> {
        if files.is_empty() {
            return Err(Error::input("no file is given").at(stage));
        }
        let mut columns = Columns::default();
        let mut conflicts = BTreeMap::new();
        let mut units = Vec::new();
        for (file, path) in files.iter().enumerate() {
            cancel.check()?;
            let footer = File::open(&Blob::open(path)?)?;
            for (name, message) in columns.add(footer.schema()) {
                conflicts.entry(name).or_insert_with(|| (path.clone(), message));
            }
            let mut first_row = 0;
            for (group, rows) in footer.metadata().row_groups().iter().enumerate() {
                units.push(Unit { file, group, first_row });
                first_row += rows.num_rows().max(0).unsigned_abs();
            }
        }
        Ok(Self {
            files: files.to_vec(),
            units,
            schema: columns.schema(),
            conflicts,
            threads: threads.max(1),
            cancel: cancel.clone(),
        })
    }

    /// All columns.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The columns of these names, in this order.
    ///
    /// # Errors
    /// One that has two types; names the file.
    pub(crate) fn columns(&self, names: &[String]) -> Result<SchemaRef> {
        if let Some((path, message)) = names.iter().find_map(|name| self.conflicts.get(name)) {
            return Err(Error::input(message.clone()).at(path));
        }
        let field = |name: &String| {
            let field = self.schema.field_with_name(name);
            field.cloned().internal("a column that the pool does not have")
        };
        Ok(Arc::new(Schema::new(names.iter().map(field).collect::<Result<Vec<Field>>>()?)))
    }

    /// Hands all rows over, each thread to a state of its own, and gives the states back in no
    /// order.
    ///
    /// # Errors
    /// The first of a broken file, of `each` and of `start`, in the order of the files; an
    /// interruption.
    pub(crate) fn scan<S: Send>(
        &self,
        columns: &[String],
        start: impl Fn() -> Result<S> + Sync,
        each: impl Fn(&mut S, &Part<'_>) -> Result<()> + Sync,
    ) -> Result<Vec<S>> {
        let schema = self.columns(columns)?;
        let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
        let first_error: Mutex<Option<(usize, Error)>> = Mutex::new(None);
        let states = stage::in_parallel(self.threads, self.threads, |_| {
            let mut state = start()?;
            while !stopped.load(Ordering::Relaxed) {
                self.cancel.check()?;
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(unit) = self.units.get(number) else { break };
                // A unit that was begun is ended, so that the first error is always the same.
                if let Err(error) = self.read(*unit, &schema, |part| each(&mut state, part)) {
                    stopped.store(true, Ordering::Relaxed);
                    let mut first = first_error.lock().unwrap_or_else(PoisonError::into_inner);
                    if first.as_ref().is_none_or(|(earlier, _)| number < *earlier) {
                        *first = Some((number, error));
                    }
                }
            }
            Ok(state)
        })?;
        match first_error.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some((_, error)) => Err(error),
            None => Ok(states),
        }
    }

    fn read(
        &self,
        unit: Unit,
        schema: &SchemaRef,
        mut each: impl FnMut(&Part<'_>) -> Result<()>,
    ) -> Result<()> {
        let path = self.files.get(unit.file).map(String::as_str).unwrap_or_default();
        let file = File::open(&Blob::open(path)?)?;
        let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        let there: Vec<&str> =
            names.iter().copied().filter(|n| file.schema().field_with_name(n).is_ok()).collect();
        let pick =
            Pick { columns: Some(&there), row_groups: Some(&[unit.group]), batch_rows: BATCH };
        let mut first_row = unit.first_row;
        for batch in file.batches(&pick)? {
            let batch = batch?;
            let rows = batch.num_rows();
            let columns = schema.fields().iter().map(|field| -> Result<ArrayRef> {
                match batch.column_by_name(field.name()) {
                    None => Ok(new_null_array(field.data_type(), rows)),
                    Some(column) if column.data_type() == field.data_type() => {
                        Ok(Arc::clone(column))
                    }
                    Some(column) => cast(column, field.data_type())
                        .input(format!("column `{}` cannot be read", field.name()))
                        .map_err(|e| e.at(path)),
                }
            });
            let columns = columns.collect::<Result<Vec<_>>>()?;
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            let batch = RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options);
            let batch = batch.internal("columns of another type")?;
            each(&Part { path, first_row, batch })?;
            first_row += rows as u64;
        }
        Ok(())
    }
}

/// An expression over the columns of a scan.
#[derive(Debug, Clone)]
pub(crate) struct Compiled(Arc<dyn PhysicalExpr>);

impl Compiled {
    /// Prepares an expression for batches of these columns.
    pub(crate) fn new(
        context: &SessionContext,
        expression: Expr,
        columns: &SchemaRef,
    ) -> Result<Self> {
        let plan = |e| query_error(&e, "cannot plan the condition");
        let schema = DFSchema::try_from(columns.as_ref().clone()).map_err(plan)?;
        context.create_physical_expr(expression, &schema).map(Self).map_err(plan)
    }

    /// Its value in each row.
    pub(crate) fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        let value = self.0.evaluate(batch).and_then(|value| value.into_array(batch.num_rows()));
        value.map_err(|e| query_error(&e, "the condition failed"))
    }
}

/// The columns of several files together, in the order of their first appearance.
#[derive(Debug, Default)]
pub(crate) struct Columns(Vec<Field>);

impl Columns {
    /// Takes in the columns of one more file; gives those, with a message, whose type has nothing
    /// in common with the one before. Metadata of schemas is left out: pandas writes row numbers
    /// there.
    pub(crate) fn add(&mut self, schema: &Schema) -> Vec<(String, String)> {
        let mut conflicts = Vec::new();
        for field in schema.fields() {
            let Some(known) = self.0.iter_mut().find(|known| known.name() == field.name()) else {
                self.0.push(Field::new(field.name(), field.data_type().clone(), true));
                continue;
            };
            let (one, other) = (known.data_type(), field.data_type());
            match common_type(one, other) {
                Some(both) => known.set_data_type(both),
                None => {
                    let message = format!("column `{}` is {other}, and {one} before", field.name());
                    conflicts.push((field.name().clone(), message));
                }
            }
        }
        conflicts
    }

    pub(crate) fn schema(self) -> SchemaRef {
        Arc::new(Schema::new(self.0))
    }
}

/// A type that holds the values of both; pandas writes a column without values as `Null`.
fn common_type(a: &DataType, b: &DataType) -> Option<DataType> {
    let string = |kind: &DataType| kind.is_string();
    match (a, b) {
        (a, b) if a == b => Some(a.clone()),
        (DataType::Null, kind) | (kind, DataType::Null) => Some(kind.clone()),
        (a, b) if string(a) && string(b) => Some(DataType::Utf8),
        (a, b) if a.is_integer() && b.is_floating() || a.is_floating() && b.is_integer() => {
            Some(DataType::Float64)
        }
        (DataType::UInt64, _) | (_, DataType::UInt64) => None,
        (a, b) if a.is_integer() && b.is_integer() => Some(DataType::Int64),
        (a, b) if a.is_floating() && b.is_floating() => Some(DataType::Float64),
        _ => None,
    }
}
