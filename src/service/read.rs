//! Reads: a query is resolved to a bounded scan of one state.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, ErrorCode, Result};
use crate::query::select::{Selection, select};
use crate::query::{
    Block, CancelFlag, KeyRanges, MultiLayout, MultiScan, NumberFormat, Predicate, Query, ResultSchema, RowOrder, Scan,
    ScanMember, ScanSpec, ScanStats, TimeValue, latest_start_until, multi, predicate,
};
use crate::service::caller::Scope;
use crate::service::registry::as_of::AsOfView;
use crate::service::shared::Service;
use crate::store::{RetainedCommits, SeriesState, StoreState};
use crate::types::time::{self, Bound};
use crate::types::{Column, ColumnType, SeriesDef, SeriesKey, TimeUnit};

/// The rows of one result, block by block, in the order of the query.
///
/// Holds its state: the files it reads exist until it is dropped.
#[derive(Debug)]
pub struct QueryResult {
    pub shape: ResultSchema,
    /// `"<store epoch>-<series id>-<version>-"`: the entity tag up to its format part, without quotes. For several
    /// series: their number and a hash of all ids and versions.
    pub etag_stem: String,
    scan: AnyScan,
    /// Blocks read in advance; they come first.
    buffered: VecDeque<Block>,
    explain: bool,
    resume: CursorState,
    /// The cursor after the last row, when it was determined in advance.
    lookahead_cursor: Option<String>,
    counts: ReadCounts,
}

/// Maximum number of rows read before the first is returned, when it must be known whether more follow: 3 MiB of bars.
const LOOKAHEAD_ROWS_MAX: u64 = 65_536;

/// Rows of one series, or of several.
#[derive(Debug)]
enum AnyScan {
    One(Box<Scan>),
    Many(Box<MultiScan>),
}

/// What a cursor contains besides its position.
#[derive(Clone, Debug)]
struct CursorState {
    state: Arc<StoreState>,
    retained: Arc<RetainedCommits>,
    /// Ordered by key.
    series_ids: Vec<u64>,
    /// For one series: the range that is read.
    range: (i64, i64),
    order: RowOrder,
    /// Hash of what determines the rows and their order.
    query_hash: u64,
}

impl CursorState {
    fn cursor(&self, position: CursorPosition) -> String {
        self.retained.keep(&self.state);
        PageCursor { commit: self.state.commit, order: self.order, position }.to_text()
    }

    /// Cursor after the last row of a scan that has ended.
    fn cursor_after(&self, scan: &AnyScan) -> Option<String> {
        match scan {
            AnyScan::One(scan) => self.cursor_of_one(scan.next_ts()?),
            AnyScan::Many(scan) => self.cursor_of_many(scan.next_row()?),
        }
    }

    /// Cursor before the row with this timestamp of the only series.
    fn cursor_of_one(&self, next: i64) -> Option<String> {
        let (start, end) = match self.order {
            RowOrder::Asc => (next, self.range.1),
            RowOrder::Desc => (self.range.0, next),
        };
        let series_id = *self.series_ids.first()?;
        Some(self.cursor(CursorPosition::One { series_id, start, end, query_hash: self.query_hash }))
    }

    /// Cursor before the row with this timestamp of the series at this position.
    fn cursor_of_many(&self, (position, ts): (usize, i64)) -> Option<String> {
        let series_id = *self.series_ids.get(position)?;
        Some(self.cursor(CursorPosition::Many { series_id, ts, query_hash: self.query_hash }))
    }
}

impl Iterator for AnyScan {
    type Item = Result<Block>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::One(scan) => scan.next(),
            Self::Many(scan) => scan.next(),
        }
    }
}

/// Rows and bytes returned so far; recorded in the metrics on drop.
#[derive(Debug, Default)]
struct ReadCounts {
    rows: u64,
    bytes: u64,
}

impl Drop for ReadCounts {
    fn drop(&mut self) {
        metrics::counter!("fastk_rows_read_total").increment(self.rows);
        metrics::histogram!("fastk_response_rows").record(self.rows as f64);
        metrics::histogram!("fastk_response_bytes").record(self.bytes as f64);
    }
}

impl Iterator for QueryResult {
    type Item = Result<Block>;

    fn next(&mut self) -> Option<Self::Item> {
        let block = self.buffered.pop_front().map(Ok).or_else(|| self.scan.next());
        if let Some(Ok(block)) = &block {
            self.counts.rows += block.rows() as u64;
            self.counts.bytes += block.bytes();
        }
        block
    }
}

impl QueryResult {
    /// Cursor after the last row returned, once the iterator has ended; `None` when no row is left. Its commit stays
    /// readable for `commit_retention_ms`.
    pub fn next_cursor(&self) -> Option<String> {
        self.resume.cursor_after(&self.scan)
    }

    /// The cursor before the first row is returned, for a result of [`Service::read_with_lookahead`].
    pub fn lookahead_cursor(&self) -> Option<&str> {
        self.lookahead_cursor.as_deref()
    }

    /// Statistics of the scan so far, when requested with `explain`; summed over several series.
    pub fn stats(&self) -> Option<ScanStats> {
        self.explain.then(|| match &self.scan {
            AnyScan::One(scan) => scan.stats(),
            AnyScan::Many(scan) => scan.stats(),
        })
    }

    /// The state that is read.
    pub fn state(&self) -> &Arc<StoreState> {
        &self.resume.state
    }
}

/// What GetFlightInfo reports of a query without reading its columns.
#[derive(Clone, Debug)]
pub struct QueryInfo {
    pub shape: ResultSchema,
    /// Exact; unknown under a predicate.
    pub total_records: Option<u64>,
    /// Bytes of the columns as sent, including the dictionary of the column `series`; unknown under a predicate, and
    /// for numbers as text.
    pub total_bytes: Option<u64>,
    /// One query per endpoint, pinned to the commit, in time order.
    pub endpoints: Vec<Query>,
    /// Whether concatenating the endpoints gives the order of the query: false when the range is split while one series
    /// follows the other.
    pub ordered: bool,
}

/// A query resolved against one state.
struct ResolvedQuery {
    state: Arc<StoreState>,
    /// At least one member, ordered by key.
    members: Vec<ScanMember>,
    limit: Option<u64>,
    order: RowOrder,
    layout: MultiLayout,
    shape: ResultSchema,
    query_hash: u64,
    /// The dataset that is read, `dataset:NAME@VERSION`.
    dataset: Option<String>,
}

impl ResolvedQuery {
    /// Whether rows carry the key of their series.
    fn is_many(&self) -> bool {
        self.shape.keys().is_some()
    }

    fn series_ids(&self) -> Vec<u64> {
        self.members.iter().map(|member| member.series.id).collect()
    }

    fn is_filtered(&self) -> bool {
        self.members.iter().any(|member| !member.filter.is_empty())
    }
}

/// Maximum number of endpoints of one query.
const ENDPOINTS_MAX: u64 = 256;
/// Maximum number of predicate ranges that all series of a merge by time hold together, 16 bytes each.
const MERGED_RANGES_MAX: usize = 4_000_000;
/// Maximum number of predicate values compiled for one query, once per distinct set of columns.
const COMPILED_VALUES_MAX: usize = 4_000_000;

/// Where a result continues. It is valid only for a query with the same hash.
struct PageCursor {
    commit: u64,
    order: RowOrder,
    position: CursorPosition,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CursorPosition {
    /// The rest of the range of the only series.
    One { series_id: u64, start: i64, end: i64, query_hash: u64 },
    /// The next row of several series. Their ranges follow from the query.
    Many { series_id: u64, ts: i64, query_hash: u64 },
}

impl PageCursor {
    fn to_text(&self) -> String {
        let order = if self.order == RowOrder::Asc { 'a' } else { 'd' };
        let body = match self.position {
            CursorPosition::One { series_id, start, end, query_hash } => {
                format!("{}.{series_id}.{start}.{end}.q{query_hash:016x}.{order}", self.commit)
            }
            CursorPosition::Many { series_id, ts, query_hash } => {
                format!("{}.{series_id}.{ts}.m{query_hash:016x}.{order}", self.commit)
            }
        };
        format!("{body}.{:08x}", crc32c::crc32c(body.as_bytes()))
    }

    fn from_text(text: &str) -> Option<Self> {
        let (body, crc) = text.rsplit_once('.')?;
        if format!("{:08x}", crc32c::crc32c(body.as_bytes())) != crc {
            return None;
        }
        let mut parts = body.split('.');
        let commit = parts.next()?.parse().ok()?;
        let series_id = parts.next()?.parse().ok()?;
        let first = parts.next()?.parse().ok()?;
        let second = parts.next()?;
        let position = match second.strip_prefix('m') {
            Some(query_hash) => {
                CursorPosition::Many { series_id, ts: first, query_hash: u64::from_str_radix(query_hash, 16).ok()? }
            }
            None => {
                let query_hash = u64::from_str_radix(parts.next()?.strip_prefix('q')?, 16).ok()?;
                CursorPosition::One { series_id, start: first, end: second.parse().ok()?, query_hash }
            }
        };
        let order = match parts.next()? {
            "a" => RowOrder::Asc,
            "d" => RowOrder::Desc,
            _ => return None,
        };
        parts.next().is_none().then_some(Self { commit, order, position })
    }
}

fn timestamp(what: &str, when: &TimeValue, unit: TimeUnit, bound: Bound) -> Result<i64> {
    match when {
        TimeValue::Epoch(ts) if time::in_range(*ts, unit) => Ok(*ts),
        TimeValue::Epoch(ts) => Err(Error::invalid(format!("{what} {ts} is outside 1678 to 2261 in {}", unit.name()))),
        TimeValue::Text(text) => time::parse_param(text, unit, bound).map_err(|error| {
            let named = Error::new(error.code(), error.detail().replacen("time ", &format!("{what} "), 1));
            error.hint().map_or(named.clone(), |hint| named.with_hint(hint))
        }),
    }
}

/// Whether the end of a range is before its start, at full precision.
fn ends_before(start: &TimeValue, end: &TimeValue, unit: TimeUnit) -> Result<bool> {
    let nanos_per_tick = 1_000_000_000 / unit.per_second();
    let nanos = |when: &TimeValue, bound: Bound| match when {
        TimeValue::Epoch(ts) => Ok(ts.saturating_mul(nanos_per_tick)),
        TimeValue::Text(text) => match text.parse::<i64>() {
            Ok(ts) => Ok(ts.saturating_mul(nanos_per_tick)),
            Err(_) => time::parse_param(text, TimeUnit::Ns, bound),
        },
    };
    // Values finer than nanoseconds are rounded up on both sides.
    let end = nanos(end, Bound::End)?.max(nanos(end, Bound::Start)?);
    Ok(end < nanos(start, Bound::Start)?)
}

/// The closed range of a request; `None` for a range between two ticks of the unit, which holds no timestamp.
///
/// # Errors
/// `invalid_argument` for text that is not a time, and for a start after the end.
pub fn range_of(def: &SeriesDef, start: Option<&TimeValue>, end: Option<&TimeValue>) -> Result<Option<(i64, i64)>> {
    let (first, last) = (start, end);
    let start = first.map(|when| timestamp("start", when, def.unit, Bound::Start)).transpose()?;
    let end = last.map(|when| timestamp("end", when, def.unit, Bound::End)).transpose()?;
    let range = (start.unwrap_or(i64::MIN), end.unwrap_or(i64::MAX));
    if range.0 <= range.1 {
        return Ok(Some(range));
    }
    if let (Some(first), Some(last)) = (first, last)
        && !ends_before(first, last, def.unit)?
    {
        return Ok(None);
    }
    Err(Error::invalid(format!("start {} is after end {}", range.0, range.1))
        .with_hint("ranges are closed: start <= end"))
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A bound in canonical form: a number in a URL is text, in JSON it need not be.
fn canonical_bound(when: Option<&TimeValue>) -> Option<String> {
    when.map(|when| match when {
        TimeValue::Epoch(ts) => ts.to_string(),
        TimeValue::Text(text) => text.parse::<i64>().map_or_else(|_| text.clone(), |ts| ts.to_string()),
    })
}

/// Hash of what determines the rows and their order: a cursor is valid only for the same hash. Columns, number format
/// and page length may change. The hash is the same in every process, since cursors outlive a process.
fn hash_query(query: &Query, dataset: Option<&str>) -> u64 {
    let Query { series, start, end, predicates, latest, latest_complete, layout, order, as_of, .. } = query;
    let conditions: Vec<String> = predicates.iter().flatten().map(Predicate::to_text).collect();
    let as_of = dataset.or(as_of.as_deref());
    // In a raw read the same text is a different value.
    let raw = query.numbers == NumberFormat::Raw && !conditions.is_empty();
    let (start, end, layout) =
        (canonical_bound(start.as_ref()), canonical_bound(end.as_ref()), layout.unwrap_or_default());
    let text = format!(
        "{series:?} {start:?} {end:?} {conditions:?} {raw} {latest:?} {latest_complete:?} {layout:?} {order:?} {as_of:?}"
    );
    xxh3_64(text.as_bytes())
}

fn columns_of(def: &SeriesDef, names: Option<&Vec<String>>) -> Result<Option<Vec<usize>>> {
    let Some(names) = names else { return Ok(None) };
    let mut columns = Vec::new();
    for name in names.iter().filter(|name| *name != "ts") {
        let position = def.column_named(name)?;
        if columns.contains(&position) {
            return Err(Error::invalid(format!("column {name:?} is listed twice")));
        }
        columns.push(position);
    }
    Ok(Some(columns))
}

/// A closed range of timestamps, and the conditions on its rows.
type Selected = ((i64, i64), Arc<Vec<KeyRanges>>);

impl Service {
    /// The single state that a query reads.
    ///
    /// `named` are the series listed without globs.
    fn state_of(&self, query: &Query, named: &[SeriesKey], cursor: Option<&PageCursor>) -> Result<AsOfView> {
        let at_commit = |commit| match named.len() == query.series.len() {
            true => self.store.at_commit_of(commit, named),
            false => self.store.at_commit(commit),
        };
        let requested = match (&query.as_of, query.commit) {
            (Some(_), Some(_)) => return Err(Error::invalid("as_of and commit exclude each other")),
            (Some(name), None) => {
                let view = self.view_as_of(name)?;
                Some((view.state.commit, Some(view)))
            }
            (None, commit) => commit.map(|commit| (commit, None)),
        };
        match (requested, cursor) {
            (Some((commit, _)), Some(cursor)) if cursor.commit != commit => {
                Err(Error::invalid(format!("the cursor belongs to commit {}, not {commit}", cursor.commit)))
            }
            (Some((_, Some(view))), _) => Ok(view),
            (Some((commit, None)), _) => at_commit(commit).map(AsOfView::from),
            (None, Some(cursor)) => at_commit(cursor.commit).map(AsOfView::from),
            (None, None) => Ok(self.store.snapshot().into()),
        }
    }

    /// The closed range and the conditions of one series of a query, ignoring a cursor.
    fn selection_of(
        &self,
        series: &SeriesState,
        query: &Query,
        filter: &Arc<Vec<KeyRanges>>,
        stop: &CancelFlag,
    ) -> Result<Selected> {
        if let Some(count) = query.latest_complete {
            let complete = self.latest_complete(series, query, count)?;
            let filter = match complete.filter {
                None => Arc::clone(filter),
                Some(open_times) => Arc::new(filter.iter().cloned().chain([open_times]).collect()),
            };
            return Ok((complete.range, filter));
        }
        let Some((start, end)) = range_of(&series.def, query.start.as_ref(), query.end.as_ref())? else {
            return Ok((EMPTY_RANGE, Arc::clone(filter)));
        };
        let range = match query.latest {
            None => (start, end),
            Some(count) => {
                let cache = self.store.cache();
                (latest_start_until(series, cache, (start, end), count, filter, stop)?, end)
            }
        };
        Ok((range, Arc::clone(filter)))
    }

    fn resolve(&self, query: &Query) -> Result<ResolvedQuery> {
        self.resolve_until(query, &CancelFlag::default())
    }

    /// Like [`resolve`](Self::resolve), cancellable through `stop` with `deadline_exceeded`.
    fn resolve_until(&self, query: &Query, stop: &CancelFlag) -> Result<ResolvedQuery> {
        for (what, value) in
            [("limit", query.limit), ("latest", query.latest), ("latest_complete", query.latest_complete)]
        {
            if value == Some(0) {
                return Err(Error::invalid(format!("{what} must be at least 1")));
            }
        }
        let cursor = match &query.cursor {
            None => None,
            Some(text) => Some(
                PageCursor::from_text(text)
                    .ok_or_else(|| Error::invalid(format!("cursor {text:?} is not a cursor of this server")))?,
            ),
        };
        self.caller.require_scope(Scope::Read)?;
        // A series listed by name is checked whether or not it exists; globs select only series the caller can see.
        let named = query.series.iter().filter(|text| !text.contains('*')).map(|text| SeriesKey::parse(text));
        let named = named.collect::<Result<Vec<_>>>()?;
        named.iter().try_for_each(|key| self.caller.require_series(Scope::Read, key))?;
        let view = self.state_of(query, &named, cursor.as_ref())?;
        named.iter().try_for_each(|key| view.check(key))?;
        let selection =
            select(&view.state, &query.series, &|key| self.caller.can_see(key) && view.has(key)).map_err(|error| {
                match named.iter().find(|key| view.state.get(key).is_none()) {
                    Some(key) => self.with_similar(error, key, &view.state),
                    None => error,
                }
            })?;
        let dataset = view.dataset();
        let state = view.state;
        let query_hash = hash_query(query, dataset.as_deref());
        let resolved = match selection {
            Selection::One(series) => self.resolve_one(query, state, series, query_hash, cursor.as_ref(), stop),
            Selection::Many(series) => self.resolve_many(query, state, &series, query_hash, cursor.as_ref(), stop),
        }?;
        Ok(ResolvedQuery { dataset, ..resolved })
    }

    fn resolve_one(
        &self,
        query: &Query,
        state: Arc<StoreState>,
        series: Arc<SeriesState>,
        query_hash: u64,
        cursor: Option<&PageCursor>,
        stop: &CancelFlag,
    ) -> Result<ResolvedQuery> {
        let columns = columns_of(&series.def, query.columns.as_ref())?;
        let predicates = query.predicates.as_deref().unwrap_or_default();
        let filter = Arc::new(predicate::compile(&series.def, predicates, query.numbers)?);
        let (full_range, filter) = self.selection_of(&series, query, &filter, stop)?;
        let range = match cursor {
            Some(PageCursor {
                position: CursorPosition::One { series_id, start, end, query_hash: cursor_hash },
                ..
            }) if *series_id == series.id && *cursor_hash == query_hash => (*start, *end),
            Some(_) => return Err(foreign_cursor()),
            None => full_range,
        };
        let shape = ResultSchema::of(&series.def, columns.as_deref(), query.numbers, series.version, state.commit);
        let columns = columns.unwrap_or_else(|| (0..series.def.columns.len()).collect());
        let member = ScanMember { series, range, columns, casts: Vec::new(), filter, stop: CancelFlag::default() };
        Ok(ResolvedQuery {
            state,
            members: vec![member],
            limit: query.limit,
            order: query.order,
            layout: MultiLayout::BySeries,
            shape,
            query_hash,
            dataset: None,
        })
    }

    fn resolve_many(
        &self,
        query: &Query,
        state: Arc<StoreState>,
        series: &[Arc<SeriesState>],
        query_hash: u64,
        cursor: Option<&PageCursor>,
        stop: &CancelFlag,
    ) -> Result<ResolvedQuery> {
        let layout = query.layout.unwrap_or_default();
        let defs: Vec<&SeriesDef> = series.iter().map(|series| series.def.as_ref()).collect();
        let common = multi::common(&defs, query.columns.as_deref(), query.numbers)?;
        let predicates = query.predicates.as_deref().unwrap_or_default();
        if query.numbers == NumberFormat::Raw {
            // A scalar may omit the name of its only column.
            let only = defs.first().and_then(|def| def.columns.first()).map(|column| column.name.as_str());
            let names: Vec<&str> = predicates.iter().filter_map(|p| p.column.as_deref().or(only)).collect();
            multi::check_raw(&defs, &names)?;
        }
        let mut members: Vec<ScanMember> = Vec::with_capacity(series.len());
        // Thousands of series mostly have the same columns: predicates are compiled once for them.
        let mut compiled: HashMap<&[Column], Arc<Vec<KeyRanges>>> = HashMap::new();
        let mut values_left = COMPILED_VALUES_MAX;
        for (series, (columns, casts)) in series.iter().zip(common.members) {
            let filter = match compiled.get(series.def.columns.as_slice()) {
                Some(filter) => Arc::clone(filter),
                None => {
                    stop.check()?;
                    let filter = Arc::new(predicate::compile(&series.def, predicates, query.numbers)?);
                    let values: usize = filter.iter().map(|filter| filter.ranges.len()).sum();
                    values_left = values_left.checked_sub(values).ok_or_else(|| {
                        let detail =
                            format!("{values} predicate values are too many for series with so many different columns");
                        Error::new(ErrorCode::TooLarge, detail).with_hint("query fewer series, or with fewer values")
                    })?;
                    compiled.insert(&series.def.columns, Arc::clone(&filter));
                    filter
                }
            };
            members.push(ScanMember {
                series: Arc::clone(series),
                range: (0, 0),
                columns,
                casts,
                filter,
                stop: CancelFlag::default(),
            });
        }
        if layout == MultiLayout::ByTime {
            let ranges = |member: &ScanMember| member.filter.iter().map(|filter| filter.ranges.len()).sum::<usize>();
            let ranges_total: usize = members.iter().map(ranges).sum();
            if ranges_total > MERGED_RANGES_MAX {
                let detail =
                    format!("a merge by time of {} series needs {ranges_total} predicate values", members.len());
                return Err(Error::new(ErrorCode::TooLarge, detail).with_hint("use layout by_series or fewer values"));
            }
        }
        for member in &mut members {
            stop.check()?;
            (member.range, member.filter) = self.selection_of(&member.series, query, &member.filter, stop)?;
        }
        // Built from every series, read or not: labels index the same dictionary on every page.
        let shape = multi::result_schema(&query.series, &members, common.columns, query.numbers, state.commit);
        if let Some(cursor) = cursor {
            apply_cursor(&mut members, cursor, layout, query.order, query_hash)?;
        }
        let (limit, order) = (query.limit, query.order);
        Ok(ResolvedQuery { state, members, limit, order, layout, shape, query_hash, dataset: None })
    }

    /// Whether a query is simple and its rows are few and in memory: then reading them does not block.
    pub fn is_in_memory(&self, query: &Query) -> bool {
        let Query { predicates, latest_complete, as_of, commit, cursor, .. } = query;
        let is_plain = predicates.as_ref().is_none_or(Vec::is_empty)
            && latest_complete.is_none()
            && as_of.is_none()
            && commit.is_none()
            && cursor.is_none();
        // Lists and globs are resolved on a blocking thread.
        if !is_plain || !matches!(query.series.as_slice(), [only] if !only.contains('*')) {
            return false;
        }
        let Ok(Selection::One(series)) = select(&self.store.snapshot(), &query.series, &|_| true) else {
            return false;
        };
        let Ok(Some((start, end))) = range_of(&series.def, query.start.as_ref(), query.end.as_ref()) else {
            return false;
        };
        let first = query.latest.map_or(start, |rows| series.start_of_last((start, end), rows));
        if query.latest.is_some() && first > start && !series.counts_hold((first, end)) {
            return false;
        }
        series.is_at_hand((first, end))
    }

    /// Starts a read; the iterator returns the rows.
    ///
    /// # Errors
    /// `series_not_found`, `snapshot_not_found`, `invalid_argument`, `schema_mismatch` for an unknown column or series
    /// with incompatible columns, `too_large`, `commit_gone`; the iterator fails with `corrupt_data` when a stored
    /// block fails its checksum, and with `schema_mismatch` when a cell does not fit the digits that several series
    /// have in common.
    pub fn read(&self, query: &Query) -> Result<QueryResult> {
        self.read_until(query, &CancelFlag::default())
    }

    /// Like [`read`](Self::read), cancellable through `stop` with `deadline_exceeded`.
    pub fn read_until(&self, query: &Query, stop: &CancelFlag) -> Result<QueryResult> {
        self.start(query, stop, false)
    }

    /// Like [`read_until`](Self::read_until), and determines whether rows are left beyond the limit: see
    /// [`QueryResult::lookahead_cursor`]. Up to [`LOOKAHEAD_ROWS_MAX`] rows are buffered before the first is returned;
    /// for larger limits the timestamps, and the columns of the predicates, are read twice.
    pub fn read_with_lookahead(&self, query: &Query, stop: &CancelFlag) -> Result<QueryResult> {
        self.start(query, stop, true)
    }

    fn start(&self, query: &Query, stop: &CancelFlag, with_lookahead: bool) -> Result<QueryResult> {
        let mut resolved = self.resolve_until(query, stop)?;
        resolved.members.iter_mut().for_each(|member| member.stop = stop.clone());
        let etag_stem = self.stem_of(&resolved);
        let series_ids = resolved.series_ids();
        let range = resolved.members.first().map_or((0, 0), |member| member.range);
        let (state, retained) = (Arc::clone(&resolved.state), Arc::clone(self.store.pins()));
        let (order, query_hash, shape) = (resolved.order, resolved.query_hash, resolved.shape.clone());
        let resume = CursorState { state, retained, series_ids, range, order, query_hash };
        let lookahead_rows = resolved.limit.filter(|_| with_lookahead);
        let mut lookahead_cursor = None;
        if lookahead_rows.is_some_and(|rows| rows > LOOKAHEAD_ROWS_MAX) {
            let without_columns =
                |member: &ScanMember| ScanMember { columns: Vec::new(), casts: Vec::new(), ..member.clone() };
            let mut scan = self.scan(resolved.members.iter().map(without_columns).collect(), &resolved)?;
            scan.by_ref().try_for_each(|block| block.map(drop))?;
            lookahead_cursor = resume.cursor_after(&scan);
        }
        let members = std::mem::take(&mut resolved.members);
        let mut scan = self.scan(members, &resolved)?;
        let mut buffered = VecDeque::new();
        if lookahead_rows.is_some_and(|rows| rows <= LOOKAHEAD_ROWS_MAX) {
            buffered = scan.by_ref().collect::<Result<_>>()?;
            lookahead_cursor = resume.cursor_after(&scan);
        }
        Ok(QueryResult {
            shape,
            etag_stem,
            scan,
            buffered,
            explain: query.explain,
            resume,
            lookahead_cursor,
            counts: ReadCounts::default(),
        })
    }

    fn scan(&self, mut members: Vec<ScanMember>, resolved: &ResolvedQuery) -> Result<AnyScan> {
        let ResolvedQuery { limit, order, layout, .. } = *resolved;
        let cache = self.store.cache();
        if resolved.is_many() {
            return Ok(AnyScan::Many(Box::new(MultiScan::new(members, cache, layout, order, limit))));
        }
        let member = members.pop().ok_or_else(|| Error::internal("a read of no series"))?;
        let spec = ScanSpec {
            range: member.range,
            desc: order == RowOrder::Desc,
            limit,
            columns: Some(member.columns),
            filter: member.filter.as_ref().clone(),
        };
        Ok(AnyScan::One(Box::new(Scan::new(&member.series, cache, &spec).stopped_by(member.stop))))
    }

    /// Entity tag up to its format part, without quotes. For several series it changes when any of them does.
    fn stem_of(&self, resolved: &ResolvedQuery) -> String {
        match resolved.members.as_slice() {
            [only] if !resolved.is_many() => self.stem(only.series.id, only.series.version),
            members => {
                let all: Vec<(u64, u64)> = members.iter().map(|m| (m.series.id, m.series.version)).collect();
                format!("{}-m{}-{:016x}-", self.store.epoch(), all.len(), hash_of(&all))
            }
        }
    }

    /// Schema, exact size and endpoints of a query; its commit is retained so that the endpoints can be read.
    pub fn plan(&self, query: &Query) -> Result<QueryInfo> {
        let resolved = self.resolve(query)?;
        let total_records = if resolved.is_filtered() {
            None
        } else {
            let mut rows = 0_u64;
            for member in &resolved.members {
                if member.range.0 <= member.range.1 {
                    rows = rows.saturating_add(member.series.count_rows(self.store.cache(), member.range)?);
                }
            }
            Some(resolved.limit.map_or(rows, |limit| rows.min(limit)))
        };
        let (label_bytes, word_bytes) = match resolved.shape.keys() {
            // Dictionary indices, and once the offsets and bytes of the dictionary.
            Some(keys) => (4, keys.iter().flatten().map(|key| key.len() as u64 + 4).sum::<u64>() + 4),
            None => (0, 0),
        };
        let cells = resolved.shape.columns.iter().map(|column| cell_bytes(column.kind, query.numbers)).sum::<u64>();
        let row_bytes = label_bytes + 8 + cells;
        self.store.pins().keep(&resolved.state);
        // The commit identifies the snapshot and is readable as long as it. A dataset also restricts the series.
        let (commit, as_of) = match &resolved.dataset {
            None => (Some(resolved.state.commit), None),
            dataset => (None, dataset.clone()),
        };
        let pinned = Query { commit, as_of, endpoints: None, ..query.clone() };
        let endpoints_wanted = query.endpoints.unwrap_or(1);
        if endpoints_wanted == 0 || endpoints_wanted > ENDPOINTS_MAX {
            return Err(Error::invalid(format!("endpoints {endpoints_wanted} is outside 1 to {ENDPOINTS_MAX}")));
        }
        // The last rows of each of several series do not form a common time range.
        let is_indivisible = query.limit.is_some()
            || query.latest_complete.is_some()
            || query.cursor.is_some()
            || query.order == RowOrder::Desc
            || (query.latest.is_some() && resolved.is_many());
        let endpoints: Vec<Query> = match span_of(&resolved.members) {
            Some((start, end)) if endpoints_wanted > 1 && !is_indivisible => split(start, end, endpoints_wanted)
                .into_iter()
                .map(|(start, end)| Query {
                    start: Some(TimeValue::Epoch(start)),
                    end: Some(TimeValue::Epoch(end)),
                    latest: None,
                    ..pinned.clone()
                })
                .collect(),
            _ => vec![pinned],
        };
        let ordered = endpoints.len() == 1 || resolved.layout == MultiLayout::ByTime || !resolved.is_many();
        let is_text = query.numbers == NumberFormat::String && !resolved.shape.columns.is_empty();
        let total_bytes = total_records.filter(|_| !is_text).map(|rows| rows * row_bytes + word_bytes);
        Ok(QueryInfo { shape: resolved.shape, total_records, total_bytes, endpoints, ordered })
    }
}

fn foreign_cursor() -> Error {
    Error::invalid("the cursor belongs to another query: series, range, where, latest, order, layout or as_of differ")
        .with_hint("repeat the query that returned the cursor; only columns, numbers, limit and the format may change")
}

/// A range without timestamps.
const EMPTY_RANGE: (i64, i64) = (i64::MAX, i64::MIN);

/// Removes from the ranges of several series what precedes a cursor.
fn apply_cursor(
    members: &mut [ScanMember],
    cursor: &PageCursor,
    layout: MultiLayout,
    order: RowOrder,
    query_hash: u64,
) -> Result<()> {
    let CursorPosition::Many { series_id, ts, query_hash: cursor_hash } = cursor.position else {
        return Err(foreign_cursor());
    };
    let at = members.iter().position(|member| member.series.id == series_id);
    let Some(at) = at.filter(|_| cursor_hash == query_hash && cursor.order == order) else {
        return Err(foreign_cursor());
    };
    for (position, member) in members.iter_mut().enumerate() {
        // By time, a series before that of the next row has already returned its row with this timestamp.
        let (is_done, is_returned) = match layout {
            MultiLayout::BySeries if position != at => (position < at, false),
            MultiLayout::BySeries => (false, false),
            MultiLayout::ByTime => (false, position < at),
        };
        if is_done {
            member.range = EMPTY_RANGE;
        } else if layout == MultiLayout::ByTime || position == at {
            match order {
                RowOrder::Asc => member.range.0 = member.range.0.max(ts.saturating_add(i64::from(is_returned))),
                RowOrder::Desc => member.range.1 = member.range.1.min(ts.saturating_sub(i64::from(is_returned))),
            }
            if member.range.0 > member.range.1 {
                member.range = EMPTY_RANGE;
            }
        }
    }
    Ok(())
}

/// First and last timestamp within the range of any series; `None` when none has a row in its range.
fn span_of(members: &[ScanMember]) -> Option<(i64, i64)> {
    let span_of_member = |member: &ScanMember| {
        let (first, last) = member.series.bounds?;
        let span = (member.range.0.max(first), member.range.1.min(last));
        (span.0 <= span.1).then_some(span)
    };
    members.iter().filter_map(span_of_member).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
}

/// Bytes of a cell as sent, except as text.
fn cell_bytes(kind: ColumnType, numbers: NumberFormat) -> u64 {
    if numbers == NumberFormat::Decimal128 && kind.digits().is_some() { 16 } else { 8 }
}

/// Splits a closed range into `parts` adjacent closed ranges of similar length.
fn split(start: i64, end: i64, parts: u64) -> Vec<(i64, i64)> {
    if start > end {
        return vec![(start, start)];
    }
    let span = i128::from(end) - i128::from(start) + 1;
    let parts = i128::from(parts).min(span);
    let part_start = |part: i128| i64::try_from(i128::from(start) + span * part / parts).unwrap_or(i64::MAX);
    let mut ranges = Vec::new();
    let mut part = 0;
    while part < parts {
        let last = if part + 1 == parts { end } else { part_start(part + 1) - 1 };
        ranges.push((part_start(part), last));
        part += 1;
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn cursors_round_trip_as_text_and_reject_modified_ones() {
        for position in [
            CursorPosition::One { series_id: 2, start: -3, end: i64::MAX, query_hash: 0 },
            CursorPosition::One { series_id: 2, start: i64::MIN, end: 7, query_hash: u64::MAX },
            CursorPosition::Many { series_id: 2, ts: -3, query_hash: u64::MAX - 7 },
            CursorPosition::Many { series_id: 2, ts: i64::MAX, query_hash: 0 },
        ] {
            let text = PageCursor { commit: 5, order: RowOrder::Desc, position }.to_text();
            let back = PageCursor::from_text(&text).unwrap();
            assert_eq!((back.commit, back.order, back.position), (5, RowOrder::Desc, position));
            assert!(PageCursor::from_text(&text.replacen('5', "6", 1)).is_none());
        }
        assert!(PageCursor::from_text("garbage").is_none());
    }
}
