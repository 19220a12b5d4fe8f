//! Reads for a program that embeds the engine: one consistent view and its queries.

use std::ops::RangeInclusive;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;

use crate::cancel::CancelFlag;
use crate::error::{Error, Result};
use crate::query::coverage::{CoverageReport, CoverageSpec, coverage};
use crate::query::limit::{LimitTies, RowLimit};
use crate::query::plan::{Planner, RangeSpec, ReadPlan, RowSpec};
use crate::query::predicate::Predicate;
use crate::query::range::ClosedRange;
use crate::query::request::{MultiLayout, Query, RowOrder};
use crate::query::resample::ResampleSpec;
use crate::query::result::{NumberFormat, ResultSchema};
use crate::query::result_scan::ResultScan;
use crate::query::select::Selection;
use crate::store::{Block, MapCache, SeriesState, Store, StoreState};
use crate::types::schema::series_not_found;
use crate::types::{Calendar, Cell, CellSlice, ColumnType, SeriesKey, number, wide};

/// A view of the store at one commit: all reads see the same rows, whatever is written or compacted meanwhile. Cheap to
/// create; replaced files stay on disk while a reader that needs them exists.
#[derive(Clone, Debug)]
pub struct StoreReader {
    state: Arc<StoreState>,
    cache: Arc<MapCache>,
}

/// Which rows and columns of a series a [`StoreReader`] returns.
#[derive(Clone, Debug, Default)]
pub struct Select<'a> {
    /// First and last timestamp, both included, in the unit of the series.
    pub range: Option<RangeInclusive<i64>>,
    /// Keep only the last N of the rows that match.
    pub latest: Option<u64>,
    /// Number columns by name, in this order; all when absent. `ts` always comes first.
    pub columns: Option<&'a [&'a str]>,
    /// Conditions every row must meet, see [`Predicate::parse`].
    pub predicates: &'a [Predicate],
    /// Newest row first.
    pub descending: bool,
    /// Return at most this many rows.
    pub limit: Option<u64>,
    /// Whether the limit may separate rows of one timestamp.
    pub ties: LimitTies,
    /// Combines the rows to buckets; the range selects buckets by their start.
    pub resample: Option<&'a ResampleSpec>,
    /// How [`RowStream::record_batches`] shows numbers; values of predicates are scaled integers under `raw`.
    pub numbers: NumberFormat,
}

/// Rows of one series, block by block; see [`StoreReader::select`].
#[derive(Debug)]
pub struct RowStream {
    shape: ResultSchema,
    scan: ResultScan,
}

impl RowStream {
    /// Names and types of the columns.
    pub fn shape(&self) -> &ResultSchema {
        &self.shape
    }

    /// The rows as Arrow record batches under the schema of the shape; [`Select::numbers`] sets the type of decimals.
    pub fn record_batches(self) -> impl Iterator<Item = Result<RecordBatch>> {
        let schema = self.shape.arrow_schema();
        let shape = self.shape;
        self.scan.map(move |block| shape.record_batch(&schema, &block?))
    }

    /// Cells of one column of all rows as doubles: the nearest double of each decimal or integer. Column 0 is `ts`; times
    /// are epoch integers.
    ///
    /// # Errors
    /// `corrupt_data` for a damaged block, `invalid_argument` for a column that does not exist, that has no numbers, or
    /// that has a null.
    pub fn doubles(self, column: usize) -> Result<Vec<f64>> {
        let (name, kind) = match column.checked_sub(1) {
            None => ("ts".to_owned(), ColumnType::Int64),
            Some(position) => {
                let found = self.shape.columns.get(position);
                let found = found.ok_or_else(|| Error::invalid(format!("the result has no column {column}")))?;
                (found.name.clone(), found.kind)
            }
        };
        let mut values = Vec::new();
        for block in self.scan {
            let block = block?;
            let cells = block.column(column);
            if cells.null_count() > 0 {
                return Err(Error::invalid(format!("column {name} has nulls, which no double stands for"))
                    .with_hint("read record batches"));
            }
            append_doubles(&mut values, kind, cells).ok_or_else(|| {
                Error::invalid(format!("column {name} is {}, not a number", kind.text()))
                    .with_hint("read record batches")
            })?;
        }
        Ok(values)
    }
}

/// Appends cells without nulls as doubles; `None` for a type that is not a number.
#[allow(clippy::cast_precision_loss, reason = "the nearest double is wanted")]
fn append_doubles(values: &mut Vec<f64>, kind: ColumnType, cells: CellSlice<'_>) -> Option<()> {
    fn exact<T: Cell + Into<f64>>(values: &mut Vec<f64>, cells: CellSlice<'_>) {
        values.extend(cells.typed::<T>().iter().map(|cell| (*cell).into()));
    }
    match kind {
        ColumnType::Decimal { digits } => number::decimals_to_f64(cells.words(), digits, values),
        ColumnType::WideDecimal { digits } => {
            values.extend(cells.typed().iter().map(|raw| wide::wide_to_f64(*raw, digits)));
        }
        ColumnType::Float64 => values.extend_from_slice(cells.typed()),
        ColumnType::Int64 | ColumnType::Timestamp { .. } => {
            values.extend(cells.words().iter().map(|word| *word as f64));
        }
        ColumnType::UInt64 => values.extend(cells.typed::<u64>().iter().map(|cell| *cell as f64)),
        ColumnType::Float32 => exact::<f32>(values, cells),
        ColumnType::Int32 => exact::<i32>(values, cells),
        ColumnType::Int16 => exact::<i16>(values, cells),
        ColumnType::Int8 => exact::<i8>(values, cells),
        ColumnType::UInt32 => exact::<u32>(values, cells),
        ColumnType::UInt16 => exact::<u16>(values, cells),
        ColumnType::UInt8 => exact::<u8>(values, cells),
        ColumnType::Bool | ColumnType::Enum | ColumnType::Text | ColumnType::Bytes { .. } => return None,
    }
    Some(())
}

impl Iterator for RowStream {
    type Item = Result<Block>;

    fn next(&mut self) -> Option<Self::Item> {
        self.scan.next()
    }
}

impl StoreReader {
    /// The commit this reader sees.
    pub fn commit(&self) -> u64 {
        self.state.commit
    }

    /// Keys of all registered series, ascending.
    pub fn keys(&self) -> impl Iterator<Item = &SeriesKey> {
        self.state.keys.keys()
    }

    /// State of a series: registration, rows, bounds, version.
    ///
    /// # Errors
    /// `series_not_found`.
    pub fn series(&self, key: &SeriesKey) -> Result<&Arc<SeriesState>> {
        self.state.get(key).ok_or_else(|| series_not_found(key))
    }

    /// Rows of a closed range, ascending.
    ///
    /// # Errors
    /// `series_not_found`; reading the blocks can return `corrupt_data`.
    pub fn range(&self, key: &SeriesKey, range: RangeInclusive<i64>) -> Result<RowStream> {
        self.select(key, &Select { range: Some(range), ..Select::default() })
    }

    /// The last rows, ascending.
    ///
    /// # Errors
    /// `series_not_found`, `invalid_argument` for 0 rows.
    pub fn latest(&self, key: &SeriesKey, rows: u64) -> Result<RowStream> {
        self.select(key, &Select { latest: Some(rows), ..Select::default() })
    }

    /// Rows of a series by range, conditions, count and columns.
    ///
    /// # Errors
    /// `series_not_found`, `schema_mismatch` for an unknown column, `invalid_argument` for a range that ends before it
    /// starts, for 0 rows, for a column listed twice and for a value that is not a number.
    pub fn select(&self, key: &SeriesKey, select: &Select<'_>) -> Result<RowStream> {
        let range = match &select.range {
            None => ClosedRange::ALL,
            Some(range) => ClosedRange::new(*range.start(), *range.end())?,
        };
        let spec = RowSpec {
            range: RangeSpec::Ticks(range),
            latest: select.latest,
            latest_complete: None,
            columns: select.columns.map(<[&str]>::to_vec),
            predicates: select.predicates,
            numbers: select.numbers,
            order: if select.descending { RowOrder::Desc } else { RowOrder::Asc },
            layout: MultiLayout::BySeries,
            join: None,
            limit: RowLimit { rows: select.limit, ties: select.ties },
            resample: select.resample.cloned(),
        };
        let series = Arc::clone(self.series(key)?);
        let plan = self.planner(&CancelFlag::default()).plan_rows(Selection::One(series), &[], &spec)?;
        let (shape, scan) = plan.into_result();
        Ok(RowStream { shape, scan })
    }

    /// Plans a query of any number of series. `as_of`, `commit` and `cursor` have no effect: the reader is the state.
    ///
    /// # Errors
    /// Those of [`Planner::plan`].
    pub fn plan(&self, query: &Query) -> Result<ReadPlan> {
        self.planner(&CancelFlag::default()).plan(query, &|_| true)
    }

    fn planner<'a>(&'a self, stop: &'a CancelFlag) -> Planner<'a> {
        Planner { state: &self.state, cache: &self.cache, stop }
    }

    /// Expected and present intervals and the gaps between them, from the first to the last row, under the calendar of
    /// the series.
    ///
    /// # Errors
    /// `series_not_found`, `invalid_argument` when the series has no interval.
    pub fn coverage(&self, key: &SeriesKey) -> Result<CoverageReport> {
        let series = self.series(key)?;
        let calendar = Calendar::of(series.def.calendar.as_ref())?;
        let spec = CoverageSpec { start: None, end: None, calendar: &calendar, missing_min: 1, gaps_max: usize::MAX };
        coverage(series, &self.cache, &spec)
    }
}

impl Store {
    /// A view of all rows acknowledged so far.
    pub fn reader(&self) -> StoreReader {
        StoreReader { state: self.snapshot(), cache: Arc::clone(self.cache()) }
    }

    /// The view of a named snapshot.
    ///
    /// # Errors
    /// `snapshot_not_found`.
    pub fn reader_as_of(&self, name: &str) -> Result<StoreReader> {
        Ok(StoreReader { state: self.as_of(name)?, cache: Arc::clone(self.cache()) })
    }
}
