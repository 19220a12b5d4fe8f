//! What keeps a statement within its time and memory where the engine of SQL does not look: joins that compare all rows
//! of two tables before they return, and functions whose result is far longer than their arguments.

use std::fmt;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::compute::kernels::length::length;
use arrow::datatypes::{DataType, FieldRef, Int64Type, Schema};
use arrow::record_batch::RecordBatch;
use datafusion::common::JoinType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result as SqlResult;
use datafusion::execution::registry::FunctionRegistry;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::lit;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec};

use super::failure::external;
use crate::cancel::CancelFlag;
use crate::error::{Error, ErrorCode};

/// Operators that can return many batches, or compare many rows, for each batch that they read.
const MULTIPLYING: [&str; 6] = [
    "CrossJoinExec",
    "HashJoinExec",
    "NestedLoopJoinExec",
    "PiecewiseMergeJoinExec",
    "SortMergeJoinExec",
    "UnnestExec",
];
/// Functions that make lists of any length out of numbers, without counting their memory.
const UNBOUNDED: [&str; 4] = ["range", "generate_series", "array_repeat", "array_resize"];
/// Functions that make long texts out of short ones.
const LENGTHENING: [&str; 3] = ["repeat", "lpad", "rpad"];
/// Maximum bytes of the texts that one call of a function makes.
const TEXT_BYTES_MAX: i64 = 64 << 20;

/// Lets joins of one statement yield to others, and end when it is stopped.
#[derive(Debug)]
pub struct WatchJoins {
    pub stop: CancelFlag,
}

impl PhysicalOptimizerRule for WatchJoins {
    fn name(&self) -> &'static str {
        "watch_joins"
    }

    fn schema_check(&self) -> bool {
        true
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> SqlResult<Arc<dyn ExecutionPlan>> {
        let watched = plan.transform_up(|node| {
            if !MULTIPLYING.contains(&node.name()) {
                return Ok(Transformed::no(node));
            }
            let node = match (node.downcast_ref::<NestedLoopJoinExec>(), node.downcast_ref::<HashJoinExec>()) {
                (Some(join), _) => self.nested_loop(join)?.unwrap_or(node),
                (_, Some(join)) => self.hash(join)?.unwrap_or(node),
                _ => node,
            };
            Ok(Transformed::yes(Arc::new(CooperativeExec::new(node)) as Arc<dyn ExecutionPlan>))
        })?;
        Ok(watched.data)
    }
}

impl WatchJoins {
    /// A condition that fails when the statement is stopped: joins evaluate it for each batch of pairs.
    fn watched(&self, filter: &JoinFilter) -> JoinFilter {
        let expr = StoppableExpr { inner: Arc::clone(filter.expression()), stop: self.stop.clone() };
        JoinFilter::new(Arc::new(expr), filter.column_indices().to_vec(), Arc::clone(filter.schema()))
    }

    fn nested_loop(&self, join: &NestedLoopJoinExec) -> SqlResult<Option<Arc<dyn ExecutionPlan>>> {
        let Some(filter) = join.filter() else { return Ok(None) };
        let projection = join.projection().as_ref().map(|columns| columns.to_vec());
        let (left, right) = (Arc::clone(join.left()), Arc::clone(join.right()));
        let filter = Some(self.watched(filter));
        Ok(Some(Arc::new(NestedLoopJoinExec::try_new(left, right, filter, join.join_type(), projection)?)))
    }

    fn hash(&self, join: &HashJoinExec) -> SqlResult<Option<Arc<dyn ExecutionPlan>>> {
        let filter = match join.filter() {
            Some(filter) => self.watched(filter),
            // Joins that return pairs return them soon; others can compare all rows of both sides before they return.
            None if returns_pairs(join.join_type()) || join.null_aware => return Ok(None),
            None => self.watched(&JoinFilter::new(lit(true), Vec::new(), Arc::new(Schema::empty()))),
        };
        Ok(Some(join.builder().with_filter(Some(filter)).build_exec()?))
    }
}

fn returns_pairs(join_type: &JoinType) -> bool {
    matches!(join_type, JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full)
}

/// An expression that fails once its statement is stopped.
#[derive(Clone, Debug)]
struct StoppableExpr {
    inner: Arc<dyn PhysicalExpr>,
    stop: CancelFlag,
}

impl PartialEq for StoppableExpr {
    fn eq(&self, other: &Self) -> bool {
        self.inner.eq(&other.inner)
    }
}

impl Eq for StoppableExpr {}

impl std::hash::Hash for StoppableExpr {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl fmt::Display for StoppableExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl PhysicalExpr for StoppableExpr {
    fn data_type(&self, schema: &Schema) -> SqlResult<DataType> {
        self.inner.data_type(schema)
    }

    fn nullable(&self, schema: &Schema) -> SqlResult<bool> {
        self.inner.nullable(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> SqlResult<ColumnarValue> {
        self.stop.check().map_err(external)?;
        self.inner.evaluate(batch)
    }

    fn return_field(&self, schema: &Schema) -> SqlResult<FieldRef> {
        self.inner.return_field(schema)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.inner]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> SqlResult<Arc<dyn PhysicalExpr>> {
        let inner = children.pop().unwrap_or_else(|| Arc::clone(&self.inner));
        Ok(Arc::new(Self { inner, stop: self.stop.clone() }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_sql(f)
    }
}

/// Takes away functions that use any amount of memory, and limits others.
///
/// # Errors
/// When the engine of SQL does not let go of one.
pub fn limit_functions(state: &mut SessionState) -> SqlResult<()> {
    for name in UNBOUNDED {
        state.deregister_udf(name)?;
    }
    for name in LENGTHENING {
        let inner = state.udf(name)?;
        state.register_udf(Arc::new(ScalarUDF::from(LimitedText { inner })))?;
    }
    Ok(())
}

/// A function of texts whose result is limited.
#[derive(Debug, PartialEq, Eq, Hash)]
struct LimitedText {
    inner: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for LimitedText {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn coerce_types(&self, types: &[DataType]) -> SqlResult<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn return_type(&self, types: &[DataType]) -> SqlResult<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> SqlResult<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> SqlResult<ColumnarValue> {
        if let [text, count, ..] = args.args.as_slice() {
            let is_scalar = |value: &ColumnarValue| matches!(value, ColumnarValue::Scalar(_));
            let rows = if is_scalar(text) && is_scalar(count) { 1 } else { args.number_rows };
            let counts = cast(&count.to_array(rows)?, &DataType::Int64)?;
            let lengths = cast(length(&text.to_array(rows)?)?.as_ref(), &DataType::Int64)?;
            let (counts, lengths) = (counts.as_primitive::<Int64Type>(), lengths.as_primitive::<Int64Type>());
            let is_repeat = self.name() == "repeat";
            let bytes = counts.iter().zip(lengths).fold(0_i64, |sum, (count, length)| {
                let count = count.unwrap_or(0).max(0);
                sum.saturating_add(count.saturating_mul(if is_repeat { length.unwrap_or(0) } else { 1 }))
            });
            if bytes > TEXT_BYTES_MAX {
                let detail = format!("{} would make {bytes} bytes at once, more than {TEXT_BYTES_MAX}", self.name());
                return Err(external(Error::new(ErrorCode::TooLarge, detail)));
            }
        }
        self.inner.invoke_with_args(args)
    }
}
