//! Scalars of several names as one table: a row for each symbol and time at which any of them has a value.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::Result as SqlResult;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;

use super::columns::finest;
use super::failure::external;
use super::filter::Pushed;
use super::table::TableSource;
use super::wide_exec::{MergedColumn, WideExec};
use crate::error::{Error, Result};
use crate::format::chunk::timestamp_type;

/// Maximum number of names.
const NAMES_MAX: usize = 256;

/// Scalars by symbol and time, with a column for each name.
#[derive(Debug)]
pub struct WideScalars {
    /// The scalars of each name: symbol, ts, value.
    sources: Vec<TableSource>,
    schema: SchemaRef,
}

impl WideScalars {
    /// The table of these names.
    ///
    /// # Errors
    /// `invalid_argument` for a repeated name, and for too many.
    pub fn new(columns: Vec<(String, TableSource)>) -> Result<Self> {
        if columns.len() > NAMES_MAX {
            return Err(Error::invalid(format!("scalars of {} names, more than {NAMES_MAX}", columns.len())));
        }
        let unit = finest(columns.iter().map(|(_, source)| source.table.unit));
        let mut fields =
            vec![Field::new("symbol", DataType::Utf8View, false), Field::new("ts", timestamp_type(unit), false)];
        for (name, source) in &columns {
            if fields.iter().any(|field| field.name() == name) {
                return Err(Error::invalid(format!("scalars has the column {name:?} twice")));
            }
            let value = source.table.columns.first().map(|column| column.data_type.clone());
            let value = value.ok_or_else(|| Error::internal(format!("the scalar {name:?} has no value")))?;
            fields.push(Field::new(name, value, true));
        }
        let sources = columns.into_iter().map(|(_, source)| source).collect();
        Ok(Self { sources, schema: Arc::new(Schema::new(fields)) })
    }

    /// Whether the scans of all names evaluate a condition.
    fn is_pushed(&self, filter: &Expr) -> bool {
        self.sources.iter().all(|source| match source.scope().classify(filter) {
            Some(Pushed::Keys(_) | Pushed::Range(..)) => true,
            Some(Pushed::Column(_)) | None => false,
        })
    }
}

#[async_trait::async_trait]
impl TableProvider for WideScalars {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> SqlResult<Vec<TableProviderFilterPushDown>> {
        let evaluated = filters.iter().map(|filter| match self.is_pushed(filter) {
            true => TableProviderFilterPushDown::Exact,
            false => TableProviderFilterPushDown::Unsupported,
        });
        Ok(evaluated.collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _: Option<usize>,
    ) -> SqlResult<Arc<dyn ExecutionPlan>> {
        let all = (0..self.schema.fields().len()).collect();
        let projection = projection.unwrap_or(&all);
        let mut inputs = Vec::with_capacity(self.sources.len());
        for (position, source) in self.sources.iter().enumerate() {
            // A name that is not shown has its rows in the result.
            let columns = if projection.contains(&(position + 2)) { vec![0, 1, 2] } else { vec![0, 1] };
            inputs.push(source.scan(state, Some(&columns), filters, None).await?);
        }
        let columns = projection.iter().map(|position| match position {
            0 => Ok(MergedColumn::Symbol),
            1 => Ok(MergedColumn::Time),
            other => other
                .checked_sub(2)
                .map(MergedColumn::Value)
                .ok_or_else(|| external(Error::internal("a column of scalars that does not exist"))),
        });
        let columns = columns.collect::<SqlResult<_>>()?;
        let schema = Arc::new(self.schema.project(projection)?);
        let time = self.schema.field(1).data_type().clone();
        Ok(Arc::new(WideExec::new(inputs, columns, schema, time)?))
    }
}
