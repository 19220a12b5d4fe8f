//! Reads: who may plan which query, the state it reads, and its result with cursors and metrics.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::cancel::CancelFlag;
use crate::error::{Error, Result};
use crate::query::{
    Block, Planner, Query, ReadPlan, ResultScan, ResultSchema, RowOrder, ScanStats, Subject, TimeValue,
};
use crate::service::caller::Scope;
use crate::service::cursor::{PageCursor, foreign_cursor, hash_query};
use crate::service::registry::as_of::AsOfView;
use crate::service::shared::Service;
use crate::store::{RetainedCommits, StoreState};
use crate::types::SeriesKey;

/// Maximum number of rows read before the first is returned, when it must be known whether more follow: 3 MiB of bars.
const LOOKAHEAD_ROWS_MAX: u64 = 65_536;
/// Maximum number of cells of these rows, of a panel.
const LOOKAHEAD_CELLS_MAX: u64 = 1_048_576;
/// Maximum number of endpoints of one query.
const ENDPOINTS_MAX: u64 = 256;

/// The rows of one result, block by block, in the order of the query.
///
/// Holds its state: the files it reads exist until it is dropped.
#[derive(Debug)]
pub struct QueryResult {
    pub shape: ResultSchema,
    /// `"<store epoch>-<series id>-<version>-"`: the entity tag up to its format part, without quotes. For several
    /// series: their number and a hash of all ids and versions.
    pub etag_stem: String,
    scan: ResultScan,
    /// Blocks read in advance; they come first.
    buffered: VecDeque<Block>,
    explain: bool,
    resume: ResumeContext,
    /// The cursor after the last row, when it was determined in advance.
    lookahead_cursor: Option<String>,
    counts: ReadCounts,
}

/// What a cursor contains in addition to its position.
#[derive(Debug)]
struct ResumeContext {
    state: Arc<StoreState>,
    retained: Arc<RetainedCommits>,
    order: RowOrder,
    query_hash: u64,
}

impl ResumeContext {
    /// Cursor after the last row of a scan that has ended; keeps its commit readable.
    fn cursor_after(&self, scan: &ResultScan) -> Option<String> {
        let position = scan.next_position()?;
        self.retained.keep(&self.state);
        let (commit, order, query_hash) = (self.state.commit, self.order, self.query_hash);
        Some(PageCursor { commit, order, position, query_hash }.to_text())
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
        self.explain.then(|| self.scan.stats())
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
    /// Bytes of the columns as sent; unknown under a predicate, and for numbers as text.
    pub total_bytes: Option<u64>,
    /// One query per endpoint, pinned to the commit, in time order.
    pub endpoints: Vec<Query>,
    /// Whether concatenating the endpoints gives the order of the query: false when the range is split while one series
    /// follows the other.
    pub ordered: bool,
}

/// A plan that the caller may read.
struct PermittedPlan {
    plan: ReadPlan,
    query_hash: u64,
    /// The dataset that is read, `dataset:NAME@VERSION`.
    dataset: Option<String>,
}

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

    /// Plans a query that the caller may read, from its cursor on.
    fn permitted_plan(&self, query: &Query, stop: &CancelFlag) -> Result<PermittedPlan> {
        let cursor = PageCursor::of(query)?;
        self.caller.require_scope(Scope::Read)?;
        // A series listed by name is checked whether or not it exists; globs select only series the caller can see.
        let named = query.series.iter().filter(|text| !text.contains('*')).map(|text| SeriesKey::parse(text));
        let named = named.collect::<Result<Vec<_>>>()?;
        named.iter().try_for_each(|key| self.caller.require_series(Scope::Read, key))?;
        let view = self.state_of(query, &named, cursor.as_ref())?;
        named.iter().try_for_each(|key| view.check(key))?;
        let planner = Planner { state: &view.state, cache: self.store.cache(), stop };
        let mut plan = planner.plan(query, &|key| self.caller.can_see(key) && view.has(key)).map_err(|error| {
            match named.iter().find(|key| view.state.get(key).is_none()) {
                Some(key) => self.with_similar(error, key, &view.state),
                None => error,
            }
        })?;
        let dataset = view.dataset();
        let query_hash = hash_query(query, dataset.as_deref());
        if let Some(cursor) = cursor
            && (cursor.query_hash != query_hash || cursor.order != query.order || !plan.resume(cursor.position))
        {
            return Err(foreign_cursor());
        }
        Ok(PermittedPlan { plan, query_hash, dataset })
    }

    /// Whether a query is simple and its rows are few and in memory: then reading them does not block.
    pub fn is_in_memory(&self, query: &Query) -> bool {
        let (state, stop) = (self.store.snapshot(), CancelFlag::default());
        Planner { state: &state, cache: self.store.cache(), stop: &stop }.is_in_memory(query)
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
        self.start(query, stop, None)
    }

    /// Like [`read_until`](Self::read_until), and determines whether rows are left beyond the limit: see
    /// [`QueryResult::lookahead_cursor`]. Up to [`LOOKAHEAD_ROWS_MAX`] rows are buffered before the first is returned;
    /// for larger limits the timestamps, and the columns of the predicates, are read twice.
    pub fn read_with_lookahead(&self, query: &Query, stop: &CancelFlag) -> Result<QueryResult> {
        self.start(query, stop, query.limit)
    }

    fn start(&self, query: &Query, stop: &CancelFlag, lookahead_rows: Option<u64>) -> Result<QueryResult> {
        let PermittedPlan { plan, query_hash, .. } = self.permitted_plan(query, stop)?;
        let (state, retained) = (Arc::clone(plan.state()), Arc::clone(self.store.retained_commits()));
        let resume = ResumeContext { state, retained, order: query.order, query_hash };
        let mut lookahead_cursor = None;
        // Rows of one timestamp can exceed the limit by any number.
        let cells = plan.row_bounds().end().saturating_mul(plan.schema().columns.len() as u64);
        let is_buffered = lookahead_rows.is_some()
            && *plan.row_bounds().end() <= LOOKAHEAD_ROWS_MAX
            && (!plan.is_panel() || cells <= LOOKAHEAD_CELLS_MAX);
        if lookahead_rows.is_some() && !is_buffered {
            let mut scan = plan.without_columns().scan();
            scan.by_ref().try_for_each(|block| block.map(drop))?;
            lookahead_cursor = resume.cursor_after(&scan);
        }
        let etag_stem = self.stem_of(&plan);
        let (shape, mut scan) = plan.into_result();
        let mut buffered = VecDeque::new();
        if is_buffered {
            buffered = scan.by_ref().collect::<Result<_>>()?;
            lookahead_cursor = resume.cursor_after(&scan);
        }
        let (explain, counts) = (query.explain, ReadCounts::default());
        Ok(QueryResult { shape, etag_stem, scan, buffered, explain, resume, lookahead_cursor, counts })
    }

    /// Entity tag up to its format part, without quotes. For several series it changes when any of them does.
    fn stem_of(&self, plan: &ReadPlan) -> String {
        let mut series = plan.series();
        match (&plan.schema().subject, series.next()) {
            (Subject::One { .. }, Some(only)) => self.stem(only.id, only.version),
            _ => {
                let all: Vec<(u64, u64)> = plan.series().map(|series| (series.id, series.version)).collect();
                let mut hasher = DefaultHasher::new();
                all.hash(&mut hasher);
                format!("{}-m{}-{:016x}-", self.store.epoch(), all.len(), hasher.finish())
            }
        }
    }

    /// The schema of a result.
    pub fn result_schema(&self, query: &Query) -> Result<ResultSchema> {
        Ok(self.permitted_plan(query, &CancelFlag::default())?.plan.schema().clone())
    }

    /// Schema, exact size and endpoints of a query; its commit is retained so that the endpoints can be read.
    pub fn plan(&self, query: &Query) -> Result<QueryInfo> {
        let endpoints_wanted = query.endpoints.unwrap_or(1);
        if endpoints_wanted == 0 || endpoints_wanted > ENDPOINTS_MAX {
            return Err(Error::invalid(format!("endpoints {endpoints_wanted} is outside 1 to {ENDPOINTS_MAX}")));
        }
        let PermittedPlan { plan, dataset, .. } = self.permitted_plan(query, &CancelFlag::default())?;
        let total_records = plan.count_rows()?;
        self.store.retained_commits().keep(plan.state());
        // The commit identifies the snapshot and is readable as long as it. A dataset also restricts the series.
        let commit = if dataset.is_none() { Some(plan.state().commit) } else { None };
        let pinned = Query { commit, as_of: dataset, endpoints: None, ..query.clone() };
        let endpoints: Vec<Query> = match plan.split(endpoints_wanted) {
            None => vec![pinned],
            Some(ranges) => {
                let endpoint = |(start, end)| Query {
                    start: Some(TimeValue::Epoch(start)),
                    end: Some(TimeValue::Epoch(end)),
                    latest: None,
                    ..pinned.clone()
                };
                ranges.into_iter().map(endpoint).collect()
            }
        };
        Ok(QueryInfo {
            ordered: endpoints.len() == 1 || plan.is_ordered_by_time(),
            total_bytes: total_records.and_then(|rows| plan.bytes_of(rows)),
            shape: plan.schema().clone(),
            total_records,
            endpoints,
        })
    }
}
