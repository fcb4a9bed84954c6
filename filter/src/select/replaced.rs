//! SQL functions that DataFusion has by name only: its optimizer puts a `CASE` or a cast in their
//! place. The whole optimizer is not run here, since it also computes what [`super::formula`] decides
//! row by row (`x / x`, NaN, zeros); these calls alone are replaced.

use std::sync::Arc;

use datafusion::common::DFSchema;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::ExprSchemable;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::prelude::{Expr, cast};

/// With a `CASE` or a cast for each call that can only be evaluated as one.
pub(super) fn replaced(expression: Expr, schema: &DFSchema) -> Result<Expr, DataFusionError> {
    let info = SimplifyContext::builder().with_schema(Arc::new(schema.clone())).build();
    let whole = expression.transform_up(|part| {
        // Arguments of the first kind are branches of a `CASE`, of the type of the call.
        let branches = match &part {
            Expr::ScalarFunction(call) => match call.func.name() {
                "coalesce" | "nvl" => 0..call.args.len(),
                "nvl2" => 1..call.args.len(),
                "arrow_cast" | "arrow_try_cast" | "cast_to_type" | "try_cast_to_type" => 0..0,
                _ => return Ok(Transformed::no(part)),
            },
            _ => return Ok(Transformed::no(part)),
        };
        let kind = part.get_type(schema)?;
        let Expr::ScalarFunction(mut call) = part else { return Ok(Transformed::no(part)) };
        for argument in call.args.iter_mut().take(branches.end).skip(branches.start) {
            if argument.get_type(schema)? != kind {
                *argument = match std::mem::take(argument) {
                    Expr::Literal(value, metadata) => {
                        Expr::Literal(value.cast_to(&kind)?, metadata)
                    }
                    other => cast(other, kind.clone()),
                };
            }
        }
        let func = Arc::clone(&call.func);
        Ok(match func.simplify(call.args, &info)? {
            ExprSimplifyResult::Simplified(value) => Transformed::yes(value),
            ExprSimplifyResult::Original(args) => Transformed::yes(func.call(args)),
        })
    });
    Ok(whole?.data)
}
