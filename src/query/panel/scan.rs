//! The rows of a panel: a merge of the streams of its series.
//!
//! Invariants:
//! 1. Rows are in the order of time, one per timestamp.
//! 2. Each step appends rows that are decided by one block of each series: columns are copied by ranges where rows follow
//!    each other, and by positions elsewhere, never cell by cell through a map.
//! 3. Each series holds one block, and an as-of join one more row: memory does not grow with the rows.

use std::sync::Arc;

use super::known::RowsKnown;
use crate::error::{Error, Result};
use crate::format::chunk::{ZONE_ROWS, block_rows};
use crate::query::condition::Condition;
use crate::query::limit::RowLimit;
use crate::query::multi::{MultiScan, PagePosition, RowSubject, ScanMember};
use crate::query::request::{MultiLayout, RowOrder};
use crate::query::resample::{BucketScan, Resampling};
use crate::query::scan::{ScanStats, latest_start_until};
use crate::store::{Block, MapCache};
use crate::types::width::narrow;
use crate::types::{CellLayout, ColumnCells, NO_ROW, cells};

/// Bytes of a block.
const BLOCK_BYTES: usize = 1 << 20;
/// Least rows of a block, however many columns it has.
const ROWS_MIN: usize = 128;
/// Rows of the copied blocks of all series.
const INPUT_ROWS: usize = 1 << 20;

/// What a panel has in addition to its series.
#[derive(Clone, Debug)]
pub struct Panel {
    /// The as-of join; the exact one when absent.
    pub as_of: Option<PanelAsOf>,
    /// Conditions on the rows of the panel.
    pub filter: Arc<Vec<Condition>>,
}

/// An as-of join, in the unit of the series.
#[derive(Clone, Debug)]
pub struct PanelAsOf {
    /// Longest time since a row became known.
    pub tolerance: i64,
    /// When the rows of each series become known.
    pub known: Vec<RowsKnown>,
}

/// Rows of a panel, block by block.
#[derive(Debug)]
pub struct PanelScan {
    inputs: Vec<PanelInput>,
    panel: Arc<Panel>,
    cache: Arc<MapCache>,
    order: RowOrder,
    layouts: Vec<CellLayout>,
    rows_max: usize,
    rows_left: u64,
    opened: bool,
    next: Option<i64>,
    ended: bool,
}

/// The rows of one series.
#[derive(Debug)]
struct PanelInput {
    member: ScanMember,
    resampling: Option<Resampling>,
    source: Option<PanelSource>,
    /// Layouts of its columns, without `ts`.
    layouts: Vec<CellLayout>,
    /// Most rows of a block that is copied.
    block_rows: usize,
    block: Option<Block>,
    /// A key of each row of the block, ascending: its timestamp, or of an as-of join when it becomes known; the
    /// complement where the rows descend.
    keys: Vec<i64>,
    /// Rows of the block that are used, or of an as-of join passed.
    at: usize,
    /// Of an as-of join the last row of the blocks before, and its key.
    carried: Option<(Block, i64)>,
    ended: bool,
}

#[derive(Debug)]
enum PanelSource {
    Rows(Box<MultiScan>),
    Buckets(Box<BucketScan>),
}

impl PanelSource {
    fn next_block(&mut self) -> Result<Option<Block>> {
        match self {
            Self::Rows(scan) => scan.next().transpose(),
            Self::Buckets(scan) => scan.next().transpose(),
        }
    }

    fn stats(&self) -> ScanStats {
        match self {
            Self::Rows(scan) => scan.stats(),
            Self::Buckets(scan) => scan.stats(),
        }
    }
}

/// Rows being appended to.
struct PanelRows {
    ts: Vec<i64>,
    /// The columns of all series, by series.
    columns: Vec<ColumnCells>,
}

impl PanelInput {
    fn new(member: ScanMember, resampling: Option<Resampling>, block_rows: usize) -> Self {
        let shown = match resampling.as_ref().and_then(|resampling| resampling.series.first()) {
            Some(resampled) => Arc::clone(&resampled.shown.def),
            None => Arc::clone(&member.series.def),
        };
        let layouts = member.columns.iter().map(|position| shown.layout(position + 1)).collect();
        Self {
            member,
            resampling,
            source: None,
            layouts,
            block_rows,
            block: None,
            keys: Vec::new(),
            at: 0,
            carried: None,
            ended: false,
        }
    }

    /// Reads the next block where there is none.
    fn load(&mut self, cache: &Arc<MapCache>, order: RowOrder, known: Option<&RowsKnown>) -> Result<()> {
        while self.block.is_none() && !self.ended {
            let (member, resampling, input_rows) = (&self.member, &self.resampling, &self.block_rows);
            let source = self.source.get_or_insert_with(|| {
                let (members, layout, subject) = (vec![member.clone()], MultiLayout::BySeries, RowSubject::Series);
                let cache = Arc::clone(cache);
                match resampling {
                    None => {
                        let scan = MultiScan::new(members, subject, cache, layout, order, RowLimit::default());
                        PanelSource::Rows(Box::new(scan.with_block_rows(*input_rows)))
                    }
                    Some(resampling) => PanelSource::Buckets(Box::new(BucketScan::new(
                        members, resampling, subject, &cache, layout, order, None,
                    ))),
                }
            });
            let Some(block) = source.next_block()? else {
                self.ended = true;
                continue;
            };
            if block.rows() == 0 {
                continue;
            }
            self.keys = match known {
                None => block.timestamps().to_vec(),
                Some(known) => known.moments(block.timestamps()),
            };
            if order == RowOrder::Desc {
                self.keys.iter_mut().for_each(|key| *key = !*key);
            }
            self.at = 0;
            self.block = Some(block);
        }
        Ok(())
    }

    /// The keys of the rows that are not used.
    fn rest(&self) -> &[i64] {
        match self.block {
            None => &[],
            Some(_) => cells::from(&self.keys, self.at),
        }
    }

    /// The last key of the block; `None` at the end.
    fn last_key(&self) -> Option<i64> {
        self.block.as_ref().and_then(|_| self.keys.last().copied())
    }

    /// Marks rows as used.
    fn advance(&mut self, rows: usize) {
        self.at += rows;
        if self.at >= self.keys.len() {
            self.block = None;
        }
    }

    /// Appends consecutive rows of the block.
    fn append_range(&self, from: usize, rows: usize, columns: &mut [ColumnCells]) {
        let Some(block) = &self.block else { return };
        for (column, to) in columns.iter_mut().enumerate() {
            to.extend(block.column(column + 1).slice(from, rows));
        }
    }
}

/// Appends rows of a block by their positions; nulls where there is no block.
fn append_rows(block: Option<&Block>, rows: &[u32], columns: &mut [ColumnCells]) {
    let Some(block) = block else { return append_nulls(rows.len(), columns) };
    for (column, to) in columns.iter_mut().enumerate() {
        to.extend_or_null(block.column(column + 1), rows);
    }
}

fn append_nulls(rows: usize, columns: &mut [ColumnCells]) {
    columns.iter_mut().for_each(|column| column.extend_nulls(rows));
}

impl PanelScan {
    /// Starts a scan of series in the order of the panel; nothing is read before the first block is requested.
    pub fn new(
        members: Vec<ScanMember>,
        resampling: Option<&Resampling>,
        panel: Arc<Panel>,
        cache: Arc<MapCache>,
        order: RowOrder,
        limit: Option<u64>,
    ) -> Self {
        let resampling_of = |at: usize| {
            let of_all = resampling?;
            let series = of_all.series.get(at).into_iter().map(Arc::clone).collect();
            Some(Resampling { fill: of_all.fill, series })
        };
        let input_rows = (INPUT_ROWS / members.len().max(1)).max(ZONE_ROWS);
        let inputs: Vec<PanelInput> = members
            .into_iter()
            .enumerate()
            .map(|(at, member)| PanelInput::new(member, resampling_of(at), input_rows))
            .collect();
        let layouts: Vec<CellLayout> = inputs.iter().flat_map(|input| input.layouts.iter().copied()).collect();
        let row_bytes: usize = 8 + layouts.iter().map(|layout| layout.width()).sum::<usize>();
        let full = block_rows(std::iter::once(CellLayout::WORD).chain(layouts.iter().copied()));
        // A block of many columns is smaller than a zone.
        let rows_max = full.min((BLOCK_BYTES / row_bytes).max(ROWS_MIN));
        Self {
            inputs,
            panel,
            cache,
            order,
            layouts,
            rows_max,
            rows_left: limit.unwrap_or(u64::MAX),
            opened: false,
            next: None,
            ended: false,
        }
    }

    /// Where the first row beyond the limit is, once the scan has ended; `None` without one.
    pub fn next_position(&self) -> Option<PagePosition> {
        let (ts, first) = (self.next?, self.inputs.first()?);
        Some(PagePosition::Row { series_id: first.member.series.id, ts, skip: 0 })
    }

    /// Statistics of the scans so far, over all series.
    pub fn stats(&self) -> ScanStats {
        let mut stats = ScanStats::default();
        let sources = self.inputs.iter().filter_map(|input| input.source.as_ref());
        sources.for_each(|source| stats.add(&source.stats()));
        stats
    }

    /// Restricts the series of an as-of join to the rows that its moments can see.
    fn open(&mut self) -> Result<()> {
        let panel = Arc::clone(&self.panel);
        let Some(PanelAsOf { tolerance, known }) = &panel.as_of else { return Ok(()) };
        let (Some((anchor, others)), Some((anchor_known, others_known))) =
            (self.inputs.split_first_mut(), known.split_first())
        else {
            return Ok(());
        };
        let (start, end) = anchor.member.range;
        let Some((first, last)) = anchor.member.series.bounds.filter(|_| start <= end) else {
            anchor.ended = true;
            return Ok(());
        };
        // A bucket starts at or before its first row.
        let first = match anchor_known {
            RowsKnown::Bucket(buckets) => buckets.walk().at(first).start.min(first),
            _ => first,
        };
        let from = anchor_known.moment(start.max(first));
        let to = anchor_known.moment(end.min(last));
        for (input, known) in others.iter_mut().zip(others_known) {
            let Some((first, _)) = input.member.series.bounds else { continue };
            let oldest = from.saturating_sub(*tolerance);
            let mut lowest = if oldest <= first { i64::MIN } else { known.first_ts(oldest) };
            let highest = known.last_ts(to);
            if let (RowsKnown::After(_), None) = (known, &input.resampling) {
                let at = known.last_ts(from);
                if lowest < at && first <= at {
                    // Rows before the last one that is known are never seen.
                    let ScanMember { series, stop, .. } = &input.member;
                    lowest = latest_start_until(series, &self.cache, (lowest.max(first), at), 1, &[], stop)?;
                }
            }
            input.member.range = (lowest, highest);
            input.ended = lowest > highest;
        }
        Ok(())
    }

    fn next_block(&mut self) -> Result<Option<Block>> {
        if !self.opened {
            self.open()?;
            self.opened = true;
        }
        loop {
            if self.next.is_some() {
                return Ok(None);
            }
            let mut rows_max = self.rows_max;
            if self.panel.filter.is_empty() {
                // One more row shows where the next page starts.
                rows_max = rows_max.min(usize::try_from(self.rows_left).unwrap_or(usize::MAX).saturating_add(1));
            }
            let Some(block) = self.build(rows_max)? else { return Ok(None) };
            let block = self.matching(block)?;
            if block.rows() as u64 > self.rows_left {
                let kept = usize::try_from(self.rows_left).unwrap_or(usize::MAX);
                self.next = block.timestamps().get(kept).copied();
                self.rows_left = 0;
                return Ok((kept > 0).then(|| block.slice(0, kept)));
            }
            self.rows_left -= block.rows() as u64;
            if block.rows() > 0 {
                return Ok(Some(block));
            }
        }
    }

    /// The rows of a block that meet the conditions.
    fn matching(&self, block: Block) -> Result<Block> {
        let filter = &self.panel.filter;
        if filter.is_empty() {
            return Ok(block);
        }
        let mut marks = vec![true; block.rows()];
        for condition in filter.iter() {
            condition.keep(block.column(condition.column), &mut marks);
        }
        let positions: Vec<usize> =
            marks.iter().enumerate().filter(|(_, mark)| **mark).map(|(position, _)| position).collect();
        if positions.len() == block.rows() {
            return Ok(block);
        }
        let columns = block.columns().map(|column| {
            let mut picked = ColumnCells::with_capacity(column.layout(), positions.len());
            picked.extend_picked(column, positions.iter().copied());
            picked.into()
        });
        Block::new(positions.len(), columns.collect::<Vec<_>>())
    }

    /// The next rows, at most `rows_max`.
    fn build(&mut self, rows_max: usize) -> Result<Option<Block>> {
        let mut rows = PanelRows {
            ts: Vec::with_capacity(rows_max),
            columns: self.layouts.iter().map(|layout| ColumnCells::with_capacity(*layout, rows_max)).collect(),
        };
        let panel = Arc::clone(&self.panel);
        while rows.ts.len() < rows_max {
            let room = rows_max - rows.ts.len();
            let appended = match &panel.as_of {
                None => self.append_exact(room, &mut rows)?,
                Some(as_of) => self.append_as_of(as_of, room, &mut rows)?,
            };
            if !appended {
                break;
            }
        }
        let count = rows.ts.len();
        if count == 0 {
            return Ok(None);
        }
        let columns = std::iter::once(ColumnCells::from(rows.ts)).chain(rows.columns);
        Block::new(count, columns.map(Into::into).collect::<Vec<_>>()).map(Some)
    }

    /// Appends rows of the exact join that one block of each series decides; false at the end.
    fn append_exact(&mut self, room: usize, rows: &mut PanelRows) -> Result<bool> {
        let (cache, order) = (&self.cache, self.order);
        self.inputs.iter_mut().try_for_each(|input| input.load(cache, order, None))?;
        let Some(bound) = self.inputs.iter().filter_map(PanelInput::last_key).min() else { return Ok(false) };
        let mut union: Vec<i64> = Vec::new();
        for input in &self.inputs {
            let rest = input.rest();
            let rest = cells::range(rest, 0..rest.len().min(room));
            let decided = cells::range(rest, 0..rest.partition_point(|key| *key <= bound));
            unite(&mut union, decided);
        }
        union.truncate(room);
        let Some(last) = union.last().copied() else { return Err(Error::internal("a step of a panel without rows")) };
        match order {
            RowOrder::Asc => rows.ts.extend_from_slice(&union),
            RowOrder::Desc => rows.ts.extend(union.iter().map(|key| !*key)),
        }
        let mut positions: Vec<u32> = Vec::with_capacity(union.len());
        let mut columns = rows.columns.as_mut_slice();
        for input in &mut self.inputs {
            let own;
            (own, columns) = columns.split_at_mut(input.layouts.len());
            let rest = input.rest();
            let count = rest.partition_point(|key| *key <= last);
            if count == union.len() {
                // Keys are unique, so that these are all of them.
                input.append_range(input.at, count, own);
            } else if count == 0 {
                append_nulls(union.len(), own);
            } else {
                positions.clear();
                place(&union, cells::range(rest, 0..count), input.at, &mut positions);
                append_rows(input.block.as_ref(), &positions, own);
            }
            input.advance(count);
        }
        Ok(true)
    }

    /// Appends rows of the as-of join that one block of each series decides; false at the end.
    fn append_as_of(&mut self, as_of: &PanelAsOf, room: usize, rows: &mut PanelRows) -> Result<bool> {
        let (cache, order) = (&self.cache, self.order);
        let (Some((anchor, others)), Some((anchor_known, others_known))) =
            (self.inputs.split_first_mut(), as_of.known.split_first())
        else {
            return Ok(false);
        };
        anchor.load(cache, order, Some(anchor_known))?;
        let moments = anchor.rest();
        let moments = cells::range(moments, 0..moments.len().min(room));
        let Some(first) = moments.first().copied() else { return Ok(false) };
        let mut count = moments.len();
        for (input, known) in others.iter_mut().zip(others_known) {
            input.pass(first, order, |input| input.load(cache, order, Some(known)))?;
            if let Some(last) = input.last_key() {
                count = count.min(match order {
                    // A later block can have a later row that is known at the last key.
                    RowOrder::Asc => moments.partition_point(|moment| *moment < last),
                    RowOrder::Desc => moments.partition_point(|moment| *moment <= last),
                });
            }
        }
        let moments = cells::range(moments, 0..count);
        let block = anchor.block.as_ref().ok_or_else(|| Error::internal("a panel without its first series"))?;
        rows.ts.extend_from_slice(cells::range(block.timestamps(), anchor.at..anchor.at + count));
        let (own, mut columns) = rows.columns.split_at_mut(anchor.layouts.len());
        anchor.append_range(anchor.at, count, own);
        for input in others {
            let own;
            (own, columns) = columns.split_at_mut(input.layouts.len());
            match order {
                RowOrder::Asc => input.append_seen(moments, as_of.tolerance, own),
                RowOrder::Desc => input.append_seen_backwards(moments, as_of.tolerance, own),
            }
        }
        anchor.advance(count);
        Ok(true)
    }
}

impl PanelInput {
    /// Passes blocks that do not decide what is seen at a moment.
    fn pass(&mut self, moment: i64, order: RowOrder, load: impl Fn(&mut Self) -> Result<()>) -> Result<()> {
        loop {
            load(self)?;
            let Some(last) = self.last_key() else { return Ok(()) };
            let is_passed = match order {
                RowOrder::Asc => last <= moment,
                // Complements: no row of the block is known.
                RowOrder::Desc => last < moment,
            };
            if !is_passed {
                return Ok(());
            }
            if let (RowOrder::Asc, Some(block)) = (order, self.block.take()) {
                self.carried = Some((block.slice(block.rows() - 1, 1), last));
            }
            self.block = None;
        }
    }

    /// Appends the last rows that are known at ascending moments.
    fn append_seen(&mut self, moments: &[i64], tolerance: i64, columns: &mut [ColumnCells]) {
        let is_recent = |moment: i64, key: i64| moment.saturating_sub(key) <= tolerance;
        let keys: &[i64] = if self.block.is_some() { &self.keys } else { &[] };
        // Rows of an earlier block are seen until the first of this one is known.
        let before = match keys.first() {
            Some(first) if self.at == 0 => moments.partition_point(|moment| moment < first),
            Some(_) => 0,
            None => moments.len(),
        };
        let (of_carried, of_block) = moments.split_at(before);
        let mut positions: Vec<u32> = Vec::with_capacity(moments.len());
        if let Some((block, key)) = &self.carried {
            positions.extend(of_carried.iter().map(|moment| if is_recent(*moment, *key) { 0 } else { NO_ROW }));
            append_rows(Some(block), &positions, columns);
        } else {
            append_nulls(before, columns);
        }
        if of_block.is_empty() {
            return;
        }
        positions.clear();
        let mut passed = self.at;
        for moment in of_block {
            passed = pass_keys(keys, passed, |key| key <= *moment);
            let seen = passed.checked_sub(1).filter(|row| is_recent(*moment, cells::at(keys, *row)));
            positions.push(seen.map_or(NO_ROW, narrow));
        }
        append_rows(self.block.as_ref(), &positions, columns);
        self.at = passed;
    }

    /// Appends the last rows that are known at descending moments; moments and keys are complements.
    fn append_seen_backwards(&mut self, moments: &[i64], tolerance: i64, columns: &mut [ColumnCells]) {
        let keys: &[i64] = if self.block.is_some() { &self.keys } else { &[] };
        let mut positions: Vec<u32> = Vec::with_capacity(moments.len());
        let mut passed = self.at;
        for moment in moments {
            passed = pass_keys(keys, passed, |key| key < *moment);
            let seen = keys.get(passed).filter(|key| key.saturating_sub(*moment) <= tolerance);
            positions.push(if seen.is_some() { narrow(passed) } else { NO_ROW });
        }
        append_rows(self.block.as_ref(), &positions, columns);
        self.at = passed;
    }
}

/// The first position from `at` on whose key is not passed; keys ascend.
fn pass_keys(keys: &[i64], at: usize, is_passed: impl Fn(i64) -> bool) -> usize {
    let passes = |at: usize| keys.get(at).is_some_and(|key| is_passed(*key));
    let (mut low, mut step) = (at, 1);
    if !passes(low) {
        return low;
    }
    // Steps that double, then a search in the last one.
    while passes(low + step) {
        low += step;
        step *= 2;
    }
    let high = (low + step).min(keys.len());
    low + 1 + cells::range(keys, low + 1..high).partition_point(|key| is_passed(*key))
}

/// Adds ascending keys to ascending keys.
fn unite(union: &mut Vec<i64>, keys: &[i64]) {
    if union.is_empty() {
        union.extend_from_slice(keys);
        return;
    }
    // Bars of one timeframe mostly have the same timestamps.
    if keys.is_empty() || union.as_slice() == keys {
        return;
    }
    let mut merged = Vec::with_capacity(union.len() + keys.len());
    let (mut own, mut new) = (union.iter().copied().peekable(), keys.iter().copied().peekable());
    while let (Some(a), Some(b)) = (own.peek().copied(), new.peek().copied()) {
        merged.push(a.min(b));
        if a <= b {
            own.next();
        }
        if b <= a {
            new.next();
        }
    }
    merged.extend(own);
    merged.extend(new);
    *union = merged;
}

/// Appends for each key of `all` the position of it in `keys`, a part of them, counted from `first`.
fn place(all: &[i64], keys: &[i64], first: usize, positions: &mut Vec<u32>) {
    let mut at = 0;
    for key in all {
        let is_here = keys.get(at) == Some(key);
        positions.push(if is_here { narrow(first + at) } else { NO_ROW });
        at += usize::from(is_here);
    }
}

impl Iterator for PanelScan {
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
