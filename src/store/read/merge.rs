//! Merge of sorted sources in either direction, by the order rule of the series.
//!
//! Sources have disjoint commit ranges, and a tombstone hides the rows of sources with lower commits. Of rows with one
//! key the source with the highest commits takes precedence. Where further columns tell rows of one timestamp apart, the
//! rows of a timestamp that several sources have are merged into one piece. Rows in the order of arrival are all yielded,
//! those of sources with lower commits first. The merge gallops: it yields the longest piece of one
//! source that no other source interrupts, so untouched blocks are yielded entire and never copied.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use crate::error::Result;
use crate::store::read::block::{Block, BlockRows};
use crate::store::read::chunk::{MapCache, OpenChunk};
use crate::store::read::merge_source::{MergeSource, coalesce, hidden_ranges};
use crate::store::read::pruning::{MergeContext, MergeStats, WantedKeys, count_blocks, rows_to_check};
use crate::store::read::search::{lower_bound, upper_bound};
use crate::store::read::tombstone::Tombstone;
use crate::types::width::to_usize;
use crate::types::{CellSlice, ColumnCells, KeyColumns, OrderRule, SeriesDef, SharedCells, cells};

/// Stretches of rows that are shorter than this on average are yielded and selected row by row.
pub const RUN_ROWS: usize = 16;

/// Reads one source in one direction, row positions relative to its current block.
#[derive(Debug)]
struct SourceCursor {
    source: MergeSource,
    open: Option<Arc<OpenChunk>>,
    hidden: Vec<(i64, i64)>,
    /// Rows of the chunk to check, half-open, ascending and disjoint; all when absent.
    row_ranges: Option<Vec<(usize, usize)>>,
    /// Current block; the cursor is at its end when this is past the last one.
    block: usize,
    block_count: usize,
    loaded: Option<Block>,
    /// Rows not yet yielded: `lo..hi` of the current block.
    lo: usize,
    hi: usize,
    done: bool,
}

impl SourceCursor {
    /// `older` are the spans of sources with lower commits: rows there must stay, to hide the older ones.
    fn new(
        source: MergeSource,
        tombstones: &[Tombstone],
        context: &MergeContext<'_>,
        older: &[(i64, i64)],
        stats: &mut MergeStats,
    ) -> Result<Self> {
        let hidden = hidden_ranges(&source, tombstones, context.start, context.end);
        let open = match &source {
            MergeSource::Chunk(chunk) => Some(chunk.open(context.cache)?),
            MergeSource::Run(_) => None,
        };
        let row_ranges = match &open {
            Some(open) if !context.keys.is_empty() => {
                let row_ranges = rows_to_check(open, context, older, stats);
                count_blocks(open, context, row_ranges.as_deref(), stats);
                row_ranges
            }
            _ => None,
        };
        let block_count = open.as_ref().map_or(1, |open| open.blocks().len());
        let mut cursor = Self {
            source,
            open,
            hidden,
            row_ranges,
            block: 0,
            block_count,
            loaded: None,
            lo: 0,
            hi: 0,
            done: block_count == 0,
        };
        if cursor.done {
            return Ok(cursor);
        }
        cursor.enter(if context.desc { block_count - 1 } else { 0 });
        cursor.seek(if context.desc { context.end } else { context.start }, context)?;
        Ok(cursor)
    }

    /// First timestamp, last timestamp and rows of a block, without loading it.
    fn span(&self, block: usize) -> (i64, i64, usize) {
        match (&self.open, &self.source) {
            (Some(open), _) => {
                let meta = cells::column(open.blocks(), block);
                (meta.ts_min, meta.ts_max, to_usize(meta.rows))
            }
            (None, MergeSource::Run(run)) => (run.ts_min(), run.ts_max(), run.rows()),
            (None, MergeSource::Chunk(chunk)) => unreachable!("chunk {} is read before it is open", chunk.record.id),
        }
    }

    fn enter(&mut self, block: usize) {
        self.block = block;
        self.loaded = None;
        self.lo = 0;
        self.hi = self.span(block).2;
    }

    /// The current block: of a mapped chunk, or an entire run.
    fn load(&mut self, context: &MergeContext<'_>) -> Result<&Block> {
        let block = match self.loaded.take() {
            Some(loaded) => loaded,
            None => self.read_block(context)?,
        };
        Ok(self.loaded.insert(block))
    }

    fn read_block(&self, context: &MergeContext<'_>) -> Result<Block> {
        match (&self.open, &self.source) {
            (Some(open), _) => {
                if context.cache.prefetch && !open.is_verified(self.block) {
                    open.populate(self.block);
                }
                open.block(self.block, context.def)
            }
            (None, MergeSource::Run(run)) => run.block(context.def),
            (None, MergeSource::Chunk(_)) => Err(crate::Error::internal("a chunk is read before it is open")),
        }
    }

    /// Leaves the current block in the direction of the merge.
    fn next_block(&mut self, desc: bool) {
        match if desc { self.block.checked_sub(1) } else { Some(self.block + 1) } {
            Some(block) if block < self.block_count => self.enter(block),
            _ => self.done = true,
        }
    }

    /// Skips blocks that end before `target` (start after it when descending).
    fn skip_blocks(&mut self, target: i64, desc: bool) {
        let (first, last, _) = self.span(self.block);
        let passed = if desc { first > target } else { last < target };
        if passed {
            let blocks = self.open.as_ref().map_or(&[][..], |open| open.blocks());
            let next = if desc {
                blocks.partition_point(|block| block.ts_min <= target).checked_sub(1)
            } else {
                Some(blocks.partition_point(|block| block.ts_max < target))
            };
            match next.filter(|next| *next < blocks.len()) {
                Some(next) => self.enter(next),
                None => self.done = true,
            }
        } else if self.lo >= self.hi {
            self.next_block(desc);
        }
    }

    /// Skips rows that need no check; returns whether it moved.
    fn skip_left_out(&mut self, desc: bool) -> bool {
        let (Some(row_ranges), Some(open)) = (&self.row_ranges, &self.open) else { return false };
        let base = open.first_row(self.block);
        let next = if desc {
            let row = (base + self.hi).saturating_sub(1);
            let below = row_ranges.partition_point(|(from, _)| *from <= row).checked_sub(1);
            match below.and_then(|at| row_ranges.get(at)) {
                Some((_, end)) if *end > row => return false,
                other => other.map(|(_, end)| end.saturating_sub(1)),
            }
        } else {
            let row = base + self.lo;
            match row_ranges.get(row_ranges.partition_point(|(_, end)| *end <= row)) {
                Some((from, _)) if *from <= row => return false,
                other => other.map(|(from, _)| *from),
            }
        };
        let Some(row) = next else {
            self.done = true;
            return true;
        };
        let block = open.block_of(row);
        let within = row - open.first_row(block);
        if block != self.block {
            self.enter(block);
        }
        if desc {
            self.hi = within + 1;
        } else {
            self.lo = within;
        }
        true
    }

    /// Rows from `lo` on (up to `hi` when descending) that need a check without a gap, as a border in the block.
    fn row_border(&self, desc: bool) -> usize {
        let (Some(row_ranges), Some(open)) = (&self.row_ranges, &self.open) else {
            return if desc { 0 } else { usize::MAX };
        };
        let base = open.first_row(self.block);
        if desc {
            let row = (base + self.hi).saturating_sub(1);
            let at = row_ranges.partition_point(|(from, _)| *from <= row).checked_sub(1);
            at.and_then(|at| row_ranges.get(at)).map_or(0, |(from, _)| from.saturating_sub(base))
        } else {
            let row = base + self.lo;
            let run = row_ranges.get(row_ranges.partition_point(|(_, end)| *end <= row));
            run.map_or(usize::MAX, |(_, end)| end.saturating_sub(base))
        }
    }

    /// Those of the rows `lo..hi` of the block that need a check, where they are in several short stretches: yielding
    /// each one by itself would take longer than reading it.
    ///
    /// Positions are relative to `lo`.
    fn scattered(&self, lo: usize, hi: usize) -> Option<Vec<u32>> {
        let (row_ranges, open) = (self.row_ranges.as_ref()?, self.open.as_ref()?);
        let base = open.first_row(self.block);
        let (first, end) = (base + lo, base + hi);
        let from = row_ranges.partition_point(|(_, to)| *to <= first);
        let runs = row_ranges.get(from..)?;
        let runs = runs.get(..runs.partition_point(|(from, _)| *from < end))?;
        let within = runs.iter().map(|(from, to)| (*from).max(first)..(*to).min(end));
        let rows: usize = within.clone().map(|run| run.len()).sum();
        if runs.len() < 2 || rows >= runs.len() * RUN_ROWS {
            return None;
        }
        let mut scattered = Vec::with_capacity(rows);
        for row in within.flatten() {
            scattered.push(u32::try_from(row - first).ok()?);
        }
        Some(scattered)
    }

    /// Moves to the first row at or after `target` (at or before it when descending) that no tombstone hides.
    fn seek(&mut self, mut target: i64, context: &MergeContext<'_>) -> Result<()> {
        loop {
            self.skip_blocks(target, context.desc);
            if self.done {
                return Ok(());
            }
            // Before anything is loaded: a block without a row to check is not read.
            if self.skip_left_out(context.desc) {
                continue;
            }
            let (first, last, rows) = self.span(self.block);
            if context.desc {
                if last > target {
                    let border = upper_bound(self.load(context)?.timestamps(), target);
                    self.hi = self.hi.min(border);
                }
            } else if first < target {
                let lo = self.lo;
                let stored = self.load(context)?.timestamps();
                if stored.get(lo).is_none_or(|ts| *ts < target) {
                    self.lo = lo.max(lower_bound(stored, target));
                }
            }
            assert!(self.hi <= rows, "row {} of a block of {rows}", self.hi);
            if self.lo >= self.hi {
                self.next_block(context.desc);
                continue;
            }
            if self.skip_left_out(context.desc) {
                continue;
            }
            let head = self.head(context)?;
            match self.hidden_at(head) {
                None => break,
                Some((from, to)) => {
                    let beyond = if context.desc { from.checked_sub(1) } else { to.checked_add(1) };
                    match beyond {
                        Some(beyond) => target = beyond,
                        None => self.done = true,
                    }
                }
            }
            if self.done {
                return Ok(());
            }
        }
        let head = self.head(context)?;
        if if context.desc { head < context.start } else { head > context.end } {
            self.done = true;
        }
        Ok(())
    }

    /// The hole a timestamp lies in.
    fn hidden_at(&self, ts: i64) -> Option<(i64, i64)> {
        let position = self.hidden.partition_point(|(_, to)| *to < ts);
        self.hidden.get(position).copied().filter(|(from, _)| *from <= ts)
    }

    /// Timestamp of the next row.
    fn head(&mut self, context: &MergeContext<'_>) -> Result<i64> {
        let (first, last, rows) = self.span(self.block);
        if !context.desc && self.lo == 0 {
            return Ok(first);
        }
        if context.desc && self.hi == rows {
            return Ok(last);
        }
        let at = if context.desc { self.hi.saturating_sub(1) } else { self.lo };
        Ok(cells::at(self.load(context)?.timestamps(), at))
    }

    /// Farthest timestamp this cursor may yield without comparing with the others: the end of the range or the row
    /// before the next hidden range.
    fn limit(&self, head: i64, context: &MergeContext<'_>) -> i64 {
        if context.desc {
            let below = self.hidden.partition_point(|(_, to)| *to < head).checked_sub(1);
            let hole = below.and_then(|at| self.hidden.get(at)).map(|(_, to)| to.saturating_add(1));
            hole.map_or(context.start, |hole| hole.max(context.start))
        } else {
            let above = self.hidden.partition_point(|(from, _)| *from <= head);
            let hole = self.hidden.get(above).map(|(from, _)| from.saturating_sub(1));
            hole.map_or(context.end, |hole| hole.min(context.end))
        }
    }

    /// Yields the rows of the current block up to `limit` inclusive, and advances.
    fn take(&mut self, limit: i64, context: &MergeContext<'_>) -> Result<BlockRows> {
        let (first, last, _) = self.span(self.block);
        let (mut lo, mut hi) = (self.lo, self.hi);
        let stored = self.load(context)?.timestamps();
        if context.desc && first < limit {
            lo = lo.max(lower_bound(stored, limit));
        } else if !context.desc && last > limit {
            hi = hi.min(upper_bound(stored, limit));
        }
        let scattered = self.scattered(lo, hi);
        if scattered.is_none() {
            let border = self.row_border(context.desc);
            (lo, hi) = if context.desc { (lo.max(border), hi) } else { (lo, hi.min(border)) };
        }
        if context.desc {
            self.hi = lo;
        } else {
            self.lo = hi;
        }
        let place = match (&self.source, &self.open) {
            (MergeSource::Chunk(chunk), Some(open)) => Some((chunk.record.id, open.first_row(self.block) + lo)),
            _ => None,
        };
        let rows = hi.saturating_sub(lo);
        let block = match self.loaded.take_if(|loaded| rows == loaded.rows()) {
            // The cursor leaves it.
            Some(complete) => complete,
            None => self.load(context)?.slice(lo, rows),
        };
        let piece = BlockRows::all(block, place);
        let piece = match scattered {
            Some(positions) => piece.pick(positions),
            None => piece,
        };
        if self.lo >= self.hi {
            self.next_block(context.desc);
        }
        if !self.done {
            // The next row may be hidden by a tombstone or lie beyond the range.
            let head = self.head(context)?;
            self.seek(head, context)?;
        }
        Ok(piece)
    }
}

/// What happens to rows of one timestamp in several sources.
#[derive(Clone, Debug)]
enum Ties {
    /// The newest row wins.
    NewestWins,
    /// The newest row of each key wins.
    ByKey(KeyColumns),
    /// All rows stay, in the order of their commits.
    Arrival,
}

/// A merge in progress. Holds its sources, so files stay until it is dropped.
#[derive(Debug)]
pub struct Merge {
    cursors: Vec<SourceCursor>,
    /// Next row of each cursor: nearest first, of equal ones the newest first; in the order of arrival, the oldest first
    /// in an ascending merge.
    heads: BinaryHeap<(Reverse<i64>, u64, usize)>,
    /// Sources not opened yet, nearest last, with the earliest timestamp they can yield.
    waiting: Vec<MergeSource>,
    tombstones: Arc<Vec<Tombstone>>,
    def: Arc<SeriesDef>,
    cache: Arc<MapCache>,
    keys: Vec<WantedKeys>,
    ties: Ties,
    /// Span and highest commit of every source, to know what a row may hide.
    spans: Vec<(i64, i64, u64)>,
    stats: MergeStats,
    desc: bool,
    start: i64,
    end: i64,
}

impl Merge {
    /// Merges the sources within the closed range `start..=end`, forwards or backwards in time.
    pub fn new(
        sources: Vec<MergeSource>,
        tombstones: Arc<Vec<Tombstone>>,
        def: Arc<SeriesDef>,
        cache: Arc<MapCache>,
        (start, end): (i64, i64),
        desc: bool,
    ) -> Self {
        let mut waiting: Vec<MergeSource> =
            sources.into_iter().filter(|s| s.rows() > 0 && s.ts_min() <= end && s.ts_max() >= start).collect();
        let key = KeyColumns::of(&def);
        let ties = match (&def.order, key.is_empty()) {
            (OrderRule::Arrival, _) => Ties::Arrival,
            (OrderRule::Unique(_), true) => Ties::NewestWins,
            (OrderRule::Unique(_), false) => Ties::ByKey(key),
        };
        if desc {
            waiting.sort_by_key(MergeSource::ts_max);
        } else {
            waiting.sort_by_key(|source| Reverse(source.ts_min()));
        }
        Self {
            cursors: Vec::new(),
            heads: BinaryHeap::new(),
            spans: Vec::new(),
            waiting,
            tombstones,
            def,
            cache,
            keys: Vec::new(),
            ties,
            stats: MergeStats::default(),
            desc,
            start,
            end,
        }
    }

    /// Lets the merge skip rows that do not match (all conditions together), where sidecars exclude them. What it
    /// yields still has to be checked row by row.
    pub fn with_wanted_keys(mut self, keys: Vec<WantedKeys>) -> Self {
        if keys.is_empty() {
            return self;
        }
        self.spans = self.waiting.iter().map(|s| (s.ts_min(), s.ts_max(), s.commit_hi())).collect();
        self.keys = keys;
        self
    }

    /// Chunks, zones and rows considered so far.
    pub fn stats(&self) -> MergeStats {
        self.stats
    }

    /// Orders timestamps so that the next one in the direction of the merge is the largest key.
    fn key(&self, ts: i64) -> Reverse<i64> {
        // `!ts` reverses the order of all integers without overflow.
        Reverse(if self.desc { !ts } else { ts })
    }

    fn ts_of(&self, key: Reverse<i64>) -> i64 {
        if self.desc { !key.0 } else { key.0 }
    }

    /// Opens waiting sources that could hold the next row.
    fn admit(&mut self) -> Result<()> {
        while let Some(source) = self.waiting.last() {
            let nearest = if self.desc { source.ts_max() } else { source.ts_min() };
            let needed = match self.heads.peek() {
                None => true,
                Some((head, ..)) => self.key(nearest) >= *head,
            };
            if !needed {
                return Ok(());
            }
            let Some(source) = self.waiting.pop() else { return Ok(()) };
            let rank = source.commit_hi();
            let (def, cache, tombstones) =
                (Arc::clone(&self.def), Arc::clone(&self.cache), Arc::clone(&self.tombstones));
            let keys = std::mem::take(&mut self.keys);
            let context = self.context(&cache, &def, &keys);
            let older = coalesce(
                self.spans.iter().filter(|(.., hi)| *hi < rank).map(|(first, last, _)| (*first, *last)).collect(),
            );
            let mut stats = self.stats;
            let cursor = SourceCursor::new(source, &tombstones, &context, &older, &mut stats);
            let index = self.cursors.len();
            let pushed = cursor.and_then(|cursor| {
                self.cursors.push(cursor);
                self.push_head(index, &context)
            });
            self.keys = keys;
            self.stats = stats;
            pushed?;
        }
        Ok(())
    }

    fn context<'a>(&self, cache: &'a MapCache, def: &'a SeriesDef, keys: &'a [WantedKeys]) -> MergeContext<'a> {
        MergeContext { cache, def, keys, desc: self.desc, start: self.start, end: self.end }
    }

    fn push_head(&mut self, index: usize, context: &MergeContext<'_>) -> Result<()> {
        if let Some(cursor) = self.cursors.get_mut(index) {
            let rank = cursor.source.commit_hi();
            if cursor.done {
                // Nothing will be read from it again: let its map go.
                cursor.open = None;
                cursor.loaded = None;
            } else {
                let head = cursor.head(context)?;
                let key = self.key(head);
                // Of equal timestamps the larger number comes first.
                let first = if matches!(self.ties, Ties::Arrival) && !self.desc { u64::MAX - rank } else { rank };
                self.heads.push((key, first, index));
            }
        }
        Ok(())
    }

    /// Whether there is nothing more to yield.
    pub fn is_at_end(&self) -> bool {
        self.heads.is_empty() && self.waiting.is_empty()
    }

    /// Number of rows left to yield.
    pub fn count_rows(mut self) -> Result<u64> {
        let mut rows = 0;
        while let Some(piece) = self.next_piece()? {
            rows += piece.rows() as u64;
        }
        Ok(rows)
    }

    /// The next piece in the direction of the merge, or `None` at the end.
    pub fn next_piece(&mut self) -> Result<Option<BlockRows>> {
        self.admit()?;
        let Some((key, first, index)) = self.heads.pop() else { return Ok(None) };
        let head = self.ts_of(key);
        let (def, cache) = (Arc::clone(&self.def), Arc::clone(&self.cache));
        let context = self.context(&cache, &def, &[]);
        let is_tied = |next: Option<&(Reverse<i64>, u64, usize)>| next.is_some_and(|(other, ..)| *other == key);
        match &self.ties {
            Ties::Arrival => return self.take_in_order_of_arrival(index, (head, first), &context).map(Some),
            Ties::ByKey(columns) if is_tied(self.heads.peek()) => {
                let columns = columns.clone();
                return self.take_tied(index, head, &columns, &context).map(Some);
            }
            Ties::ByKey(_) | Ties::NewestWins => {}
        }
        // Older rows of the same timestamp are overwritten: step over them.
        while let Some((other_key, _, other)) = self.heads.peek().copied() {
            if other_key != key {
                break;
            }
            self.heads.pop();
            if let Some(cursor) = self.cursors.get_mut(other) {
                match if self.desc { head.checked_sub(1) } else { head.checked_add(1) } {
                    Some(beyond) => cursor.seek(beyond, &context)?,
                    None => cursor.done = true,
                }
            }
            self.push_head(other, &context)?;
        }
        // Up to the row before the next one of any other source.
        let mut others = self.heads.peek().map(|(key, ..)| self.ts_of(*key));
        if let Some(source) = self.waiting.last() {
            let nearest = if self.desc { source.ts_max() } else { source.ts_min() };
            others = Some(match others {
                None => nearest,
                Some(other) if self.desc => other.max(nearest),
                Some(other) => other.min(nearest),
            });
        }
        let Some(cursor) = self.cursors.get_mut(index) else { return Ok(None) };
        let mut limit = cursor.limit(head, &context);
        if let Some(other) = others {
            limit = if self.desc { limit.max(other.saturating_add(1)) } else { limit.min(other.saturating_sub(1)) };
        }
        let piece = cursor.take(limit, &context)?;
        self.push_head(index, &context)?;
        Ok(Some(piece))
    }

    /// Rows of a source up to the next row of another one. Of equal timestamps the rows of the source that comes first in
    /// the direction of the merge are yielded first, all of them.
    fn take_in_order_of_arrival(
        &mut self,
        index: usize,
        (head, first): (i64, u64),
        context: &MergeContext<'_>,
    ) -> Result<BlockRows> {
        let waiting = self.waiting.last().map(|source| if self.desc { source.ts_max() } else { source.ts_min() });
        // A source that is not open yet starts after the head.
        let waiting = waiting.map(|ts| if self.desc { ts.saturating_add(1) } else { ts.saturating_sub(1) });
        let open = self.heads.peek().map(|(key, other, _)| {
            let ts = self.ts_of(*key);
            match (first >= *other, self.desc) {
                (true, _) => ts,
                (false, true) => ts.saturating_add(1),
                (false, false) => ts.saturating_sub(1),
            }
        });
        let Some(cursor) = self.cursors.get_mut(index) else {
            return Err(crate::Error::internal("a merge without its source"));
        };
        let mut limit = cursor.limit(head, context);
        for other in waiting.into_iter().chain(open) {
            limit = if self.desc { limit.max(other) } else { limit.min(other) };
        }
        let piece = cursor.take(limit, context)?;
        self.push_head(index, context)?;
        Ok(piece)
    }

    /// The rows of a timestamp that several sources have, those of the source at `index` among them: of each key the
    /// newest, in the order of the keys.
    fn take_tied(
        &mut self,
        index: usize,
        head: i64,
        key: &KeyColumns,
        context: &MergeContext<'_>,
    ) -> Result<BlockRows> {
        let mut tied = vec![index];
        while let Some((next, _, other)) = self.heads.peek().copied() {
            if self.ts_of(next) != head {
                break;
            }
            self.heads.pop();
            tied.push(other);
        }
        // The newest first.
        tied.sort_by_key(|index| Reverse(self.cursors.get(*index).map(|cursor| cursor.source.commit_hi())));
        let mut blocks: Vec<BlockRows> = Vec::new();
        for index in tied {
            while let Some(cursor) = self.cursors.get_mut(index).filter(|cursor| !cursor.done) {
                if cursor.head(context)? != head {
                    break;
                }
                blocks.push(cursor.take(head, context)?);
            }
            self.push_head(index, context)?;
        }
        let slices: Vec<Vec<CellSlice<'_>>> = blocks.iter().map(|rows| rows.block().columns().collect()).collect();
        let mut rows: Vec<(usize, usize)> = Vec::new();
        for (position, block) in blocks.iter().enumerate() {
            match block.picked() {
                Some(picked) => rows.extend(picked.iter().map(|row| (position, *row as usize))),
                None => rows.extend((0..block.rows()).map(|row| (position, row))),
            }
        }
        let compare = |a: &(usize, usize), b: &(usize, usize)| {
            let of = |position: usize| cells::column::<Vec<CellSlice<'_>>>(&slices, position).as_slice();
            key.compare(of(a.0), a.1, of(b.0), b.1)
        };
        // Stable: of equal keys the newest stays first.
        rows.sort_by(compare);
        rows.dedup_by(|next, kept| compare(kept, next).is_eq());
        let columns = self.def.all_layouts().enumerate().map(|(column, layout)| {
            let mut gathered = ColumnCells::with_capacity(layout, rows.len());
            for (block, row) in &rows {
                let block: &Vec<CellSlice<'_>> = cells::column(&slices, *block);
                gathered.extend(cells::column(block, column).slice(*row, 1));
            }
            SharedCells::from(gathered)
        });
        let columns: Vec<SharedCells> = columns.collect();
        Ok(BlockRows::all(Block::new(rows.len(), columns)?, None))
    }
}
