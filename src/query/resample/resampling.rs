//! The resampling of a plan: its buckets, and the columns of the result of each of its series.

use std::sync::Arc;

use super::aggregate::{Aggregate, GapValue, Output, OutputSource, outputs};
use super::spec::{FillRule, PartialRule, ResampleSpec};
use crate::error::{Error, Result};
use crate::query::result::NumberFormat;
use crate::store::SeriesState;
use crate::types::{Dictionary, Grid, SeriesDef, TimeBuckets};

/// One series of a resampled result.
#[derive(Debug)]
pub struct ResampledSeries {
    pub buckets: Arc<TimeBuckets>,
    /// All columns that the result can have.
    pub outputs: Vec<Output>,
    /// The series as if its columns were those of the result.
    pub shown: Arc<SeriesState>,
    pub partial: PartialRule,
    /// Intervals of the rows; `None` where the series has none.
    pub grid: Option<Grid>,
    /// The grid against which each border is checked; `None` where all borders are known to be on it.
    pub grid_to_check: Option<Grid>,
}

/// The resampling of all series of a plan.
#[derive(Debug)]
pub struct Resampling {
    pub fill: FillRule,
    pub series: Vec<Arc<ResampledSeries>>,
}

impl Resampling {
    /// The resampling of these series.
    ///
    /// # Errors
    /// `invalid_argument` for a rule that is wrong or that does not apply to a series, and where intervals of a series are
    /// known to cross borders; `schema_mismatch` for an unknown column.
    pub fn of(spec: &ResampleSpec, series: &[Arc<SeriesState>], numbers: NumberFormat) -> Result<Self> {
        let agg =
            spec.agg.as_ref().map(|agg| agg.iter().map(|text| Aggregate::parse(text)).collect::<Result<Vec<_>>>());
        let agg = agg.transpose()?;
        if spec.partial == PartialRule::Drop && spec.fill != FillRule::None {
            return Err(Error::invalid("partial=drop leaves out what fill adds")
                .with_hint("leave out fill or partial; the column complete says which buckets have all rows"));
        }
        let mut common: Option<Arc<TimeBuckets>> = None;
        let mut resampled = Vec::with_capacity(series.len());
        for state in series {
            let buckets = match &common {
                Some(buckets) => Arc::clone(buckets),
                None => {
                    let buckets = TimeBuckets::parse(&spec.buckets(), state.def.calendar.as_ref(), state.def.unit)?;
                    Arc::new(buckets)
                }
            };
            // Only sessions of the calendar differ between series; units are equal, which is checked with the columns.
            let is_common = !buckets.has_sessions() || spec.session.as_deref().is_some_and(|text| text != "calendar");
            if is_common && common.is_none() && series.iter().all(|other| other.def.unit == state.def.unit) {
                common = Some(Arc::clone(&buckets));
            }
            resampled.push(Arc::new(ResampledSeries::new(spec, state, agg.as_deref(), buckets, numbers)?));
        }
        Ok(Self { fill: spec.fill, series: resampled })
    }
}

impl ResampledSeries {
    fn new(
        spec: &ResampleSpec,
        series: &SeriesState,
        agg: Option<&[Aggregate]>,
        buckets: Arc<TimeBuckets>,
        numbers: NumberFormat,
    ) -> Result<Self> {
        let def = &series.def;
        let has_null_rows = spec.fill != FillRule::None;
        let outputs = outputs(series, agg, has_null_rows, numbers)?;
        let grid = series.grid().ok();
        let grid_to_check = match grid.map(|grid| (grid, buckets.fits(&grid))) {
            Some((_, Some(false))) => {
                let detail = format!(
                    "buckets of every {} have borders within the intervals of {} ({})",
                    spec.every,
                    def.key,
                    def.timeframe().unwrap_or("interval")
                );
                return Err(Error::invalid(detail).with_hint(
                    "use buckets whose borders are borders of the intervals, or a series of shorter intervals",
                ));
            }
            Some((grid, None)) => Some(grid),
            _ => None,
        };
        let shown =
            SeriesDef { columns: outputs.iter().map(|output| output.column.clone()).collect(), ..def.as_ref().clone() };
        let dictionaries: Vec<Dictionary> = outputs.iter().map(|output| output.dictionary.clone()).collect();
        let shown = SeriesState { def: Arc::new(shown), dictionaries: Arc::new(dictionaries), ..series.clone() };
        Ok(Self { buckets, outputs, shown: Arc::new(shown), partial: spec.partial, grid, grid_to_check })
    }

    /// The output whose value before fills an output in a gap, where that is another one.
    pub fn gap_source(&self, output: usize) -> Option<usize> {
        match self.outputs.get(output).map(|output| &output.source) {
            Some(OutputSource::Aggregate(aggregate)) => match aggregate.gap {
                GapValue::Of(source) => Some(source),
                GapValue::Zero | GapValue::Own => None,
            },
            _ => None,
        }
    }

    /// The borders between which rows are read for the buckets that start in a closed range; `None` without any.
    pub fn span(&self, series: &SeriesState, range: (i64, i64)) -> Option<(i64, i64)> {
        let (first, last) = series.bounds.filter(|_| range.0 <= range.1)?;
        let mut walk = self.buckets.walk();
        let lowest = walk.at(first).start.min(first).max(range.0);
        let from = walk.starting_at(lowest).start;
        let to = walk.at(range.1.min(last));
        let to = if to.start > range.1 { walk.before(range.1.saturating_add(1)) } else { to };
        (from < to.end && from <= range.1).then_some((from, to.end))
    }
}
