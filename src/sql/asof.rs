//! `ASOF JOIN`: each row of the left table with the nearest row of the right one before or after it.
//!
//! The planner of DataFusion 55 refuses these joins, so that the text is rewritten to a left join with the condition
//! `__asof_match(a.ts >= b.ts)`, which an analyzer rule replaces by the node [`AsOfNode`]. Each left row has exactly one
//! row in the result, with nulls where no right row matches.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, DFSchemaRef, JoinType, TableReference};
use datafusion::error::Result as SqlResult;
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, Extension, Filter, Join, LogicalPlan, Operator, Projection,
    ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, SubqueryAlias, TableScan, UserDefinedLogicalNodeCore,
    Volatility, build_join_schema,
};
use datafusion::optimizer::analyzer::AnalyzerRule;
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

use super::failure::external;
use super::filter::has_subquery;
use crate::error::Error;

/// Function in the condition of a join that stands for its match condition.
pub const MARKER: &str = "__asof_match";
const USAGE: &str = "write ASOF JOIN b MATCH_CONDITION (a.ts >= b.ts) ON a.symbol = b.symbol";

/// The function [`MARKER`].
pub fn marker() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::from(Marker { signature: Signature::any(1, Volatility::Volatile) }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Marker {
    signature: Signature,
}

impl ScalarUDFImpl for Marker {
    fn name(&self) -> &'static str {
        MARKER
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> SqlResult<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> SqlResult<ColumnarValue> {
        Err(refused("a match condition outside of ASOF JOIN"))
    }
}

fn refused(detail: &str) -> datafusion::error::DataFusionError {
    external(Error::invalid(detail).with_hint(USAGE))
}

/// An as-of join.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AsOfNode {
    left: LogicalPlan,
    right: LogicalPlan,
    /// Expressions of both sides that must be equal.
    pub keys: Vec<(Expr, Expr)>,
    /// The times, left and right.
    pub times: (Expr, Expr),
    /// How the left time must compare to the right one: `>=`, `>`, `<=` or `<`.
    pub op: Operator,
    schema: DFSchemaRef,
}

impl AsOfNode {
    fn new(
        left: LogicalPlan,
        right: LogicalPlan,
        keys: Vec<(Expr, Expr)>,
        times: (Expr, Expr),
        op: Operator,
    ) -> SqlResult<Self> {
        let schema = Arc::new(build_join_schema(left.schema(), right.schema(), &JoinType::Left)?);
        Ok(Self { left, right, keys, times, op, schema })
    }
}

/// Nodes of different tables have no order.
impl PartialOrd for AsOfNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.keys.partial_cmp(&other.keys).filter(|order| order.is_ne() || self == other)
    }
}

impl UserDefinedLogicalNodeCore for AsOfNode {
    fn name(&self) -> &'static str {
        "AsOfJoin"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.left, &self.right]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        let keys = self.keys.iter().flat_map(|(left, right)| [left.clone(), right.clone()]);
        keys.chain([self.times.0.clone(), self.times.1.clone()]).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "AsOfJoin: {} {} {}", self.times.0, self.op, self.times.1)?;
        for (left, right) in &self.keys {
            write!(f, ", {left} = {right}")?;
        }
        Ok(())
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> SqlResult<Self> {
        let (Ok([left, right]), keys) = (<[LogicalPlan; 2]>::try_from(inputs), self.keys.len()) else {
            return Err(external(Error::internal("an as-of join of other than two inputs")));
        };
        let mut exprs = exprs.into_iter();
        let mut pair = || Some((exprs.next()?, exprs.next()?));
        let pairs: Option<Vec<(Expr, Expr)>> = (0..=keys).map(|_| pair()).collect();
        let mut pairs = pairs.ok_or_else(|| external(Error::internal("an as-of join without its expressions")))?;
        let times = pairs.pop().ok_or_else(|| external(Error::internal("an as-of join without times")))?;
        Self::new(left, right, pairs, times, self.op)
    }

    /// Rows of the right table that a condition removes would let earlier ones match: [`PushDown`] knows which conditions
    /// may go where.
    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        self.schema.fields().iter().map(|field| field.name().clone()).collect()
    }

    fn necessary_children_exprs(&self, output: &[usize]) -> Option<Vec<Vec<usize>>> {
        let width = self.left.schema().fields().len();
        let (left, right): (Vec<usize>, Vec<usize>) = output.iter().partition(|at| **at < width);
        Some(vec![left, right.into_iter().map(|at| at - width).collect()])
    }
}

/// Whether an expression has columns, all of them of one table.
fn is_of(expr: &Expr, schema: &DFSchema) -> bool {
    let columns = expr.column_refs();
    !columns.is_empty() && columns.iter().all(|column| schema.has_column(column)) && !expr.is_volatile()
}

/// Replaces marked joins by [`AsOfNode`].
#[derive(Debug)]
pub struct FindAsOf;

impl AnalyzerRule for FindAsOf {
    fn name(&self) -> &'static str {
        "find_asof"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> SqlResult<LogicalPlan> {
        let found = plan.transform_up_with_subqueries(|node| match &node {
            LogicalPlan::Join(join) => Ok(match replaced(join)? {
                Some(found) => Transformed::yes(found),
                None => Transformed::no(node),
            }),
            _ => Ok(Transformed::no(node)),
        })?;
        Ok(found.data)
    }
}

fn replaced(join: &Join) -> SqlResult<Option<LogicalPlan>> {
    let Some(filter) = &join.filter else { return Ok(None) };
    let is_marker = |expr: &&Expr| matches!(expr, Expr::ScalarFunction(function) if function.name() == MARKER);
    let (marked, rest): (Vec<&Expr>, Vec<&Expr>) = split_conjunction(filter).into_iter().partition(is_marker);
    let condition = match marked.as_slice() {
        [] => return Ok(None),
        [Expr::ScalarFunction(function)] => function.args.first(),
        _ => None,
    };
    let Some(Expr::BinaryExpr(BinaryExpr { left, op, right })) = condition else {
        return Err(refused("MATCH_CONDITION is one comparison of times"));
    };
    let (of_left, of_right) = (join.left.schema().as_ref(), join.right.schema().as_ref());
    let is_compared = |op: Operator| matches!(op, Operator::GtEq | Operator::Gt | Operator::LtEq | Operator::Lt);
    let (times, op) = match (op.swap(), is_compared(*op)) {
        (_, true) if is_of(left, of_left) && is_of(right, of_right) => ((left.clone(), right.clone()), *op),
        (Some(op), true) if is_of(right, of_left) && is_of(left, of_right) => ((right.clone(), left.clone()), op),
        (_, true) => return Err(refused("MATCH_CONDITION compares a time of each table")),
        (_, false) => return Err(refused("MATCH_CONDITION compares by >=, >, <= or <")),
    };
    let compared = times.0.get_type(of_left)?;
    if !is_time(&compared) {
        return Err(refused(&format!("MATCH_CONDITION compares times or integers, not {compared}")));
    }
    let mut keys = join.on.clone();
    for conjunct in rest {
        let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = conjunct else {
            return Err(refused(&format!("ON of ASOF JOIN has equalities of both tables only, not {conjunct}")));
        };
        keys.push(match () {
            () if is_of(left, of_left) && is_of(right, of_right) => (left.as_ref().clone(), right.as_ref().clone()),
            () if is_of(right, of_left) && is_of(left, of_right) => (right.as_ref().clone(), left.as_ref().clone()),
            () => {
                return Err(refused(&format!("ON of ASOF JOIN has equalities of both tables only, not {conjunct}")));
            }
        });
    }
    let (left, right) = (join.left.as_ref().clone(), join.right.as_ref().clone());
    let node = AsOfNode::new(left, right, keys, (*times.0, *times.1), op)?;
    Ok(Some(LogicalPlan::Extension(Extension { node: Arc::new(node) })))
}

/// Whether a type is compared by its ticks.
fn is_time(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Timestamp(..)
            | DataType::Date32
            | DataType::Date64
            | DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::UInt8
            | DataType::UInt16
            | DataType::UInt32
    )
}

/// Moves conditions on left rows below the join, and applies to right rows what follows for those that can match: the
/// conditions on keys, and the last time of the left rows.
#[derive(Debug)]
pub struct PushDown;

impl OptimizerRule for PushDown {
    fn name(&self) -> &'static str {
        "push_down_asof"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> SqlResult<Transformed<LogicalPlan>> {
        let (conditions, join) = match &plan {
            LogicalPlan::Filter(filter) => match as_of_join(&filter.input) {
                Some(join) => (split_conjunction(&filter.predicate), join),
                None => return Ok(Transformed::no(plan)),
            },
            other => match as_of_join(other) {
                Some(join) => (Vec::new(), join),
                None => return Ok(Transformed::no(plan)),
            },
        };
        let is_pushed = |expr: &&Expr| is_of(expr, join.left.schema()) && !is_correlated(expr);
        let (pushed, kept): (Vec<&Expr>, Vec<&Expr>) = conditions.into_iter().partition(is_pushed);
        let of_left = known_conditions(&join.left);
        let of_right = known_conditions(&join.right);
        let mut implied: Vec<Expr> = Vec::new();
        for condition in of_left.iter().chain(pushed.iter().copied()) {
            let found = on_keys(condition, join).or_else(|| on_time(condition, join));
            if let Some(found) = found.filter(|found| !of_right.contains(found) && !implied.contains(found)) {
                implied.push(found);
            }
        }
        if pushed.is_empty() && implied.is_empty() {
            return Ok(Transformed::no(plan));
        }
        let below = |input: &LogicalPlan, conditions: Vec<Expr>| {
            Ok::<_, datafusion::error::DataFusionError>(match conjunction(conditions) {
                Some(all) => LogicalPlan::Filter(Filter::try_new(all, Arc::new(input.clone()))?),
                None => input.clone(),
            })
        };
        let left = below(&join.left, pushed.into_iter().cloned().collect())?;
        let right = below(&join.right, implied)?;
        let node = AsOfNode::new(left, right, join.keys.clone(), join.times.clone(), join.op)?;
        let joined = LogicalPlan::Extension(Extension { node: Arc::new(node) });
        below(&joined, kept.into_iter().cloned().collect()).map(Transformed::yes)
    }
}

fn as_of_join(plan: &LogicalPlan) -> Option<&AsOfNode> {
    let LogicalPlan::Extension(extension) = plan else { return None };
    extension.node.as_any().downcast_ref()
}

/// Whether an expression depends on another query.
fn is_correlated(expr: &Expr) -> bool {
    has_subquery(expr) || expr.contains_outer()
}

/// A condition on keys of the left rows as one of the right rows that can match them.
fn on_keys(condition: &Expr, join: &AsOfNode) -> Option<Expr> {
    let key = |column: &Column| {
        join.keys
            .iter()
            .find(|(left, _)| matches!(left, Expr::Column(known) if known == column))
            .map(|(_, right)| right)
    };
    let columns = condition.column_refs();
    if columns.is_empty() || !columns.iter().all(|column| key(column).is_some()) || is_correlated(condition) {
        return None;
    }
    with_columns(condition, |column| key(column).cloned())
}

/// The bound of the times of right rows that follows from one of left rows.
fn on_time(condition: &Expr, join: &AsOfNode) -> Option<Expr> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = condition else { return None };
    let (op, value) = match (left.as_ref(), right.as_ref()) {
        (time, value @ Expr::Literal(..)) if *time == join.times.0 => (*op, value),
        (value @ Expr::Literal(..), time) if *time == join.times.0 => (op.swap()?, value),
        _ => return None,
    };
    let is_before = matches!(join.op, Operator::GtEq | Operator::Gt);
    let op = match (op, is_before) {
        (Operator::Lt | Operator::LtEq | Operator::Eq, true) => Operator::LtEq,
        (Operator::Gt | Operator::GtEq | Operator::Eq, false) => Operator::GtEq,
        _ => return None,
    };
    Some(Expr::BinaryExpr(BinaryExpr::new(Box::new(join.times.1.clone()), op, Box::new(value.clone()))))
}

/// An expression with other columns; `None` where one is not known.
fn with_columns(expr: &Expr, to: impl Fn(&Column) -> Option<Expr>) -> Option<Expr> {
    let mut is_complete = true;
    let renamed = expr.clone().transform(|expr| {
        let Expr::Column(column) = &expr else { return Ok(Transformed::no(expr)) };
        Ok(match to(column) {
            Some(other) => Transformed::yes(other),
            None => {
                is_complete = false;
                Transformed::no(expr)
            }
        })
    });
    renamed.ok().filter(|_| is_complete).map(|renamed| renamed.data)
}

/// Conditions that all rows of a plan are known to meet.
fn known_conditions(plan: &LogicalPlan) -> Vec<Expr> {
    match plan {
        LogicalPlan::Filter(Filter { predicate, input, .. }) => {
            let mut found: Vec<Expr> = split_conjunction(predicate).into_iter().cloned().collect();
            found.extend(known_conditions(input));
            found.retain(|condition| !condition.is_volatile() && !is_correlated(condition));
            found
        }
        LogicalPlan::TableScan(TableScan { filters, table_name, .. }) => {
            let named = |column: &Column| Some(Expr::Column(column.clone().with_relation(table_name.clone())));
            filters.iter().flat_map(split_conjunction).filter_map(|filter| with_columns(filter, named)).collect()
        }
        LogicalPlan::SubqueryAlias(SubqueryAlias { input, alias, .. }) => {
            let named = |column: &Column| Some(renamed(column, alias));
            known_conditions(input).iter().filter_map(|condition| with_columns(condition, named)).collect()
        }
        LogicalPlan::Projection(Projection { expr, input, schema, .. }) => {
            let named = |column: &Column| {
                let shown = expr.iter().zip(schema.iter()).find(|(expr, _)| is_column(expr, column));
                shown.map(|(_, (qualifier, field))| Expr::Column(Column::new(qualifier.cloned(), field.name())))
            };
            known_conditions(input).iter().filter_map(|condition| with_columns(condition, named)).collect()
        }
        LogicalPlan::Sort(sort) => known_conditions(&sort.input),
        LogicalPlan::Limit(limit) => known_conditions(&limit.input),
        _ => Vec::new(),
    }
}

fn renamed(column: &Column, alias: &TableReference) -> Expr {
    Expr::Column(Column::new(Some(alias.clone()), column.name.clone()))
}

fn is_column(expr: &Expr, column: &Column) -> bool {
    match expr {
        Expr::Column(known) => known == column,
        Expr::Alias(alias) => is_column(&alias.expr, column),
        _ => false,
    }
}

/// What a text writes instead of an as-of join that SQL cannot say.
pub fn unsupported(what: &str) -> Error {
    Error::invalid(format!("ASOF JOIN with {what} is not supported")).with_hint(USAGE)
}
