//! Doubles next to decimals: the decimal becomes a double.
//!
//! DataFusion turns the double into a decimal of 15 digits after the point, which cuts it and cannot hold a large one.
//! This rule runs before, so that a condition on a column of doubles also stays one on the column.

use arrow::datatypes::{DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, DecimalType};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result as SqlResult;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Between, BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, cast, lit};
use datafusion::optimizer::analyzer::AnalyzerRule;

/// Makes doubles of decimals next to doubles.
#[derive(Debug)]
pub struct DoublesNextToDecimals;

impl AnalyzerRule for DoublesNextToDecimals {
    fn name(&self) -> &'static str {
        "doubles_next_to_decimals"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> SqlResult<LogicalPlan> {
        plan.transform_up_with_subqueries(rewritten).map(|plan| plan.data)
    }
}

fn rewritten(plan: LogicalPlan) -> SqlResult<Transformed<LogicalPlan>> {
    let mut schema = merge_schema(&plan.inputs());
    if let LogicalPlan::TableScan(scan) = &plan {
        schema.merge(&DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())?);
    }
    let names = NamePreserver::new(&plan);
    plan.map_expressions(|expr| {
        let name = names.save(&expr);
        let rewritten = expr.transform_up(|expr| Ok(in_doubles(expr, &schema)))?;
        Ok(match rewritten.transformed {
            true => rewritten.update_data(|expr| name.restore(expr)),
            false => rewritten,
        })
    })
}

fn in_doubles(expr: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let is_double = |expr: &Expr| expr.get_type(schema).is_ok_and(|found| found.is_floating());
    let is_decimal = |expr: &Expr| expr.get_type(schema).is_ok_and(|found| found.is_decimal());
    let converted = |one: Box<Expr>| if is_decimal(&one) { Box::new(double(*one)) } else { one };
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right })
            if has_numbers(op)
                && (is_double(&left) && is_decimal(&right) || is_decimal(&left) && is_double(&right)) =>
        {
            Transformed::yes(Expr::BinaryExpr(BinaryExpr { left: converted(left), op, right: converted(right) }))
        }
        Expr::Between(Between { expr, negated, low, high })
            if is_double(&expr) && (is_decimal(&low) || is_decimal(&high)) =>
        {
            Transformed::yes(Expr::Between(Between { expr, negated, low: converted(low), high: converted(high) }))
        }
        Expr::InList(InList { expr, list, negated }) if is_double(&expr) && list.iter().any(is_decimal) => {
            let list = list.into_iter().map(|one| *converted(Box::new(one))).collect();
            Transformed::yes(Expr::InList(InList { expr, list, negated }))
        }
        other => Transformed::no(other),
    }
}

fn has_numbers(op: Operator) -> bool {
    op.supports_propagation()
        || matches!(
            op,
            Operator::Plus
                | Operator::Minus
                | Operator::Multiply
                | Operator::Divide
                | Operator::Modulo
                | Operator::NotEq
                | Operator::IsDistinctFrom
                | Operator::IsNotDistinctFrom
        )
}

/// A decimal as a double: the nearest one of a constant.
fn double(decimal: Expr) -> Expr {
    let text = match &decimal {
        Expr::Literal(ScalarValue::Decimal32(Some(value), precision, scale), _) => {
            Decimal32Type::format_decimal(*value, *precision, *scale)
        }
        Expr::Literal(ScalarValue::Decimal64(Some(value), precision, scale), _) => {
            Decimal64Type::format_decimal(*value, *precision, *scale)
        }
        Expr::Literal(ScalarValue::Decimal128(Some(value), precision, scale), _) => {
            Decimal128Type::format_decimal(*value, *precision, *scale)
        }
        Expr::Literal(ScalarValue::Decimal256(Some(value), precision, scale), _) => {
            Decimal256Type::format_decimal(*value, *precision, *scale)
        }
        _ => return cast(decimal, DataType::Float64),
    };
    match text.parse::<f64>() {
        Ok(nearest) => lit(nearest),
        Err(_) => cast(decimal, DataType::Float64),
    }
}
