//! The scan of a plan: its series one after the other, or merged by time.
//!
//! Invariants:
//! 1. Rows come in the order of the result. By series: keys ascend and, inside each series, time follows the requested
//!    direction. By time: rows of one timestamp come by key in both directions.
//! 2. Memory does not grow with the rows. By series one scan is open at a time; by time every scan holds references to
//!    its next rows in a mapped file or run, never a copy, and rows are copied into one block at a time.
//! 3. By time a series is opened only when its first row may be the next one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::Arc;

use crate::cancel::CancelFlag;
use crate::error::{Error, Result};
use crate::format::chunk::block_rows;
use crate::query::columns::ColumnCast;
use crate::query::condition::Condition;
use crate::query::limit::{RowCounter, RowLimit};
use crate::query::request::{MultiLayout, RowOrder};
use crate::query::scan::{Scan, ScanSpec, ScanStats};
use crate::store::{Block, BlockRows, MapCache, SeriesIndexes, SeriesState};
use crate::types::width::narrow;
use crate::types::{CellLayout, CellSlice, ColumnCells, cells, number};

/// One series of a result, and which of its rows.
#[derive(Clone, Debug)]
pub struct ScanMember {
    pub series: Arc<SeriesState>,
    /// Closed range of timestamps.
    pub range: (i64, i64),
    /// Positions of the selected number columns.
    pub columns: Vec<usize>,
    /// Conversion of each of `columns`.
    pub casts: Vec<ColumnCast>,
    /// Conditions every row must meet; shared by series of the same columns.
    pub filter: Arc<Vec<Condition>>,
    /// Rows that an earlier page has returned of the timestamp where the range begins in the order of the result.
    pub skip: u64,
    /// Cancels the scan.
    pub stop: CancelFlag,
}

impl ScanMember {
    fn scan(&self, cache: &Arc<MapCache>, order: RowOrder, limit: RowLimit, block_rows: usize) -> Scan {
        let spec = ScanSpec {
            range: self.range,
            desc: order == RowOrder::Desc,
            limit,
            skip: self.skip,
            columns: Some(self.columns.clone()),
            filter: self.filter.as_ref().clone(),
        };
        Scan::new(&self.series, cache, &spec).stopped_by(self.stop.clone()).with_block_rows(block_rows)
    }

    /// The block with the column types of the result.
    pub(super) fn cast(&self, block: Block) -> Result<Block> {
        if self.casts.iter().all(|cast| *cast == ColumnCast::Keep) {
            return Ok(block);
        }
        let casts = std::iter::once(&ColumnCast::Keep).chain(&self.casts);
        let columns = block.packed_columns().zip(casts).enumerate().map(|(at, (column, cast))| {
            if *cast == ColumnCast::Keep {
                return Ok(column);
            }
            let from = block.column(at);
            if cast.is_of_words() && !from.has_validity() {
                let mut words = Vec::with_capacity(block.rows());
                append_words(&mut words, from.words().iter().copied(), cast)
                    .map_err(|row| self.cast_error(at, from, row))?;
                return Ok(ColumnCells::from(words).into());
            }
            let mut converted = ColumnCells::with_capacity(cast.layout(from.layout()), block.rows());
            cast.append(&mut converted, from, 0..block.rows()).map_err(|row| self.cast_error(at, from, row))?;
            Ok(converted.into())
        });
        Block::new(block.rows(), columns.collect::<Result<Vec<_>>>()?)
    }

    /// How the cells of the columns lie in the result, without `ts`.
    fn layouts(&self) -> impl Iterator<Item = CellLayout> + '_ {
        let casts = self.casts.iter().chain(std::iter::repeat(&ColumnCast::Keep));
        self.columns.iter().zip(casts).map(|(position, cast)| cast.layout(self.series.def.layout(position + 1)))
    }

    /// The error of a cell that does not fit the type of the result; `ts` is column 0.
    fn cast_error(&self, column: usize, from: CellSlice<'_>, row: usize) -> Error {
        let place = column.checked_sub(1).and_then(|at| Some((self.casts.get(at)?, self.columns.get(at)?)));
        match place {
            Some((cast, position)) => cast.error(&self.series.def, *position, from, row),
            None => Error::internal("a cell of a column that is not converted"),
        }
    }
}

/// Where a result continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PagePosition {
    /// The rest of the range of the only series, without its first `skip` rows in the order of the result.
    Range { series_id: u64, start: i64, end: i64, skip: u64 },
    /// The next row of several series, after `skip` rows of the same series and timestamp. Their ranges follow from the
    /// query.
    Row { series_id: u64, ts: i64, skip: u64 },
}

/// Rows of the series of a plan, block by block.
#[derive(Debug)]
pub struct MultiScan {
    members: Vec<ScanMember>,
    subject: RowSubject,
    cache: Arc<MapCache>,
    order: RowOrder,
    /// Maximum number of rows over all series; where one series follows the other, what is left of it.
    limit: RowLimit,
    /// Most rows of a block of one series.
    block_rows: usize,
    phase: ScanPhase,
    /// Statistics of the scans that have ended.
    stats: ScanStats,
    next: Option<NextRow>,
    ended: bool,
}

/// The first row beyond the limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct NextRow {
    /// Position of its series.
    pub(super) at: usize,
    pub(super) ts: i64,
    /// Rows of the series and timestamp that have been returned.
    pub(super) returned: u64,
}

impl NextRow {
    /// Where a result of this subject and order continues; `member` is the series of the row.
    pub(super) fn position(self, member: &ScanMember, subject: RowSubject, order: RowOrder) -> PagePosition {
        let Self { ts, returned: skip, .. } = self;
        let (series_id, (start, end)) = (member.series.id, member.range);
        match (subject, order) {
            (RowSubject::EachRow, _) => PagePosition::Row { series_id, ts, skip },
            (RowSubject::Series, RowOrder::Asc) => PagePosition::Range { series_id, start: ts, end, skip },
            (RowSubject::Series, RowOrder::Desc) => PagePosition::Range { series_id, start, end: ts, skip },
        }
    }
}

/// Whether rows say which series they are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowSubject {
    /// All rows are of the only series.
    Series,
    /// Each row has its series.
    EachRow,
}

/// Progress of a scan.
#[derive(Debug)]
enum ScanPhase {
    /// The series at this position is being read, or is next.
    BySeries {
        at: usize,
        scan: Option<Box<Scan>>,
    },
    ByTime(TimeMerge),
}

/// A merge by time.
#[derive(Debug)]
struct TimeMerge {
    inputs: Vec<MergeInput>,
    /// Time key of the next row of each input (a lower bound for one that is not open) and its position.
    heads: BinaryHeap<Reverse<(i64, usize)>>,
    rows_max: usize,
    counter: RowCounter,
}

/// One series of a merge.
#[derive(Debug, Default)]
struct MergeInput {
    scan: Option<Box<Scan>>,
    piece: Option<BlockRows>,
    /// Rows of the piece that are not used yet.
    rest: Range<usize>,
    /// Position of the piece among those of the block being built.
    slot: Option<usize>,
}

/// Consecutive rows of one piece.
#[derive(Clone, Copy, Debug)]
struct RowSlice {
    slot: usize,
    lo: usize,
    hi: usize,
}

/// A piece some of whose rows go into the block being built.
struct UsedBlock {
    member: usize,
    piece: BlockRows,
}

impl MultiScan {
    /// Starts a scan over the members, ascending by key; nothing is read before the first block is requested.
    pub fn new(
        members: Vec<ScanMember>,
        subject: RowSubject,
        cache: Arc<MapCache>,
        layout: MultiLayout,
        order: RowOrder,
        limit: RowLimit,
    ) -> Self {
        let phase = match layout {
            // A panel reads each series by a scan of its own.
            MultiLayout::BySeries | MultiLayout::Wide => ScanPhase::BySeries { at: 0, scan: None },
            MultiLayout::ByTime => ScanPhase::ByTime(TimeMerge::new(&members, order, limit)),
        };
        Self {
            members,
            subject,
            cache,
            order,
            limit,
            block_rows: usize::MAX,
            phase,
            stats: ScanStats::default(),
            next: None,
            ended: false,
        }
    }

    /// Limits the rows of a block, so that many scans can be merged in little memory.
    pub(super) fn with_block_rows(self, block_rows: usize) -> Self {
        Self { block_rows, ..self }
    }

    /// Where the first row beyond the limit is, once the scan has ended; `None` without one.
    pub fn next_position(&self) -> Option<PagePosition> {
        let next = self.next?;
        Some(next.position(self.members.get(next.at)?, self.subject, self.order))
    }

    /// Statistics of the scan so far, over all series.
    pub fn stats(&self) -> ScanStats {
        let mut stats = self.stats;
        match &self.phase {
            ScanPhase::BySeries { scan, .. } => {
                if let Some(scan) = scan {
                    stats.add(&scan.stats());
                }
            }
            ScanPhase::ByTime(by_time) => {
                for scan in by_time.inputs.iter().filter_map(|input| input.scan.as_ref()) {
                    stats.add(&scan.stats());
                }
            }
        }
        stats
    }

    fn next_block(&mut self) -> Result<Option<Block>> {
        match &mut self.phase {
            ScanPhase::BySeries { .. } => self.next_of_series(),
            ScanPhase::ByTime(by_time) => {
                let block = by_time.next_block(&self.members, &self.cache, self.order, &mut self.stats)?;
                if block.is_none() && by_time.counter.rows_left() == 0 {
                    let head = by_time.head(&self.members, &self.cache, self.order, &mut self.stats)?;
                    let returned = |(at, ts)| by_time.counter.returned_of(at, ts);
                    self.next = head.map(|(at, ts)| NextRow { at, ts, returned: returned((at, ts)) });
                }
                Ok(block)
            }
        }
    }

    fn next_of_series(&mut self) -> Result<Option<Block>> {
        let ScanPhase::BySeries { at, scan } = &mut self.phase else { return Ok(None) };
        loop {
            let Some(member) = self.members.get(*at) else { return Ok(None) };
            let open =
                scan.get_or_insert_with(|| Box::new(member.scan(&self.cache, self.order, self.limit, self.block_rows)));
            match open.next() {
                Some(block) => {
                    let block = member.cast(block?)?;
                    self.limit.rows = self.limit.rows.map(|left| left.saturating_sub(block.rows() as u64));
                    return Ok(Some(match self.subject {
                        RowSubject::Series => block,
                        RowSubject::EachRow => block.of_series(SeriesIndexes::All(label(*at))),
                    }));
                }
                None => {
                    self.stats.add(&open.stats());
                    let returned = open.rows_of_next_ts();
                    self.next = open.next_ts().map(|ts| NextRow { at: *at, ts, returned });
                    *scan = None;
                    if self.next.is_some() {
                        return Ok(None);
                    }
                    *at += 1;
                }
            }
        }
    }
}

impl Iterator for MultiScan {
    type Item = Result<Block>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let block = self.next_block();
        // Nothing follows an error: a short result is never mistaken for a complete one.
        self.ended = !matches!(block, Ok(Some(_)));
        block.transpose()
    }
}

/// Label of a series; positions are below the maximum number of series of a query.
fn label(position: usize) -> i32 {
    narrow(position)
}

/// Appends converted words; the error is the position of the word that does not fit.
fn append_words(out: &mut Vec<i64>, words: impl Iterator<Item = i64>, cast: &ColumnCast) -> Result<(), usize> {
    match cast {
        ColumnCast::Rescale { from, to } => {
            for (row, raw) in words.enumerate() {
                out.push(number::rescale(raw, *from, *to).ok_or(row)?);
            }
        }
        ColumnCast::Double { from } => {
            out.extend(words.map(|raw| number::decimal_to_f64(raw, *from).to_bits().cast_signed()));
        }
        _ => out.extend(words),
    }
    Ok(())
}

/// A timestamp as a key that ascends in the direction of the scan.
fn time_key(ts: i64, order: RowOrder) -> i64 {
    match order {
        RowOrder::Asc => ts,
        RowOrder::Desc => !ts,
    }
}

/// Timestamp of the n-th of some rows of a piece.
fn nth_ts(piece: &BlockRows, rows: &Range<usize>, n: usize, order: RowOrder) -> Option<i64> {
    if n >= rows.len() {
        return None;
    }
    piece.ts(match order {
        RowOrder::Asc => rows.start + n,
        RowOrder::Desc => rows.end - 1 - n,
    })
}

impl MergeInput {
    /// Timestamp of the next row; takes the next piece when there is none. `None` at the end.
    fn head(
        &mut self,
        member: &ScanMember,
        cache: &Arc<MapCache>,
        order: RowOrder,
        stats: &mut ScanStats,
    ) -> Result<Option<i64>> {
        loop {
            if let Some(ts) = self.piece.as_ref().and_then(|piece| nth_ts(piece, &self.rest, 0, order)) {
                return Ok(Some(ts));
            }
            self.slot = None;
            let scan = self.scan.get_or_insert_with(|| {
                Box::new(member.scan(cache, order, RowLimit::default(), usize::MAX).in_small_steps())
            });
            self.piece = scan.next_piece()?;
            self.rest = 0..self.piece.as_ref().map_or(0, BlockRows::rows);
            if self.piece.is_none() {
                stats.add(&scan.stats());
                return Ok(None);
            }
        }
    }
}

impl TimeMerge {
    fn new(members: &[ScanMember], order: RowOrder, limit: RowLimit) -> Self {
        let mut heads = Vec::new();
        for (position, member) in members.iter().enumerate() {
            let Some((first, last)) = member.series.bounds else { continue };
            let (start, end) = (member.range.0.max(first), member.range.1.min(last));
            if start <= end {
                heads.push(Reverse((time_key(if order == RowOrder::Desc { end } else { start }, order), position)));
            }
        }
        let layouts = members.first().into_iter().flat_map(ScanMember::layouts);
        let has_ties = members.iter().any(|member| !member.series.def.order.is_by_timestamp());
        let mut counter = RowCounter::new(limit, has_ties);
        // One member at most continues between rows of one timestamp.
        if let Some((position, member)) = members.iter().enumerate().find(|(_, member)| member.skip > 0) {
            let ts = if order == RowOrder::Desc { member.range.1 } else { member.range.0 };
            counter = counter.after(position, ts, member.skip);
        }
        Self {
            inputs: members.iter().map(|_| MergeInput::default()).collect(),
            heads: heads.into(),
            rows_max: block_rows(std::iter::once(CellLayout::WORD).chain(layouts)),
            counter,
        }
    }

    /// Series and timestamp of the next row in the order of the result.
    fn head(
        &mut self,
        members: &[ScanMember],
        cache: &Arc<MapCache>,
        order: RowOrder,
        stats: &mut ScanStats,
    ) -> Result<Option<(usize, i64)>> {
        while let Some(Reverse((key, position))) = self.heads.pop() {
            let (Some(input), Some(member)) = (self.inputs.get_mut(position), members.get(position)) else { continue };
            let Some(ts) = input.head(member, cache, order, stats)? else {
                // The input is exhausted: release its scan and piece.
                *input = MergeInput::default();
                continue;
            };
            self.heads.push(Reverse((time_key(ts, order), position)));
            if time_key(ts, order) == key {
                return Ok(Some((position, ts)));
            }
        }
        Ok(None)
    }

    fn next_block(
        &mut self,
        members: &[ScanMember],
        cache: &Arc<MapCache>,
        order: RowOrder,
        stats: &mut ScanStats,
    ) -> Result<Option<Block>> {
        let mut rows = 0;
        let mut runs: Vec<RowSlice> = Vec::new();
        let mut used: Vec<UsedBlock> = Vec::new();
        for input in &mut self.inputs {
            input.slot = None;
        }
        while rows < self.rows_max && !self.counter.is_complete() {
            let Some(head) = self.heads.pop() else { break };
            let Reverse((_, position)) = head;
            let (Some(input), Some(member)) = (self.inputs.get_mut(position), members.get(position)) else { continue };
            if input.scan.is_none() {
                match input.head(member, cache, order, stats)? {
                    Some(ts) => self.heads.push(Reverse((time_key(ts, order), position))),
                    None => *input = MergeInput::default(),
                }
                continue;
            }
            let other = self.heads.peek().map(|Reverse(other)| *other);
            let Some(piece) = &input.piece else { continue };
            let before_other = rows_before_other(piece, &input.rest, position, other, order);
            let ts = |n| nth_ts(piece, &input.rest, n, order);
            let count = self.counter.take(position, before_other.min(self.rows_max - rows), ts);
            if count == 0 {
                self.heads.push(head);
                break;
            }
            let slot = *input.slot.get_or_insert_with(|| {
                used.push(UsedBlock { member: position, piece: piece.clone() });
                used.len() - 1
            });
            let Range { start, end } = input.rest;
            let (lo, hi) = match order {
                RowOrder::Asc => (start, start + count),
                RowOrder::Desc => (end - count, end),
            };
            input.rest = match order {
                RowOrder::Asc => hi..end,
                RowOrder::Desc => start..lo,
            };
            runs.push(RowSlice { slot, lo, hi });
            rows += count;
            match input.head(member, cache, order, stats)? {
                Some(ts) => self.heads.push(Reverse((time_key(ts, order), position))),
                None => *input = MergeInput::default(),
            }
        }
        if rows == 0 {
            return Ok(None);
        }
        gather(members, &used, &runs, rows, order).map(Some)
    }
}

/// Number of the remaining rows of a piece that come before the next row of all other inputs; at least one.
fn rows_before_other(
    piece: &BlockRows,
    rows: &Range<usize>,
    position: usize,
    other: Option<(i64, usize)>,
    order: RowOrder,
) -> usize {
    let Some(other) = other else { return rows.len() };
    let is_before = |n: usize| nth_ts(piece, rows, n, order).is_some_and(|ts| (time_key(ts, order), position) < other);
    if !is_before(1) {
        return 1;
    }
    // The first row that does not come before lies within `low..=high`.
    let (mut low, mut high) = (2, rows.len());
    while low < high {
        let middle = low + (high - low) / 2;
        if is_before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// Copies runs into one block, column by column.
fn gather(
    members: &[ScanMember],
    used: &[UsedBlock],
    runs: &[RowSlice],
    rows: usize,
    order: RowOrder,
) -> Result<Block> {
    let mut labels: Vec<i32> = Vec::with_capacity(rows);
    for run in runs {
        let position = cells::column(used, run.slot).member;
        labels.extend(std::iter::repeat_n(label(position), run.hi - run.lo));
    }
    let column_count = members.first().map_or(0, |member| member.columns.len());
    let mut columns = Vec::with_capacity(column_count + 1);
    for column in 0..=column_count {
        let sources: Vec<_> = used.iter().map(|used| ColumnSource::of(members, used, column)).collect();
        let gathered = match sources.iter().all(ColumnSource::is_of_words) {
            true => gather_words(&sources, runs, rows, order).map(ColumnCells::from),
            false => gather_cells(&sources, runs, rows, order),
        };
        let gathered = gathered.map_err(|(source, row)| match members.get(source.member) {
            Some(member) => member.cast_error(column, source.cells, row),
            None => Error::internal("a row of no series"),
        })?;
        columns.push(gathered.into());
    }
    Ok(Block::new(rows, columns)?.of_series(SeriesIndexes::Each(labels.into())))
}

/// One column of a piece.
struct ColumnSource<'a> {
    cells: CellSlice<'a>,
    /// Positions in the cells, where the rows of the piece lie apart.
    picked: Option<&'a [u32]>,
    cast: &'a ColumnCast,
    member: usize,
}

/// A cell that does not fit, and its position.
type CastFailure<'s, 'a> = (&'s ColumnSource<'a>, usize);

impl<'a> ColumnSource<'a> {
    fn of(members: &'a [ScanMember], used: &'a UsedBlock, column: usize) -> Self {
        let member = cells::column(members, used.member);
        let (cast, stored) = match column.checked_sub(1) {
            // Timestamps.
            None => (&ColumnCast::Keep, 0),
            // Without casts every column is unchanged.
            Some(at) => (member.casts.get(at).unwrap_or(&ColumnCast::Keep), cells::at(&member.columns, at) + 1),
        };
        Self { cells: used.piece.block().column(stored), picked: used.piece.picked(), cast, member: used.member }
    }

    fn is_of_words(&self) -> bool {
        self.cast.is_of_words() && self.cells.layout() == CellLayout::WORD && !self.cells.has_validity()
    }

    /// Position among the cells of the n-th row of the piece.
    fn row(&self, n: usize) -> usize {
        self.picked.map_or(n, |picked| cells::at(picked, n) as usize)
    }
}

/// The cells of a column of 8 bytes without nulls.
fn gather_words<'s, 'a>(
    sources: &'s [ColumnSource<'a>],
    runs: &[RowSlice],
    rows: usize,
    order: RowOrder,
) -> Result<Vec<i64>, CastFailure<'s, 'a>> {
    let sources: Vec<_> = sources.iter().map(|source| (source, source.cells.words())).collect();
    let mut words: Vec<i64> = Vec::with_capacity(rows);
    for run in runs {
        let (source, stored) = cells::column(&sources, run.slot);
        let from = words.len();
        let appended = match source.picked {
            None => {
                let kept = cells::range(stored, run.lo..run.hi);
                append_words(&mut words, kept.iter().copied(), source.cast)
            }
            Some(picked) => {
                let rows = cells::range(picked, run.lo..run.hi);
                let cell = |row: &u32| cells::at(stored, *row as usize);
                append_words(&mut words, rows.iter().map(cell), source.cast)
            }
        };
        appended.map_err(|n| (*source, source.row(run.lo + n)))?;
        if order == RowOrder::Desc
            && let Some(run) = words.get_mut(from..)
        {
            run.reverse();
        }
    }
    Ok(words)
}

/// The cells of a column of any type.
fn gather_cells<'s, 'a>(
    sources: &'s [ColumnSource<'a>],
    runs: &[RowSlice],
    rows: usize,
    order: RowOrder,
) -> Result<ColumnCells, CastFailure<'s, 'a>> {
    let layout = sources.first().map_or(CellLayout::WORD, |source| source.cast.layout(source.cells.layout()));
    let mut gathered = ColumnCells::with_capacity(layout, rows);
    for run in runs {
        let source = cells::column(sources, run.slot);
        let to = &mut gathered;
        let (rows, backwards) = (run.lo..run.hi, (run.lo..run.hi).rev());
        let appended = match (order, source.picked) {
            (RowOrder::Asc, None) => source.cast.append(to, source.cells, rows),
            (RowOrder::Desc, None) => source.cast.append(to, source.cells, backwards),
            (RowOrder::Asc, Some(_)) => source.cast.append(to, source.cells, rows.map(|n| source.row(n))),
            (RowOrder::Desc, Some(_)) => source.cast.append(to, source.cells, backwards.map(|n| source.row(n))),
        };
        appended.map_err(|row| (source, row))?;
    }
    Ok(gathered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::{Query, ResultSchema};
    use crate::store::{Store, StoreOptions, WriteMode};
    use crate::types::{Column, ColumnType, Dictionary, Rows, SeriesDef, SeriesKey, SeriesSpec};
    use arrow::array::Array;

    /// A series of two rows, the second of nulls where a column can have them.
    fn write(store: &Store, symbol: &str, first_ts: i64, columns: Vec<(Column, ColumnCells)>, texts: &[&str]) {
        let key = SeriesKey::scalar("c", symbol, "tick", "n").unwrap();
        let (columns, mut cells): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
        for (column, cells) in columns.iter().zip(&mut cells) {
            match column.nullable {
                true => cells.push_null(),
                false => cells.extend_picked(cells.clone().as_slice(), [0].into_iter()),
            }
        }
        let all: Dictionary = texts.iter().map(|text| (*text).into()).collect();
        let texts = vec![all; columns.len()];
        let def = SeriesDef { columns, ..SeriesSpec::of_key(&key).resolve().unwrap() };
        store.register(def).unwrap();
        store
            .write(&key, Rows { ts: vec![first_ts, first_ts + 10], columns: cells, texts }, WriteMode::Upsert, None)
            .unwrap();
    }

    fn nullable(column: Column) -> Column {
        Column { nullable: true, ..column }
    }

    fn side(values: &[&str]) -> Column {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        Column { values, ..Column::new("side", ColumnType::Enum) }
    }

    fn table(store: &Store, fields: &str) -> Vec<String> {
        let query: Query = serde_json::from_str(&format!(r#"{{"series":["scalar/c/*/tick/n"]{fields}}}"#)).unwrap();
        let (shape, scan): (ResultSchema, _) = store.reader().plan(&query).unwrap().into_result();
        let schema = shape.arrow_schema();
        let mut lines = Vec::new();
        for block in scan {
            let batch = shape.record_batch(&schema, &block.unwrap()).unwrap();
            for row in 0..batch.num_rows() {
                let cells = batch.columns().iter().enumerate().filter(|(column, _)| *column != 1);
                let text = |(_, cells): (usize, &arrow::array::ArrayRef)| match cells.is_null(row) {
                    true => "null".to_owned(),
                    false => arrow::util::display::array_value_to_string(cells, row).unwrap(),
                };
                lines.push(cells.map(text).collect::<Vec<_>>().join(" "));
            }
        }
        lines
    }

    #[test]
    fn series_of_different_types_have_columns_of_a_common_type() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), true, StoreOptions::default()).unwrap();
        let decimal = |digits| ColumnType::Decimal { digits };
        let columns = vec![
            (nullable(Column::new("price", decimal(2))), [12_345_i64].into()),
            (Column::new("small", ColumnType::Int8), [-3_i8].into()),
            (side(&["buy", "sell"]), [1_u8].into()),
            (nullable(Column::new("note", ColumnType::Text)), [1_u32].into()),
            (Column::new("half", ColumnType::Float32), [0.5_f32].into()),
        ];
        write(&store, "A", 0, columns, &["a", "b"]);
        let columns = vec![
            (Column::new("price", ColumnType::WideDecimal { digits: 4 }), [10_i128.pow(30)].into()),
            (nullable(Column::new("small", ColumnType::UInt16)), [u16::MAX].into()),
            (nullable(side(&["none", "buy"])), [1_u8].into()),
            (Column::new("note", ColumnType::Text), [0_u32].into()),
            (Column::new("half", ColumnType::Float64), [0.25_f64].into()),
        ];
        write(&store, "B", 5, columns, &["c", "b"]);
        let (a, b) = ("scalar/c/A/tick/n", "scalar/c/B/tick/n");
        let first = [format!("{a} 123.4500 -3 sell b 0.5"), format!("{a} null -3 sell null 0.5")];
        let big = "100000000000000000000000000.0000";
        let second = [format!("{b} {big} 65535 buy c 0.25"), format!("{b} {big} null null c 0.25")];
        let [a0, a1, b0, b1] = [&first[0], &first[1], &second[0], &second[1]].map(String::as_str);
        let sealed = |store: &Store| store.seal(&[]).unwrap();
        for step in 0..2 {
            assert_eq!(table(&store, ""), [a0, a1, b0, b1], "{step}");
            assert_eq!(table(&store, r#","layout":"by_time""#), [a0, b0, a1, b1], "{step}");
            assert_eq!(table(&store, r#","layout":"by_time","order":"desc""#), [b1, a1, b0, a0], "{step}");
            assert_eq!(
                table(
                    &store,
                    r#","layout":"by_time","columns":["note"],"where":[{"column":"ts","op":"gt","value":3}]"#
                )
                .len(),
                3
            );
            sealed(&store);
        }
        let shape = |fields: &str| {
            let query = serde_json::from_str(&format!(r#"{{"series":["scalar/c/*/tick/n"]{fields}}}"#)).unwrap();
            store.reader().plan(&query).map(|plan| plan.schema().clone())
        };
        let columns = shape("").unwrap().columns;
        let kinds: Vec<ColumnType> = columns.iter().map(|column| column.kind).collect();
        use ColumnType::*;
        assert_eq!(kinds, [WideDecimal { digits: 4 }, Int32, Enum, Text, Float64]);
        assert!(columns[..4].iter().all(|column| column.nullable) && !columns[4].nullable);
        let labels = columns[2].labels.as_ref().unwrap();
        assert_eq!(labels.texts().map(|text| &**text).collect::<Vec<_>>(), ["buy", "sell", "none"]);
        assert_eq!(shape(r#","numbers":"float64""#).unwrap().columns[0].kind, Float64);
        // No integer holds both.
        let columns = |kind, cells| vec![(Column::new("small", kind), cells)];
        write(&store, "C", 0, columns(UInt64, [7_u64].into()), &[]);
        let error = shape(r#","columns":["small"]"#).unwrap_err();
        assert_eq!(error.code(), crate::ErrorCode::SchemaMismatch, "{error}");
    }

    #[test]
    fn a_wide_decimal_without_room_for_more_digits_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), true, StoreOptions::default()).unwrap();
        let price = |digits| Column::new("price", ColumnType::WideDecimal { digits });
        write(&store, "A", 0, vec![(price(0), [10_i128.pow(37)].into())], &[]);
        write(&store, "B", 0, vec![(price(2), [1_i128].into())], &[]);
        for layout in ["by_series", "by_time"] {
            let query = format!(r#"{{"series":["scalar/c/*/tick/n"],"layout":"{layout}"}}"#);
            let mut scan = store.reader().plan(&serde_json::from_str(&query).unwrap()).unwrap().scan();
            let error = scan.next().unwrap().unwrap_err();
            assert_eq!(error.code(), crate::ErrorCode::SchemaMismatch);
            assert!(error.to_string().contains("price of series scalar/c/A/tick/n holds 1000"), "{error}");
        }
    }

    #[test]
    fn doubles_are_those_of_every_number_and_of_no_null() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), true, StoreOptions::default()).unwrap();
        let columns = vec![
            (Column::new("wide", ColumnType::WideDecimal { digits: 1 }), [15_i128].into()),
            (Column::new("small", ColumnType::UInt8), [200_u8].into()),
            (nullable(Column::new("half", ColumnType::Float32)), [0.5_f32].into()),
            (side(&["buy"]), [0_u8].into()),
        ];
        write(&store, "A", 0, columns, &[]);
        let key = SeriesKey::scalar("c", "A", "tick", "n").unwrap();
        let doubles = |column| store.reader().latest(&key, 2).unwrap().doubles(column);
        assert_eq!((doubles(0).unwrap(), doubles(1).unwrap()), (vec![0.0, 10.0], vec![1.5, 1.5]));
        assert_eq!(doubles(2).unwrap(), [200.0, 200.0]);
        for column in [3, 4, 5] {
            assert_eq!(doubles(column).unwrap_err().code(), crate::ErrorCode::InvalidArgument, "{column}");
        }
    }
}
