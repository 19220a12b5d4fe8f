//! Which rows of which series a scan reads, and what is known of them without reading.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::stats::Precision;

use super::series_table::{Member, SeriesTable};
use crate::cancel::CancelFlag;
use crate::error::{Error, ErrorCode, Result};
use crate::query::select::Selection;
use crate::query::{
    ClosedRange, LimitTies, MultiLayout, NumberFormat, Operator, Planner, Predicate, RangeSpec, ReadPlan, RowLimit,
    RowOrder, RowSpec,
};
use crate::store::SeriesState;
use crate::types::{SeriesDef, TimeUnit, time};

/// Rows of one series in a closed range of its own unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeriesSlice {
    /// Position among the members of the table.
    pub member: usize,
    pub range: (i64, i64),
}

/// What all forms of a scan have in common.
#[derive(Clone, Debug)]
pub struct ScanCore {
    pub table: Arc<SeriesTable>,
    /// The columns of the result.
    pub schema: SchemaRef,
    pub predicates: Vec<Predicate>,
    /// The last rows of each series.
    pub latest: Option<u64>,
    /// How decimals are read.
    pub numbers: NumberFormat,
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
        self.plan_with(slice, order, limit, &[])
    }

    /// The read of the rows of a slice that meet further conditions.
    pub fn plan_with(
        &self,
        slice: &SeriesSlice,
        order: RowOrder,
        limit: Option<u64>,
        more: &[Predicate],
    ) -> Result<ReadPlan> {
        let Member { series, def, .. } = self.member(slice)?;
        let has = |name: &str| def.column(name).is_some();
        // A condition on a column that the series lacks is that it is null: others have excluded the series.
        let all = self.predicates.iter().chain(more);
        let predicates: Vec<Predicate> =
            all.filter(|known| known.column.as_deref().is_some_and(has)).cloned().collect();
        let columns = self.schema.fields().iter().map(|field| field.name().as_str()).filter(|name| has(name)).collect();
        let spec = RowSpec {
            range: RangeSpec::Ticks(ClosedRange::new(slice.range.0, slice.range.1)?),
            latest: self.latest,
            latest_complete: None,
            columns: Some(columns),
            predicates: &predicates,
            numbers: self.numbers,
            order,
            layout: MultiLayout::BySeries,
            join: None,
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

/// Whether rows of a series can meet a condition: those of a series without its column are nulls.
pub fn can_match(def: &SeriesDef, predicate: &Predicate) -> bool {
    let has = predicate.column.as_deref().is_some_and(|name| def.column(name).is_some());
    has || predicate.op == Operator::IsNull
}

/// A bound of a range in the unit of a series, which is not finer than that of the table.
pub fn ticks(bound: i64, from: TimeUnit, to: TimeUnit, is_first: bool) -> i64 {
    let ratio = from.per_second() / to.per_second();
    if bound == i64::MIN || bound == i64::MAX || ratio <= 1 {
        return bound;
    }
    let floor = bound.div_euclid(ratio);
    if is_first && bound.rem_euclid(ratio) > 0 { floor + 1 } else { floor }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_rounded_into_the_range() {
        let convert = |bound, is_first| ticks(bound, TimeUnit::Ms, TimeUnit::S, is_first);
        assert_eq!((convert(1_500, true), convert(1_500, false)), (2, 1));
        assert_eq!((convert(-1_500, true), convert(-1_500, false)), (-1, -2));
        assert_eq!((convert(2_000, true), convert(2_000, false)), (2, 2));
        assert_eq!((convert(i64::MIN, true), convert(i64::MAX, false)), (i64::MIN, i64::MAX));
    }
}
