//! The functions that a `where` has beyond DataFusion's, as DataFusion sees them.
//!
//! `quantile`, `top_fraction` and `random` are placeholders that parse and have a type; before the
//! query runs, each call is read and replaced.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, Int64Array};
use arrow_schema::DataType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{ScalarValue, exec_datafusion_err};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature,
    Volatility, create_udf,
};
use datafusion::prelude::{Expr, SessionContext, lit};
use stage::{Error, Result};

use super::quantile::Rank;
use crate::engine::query_error;
use crate::words::count_words;

/// Makes the functions known to a session.
pub(super) fn register(context: &SessionContext) {
    context.register_udf(ScalarUDF::from(PoolFunction::quantile()));
    context.register_udf(ScalarUDF::from(PoolFunction::top_fraction()));
    context.register_udf(ScalarUDF::from(PoolFunction::random()));
    context.register_udf(words());
}

/// `top_fraction(number, fraction)`.
pub(super) fn top_fraction(number: Expr, fraction: f64) -> Expr {
    ScalarUDF::from(PoolFunction::top_fraction()).call(vec![number, lit(fraction)])
}

/// A call whose value depends on more than its row.
pub(super) struct PoolCall {
    pub(super) call: Expr,
    pub(super) what: Call,
}

pub(super) enum Call {
    /// A number to be found.
    Value { number: Expr, rank: Rank, text: String },
    /// A draw.
    Random { share: f64, seed: Option<u64> },
}

/// The calls in an expression of functions that look at the whole pool or draw.
pub(super) fn calls_of_the_pool(expression: &Expr) -> Result<Vec<PoolCall>> {
    let mut calls: Vec<Result<PoolCall>> = Vec::new();
    let seen = expression.apply(|part| {
        let Expr::ScalarFunction(function) = part else { return Ok(TreeNodeRecursion::Continue) };
        if function.func.inner().downcast_ref::<PoolFunction>().is_none() {
            return Ok(TreeNodeRecursion::Continue);
        }
        calls.push(read_call(function).map(|what| PoolCall { call: part.clone(), what }));
        // What a call of the pool contains is refused there.
        Ok(TreeNodeRecursion::Jump)
    });
    seen.map_err(|e| query_error(&e, "cannot read the condition"))?;
    calls.into_iter().collect()
}

fn read_call(call: &ScalarFunction) -> Result<Call> {
    let share = |argument: Option<&Expr>| {
        let share = argument.and_then(literal_number).filter(|share| (0.0..=1.0).contains(share));
        share.ok_or_else(|| {
            let message = "takes a number in 0..=1, written out, as its share";
            Error::recipe(message).at(call.func.name())
        })
    };
    let name = call.func.name();
    match (name, call.args.as_slice()) {
        ("random", [first]) => Ok(Call::Random { share: share(Some(first))?, seed: None }),
        ("random", [first, second]) => {
            let seed = match second {
                Expr::Literal(ScalarValue::Int64(Some(seed)), _) => u64::try_from(*seed).ok(),
                Expr::Literal(ScalarValue::UInt64(seed), _) => *seed,
                _ => None,
            };
            let message = "takes a whole number from 0 on, written out, as its seed";
            let seed = seed.ok_or_else(|| Error::recipe(message).at(name))?;
            Ok(Call::Random { share: share(Some(first))?, seed: Some(seed) })
        }
        ("random", _) => Err(Error::recipe("random takes a share, and perhaps a seed")),
        (_, [number, second]) => {
            if !calls_of_the_pool(number)?.is_empty() {
                let message = "cannot contain another function of the whole pool";
                return Err(Error::recipe(message).at(name));
            }
            let share = share(Some(second))?;
            let rank = if name == "quantile" { Rank::Quantile } else { Rank::TopFraction };
            let what = match number {
                Expr::Column(column) => column.name.clone(),
                other => other.human_display().to_string(),
            };
            let text = format!("{name}({what}, {share})");
            Ok(Call::Value { number: number.clone(), rank: rank(share), text })
        }
        _ => Err(Error::recipe("takes a number and a share").at(name)),
    }
}

fn literal_number(expression: &Expr) -> Option<f64> {
    match expression {
        Expr::Literal(value, _) => scalar_number(value),
        Expr::Negative(inner) => literal_number(inner).map(|value| -value),
        _ => None,
    }
}

/// The number in a value, if it is one.
pub(super) fn scalar_number(value: &ScalarValue) -> Option<f64> {
    match value.cast_to(&DataType::Float64).ok()? {
        ScalarValue::Float64(value) => value,
        _ => None,
    }
}

/// A function that is replaced by its value before the query runs.
#[derive(Debug, PartialEq, Eq, Hash)]
struct PoolFunction {
    name: &'static str,
    signature: Signature,
    /// Of the type of its first argument, or else boolean.
    numeric: bool,
}

impl PoolFunction {
    fn quantile() -> Self {
        Self::new("quantile", true)
    }

    fn top_fraction() -> Self {
        Self::new("top_fraction", true)
    }

    /// Takes the place of SQL's `random()`, whose value nobody could repeat.
    fn random() -> Self {
        Self::new("random", false)
    }

    fn new(name: &'static str, numeric: bool) -> Self {
        // Any arguments, and none, so that the words about them are ours.
        let arguments = vec![TypeSignature::Nullary, TypeSignature::VariadicAny];
        Self { name, signature: Signature::one_of(arguments, Volatility::Immutable), numeric }
    }
}

impl ScalarUDFImpl for PoolFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType, DataFusionError> {
        match arguments.first() {
            Some(kind) if self.numeric => Ok(kind.clone()),
            _ => Ok(DataType::Boolean),
        }
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        Err(exec_datafusion_err!("{} was not replaced by its value", self.name))
    }
}

/// `words(text)`.
fn words() -> ScalarUDF {
    let count = |arguments: &[ColumnarValue]| {
        let texts = ColumnarValue::values_to_arrays(arguments)?;
        let texts = texts.first().and_then(|texts| texts.as_string_opt::<i32>());
        let texts = texts.ok_or_else(|| exec_datafusion_err!("words works on strings"))?;
        let count = |i| texts.is_valid(i).then(|| count_words(texts.value(i)) as i64);
        let counts: Int64Array = (0..texts.len()).map(count).collect();
        Ok(ColumnarValue::Array(Arc::new(counts)))
    };
    let types = vec![DataType::Utf8];
    create_udf("words", types, DataType::Int64, Volatility::Immutable, Arc::new(count))
}
