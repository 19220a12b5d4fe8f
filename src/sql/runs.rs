//! Aggregates of groups whose rows are next to each other: each run of rows becomes one row, without a hash table.
//!
//! The rows of a scan ascend by key and time, so that the buckets of each series are such runs.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, Int64Array, PrimitiveArray, UInt32Array, downcast_primitive,
};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{concat, partition, take};
use arrow::datatypes::{ArrowNativeTypeOp, DataType, Decimal128Type, Float64Type, Int64Type, SchemaRef, UInt64Type};
use arrow::record_batch::RecordBatch;
use datafusion::common::Statistics;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result as SqlResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::EmitTo;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::Literal;
use datafusion::physical_expr::{OrderingRequirements, PhysicalExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, InputDistributionRequirements, InputOrderMode,
    PlanProperties, ReplaceChildrenOptions,
};
use futures::StreamExt;

use super::failure::external;
use super::first_last::{End, ValueAt, ValuesAt, time_words};
use crate::error::Error;
use crate::types::cells::range;
use crate::types::width::narrow;

/// Groups are returned in batches of at least this many.
const BATCH_GROUPS: usize = 8_192;

/// Aggregates runs where the input is sorted by all expressions of GROUP BY.
#[derive(Debug)]
pub struct AggregateRuns;

impl PhysicalOptimizerRule for AggregateRuns {
    fn name(&self) -> &'static str {
        "aggregate_runs"
    }

    fn schema_check(&self) -> bool {
        true
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> SqlResult<Arc<dyn ExecutionPlan>> {
        let replaced = plan.transform_up(|node| {
            let Some(aggregate) = node.downcast_ref::<AggregateExec>() else { return Ok(Transformed::no(node)) };
            Ok(match RunAggregateExec::of(aggregate)? {
                Some(runs) => Transformed::yes(Arc::new(runs) as Arc<dyn ExecutionPlan>),
                None => Transformed::no(node),
            })
        })?;
        Ok(replaced.data)
    }
}

/// What is computed of the rows of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RunFunction {
    Count,
    Sum,
    Min,
    Max,
    At(End),
}

impl RunFunction {
    fn of(aggregate: &AggregateFunctionExpr) -> Option<Self> {
        if let Some(value) = aggregate.fun().inner().downcast_ref::<ValueAt>() {
            return (!aggregate.ignore_nulls()).then_some(Self::At(value.end));
        }
        Some(match aggregate.fun().name() {
            "count" => Self::Count,
            "sum" => Self::Sum,
            "min" => Self::Min,
            "max" => Self::Max,
            _ => return None,
        })
    }

    fn arguments(self) -> usize {
        if matches!(self, Self::At(_)) { 2 } else { 1 }
    }

    /// Columns of what is known of a group before all of its rows are.
    fn states(self) -> usize {
        self.arguments()
    }

    /// Aggregates of no group yet; `None` of values of other types.
    fn folded(self, argument: &DataType, result: &DataType) -> Option<Box<dyn RunFold>> {
        macro_rules! of_numbers {
            ($t:ty) => {
                self.of_numbers::<$t>(result)
            };
        }
        match self {
            Self::Count => Some(Box::new(Counts::default())),
            Self::Sum => match argument {
                DataType::Int64 => Some(sums::<Int64Type>(result)),
                DataType::UInt64 => Some(sums::<UInt64Type>(result)),
                DataType::Float64 => Some(sums::<Float64Type>(result)),
                DataType::Decimal128(..) => Some(sums::<Decimal128Type>(result)),
                _ => None,
            },
            Self::Min | Self::Max | Self::At(_) if argument != result => None,
            Self::Min | Self::Max | Self::At(_) => downcast_primitive! {
                argument => (of_numbers),
                _ => None
            },
        }
    }

    fn of_numbers<T: ArrowPrimitiveType>(self, result: &DataType) -> Option<Box<dyn RunFold>> {
        let result = result.clone();
        Some(match self {
            Self::At(end) => Box::new(EndValues { values: ValuesAt::<T>::new(end, result), groups: 0 }),
            Self::Min => Box::new(Fold::<T, _>::new(result, |held: T::Native, value: T::Native| {
                // A comparison with NaN is none.
                if held <= value { held } else { value }
            })),
            _ => Box::new(Fold::<T, _>::new(
                result,
                |held: T::Native, value: T::Native| {
                    if held >= value { held } else { value }
                },
            )),
        })
    }
}

fn sums<T: ArrowPrimitiveType<Native: ArrowNativeTypeOp>>(result: &DataType) -> Box<dyn RunFold> {
    Box::new(Fold::<T, _>::new(result.clone(), |held: T::Native, value: T::Native| held.add_wrapping(value)))
}

/// An aggregate of groups that are numbered in the order of their rows.
trait RunFold: Send {
    /// Adds runs of rows, each a group; the first goes on with the last group where it `continues` that.
    fn add(&mut self, arguments: &[ArrayRef], runs: &[Range<usize>], continues: bool) -> SqlResult<()>;

    /// Removes the first groups: their states, of which the first is the result.
    fn take(&mut self, groups: usize) -> Vec<ArrayRef>;

    /// Whether only rows are counted, and no values are needed.
    fn is_count(&self) -> bool {
        false
    }
}

/// Which groups are removed.
const fn first_of(groups: usize, held: usize) -> EmitTo {
    if groups < held { EmitTo::First(groups) } else { EmitTo::All }
}

#[derive(Default)]
struct Counts {
    rows: Vec<i64>,
}

impl RunFold for Counts {
    fn add(&mut self, arguments: &[ArrayRef], runs: &[Range<usize>], continues: bool) -> SqlResult<()> {
        let nulls = arguments.first().and_then(|values| values.logical_nulls());
        for (position, run) in runs.iter().enumerate() {
            let nulls = nulls.as_ref().map_or(0, |nulls| nulls.slice(run.start, run.len()).null_count());
            let count = i64::try_from(run.len() - nulls).unwrap_or(i64::MAX);
            match self.rows.last_mut().filter(|_| continues && position == 0) {
                Some(rows) => *rows += count,
                None => self.rows.push(count),
            }
        }
        Ok(())
    }

    fn take(&mut self, groups: usize) -> Vec<ArrayRef> {
        vec![Arc::new(Int64Array::from(first_of(groups, self.rows.len()).take_needed(&mut self.rows)))]
    }

    fn is_count(&self) -> bool {
        true
    }
}

/// Values combined one after the other, nulls left out.
struct Fold<T: ArrowPrimitiveType, F> {
    values: Vec<Option<T::Native>>,
    combine: F,
    data_type: DataType,
}

impl<T: ArrowPrimitiveType, F: Fn(T::Native, T::Native) -> T::Native> Fold<T, F> {
    const fn new(data_type: DataType, combine: F) -> Self {
        Self { values: Vec::new(), combine, data_type }
    }
}

impl<T: ArrowPrimitiveType, F: Fn(T::Native, T::Native) -> T::Native + Send> RunFold for Fold<T, F> {
    fn add(&mut self, arguments: &[ArrayRef], runs: &[Range<usize>], continues: bool) -> SqlResult<()> {
        let Some(array) = arguments.first() else { return Ok(()) };
        let array = array.as_primitive::<T>();
        let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
        for (position, run) in runs.iter().enumerate() {
            if !(continues && position == 0) {
                self.values.push(None);
            }
            let Some(held) = self.values.last_mut() else { continue };
            let values = range(array.values(), run.clone()).iter().copied();
            // Doubles are added one after the other, whatever the batches are.
            *held = match nulls {
                None => combined(*held, values, &self.combine),
                Some(nulls) => {
                    let rows = run.clone().zip(values).filter(|(row, _)| nulls.is_valid(*row));
                    combined(*held, rows.map(|(_, value)| value), &self.combine)
                }
            };
        }
        Ok(())
    }

    fn take(&mut self, groups: usize) -> Vec<ArrayRef> {
        let values = first_of(groups, self.values.len()).take_needed(&mut self.values);
        let array: PrimitiveArray<T> = values.into_iter().collect();
        vec![Arc::new(array.with_data_type(self.data_type.clone()))]
    }
}

fn combined<N>(held: Option<N>, mut values: impl Iterator<Item = N>, combine: &impl Fn(N, N) -> N) -> Option<N> {
    let first = held.or_else(|| values.next())?;
    Some(values.fold(first, combine))
}

/// Values of the first or last rows.
struct EndValues<T: ArrowPrimitiveType> {
    values: ValuesAt<T>,
    groups: usize,
}

impl<T: ArrowPrimitiveType> RunFold for EndValues<T> {
    fn add(&mut self, arguments: &[ArrayRef], runs: &[Range<usize>], continues: bool) -> SqlResult<()> {
        let [values, times] = arguments else { return Ok(()) };
        let (values, times) = (values.as_primitive::<T>(), time_words(times)?);
        let continued = usize::from(continues && self.groups > 0);
        let first = self.groups - continued;
        self.groups = first + runs.len();
        self.values.resize(self.groups);
        for (group, run) in (first..).zip(runs) {
            if let Some(row) = self.values.end.row(&times, run.clone()) {
                self.values.consider(group, times.value(row), values.is_valid(row).then(|| values.value(row)));
            }
        }
        Ok(())
    }

    fn take(&mut self, groups: usize) -> Vec<ArrayRef> {
        let (values, times) = self.values.take(first_of(groups, self.groups));
        self.groups -= groups.min(self.groups);
        vec![values, times]
    }
}

/// Aggregates of runs, in place of an operator of DataFusion.
#[derive(Debug)]
pub struct RunAggregateExec {
    /// Decides the schema, the order, and what is required of the input.
    replaced: AggregateExec,
    metrics: ExecutionPlanMetricsSet,
}

impl RunAggregateExec {
    /// `None` of an aggregate that needs a hash table or is none of those here.
    fn of(aggregate: &AggregateExec) -> SqlResult<Option<Self>> {
        let is_first = matches!(
            aggregate.mode(),
            AggregateMode::Partial | AggregateMode::Single | AggregateMode::SinglePartitioned
        );
        let group = aggregate.group_expr();
        let input = aggregate.input().schema();
        if !is_first
            || *aggregate.input_order_mode() != InputOrderMode::Sorted
            || !group.is_single()
            || group.is_empty()
            || aggregate.limit_options().is_some()
            || aggregate.filter_expr().iter().any(Option::is_some)
        {
            return Ok(None);
        }
        for (expr, _) in group.expr() {
            // Equal numbers of different bits are one group there.
            if expr.data_type(&input)?.is_floating() || expr.data_type(&input)?.is_nested() {
                return Ok(None);
            }
        }
        let found = Self { replaced: aggregate.clone(), metrics: ExecutionPlanMetricsSet::new() };
        Ok(found.folds()?.map(|_| found))
    }

    /// Aggregates without rows; `None` where there is one that is not known here.
    fn folds(&self) -> SqlResult<Option<Vec<RunAggregate>>> {
        let input = self.replaced.input().schema();
        let is_partial = *self.replaced.mode() == AggregateMode::Partial;
        let mut found = Vec::new();
        for aggregate in self.replaced.aggr_expr() {
            let arguments = aggregate.expressions();
            let (Some(function), false, true) =
                (RunFunction::of(aggregate), aggregate.is_distinct(), aggregate.order_bys().is_empty())
            else {
                return Ok(None);
            };
            let Some(first) = arguments.first().filter(|_| arguments.len() == function.arguments()) else {
                return Ok(None);
            };
            let (argument, result) = (first.data_type(&input)?, aggregate.field().data_type().clone());
            let states = aggregate.state_fields()?;
            let is_known = !is_partial
                || states.len() == function.states()
                    && states.first().is_some_and(|state| *state.data_type() == result);
            let Some(fold) = function.folded(&argument, &result).filter(|_| is_known) else { return Ok(None) };
            found.push(RunAggregate { arguments, fold, states: if is_partial { states.len() } else { 1 } });
        }
        Ok(Some(found))
    }
}

/// An aggregate of the groups that are held.
struct RunAggregate {
    arguments: Vec<Arc<dyn PhysicalExpr>>,
    fold: Box<dyn RunFold>,
    /// Columns of the result.
    states: usize,
}

impl DisplayAs for RunAggregateExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Run")?;
        self.replaced.fmt_as(format, f)
    }
}

impl ExecutionPlan for RunAggregateExec {
    fn name(&self) -> &'static str {
        "RunAggregateExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.replaced.properties()
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        self.replaced.input_distribution_requirements()
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        self.replaced.required_input_ordering()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.replaced.children()
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> SqlResult<TreeNodeRecursion>,
    ) -> SqlResult<TreeNodeRecursion> {
        self.replaced.apply_expressions(f)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> SqlResult<Arc<dyn ExecutionPlan>> {
        let recomputed = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        let replaced = Arc::new(self.replaced.clone()).replace_children(children, recomputed)?;
        let Some(aggregate) = replaced.downcast_ref::<AggregateExec>() else { return Ok(replaced) };
        Ok(match Self::of(aggregate)? {
            Some(runs) => Arc::new(runs),
            None => replaced,
        })
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> SqlResult<SendableRecordBatchStream> {
        let Some(aggregates) = self.folds()? else {
            return Err(external(Error::internal("an aggregate of runs is unknown")));
        };
        let group = self.replaced.group_expr().input_exprs();
        let runs = Runs {
            input: self.replaced.input().execute(partition, context)?,
            schema: self.replaced.schema(),
            groups: vec![Vec::new(); group.len()],
            group,
            aggregates,
            held: 0,
            last: None,
            ended: false,
            output_rows: MetricBuilder::new(&self.metrics).output_rows(partition),
        };
        let batches = futures::stream::try_unfold(runs, async |mut runs| {
            let batch = runs.next_batch().await?;
            Ok(batch.map(|batch| (batch, runs)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.replaced.schema(), batches.boxed())))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        self.replaced.child_stats_requests(partition)
    }

    fn statistics_from_inputs(
        &self,
        inputs: &[Arc<Statistics>],
        arguments: &StatisticsArgs,
    ) -> SqlResult<Arc<Statistics>> {
        self.replaced.statistics_from_inputs(inputs, arguments)
    }
}

/// The groups of one partition.
struct Runs {
    input: SendableRecordBatchStream,
    schema: SchemaRef,
    group: Vec<Arc<dyn PhysicalExpr>>,
    aggregates: Vec<RunAggregate>,
    /// Values of GROUP BY of the groups that are held, in parts.
    groups: Vec<Vec<ArrayRef>>,
    /// Number of them. Of the last one more rows can follow.
    held: usize,
    /// Values of GROUP BY of the last row.
    last: Option<Vec<ArrayRef>>,
    ended: bool,
    output_rows: Count,
}

impl Runs {
    async fn next_batch(&mut self) -> SqlResult<Option<RecordBatch>> {
        while !self.ended {
            match self.input.next().await.transpose()? {
                Some(batch) if batch.num_rows() > 0 => self.add(&batch)?,
                Some(_) => {}
                None => self.ended = true,
            }
            if self.held > BATCH_GROUPS {
                return self.take(self.held - 1).map(Some);
            }
        }
        if self.held == 0 { Ok(None) } else { self.take(self.held).map(Some) }
    }

    fn add(&mut self, batch: &RecordBatch) -> SqlResult<()> {
        let rows = batch.num_rows();
        let evaluated = |expr: &Arc<dyn PhysicalExpr>| expr.evaluate(batch)?.into_array(rows);
        let keys: Vec<ArrayRef> = self.group.iter().map(evaluated).collect::<SqlResult<_>>()?;
        let runs = partition(&keys)?.ranges();
        let continues = match &self.last {
            Some(last) => is_same(last, &keys)?,
            None => false,
        };
        for aggregate in &mut self.aggregates {
            let is_literal = |expr: &Arc<dyn PhysicalExpr>| {
                expr.downcast_ref::<Literal>().is_some_and(|literal| !literal.value().is_null())
            };
            // The rows of count(*) have no values.
            let arguments = match aggregate.arguments.as_slice() {
                [only] if is_literal(only) && aggregate.fold.is_count() => Vec::new(),
                all => all.iter().map(evaluated).collect::<SqlResult<_>>()?,
            };
            aggregate.fold.add(&arguments, &runs, continues)?;
        }
        let starts = runs.iter().skip(usize::from(continues)).map(|run| narrow::<u32, _>(run.start));
        let starts: UInt32Array = starts.collect::<Vec<u32>>().into();
        if !starts.is_empty() {
            for (parts, key) in self.groups.iter_mut().zip(&keys) {
                parts.push(take(key, &starts, None)?);
            }
            self.held += starts.len();
        }
        self.last = Some(keys.iter().map(|key| key.slice(rows - 1, 1)).collect());
        Ok(())
    }

    /// The first groups.
    fn take(&mut self, groups: usize) -> SqlResult<RecordBatch> {
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        for parts in &mut self.groups {
            let all = concat(&parts.iter().map(AsRef::as_ref).collect::<Vec<_>>())?;
            columns.push(all.slice(0, groups));
            *parts = if groups < all.len() { vec![all.slice(groups, all.len() - groups)] } else { Vec::new() };
        }
        for aggregate in &mut self.aggregates {
            columns.extend(aggregate.fold.take(groups).into_iter().take(aggregate.states));
        }
        self.held -= groups;
        self.output_rows.add(groups);
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

/// Whether the first row of a batch is of the group of a row.
fn is_same(last: &[ArrayRef], keys: &[ArrayRef]) -> SqlResult<bool> {
    for (last, key) in last.iter().zip(keys) {
        if !not_distinct(last, &key.slice(0, 1))?.value(0) {
            return Ok(false);
        }
    }
    Ok(true)
}
