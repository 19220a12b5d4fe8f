//! The rows of one series: its buckets, the buckets without rows between them, and what is known of each.
//!
//! Buckets without rows are filled only between the first and the last row that match, of the whole series and not of
//! the range, and only where the calendar of the series expects rows. A range therefore returns the same rows whatever
//! else it selects.

use std::sync::Arc;

use super::aggregate::{GapValue, OutputSource};
use super::fold::divide_half_even;
use super::resampling::ResampledSeries;
use super::series_scan::{BucketReader, BucketSlices};
use super::spec::{FillRule, PartialRule};
use super::table::BucketTable;
use crate::error::Result;
use crate::query::coverage::missing_ranges;
use crate::query::multi::ScanMember;
use crate::query::request::RowOrder;
use crate::query::scan::ScanStats;
use crate::store::{Block, MapCache};
use crate::types::{Bucket, Calendar, CellSlice, ColumnCells, ColumnType, SharedCells, cells};

/// Rows of a table with filled buckets.
const FILLED_ROWS: usize = 8_192;

/// Rows of one series of a resampled result.
#[derive(Debug)]
pub struct SeriesBuckets {
    slices: BucketSlices,
    resampled: Arc<ResampledSeries>,
    /// Positions of the outputs in the result.
    columns: Vec<usize>,
    fill: FillRule,
    order: RowOrder,
    /// Closed range of the starts that are returned.
    range: (i64, i64),
    calendar: Calendar,
    /// Buckets not yet returned, and the position of the next one.
    pending: Option<(Arc<BucketTable>, usize)>,
    /// The last bucket with rows.
    last: Option<(Arc<BucketTable>, usize)>,
    /// The next bucket of the gap being filled.
    gap: Option<Bucket>,
    facts: BucketFacts,
}

/// What is known of the buckets of a series.
#[derive(Debug)]
struct BucketFacts {
    /// Closed ranges of the starts of expected intervals without a row; absent until needed, or where the series has no
    /// intervals.
    missing: Option<Vec<(i64, i64)>>,
    /// First moment after the last interval.
    watermark: i64,
}

impl SeriesBuckets {
    /// The buckets that start in the range of the member; nothing but the ends of gaps is read before the first block.
    ///
    /// # Errors
    /// `corrupt_data`.
    pub fn new(
        member: &ScanMember,
        resampled: &Arc<ResampledSeries>,
        cache: &Arc<MapCache>,
        fill: FillRule,
        order: RowOrder,
        threads: usize,
    ) -> Result<Self> {
        let reader = BucketReader::new(member, resampled, cache);
        let mut span = resampled.span(&reader.series, member.range);
        if fill != FillRule::None {
            span = with_ends_of_gaps(&reader, span)?;
        }
        let has = |wanted: fn(&OutputSource) -> bool| {
            let outputs = member.columns.iter().filter_map(|position| resampled.outputs.get(*position));
            outputs.map(|output| &output.source).any(wanted)
        };
        let mut facts = BucketFacts { missing: None, watermark: i64::MIN };
        let drops = resampled.partial == PartialRule::Drop;
        if (drops || has(|source| matches!(source, OutputSource::Complete)))
            && resampled.grid.is_some()
            && let Some(span) = span
        {
            facts.missing = Some(missing_ranges(&reader.series, cache, span)?);
        }
        if (drops || has(|source| matches!(source, OutputSource::Closed)))
            && let Some(last) = reader.last_row()?
        {
            facts.watermark = match resampled.grid {
                Some(grid) => grid.end_of(grid.bucket_of(last)).saturating_add(1),
                None => last,
            };
        }
        let calendar = Calendar::of(reader.series.def.calendar.as_ref())?;
        Ok(Self {
            slices: BucketSlices::new(reader, span, order == RowOrder::Desc, threads),
            resampled: Arc::clone(resampled),
            columns: member.columns.clone(),
            fill,
            order,
            range: member.range,
            calendar,
            pending: None,
            last: None,
            gap: None,
            facts,
        })
    }

    /// Reads ahead until a bucket with rows is ready.
    ///
    /// # Errors
    /// `corrupt_data`, and errors of values that do not fit.
    pub fn load(&mut self) -> Result<()> {
        self.slices.load()
    }

    /// Statistics of the scans so far.
    pub fn stats(&self) -> ScanStats {
        self.slices.stats
    }

    /// The next rows; `None` at the end.
    ///
    /// # Errors
    /// `corrupt_data`, `invalid_argument` for an interval that crosses a border, `schema_mismatch` for a value that does
    /// not fit its column.
    pub fn next_block(&mut self) -> Result<Option<Block>> {
        loop {
            let table = match self.fill {
                FillRule::None => self.slices.next_table()?,
                _ => self.next_filled()?,
            };
            let table = table.map(|table| match self.resampled.partial {
                PartialRule::Mark => table,
                PartialRule::Drop => table.selected(&self.are_whole(&table)),
            });
            match table {
                None => return Ok(None),
                Some(table) if table.is_empty() => {}
                Some(table) => return self.block(&table).map(Some),
            }
        }
    }

    fn is_before(&self, a: i64, b: i64) -> bool {
        match self.order {
            RowOrder::Asc => a < b,
            RowOrder::Desc => a > b,
        }
    }

    fn is_in_range(&self, start: i64) -> bool {
        self.range.0 <= start && start <= self.range.1
    }

    /// The next buckets with those that are filled between them; empty tables occur.
    fn next_filled(&mut self) -> Result<Option<BucketTable>> {
        let mut out = self.slices.reader.table();
        self.slices.reader.check_stop()?;
        while out.len() < FILLED_ROWS {
            let (table, row) = match self.pending.take() {
                Some((table, row)) if row < table.len() => (table, row),
                _ => match self.slices.next_table()? {
                    Some(table) => (Arc::new(table), 0),
                    None if out.is_empty() => return Ok(None),
                    None => break,
                },
            };
            let Some(start) = table.starts.get(row).copied() else { continue };
            if !self.fill_gap(&mut out, &table, row, start) {
                self.pending = Some((table, row));
                break;
            }
            if self.is_in_range(start) {
                out.push(&table, row);
            }
            self.last = Some((Arc::clone(&table), row));
            self.pending = Some((table, row + 1));
        }
        Ok(Some(out))
    }

    /// Fills the buckets between the last one with rows and this one; false when the table is full before.
    fn fill_gap(&mut self, out: &mut BucketTable, table: &Arc<BucketTable>, row: usize, start: i64) -> bool {
        let Some((last, last_row)) = self.last.clone() else { return true };
        let resampled = Arc::clone(&self.resampled);
        let mut walk = resampled.buckets.walk();
        let is_asc = self.order == RowOrder::Asc;
        let mut bucket = match self.gap.take() {
            Some(bucket) => bucket,
            None if is_asc => walk.at(last.ends.get(last_row).copied().unwrap_or(start)),
            None => walk.before(last.starts.get(last_row).copied().unwrap_or(start)),
        };
        // Buckets outside of the range are passed over at once.
        if is_asc && bucket.start < self.range.0 && self.range.0 < start {
            bucket = walk.starting_at(self.range.0);
        }
        if !is_asc && bucket.start > self.range.1 && self.range.1 > start {
            bucket = walk.before(self.range.1.saturating_add(1));
        }
        let (earlier, later) = match is_asc {
            true => ((&last, last_row), (table, row)),
            false => ((table, row), (&last, last_row)),
        };
        while self.is_before(bucket.start, start) {
            if self.is_before(if is_asc { self.range.1 } else { self.range.0 }, bucket.start) {
                break;
            }
            if out.len() >= FILLED_ROWS {
                self.gap = Some(bucket);
                return false;
            }
            if self.is_in_range(bucket.start) && self.is_open(&bucket) {
                self.push_filled(out, &bucket, (earlier.0, earlier.1), (later.0, later.1));
            }
            let next = if is_asc { walk.after(&bucket) } else { walk.before(bucket.start) };
            if !self.is_before(bucket.start, next.start) {
                break;
            }
            bucket = next;
        }
        true
    }

    /// Whether rows are expected in some moment of a bucket.
    fn is_open(&self, bucket: &Bucket) -> bool {
        let per_second = self.slices.reader.series.def.unit.per_second();
        let (from, to) = (bucket.start.div_euclid(per_second), bucket.end.div_euclid(per_second));
        self.calendar.openings(from, to).next().is_some()
    }

    fn push_filled(
        &self,
        out: &mut BucketTable,
        bucket: &Bucket,
        earlier: (&BucketTable, usize),
        later: (&BucketTable, usize),
    ) {
        out.starts.push(bucket.start);
        out.ends.push(bucket.end);
        out.rows.push(0);
        let reader = &self.slices.reader;
        let at = |(table, row): (&BucketTable, usize)| table.starts.get(row).copied().unwrap_or(bucket.start);
        let times = (at(earlier), bucket.start, at(later));
        for (position, (column, output)) in out.columns.iter_mut().zip(reader.outputs()).enumerate() {
            let OutputSource::Aggregate(aggregate) = &output.source else { continue };
            let is_zero = aggregate.gap == GapValue::Zero;
            match self.fill {
                FillRule::None | FillRule::Null => column.push_null(),
                FillRule::Zero => push_zero(column, aggregate.kind),
                FillRule::Prev | FillRule::Linear if is_zero => push_zero(column, aggregate.kind),
                FillRule::Prev => {
                    let source = match aggregate.gap {
                        GapValue::Of(source) => {
                            reader.computed.iter().position(|known| *known == source).unwrap_or(position)
                        }
                        _ => position,
                    };
                    column.extend(cell(earlier, source).0);
                }
                FillRule::Linear => {
                    let ((a, has_a), (b, has_b)) = (cell(earlier, position), cell(later, position));
                    match has_a && has_b {
                        true => push_between(column, aggregate.kind, (a, b), times),
                        false => column.push_null(),
                    }
                }
            }
        }
    }

    /// The block of the result.
    fn block(&self, table: &BucketTable) -> Result<Block> {
        let rows = table.len();
        let mut columns: Vec<SharedCells> = Vec::with_capacity(self.columns.len() + 1);
        columns.push(ColumnCells::from(table.starts.clone()).into());
        for position in &self.columns {
            let output = cells::column(&self.resampled.outputs, *position);
            let column = match &output.source {
                OutputSource::Aggregate(_) => {
                    let at = self.slices.reader.computed.iter().position(|known| known == position);
                    at.map(|at| cells::column(&table.columns, at).clone()).unwrap_or_else(|| {
                        let mut nulls = ColumnCells::new(output.column.kind.layout());
                        (0..rows).for_each(|_| nulls.push_null());
                        nulls
                    })
                }
                OutputSource::Rows => ColumnCells::from(table.rows.clone()),
                OutputSource::Complete => match self.complete(table) {
                    Some(flags) => ColumnCells::flags(flags),
                    None => {
                        let mut nulls = ColumnCells::new(ColumnType::Bool.layout());
                        table.starts.iter().for_each(|_| nulls.push_null());
                        nulls
                    }
                },
                OutputSource::Closed => ColumnCells::flags(table.ends.iter().map(|end| *end <= self.facts.watermark)),
            };
            columns.push(column.into());
        }
        Block::new(rows, columns)
    }

    /// Whether each bucket is closed and, where that is known, complete.
    fn are_whole(&self, table: &BucketTable) -> Vec<bool> {
        let closed = table.ends.iter().map(|end| *end <= self.facts.watermark);
        match self.complete(table) {
            Some(complete) => complete.into_iter().zip(closed).map(|(complete, closed)| complete && closed).collect(),
            None => closed.collect(),
        }
    }

    /// Whether no expected interval of each bucket is missing; `None` of a series without intervals.
    fn complete(&self, table: &BucketTable) -> Option<Vec<bool>> {
        let missing = self.facts.missing.as_ref()?;
        let mut walk = self.resampled.buckets.walk();
        let is_free = |from: i64, to: i64| {
            let at = missing.partition_point(|(_, last)| *last < from);
            missing.get(at).is_none_or(|(first, _)| *first >= to)
        };
        let is_complete = |(start, end): (&i64, &i64)| {
            if is_free(*start, *end) {
                return true;
            }
            if !self.resampled.buckets.has_sessions() {
                return false;
            }
            // Intervals between the sessions of a bucket do not count.
            let mut part = walk.at(*start);
            loop {
                if !is_free(part.from, part.to) {
                    return false;
                }
                if part.to >= *end {
                    return true;
                }
                part = walk.at(part.to);
            }
        };
        Some(table.starts.iter().zip(&table.ends).map(is_complete).collect())
    }
}

/// The span extended by the buckets with rows before and after it, between which gaps of the range are filled.
fn with_ends_of_gaps(reader: &BucketReader, span: Option<(i64, i64)>) -> Result<Option<(i64, i64)>> {
    let (Some((first, last)), Some((mut from, mut to))) = (reader.series.bounds, span) else { return Ok(span) };
    let mut walk = reader.resampled.buckets.walk();
    // Rows between sessions are in no bucket: the search goes on beyond them.
    let mut high = from.saturating_sub(1);
    while first <= high
        && let Some(row) = reader.edge((first, high), true)?
    {
        let part = walk.at(row);
        if part.from <= row {
            from = part.start.min(from);
            break;
        }
        high = walk.before(row.saturating_add(1)).to.min(row).saturating_sub(1);
    }
    let mut low = to;
    while low <= last
        && let Some(row) = reader.edge((low, last), false)?
    {
        let part = walk.at(row);
        if part.from <= row {
            to = part.end.max(to);
            break;
        }
        low = part.from;
    }
    Ok(Some((from, to)))
}

/// A cell, and whether it is not null.
fn cell((table, row): (&BucketTable, usize), position: usize) -> (CellSlice<'_>, bool) {
    let column = cells::column(&table.columns, position).as_slice();
    (column.slice(row, 1), column.is_valid(row))
}

fn push_zero(column: &mut ColumnCells, kind: ColumnType) {
    match kind {
        ColumnType::Bool
        | ColumnType::Enum
        | ColumnType::Text
        | ColumnType::Bytes { .. }
        | ColumnType::Timestamp { .. } => {
            column.push_null();
        }
        _ => column.push_bytes(&vec![0; kind.layout().width()]),
    }
}

/// Appends the value on the line between two cells, at a time between theirs; rounded half to even.
fn push_between(
    column: &mut ColumnCells,
    kind: ColumnType,
    (a, b): (CellSlice<'_>, CellSlice<'_>),
    (from, at, to): (i64, i64, i64),
) {
    let (passed, whole) = (i128::from(at) - i128::from(from), i128::from(to) - i128::from(from));
    if whole <= 0 {
        return column.push_null();
    }
    // Differences of 16 bytes times a time can exceed 128 bits.
    let integer = |a: i128, b: i128| {
        let product = b.checked_sub(a)?.checked_mul(passed)?;
        a.checked_add(divide_half_even(product, whole))
    };
    #[allow(clippy::cast_precision_loss, reason = "a share of the time")]
    let share = passed as f64 / whole as f64;
    macro_rules! between {
        ($cell:ty) => {{
            let (a, b) = (cells::at(a.typed::<$cell>(), 0), cells::at(b.typed::<$cell>(), 0));
            match integer(a.into(), b.into()).and_then(|value| <$cell>::try_from(value).ok()) {
                Some(value) => column.push(value),
                None => column.push_null(),
            }
        }};
    }
    match kind {
        ColumnType::Decimal { .. } | ColumnType::Int64 => between!(i64),
        ColumnType::WideDecimal { .. } => between!(i128),
        ColumnType::Int32 => between!(i32),
        ColumnType::Int16 => between!(i16),
        ColumnType::Int8 => between!(i8),
        ColumnType::UInt64 => between!(u64),
        ColumnType::UInt32 => between!(u32),
        ColumnType::UInt16 => between!(u16),
        ColumnType::UInt8 => between!(u8),
        ColumnType::Float64 => {
            let (a, b) = (cells::at(a.typed::<f64>(), 0), cells::at(b.typed::<f64>(), 0));
            column.push(a + (b - a) * share);
        }
        ColumnType::Float32 => {
            let (a, b) = (cells::at(a.typed::<f32>(), 0), cells::at(b.typed::<f32>(), 0));
            #[allow(clippy::cast_possible_truncation, reason = "the nearest float is wanted")]
            column.push((f64::from(a) + f64::from(b - a) * share) as f32);
        }
        ColumnType::Bool
        | ColumnType::Enum
        | ColumnType::Text
        | ColumnType::Bytes { .. }
        | ColumnType::Timestamp { .. } => column.push_null(),
    }
}
