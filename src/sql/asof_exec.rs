//! The operator of as-of joins: both sides stream in the order of their keys and times, and one right row is held.
//!
//! The decimals of the right side are read as they are stored; those of matches become the ones of the result.
//! Each batch of the left side becomes one of the result. Of the right side the batches since the last match are kept, at
//! most [`HELD_BATCHES_MAX`] of them: matches in earlier ones are gathered before.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatchOptions, new_null_array};
use arrow::compute::{CastOptions, SortOptions, cast, cast_with_options, concat, interleave};
use arrow::datatypes::{DataType, Int64Type, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::row::{OwnedRow, RowConverter, SortField};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{ColumnStatistics, Statistics};
use datafusion::error::Result as SqlResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{CastExpr, Column};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{
    EquivalenceProperties, LexOrdering, OrderingRequirements, Partitioning, PhysicalExpr, PhysicalSortExpr,
};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::buffer::BufferExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, ExecutionPlanProperties,
    InputDistributionRequirements, PlanProperties, ReplaceChildrenOptions, apply_expression_roots,
};
use futures::StreamExt;

use super::consecutive::ConsecutiveExec;
use super::failure::external;
use super::scan::SeriesScan;
use crate::error::Error;
use crate::types::cells::column;

/// Maximum number of right batches that are held for one left batch.
const HELD_BATCHES_MAX: usize = 8;

/// Expressions of the left and the right side.
type Sides = (Arc<dyn PhysicalExpr>, Arc<dyn PhysicalExpr>);

/// What is compared.
#[derive(Clone, Debug)]
pub struct AsOfCondition {
    /// Must be equal.
    pub keys: Vec<Sides>,
    pub times: Sides,
    /// How the left time must compare to the right one.
    pub op: Operator,
}

impl AsOfCondition {
    /// Whether the match is before the left time.
    fn is_before(&self) -> bool {
        matches!(self.op, Operator::GtEq | Operator::Gt)
    }

    /// Whether equal times match.
    fn takes_equal(&self) -> bool {
        matches!(self.op, Operator::GtEq | Operator::LtEq)
    }

    /// The order of a side: keys ascend, times in the direction of the match.
    fn ordering(&self, is_left: bool, schema: &Schema) -> Option<LexOrdering> {
        let side = |sides: &Sides| Arc::clone(if is_left { &sides.0 } else { &sides.1 });
        let ascending = SortOptions { descending: false, nulls_first: false };
        let keys = self.keys.iter().map(|keys| PhysicalSortExpr { expr: side(keys), options: ascending });
        let direction = SortOptions { descending: !self.is_before(), nulls_first: !self.is_before() };
        let time = PhysicalSortExpr { expr: uncast(side(&self.times), schema), options: direction };
        LexOrdering::new(keys.chain([time]))
    }
}

/// A time before it was cast to another unit, which does not change the order.
fn uncast(expr: Arc<dyn PhysicalExpr>, schema: &Schema) -> Arc<dyn PhysicalExpr> {
    let Some(cast) = expr.downcast_ref::<CastExpr>() else { return expr };
    match (cast.expr().data_type(schema), cast.cast_type()) {
        (Ok(DataType::Timestamp(_, from)), DataType::Timestamp(_, to)) if from == *to => Arc::clone(cast.expr()),
        _ => expr,
    }
}

/// Joins each left row with the nearest right row before or after it.
#[derive(Debug)]
pub struct AsOfExec {
    left: Arc<dyn ExecutionPlan>,
    right: Arc<dyn ExecutionPlan>,
    condition: AsOfCondition,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl AsOfExec {
    /// A join with these columns: those of the left side, then those of the right.
    ///
    /// # Errors
    /// When the properties of the left side cannot be taken over.
    pub fn new(
        left: Arc<dyn ExecutionPlan>,
        right: Arc<dyn ExecutionPlan>,
        condition: AsOfCondition,
        schema: SchemaRef,
    ) -> SqlResult<Self> {
        let of_left = left.equivalence_properties();
        let orderings = of_left.oeq_class().iter().cloned();
        // The left columns are the first of the result, in their order.
        let mut equivalence = EquivalenceProperties::new_with_orderings(Arc::clone(&schema), orderings);
        equivalence.add_constants(of_left.constants())?;
        let partitioning = match are_alike(&left, &right, &condition) {
            true => left.output_partitioning().clone(),
            false => Partitioning::UnknownPartitioning(1),
        };
        let properties =
            PlanProperties::new(equivalence, partitioning, EmissionType::Incremental, Boundedness::Bounded);
        let properties = Arc::new(properties);
        Ok(Self { left, right, condition, schema, properties, metrics: ExecutionPlanMetricsSet::new() })
    }

    /// The same join, which has not run.
    fn renewed(&self) -> Self {
        Self {
            left: Arc::clone(&self.left),
            right: Arc::clone(&self.right),
            condition: self.condition.clone(),
            schema: Arc::clone(&self.schema),
            properties: Arc::clone(&self.properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }
}

/// Reads the decimals of right sides as they are stored: most of them match nothing.
#[derive(Debug)]
pub struct ReadStoredDecimals;

impl PhysicalOptimizerRule for ReadStoredDecimals {
    fn name(&self) -> &'static str {
        "read_stored_decimals"
    }

    fn schema_check(&self) -> bool {
        true
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> SqlResult<Arc<dyn ExecutionPlan>> {
        let replaced = plan.transform_up(|node| {
            let Some(join) = node.downcast_ref::<AsOfExec>() else { return Ok(Transformed::no(node)) };
            let columns = join.right.schema();
            let is_decimal = |column: &Column| columns.field(column.index()).data_type().is_decimal();
            // What is compared keeps its type.
            let compared = join.condition.keys.iter().chain([&join.condition.times]);
            if compared.flat_map(|(_, right)| collect_columns(right)).any(|column| is_decimal(&column)) {
                return Ok(Transformed::no(node));
            }
            let Some(right) = with_stored_decimals(&join.right)? else { return Ok(Transformed::no(node)) };
            let stored = AsOfExec { left: Arc::clone(&join.left), right, ..join.renewed() };
            Ok(Transformed::yes(Arc::new(stored) as Arc<dyn ExecutionPlan>))
        })?;
        Ok(replaced.data)
    }
}

fn with_stored_decimals(plan: &Arc<dyn ExecutionPlan>) -> SqlResult<Option<Arc<dyn ExecutionPlan>>> {
    if let Some(scan) = plan.downcast_ref::<SeriesScan>() {
        return Ok(scan.stored()?.map(|scan| Arc::new(scan) as Arc<dyn ExecutionPlan>));
    }
    let keeps_columns = plan.downcast_ref::<ConsecutiveExec>().is_some()
        || plan.downcast_ref::<CooperativeExec>().is_some()
        || plan.downcast_ref::<BufferExec>().is_some();
    match plan.children().as_slice() {
        [input] if keeps_columns => match with_stored_decimals(input)? {
            Some(input) => {
                let recomputed = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
                Arc::clone(plan).replace_children(vec![input], recomputed).map(Some)
            }
            None => Ok(None),
        },
        _ => Ok(None),
    }
}

/// Whether both sides have the same keys in the same partitions.
fn are_alike(left: &Arc<dyn ExecutionPlan>, right: &Arc<dyn ExecutionPlan>, condition: &AsOfCondition) -> bool {
    let ([keys], Partitioning::Range(of_left), Partitioning::Range(of_right)) =
        (condition.keys.as_slice(), left.output_partitioning(), right.output_partitioning())
    else {
        return false;
    };
    let is_by = |ordering: &LexOrdering, key: &Arc<dyn PhysicalExpr>| match ordering.iter().as_slice() {
        [sort] => sort.expr.eq(key),
        _ => false,
    };
    of_left.split_points() == of_right.split_points()
        && is_by(of_left.ordering(), &keys.0)
        && is_by(of_right.ordering(), &keys.1)
}

impl DisplayAs for AsOfExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AsOfCondition { keys, times, op } = &self.condition;
        write!(f, "AsOfExec: {} {op} {}", times.0, times.1)?;
        for (left, right) in keys {
            write!(f, ", {left} = {right}")?;
        }
        Ok(())
    }
}

impl ExecutionPlan for AsOfExec {
    fn name(&self) -> &'static str {
        "AsOfExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.left, &self.right]
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        if are_alike(&self.left, &self.right, &self.condition) {
            let of = |key: fn(&Sides) -> &Arc<dyn PhysicalExpr>| {
                Distribution::KeyPartitioned(self.condition.keys.iter().map(|keys| Arc::clone(key(keys))).collect())
            };
            return InputDistributionRequirements::co_partitioned(vec![of(|keys| &keys.0), of(|keys| &keys.1)]);
        }
        InputDistributionRequirements::new(vec![Distribution::SinglePartition, Distribution::SinglePartition])
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        let of = |is_left, side: &Arc<dyn ExecutionPlan>| {
            self.condition.ordering(is_left, &side.schema()).map(OrderingRequirements::from)
        };
        vec![of(true, &self.left), of(false, &self.right)]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true, false]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false, false]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> SqlResult<TreeNodeRecursion>,
    ) -> SqlResult<TreeNodeRecursion> {
        let AsOfCondition { keys, times, .. } = &self.condition;
        apply_expression_roots(keys.iter().chain([times]).flat_map(|(left, right)| [left, right]), f)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> SqlResult<Arc<dyn ExecutionPlan>> {
        let Ok([left, right]) = <[Arc<dyn ExecutionPlan>; 2]>::try_from(children) else {
            return Err(external(Error::internal("an as-of join of other than two inputs")));
        };
        Ok(Arc::new(Self::new(left, right, self.condition.clone(), Arc::clone(&self.schema))?))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> SqlResult<SendableRecordBatchStream> {
        let left = self.left.execute(partition, Arc::clone(&context))?;
        let right = self.right.execute(partition, context)?;
        let fields = self.condition.keys.iter().map(|(key, _)| {
            let options = SortOptions { descending: false, nulls_first: false };
            Ok(SortField::new_with_options(key.data_type(&left.schema())?, options))
        });
        let converter = RowConverter::new(fields.collect::<SqlResult<_>>()?)?;
        let rows = AsOfMerge {
            left,
            right: RightRows { stream: right, held: Vec::new(), runs: Vec::new(), run: 0, ended: false },
            condition: self.condition.clone(),
            schema: Arc::clone(&self.schema),
            right_schema: self.right.schema(),
            left_columns: self.left.schema().fields().len(),
            converter,
            key: None,
            candidate: None,
            output_rows: MetricBuilder::new(&self.metrics).output_rows(partition),
        };
        let batches = futures::stream::try_unfold(rows, async |mut rows| {
            let batch = rows.next_batch().await?;
            Ok(batch.map(|batch| (batch, rows)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches.boxed())))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition), ChildStats::Skip]
    }

    /// Each left row is one of the result.
    fn statistics_from_inputs(&self, inputs: &[Arc<Statistics>], _: &StatisticsArgs) -> SqlResult<Arc<Statistics>> {
        let Some(of_left) = inputs.first() else { return Ok(Arc::new(Statistics::new_unknown(&self.schema))) };
        let mut columns = of_left.column_statistics.clone();
        columns.resize_with(self.schema.fields().len(), ColumnStatistics::new_unknown);
        let unknown = Statistics::new_unknown(&self.schema);
        Ok(Arc::new(Statistics { num_rows: of_left.num_rows, column_statistics: columns, ..unknown }))
    }
}

/// Consecutive rows of a batch with the same key.
#[derive(Debug)]
struct KeyRun {
    /// `None` of a join without keys.
    key: Option<OwnedRow>,
    /// Whether a key is null, which equals nothing.
    is_null: bool,
    start: usize,
    rows: usize,
}

/// A right row that matches the rows of its key from its time on.
#[derive(Clone, Copy, Debug)]
struct Match {
    /// Position among the held batches.
    batch: usize,
    row: usize,
}

/// The right side up to the row that was read last.
struct RightRows {
    stream: SendableRecordBatchStream,
    /// The last is the one being read.
    held: Vec<RecordBatch>,
    /// The runs of the last batch, with their times.
    runs: Vec<(KeyRun, Int64Array)>,
    /// The run being read: its rows from its start on.
    run: usize,
    ended: bool,
}

/// A join of one partition.
struct AsOfMerge {
    left: SendableRecordBatchStream,
    right: RightRows,
    condition: AsOfCondition,
    schema: SchemaRef,
    /// Columns before their decimals become those of the result.
    right_schema: SchemaRef,
    left_columns: usize,
    converter: RowConverter,
    /// The key of the left row before.
    key: Option<OwnedRow>,
    /// The last right row of that key before the left row.
    candidate: Option<Match>,
    output_rows: Count,
}

/// The right rows of one left batch.
#[derive(Default)]
struct Matches {
    /// Positions in the held batches, from 1 on; 0 is a row of nulls.
    found: Vec<(usize, usize)>,
    /// Columns of matches whose batches are no longer held.
    gathered: Vec<Vec<ArrayRef>>,
}

impl AsOfMerge {
    async fn next_batch(&mut self) -> SqlResult<Option<RecordBatch>> {
        let batch = loop {
            match self.left.next().await.transpose()? {
                None => return Ok(None),
                Some(batch) if batch.num_rows() == 0 => {}
                Some(batch) => break batch,
            }
        };
        let mut matches = Matches::default();
        for (run, times) in self.runs(&batch, true)? {
            if run.is_null {
                matches.found.extend(std::iter::repeat_n((0, 0), run.rows));
                continue;
            }
            if self.key != run.key {
                self.candidate = None;
                self.key = run.key;
            }
            for row in 0..times.len() {
                if times.is_null(row) {
                    matches.found.push((0, 0));
                    continue;
                }
                self.advance(times.value(row), &mut matches).await?;
                matches.found.push(self.candidate.map_or((0, 0), |found| (found.batch + 1, found.row)));
            }
        }
        let right = self.gather_all(matches)?;
        let columns = batch.columns().iter().take(self.left_columns).cloned().chain(right);
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let joined = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns.collect(), &options)?;
        self.output_rows.add(joined.num_rows());
        Ok(Some(joined))
    }

    /// Reads the right side up to the last row that a left row of the current key and this time can match.
    async fn advance(&mut self, time: i64, matches: &mut Matches) -> SqlResult<()> {
        loop {
            let Some((run, times)) = self.right.runs.get_mut(self.right.run) else {
                if !self.next_right(matches).await? {
                    return Ok(());
                }
                continue;
            };
            match run.key.cmp(&self.key) {
                Ordering::Greater => return Ok(()),
                Ordering::Less => {
                    self.right.run += 1;
                    continue;
                }
                Ordering::Equal => {}
            }
            let passed = rows_before(times.values(), time, self.condition.takes_equal());
            if passed > 0 {
                let batch = self.right.held.len().saturating_sub(1);
                self.candidate = Some(Match { batch, row: run.start + passed - 1 });
                run.start += passed;
                *times = times.slice(passed, times.len() - passed);
            }
            if !times.is_empty() {
                return Ok(());
            }
            self.right.run += 1;
        }
    }

    /// Reads another batch of the right side; false when there is none.
    async fn next_right(&mut self, matches: &mut Matches) -> SqlResult<bool> {
        let batch = loop {
            if self.right.ended {
                return Ok(false);
            }
            match self.right.stream.next().await.transpose()? {
                None => self.right.ended = true,
                Some(batch) if batch.num_rows() == 0 => {}
                Some(batch) => break batch,
            }
        };
        if self.right.held.len() >= HELD_BATCHES_MAX {
            self.gather(matches)?;
            self.release(false);
        }
        self.right.runs = self.runs(&batch, false)?;
        self.right.run = 0;
        self.right.held.push(batch);
        Ok(true)
    }

    /// Rows of a batch by their keys, each with the times that are no nulls of a right side.
    fn runs(&self, batch: &RecordBatch, is_left: bool) -> SqlResult<Vec<(KeyRun, Int64Array)>> {
        let rows = batch.num_rows();
        let side = |sides: &Sides| {
            let expr = if is_left { &sides.0 } else { &sides.1 };
            expr.evaluate(batch)?.into_array(rows)
        };
        let keys: Vec<ArrayRef> = self.condition.keys.iter().map(side).collect::<SqlResult<_>>()?;
        let times = cast(&side(&self.condition.times)?, &DataType::Int64)?;
        let times = times.as_primitive::<Int64Type>();
        let times = match self.condition.is_before() {
            true => times.clone(),
            // Descending times as ascending ones.
            false => times.unary(|time: i64| !time),
        };
        let mut runs = Vec::new();
        for mut run in self.key_runs(&keys, rows)? {
            let mut of_run = times.slice(run.start, run.rows);
            let nulls = of_run.null_count();
            if !is_left && nulls > 0 {
                // Nulls are at one end: the last of ascending times, the first of descending ones.
                let skipped = if self.condition.is_before() { 0 } else { nulls };
                run.start += skipped;
                of_run = of_run.slice(skipped, of_run.len() - nulls);
            }
            runs.push((run, of_run));
        }
        Ok(runs)
    }

    fn key_runs(&self, keys: &[ArrayRef], rows: usize) -> SqlResult<Vec<KeyRun>> {
        if keys.is_empty() {
            return Ok(vec![KeyRun { key: None, is_null: false, start: 0, rows }]);
        }
        let is_null = |row: usize| keys.iter().any(|key| key.is_null(row));
        let ends = |row: usize| keys.iter().map(|key| key.slice(row, 1)).collect::<Vec<ArrayRef>>();
        let (first, last) =
            (self.converter.convert_columns(&ends(0))?, self.converter.convert_columns(&ends(rows - 1))?);
        if first.row(0) == last.row(0) {
            return Ok(vec![KeyRun { key: Some(first.row(0).owned()), is_null: is_null(0), start: 0, rows }]);
        }
        let all = self.converter.convert_columns(keys)?;
        let mut runs = Vec::new();
        let mut start = 0;
        for row in 1..=rows {
            if row == rows || all.row(row) != all.row(start) {
                let key = Some(all.row(start).owned());
                runs.push(KeyRun { key, is_null: is_null(start), start, rows: row - start });
                start = row;
            }
        }
        Ok(runs)
    }

    /// Copies the matches so far out of the held batches.
    fn gather(&self, matches: &mut Matches) -> SqlResult<()> {
        if matches.found.is_empty() {
            return Ok(());
        }
        let fields = self.right_schema.fields().iter();
        let columns = fields.enumerate().map(|(position, field)| {
            let nulls = new_null_array(field.data_type(), 1);
            let held = self.right.held.iter().map(|batch| column(batch.columns(), position).as_ref());
            let sources: Vec<&dyn Array> = [nulls.as_ref()].into_iter().chain(held).collect();
            Ok(interleave(&sources, &matches.found)?)
        });
        let columns: Vec<ArrayRef> = columns.collect::<SqlResult<_>>()?;
        matches.gathered.push(columns);
        matches.found.clear();
        Ok(())
    }

    /// The right columns of all rows of a left batch.
    fn gather_all(&mut self, mut matches: Matches) -> SqlResult<Vec<ArrayRef>> {
        self.gather(&mut matches)?;
        self.release(true);
        let mut parts = matches.gathered;
        let columns: Vec<ArrayRef> = match parts.len() {
            1 => parts.pop().unwrap_or_default(),
            _ => {
                let joined = |position: usize| {
                    let parts: Vec<&dyn Array> = parts.iter().map(|part| column(part, position).as_ref()).collect();
                    Ok(concat(&parts)?)
                };
                (0..self.right_schema.fields().len()).map(joined).collect::<SqlResult<_>>()?
            }
        };
        let fields = self.schema.fields().iter().skip(self.left_columns);
        let typed =
            columns.into_iter().zip(fields).map(|(column, field)| match column.data_type() == field.data_type() {
                true => Ok(column),
                // A null would stand for a number that was not converted.
                false => Ok(cast_with_options(
                    &column,
                    field.data_type(),
                    &CastOptions { safe: false, ..Default::default() },
                )?),
            });
        typed.collect()
    }

    /// Keeps the batch of the candidate, and the one being read where it is still read.
    fn release(&mut self, keeps_last: bool) {
        let last = self.right.held.len().saturating_sub(1);
        let candidate = self.candidate.map(|found| found.batch);
        let mut position = 0;
        self.right.held.retain(|_| {
            let is_kept = Some(position) == candidate || keeps_last && position == last;
            position += 1;
            is_kept
        });
        if let Some(found) = &mut self.candidate {
            // The only one before the last.
            found.batch = if keeps_last && found.batch == last { self.right.held.len() - 1 } else { 0 };
        }
    }
}

/// Number of ascending times before a time, or at it: by steps that double, since the next match is mostly near.
fn rows_before(times: &[i64], time: i64, takes_equal: bool) -> usize {
    let is_before = |known: &i64| *known < time || takes_equal && *known == time;
    if times.last().is_none_or(is_before) {
        return times.len();
    }
    let mut end = 1;
    while times.get(end).is_some_and(is_before) {
        end *= 2;
    }
    let (start, end) = (end / 2, end.min(times.len()));
    start + times.get(start..end).unwrap_or_default().partition_point(is_before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_before_a_time_are_those_of_a_search_from_the_start() {
        for times in [vec![], vec![5], vec![1, 2, 2, 2, 9], (0..100).map(|n| n * 3).collect(), vec![7; 33]] {
            for time in -2..320 {
                for takes_equal in [false, true] {
                    let wanted = times.iter().filter(|t| **t < time || takes_equal && **t == time).count();
                    assert_eq!(rows_before(&times, time, takes_equal), wanted, "{times:?} {time} {takes_equal}");
                }
            }
        }
    }
}
