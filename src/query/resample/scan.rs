//! The rows of a resampled plan: its series one after the other, or merged by the start of the buckets.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, PoisonError};

use super::fill::SeriesBuckets;
use super::resampling::{ResampledSeries, Resampling};
use super::series_scan::{in_parallel, threads};
use super::spec::FillRule;
use crate::error::Result;
use crate::query::multi::{NextRow, PagePosition, RowSubject, ScanMember};
use crate::query::request::{MultiLayout, RowOrder};
use crate::query::scan::ScanStats;
use crate::store::{Block, MapCache, SeriesIndexes};
use crate::types::width::narrow;
use crate::types::{ColumnCells, cells};

/// Rows of a block of a merge.
const MERGED_ROWS: usize = 8_192;
/// Series that are read ahead at once, for each thread.
const SERIES_PER_THREAD: usize = 8;
/// Series of more rows are read one after the other, each by all threads.
const SMALL_SERIES_ROWS: u64 = 1_048_576;

/// Rows of a resampled plan, block by block.
#[derive(Debug)]
pub struct BucketScan {
    members: Vec<BucketMember>,
    subject: RowSubject,
    layout: MultiLayout,
    order: RowOrder,
    rows_left: u64,
    threads: usize,
    /// The series being read by series.
    at: usize,
    /// Starts of the next rows by time, and their series.
    heads: Option<BinaryHeap<Reverse<(i64, usize)>>>,
    next: Option<NextRow>,
    ended: bool,
}

/// One series of a result.
#[derive(Debug)]
struct BucketMember {
    /// The series as it is read; its columns are positions of outputs.
    source: ScanMember,
    /// The same with the columns of the result, for conversions.
    shown: ScanMember,
    resampled: Arc<ResampledSeries>,
    cache: Arc<MapCache>,
    fill: FillRule,
    order: RowOrder,
    buckets: Option<SeriesBuckets>,
    /// Rows that are not returned yet, from a position on.
    rest: Option<(Block, usize)>,
    stats: ScanStats,
    ended: bool,
}

impl BucketMember {
    /// Opens the series and reads until a row is ready.
    fn load(&mut self, threads: usize) -> Result<()> {
        if self.ended || self.rest.is_some() {
            return Ok(());
        }
        if self.buckets.is_none() {
            let (fill, order) = (self.fill, self.order);
            let buckets = SeriesBuckets::new(&self.source, &self.resampled, &self.cache, fill, order, threads)?;
            self.buckets = Some(buckets);
        }
        let Some(buckets) = &mut self.buckets else { return Ok(()) };
        match buckets.next_block()? {
            Some(block) => self.rest = Some((self.shown.cast(block)?, 0)),
            None => {
                self.stats = buckets.stats();
                self.buckets = None;
                self.ended = true;
            }
        }
        Ok(())
    }

    /// Start of the next row; `None` at the end.
    fn head(&mut self, threads: usize) -> Result<Option<i64>> {
        loop {
            match &self.rest {
                Some((block, at)) if *at < block.rows() => return Ok(block.timestamps().get(*at).copied()),
                _ => self.rest = None,
            }
            if self.ended {
                return Ok(None);
            }
            self.load(threads)?;
        }
    }

    fn stats(&self) -> ScanStats {
        self.buckets.as_ref().map_or(self.stats, SeriesBuckets::stats)
    }
}

impl BucketScan {
    /// Starts a scan over the members, ascending by key; nothing is read before the first block is requested.
    pub fn new(
        members: Vec<ScanMember>,
        resampling: &Resampling,
        subject: RowSubject,
        cache: &Arc<MapCache>,
        layout: MultiLayout,
        order: RowOrder,
        limit: Option<u64>,
    ) -> Self {
        let member = |(source, resampled): (ScanMember, &Arc<ResampledSeries>)| BucketMember {
            shown: ScanMember { series: Arc::clone(&resampled.shown), ..source.clone() },
            source,
            resampled: Arc::clone(resampled),
            cache: Arc::clone(cache),
            fill: resampling.fill,
            order,
            buckets: None,
            rest: None,
            stats: ScanStats::default(),
            ended: false,
        };
        Self {
            members: members.into_iter().zip(&resampling.series).map(member).collect(),
            subject,
            layout,
            order,
            rows_left: limit.unwrap_or(u64::MAX),
            threads: threads(),
            at: 0,
            heads: None,
            next: None,
            ended: false,
        }
    }

    /// Where the first row beyond the limit is, once the scan has ended; `None` without one.
    pub fn next_position(&self) -> Option<PagePosition> {
        let next = self.next?;
        Some(next.position(&self.members.get(next.at)?.source, self.subject, self.order))
    }

    /// Statistics of the scans so far, over all series.
    pub fn stats(&self) -> ScanStats {
        let mut stats = ScanStats::default();
        self.members.iter().for_each(|member| stats.add(&member.stats()));
        stats
    }

    /// Reads ahead in the next series, several at once where they are short.
    fn load_ahead(&mut self, from: usize, count: usize) -> Result<()> {
        let is_small = |member: &BucketMember| {
            !member.ended && member.rest.is_none() && member.source.series.rows <= SMALL_SERIES_ROWS
        };
        let members = self.members.iter_mut().skip(from).take(count).filter(|member| is_small(member));
        let members: Vec<Mutex<&mut BucketMember>> = members.map(Mutex::new).collect();
        if members.len() < 2 || self.threads < 2 {
            return Ok(());
        }
        in_parallel(&members, self.threads, |member| member.lock().unwrap_or_else(PoisonError::into_inner).load(1))
            .into_iter()
            .collect()
    }

    fn next_block(&mut self) -> Result<Option<Block>> {
        let block = match self.layout {
            // A panel reads each series by a scan of its own.
            MultiLayout::BySeries | MultiLayout::Wide => self.next_of_series()?,
            MultiLayout::ByTime => self.next_by_time()?,
        };
        if let Some(block) = &block {
            self.rows_left = self.rows_left.saturating_sub(block.rows() as u64);
        }
        Ok(block)
    }

    fn next_of_series(&mut self) -> Result<Option<Block>> {
        let threads = self.threads;
        loop {
            if self.rows_left > 0 && self.at.is_multiple_of(threads * SERIES_PER_THREAD) && self.rows_left == u64::MAX {
                self.load_ahead(self.at, threads * SERIES_PER_THREAD)?;
            }
            let Some(member) = self.members.get_mut(self.at) else { return Ok(None) };
            let Some(start) = member.head(threads)? else {
                self.at += 1;
                continue;
            };
            if self.rows_left == 0 {
                self.next = Some(NextRow { at: self.at, ts: start, returned: 0 });
                return Ok(None);
            }
            let Some((block, at)) = member.rest.take() else { continue };
            let rows = (block.rows() - at).min(usize::try_from(self.rows_left).unwrap_or(usize::MAX));
            if at + rows < block.rows() {
                member.rest = Some((block.clone(), at + rows));
            }
            let block = block.slice(at, rows);
            return Ok(Some(match self.subject {
                RowSubject::Series => block,
                RowSubject::EachRow => block.of_series(SeriesIndexes::All(narrow(self.at))),
            }));
        }
    }

    /// A start as a key that ascends in the direction of the result.
    fn time_key(&self, start: i64) -> i64 {
        match self.order {
            RowOrder::Asc => start,
            RowOrder::Desc => !start,
        }
    }

    fn next_by_time(&mut self) -> Result<Option<Block>> {
        let mut heads = match self.heads.take() {
            Some(heads) => heads,
            None => {
                self.load_ahead(0, self.members.len())?;
                let mut heads = BinaryHeap::new();
                for at in 0..self.members.len() {
                    if let Some(start) = self.head_of(at)? {
                        heads.push(Reverse((self.time_key(start), at)));
                    }
                }
                heads
            }
        };
        let rows_max = MERGED_ROWS.min(usize::try_from(self.rows_left).unwrap_or(usize::MAX));
        // Blocks of which rows are used, and the rows in order: positions of the block and in it.
        let mut blocks: Vec<Block> = Vec::new();
        let mut slots: Vec<Option<usize>> = vec![None; self.members.len()];
        let mut rows: Vec<(usize, usize)> = Vec::new();
        let mut labels: Vec<i32> = Vec::new();
        while rows.len() < rows_max
            && let Some(Reverse((_, at))) = heads.pop()
        {
            let (Some(member), Some(slot)) = (self.members.get_mut(at), slots.get_mut(at)) else { continue };
            let Some((block, row)) = &mut member.rest else { continue };
            let position = *slot.get_or_insert_with(|| {
                blocks.push(block.clone());
                blocks.len() - 1
            });
            rows.push((position, *row));
            labels.push(narrow(at));
            *row += 1;
            if *row >= block.rows() {
                *slot = None;
            }
            if let Some(start) = self.head_of(at)? {
                heads.push(Reverse((self.time_key(start), at)));
            }
        }
        if rows.is_empty() {
            if self.rows_left == 0
                && let Some(Reverse((_, at))) = heads.pop()
            {
                self.next = self.head_of(at)?.map(|ts| NextRow { at, ts, returned: 0 });
            }
            return Ok(None);
        }
        self.heads = Some(heads);
        let mut columns = Vec::new();
        for column in 0..blocks.first().map_or(0, Block::column_count) {
            let layout = blocks.first().map(|block| block.column(column).layout());
            let mut gathered = ColumnCells::with_capacity(layout.unwrap_or(crate::types::CellLayout::WORD), rows.len());
            for (block, row) in &rows {
                gathered.extend(cells::column(&blocks, *block).column(column).slice(*row, 1));
            }
            columns.push(gathered.into());
        }
        let block = Block::new(rows.len(), columns)?;
        Ok(Some(match self.subject {
            RowSubject::Series => block,
            RowSubject::EachRow => block.of_series(SeriesIndexes::Each(labels.into())),
        }))
    }

    fn head_of(&mut self, at: usize) -> Result<Option<i64>> {
        let threads = self.threads;
        self.members.get_mut(at).map_or(Ok(None), |member| member.head(threads))
    }
}

impl Iterator for BucketScan {
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

/// The range of the last `count` buckets that start in the range of a member.
///
/// # Errors
/// `corrupt_data`, `invalid_argument` for an interval that crosses a border.
pub fn latest(
    member: &ScanMember,
    resampled: &Arc<ResampledSeries>,
    cache: &Arc<MapCache>,
    fill: FillRule,
    count: u64,
) -> Result<(i64, i64)> {
    let member = ScanMember { columns: Vec::new(), casts: Vec::new(), ..member.clone() };
    let mut buckets = SeriesBuckets::new(&member, resampled, cache, fill, RowOrder::Desc, threads())?;
    let mut left = count;
    let mut start = member.range.0;
    while left > 0
        && let Some(block) = buckets.next_block()?
    {
        let rows = block.timestamps();
        let taken = rows.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        left -= taken as u64;
        if left == 0 {
            start = taken.checked_sub(1).and_then(|at| rows.get(at)).copied().unwrap_or(start);
        }
    }
    Ok((start, member.range.1))
}
