//! A table: the series of a kind and timeframe that the caller can see, as DataFusion plans it.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, StringViewArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DFSchema, Result as SqlResult};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;

use super::failure::external;
use super::filter::{FilterScope, Pushed};
use super::scan::SeriesScan;
use super::series_table::{Member, SeriesTable};
use super::slices::{ScanCore, SeriesSlice, can_match, ticks};
use crate::cancel::CancelFlag;
use crate::error::{Error, ErrorCode};
use crate::query::NumberFormat;
use crate::query::select::SERIES_MAX;

/// A table in one statement.
#[derive(Clone, Debug)]
pub struct TableSource {
    pub table: Arc<SeriesTable>,
    /// The last rows of each series only.
    pub latest: Option<u64>,
    /// Cancels its scans.
    pub stop: CancelFlag,
}

impl TableSource {
    /// What its scan evaluates.
    pub fn scope(&self) -> FilterScope<'_> {
        let SeriesTable { keys, unit, columns, resample, .. } = self.table.as_ref();
        // Conditions on the last rows of a series are evaluated after these are found, and conditions on buckets after
        // rows are combined; a range selects buckets by their start.
        let columns = if resample.is_some() { &[] } else { columns.as_slice() };
        FilterScope { keys, unit: *unit, columns, keys_only: self.latest.is_some() }
    }

    /// The members for which all conditions on keys are true.
    fn selected(&self, state: &dyn Session, conditions: &[Expr]) -> SqlResult<Vec<usize>> {
        let table = &self.table;
        let all = (0..table.members.len()).collect();
        if conditions.is_empty() {
            return Ok(all);
        }
        let fields: Vec<Field> = table.keys.iter().map(|key| Field::new(key, DataType::Utf8View, false)).collect();
        let schema = Arc::new(Schema::new(fields));
        let columns = (0..table.keys.len()).map(|at| {
            let words = table.members.iter().map(|member| member.words.get(at).map(|word| word.as_ref()));
            Arc::new(words.collect::<StringViewArray>()) as ArrayRef
        });
        let positions: arrow::array::UInt64Array = (0..table.members.len() as u64).collect();
        let mut batch = RecordBatch::try_new(Arc::clone(&schema), columns.collect())?;
        let mut selected = RecordBatch::try_from_iter([("position", Arc::new(positions) as ArrayRef)])?;
        let schema = DFSchema::try_from(schema)?;
        for condition in conditions {
            let condition = state.create_physical_expr(condition.clone(), &schema)?;
            let found = condition.evaluate(&batch)?.into_array(batch.num_rows())?;
            let found = found
                .as_boolean_opt()
                .ok_or_else(|| external(Error::invalid("a condition on symbols is not true or false")))?;
            (batch, selected) = (filter_record_batch(&batch, found)?, filter_record_batch(&selected, found)?);
        }
        let positions = selected.column(0).as_primitive::<arrow::datatypes::UInt64Type>().values();
        Ok(positions.iter().filter_map(|position| usize::try_from(*position).ok()).collect())
    }
}

#[async_trait::async_trait]
impl TableProvider for TableSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.table.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> SqlResult<Vec<TableProviderFilterPushDown>> {
        let scope = self.scope();
        let evaluated = filters.iter().map(|filter| match scope.classify(filter) {
            Some(_) => TableProviderFilterPushDown::Exact,
            None => TableProviderFilterPushDown::Unsupported,
        });
        Ok(evaluated.collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> SqlResult<Arc<dyn ExecutionPlan>> {
        let scope = self.scope();
        let (mut of_keys, mut predicates) = (Vec::new(), Vec::new());
        let (mut from, mut to) = (i64::MIN, i64::MAX);
        for filter in filters {
            match scope.classify(filter) {
                Some(Pushed::Keys(condition)) => of_keys.push(condition),
                Some(Pushed::Range(first, last)) => (from, to) = (from.max(first), to.min(last)),
                Some(Pushed::Column(predicate)) => predicates.push(predicate),
                None => return Err(DataFusionError::Internal(format!("the scan cannot evaluate {filter}"))),
            }
        }
        let mut slices = Vec::new();
        for member in self.selected(state, &of_keys)? {
            let Some(Member { series, def, .. }) = self.table.members.get(member) else { continue };
            let range = (
                ticks(from, self.table.unit, series.def.unit, true),
                ticks(to, self.table.unit, series.def.unit, false),
            );
            if range.0 <= range.1 && predicates.iter().all(|predicate| can_match(def, predicate)) {
                slices.push(SeriesSlice { member, range });
            }
        }
        if slices.len() > SERIES_MAX {
            let detail =
                format!("the statement reads {} series of {}, more than {SERIES_MAX}", slices.len(), self.table.name);
            return Err(external(
                Error::new(ErrorCode::TooLarge, detail).with_hint("select fewer, such as by WHERE symbol IN (…)"),
            ));
        }
        let schema = match projection {
            Some(columns) => Arc::new(self.table.schema.project(columns)?),
            None => self.schema(),
        };
        let core = ScanCore {
            table: Arc::clone(&self.table),
            schema,
            predicates,
            latest: self.latest,
            numbers: NumberFormat::Decimal128,
            stop: self.stop.clone(),
        };
        Ok(Arc::new(SeriesScan::new(core, slices, limit, state.config().target_partitions())?))
    }
}
