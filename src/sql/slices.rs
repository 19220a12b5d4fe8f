//! Which rows of which series a scan reads, and what is known of them without reading.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::stats::Precision;

use super::series_table::{Member, SeriesTable};
use crate::cancel::CancelFlag;
use crate::error::{Error, ErrorCode, Result};
use crate::query::select::Selection;
use crate::query::{
    ClosedRange, LimitTies, MultiLayout, NumberFormat, Planner, Predicate, RangeSpec, ReadPlan, RowLimit, RowOrder,
    RowSpec,
};
use crate::store::SeriesState;
use crate::types::time;

/// Rows of one series in a closed range of its own unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeriesSlice {
    /// Position among the members of the table.
    pub member: usize,
    pub range: (i64, i64),
}

/// What all forms of a scan have in common.
#[derive(Debug)]
pub struct ScanCore {
    pub table: Arc<SeriesTable>,
    /// The columns of the result.
    pub schema: SchemaRef,
    pub predicates: Vec<Predicate>,
    /// The last rows of each series.
    pub latest: Option<u64>,
    pub stop: CancelFlag,
}

impl ScanCore {
    /// The series of a slice, which the caller must be able to see.
    pub fn member(&self, slice: &SeriesSlice) -> Result<&Member> {
        let member = self.table.members.get(slice.member).ok_or_else(|| Error::internal("a scan of no series"))?;
        // The table has visible series only; a mistake there must not show others.
        if !(self.table.view.sees)(&member.series.def.key) {
            return Err(Error::new(ErrorCode::PermissionDenied, "the token cannot access a series of this table"));
        }
        Ok(member)
    }

    /// The read of a slice.
    pub fn plan(&self, slice: &SeriesSlice, order: RowOrder, limit: Option<u64>) -> Result<ReadPlan> {
        let Member { series, def, .. } = self.member(slice)?;
        let has = |name: &str| def.column(name).is_some();
        // A condition on a column that the series lacks is that it is null: others have excluded the series.
        let predicates: Vec<Predicate> =
            self.predicates.iter().filter(|known| known.column.as_deref().is_some_and(has)).cloned().collect();
        let columns = self.schema.fields().iter().map(|field| field.name().as_str()).filter(|name| has(name)).collect();
        let spec = RowSpec {
            range: RangeSpec::Ticks(ClosedRange::new(slice.range.0, slice.range.1)?),
            latest: self.latest,
            latest_complete: None,
            columns: Some(columns),
            predicates: &predicates,
            numbers: NumberFormat::Decimal128,
            order,
            layout: MultiLayout::BySeries,
            limit: RowLimit { rows: limit, ties: LimitTies::Split },
            resample: self.table.resample.clone(),
        };
        let planner = Planner { state: &self.table.view.state, cache: &self.table.view.cache, stop: &self.stop };
        planner.plan_rows(Selection::One(Arc::clone(series)), &[], &spec)
    }

    /// Number of rows of a slice.
    pub fn rows(&self, slice: &SeriesSlice, may_read: bool) -> Precision<usize> {
        let Some(series) = self.series(slice) else { return Precision::Absent };
        let count = |rows: u64| usize::try_from(rows).unwrap_or(usize::MAX);
        let Some((first, last)) = series.bounds else { return Precision::Exact(0) };
        if self.table.resample.is_some() {
            return Precision::Inexact(count(series.rows));
        }
        if let Some(rows) = self.latest {
            return Precision::Inexact(count(series.rows.min(rows)));
        }
        if !self.predicates.is_empty() {
            return Precision::Inexact(count(series.rows));
        }
        let (start, end) = slice.range;
        if start > last || end < first || start > end {
            return Precision::Exact(0);
        }
        if start <= first && last <= end {
            return Precision::Exact(count(series.rows));
        }
        let counted = || self.plan(slice, RowOrder::Asc, None).ok()?.count_rows().ok().flatten();
        match may_read.then(counted).flatten() {
            Some(rows) => Precision::Exact(count(rows)),
            None => Precision::Inexact(count(series.rows)),
        }
    }

    pub fn series(&self, slice: &SeriesSlice) -> Option<&SeriesState> {
        self.table.members.get(slice.member).map(|member| member.series.as_ref())
    }

    /// First and last timestamp of a slice in the unit of the table; `None` where they are not known without reading,
    /// `Some(None)` without rows.
    pub fn bounds(&self, slice: &SeriesSlice) -> Option<Option<(i64, i64)>> {
        let series = self.series(slice)?;
        let Some((first, last)) = series.bounds else { return Some(None) };
        if self.table.resample.is_some() {
            // Buckets start before their first row.
            return None;
        }
        let (start, end) = slice.range;
        if start > last || end < first {
            return Some(None);
        }
        if start > first || end < last || series.rows == 0 {
            return None;
        }
        let to = self.table.unit;
        let convert = |ts: i64| time::convert(ts, series.def.unit.per_second(), to);
        Some(Some((convert(first)?, convert(last)?)))
    }
}
