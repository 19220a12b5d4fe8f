//! Partitions that follow each other in time, or by key, one after the other: nothing is compared to merge them.

use std::fmt;
use std::sync::Arc;

use datafusion::common::Statistics;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result as SqlResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{LexOrdering, PhysicalExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::buffer::BufferExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, InputDistributionRequirements,
    PlanProperties, apply_expression_roots,
};
use futures::TryStreamExt;

use super::failure::external;
use super::scan::SeriesScan;
use crate::error::Error;

/// Reads partitions one after the other where they are consecutive, instead of merging them by comparison.
#[derive(Debug)]
pub struct ReadConsecutively;

impl PhysicalOptimizerRule for ReadConsecutively {
    fn name(&self) -> &'static str {
        "read_consecutively"
    }

    fn schema_check(&self) -> bool {
        true
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> SqlResult<Arc<dyn ExecutionPlan>> {
        let replaced = plan.transform_up(|node| {
            let Some(merge) = node.downcast_ref::<SortPreservingMergeExec>() else { return Ok(Transformed::no(node)) };
            if merge.fetch().is_some() || !is_consecutive(merge.input(), false) {
                return Ok(Transformed::no(node));
            }
            let consecutive = ConsecutiveExec::new(Arc::clone(merge.input()), merge.expr().clone());
            Ok(Transformed::yes(Arc::new(consecutive) as Arc<dyn ExecutionPlan>))
        })?;
        Ok(replaced.data)
    }
}

/// Whether all rows of a partition are before those of the next one.
fn is_consecutive(plan: &Arc<dyn ExecutionPlan>, is_filtered: bool) -> bool {
    if let Some(scan) = plan.downcast_ref::<SeriesScan>() {
        // A condition could make a key constant, and the order another one.
        return scan.is_consecutive() && (scan.series() == 1 || !is_filtered);
    }
    let keeps_rows = plan.downcast_ref::<ProjectionExec>().is_some()
        || plan.downcast_ref::<CooperativeExec>().is_some()
        || plan.downcast_ref::<BufferExec>().is_some()
        || plan.downcast_ref::<FilterExec>().is_some_and(|filter| filter.fetch().is_none());
    let is_filtered = is_filtered || plan.downcast_ref::<FilterExec>().is_some();
    match plan.children().as_slice() {
        [input] if keeps_rows => is_consecutive(input, is_filtered),
        _ => false,
    }
}

/// All partitions, one after the other.
#[derive(Debug)]
pub struct ConsecutiveExec {
    input: Arc<dyn ExecutionPlan>,
    /// The order of each partition, and of all.
    order: LexOrdering,
    /// Those of a merge.
    properties: Arc<PlanProperties>,
}

impl ConsecutiveExec {
    fn new(input: Arc<dyn ExecutionPlan>, order: LexOrdering) -> Self {
        let merge = SortPreservingMergeExec::new(order.clone(), Arc::clone(&input));
        Self { input, order, properties: Arc::clone(merge.properties()) }
    }
}

impl DisplayAs for ConsecutiveExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConsecutiveExec: partitions={}", self.input.output_partitioning().partition_count())
    }
}

impl ExecutionPlan for ConsecutiveExec {
    fn name(&self) -> &'static str {
        "ConsecutiveExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![datafusion::physical_plan::Distribution::UnspecifiedDistribution])
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> SqlResult<TreeNodeRecursion>,
    ) -> SqlResult<TreeNodeRecursion> {
        apply_expression_roots(self.order.iter().map(|sort| &sort.expr), f)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> SqlResult<Arc<dyn ExecutionPlan>> {
        let Ok([input]) = <[Arc<dyn ExecutionPlan>; 1]>::try_from(children) else {
            return Err(external(Error::internal("consecutive partitions of other than one input")));
        };
        Ok(Arc::new(Self::new(input, self.order.clone())))
    }

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> SqlResult<SendableRecordBatchStream> {
        let input = Arc::clone(&self.input);
        let partitions = 0..input.output_partitioning().partition_count();
        let streams = partitions.map(move |partition| input.execute(partition, Arc::clone(&context)));
        let rows = futures::stream::iter(streams).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }

    fn child_stats_requests(&self, _: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(None)]
    }

    fn statistics_from_inputs(&self, inputs: &[Arc<Statistics>], _: &StatisticsArgs) -> SqlResult<Arc<Statistics>> {
        Ok(inputs.first().map_or_else(|| Arc::new(Statistics::new_unknown(&self.schema())), Arc::clone))
    }
}
