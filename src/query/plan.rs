//! The planner: from a query to the series, rows and columns to read.
//!
//! REST, Flight, the command line and a program that embeds the engine all plan here.
//!
//! Invariants:
//! 1. A plan reads one state. Each of its series is looked up and resolved once, and the plan holds it.
//! 2. Planning reads rows only to find the last ones of `latest` and `latest_complete`.
//! 3. What rows a plan returns, and in what order, depends on the query and the state only.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use arrow::array::StringArray;

use crate::cancel::CancelFlag;
use crate::error::{Error, ErrorCode, Result};
use crate::query::columns::{ColumnCast, check_raw, check_units, common};
use crate::query::condition::Condition;
use crate::query::coverage::last_complete;
use crate::query::limit::{LimitTies, RowLimit};
use crate::query::multi::{MultiScan, PagePosition, RowSubject, ScanMember};
use crate::query::panel::known::RowsKnown;
use crate::query::panel::scan::PanelAsOf;
use crate::query::panel::{KnownAt, Panel, PanelColumns, PanelJoin, PanelScan};
use crate::query::predicate::{self, Predicate};
use crate::query::range::ClosedRange;
use crate::query::request::{MultiLayout, Query, RowOrder, TimeValue};
use crate::query::resample::aggregate::OutputSource;
use crate::query::resample::scan::latest;
use crate::query::resample::{BucketScan, ResampleSpec, Resampling};
use crate::query::result::{NumberFormat, ResultSchema, SERIES_COLUMN, Subject};
use crate::query::result_scan::ResultScan;
use crate::query::scan::latest_start_until;
use crate::query::select::{Selection, select, select_panel};
use crate::store::{MapCache, SeriesState, StoreState};
use crate::types::{Calendar, Column, SeriesDef, SeriesKey, TimeUnit};

/// Maximum number of predicate ranges that all series of a merge by time hold together, 16 bytes each.
const MERGED_RANGES_MAX: usize = 4_000_000;
/// Maximum number of predicate values compiled for one query, once per distinct set of columns.
const COMPILED_VALUES_MAX: usize = 4_000_000;

/// A range without timestamps.
const EMPTY_RANGE: (i64, i64) = (i64::MAX, i64::MIN);

/// The closed range of the rows of one series, and the conditions on them.
type SeriesRows = ((i64, i64), Arc<Vec<Condition>>);

/// Compiled predicates and the number of their values.
#[derive(Clone)]
struct Compiled {
    filter: Arc<Vec<Condition>>,
    values: usize,
}

/// Bounds of a range, before the unit of the series is known.
#[derive(Clone, Copy, Debug)]
pub enum RangeSpec<'a> {
    /// In the unit of the series.
    Ticks(ClosedRange),
    /// As a caller writes them; an absent bound is open.
    Written { start: Option<&'a TimeValue>, end: Option<&'a TimeValue> },
}

impl RangeSpec<'_> {
    fn resolve(&self, unit: TimeUnit) -> Result<Option<ClosedRange>> {
        match self {
            RangeSpec::Ticks(range) => Ok(Some(*range)),
            RangeSpec::Written { start, end } => ClosedRange::parse(unit, *start, *end),
        }
    }
}

/// Which rows and columns of a selection are read, and in what order: a query without its series and its state.
#[derive(Clone, Debug)]
pub struct RowSpec<'a> {
    pub range: RangeSpec<'a>,
    pub latest: Option<u64>,
    pub latest_complete: Option<u64>,
    /// Number columns by name; all when absent.
    pub columns: Option<Vec<&'a str>>,
    pub predicates: &'a [Predicate],
    pub numbers: NumberFormat,
    pub order: RowOrder,
    pub layout: MultiLayout,
    /// How the series of a panel are joined.
    pub join: Option<PanelJoin>,
    pub limit: RowLimit,
    /// Combines the rows to buckets, which range, `latest`, order and limit then apply to.
    pub resample: Option<ResampleSpec>,
}

impl<'a> RowSpec<'a> {
    fn of(query: &'a Query) -> Result<Self> {
        Ok(Self {
            resample: query.resample()?,
            range: RangeSpec::Written { start: query.start.as_ref(), end: query.end.as_ref() },
            latest: query.latest,
            latest_complete: query.latest_complete,
            columns: query.columns.as_ref().map(|names| names.iter().map(String::as_str).collect()),
            predicates: query.predicates.as_deref().unwrap_or_default(),
            numbers: query.numbers,
            order: query.order,
            layout: query.layout.unwrap_or_default(),
            join: query.join.clone(),
            limit: RowLimit { rows: query.limit, ties: query.ties },
        })
    }

    fn check(&self) -> Result<()> {
        let counts = [("limit", self.limit.rows), ("latest", self.latest), ("latest_complete", self.latest_complete)];
        if let Some((what, _)) = counts.iter().find(|(_, count)| *count == Some(0)) {
            return Err(Error::invalid(format!("{what} must be at least 1")));
        }
        if self.latest.is_some() && self.latest_complete.is_some() {
            return Err(Error::invalid("latest and latest_complete exclude each other").with_hint("use one of them"));
        }
        if self.join.is_some() && self.layout != MultiLayout::Wide {
            return Err(Error::invalid("join needs layout wide").with_hint("or leave it out"));
        }
        if self.layout == MultiLayout::Wide && self.latest_complete.is_some() {
            return Err(Error::invalid("latest_complete has no meaning with layout wide").with_hint("use latest"));
        }
        if self.resample.is_some() {
            if self.latest_complete.is_some() {
                return Err(Error::invalid("latest_complete has no meaning with every")
                    .with_hint("use latest, and the column complete"));
            }
            if self.layout != MultiLayout::Wide
                && self.predicates.iter().any(|predicate| predicate.column.as_deref() == Some("ts"))
            {
                return Err(Error::invalid("a condition on ts would cut buckets of every")
                    .with_hint("start and end select buckets by their start"));
            }
        }
        Ok(())
    }
}

/// The state, cache and cancellation with which plans are made.
#[derive(Clone, Copy, Debug)]
pub struct Planner<'a> {
    pub state: &'a Arc<StoreState>,
    pub cache: &'a Arc<MapCache>,
    /// Cancels planning and the scans of the plan, with `deadline_exceeded`.
    pub stop: &'a CancelFlag,
}

/// A logical read: series of one state, and the rows and columns of each.
#[derive(Clone, Debug)]
pub struct ReadPlan {
    state: Arc<StoreState>,
    cache: Arc<MapCache>,
    /// At least one, ascending by key.
    members: Vec<ScanMember>,
    schema: ResultSchema,
    order: RowOrder,
    layout: MultiLayout,
    limit: RowLimit,
    /// Whether the rows are those of one time range of every series, ascending.
    is_divisible: bool,
    /// How rows are combined to buckets; ranges are then those of the starts of buckets.
    resampling: Option<Arc<Resampling>>,
    /// How the series are joined side by side.
    panel: Option<Arc<Panel>>,
}

impl Planner<'_> {
    /// Plans a query; globs select only series for which `sees` is true. `as_of`, `commit` and `cursor` of the query
    /// have no effect: they determine the state, and where the plan is resumed.
    ///
    /// # Errors
    /// `series_not_found`, `invalid_argument`, `schema_mismatch` for an unknown column or series with incompatible
    /// columns, `too_large`; `corrupt_data` when rows had to be read.
    pub fn plan(&self, query: &Query, sees: &dyn Fn(&SeriesKey) -> bool) -> Result<ReadPlan> {
        let spec = RowSpec::of(query)?;
        spec.check()?;
        if spec.layout == MultiLayout::Wide {
            let has_glob_first = query.series.first().is_some_and(|first| first.contains('*'));
            if matches!(spec.join, Some(PanelJoin::AsOf(_))) && has_glob_first {
                return Err(Error::invalid("an as-of join has the rows of its first series, which is a glob")
                    .with_hint("list the key of one series first"));
            }
            return self.plan_panel(select_panel(self.state, &query.series, sees)?, &query.series, &spec);
        }
        self.plan_rows(select(self.state, &query.series, sees)?, &query.series, &spec)
    }

    /// Plans a read of selected series; `selectors` are the keys and globs that selected several.
    ///
    /// # Errors
    /// Those of [`Planner::plan`].
    pub fn plan_rows(&self, selection: Selection, selectors: &[String], spec: &RowSpec<'_>) -> Result<ReadPlan> {
        spec.check()?;
        let (series, subject) = match selection {
            Selection::One(series) => (vec![series], RowSubject::Series),
            Selection::Many(series) => (series, RowSubject::EachRow),
        };
        let defs: Vec<&SeriesDef> = series.iter().map(|series| series.def.as_ref()).collect();
        let leading = match subject {
            RowSubject::Series => &["ts"][..],
            RowSubject::EachRow => &["ts", SERIES_COLUMN],
        };
        let resampling = spec.resample.as_ref().map(|resample| Resampling::of(resample, &series, spec.numbers));
        let resampling = resampling.transpose()?.map(Arc::new);
        let shown: Vec<Arc<SeriesState>>;
        let with_columns = match &resampling {
            None => &series,
            Some(resampling) => {
                shown = resampling.series.iter().map(|series| Arc::clone(&series.shown)).collect();
                &shown
            }
        };
        let common = common(with_columns, spec.columns.as_deref(), leading, spec.numbers)?;
        if spec.numbers == NumberFormat::Raw && subject == RowSubject::EachRow {
            // A scalar may omit the name of its only column.
            let only = defs.first().and_then(|def| def.columns.first()).map(|column| column.name.as_str());
            let names: Vec<&str> = spec.predicates.iter().filter_map(|p| p.column.as_deref().or(only)).collect();
            check_raw(&defs, &names)?;
        }
        let filters = self.compile(&series, spec)?;
        let unit = defs.first().map(|def| def.unit).unwrap_or_default();
        let range = spec.range.resolve(unit)?;
        let mut members = Vec::with_capacity(series.len());
        for (at, ((series, (columns, casts)), filter)) in series.iter().zip(common.members).zip(filters).enumerate() {
            self.stop.check()?;
            let (range, filter) = match &resampling {
                None => self.rows_of(series, spec, range, filter)?,
                Some(_) => (range.map_or(EMPTY_RANGE, ClosedRange::bounds), filter),
            };
            let series = Arc::clone(series);
            let mut member = ScanMember { series, range, columns, casts, filter, skip: 0, stop: self.stop.clone() };
            if let (Some(resampling), Some(count)) = (&resampling, spec.latest)
                && let Some(resampled) = resampling.series.get(at)
            {
                member.range = latest(&member, resampled, self.cache, resampling.fill, count)?;
            }
            members.push(member);
        }
        let (subject, layout) = match (subject, series.first()) {
            (RowSubject::Series, Some(only)) => {
                (Subject::One { series: only.def.key.clone(), version: only.version }, MultiLayout::BySeries)
            }
            _ => {
                // Every series, with rows or not: labels are positions in the same keys on every page.
                let keys = StringArray::from_iter_values(series.iter().map(|series| series.def.key.as_str()));
                (Subject::Many { selectors: selectors.into(), keys: Arc::new(keys) }, spec.layout)
            }
        };
        let (commit, is_one) = (self.state.commit, matches!(subject, Subject::One { .. }));
        Ok(ReadPlan {
            state: Arc::clone(self.state),
            cache: Arc::clone(self.cache),
            members,
            schema: ResultSchema { subject, unit, columns: common.columns, numbers: spec.numbers, commit },
            order: spec.order,
            layout,
            limit: spec.limit,
            // The last rows of each of several series do not form a common time range.
            is_divisible: spec.limit.rows.is_none()
                && spec.latest_complete.is_none()
                && spec.order == RowOrder::Asc
                && (spec.latest.is_none() || is_one),
            resampling,
            panel: None,
        })
    }

    /// Plans a panel of series in its order.
    fn plan_panel(&self, series: Vec<Arc<SeriesState>>, selectors: &[String], spec: &RowSpec<'_>) -> Result<ReadPlan> {
        let defs: Vec<&SeriesDef> = series.iter().map(|series| series.def.as_ref()).collect();
        let first = check_units(&defs)?;
        let unit = first.unit;
        let resampling = spec.resample.as_ref().map(|resample| Resampling::of(resample, &series, spec.numbers));
        let resampling = resampling.transpose()?.map(Arc::new);
        let shown: Vec<Arc<SeriesState>> = match &resampling {
            None => series.clone(),
            Some(resampling) => resampling.series.iter().map(|series| Arc::clone(&series.shown)).collect(),
        };
        if resampling.is_none()
            && let Some(state) = series.iter().find(|state| !state.def.order.is_by_timestamp())
        {
            let detail = format!("series {} can have several rows of one timestamp, a panel has one", state.def.key);
            return Err(Error::invalid(detail).with_hint("combine its rows first, such as every=1s"));
        }
        let as_of = match &spec.join {
            None | Some(PanelJoin::Exact(_)) => None,
            Some(PanelJoin::AsOf(join)) => {
                let known = series.iter().enumerate().map(|(at, state)| {
                    let resampled = resampling.as_ref().and_then(|resampling| resampling.series.get(at));
                    match (join.known, resampled) {
                        (KnownAt::Ts, _) => RowsKnown::After(0),
                        (KnownAt::Close, Some(resampled)) => RowsKnown::Bucket(Arc::clone(&resampled.buckets)),
                        (KnownAt::Close, None) => RowsKnown::of_grid(state.grid().ok()),
                    }
                });
                Some(PanelAsOf { tolerance: join.tolerance(unit)?, known: known.collect() })
            }
        };
        let is_value = |at: usize, position: usize| {
            let output = resampling.as_ref().and_then(|resampling| resampling.series.get(at)?.outputs.get(position));
            output.is_none_or(|output| matches!(output.source, OutputSource::Aggregate(_)))
        };
        let has_nulls = |at: usize| at > 0 || (as_of.is_none() && series.len() > 1);
        let columns = PanelColumns::of(&shown, spec.columns.as_deref(), &is_value, &has_nulls)?;
        let shape = columns.shown();
        let PanelColumns { columns, dictionaries, sources, members } = columns;
        let def = SeriesDef { columns, ..first.clone() };
        let filter = predicate::compile(&def, &dictionaries, spec.predicates, spec.numbers).map_err(|error| {
            let is_unknown = error.code() == ErrorCode::SchemaMismatch;
            let example = def.columns.first().map_or("BTCUSDT.close", |column| column.name.as_str());
            if is_unknown {
                Error::new(error.code(), "a condition on a column that the panel does not have")
                    .with_hint(format!("conditions name columns of the panel, such as {example}"))
            } else {
                error
            }
        })?;
        let range = spec.range.resolve(unit)?.map_or(EMPTY_RANGE, ClosedRange::bounds);
        let member = |(series, columns): (&Arc<SeriesState>, Vec<usize>)| ScanMember {
            series: Arc::clone(series),
            range,
            casts: vec![ColumnCast::Keep; columns.len()],
            columns,
            filter: Arc::default(),
            skip: 0,
            stop: self.stop.clone(),
        };
        let mut plan = ReadPlan {
            state: Arc::clone(self.state),
            cache: Arc::clone(self.cache),
            members: series.iter().zip(members).map(member).collect(),
            schema: ResultSchema {
                subject: Subject::Panel { selectors: selectors.into(), sources: sources.into() },
                unit,
                columns: shape,
                numbers: spec.numbers,
                commit: self.state.commit,
            },
            order: spec.order,
            layout: MultiLayout::Wide,
            limit: spec.limit,
            is_divisible: spec.limit.rows.is_none() && spec.latest.is_none() && spec.order == RowOrder::Asc,
            resampling,
            panel: Some(Arc::new(Panel { as_of, filter: Arc::new(filter) })),
        };
        if let Some(count) = spec.latest {
            let limit = RowLimit { rows: Some(count), ..RowLimit::default() };
            let last = ReadPlan { order: RowOrder::Desc, limit, ..plan.clone() }.without_columns();
            let mut start = range.0;
            let (mut rows, mut last_ts) = (0, None);
            for block in last.scan() {
                let block = block?;
                rows += block.rows() as u64;
                last_ts = block.timestamps().last().copied().or(last_ts);
            }
            if rows >= count {
                start = last_ts.unwrap_or(start);
            }
            plan.members.iter_mut().for_each(|member| member.range.0 = member.range.0.max(start));
        }
        Ok(plan)
    }

    /// The predicates for each series. Thousands of series mostly have the same columns: they share them, unless what
    /// matches depends on the dictionaries of the series.
    fn compile(&self, series: &[Arc<SeriesState>], spec: &RowSpec<'_>) -> Result<Vec<Arc<Vec<Condition>>>> {
        // Neighbours mostly have the same columns, and are compared with each other before any is hashed.
        let mut last: Option<(&[Column], Compiled)> = None;
        let mut earlier: HashMap<&[Column], Compiled> = HashMap::new();
        let mut values_left = COMPILED_VALUES_MAX;
        let mut ranges_total = 0_usize;
        let mut filters = Vec::with_capacity(series.len());
        for SeriesState { def, dictionaries, .. } in series.iter().map(Arc::as_ref) {
            let columns = def.columns.as_slice();
            let compiled = match last.take() {
                Some((same, compiled)) if same == columns => compiled,
                other => {
                    if let Some((columns, compiled)) = other {
                        earlier.insert(columns, compiled);
                    }
                    match earlier.get(columns) {
                        Some(found) => found.clone(),
                        None => {
                            self.stop.check()?;
                            let filter = predicate::compile(def, dictionaries, spec.predicates, spec.numbers)?;
                            let filter = Arc::new(filter);
                            let values: usize = filter.iter().map(Condition::ranges).sum();
                            values_left = values_left.checked_sub(values).ok_or_else(|| too_many_values(values))?;
                            Compiled { filter, values }
                        }
                    }
                }
            };
            ranges_total += compiled.values;
            filters.push(Arc::clone(&compiled.filter));
            if !predicate::depend_on_dictionaries(def, spec.predicates) {
                last = Some((columns, compiled));
            }
        }
        if spec.layout == MultiLayout::ByTime && series.len() > 1 && ranges_total > MERGED_RANGES_MAX {
            let detail = format!("a merge by time of {} series needs {ranges_total} predicate values", series.len());
            return Err(Error::new(ErrorCode::TooLarge, detail).with_hint("use layout by_series or fewer values"));
        }
        Ok(filters)
    }

    /// The rows of one series that a plan reads.
    fn rows_of(
        &self,
        series: &SeriesState,
        spec: &RowSpec<'_>,
        range: Option<ClosedRange>,
        filter: Arc<Vec<Condition>>,
    ) -> Result<SeriesRows> {
        if let Some(count) = spec.latest_complete {
            let calendar = Calendar::of(series.def.calendar.as_ref())?;
            let Some(range) = range else { return Ok((EMPTY_RANGE, filter)) };
            // The range is empty when fewer consecutive buckets are complete.
            let complete = last_complete(series, self.cache, &calendar, range.given_bounds(), count)?;
            return Ok(match complete {
                None => (EMPTY_RANGE, filter),
                Some(tail) => match tail.filter {
                    None => (tail.range, filter),
                    Some(open_times) => (tail.range, Arc::new(filter.iter().cloned().chain([open_times]).collect())),
                },
            });
        }
        let Some((start, end)) = range.map(ClosedRange::bounds) else { return Ok((EMPTY_RANGE, filter)) };
        let start = match spec.latest {
            None => start,
            Some(rows) => latest_start_until(series, self.cache, (start, end), rows, &filter, self.stop)?,
        };
        Ok(((start, end), filter))
    }

    /// Whether a query of a single key is simple and its rows are few and in memory: then planning and reading it does
    /// not block.
    pub fn is_in_memory(&self, query: &Query) -> bool {
        let Query { predicates, latest_complete, as_of, commit, cursor, every, layout, .. } = query;
        let is_plain = predicates.as_ref().is_none_or(Vec::is_empty)
            && latest_complete.is_none()
            && as_of.is_none()
            && commit.is_none()
            && cursor.is_none()
            && every.is_none()
            && *layout != Some(MultiLayout::Wide);
        // Lists and globs are resolved on a blocking thread.
        if !is_plain || !matches!(query.series.as_slice(), [only] if !only.contains('*')) {
            return false;
        }
        let Ok(Selection::One(series)) = select(self.state, &query.series, &|_| true) else { return false };
        let Ok(spec) = RowSpec::of(query) else { return false };
        let Ok(Some(range)) = spec.range.resolve(series.def.unit) else { return false };
        let (start, end) = range.bounds();
        let first = query.latest.map_or(start, |rows| series.start_of_last((start, end), rows));
        if query.latest.is_some() && first > start && !series.has_exact_counts((first, end)) {
            return false;
        }
        series.is_in_memory((first, end))
    }
}

impl ReadPlan {
    /// The state that is read.
    pub fn state(&self) -> &Arc<StoreState> {
        &self.state
    }

    /// Names and types of the columns, and the series of the result.
    pub fn schema(&self) -> &ResultSchema {
        &self.schema
    }

    /// The series, ascending by key.
    pub fn series(&self) -> impl ExactSizeIterator<Item = &Arc<SeriesState>> {
        self.members.iter().map(|member| &member.series)
    }

    /// Direction of time inside each series, or of the result where it is merged by time.
    pub fn order(&self) -> RowOrder {
        self.order
    }

    /// Whether the rows are in the order of time: not where one series follows the other.
    pub fn is_ordered_by_time(&self) -> bool {
        self.layout != MultiLayout::BySeries || self.subject() == RowSubject::Series
    }

    /// Whether rows say which series they are of.
    pub fn subject(&self) -> RowSubject {
        if self.schema.keys().is_some() { RowSubject::EachRow } else { RowSubject::Series }
    }

    /// Whether the series are side by side.
    pub fn is_panel(&self) -> bool {
        self.panel.is_some()
    }

    /// Bounds of the number of rows without reading any: equal where the counts of the series are exact for the plan.
    pub fn row_bounds(&self) -> RangeInclusive<u64> {
        if self.resampling.is_some() || self.is_panel() {
            return 0..=self.limit.rows.unwrap_or(u64::MAX);
        }
        let (mut least, mut most) = (0_u64, 0_u64);
        for member in &self.members {
            let Some((first, last)) = member.series.bounds else { continue };
            let (start, end) = member.range;
            if start > end || start > last || end < first {
                continue;
            }
            most = most.saturating_add(member.series.rows);
            if start <= first && last <= end && member.filter.is_empty() {
                least = least.saturating_add(member.series.rows.saturating_sub(member.skip));
            }
        }
        let limit = self.limit.rows.unwrap_or(u64::MAX);
        let longest = if self.can_exceed_limit() { u64::MAX } else { limit };
        least.min(limit)..=most.min(longest)
    }

    /// Whether more rows than the limit may be returned: those of the last timestamp.
    fn can_exceed_limit(&self) -> bool {
        let has_ties = |member: &ScanMember| !member.series.def.order.is_by_timestamp();
        self.limit.rows.is_some() && self.limit.ties == LimitTies::Whole && self.members.iter().any(has_ties)
    }

    /// Exact number of rows; `None` under a predicate, of buckets and panels, and where a limit may be exceeded. Reads the blocks at
    /// the ends of the range.
    ///
    /// # Errors
    /// `corrupt_data`.
    pub fn count_rows(&self) -> Result<Option<u64>> {
        let has_filter = self.members.iter().any(|member| !member.filter.is_empty());
        if self.resampling.is_some() || self.is_panel() || has_filter {
            return Ok(None);
        }
        let mut rows = 0_u64;
        for member in self.members.iter().filter(|member| member.range.0 <= member.range.1) {
            rows =
                rows.saturating_add(member.series.count_rows(&self.cache, member.range)?.saturating_sub(member.skip));
        }
        let limit = self.limit.rows.unwrap_or(u64::MAX);
        Ok((rows <= limit || !self.can_exceed_limit()).then_some(rows.min(limit)))
    }

    /// Bytes of the columns of this many rows as sent, see [`ResultSchema::bytes_of`].
    pub fn bytes_of(&self, rows: u64) -> Option<u64> {
        self.schema.bytes_of(rows)
    }

    /// Adjacent closed ranges of similar length, ascending, that together hold all rows; at most `parts`. `None` when
    /// the plan cannot be split, or has no rows.
    pub fn split(&self, parts: u64) -> Option<Vec<(i64, i64)>> {
        let (start, end) = self.span().filter(|_| parts > 1 && self.is_divisible)?;
        Some(split(start, end, parts))
    }

    /// First and last timestamp within the range of any series; `None` when none has a row in its range.
    fn span(&self) -> Option<(i64, i64)> {
        let span_of = |(at, member): (usize, &ScanMember)| {
            let (first, last) = member.series.bounds?;
            let resampled = self.resampling.as_ref().and_then(|resampling| resampling.series.get(at));
            // The first bucket starts before its first row.
            let first = resampled.map_or(first, |resampled| resampled.buckets.walk().at(first).start.min(first));
            let span = (member.range.0.max(first), member.range.1.min(last));
            (span.0 <= span.1).then_some(span)
        };
        // An as-of join has the rows of its first series.
        let is_as_of = self.panel.as_ref().is_some_and(|panel| panel.as_of.is_some());
        let count = if is_as_of { 1 } else { self.members.len() };
        self.members.iter().take(count).enumerate().filter_map(span_of).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
    }

    /// Removes the rows before a position; false when it is not a position of this plan.
    #[must_use]
    pub fn resume(&mut self, position: PagePosition) -> bool {
        self.is_divisible = false;
        if let Some(panel) = &self.panel {
            let PagePosition::Row { series_id, ts, .. } = position else { return false };
            let is_first = self.members.first().is_some_and(|first| first.series.id == series_id);
            // The rows of an as-of join are those of its first series.
            let count = if panel.as_of.is_some() { 1 } else { self.members.len() };
            for member in self.members.iter_mut().take(count) {
                match self.order {
                    RowOrder::Asc => member.range.0 = member.range.0.max(ts),
                    RowOrder::Desc => member.range.1 = member.range.1.min(ts),
                }
                if member.range.0 > member.range.1 {
                    member.range = EMPTY_RANGE;
                }
            }
            return is_first;
        }
        let subject = self.subject();
        let (series_id, ts, skip) = match (position, self.members.as_mut_slice()) {
            (PagePosition::Range { series_id, start, end, skip }, [only])
                if subject == RowSubject::Series && only.series.id == series_id =>
            {
                only.range = (start, end);
                only.skip = skip;
                return true;
            }
            (PagePosition::Row { series_id, ts, skip }, _) if subject == RowSubject::EachRow => (series_id, ts, skip),
            _ => return false,
        };
        let Some(at) = self.members.iter().position(|member| member.series.id == series_id) else { return false };
        for (position, member) in self.members.iter_mut().enumerate() {
            if position == at {
                member.skip = skip;
            }
            // By time, a series before that of the next row has already returned its rows with this timestamp.
            let (is_done, is_returned) = match self.layout {
                MultiLayout::BySeries => (position < at, false),
                MultiLayout::ByTime | MultiLayout::Wide => (false, position < at),
            };
            if is_done {
                member.range = EMPTY_RANGE;
            } else if self.layout == MultiLayout::ByTime || position == at {
                match self.order {
                    RowOrder::Asc => member.range.0 = member.range.0.max(ts.saturating_add(i64::from(is_returned))),
                    RowOrder::Desc => member.range.1 = member.range.1.min(ts.saturating_sub(i64::from(is_returned))),
                }
                if member.range.0 > member.range.1 {
                    member.range = EMPTY_RANGE;
                }
            }
        }
        true
    }

    /// Starts the scan; nothing is read before the first block is requested.
    pub fn scan(self) -> ResultScan {
        self.into_result().1
    }

    /// The schema of the result and the started scan.
    pub fn into_result(self) -> (ResultSchema, ResultScan) {
        let subject = self.subject();
        if let Some(panel) = self.panel {
            let (members, resampling) = (self.members, self.resampling);
            let scan = PanelScan::new(members, resampling.as_deref(), panel, self.cache, self.order, self.limit.rows);
            return (self.schema, ResultScan::Panel(Box::new(scan)));
        }
        if let Some(resampling) = &self.resampling {
            let Self { members, cache, layout, order, limit, .. } = self;
            let scan = BucketScan::new(members, resampling, subject, &cache, layout, order, limit.rows);
            return (self.schema, ResultScan::Buckets(Box::new(scan)));
        }
        let scan = MultiScan::new(self.members, subject, self.cache, self.layout, self.order, self.limit);
        (self.schema, ResultScan::Rows(Box::new(scan)))
    }

    /// The same rows without number columns; with them where the conditions of a panel need them.
    pub fn without_columns(&self) -> Self {
        if self.panel.as_ref().is_some_and(|panel| !panel.filter.is_empty()) {
            return self.clone();
        }
        let without = |member: &ScanMember| ScanMember { columns: Vec::new(), casts: Vec::new(), ..member.clone() };
        Self { members: self.members.iter().map(without).collect(), ..self.clone() }
    }
}

fn too_many_values(values: usize) -> Error {
    let detail = format!("{values} predicate values for each different list of columns are too many");
    Error::new(ErrorCode::TooLarge, detail).with_hint("query fewer series, or with fewer values")
}

/// Splits a closed range into `parts` adjacent closed ranges of similar length.
fn split(start: i64, end: i64, parts: u64) -> Vec<(i64, i64)> {
    let span = i128::from(end) - i128::from(start) + 1;
    let parts = i128::from(parts).min(span);
    let part_start = |part: i128| i64::try_from(i128::from(start) + span * part / parts).unwrap_or(i64::MAX);
    let range = |part: i128| (part_start(part), if part + 1 == parts { end } else { part_start(part + 1) - 1 });
    (0..parts).map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Store, StoreOptions, WriteMode};
    use crate::types::{Rows, SeriesSpec};

    #[test]
    fn split_ranges_touch_and_cover() {
        for (start, end, parts) in [(0, 9, 3), (-5, 5, 4), (7, 7, 3), (i64::MIN, i64::MAX, 7)] {
            let ranges = split(start, end, parts);
            assert_eq!((ranges[0].0, ranges[ranges.len() - 1].1), (start, end));
            assert!(ranges.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0));
            assert!(ranges.iter().all(|(from, to)| from <= to));
        }
    }

    #[test]
    fn a_plan_knows_its_series_its_order_and_how_many_rows_it_can_return() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), true, StoreOptions::default()).unwrap();
        for (symbol, count) in [("A", 10), ("B", 4)] {
            let key = SeriesKey::scalar("c", symbol, "tick", "n").unwrap();
            store.register(SeriesSpec::of_key(&key).resolve().unwrap()).unwrap();
            let rows = Rows::of_words((0..count).collect(), vec![vec![0; usize::try_from(count).unwrap()]]);
            store.write(&key, rows, WriteMode::Upsert, None).unwrap();
        }
        let reader = store.reader();
        let query = |fields: &str| -> Query {
            serde_json::from_str(&format!(r#"{{"series":["scalar/c/*/tick/n"]{fields}}}"#)).unwrap()
        };
        let plan = reader.plan(&query("")).unwrap();
        assert_eq!((plan.series().len(), plan.row_bounds(), plan.count_rows().unwrap()), (2, 14..=14, Some(14)));
        assert!(!plan.is_ordered_by_time());
        let plan = reader.plan(&query(r#","start":2,"layout":"by_time""#)).unwrap();
        assert_eq!((plan.row_bounds(), plan.count_rows().unwrap()), (0..=14, Some(10)));
        assert!(plan.is_ordered_by_time());
        let filtered = reader.plan(&query(r#","limit":3,"where":[{"column":"value","op":"gt","value":0}]"#)).unwrap();
        assert_eq!((filtered.row_bounds(), filtered.count_rows().unwrap()), (0..=3, None));
        // A scan that reaches its limit says where the next plan continues.
        let mut first = reader.plan(&query(r#","limit":11"#)).unwrap().scan();
        assert_eq!(first.by_ref().map(|block| block.unwrap().rows()).sum::<usize>(), 11);
        let mut rest = reader.plan(&query("")).unwrap();
        assert!(rest.resume(first.next_position().unwrap()));
        assert_eq!(rest.scan().map(|block| block.unwrap().rows()).sum::<usize>(), 3);
        let mut other = reader.plan(&query("")).unwrap();
        assert!(!other.resume(PagePosition::Range { series_id: 1, start: 0, end: 1, skip: 0 }));
    }
}
