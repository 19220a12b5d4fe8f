//! Reading: the query object becomes a pinned, bounded scan.

use std::sync::Arc;

use super::Service;
use crate::error::{Error, ErrorCode, Result};
use crate::query::{
    Block, KeyRanges, Numbers, Order, Query, Scan, ScanSpec, ScanStats, Shape, When, latest_start, predicate,
};
use crate::store::{Pins, SeriesState, State};
use crate::types::time::{self, Bound};
use crate::types::{ColumnType, SeriesDef, SeriesKey, TimeUnit};

/// The rows of one answer, block by block, in the order of the query.
///
/// Under `desc` the rows inside a block fall, else they rise. Holds its snapshot: files stay until it is dropped.
#[derive(Debug)]
pub struct Answer {
    pub shape: Shape,
    /// `"<store epoch>-<series id>-<version>-"`: the entity tag up to its format part, without quotes.
    pub etag_stem: String,
    scan: Scan,
    explain: bool,
    resume: Resume,
}

/// What a cursor says besides where to go on.
#[derive(Clone, Debug)]
struct Resume {
    state: Arc<State>,
    pins: Arc<Pins>,
    series_id: u64,
    range: (i64, i64),
    order: Order,
}

impl Iterator for Answer {
    type Item = Result<Block>;

    fn next(&mut self) -> Option<Self::Item> {
        self.scan.next()
    }
}

impl Answer {
    /// Continues after the last row given, once the iterator has ended; `None` when nothing is left. Its
    /// commit stays readable for `history_keep_ms`.
    pub fn next_cursor(&self) -> Option<String> {
        let next = self.scan.next_ts()?;
        self.resume.pins.keep(&self.resume.state);
        let (start, end) = match self.resume.order {
            Order::Asc => (next, self.resume.range.1),
            Order::Desc => (self.resume.range.0, next),
        };
        Some(
            Cursor {
                commit: self.resume.state.commit,
                series_id: self.resume.series_id,
                start,
                end,
                order: self.resume.order,
            }
            .to_text(),
        )
    }

    /// How the answer was found, so far; asked for with `explain`.
    pub fn stats(&self) -> Option<ScanStats> {
        self.explain.then(|| self.scan.stats())
    }

    /// The state that is answered.
    pub fn state(&self) -> &Arc<State> {
        &self.resume.state
    }
}

/// What GetFlightInfo tells of an answer without reading its columns.
#[derive(Clone, Debug)]
pub struct Plan {
    pub shape: Shape,
    /// Exact; unknown under a predicate.
    pub total_records: Option<u64>,
    /// Bytes of the columns as they are sent; unknown under a predicate.
    pub total_bytes: Option<u64>,
    /// One query per endpoint, pinned to the commit, in time order.
    pub endpoints: Vec<Query>,
}

/// A query against one state.
struct Resolved {
    state: Arc<State>,
    series: Arc<SeriesState>,
    range: (i64, i64),
    columns: Option<Vec<usize>>,
    filter: Vec<KeyRanges>,
    limit: Option<u64>,
    order: Order,
    shape: Shape,
}

/// Most endpoints of one answer.
const ENDPOINTS_MAX: u64 = 256;

struct Cursor {
    commit: u64,
    series_id: u64,
    start: i64,
    end: i64,
    order: Order,
}

impl Cursor {
    fn to_text(&self) -> String {
        let order = if self.order == Order::Asc { 'a' } else { 'd' };
        let body = format!("{}.{}.{}.{}.{order}", self.commit, self.series_id, self.start, self.end);
        format!("{body}.{:08x}", crc32c::crc32c(body.as_bytes()))
    }

    fn from_text(text: &str) -> Option<Self> {
        let (body, crc) = text.rsplit_once('.')?;
        if format!("{:08x}", crc32c::crc32c(body.as_bytes())) != crc {
            return None;
        }
        let mut parts = body.split('.');
        let cursor = Self {
            commit: parts.next()?.parse().ok()?,
            series_id: parts.next()?.parse().ok()?,
            start: parts.next()?.parse().ok()?,
            end: parts.next()?.parse().ok()?,
            order: match parts.next()? {
                "a" => Order::Asc,
                "d" => Order::Desc,
                _ => return None,
            },
        };
        parts.next().is_none().then_some(cursor)
    }
}

fn timestamp(what: &str, when: &When, unit: TimeUnit, bound: Bound) -> Result<i64> {
    match when {
        When::Epoch(ts) if time::in_range(*ts, unit) => Ok(*ts),
        When::Epoch(ts) => Err(Error::invalid(format!("{what} {ts} lies outside 1678 to 2261 in {}", unit.name()))),
        When::Text(text) => {
            time::parse_param(text, unit, bound).map_err(|error| Error::invalid(format!("{what}: {}", error.detail())))
        }
    }
}

/// The closed range a caller asks for.
pub fn range_of(def: &SeriesDef, start: Option<&When>, end: Option<&When>) -> Result<(i64, i64)> {
    let start = start.map(|when| timestamp("start", when, def.unit, Bound::Start)).transpose()?;
    let end = end.map(|when| timestamp("end", when, def.unit, Bound::End)).transpose()?;
    let range = (start.unwrap_or(i64::MIN), end.unwrap_or(i64::MAX));
    if range.0 > range.1 {
        return Err(Error::invalid(format!("start {} lies after end {}", range.0, range.1))
            .with_hint("ranges are closed: start <= end"));
    }
    Ok(range)
}

fn unimplemented(what: &str) -> Error {
    Error::new(ErrorCode::Unimplemented, format!("{what} is not offered by this version"))
}

fn check_offered(query: &Query) -> Result<()> {
    match query.layout.as_deref() {
        None | Some("by_series") => Ok(()),
        Some(_) => Err(unimplemented("layout by_time")),
    }
}

fn series_key(query: &Query) -> Result<SeriesKey> {
    match query.series.as_slice() {
        [] => Err(Error::invalid("series names no series")),
        [one] if one.contains('*') => Err(unimplemented("a glob of series")),
        [one] => SeriesKey::parse(one),
        _ => Err(unimplemented("a query over several series")),
    }
}

fn columns_of(def: &SeriesDef, names: Option<&Vec<String>>) -> Result<Option<Vec<usize>>> {
    let Some(names) = names else { return Ok(None) };
    let mut columns = Vec::new();
    for name in names.iter().filter(|name| *name != "ts") {
        let position = def.column(name).ok_or_else(|| {
            let known: Vec<&str> = def.columns.iter().map(|column| column.name.as_str()).collect();
            Error::new(ErrorCode::SchemaMismatch, format!("series {} has no column {name:?}", def.key))
                .with_hint(format!("it has ts, {}", known.join(", ")))
        })?;
        if columns.contains(&position) {
            return Err(Error::invalid(format!("column {name:?} is named twice")));
        }
        columns.push(position);
    }
    Ok(Some(columns))
}

impl Service {
    /// The one state a query is answered from.
    fn state_of(&self, query: &Query, cursor: Option<&Cursor>) -> Result<Arc<State>> {
        let asked = match (&query.as_of, query.commit) {
            (Some(_), Some(_)) => return Err(Error::invalid("as_of and commit each name a state; give one of them")),
            (Some(name), None) => {
                let state = self.store.as_of(name)?;
                Some((state.commit, Some(state)))
            }
            (None, commit) => commit.map(|commit| (commit, None)),
        };
        match (asked, cursor) {
            (Some((commit, _)), Some(cursor)) if cursor.commit != commit => {
                Err(Error::invalid(format!("the cursor is of commit {}, not {commit}", cursor.commit)))
            }
            (Some((_, Some(state))), _) => Ok(state),
            (Some((commit, None)), _) => self.store.at_commit(commit),
            (None, Some(cursor)) => self.store.at_commit(cursor.commit),
            (None, None) => Ok(self.store.snapshot()),
        }
    }

    fn resolve(&self, query: &Query) -> Result<Resolved> {
        check_offered(query)?;
        let key = series_key(query)?;
        for (what, value) in
            [("limit", query.limit), ("latest", query.latest), ("latest_complete", query.latest_complete)]
        {
            if value == Some(0) {
                return Err(Error::invalid(format!("{what} is 0")));
            }
        }
        let cursor = match &query.cursor {
            None => None,
            Some(text) => Some(
                Cursor::from_text(text)
                    .ok_or_else(|| Error::invalid(format!("cursor {text:?} was not made by this server")))?,
            ),
        };
        let state = self.state_of(query, cursor.as_ref())?;
        let series = self.series_state(&state, &key)?;
        let columns = columns_of(&series.def, query.columns.as_ref())?;
        let predicates = query.predicates.as_deref().unwrap_or_default();
        let mut filter = predicate::compile(&series.def, predicates, query.numbers)?;
        let complete = query.latest_complete.map(|count| self.latest_complete(&series, query, count)).transpose()?;
        filter.extend(complete.iter().flat_map(|complete| complete.only.clone()));
        let range = match (&cursor, &complete) {
            (Some(cursor), _) if cursor.series_id != series.id || cursor.order != query.order => {
                return Err(Error::invalid("the cursor belongs to another read"));
            }
            (Some(cursor), _) => (cursor.start, cursor.end),
            (None, Some(complete)) => complete.range,
            (None, None) => {
                let (start, end) = range_of(&series.def, query.start.as_ref(), query.end.as_ref())?;
                match query.latest {
                    None => (start, end),
                    Some(count) => (latest_start(&series, self.store.cache(), (start, end), count, &filter)?, end),
                }
            }
        };
        let shape = Shape::of(&series.def, columns.as_deref(), query.numbers, series.version, state.commit);
        Ok(Resolved { state, series, range, columns, filter, limit: query.limit, order: query.order, shape })
    }

    /// Starts a read; rows come out of the iterator.
    ///
    /// # Errors
    /// `series_not_found`, `snapshot_not_found`, `invalid_argument`, `schema_mismatch` for an unknown column,
    /// `commit_gone`; the iterator
    /// itself gives `corrupt_data` when a stored block fails its checksum.
    pub fn read(&self, query: &Query) -> Result<Answer> {
        let resolved = self.resolve(query)?;
        let spec = ScanSpec {
            range: resolved.range,
            desc: resolved.order == Order::Desc,
            limit: resolved.limit,
            columns: resolved.columns,
            filter: resolved.filter,
        };
        let scan = Scan::new(&resolved.series, self.store.cache(), &spec);
        Ok(Answer {
            etag_stem: self.stem(resolved.series.id, resolved.series.version),
            shape: resolved.shape,
            scan,
            explain: query.explain,
            resume: Resume {
                pins: Arc::clone(self.store.pins()),
                state: resolved.state,
                series_id: resolved.series.id,
                range: resolved.range,
                order: resolved.order,
            },
        })
    }

    /// Entity-tag stem of what `read` would answer now, without reading: for 304.
    pub fn etag_stem(&self, query: &Query) -> Result<String> {
        let key = series_key(query)?;
        let series = self.series_state(&*self.state_of(query, None)?, &key)?;
        Ok(self.stem(series.id, series.version))
    }

    /// Schema, exact size and endpoints of an answer; its commit is kept readable for a while.
    pub fn plan(&self, query: &Query) -> Result<Plan> {
        let resolved = self.resolve(query)?;
        let total_records = if resolved.filter.is_empty() {
            let rows = resolved.series.count_rows(self.store.cache(), resolved.range)?;
            Some(resolved.limit.map_or(rows, |limit| rows.min(limit)))
        } else {
            None
        };
        let row_bytes =
            8 + resolved.shape.columns.iter().map(|column| cell_bytes(column.kind, query.numbers)).sum::<u64>();
        self.store.pins().keep(&resolved.state);
        // The commit stands for the snapshot: it stays good as long as that does.
        let pinned = Query { commit: Some(resolved.state.commit), as_of: None, endpoints: None, ..query.clone() };
        let wanted = query.endpoints.unwrap_or(1);
        if wanted == 0 || wanted > ENDPOINTS_MAX {
            return Err(Error::invalid(format!("endpoints {wanted} is not between 1 and {ENDPOINTS_MAX}")));
        }
        let whole = query.limit.is_some()
            || query.latest_complete.is_some()
            || query.cursor.is_some()
            || query.order == Order::Desc;
        let endpoints = match resolved.series.bounds {
            Some((first, last)) if wanted > 1 && !whole => {
                let (start, end) = (resolved.range.0.max(first), resolved.range.1.min(last));
                split(start, end, wanted)
                    .into_iter()
                    .map(|(start, end)| Query {
                        start: Some(When::Epoch(start)),
                        end: Some(When::Epoch(end)),
                        latest: None,
                        ..pinned.clone()
                    })
                    .collect()
            }
            _ => vec![pinned],
        };
        let total_bytes = total_records.map(|rows| rows * row_bytes);
        Ok(Plan { shape: resolved.shape, total_records, total_bytes, endpoints })
    }
}

/// Bytes of a cell as it is sent. Text has no fixed size: it counts as the number it shows.
fn cell_bytes(kind: ColumnType, numbers: Numbers) -> u64 {
    if numbers == Numbers::Decimal128 && kind.digits().is_some() { 16 } else { 8 }
}

/// A closed range in `parts` closed ranges of like length that touch.
fn split(start: i64, end: i64, parts: u64) -> Vec<(i64, i64)> {
    if start > end {
        return vec![(start, start)];
    }
    let span = i128::from(end) - i128::from(start) + 1;
    let parts = i128::from(parts).min(span);
    let border = |part: i128| i64::try_from(i128::from(start) + span * part / parts).unwrap_or(i64::MAX);
    let mut ranges = Vec::new();
    let mut part = 0;
    while part < parts {
        let last = if part + 1 == parts { end } else { border(part + 1) - 1 };
        ranges.push((border(part), last));
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
    fn cursors_survive_their_text_and_refuse_changed_ones() {
        let text = Cursor { commit: 5, series_id: 2, start: -3, end: i64::MAX, order: Order::Desc }.to_text();
        let back = Cursor::from_text(&text).unwrap();
        assert_eq!((back.commit, back.series_id, back.start, back.end), (5, 2, -3, i64::MAX));
        assert!(Cursor::from_text(&text.replace('5', "6")).is_none());
        assert!(Cursor::from_text("garbage").is_none());
    }
}
