//! What a `where` may say: SQL over the columns of one row, and a few functions of our own.
//!
//! | function | value |
//! | --- | --- |
//! | `quantile(x, q)` | the exact quantile of `x` over the rows that can be selected, see [`Rank::Quantile`] |
//! | `top_fraction(x, f)` | DataComp's threshold for the top share `f`, see [`Rank::TopFraction`] |
//! | `random(share)`, `random(share, seed)` | true for this share of uids, the same in every run |
//! | `words(text)` | number of words as Python's `str.split()` counts them |
//!
//! All else is DataFusion's; what depends on the clock or on chance is refused by name.

use arrow_schema::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ScalarValue, SchemaError, plan_datafusion_err};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{ExprSchemable, Volatility};
use datafusion::prelude::{Expr, SessionContext, cast, lit};
use datafusion::sql::parser::DFParserBuilder;
use stage::{Error, Result, ResultExt, Status};

use super::functions::{self, Call, PoolCall, calls_of_the_pool, scalar_number};
use super::quantile::{self, Rank};
use super::replaced::replaced;
use super::sample;
use super::tally::RowTest;
use crate::engine::{query_error, session};
use crate::scan::Pool;

/// A column by its exact name.
pub(super) fn column(name: &str) -> Expr {
    Expr::Column(Column::new_unqualified(name))
}

/// Checks that a text is one SQL expression, without knowing the columns. The caller says which
/// field it stands in.
pub(super) fn check_grammar(text: &str) -> Result<()> {
    let words = count_tokens(text);
    if words > MAX_TOKENS {
        let message = format!("a condition of {words} words and signs; {MAX_TOKENS} are allowed");
        let hint = "put long lists of values into a column of the pool";
        return Err(Error::recipe(message).hint(hint));
    }
    let parsed = DFParserBuilder::new(text).build().and_then(|mut parser| {
        let expression = parser.parse_into_expr()?;
        match expression.alias {
            Some(alias) => Err(plan_datafusion_err!("`{alias}` is one word too many")),
            None => Ok(()),
        }
    });
    parsed.map_err(|error| {
        let error = error.strip_backtrace();
        let hint = "write one SQL condition, such as clip_score >= 0.28 AND caption_words < 50";
        Error::recipe(format!("`{text}` is no SQL expression: {error}")).hint(hint)
    })
}

/// Most words, numbers and signs of a condition. The planner walks an expression by recursion, a
/// level a term: 20,000 terms overflowed its stack, 3,000 did not.
const MAX_TOKENS: usize = 4000;

/// Words, numbers, texts in quotes and single signs.
fn count_tokens(text: &str) -> usize {
    let (mut count, mut quote, mut in_word) = (0, None, false);
    for c in text.chars() {
        let word = c.is_alphanumeric() || c == '_' || c == '.';
        match quote {
            Some(open) => quote = quote.filter(|_| c != open),
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                count += 1;
            }
            None => count += usize::from(!(c.is_whitespace() || word && in_word)),
        }
        in_word = word && quote.is_none();
    }
    count
}

/// Each quantile as written, and its value where there is one.
pub(super) type Thresholds = Vec<(String, Option<f64>)>;

/// The names of the columns in some expressions, sorted.
pub(super) fn column_names<'e>(expressions: impl IntoIterator<Item = &'e Expr>) -> Vec<String> {
    let mut names: Vec<String> = expressions
        .into_iter()
        .flat_map(|expression| expression.column_refs())
        .map(|column| column.name.clone())
        .collect();
    names.sort();
    names.dedup();
    names
}

/// A condition on the rows of a pool, built up of terms and tests that must all hold.
pub(super) struct Condition<'a> {
    context: SessionContext,
    pool: &'a Pool,
    schema: DFSchema,
    /// Rows that can be selected at all: what `quantile` looks at.
    selectable: Expr,
    terms: Vec<Expr>,
    tests: Vec<Box<dyn RowTest>>,
}

/// A condition with a value for every function of the whole pool.
pub(super) struct Resolved {
    /// True for the rows that the terms select.
    pub(super) condition: Expr,
    /// Looked at after the terms, in this order.
    pub(super) tests: Vec<Box<dyn RowTest>>,
    /// Columns of floating-point numbers that the terms name.
    pub(super) floats: Vec<String>,
    /// How often a selected row is written.
    pub(super) weight: Option<Expr>,
    pub(super) thresholds: Thresholds,
}

impl<'a> Condition<'a> {
    /// No term yet: every row.
    pub(super) fn new(pool: &'a Pool, keep_dropped: bool) -> Result<Self> {
        let context = session();
        functions::register(&context);
        let schema = DFSchema::try_from(pool.schema().as_ref().clone());
        let schema = schema.map_err(|e| query_error(&e, "the pool has a column twice"))?;
        let (terms, tests) = (Vec::new(), Vec::new());
        let mut condition = Self { context, pool, schema, selectable: lit(true), terms, tests };
        if condition.has("status") {
            // A row without a status is one of a pool that has none.
            let success = column("status").eq(lit(Status::Success.as_str()));
            condition.selectable = success.or(column("status").is_null());
        }
        if condition.has("reason") && !keep_dropped {
            condition.selectable = condition.selectable.and(column("reason").is_null());
        }
        Ok(condition)
    }

    /// The session that knows our functions.
    pub(super) fn context(&self) -> &SessionContext {
        &self.context
    }

    /// Adds what a text says.
    pub(super) fn and_text(&mut self, text: &str) -> Result<()> {
        let term = self.parse(text)?;
        let kind = self.kind(&term, text)?;
        if kind != DataType::Boolean {
            let message = format!("`{text}` is of type {kind}, a condition is true or false");
            return Err(Error::recipe(message));
        }
        self.terms.push(term);
        Ok(())
    }

    /// A text as an expression on one row.
    fn parse(&self, text: &str) -> Result<Expr> {
        check_grammar(text)?;
        let term = self.context.parse_sql_expr(text, &self.schema);
        let term = term.map_err(|error| self.explain(&error, text))?;
        let term = term.unalias_nested().data;
        check_kind(&term)?;
        let term = replaced(term, &self.schema).map_err(|error| self.explain(&error, text))?;
        // A column that is text in one file and a number in another is refused where it is asked
        // for.
        self.pool.columns(&column_names([&term]))?;
        calls_of_the_pool(&term)?;
        Ok(term)
    }

    fn kind(&self, term: &Expr, text: &str) -> Result<DataType> {
        term.get_type(&self.schema).map_err(|error| self.explain(&error, text))
    }

    /// Adds a term.
    pub(super) fn and(&mut self, term: Expr) {
        self.terms.push(term);
    }

    /// Adds a test of the rows that satisfy all terms and the tests before it.
    pub(super) fn and_test(&mut self, test: impl RowTest + 'static) {
        self.tests.push(Box::new(test));
    }

    /// The first of these columns that the pool has.
    ///
    /// # Errors
    /// Names them all and what there is.
    pub(super) fn first_column(&self, names: &[&str]) -> Result<String> {
        let found = names.iter().find(|name| self.has(name));
        found.map(|name| (*name).to_owned()).ok_or_else(|| {
            let message = format!("the pool has no column `{}`", names.join("` or `"));
            Error::recipe(format!("{message}; there are {}", self.columns().join(", ")))
        })
    }

    /// The type of a column.
    pub(super) fn type_of(&self, name: &str) -> Result<DataType> {
        let field = self.pool.schema().field_with_name(name);
        Ok(field.internal("no such column")?.data_type().clone())
    }

    /// The whole condition and the weight, with every function of the whole pool replaced by its
    /// value, and these values by the text of their calls.
    pub(super) fn resolve(self, seed: u64, weight: Option<&str>) -> Result<Resolved> {
        let weight = weight.map(|text| self.weight(text).map_err(|e| e.at("weight")));
        let weight = weight.transpose()?;
        let whole = self.terms.iter().cloned().reduce(Expr::and).unwrap_or_else(|| lit(true));
        let mut calls = calls_of_the_pool(&whole)?;
        if let Some(weight) = &weight {
            calls.extend(calls_of_the_pool(weight)?);
        }
        let mut found: Vec<Found> = Vec::new();
        for PoolCall { call, what } in calls {
            if found.iter().any(|known| known.call == call) {
                continue;
            }
            let (value, threshold) = match what {
                Call::Random { share, seed: own } => {
                    let uid = cast(column("uid"), DataType::Utf8);
                    (sample::drawn(share, own.unwrap_or(seed)).call(vec![uid]), None)
                }
                Call::Value { number, rank, text } => {
                    let value = self.value(&number, rank)?;
                    let threshold = (text, scalar_number(&value));
                    (Expr::Literal(value, None), Some(threshold))
                }
            };
            found.push(Found { call, value, threshold });
        }
        let condition = replace(whole, &found)?;
        let weight = weight.map(|weight| replace(weight, &found)).transpose()?;
        let thresholds = found.into_iter().filter_map(|found| found.threshold).collect();
        let mut floats = column_names(std::iter::once(&condition).chain(&weight));
        floats.retain(|name| self.type_of(name).is_ok_and(|kind| kind.is_floating()));
        Ok(Resolved { condition, tests: self.tests, floats, weight, thresholds })
    }

    fn weight(&self, text: &str) -> Result<Expr> {
        let weight = self.parse(text)?;
        let kind = self.kind(&weight, text)?;
        if !kind.is_integer() {
            let message = format!("`{text}` is of type {kind}, a weight is a whole number");
            let hint = "round it, for example CAST(round(x) AS BIGINT)";
            return Err(Error::recipe(message).hint(hint));
        }
        Ok(cast(weight, DataType::Int64))
    }

    fn value(&self, number: &Expr, rank: Rank) -> Result<ScalarValue> {
        let kind = self.kind(number, &number.to_string())?;
        let among = (&self.selectable, number);
        let value = quantile::exact(&self.context, self.pool, among, &kind, rank)?;
        let null = || ScalarValue::try_from(&kind).map_err(|e| query_error(&e, "no such type"));
        value.map_or_else(null, Ok)
    }

    fn has(&self, name: &str) -> bool {
        self.pool.schema().field_with_name(name).is_ok()
    }

    fn columns(&self) -> Vec<&str> {
        self.pool.schema().fields().iter().map(|field| field.name().as_str()).collect()
    }

    /// DataFusion's words for an expression that it cannot plan as ours: which column, which there
    /// are, which was meant.
    fn explain(&self, error: &DataFusionError, text: &str) -> Error {
        let DataFusionError::SchemaError(schema_error, _) = error.find_root() else {
            let message = format!("`{text}` cannot be evaluated: {}", error.strip_backtrace());
            return Error::recipe(message);
        };
        let SchemaError::FieldNotFound { field, .. } = schema_error.as_ref() else {
            return Error::recipe(format!("`{text}` cannot be evaluated: {schema_error}"));
        };
        let columns = self.columns();
        let unknown = &field.name;
        let error =
            Error::recipe(format!("no column `{unknown}`; there are {}", columns.join(", ")));
        let near = columns.iter().map(|name| (strsim::jaro_winkler(unknown, name), name));
        match near.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(likeness, _)| *likeness > 0.8) {
            Some((_, name)) => error.hint(format!("write `{name}` if that is meant")),
            None => error.hint("put text in single quotes, names with odd letters in double ones"),
        }
    }
}

/// Refuses what is not a condition on one row, and what changes from run to run.
fn check_kind(expression: &Expr) -> Result<()> {
    let mut refused = None;
    let seen = expression.apply(|part| {
        refused = match part {
            Expr::Column(_)
            | Expr::Literal(..)
            | Expr::BinaryExpr(_)
            | Expr::Like(_)
            | Expr::SimilarTo(_)
            | Expr::Not(_)
            | Expr::IsNotNull(_)
            | Expr::IsNull(_)
            | Expr::IsTrue(_)
            | Expr::IsFalse(_)
            | Expr::IsUnknown(_)
            | Expr::IsNotTrue(_)
            | Expr::IsNotFalse(_)
            | Expr::IsNotUnknown(_)
            | Expr::Negative(_)
            | Expr::Between(_)
            | Expr::Case(_)
            | Expr::Cast(_)
            | Expr::TryCast(_)
            | Expr::InList(_) => None,
            Expr::ScalarFunction(call)
                if call.func.signature().volatility == Volatility::Immutable =>
            {
                None
            }
            Expr::ScalarFunction(call) => {
                Some(format!("`{}` gives another value in every run", call.func.name()))
            }
            Expr::AggregateFunction(call) => {
                Some(format!("`{}` looks at many rows; use quantile or top_fraction", call.func))
            }
            other => Some(format!("`{other}` is no condition on the columns of one row")),
        };
        Ok(if refused.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    seen.map_err(|e| query_error(&e, "cannot read the condition"))?;
    refused.map_or(Ok(()), |message| Err(Error::recipe(message)))
}

/// A call and what takes its place.
struct Found {
    call: Expr,
    value: Expr,
    threshold: Option<(String, Option<f64>)>,
}

fn replace(whole: Expr, found: &[Found]) -> Result<Expr> {
    let replaced = whole.transform_down(|part| {
        Ok(match found.iter().find(|found| found.call == part) {
            Some(found) => Transformed::new(found.value.clone(), true, TreeNodeRecursion::Jump),
            None => Transformed::no(part),
        })
    });
    Ok(replaced.map_err(|e| query_error(&e, "cannot set the quantiles"))?.data)
}
