//! An expression on the rows that have numbers for it.
//!
//! A number that is NaN or infinite decides nothing: not one that a column holds, nor one that the
//! expression makes (`a / b`, `exp(x)`). SQL engines order NaN as a number, by its sign, and the
//! sign of 0/0 differs between CPUs. So every floating-point value that an expression makes is
//! computed by itself, one after another, and a row in which one is not finite goes no further:
//! what is computed of it later cannot fail on it. Zeros have no sign here: -0.0 is 0.0.
//!
//! A `CASE` is looked at as a whole, since what a branch makes counts only where it is taken; inside
//! it a number that is not finite is null.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float16Type, Float32Type, Float64Type};
use arrow_array::{
    Array, ArrayRef, ArrowNativeTypeOp, ArrowPrimitiveType, PrimitiveArray, RecordBatch,
    RecordBatchOptions, UInt64Array,
};
use arrow_cast::cast;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion, TreeNodeRewriter};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{
    ColumnarValue, ExprSchemable, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};
use datafusion::prelude::{Expr, SessionContext, lit};
use stage::{Error, Result, ResultExt};

use super::expression::{column, column_names};
use crate::engine::query_error;
use crate::scan::Compiled;

/// How to write what cannot be evaluated on some row.
pub(super) const HINT: &str = "write try_cast(x AS DOUBLE) for a text that may be no number, and x / nullif(y, 0) where a divisor may be 0: both give null, which selects nothing; what holds for some rows alone stands in a CASE";

/// An expression whose floating-point parts are computed before it.
pub(super) struct Formula {
    columns: Vec<String>,
    steps: Vec<Step>,
    last: Compiled,
}

struct Step {
    value: Compiled,
    field: Field,
}

/// What a formula gives.
pub(super) struct Values {
    /// The rows that have a value, of those that were asked for.
    pub(super) rows: Vec<usize>,
    /// Their values.
    pub(super) found: ArrayRef,
    /// The rows in which a number is NaN or infinite.
    pub(super) nonfinite: Vec<usize>,
}

impl Formula {
    /// Prepares an expression on these columns.
    pub(super) fn new(context: &SessionContext, whole: Expr, schema: &SchemaRef) -> Result<Self> {
        let columns = column_names([&whole]);
        let fields = columns.iter().map(|name| schema.field_with_name(name).cloned());
        let fields: Vec<Field> = fields.collect::<Result<_, _>>().internal("a column is lost")?;
        let mut split =
            Split { context, fields, schema: DFSchema::empty(), steps: Vec::new(), error: None };
        split.know()?;
        let last = whole.rewrite(&mut split);
        if let Some(error) = split.error {
            return Err(error);
        }
        let last = last.map_err(|e| query_error(&e, "cannot read the condition"))?.data;
        let schema = Arc::new(Schema::new(split.fields));
        let last = Compiled::new(context, last, &schema)?;
        Ok(Self { columns, steps: split.steps, last })
    }

    /// Its values in these rows of a batch, which ascend.
    ///
    /// # Errors
    /// A row on which it cannot be evaluated.
    pub(super) fn evaluate(&self, batch: &RecordBatch, rows: Vec<usize>) -> Result<Values> {
        let mut columns = Vec::with_capacity(self.columns.len() + self.steps.len());
        let mut fields = Vec::with_capacity(columns.capacity());
        for name in &self.columns {
            let column = batch.column_by_name(name);
            columns.push(Arc::clone(column.ok_or_else(|| Error::internal("a column is lost"))?));
            fields.push(Field::new(name, columns[columns.len() - 1].data_type().clone(), true));
        }
        let count = batch.num_rows();
        let mut rows = rows;
        let mut part = sub_batch(fields, columns, count)?;
        if rows.len() < count {
            part = taken(&part, &rows)?;
        }
        part = unsigned(&part)?;
        let mut nonfinite = Vec::new();
        for step in &self.steps {
            let mut value = step.value.evaluate(&part).map_err(|e| e.hint(HINT))?;
            if value.data_type() != step.field.data_type() {
                value = cast(&value, step.field.data_type()).internal("another type")?;
            }
            let value = without_sign(&value);
            let finite: Vec<usize> = (0..value.len()).filter(|&i| is_finite(&value, i)).collect();
            part = extended(&part, &step.field, value)?;
            if finite.len() < rows.len() {
                part = taken(&part, &finite)?;
                let mut kept = finite.into_iter().peekable();
                let mut place = 0;
                rows.retain(|row| {
                    let keep = kept.next_if_eq(&place).is_some();
                    place += 1;
                    if !keep {
                        nonfinite.push(*row);
                    }
                    keep
                });
            }
        }
        let found = self.last.evaluate(&part).map_err(|e| e.hint(HINT))?;
        Ok(Values { rows, found, nonfinite })
    }
}

/// Takes the floating-point parts out of an expression, the innermost first.
struct Split<'a> {
    context: &'a SessionContext,
    /// Columns, and the parts that were taken out so far.
    fields: Vec<Field>,
    schema: DFSchema,
    steps: Vec<Step>,
    error: Option<Error>,
}

impl Split<'_> {
    fn know(&mut self) -> Result<()> {
        let schema = DFSchema::try_from(Schema::new(self.fields.clone()));
        self.schema = schema.map_err(|e| query_error(&e, "cannot read the columns"))?;
        Ok(())
    }

    /// Makes a part a column.
    fn take_out(&mut self, part: Expr, kind: DataType) -> Result<Expr> {
        let arrow = Arc::new(Schema::new(self.fields.clone()));
        let value = Compiled::new(self.context, part, &arrow)?;
        let mut name = format!("computed.{}", self.steps.len());
        while self.fields.iter().any(|field| *field.name() == name) {
            name.push('.');
        }
        let field = Field::new(&name, kind, true);
        self.fields.push(field.clone());
        self.steps.push(Step { value, field });
        self.know()?;
        Ok(column(&name))
    }
}

impl TreeNodeRewriter for Split<'_> {
    type Node = Expr;

    fn f_down(&mut self, part: Expr) -> Result<Transformed<Expr>, DataFusionError> {
        let Expr::Case(_) = part else { return Ok(Transformed::no(part)) };
        let schema = &self.schema;
        let mut case =
            part.map_children(|child| child.transform_up(|part| guarded(part, schema)))?;
        // Its parts stay where they are.
        case.tnr = TreeNodeRecursion::Jump;
        Ok(case)
    }

    fn f_up(&mut self, part: Expr) -> Result<Transformed<Expr>, DataFusionError> {
        if let Some(zero) = zero(&part) {
            return Ok(Transformed::yes(zero));
        }
        let Some(kind) = made(&part, &self.schema)? else { return Ok(Transformed::no(part)) };
        match self.take_out(part.clone(), kind) {
            Ok(column) => Ok(Transformed::yes(column)),
            Err(error) => {
                self.error = Some(error);
                Ok(Transformed::new(part, false, TreeNodeRecursion::Stop))
            }
        }
    }
}

/// A written zero without its sign.
fn zero(part: &Expr) -> Option<Expr> {
    let literal = match part {
        Expr::Negative(inner) => inner.as_ref(),
        part => part,
    };
    match literal {
        Expr::Literal(ScalarValue::Float64(Some(0.0)), _) => Some(lit(0.0_f64)),
        Expr::Literal(ScalarValue::Float32(Some(0.0)), _) => Some(lit(0.0_f32)),
        _ => None,
    }
}

/// The type of a part that makes a floating-point number.
fn made(part: &Expr, schema: &DFSchema) -> Result<Option<DataType>, DataFusionError> {
    let may = match part {
        Expr::BinaryExpr(binary) => binary.op.is_numerical_operators(),
        // A written number below zero.
        Expr::Negative(inner) => !matches!(**inner, Expr::Literal(..)),
        Expr::Case(_) | Expr::Cast(_) | Expr::TryCast(_) | Expr::ScalarFunction(_) => true,
        _ => false,
    };
    let kind = if may { Some(part.get_type(schema)?) } else { None };
    Ok(kind.filter(DataType::is_floating))
}

/// A part that makes a number, null where that is not finite: for a scan that goes on without the
/// row's fate.
pub(super) fn guarded(part: Expr, schema: &DFSchema) -> Result<Transformed<Expr>, DataFusionError> {
    if let Some(zero) = zero(&part) {
        return Ok(Transformed::yes(zero));
    }
    Ok(match made(&part, schema)? {
        Some(_) => Transformed::yes(ScalarUDF::from(Finite::default()).call(vec![part])),
        None => Transformed::no(part),
    })
}

/// `finite(x)`: `x`, or null where it is NaN or infinite; 0.0 for -0.0.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Finite {
    signature: Signature,
}

impl Default for Finite {
    fn default() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Finite {
    fn name(&self) -> &'static str {
        "finite"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType, DataFusionError> {
        Ok(arguments.first().cloned().unwrap_or(DataType::Float64))
    }

    fn invoke_with_args(
        &self,
        arguments: ScalarFunctionArgs,
    ) -> Result<ColumnarValue, DataFusionError> {
        let values = ColumnarValue::values_to_arrays(&arguments.args)?;
        let first = values.first().map(|column| match column.data_type() {
            DataType::Float16 => finite_or_null::<Float16Type>(column),
            DataType::Float32 => finite_or_null::<Float32Type>(column),
            DataType::Float64 => finite_or_null::<Float64Type>(column),
            _ => Arc::clone(column),
        });
        let none = || DataFusionError::Execution("finite takes a number".to_owned());
        Ok(ColumnarValue::Array(first.ok_or_else(none)?))
    }
}

/// Of floating-point types: NaN and the infinities are the numbers that less themselves are not 0.
fn finite<N: ArrowNativeTypeOp>(x: N) -> bool {
    x.sub_wrapping(x).is_zero()
}

fn positive_zero<N: ArrowNativeTypeOp>(x: N) -> N {
    if x.is_zero() { N::ZERO } else { x }
}

fn finite_or_null<T: ArrowPrimitiveType>(column: &ArrayRef) -> ArrayRef {
    let numbers = column.as_primitive::<T>().iter();
    let numbers = numbers.map(|x| x.filter(|x| finite(*x)).map(positive_zero));
    Arc::new(numbers.collect::<PrimitiveArray<T>>())
}

/// Whether a value is null or finite.
pub(super) fn is_finite(column: &ArrayRef, i: usize) -> bool {
    column.is_null(i)
        || match column.data_type() {
            DataType::Float16 => finite(column.as_primitive::<Float16Type>().value(i)),
            DataType::Float32 => finite(column.as_primitive::<Float32Type>().value(i)),
            DataType::Float64 => finite(column.as_primitive::<Float64Type>().value(i)),
            _ => true,
        }
}

/// A column with 0.0 for each -0.0.
fn without_sign(column: &ArrayRef) -> ArrayRef {
    fn of<T: ArrowPrimitiveType>(column: &ArrayRef) -> ArrayRef {
        Arc::new(column.as_primitive::<T>().unary::<_, T>(positive_zero))
    }
    match column.data_type() {
        DataType::Float16 => of::<Float16Type>(column),
        DataType::Float32 => of::<Float32Type>(column),
        DataType::Float64 => of::<Float64Type>(column),
        _ => Arc::clone(column),
    }
}

/// A batch in which no zero has a sign.
pub(super) fn unsigned(batch: &RecordBatch) -> Result<RecordBatch> {
    if !batch.schema().fields().iter().any(|field| field.data_type().is_floating()) {
        return Ok(batch.clone());
    }
    let columns = batch.columns().iter().map(without_sign).collect();
    with_columns(batch.schema(), columns, batch.num_rows())
}

fn sub_batch(fields: Vec<Field>, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    with_columns(Arc::new(Schema::new(fields)), columns, rows)
}

fn with_columns(schema: SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema, columns, &options).internal("columns do not fit")
}

fn extended(batch: &RecordBatch, field: &Field, column: ArrayRef) -> Result<RecordBatch> {
    let schema = batch.schema();
    let fields = schema.fields().iter().map(|f| f.as_ref().clone());
    let fields = fields.chain(std::iter::once(field.clone())).collect();
    let columns = batch.columns().iter().cloned().chain(std::iter::once(column)).collect();
    sub_batch(fields, columns, batch.num_rows())
}

/// These rows of a batch.
fn taken(batch: &RecordBatch, rows: &[usize]) -> Result<RecordBatch> {
    let places = UInt64Array::from_iter_values(rows.iter().map(|&row| row as u64));
    let columns = batch.columns().iter().map(|column| {
        arrow_select::take::take(column, &places, None).internal("cannot leave rows out")
    });
    with_columns(batch.schema(), columns.collect::<Result<_>>()?, rows.len())
}
