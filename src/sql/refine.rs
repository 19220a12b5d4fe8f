//! Conditions that operators above a scan find while they run: the largest value that still matters to a sort with a
//! limit, or the bounds of the keys of the other side of a join.
//!
//! Rows for which they are false do not matter, so that a scan may leave them out or not.

use std::sync::Arc;

use datafusion::common::{Column as LogicalColumn, ScalarValue};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{BinaryExpr as LogicalBinary, Expr, Operator, lit};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, InListExpr, IsNullExpr, Literal};
use datafusion::physical_expr::utils::split_conjunction;
use datafusion::physical_expr_common::physical_expr::{snapshot_generation, snapshot_physical_expr};

use super::filter::{FilterScope, Pushed};
use super::series_table::SeriesTable;
use crate::query::Predicate;

/// Conditions that change while a scan runs.
#[derive(Clone, Debug)]
pub struct Refinement {
    filters: Arc<Vec<Arc<dyn PhysicalExpr>>>,
    generation: u64,
}

/// Conditions as a scan evaluates them.
#[derive(Clone, Debug, PartialEq)]
pub struct RefinedRows {
    /// Closed range of `ts` in the unit of the table.
    pub range: (i64, i64),
    pub predicates: Vec<Predicate>,
}

impl Refinement {
    pub fn new(filters: Arc<Vec<Arc<dyn PhysicalExpr>>>) -> Self {
        Self { filters, generation: 0 }
    }

    /// Whether the conditions are others than at the last call.
    pub fn has_changed(&mut self) -> bool {
        let generation = self.filters.iter().fold(0_u64, |sum, filter| sum.wrapping_add(snapshot_generation(filter)));
        std::mem::replace(&mut self.generation, generation) != generation
    }

    /// The conditions as they are now, as far as the scan can evaluate them.
    pub fn rows(&self, table: &SeriesTable) -> RefinedRows {
        let SeriesTable { keys, unit, columns, .. } = table;
        let scope = FilterScope { keys, unit: *unit, columns, keys_only: false };
        let mut rows = RefinedRows { range: (i64::MIN, i64::MAX), predicates: Vec::new() };
        for filter in self.filters.iter() {
            let Ok(snapshot) = snapshot_physical_expr(Arc::clone(filter)) else { continue };
            for condition in split_conjunction(&snapshot) {
                match as_condition(condition, table).and_then(|condition| scope.classify(&condition)) {
                    Some(Pushed::Range(from, to)) => rows.range = (rows.range.0.max(from), rows.range.1.min(to)),
                    Some(Pushed::Column(predicate)) => rows.predicates.push(predicate),
                    Some(Pushed::Keys(_)) | None => {}
                }
            }
        }
        rows
    }
}

/// A bound of one column.
#[derive(Clone, Debug, PartialEq)]
struct ColumnBound {
    column: String,
    op: Operator,
    value: ScalarValue,
}

/// A condition in the form of those of a statement.
fn as_condition(expr: &Arc<dyn PhysicalExpr>, table: &SeriesTable) -> Option<Expr> {
    let column = |name: &str| Expr::Column(LogicalColumn::new_unqualified(name));
    if let Some(list) = expr.downcast_ref::<InListExpr>() {
        let named = list.expr().downcast_ref::<Column>()?.name().to_owned();
        let values =
            list.list().iter().map(|value| value.downcast_ref::<Literal>().map(|value| lit(value.value().clone())));
        let values = values.collect::<Option<Vec<Expr>>>()?;
        return Some(Expr::InList(InList::new(Box::new(column(&named)), values, list.negated())));
    }
    let ColumnBound { column: name, op, value } = bound(expr, table)?;
    Some(Expr::BinaryExpr(LogicalBinary::new(Box::new(column(&name)), op, Box::new(lit(value)))))
}

/// A bound that follows from a condition.
fn bound(expr: &Arc<dyn PhysicalExpr>, table: &SeriesTable) -> Option<ColumnBound> {
    let binary = expr.downcast_ref::<BinaryExpr>()?;
    let (left, right) = (binary.left(), binary.right());
    match binary.op() {
        Operator::Or => match (is_never(left, table), is_never(right, table)) {
            (true, _) => bound(right, table),
            (_, true) => bound(left, table),
            // Orders of several columns: before a value, or at it and before another value.
            (false, false) => both(bound(left, table)?, bound(right, table)?),
        },
        Operator::And => bound(left, table).or_else(|| bound(right, table)),
        op @ (Operator::Eq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq) => {
            let (named, value) = (left.downcast_ref::<Column>()?, right.downcast_ref::<Literal>()?);
            Some(ColumnBound { column: named.name().to_owned(), op: *op, value: value.value().clone() })
        }
        _ => None,
    }
}

/// The bound of rows that meet one of two.
fn both(one: ColumnBound, other: ColumnBound) -> Option<ColumnBound> {
    use Operator::{Eq, Gt, GtEq, Lt, LtEq};
    if one.column != other.column || one.value != other.value {
        return None;
    }
    let op = match (one.op, other.op) {
        (one, other) if one == other => one,
        (Gt | GtEq | Eq, Gt | GtEq | Eq) => GtEq,
        (Lt | LtEq | Eq, Lt | LtEq | Eq) => LtEq,
        _ => return None,
    };
    Some(ColumnBound { op, ..one })
}

/// Whether a condition is that a column is null which never is.
fn is_never(expr: &Arc<dyn PhysicalExpr>, table: &SeriesTable) -> bool {
    let column = expr.downcast_ref::<IsNullExpr>().and_then(|expr| expr.arg().downcast_ref::<Column>());
    let field = column.and_then(|column| table.schema.field_with_name(column.name()).ok());
    field.is_some_and(|field| !field.is_nullable())
}
