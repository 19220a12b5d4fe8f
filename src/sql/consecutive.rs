//! The partitions of one series, which follow each other in time, one after the other: nothing is compared to merge them.

use std::fmt;
use std::sync::Arc;

use datafusion::common::Statistics;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result as SqlResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::buffer::BufferExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, InputDistributionRequirements, PlanProperties,
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
            if merge.fetch().is_some() || !is_consecutive(merge.input()) {
                return Ok(Transformed::no(node));
            }
            let (input, properties) = (Arc::clone(merge.input()), Arc::clone(node.properties()));
            Ok(Transformed::yes(Arc::new(ConsecutiveExec { input, properties }) as Arc<dyn ExecutionPlan>))
        })?;
        Ok(replaced.data)
    }
}

/// Whether all rows of a partition are before those of the next one.
fn is_consecutive(plan: &Arc<dyn ExecutionPlan>) -> bool {
    if let Some(scan) = plan.downcast_ref::<SeriesScan>() {
        return scan.is_consecutive();
    }
    let keeps_rows = plan.downcast_ref::<ProjectionExec>().is_some()
        || plan.downcast_ref::<CooperativeExec>().is_some()
        || plan.downcast_ref::<BufferExec>().is_some()
        || plan.downcast_ref::<FilterExec>().is_some_and(|filter| filter.fetch().is_none());
    match plan.children().as_slice() {
        [input] if keeps_rows => is_consecutive(input),
        _ => false,
    }
}

/// All partitions, one after the other.
#[derive(Debug)]
pub struct ConsecutiveExec {
    input: Arc<dyn ExecutionPlan>,
    /// Those of the merge.
    properties: Arc<PlanProperties>,
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
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> SqlResult<TreeNodeRecursion>,
    ) -> SqlResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> SqlResult<Arc<dyn ExecutionPlan>> {
        let Ok([input]) = <[Arc<dyn ExecutionPlan>; 1]>::try_from(children) else {
            return Err(external(Error::internal("consecutive partitions of other than one input")));
        };
        Ok(Arc::new(Self { input, properties: Arc::clone(&self.properties) }))
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
