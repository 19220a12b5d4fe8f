//! Conditions of a statement that the scan evaluates exactly.
//!
//! Each conjunct is either evaluated by the scan alone, or not at all: there is nothing in between.

use arrow::datatypes::{DataType, TimeUnit as ArrowUnit};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{Between, BinaryExpr, Cast, Expr, Operator as SqlOperator};
use serde_json::Value;

use super::columns::{ColumnClass, TableColumn};
use crate::query::{Operator, Predicate};
use crate::types::TimeUnit;

/// Maximum number of values of one condition; the engine of SQL evaluates longer lists.
const VALUES_MAX: usize = 10_000;

/// A condition that the scan evaluates.
#[derive(Clone, Debug)]
pub enum Pushed {
    /// On key columns only: evaluated once for each series.
    Keys(Expr),
    /// On `ts`: the closed range in the unit of the table, empty where the first is after the last.
    Range(i64, i64),
    /// On a column that is no key.
    Column(Predicate),
}

/// What is known of a table when its conditions are classified.
#[derive(Clone, Copy, Debug)]
pub struct FilterScope<'a> {
    pub keys: &'a [String],
    pub unit: TimeUnit,
    pub columns: &'a [TableColumn],
    /// Whether only conditions on keys can be evaluated.
    pub keys_only: bool,
}

impl FilterScope<'_> {
    /// The condition as the scan evaluates it; `None` where it does not.
    pub fn classify(&self, expr: &Expr) -> Option<Pushed> {
        if self.is_of_keys(expr) {
            return Some(Pushed::Keys(expr.clone()));
        }
        if self.keys_only {
            return None;
        }
        match expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => match (literal(left), literal(right)) {
                (None, Some(value)) => self.compare(left, *op, value),
                (Some(value), None) => self.compare(right, op.swap()?, value),
                _ => None,
            },
            Expr::Between(Between { expr, negated: false, low, high }) => {
                let (low, high) = (literal(low)?, literal(high)?);
                match (self.compare(expr, SqlOperator::GtEq, low)?, self.compare(expr, SqlOperator::LtEq, high)?) {
                    (Pushed::Range(from, _), Pushed::Range(_, to)) => Some(Pushed::Range(from, to)),
                    (Pushed::Column(low), Pushed::Column(high)) => {
                        let value = Value::Array(vec![low.value, high.value]);
                        Some(Pushed::Column(Predicate { op: Operator::Between, value, ..low }))
                    }
                    _ => None,
                }
            }
            Expr::InList(InList { expr, list, negated }) if !list.is_empty() && list.len() <= VALUES_MAX => {
                let column = self.column(expr)?;
                let values = list.iter().map(|value| column.text(literal(value)?)).collect::<Option<Vec<_>>>()?;
                let op = if *negated { Operator::NotIn } else { Operator::In };
                Some(column.predicate(op, Value::Array(values.into_iter().map(Value::String).collect())))
            }
            Expr::IsNull(inner) => Some(self.named(inner)?.predicate(Operator::IsNull, Value::Null)),
            Expr::IsNotNull(inner) => Some(self.named(inner)?.predicate(Operator::IsNotNull, Value::Null)),
            _ => None,
        }
    }

    /// Whether an expression depends on key columns alone.
    fn is_of_keys(&self, expr: &Expr) -> bool {
        let columns = expr.column_refs();
        let is_key = |name: &str| self.keys.iter().any(|key| key == name);
        !columns.is_empty()
            && columns.iter().all(|column| is_key(&column.name))
            && !expr.is_volatile()
            && !expr.contains_outer()
            && !has_subquery(expr)
    }

    fn compare(&self, expr: &Expr, op: SqlOperator, value: &ScalarValue) -> Option<Pushed> {
        if let Some((from, to)) = self.range(expr, op, value) {
            return Some(Pushed::Range(from, to));
        }
        let op = match op {
            SqlOperator::Eq => Operator::Eq,
            SqlOperator::NotEq => Operator::Ne,
            SqlOperator::Gt => Operator::Gt,
            SqlOperator::GtEq => Operator::Gte,
            SqlOperator::Lt => Operator::Lt,
            SqlOperator::LtEq => Operator::Lte,
            _ => return None,
        };
        let column = self.column(expr)?;
        if column.column.class == ColumnClass::Label && !matches!(op, Operator::Eq | Operator::Ne) {
            return None;
        }
        Some(column.predicate(op, Value::String(column.text(value)?)))
    }

    /// The range of `ts` that a comparison selects.
    fn range(&self, expr: &Expr, op: SqlOperator, value: &ScalarValue) -> Option<(i64, i64)> {
        let inner = match expr {
            // A cast to a finer unit changes no time.
            Expr::Cast(Cast { expr, field }) => {
                let DataType::Timestamp(unit, Some(_)) = field.data_type() else { return None };
                if per_second(*unit) < self.unit.per_second() {
                    return None;
                }
                expr
            }
            other => other,
        };
        if !matches!(inner, Expr::Column(column) if column.name == "ts") {
            return None;
        }
        let (at, per_second) = match value {
            ScalarValue::TimestampSecond(Some(at), Some(_)) => (*at, 1),
            ScalarValue::TimestampMillisecond(Some(at), Some(_)) => (*at, 1_000),
            ScalarValue::TimestampMicrosecond(Some(at), Some(_)) => (*at, 1_000_000),
            ScalarValue::TimestampNanosecond(Some(at), Some(_)) => (*at, 1_000_000_000),
            _ => return None,
        };
        // The ticks of the table before or at the time, and at or after it.
        let ticks = i128::from(at) * i128::from(self.unit.per_second());
        let (floor, rest) = (ticks.div_euclid(per_second), ticks.rem_euclid(per_second));
        let ceil = floor + i128::from(rest > 0);
        let clamped = |tick: i128| i64::try_from(tick.clamp(i64::MIN.into(), i64::MAX.into())).ok();
        let (from, to) = match op {
            SqlOperator::Eq => (ceil, floor),
            SqlOperator::Gt => (floor + 1, i64::MAX.into()),
            SqlOperator::GtEq => (ceil, i64::MAX.into()),
            SqlOperator::Lt => (i64::MIN.into(), ceil - 1),
            SqlOperator::LtEq => (i64::MIN.into(), floor),
            _ => return None,
        };
        Some((clamped(from)?, clamped(to)?))
    }

    /// The column of an expression that has exactly its values.
    fn column<'a>(&'a self, expr: &Expr) -> Option<PushedColumn<'a>> {
        let (inner, cast_to) = match expr {
            Expr::Cast(Cast { expr, field }) => (expr.as_ref(), Some(field.data_type())),
            other => (other, None),
        };
        let found = self.named(inner)?;
        let is_exact = match (cast_to, found.column.class) {
            (None, class) => class != ColumnClass::Other,
            (Some(to), ColumnClass::Exact) => is_widening(&found.column.data_type, to),
            (Some(DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View), ColumnClass::Label) => true,
            _ => false,
        };
        is_exact.then_some(found)
    }

    fn named<'a>(&'a self, expr: &Expr) -> Option<PushedColumn<'a>> {
        let Expr::Column(column) = expr else { return None };
        let column = self.columns.iter().find(|known| known.name == column.name)?;
        Some(PushedColumn { column })
    }
}

/// A column on which a condition is.
#[derive(Clone, Copy)]
struct PushedColumn<'a> {
    column: &'a TableColumn,
}

impl PushedColumn<'_> {
    fn predicate(self, op: Operator, value: Value) -> Pushed {
        Pushed::Column(Predicate { column: Some(self.column.name.clone()), op, value })
    }

    /// A literal as the text of a predicate, without loss.
    fn text(self, value: &ScalarValue) -> Option<String> {
        match (self.column.class, value) {
            (ColumnClass::Exact, value) => exact_text(value),
            // Zeros of both signs are one number to a predicate, and two to a comparison in SQL.
            (ColumnClass::Double, ScalarValue::Float64(Some(value))) if value.is_finite() && *value != 0.0 => {
                Some(format!("{value:e}"))
            }
            (
                ColumnClass::Label,
                ScalarValue::Utf8(Some(text)) | ScalarValue::Utf8View(Some(text)) | ScalarValue::LargeUtf8(Some(text)),
            ) => Some(text.clone()),
            _ => None,
        }
    }
}

/// An integer or decimal as text.
fn exact_text(value: &ScalarValue) -> Option<String> {
    Some(match value {
        ScalarValue::Int8(Some(value)) => value.to_string(),
        ScalarValue::Int16(Some(value)) => value.to_string(),
        ScalarValue::Int32(Some(value)) => value.to_string(),
        ScalarValue::Int64(Some(value)) => value.to_string(),
        ScalarValue::UInt8(Some(value)) => value.to_string(),
        ScalarValue::UInt16(Some(value)) => value.to_string(),
        ScalarValue::UInt32(Some(value)) => value.to_string(),
        ScalarValue::UInt64(Some(value)) => value.to_string(),
        ScalarValue::Decimal32(Some(value), _, scale) => format!("{value}e{}", -i32::from(*scale)),
        ScalarValue::Decimal64(Some(value), _, scale) => format!("{value}e{}", -i32::from(*scale)),
        ScalarValue::Decimal128(Some(value), _, scale) => format!("{value}e{}", -i32::from(*scale)),
        _ => return None,
    })
}

/// Whether a cast of an exact number changes no value.
fn is_widening(from: &DataType, to: &DataType) -> bool {
    let places = |data_type: &DataType| -> Option<(i16, i16)> {
        Some(match data_type {
            DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
                (i16::from(*precision) - i16::from(*scale), i16::from(*scale))
            }
            DataType::Int8 | DataType::UInt8 => (3, 0),
            DataType::Int16 | DataType::UInt16 => (5, 0),
            DataType::Int32 | DataType::UInt32 => (10, 0),
            DataType::Int64 => (19, 0),
            DataType::UInt64 => (20, 0),
            _ => return None,
        })
    };
    match (from, to) {
        // A wider integer may be of the other sign.
        (_, DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64) => from == to,
        (DataType::UInt64, DataType::Int64) => false,
        _ => match (places(from), places(to)) {
            (Some((whole, scale)), Some((to_whole, to_scale))) => whole <= to_whole && scale <= to_scale,
            _ => false,
        },
    }
}

fn per_second(unit: ArrowUnit) -> i64 {
    match unit {
        ArrowUnit::Second => 1,
        ArrowUnit::Millisecond => 1_000,
        ArrowUnit::Microsecond => 1_000_000,
        ArrowUnit::Nanosecond => 1_000_000_000,
    }
}

fn literal(expr: &Expr) -> Option<&ScalarValue> {
    match expr {
        Expr::Literal(value, _) if !value.is_null() => Some(value),
        _ => None,
    }
}

/// Whether an expression has a query inside.
pub fn has_subquery(expr: &Expr) -> bool {
    use datafusion::common::tree_node::TreeNode;
    let is_subquery = |expr: &Expr| Ok(matches!(expr, Expr::Exists(_) | Expr::InSubquery(_) | Expr::ScalarSubquery(_)));
    expr.exists(is_subquery).unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::prelude::{col, lit};

    fn classify(expr: &Expr) -> String {
        let column = |name: &str, data_type, class| TableColumn { name: name.into(), data_type, class, nullable: true };
        let columns = [
            column("close", DataType::Decimal128(18, 2), ColumnClass::Exact),
            column("value", DataType::Float64, ColumnClass::Double),
            column("count", DataType::Int32, ColumnClass::Exact),
            column("venue", DataType::Utf8View, ColumnClass::Label),
        ];
        let keys = ["symbol".to_owned()];
        let scope = FilterScope { keys: &keys, unit: TimeUnit::Ms, columns: &columns, keys_only: false };
        match scope.classify(expr) {
            None => "not".into(),
            Some(Pushed::Keys(_)) => "keys".into(),
            Some(Pushed::Range(from, to)) => {
                format!("{from}..={to}").replace(&i64::MIN.to_string(), "").replace(&i64::MAX.to_string(), "")
            }
            Some(Pushed::Column(predicate)) => predicate.to_text(),
        }
    }

    fn at(value: i64, nanos: bool) -> Expr {
        let zone = Some("UTC".into());
        lit(match nanos {
            true => ScalarValue::TimestampNanosecond(Some(value), zone),
            false => ScalarValue::TimestampMillisecond(Some(value), zone),
        })
    }

    fn decimal(value: i128, precision: u8, scale: i8) -> Expr {
        lit(ScalarValue::Decimal128(Some(value), precision, scale))
    }

    fn cast(name: &str, to: DataType) -> Expr {
        Expr::Cast(Cast::new(Box::new(col(name)), to))
    }

    #[test]
    fn conditions_are_those_of_the_scan_or_not_at_all() {
        let ns = || cast("ts", DataType::Timestamp(ArrowUnit::Nanosecond, Some("UTC".into())));
        for (expr, pushed) in [
            (col("symbol").like(lit("B%")).or(col("symbol").eq(lit("A"))), "keys"),
            (col("symbol").eq(col("venue")), "not"),
            (col("ts").gt(at(5, false)), "6..="),
            (col("ts").lt_eq(at(5, false)), "..=5"),
            (at(5, false).lt(col("ts")), "6..="),
            (col("ts").between(at(5, false), at(7, false)), "5..=7"),
            // Half a millisecond after 5, and before it.
            (ns().gt_eq(at(5_500_000, true)), "6..="),
            (ns().gt(at(5_500_000, true)), "6..="),
            (ns().lt(at(5_500_000, true)), "..=5"),
            (ns().lt_eq(at(-5_500_000, true)), "..=-6"),
            (ns().eq(at(5_500_000, true)), "6..=5"),
            (ns().eq(at(5_000_000, true)), "5..=5"),
            (cast("ts", DataType::Date32).eq(at(5, false)), "not"),
            (col("close").gt(decimal(10_050, 18, 2)), "close:gt:10050e-2"),
            (cast("close", DataType::Decimal128(19, 3)).gt(decimal(99_995, 19, 3)), "close:gt:99995e-3"),
            (cast("close", DataType::Decimal128(18, 1)).gt(decimal(9, 18, 1)), "not"),
            (cast("close", DataType::Int64).gt(lit(5_i64)), "not"),
            (cast("close", DataType::Float64).gt(lit(5.0)), "not"),
            (cast("count", DataType::Decimal128(12, 2)).lt(decimal(150, 12, 2)), "count:lt:150e-2"),
            (cast("count", DataType::UInt64).lt(lit(5_u64)), "not"),
            (col("value").gt_eq(lit(70.25)), "value:gte:7.025e1"),
            (col("value").eq(lit(0.0)), "not"),
            (col("value").eq(lit(f64::NAN)), "not"),
            (col("venue").not_eq(lit("a,b")), "venue:ne:\"a,b\""),
            (col("venue").gt(lit("a")), "not"),
            (col("venue").is_null(), "venue:is_null"),
            (col("close").in_list(vec![decimal(1, 3, 1), decimal(2, 3, 1)], true), "close:not_in:1e-1,2e-1"),
            (col("close").eq(lit(ScalarValue::Decimal128(None, 18, 2))), "not"),
            (col("close").gt(col("close")), "not"),
        ] {
            assert_eq!(classify(&expr), pushed, "{expr}");
        }
    }
}
