//! Comparisons of times with constants that are finer than the unit of the column.
//!
//! DataFusion cuts such a constant to the unit of the column: on milliseconds `ts = '2024-02-01T00:00:00.0005Z'` would
//! select the row at 00:00:00.000. These rules run before, and write the comparison with a constant in the unit of the
//! column that selects the same times.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit as ArrowUnit};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result as SqlResult;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Between, BinaryExpr, Cast, Expr, ExprSchemable, LogicalPlan, Operator, lit};
use datafusion::optimizer::analyzer::AnalyzerRule;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

use super::filter::has_subquery;

/// Makes comparisons with texts exact; before the rule of DataFusion that casts them.
#[derive(Debug)]
pub struct ExactTexts;

impl AnalyzerRule for ExactTexts {
    fn name(&self) -> &'static str {
        "exact_texts"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> SqlResult<LogicalPlan> {
        plan.transform_up_with_subqueries(|node| rewritten(node, None)).map(|plan| plan.data)
    }
}

/// Makes comparisons with constants exact; the first rule of the optimizer, which would cut them.
#[derive(Debug)]
pub struct ExactTimes;

impl OptimizerRule for ExactTimes {
    fn name(&self) -> &'static str {
        "exact_times"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> SqlResult<Transformed<LogicalPlan>> {
        rewritten(plan, Some(config))
    }
}

/// Rewrites the expressions of one node: comparisons with texts, or under a configuration of the optimizer those with
/// other constants.
fn rewritten(plan: LogicalPlan, config: Option<&dyn OptimizerConfig>) -> SqlResult<Transformed<LogicalPlan>> {
    let mut schema = merge_schema(&plan.inputs());
    if let LogicalPlan::TableScan(scan) = &plan {
        schema.merge(&DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())?);
    }
    let names = NamePreserver::new(&plan);
    let times = Times { schema: &schema, config };
    plan.map_expressions(|expr| {
        let name = names.save(&expr);
        let rewritten = expr.transform_up(|expr| Ok(times.rewritten(expr)))?;
        Ok(match rewritten.transformed {
            true => rewritten.update_data(|expr| name.restore(expr)),
            false => rewritten,
        })
    })
}

/// What is known of the expressions of a plan.
struct Times<'a> {
    schema: &'a DFSchema,
    /// `None` while types are not coerced.
    config: Option<&'a dyn OptimizerConfig>,
}

/// A constant time beside one of a column.
enum ConstantTime {
    /// In the unit of the column.
    At(ScalarValue),
    /// After this time in the unit of the column, and before the next.
    After(ScalarValue),
}

impl Times<'_> {
    fn rewritten(&self, expr: Expr) -> Transformed<Expr> {
        let found = match &expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if op.supports_propagation() => {
                self.comparison(left, *op, right).or_else(|| op.swap().and_then(|op| self.comparison(right, op, left)))
            }
            Expr::Between(Between { expr, negated, low, high }) => self.between(expr, *negated, low, high),
            Expr::InList(InList { expr, list, negated }) => self.in_list(expr, list, *negated),
            _ => None,
        };
        match found {
            Some(found) => Transformed::yes(found),
            None => Transformed::no(expr),
        }
    }

    fn comparison(&self, column: &Expr, op: Operator, value: &Expr) -> Option<Expr> {
        let column = self.column(column)?;
        let constant = column.constant(value, self)?;
        column.compared(op, &constant)
    }

    fn between(&self, expr: &Expr, negated: bool, low: &Expr, high: &Expr) -> Option<Expr> {
        let (first, last, either) = match negated {
            false => (Operator::GtEq, Operator::LtEq, Operator::And),
            true => (Operator::Lt, Operator::Gt, Operator::Or),
        };
        let found = (self.comparison(expr, first, low), self.comparison(expr, last, high));
        if found == (None, None) {
            return None;
        }
        let as_written = |op, value: &Expr| binary(expr.clone(), op, value.clone());
        let first = found.0.unwrap_or_else(|| as_written(first, low));
        let last = found.1.unwrap_or_else(|| as_written(last, high));
        Some(binary(first, either, last))
    }

    fn in_list(&self, expr: &Expr, list: &[Expr], negated: bool) -> Option<Expr> {
        let column = self.column(expr)?;
        let (mut kept, mut others) = (Vec::new(), Vec::new());
        let mut is_exact = false;
        for value in list {
            match column.constant(value, self) {
                Some(ConstantTime::At(at)) => {
                    is_exact = true;
                    kept.push(lit(at));
                }
                Some(ConstantTime::After(_)) => is_exact = true,
                None => others.push(value.clone()),
            }
        }
        if !is_exact {
            return None;
        }
        let mut parts = Vec::new();
        if !kept.is_empty() {
            parts.push(column.expr.clone().in_list(kept, negated));
        }
        if !others.is_empty() {
            parts.push(expr.clone().in_list(others, negated));
        }
        let joined = if negated { Operator::And } else { Operator::Or };
        // Of a null it is null.
        let op = if negated { Operator::GtEq } else { Operator::Lt };
        parts.into_iter().reduce(|a, b| binary(a, joined, b)).or_else(|| Some(column.with(op, column.first())))
    }

    /// The expression of a time before it was cast to a finer unit.
    fn column(&self, expr: &Expr) -> Option<TimeColumn> {
        let of = |expr: &Expr| match expr.get_type(self.schema).ok()? {
            DataType::Timestamp(unit, zone) => Some(TimeColumn { expr: expr.clone(), unit, zone }),
            _ => None,
        };
        if expr.column_refs().is_empty() {
            return None;
        }
        let outer = of(expr)?;
        if let Expr::Cast(Cast { expr: inner, .. }) = expr
            && let Some(inner) = of(inner)
            && per_second(inner.unit) <= per_second(outer.unit)
            && is_utc(inner.zone.as_deref())
            && is_utc(outer.zone.as_deref())
        {
            return Some(inner);
        }
        Some(outer)
    }

    /// An expression without columns as a value.
    fn folded(&self, expr: &Expr) -> Option<ScalarValue> {
        let config = self.config?;
        if !expr.column_refs().is_empty() || expr.is_volatile() || expr.contains_outer() || has_subquery(expr) {
            return None;
        }
        let context = SimplifyContext::builder()
            .with_config_options(config.options())
            .with_query_execution_start_time(config.query_execution_start_time())
            .build();
        match ExprSimplifier::new(context).simplify(expr.clone()).ok()? {
            Expr::Literal(value, _) if !value.is_null() => Some(value),
            _ => None,
        }
    }
}

fn binary(left: Expr, op: Operator, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
}

/// A time that depends on rows.
struct TimeColumn {
    expr: Expr,
    unit: ArrowUnit,
    zone: Option<Arc<str>>,
}

impl TimeColumn {
    fn with(&self, op: Operator, value: ScalarValue) -> Expr {
        binary(self.expr.clone(), op, lit(value))
    }

    fn value(&self, ticks: i64) -> ScalarValue {
        let zone = self.zone.clone();
        match self.unit {
            ArrowUnit::Second => ScalarValue::TimestampSecond(Some(ticks), zone),
            ArrowUnit::Millisecond => ScalarValue::TimestampMillisecond(Some(ticks), zone),
            ArrowUnit::Microsecond => ScalarValue::TimestampMicrosecond(Some(ticks), zone),
            ArrowUnit::Nanosecond => ScalarValue::TimestampNanosecond(Some(ticks), zone),
        }
    }

    /// The first time of its unit.
    fn first(&self) -> ScalarValue {
        self.value(i64::MIN)
    }

    fn compared(&self, op: Operator, constant: &ConstantTime) -> Option<Expr> {
        let at = match constant {
            ConstantTime::At(at) => return Some(self.with(op, at.clone())),
            ConstantTime::After(at) => at.clone(),
        };
        Some(match op {
            Operator::Gt | Operator::GtEq => self.with(Operator::Gt, at),
            Operator::Lt | Operator::LtEq => self.with(Operator::LtEq, at),
            // Never, and always; of a null it is null.
            Operator::Eq => self.with(Operator::Lt, self.first()),
            Operator::NotEq => self.with(Operator::GtEq, self.first()),
            Operator::IsDistinctFrom => lit(true),
            Operator::IsNotDistinctFrom => lit(false),
            _ => return None,
        })
    }

    /// A constant in the unit of the column; `None` where it is no time.
    fn constant(&self, expr: &Expr, times: &Times) -> Option<ConstantTime> {
        let value = match expr {
            Expr::Literal(
                text @ (ScalarValue::Utf8(Some(_)) | ScalarValue::Utf8View(Some(_)) | ScalarValue::LargeUtf8(Some(_))),
                _,
            ) => text.cast_to(&DataType::Timestamp(ArrowUnit::Nanosecond, self.zone.clone())).ok()?,
            other => times.folded(other)?,
        };
        let (at, of) = match value {
            ScalarValue::TimestampSecond(Some(at), _) => (at, 1),
            ScalarValue::TimestampMillisecond(Some(at), _) => (at, 1_000),
            ScalarValue::TimestampMicrosecond(Some(at), _) => (at, 1_000_000),
            ScalarValue::TimestampNanosecond(Some(at), _) => (at, 1_000_000_000),
            _ => return None,
        };
        let ticks = i128::from(at) * i128::from(per_second(self.unit));
        let floor = self.value(i64::try_from(ticks.div_euclid(of)).ok()?);
        Some(if ticks.rem_euclid(of) == 0 { ConstantTime::At(floor) } else { ConstantTime::After(floor) })
    }
}

fn is_utc(zone: Option<&str>) -> bool {
    matches!(zone, None | Some("UTC" | "Z" | "+00:00"))
}

fn per_second(unit: ArrowUnit) -> i64 {
    match unit {
        ArrowUnit::Second => 1,
        ArrowUnit::Millisecond => 1_000,
        ArrowUnit::Microsecond => 1_000_000,
        ArrowUnit::Nanosecond => 1_000_000_000,
    }
}
