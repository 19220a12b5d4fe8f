//! The planner of plans with nodes of FastK.

use std::sync::Arc;

use datafusion::catalog::Session;
use datafusion::error::Result as SqlResult;
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};

use super::asof::AsOfNode;
use super::asof_exec::{AsOfCondition, AsOfExec};

/// Plans the nodes of FastK, and leaves others to DataFusion.
#[derive(Debug)]
pub struct SqlPlanner;

#[async_trait::async_trait]
impl QueryPlanner for SqlPlanner {
    async fn create_physical_plan(
        &self,
        plan: &LogicalPlan,
        session: &dyn Session,
    ) -> SqlResult<Arc<dyn ExecutionPlan>> {
        let planner = DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(Self)]);
        planner.create_physical_plan(plan, session).await
    }
}

#[async_trait::async_trait]
impl ExtensionPlanner for SqlPlanner {
    async fn plan_extension(
        &self,
        planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        logical: &[&LogicalPlan],
        physical: &[Arc<dyn ExecutionPlan>],
        session: &dyn Session,
        context: &PhysicalPlanningContext,
    ) -> SqlResult<Option<Arc<dyn ExecutionPlan>>> {
        let (Some(join), [of_left, of_right], [left, right]) =
            (node.as_any().downcast_ref::<AsOfNode>(), logical, physical)
        else {
            return Ok(None);
        };
        let sides = |(one, other): &(Expr, Expr)| {
            Ok((
                planner.create_physical_expr(one, of_left.schema(), session, context)?,
                planner.create_physical_expr(other, of_right.schema(), session, context)?,
            ))
        };
        let condition = AsOfCondition {
            keys: join.keys.iter().map(sides).collect::<SqlResult<_>>()?,
            times: sides(&join.times)?,
            op: join.op,
        };
        let schema = Arc::new(node.schema().as_arrow().clone());
        Ok(Some(Arc::new(AsOfExec::new(Arc::clone(left), Arc::clone(right), condition, schema)?)))
    }
}
