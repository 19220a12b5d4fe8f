//! A scan: the merge of a series' sources as blocks in the order of the result.
//!
//! Long pieces of one source are returned as slices of the mapped file or run, complete chunk blocks with their
//! message. Only short pieces, where rows of several sources interleave, scattered matches and descending results are
//! copied.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cancel::CancelFlag;
use crate::error::Result;
use crate::format::chunk::block_rows;
use crate::query::condition::Condition;
use crate::query::limit::{RowCounter, RowLimit};
use crate::store::{Block, BlockRows, MapCache, Merge, RUN_ROWS, SeriesState};
use crate::types::width::{self, to_usize};
use crate::types::{CellSlice, ColumnCells, SharedCells};

/// Pieces of fewer rows are copied together into one block.
const GATHER_ROWS: usize = 512;

/// Rows whose matches are counted together before any is checked individually.
const CHECK_ROWS: usize = 256;

/// Bytes of a column of narrow cells that are checked together: more rows, for as little time on each.
const NARROW_CHECK_BYTES: usize = 8192;

/// At most one match in so many rows is looked for, instead of deciding on every row.
const RARE_ROWS: usize = 16;

/// Rows checked at a time where thousands of scans are merged, so that each holds little memory.
const SMALL_STEP_ROWS: usize = 4096;

/// Rows of one series, block by block.
#[derive(Debug)]
pub struct Scan {
    merge: Merge,
    /// Positions of the selected columns; `ts` is 0.
    columns: Vec<usize>,
    /// Whether `columns` are all of the series, in order.
    all_columns: bool,
    desc: bool,
    block_rows_max: usize,
    counter: RowCounter,
    /// Rows to leave out.
    skip: u64,
    gathered: Vec<ColumnCells>,
    /// A piece taken from the merge and not returned yet.
    pending: Option<BlockRows>,
    filter: Vec<Condition>,
    /// Whether all conditions are on `ts` and part of the range.
    by_range: bool,
    /// Matching parts of the last piece of the merge, in the order of the result.
    matching: VecDeque<BlockRows>,
    /// Maximum number of rows checked at a time.
    step_rows: usize,
    /// Whether rows are loaded into memory before they are returned.
    prefetch: bool,
    /// Rows of the last piece of the merge that are not checked yet.
    unchecked: Option<BlockRows>,
    /// Positions of the matches of one piece; a reused buffer.
    picked: Vec<u32>,
    /// Which of the rows that are checked together match; a reused buffer.
    marks: Vec<bool>,
    /// Number of rows that are checked together.
    check_rows: usize,
    /// The block of the last piece, to count blocks.
    last_block: Option<Arc<[SharedCells]>>,
    blocks_scanned: u64,
    rows_checked: u64,
    rows_matched: u64,
    next_ts: Option<i64>,
    ended: bool,
    stop: CancelFlag,
}

/// Range, columns and conditions of a scan.
#[derive(Clone, Debug)]
pub struct ScanSpec {
    /// Closed range of timestamps.
    pub range: (i64, i64),
    pub desc: bool,
    pub limit: RowLimit,
    /// Rows that an earlier page has returned of the timestamp at the beginning of the range, or at its end where `desc`.
    pub skip: u64,
    /// Positions of the selected number columns; all when absent.
    pub columns: Option<Vec<usize>>,
    /// Conditions every row must meet.
    pub filter: Vec<Condition>,
}

impl ScanSpec {
    /// All columns of the rows of a closed range, ascending.
    pub fn range(range: (i64, i64)) -> Self {
        Self { range, desc: false, limit: RowLimit::default(), skip: 0, columns: None, filter: Vec::new() }
    }
}

/// Statistics of a scan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct ScanStats {
    /// Chunks within the range, and those of which no row had to be read.
    pub chunks_considered: u64,
    pub chunks_pruned: u64,
    pub chunks_scanned: u64,
    /// Blocks of these chunks within the range, those of which no row had to be read, and blocks of chunks and tail
    /// that rows were read from.
    pub blocks_considered: u64,
    pub blocks_pruned: u64,
    pub blocks_scanned: u64,
    /// Zones of 1,024 rows within the range, those excluded by zone maps, and the rest.
    pub zones_considered: u64,
    pub zones_pruned: u64,
    pub zones_scanned: u64,
    pub rows_checked: u64,
    pub rows_matched: u64,
    /// `zone_map`, `value_index` or `both`; `none` when no index could exclude rows.
    pub index_used: IndexUsed,
    /// Whether some chunk had no usable zone map and was read completely.
    pub fallback: bool,
}

/// Indexes that narrowed a scan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum IndexUsed {
    #[default]
    None,
    ZoneMap,
    /// Only rows listed by a value index were read.
    ValueIndex,
    /// Zone maps, and in some chunk a value index.
    Both,
}

/// Narrows the range by the conditions on `ts` and drops those that the range expresses completely. `None` when no row
/// can match.
fn narrow(range: (i64, i64), filter: &[Condition]) -> Option<((i64, i64), Vec<Condition>)> {
    let (mut start, mut end) = range;
    let mut rest = Vec::with_capacity(filter.len());
    for condition in filter {
        if condition.is_nothing() {
            return None;
        }
        if condition.column == 0 {
            start = start.max(condition.keys().first()?.0);
            end = end.min(condition.keys().last()?.1);
        }
        if condition.column != 0 || condition.keys().len() > 1 {
            rest.push(condition.clone());
        }
    }
    (start <= end).then_some(((start, end), rest))
}

impl ScanStats {
    /// Adds the statistics of another scan of the same result.
    pub fn add(&mut self, other: &ScanStats) {
        self.chunks_considered += other.chunks_considered;
        self.chunks_pruned += other.chunks_pruned;
        self.chunks_scanned += other.chunks_scanned;
        self.blocks_considered += other.blocks_considered;
        self.blocks_pruned += other.blocks_pruned;
        self.blocks_scanned += other.blocks_scanned;
        self.zones_considered += other.zones_considered;
        self.zones_pruned += other.zones_pruned;
        self.zones_scanned += other.zones_scanned;
        self.rows_checked += other.rows_checked;
        self.rows_matched += other.rows_matched;
        self.index_used = match (self.index_used, other.index_used) {
            (IndexUsed::None, used) | (used, IndexUsed::None) => used,
            (one, same) if one == same => one,
            _ => IndexUsed::Both,
        };
        self.fallback |= other.fallback;
    }
}

impl Scan {
    /// Starts a scan; nothing is read before the first block is requested.
    pub fn new(series: &SeriesState, cache: &Arc<MapCache>, spec: &ScanSpec) -> Self {
        let column_count = series.def.columns.len();
        let layouts = || series.def.all_layouts();
        let columns: Vec<usize> = match &spec.columns {
            None => (0..=column_count).collect(),
            Some(wanted) => std::iter::once(0).chain(wanted.iter().map(|position| position + 1)).collect(),
        };
        let all_columns = columns.iter().copied().eq(0..=column_count);
        let first_ts = if spec.desc { spec.range.1 } else { spec.range.0 };
        let narrowed = narrow(spec.range, &spec.filter);
        let ended = narrowed.is_none();
        let (range, filter) = narrowed.unwrap_or((spec.range, Vec::new()));
        let wanted = filter.iter().map(Condition::wanted_keys).collect();
        let narrowest = filter.iter().map(|condition| series.def.layout(condition.column).width()).min();
        Self {
            merge: series.merge(cache, range, spec.desc).with_wanted_keys(wanted),
            by_range: filter.is_empty() && !spec.filter.is_empty(),
            filter,
            matching: VecDeque::new(),
            // The scan can be cancelled between steps.
            step_rows: block_rows(layouts()),
            prefetch: cache.prefetch,
            unchecked: None,
            picked: Vec::new(),
            marks: Vec::new(),
            check_rows: match narrowest {
                Some(width @ 1..8) => NARROW_CHECK_BYTES / width,
                _ => CHECK_ROWS,
            },
            last_block: None,
            blocks_scanned: 0,
            rows_checked: 0,
            rows_matched: 0,
            gathered: columns.iter().map(|column| ColumnCells::new(series.def.layout(*column))).collect(),
            columns,
            all_columns,
            desc: spec.desc,
            block_rows_max: block_rows(layouts()),
            counter: RowCounter::new(spec.limit, !series.def.order.is_by_timestamp()).after(0, first_ts, spec.skip),
            skip: spec.skip,
            pending: None,
            next_ts: None,
            ended,
            stop: CancelFlag::default(),
        }
    }

    /// Makes the scan cancellable through `stop`.
    pub fn stopped_by(self, stop: CancelFlag) -> Self {
        Self { stop, ..self }
    }

    /// Checks few rows at a time, so that many scans can be merged in little memory.
    pub(super) fn in_small_steps(self) -> Self {
        Self { step_rows: SMALL_STEP_ROWS, ..self }
    }

    /// Limits the rows of a block.
    pub(super) fn with_block_rows(self, rows: usize) -> Self {
        let block_rows_max = self.block_rows_max.min(rows);
        Self { block_rows_max, ..self }
    }

    /// Timestamp of the first row beyond the limit, once the scan has ended; `None` when there is none.
    pub fn next_ts(&self) -> Option<i64> {
        self.next_ts
    }

    /// How many rows with that timestamp have been returned, by this and earlier pages.
    pub fn rows_of_next_ts(&self) -> u64 {
        self.next_ts.map_or(0, |ts| self.counter.returned_of(0, ts))
    }

    /// Statistics of the scan so far.
    pub fn stats(&self) -> ScanStats {
        let merge = self.merge.stats();
        ScanStats {
            chunks_considered: merge.chunks_considered,
            chunks_pruned: merge.chunks_pruned,
            chunks_scanned: merge.chunks_considered - merge.chunks_pruned,
            blocks_considered: merge.blocks_considered,
            blocks_pruned: merge.blocks_pruned,
            blocks_scanned: self.blocks_scanned,
            zones_considered: merge.zones_considered,
            zones_pruned: merge.zones_pruned,
            zones_scanned: merge.zones_considered - merge.zones_pruned,
            rows_checked: self.rows_checked,
            rows_matched: self.rows_matched,
            index_used: match (merge.zones_considered > 0, merge.value_indexes_used > 0) {
                (false, false) => IndexUsed::None,
                (true, false) => IndexUsed::ZoneMap,
                (false, true) => IndexUsed::ValueIndex,
                (true, true) => IndexUsed::Both,
            },
            fallback: merge.zone_maps_missing > 0,
        }
    }

    /// The next rows, all of which match.
    fn next_match(&mut self) -> Result<Option<BlockRows>> {
        if self.ended {
            return Ok(None);
        }
        loop {
            self.stop.check()?;
            if let Some(part) = self.matching.pop_front() {
                return Ok(Some(part));
            }
            if let Some(step) = self.next_step() {
                self.split(step);
                continue;
            }
            let Some(piece) = self.merge.next_piece()? else { return Ok(None) };
            let memory = piece.block().memory();
            if self.last_block.as_ref().is_none_or(|last| !Arc::ptr_eq(last, memory)) {
                self.last_block = Some(Arc::clone(memory));
                self.blocks_scanned += 1;
            }
            if self.filter.is_empty() {
                if self.by_range {
                    self.rows_checked += piece.rows() as u64;
                    self.rows_matched += piece.rows() as u64;
                }
                return Ok(Some(piece));
            }
            self.unchecked = Some(piece);
        }
    }

    /// The next rows to check.
    fn next_step(&mut self) -> Option<BlockRows> {
        let mut piece = self.unchecked.take()?;
        if piece.picked().is_some() || piece.rows() <= self.step_rows {
            return Some(piece);
        }
        let step = piece.split_off(self.step_rows, self.desc);
        self.unchecked = Some(piece);
        Some(step)
    }

    /// Queues the matching rows of a piece: as runs of consecutive rows, or one by one where runs are short.
    fn split(&mut self, piece: BlockRows) {
        if let Some(rows) = piece.picked() {
            let rows = rows.to_vec();
            return self.check_scattered(piece, rows);
        }
        let rows = piece.rows();
        self.picked.clear();
        let mut from = 0;
        while from < rows {
            let to = rows.min(from + self.check_rows);
            pick(&self.filter, piece.block(), from..to, &mut self.marks, &mut self.picked);
            from = to;
        }
        let matched = self.picked.len();
        self.rows_checked += rows as u64;
        self.rows_matched += matched as u64;
        if matched == rows {
            return self.matching.push_back(piece);
        }
        let next = self.picked.get(1..).unwrap_or_default();
        let runs = self.picked.iter().zip(next).filter(|(row, next)| **next != **row + 1).count() + 1;
        if matched > RUN_ROWS && matched < runs * RUN_ROWS {
            return self.matching.push_back(piece.pick(self.picked.clone()));
        }
        for run in self.picked.chunk_by(|row, next| *next == *row + 1) {
            let Some(lo) = run.first().map(|row| *row as usize) else { continue };
            let run = piece.slice(lo, run.len());
            if self.desc {
                self.matching.push_front(run);
            } else {
                self.matching.push_back(run);
            }
        }
    }

    /// Queues the matching ones of scattered rows.
    fn check_scattered(&mut self, piece: BlockRows, mut rows: Vec<u32>) {
        self.rows_checked += rows.len() as u64;
        for condition in &self.filter {
            condition.retain(piece.block().column(condition.column), &mut rows);
        }
        self.rows_matched += rows.len() as u64;
        if !rows.is_empty() {
            self.matching.push_back(piece.pick(rows));
        }
    }

    fn gathered_rows(&self) -> usize {
        self.gathered.first().map_or(0, ColumnCells::len)
    }

    fn gather(&mut self, part: &BlockRows) {
        for (buffer, position) in self.gathered.iter_mut().zip(&self.columns) {
            part.append_to(*position, self.desc, buffer);
        }
    }

    fn take_gathered(&mut self) -> Result<Block> {
        let rows = self.gathered_rows();
        let take = |column: &mut ColumnCells| {
            let empty = ColumnCells::new(column.layout());
            SharedCells::from(std::mem::replace(column, empty))
        };
        let columns: Arc<[SharedCells]> = self.gathered.iter_mut().map(take).collect();
        Block::new(rows, columns)
    }

    /// The selected columns of adjacent rows, where they are.
    fn slice_piece(&self, piece: BlockRows) -> Block {
        let block = if self.all_columns { piece.into_block() } else { piece.block().select(&self.columns) };
        if self.prefetch {
            block.columns().for_each(touch);
        }
        block
    }

    /// The next matching rows by reference, in the direction of the scan. Not to be mixed with blocks.
    pub(super) fn next_piece(&mut self) -> Result<Option<BlockRows>> {
        if let Some(piece) = self.pending.take() {
            return Ok(Some(piece));
        }
        let Some(mut piece) = self.next_match()? else { return Ok(None) };
        while self.skip > 0 {
            let skipped = to_usize(self.skip).min(piece.rows());
            piece.split_off(skipped, self.desc);
            self.skip -= skipped as u64;
            if piece.rows() == 0 {
                let Some(next) = self.next_match()? else { return Ok(None) };
                piece = next;
            }
        }
        let rows = piece.rows();
        let ts = |n: usize| piece.ts(if self.desc { rows.checked_sub(n + 1)? } else { n });
        let taken = self.counter.take(0, rows, ts);
        if taken == rows {
            return Ok(Some(piece));
        }
        let kept = piece.split_off(taken, self.desc);
        self.next_ts = next_ts_of(&piece, self.desc);
        self.ended = true;
        Ok((taken > 0).then_some(kept))
    }

    fn next_block(&mut self) -> Result<Option<Block>> {
        loop {
            if self.gathered_rows() >= self.block_rows_max {
                return self.take_gathered().map(Some);
            }
            let piece = if self.ended && self.pending.is_none() { None } else { self.next_piece()? };
            let Some(mut piece) = piece else {
                self.ended = true;
                return (self.gathered_rows() > 0).then(|| self.take_gathered()).transpose();
            };
            if self.desc || piece.picked().is_some() || piece.rows() < GATHER_ROWS {
                // A descending piece can be an entire run: cut it to what still fits.
                let free_rows = self.block_rows_max.saturating_sub(self.gathered_rows()).max(1);
                self.gather_within(piece, free_rows);
            } else if self.gathered_rows() > 0 {
                self.pending = Some(piece);
                return self.take_gathered().map(Some);
            } else if piece.rows() > self.block_rows_max {
                // A run can be longer than a block.
                let head = piece.split_off(self.block_rows_max, false);
                self.pending = Some(piece);
                return Ok(Some(self.slice_piece(head)));
            } else {
                return Ok(Some(self.slice_piece(piece)));
            }
        }
    }

    fn gather_within(&mut self, mut piece: BlockRows, rows_max: usize) {
        if piece.rows() <= rows_max {
            self.gather(&piece);
            return;
        }
        let now = piece.split_off(rows_max, self.desc);
        self.gather(&now);
        self.pending = Some(piece);
    }
}

/// Timestamp of the first row in the direction of the scan.
fn next_ts_of(piece: &BlockRows, desc: bool) -> Option<i64> {
    piece.ts(if desc { piece.rows().saturating_sub(1) } else { 0 })
}

/// Reads a cell of every page, so that the thread that sends the cells does not wait for the disk.
fn touch(column: CellSlice<'_>) {
    const PAGE_BYTES: usize = 4096;
    let bytes = column.memory();
    let sum = bytes.iter().step_by(PAGE_BYTES).chain(bytes.last()).fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    std::hint::black_box(sum);
}

/// Adds the positions of those of `rows` that meet every condition; `marks` is a reused buffer.
fn pick(filter: &[Condition], block: &Block, rows: Range<usize>, marks: &mut Vec<bool>, picked: &mut Vec<u32>) {
    let positions = width::narrow::<u32, _>(rows.start)..width::narrow(rows.end);
    let column = |condition: &Condition| block.column(condition.column).slice(rows.start, rows.len());
    // Most rows are excluded, or accepted, without an individual check.
    let count = match filter {
        [only] => only.count(column(only)),
        _ => None,
    };
    match count {
        Some(0) => return,
        Some(all) if all == rows.len() => return picked.extend(positions),
        _ => {}
    }
    marks.clear();
    marks.resize(rows.len(), true);
    for condition in filter {
        condition.keep(column(condition), marks);
    }
    let bytes: &[u8] = bytemuck::cast_slice(marks.as_slice());
    let count = count.unwrap_or_else(|| bytes.iter().map(|mark| usize::from(*mark)).sum());
    if count == rows.len() {
        return picked.extend(positions);
    }
    if count * RARE_ROWS <= rows.len() {
        let (words, rest) = bytes.as_chunks::<8>();
        let last = width::narrow::<u32, _>(rows.end - rest.len());
        for (first, word) in positions.step_by(8).zip(words) {
            let mut word = u64::from_le_bytes(*word);
            while word != 0 {
                picked.push(first + word.trailing_zeros() / 8);
                word &= word - 1;
            }
        }
        return picked.extend((last..).zip(rest).filter(|(_, mark)| **mark == 1).map(|(position, _)| position));
    }
    // Every position is written and only a match advances: no branch to mispredict on random matches.
    let mut at = picked.len();
    picked.resize(at + rows.len(), 0);
    for (position, mark) in positions.zip(marks) {
        if let Some(slot) = picked.get_mut(at) {
            *slot = position;
        }
        at += usize::from(*mark);
    }
    picked.truncate(at);
}

impl Iterator for Scan {
    type Item = Result<Block>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.next_block() {
            Ok(block) => block.map(Ok),
            Err(error) => {
                // Nothing follows an error: a short result is never mistaken for a complete one.
                self.ended = true;
                self.pending = None;
                self.gathered.iter_mut().for_each(ColumnCells::clear);
                Some(Err(error))
            }
        }
    }
}

/// Timestamp of the n-th matching row from the end of a closed range, or the start of the range when there are fewer.
pub fn latest_start(
    series: &SeriesState,
    cache: &Arc<MapCache>,
    range: (i64, i64),
    count: u64,
    filter: &[Condition],
) -> Result<i64> {
    latest_start_until(series, cache, range, count, filter, &CancelFlag::default())
}

/// Like [`latest_start`]; `stop` cancels the search, with `deadline_exceeded`.
pub fn latest_start_until(
    series: &SeriesState,
    cache: &Arc<MapCache>,
    range: (i64, i64),
    count: u64,
    filter: &[Condition],
    stop: &CancelFlag,
) -> Result<i64> {
    let (mut rows_left, mut end, mut reach) = (count, range.1, count);
    // From the end in growing steps: old chunks are not opened.
    loop {
        let start = series.start_of_last((range.0, end), reach);
        let spec = ScanSpec {
            range: (start, end),
            desc: true,
            limit: RowLimit::default(),
            skip: 0,
            columns: Some(Vec::new()),
            filter: filter.to_vec(),
        };
        let mut scan = Scan::new(series, cache, &spec).stopped_by(stop.clone());
        // Only positions are needed: pieces are counted, not copied.
        while let Some(piece) = scan.next_match()? {
            let rows = piece.rows() as u64;
            if rows >= rows_left {
                let at = piece.rows().saturating_sub(to_usize(rows_left));
                return Ok(piece.ts(at).unwrap_or(range.0));
            }
            rows_left -= rows;
        }
        if start <= range.0 {
            return Ok(range.0);
        }
        end = start - 1;
        reach = reach.saturating_mul(4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;
    use crate::query::{NumberFormat, Predicate, predicate};
    use crate::store::{Store, StoreOptions, WriteMode};
    use crate::types::{CellLayout, Rows, SeriesKey, SeriesSpec};

    #[test]
    fn long_scans_can_be_cancelled_between_steps() {
        let root = tempfile::tempdir().unwrap();
        let options =
            StoreOptions { background_maintenance: false, tail_rows_max: u64::MAX, ..StoreOptions::default() };
        let store = Store::open(root.path(), true, options).unwrap();
        let key = SeriesKey::scalar("c", "X", "tick", "n").unwrap();
        store.register(SeriesSpec::of_key(&key).resolve().unwrap()).unwrap();
        let count = 300_000_i64;
        let rows = Rows::of_words((0..count).collect(), vec![vec![0; 300_000]]);
        store.write(&key, rows, WriteMode::Upsert, None).unwrap();
        let state = store.snapshot();
        let series = state.get(&key).unwrap();
        let filter =
            predicate::compile(&series.def, &[], &[Predicate::parse("gt:1").unwrap()], NumberFormat::Stored).unwrap();
        let stop = CancelFlag::default();
        let spec = ScanSpec { filter: filter.clone(), ..ScanSpec::range((i64::MIN, i64::MAX)) };
        // A run of rows without a match is checked in several steps, between which the scan can be cancelled.
        let mut scan = Scan::new(series, store.cache(), &spec).stopped_by(stop.clone());
        let piece = scan.merge.next_piece().unwrap().unwrap();
        assert_eq!(piece.rows(), 300_000);
        scan.unchecked = Some(piece);
        let step = scan.next_step().unwrap();
        assert!(step.rows() <= block_rows([CellLayout::WORD; 2].into_iter()), "{}", step.rows());
        stop.cancel();
        assert_eq!(scan.next().unwrap().unwrap_err().code(), ErrorCode::DeadlineExceeded);
        // So can the search for the last rows that match.
        let found = latest_start_until(series, store.cache(), (0, count), 5, &filter, &stop);
        assert_eq!(found.unwrap_err().code(), ErrorCode::DeadlineExceeded);
    }
}
