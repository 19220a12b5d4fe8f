//! The buckets of one series.
//!
//! The time range is divided into slices at borders of buckets, so that each bucket is combined by one thread in the
//! order of its rows. Slices grow, and several are combined at once where there are several cores.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::aggregate::{Output, OutputSource, ResolvedAggregate, overflow};
use super::fold::{BucketFold, BucketSpans};
use super::resampling::ResampledSeries;
use super::table::BucketTable;
use crate::cancel::CancelFlag;
use crate::error::{Error, Result};
use crate::query::condition::Condition;
use crate::query::limit::{LimitTies, RowLimit};
use crate::query::multi::ScanMember;
use crate::query::scan::{Scan, ScanSpec, ScanStats};
use crate::store::{Block, MapCache, SeriesState};
use crate::types::{Bucket, BucketWalk, Grid, cells, time};

/// Rows of the first slice.
const FIRST_SLICE_ROWS: u64 = 16_384;
/// Rows of later slices.
const SLICE_ROWS: u64 = 262_144;
/// Slices that are combined at once, for each thread.
const SLICES_PER_THREAD: usize = 4;
/// One row.
const FIRST: RowLimit = RowLimit { rows: Some(1), ties: LimitTies::Split };
/// Threads that combine slices of one result.
const THREADS_MAX: usize = 8;

/// Threads that combine slices of one result.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |threads| threads.get().min(THREADS_MAX))
}

/// What is read of the rows of a series, and how.
#[derive(Debug)]
pub struct BucketReader {
    pub series: Arc<SeriesState>,
    pub resampled: Arc<ResampledSeries>,
    cache: Arc<MapCache>,
    filter: Vec<Condition>,
    stop: CancelFlag,
    /// Positions of the columns of the series that are read.
    columns: Vec<usize>,
    /// The aggregates that are computed, as positions in the outputs.
    pub computed: Vec<usize>,
    /// The grid whose points the borders must be.
    grid: Option<Grid>,
}

impl BucketReader {
    /// A reader of the aggregates that the columns of a member name.
    pub fn new(member: &ScanMember, resampled: &Arc<ResampledSeries>, cache: &Arc<MapCache>) -> Self {
        let mut columns = Vec::new();
        let mut computed = Vec::new();
        let mut wanted = member.columns.clone();
        // The flat bar of a gap needs the close before it.
        for position in &member.columns {
            if let Some(needed) = resampled.gap_source(*position) {
                wanted.push(needed);
            }
        }
        for position in wanted {
            let Some(OutputSource::Aggregate(aggregate)) = resampled.outputs.get(position).map(|output| &output.source)
            else {
                continue;
            };
            if computed.contains(&position) {
                continue;
            }
            computed.push(position);
            let of_conditions = aggregate.conditions.iter().filter_map(|condition| condition.column.checked_sub(1));
            let of_cells = [aggregate.column, aggregate.weight].into_iter().flatten().map(|(at, _)| at);
            for column in of_cells.chain(of_conditions) {
                if !columns.contains(&column) {
                    columns.push(column);
                }
            }
        }
        Self {
            series: Arc::clone(&member.series),
            resampled: Arc::clone(resampled),
            cache: Arc::clone(cache),
            filter: member.filter.as_ref().clone(),
            stop: member.stop.clone(),
            columns,
            computed,
            grid: resampled.grid_to_check,
        }
    }

    /// The outputs that are computed.
    pub fn outputs(&self) -> impl Iterator<Item = &Output> {
        self.computed.iter().map(|position| cells::column(&self.resampled.outputs, *position))
    }

    fn aggregates(&self) -> impl Iterator<Item = &ResolvedAggregate> {
        self.outputs().filter_map(|output| match &output.source {
            OutputSource::Aggregate(aggregate) => Some(aggregate),
            _ => None,
        })
    }

    /// An empty table.
    pub fn table(&self) -> BucketTable {
        BucketTable::new(self.outputs().map(|output| output.column.kind.layout()))
    }

    /// The first matching row of a closed range, the last one where `desc`.
    pub fn edge(&self, range: (i64, i64), desc: bool) -> Result<Option<i64>> {
        self.edge_of(range, desc, &self.filter)
    }

    /// The last row of the series, whether it matches or not.
    pub fn last_row(&self) -> Result<Option<i64>> {
        self.series.bounds.map_or(Ok(None), |bounds| self.edge_of(bounds, true, &[]))
    }

    fn edge_of(&self, range: (i64, i64), desc: bool, filter: &[Condition]) -> Result<Option<i64>> {
        if range.0 > range.1 {
            return Ok(None);
        }
        let filter = filter.to_vec();
        let spec = ScanSpec { desc, limit: FIRST, columns: Some(Vec::new()), filter, ..ScanSpec::range(range) };
        let mut scan = Scan::new(&self.series, &self.cache, &spec).stopped_by(self.stop.clone());
        let block = scan.next().transpose()?;
        Ok(block.and_then(|block| block.timestamps().first().copied()))
    }

    /// Whether the result is still wanted.
    pub fn check_stop(&self) -> Result<()> {
        self.stop.check()
    }

    /// Combines the rows of `from..to`, which are borders of buckets.
    fn combine(&self, (from, to): (i64, i64)) -> Result<(BucketTable, ScanStats)> {
        let last = if to == i64::MAX { to } else { to.saturating_sub(1) };
        let spec = ScanSpec {
            columns: Some(self.columns.clone()),
            filter: self.filter.clone(),
            ..ScanSpec::range((from, last))
        };
        let mut scan = Scan::new(&self.series, &self.cache, &spec).stopped_by(self.stop.clone());
        let mut builder = TableBuilder::new(self);
        for block in scan.by_ref() {
            builder.add(&block?)?;
        }
        Ok((builder.finish()?, scan.stats()))
    }

    /// The error of the value of a bucket that does not fit; `position` is that of the aggregate.
    fn overflow(&self, position: usize, starts: &[i64], at: usize) -> Error {
        let start = starts.get(at).copied().unwrap_or_default();
        match self.outputs().nth(position) {
            Some(output) => overflow(&self.series.def, output, start),
            None => Error::internal("an aggregate that is not computed"),
        }
    }

    /// The error of a border within an interval of the source.
    fn straddles(&self, border: i64) -> Error {
        let def = &self.series.def;
        Error::invalid(format!(
            "an interval of {} crosses the border of buckets at {}",
            def.key,
            time::rfc3339(border, def.unit)
        ))
        .with_hint("use buckets whose borders are borders of the intervals, or a series of shorter intervals")
    }
}

/// Combines blocks of ascending rows.
struct TableBuilder<'a> {
    reader: &'a BucketReader,
    walk: BucketWalk<'a>,
    current: Option<Bucket>,
    /// A border that was already checked.
    checked: Option<i64>,
    spans: BucketSpans,
    starts: Vec<i64>,
    ends: Vec<i64>,
    rows: Vec<u64>,
    folds: Vec<BucketFold>,
    /// Conditions of the aggregates, with the position of their column in the blocks.
    conditions: Vec<Vec<(usize, Condition)>>,
    marks: Vec<bool>,
}

impl<'a> TableBuilder<'a> {
    fn new(reader: &'a BucketReader) -> Self {
        // `ts` is the first column of a block.
        let place = |column: usize| reader.columns.iter().position(|known| *known == column).map(|at| at + 1);
        let place_of = |column: Option<(usize, _)>| column.and_then(|(column, _)| place(column));
        let folds = reader
            .aggregates()
            .map(|aggregate| BucketFold::new(aggregate, place_of(aggregate.column), place_of(aggregate.weight)))
            .collect();
        let conditions_of = |aggregate: &ResolvedAggregate| {
            let placed = |condition: &Condition| {
                let column = condition.column.checked_sub(1).map_or(Some(0), place)?;
                Some((column, condition.clone()))
            };
            aggregate.conditions.iter().filter_map(placed).collect()
        };
        Self {
            reader,
            walk: reader.resampled.buckets.walk(),
            current: None,
            checked: None,
            spans: BucketSpans::default(),
            starts: Vec::new(),
            ends: Vec::new(),
            rows: Vec::new(),
            folds,
            conditions: reader.aggregates().map(conditions_of).collect(),
            marks: Vec::new(),
        }
    }

    fn add(&mut self, block: &Block) -> Result<()> {
        let mut row = 0;
        while row < block.rows() {
            row = self.divide(block.timestamps(), row)?;
            for (position, (fold, conditions)) in self.folds.iter_mut().zip(&self.conditions).enumerate() {
                let marks = if conditions.is_empty() {
                    None
                } else {
                    self.marks.clear();
                    self.marks.resize(block.rows(), true);
                    for (column, condition) in conditions {
                        condition.keep(block.column(*column), &mut self.marks);
                    }
                    Some(self.marks.as_slice())
                };
                if let Err(at) = fold.add(block, &self.spans, marks) {
                    return Err(self.reader.overflow(position, &self.starts, at));
                }
            }
        }
        Ok(())
    }

    /// Finds the spans of the buckets in ascending timestamps from a row on; returns the row that continues a bucket after
    /// rows between its sessions, or the number of rows.
    fn divide(&mut self, timestamps: &[i64], from: usize) -> Result<usize> {
        self.spans.rows.clear();
        self.spans.continues = false;
        let (mut row, mut expected) = (from, 0);
        while let Some(ts) = timestamps.get(row).copied() {
            let bucket = match self.current {
                Some(current) if current.from <= ts && ts < current.to => current,
                _ => {
                    let found = self.walk.at(ts);
                    self.check(&found)?;
                    self.current = Some(found);
                    found
                }
            };
            if ts < bucket.from {
                // Between sessions.
                row += cells::from(timestamps, row).partition_point(|ts| *ts < bucket.from);
                continue;
            }
            if self.starts.last() == Some(&bucket.start) {
                match self.spans.rows.last_mut() {
                    // The next session of the same bucket.
                    Some(last) if last.1 != row => return Ok(row),
                    Some(last) => last.1 = end_of(timestamps, row, bucket.to, expected),
                    None => {
                        self.spans.continues = true;
                        self.spans.rows.push((row, end_of(timestamps, row, bucket.to, expected)));
                    }
                }
            } else {
                self.starts.push(bucket.start);
                self.ends.push(bucket.end);
                self.rows.push(0);
                self.spans.rows.push((row, end_of(timestamps, row, bucket.to, expected)));
            }
            let end = self.spans.rows.last().map_or(row, |(_, end)| *end);
            expected = end - row;
            if let Some(rows) = self.rows.last_mut() {
                *rows += expected as u64;
            }
            row = end;
        }
        Ok(row)
    }

    /// Refuses a bucket whose borders lie within intervals of the series.
    fn check(&mut self, bucket: &Bucket) -> Result<()> {
        let Some(grid) = &self.reader.grid else { return Ok(()) };
        for border in [bucket.from, bucket.to] {
            if self.checked != Some(border) && !grid.has(border) {
                return Err(self.reader.straddles(border));
            }
        }
        self.checked = Some(bucket.to);
        Ok(())
    }

    fn finish(self) -> Result<BucketTable> {
        let mut columns = Vec::with_capacity(self.folds.len());
        for (position, fold) in self.folds.into_iter().enumerate() {
            let cells = fold.finish().map_err(|at| self.reader.overflow(position, &self.starts, at))?;
            columns.push(cells);
        }
        Ok(BucketTable { starts: self.starts, ends: self.ends, rows: self.rows, columns })
    }
}

/// End of the rows before a border, of ascending timestamps; `expected` rows from `row` on are tried first.
#[inline]
fn end_of(timestamps: &[i64], row: usize, border: i64, expected: usize) -> usize {
    let guess = row + expected;
    let is_before = |at: usize| timestamps.get(at).is_some_and(|ts| *ts < border);
    if expected > 0 && is_before(guess - 1) && !is_before(guess) {
        return guess;
    }
    // Steps that double, then a search in the last one.
    let (mut low, mut step) = (row, 1);
    while is_before(low + step) {
        low += step;
        step *= 2;
    }
    let high = (low + step).min(timestamps.len());
    low + cells::range(timestamps, low..high).partition_point(|ts| *ts < border)
}

/// The buckets that have rows, in the direction of the result.
#[derive(Debug)]
pub struct BucketSlices {
    pub reader: BucketReader,
    desc: bool,
    threads: usize,
    /// The borders between which slices are left: `from..to`.
    left: Option<(i64, i64)>,
    /// Ticks of the next slice, and of later ones.
    ticks: (i64, i64),
    /// Slices of the next turn.
    turn: usize,
    ready: VecDeque<BucketTable>,
    pub stats: ScanStats,
}

impl BucketSlices {
    /// The buckets between two borders.
    pub fn new(reader: BucketReader, span: Option<(i64, i64)>, desc: bool, threads: usize) -> Self {
        let (first, last) = reader.series.bounds.unwrap_or((0, 0));
        let ticks_of = |rows: u64| {
            let span = (i128::from(last) - i128::from(first) + 1).unsigned_abs();
            let ticks = span * u128::from(rows) / u128::from(reader.series.rows.max(1));
            i64::try_from(ticks).unwrap_or(i64::MAX).max(1)
        };
        let ticks = (ticks_of(FIRST_SLICE_ROWS), ticks_of(SLICE_ROWS));
        Self {
            reader,
            desc,
            threads,
            left: span.filter(|(from, to)| from < to),
            ticks,
            turn: 1,
            ready: VecDeque::new(),
            stats: ScanStats::default(),
        }
    }

    /// The next buckets, at least one; `None` at the end.
    pub fn next_table(&mut self) -> Result<Option<BucketTable>> {
        self.load()?;
        Ok(self.ready.pop_front())
    }

    /// Combines slices until a bucket is ready, or none is left.
    pub fn load(&mut self) -> Result<()> {
        while self.ready.is_empty() && self.left.is_some() {
            let slices = self.next_slices();
            for combined in self.combine(&slices) {
                let (table, stats) = combined?;
                self.stats.add(&stats);
                if !table.is_empty() {
                    self.ready.push_back(if self.desc { table.reversed() } else { table });
                }
            }
        }
        Ok(())
    }

    /// Slices of the next turn, in the direction of the result.
    fn next_slices(&mut self) -> Vec<(i64, i64)> {
        let mut walk = self.reader.resampled.buckets.walk();
        let mut slices = Vec::with_capacity(self.turn);
        while slices.len() < self.turn
            && let Some((from, to)) = self.left
        {
            let (slice, rest) = if self.desc {
                let start = walk.at(to.saturating_sub(self.ticks.0).max(from)).start;
                // A bucket that is longer than a slice, or after a time between sessions.
                let start = if start >= to { walk.before(to).start } else { start };
                let start = start.max(from);
                ((start, to), (from, start))
            } else {
                let bucket = walk.at(from.saturating_add(self.ticks.0).min(to));
                let end = if bucket.start <= from { bucket.end } else { bucket.start }.min(to);
                ((from, end), (end, to))
            };
            slices.push(slice);
            self.left = Some(rest).filter(|(from, to)| from < to);
            self.ticks.0 = self.ticks.1;
        }
        self.turn = (self.turn * 2).min(self.threads * SLICES_PER_THREAD);
        slices
    }

    fn combine(&self, slices: &[(i64, i64)]) -> Vec<Result<(BucketTable, ScanStats)>> {
        let threads = self.threads.min(slices.len());
        if threads <= 1 {
            return slices.iter().map(|slice| self.reader.combine(*slice)).collect();
        }
        in_parallel(slices, threads, |slice| self.reader.combine(*slice))
    }
}

/// Applies a function to all items on several threads; the results are in the order of the items.
pub fn in_parallel<T: Sync, R: Send>(items: &[T], threads: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let run = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return done };
            done.push((at, work(item)));
        }
    };
    let mut done = std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads)
            .filter_map(|_| std::thread::Builder::new().name("fastk-resample".into()).spawn_scoped(scope, run).ok())
            .collect();
        let mut done = run();
        for helper in helpers {
            match helper.join() {
                Ok(of_helper) => done.extend(of_helper),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        done
    });
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}
