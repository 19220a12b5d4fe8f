//! A scan: the merge of a series' sources as blocks in the order of the answer.
//!
//! Long pieces of one source come out as slices of the map or run they stand in; whole chunk blocks come out with
//! their message. Only short pieces, where rows of several sources interleave, and descending answers are copied.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::buffer::Buffer;
use serde::{Deserialize, Serialize};

use super::answer::{Block, Labels, Verbatim};
use super::predicate::KeyRanges;
use crate::error::Result;
use crate::format::chunk::block_rows;
use crate::store::{Loaded, MapCache, Merge, Piece, SeriesState, Wanted};

/// Pieces of fewer rows are gathered into one block.
const GATHER_ROWS: usize = 512;

/// Rows looked through at a time for matches: what a scan holds of them stays small however many there are, as
/// thousands of scans may be merged.
const WINDOW_ROWS: usize = 1024;

/// Runs of matches after which no further window is looked through.
const RUNS_MAX: usize = 64;

/// Rows of one series, block by block.
#[derive(Debug)]
pub struct Scan {
    merge: Merge,
    /// Positions of the columns wanted; `ts` is 0.
    columns: Vec<usize>,
    /// Whether `columns` are all of the series, in order.
    whole: bool,
    desc: bool,
    full: usize,
    left: u64,
    gathered: Vec<Vec<i64>>,
    /// A piece taken from the merge and not given yet.
    held: Option<Piece>,
    filter: Vec<KeyRanges>,
    /// What is left to look through of the last piece of the merge.
    unchecked: Option<Piece>,
    /// Matching parts of the last window, in the order of the answer.
    matching: VecDeque<Piece>,
    marks: Vec<bool>,
    /// The block the last piece stood in, to count blocks.
    last_block: Option<Arc<Loaded>>,
    blocks_scanned: u64,
    rows_checked: u64,
    rows_matched: u64,
    next_ts: Option<i64>,
    ended: bool,
}

/// What a scan gives.
#[derive(Clone, Debug)]
pub struct ScanSpec {
    /// Closed range of timestamps.
    pub range: (i64, i64),
    pub desc: bool,
    pub limit: Option<u64>,
    /// Positions of the number columns wanted; all when absent.
    pub columns: Option<Vec<usize>>,
    /// Conditions every row has to meet.
    pub filter: Vec<KeyRanges>,
}

impl ScanSpec {
    /// All columns of the rows of a closed range, forwards.
    pub fn range(range: (i64, i64)) -> Self {
        Self { range, desc: false, limit: None, columns: None, filter: Vec::new() }
    }
}

/// How a predicate was answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct ScanStats {
    /// Chunks within the range that were looked at, and those no row of which had to be read.
    pub chunks_considered: u64,
    pub chunks_pruned: u64,
    /// Blocks of chunks and tail that rows were read from.
    pub blocks_scanned: u64,
    /// Zones of 1,024 rows within the range, those the zone maps ruled out, and the rest.
    pub zones_considered: u64,
    pub zones_pruned: u64,
    pub zones_scanned: u64,
    pub rows_checked: u64,
    pub rows_matched: u64,
    /// `zone_map`, or `none` when nothing could be ruled out beforehand.
    #[cfg_attr(feature = "server", schema(inline))]
    pub index_used: IndexUsed,
    /// Whether some chunk had no usable zone map and was read whole.
    pub fallback: bool,
}

/// What narrowed a scan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum IndexUsed {
    #[default]
    None,
    ZoneMap,
}

impl ScanStats {
    /// Adds how another scan of the same answer went.
    pub fn add(&mut self, other: &ScanStats) {
        self.chunks_considered += other.chunks_considered;
        self.chunks_pruned += other.chunks_pruned;
        self.blocks_scanned += other.blocks_scanned;
        self.zones_considered += other.zones_considered;
        self.zones_pruned += other.zones_pruned;
        self.zones_scanned += other.zones_scanned;
        self.rows_checked += other.rows_checked;
        self.rows_matched += other.rows_matched;
        if self.index_used == IndexUsed::None {
            self.index_used = other.index_used;
        }
        self.fallback |= other.fallback;
    }
}

impl Scan {
    /// Starts a scan; nothing is read before the first block is asked for.
    pub fn new(series: &SeriesState, cache: &Arc<MapCache>, spec: &ScanSpec) -> Self {
        let column_count = series.def.columns.len();
        let columns: Vec<usize> = match &spec.columns {
            None => (0..=column_count).collect(),
            Some(wanted) => std::iter::once(0).chain(wanted.iter().map(|position| position + 1)).collect(),
        };
        let whole = columns.iter().copied().eq(0..=column_count);
        Self {
            merge: series.merge(cache, spec.range, spec.desc).looking_for(
                spec.filter.iter().map(|f| Wanted { column: f.column, ranges: f.ranges.clone() }).collect(),
            ),
            filter: spec.filter.clone(),
            unchecked: None,
            matching: VecDeque::new(),
            marks: Vec::new(),
            last_block: None,
            blocks_scanned: 0,
            rows_checked: 0,
            rows_matched: 0,
            gathered: vec![Vec::new(); columns.len()],
            columns,
            whole,
            desc: spec.desc,
            full: block_rows(column_count),
            left: spec.limit.unwrap_or(u64::MAX),
            held: None,
            next_ts: None,
            ended: false,
        }
    }

    /// Timestamp of the first row beyond the limit, once the scan has ended; `None` when there is none.
    pub fn next_ts(&self) -> Option<i64> {
        self.next_ts
    }

    /// How the scan went so far.
    pub fn stats(&self) -> ScanStats {
        let merge = self.merge.stats();
        ScanStats {
            chunks_considered: merge.chunks_considered,
            chunks_pruned: merge.chunks_pruned,
            blocks_scanned: self.blocks_scanned,
            zones_considered: merge.zones_considered,
            zones_pruned: merge.zones_pruned,
            zones_scanned: merge.zones_considered - merge.zones_pruned,
            rows_checked: self.rows_checked,
            rows_matched: self.rows_matched,
            index_used: if merge.zones_considered > 0 { IndexUsed::ZoneMap } else { IndexUsed::None },
            fallback: merge.zone_maps_missing > 0,
        }
    }

    /// The next piece whose rows all match.
    fn next_match(&mut self) -> Result<Option<Piece>> {
        loop {
            if let Some(piece) = self.matching.pop_front() {
                return Ok(Some(piece));
            }
            if let Some(mut window) = self.window() {
                // Runs go on over windows, so that a block whose rows all match stays whole.
                while self.split(&window) && self.matching.len() < RUNS_MAX {
                    let Some(next) = self.window() else { break };
                    window = next;
                }
                continue;
            }
            let Some(piece) = self.merge.next_piece()? else { return Ok(None) };
            if self.last_block.as_ref().is_none_or(|last| !Arc::ptr_eq(last, &piece.block)) {
                self.last_block = Some(Arc::clone(&piece.block));
                self.blocks_scanned += 1;
            }
            if self.filter.is_empty() {
                return Ok(Some(piece));
            }
            self.unchecked = Some(piece);
        }
    }

    /// The next rows to look through.
    fn window(&mut self) -> Option<Piece> {
        let piece = self.unchecked.as_mut()?;
        let rows = piece.hi.saturating_sub(piece.lo).min(WINDOW_ROWS);
        if rows == 0 {
            self.unchecked = None;
            return None;
        }
        let (lo, hi) = if self.desc { (piece.hi - rows, piece.hi) } else { (piece.lo, piece.lo + rows) };
        if self.desc {
            piece.hi = lo;
        } else {
            piece.lo = hi;
        }
        Some(Piece { block: Arc::clone(&piece.block), lo, hi })
    }

    /// Cuts a window into its runs of matching rows. Says whether its last row matches, so that the run may go on.
    fn split(&mut self, piece: &Piece) -> bool {
        self.marks.clear();
        self.marks.resize(piece.hi - piece.lo, true);
        for condition in &self.filter {
            let words = piece.block.columns.columns.get(condition.column);
            let words = words.map_or(&[][..], |column| column.typed_data::<i64>());
            condition.keep(words.get(piece.lo..piece.hi).unwrap_or_default(), &mut self.marks);
        }
        self.rows_checked += self.marks.len() as u64;
        let mut runs = Vec::new();
        let mut at = 0;
        while let Some(from) = self.marks.get(at..).and_then(|rest| rest.iter().position(|mark| *mark)) {
            let from = at + from;
            let rest = self.marks.get(from..).unwrap_or_default();
            let to = from + rest.iter().position(|mark| !mark).unwrap_or(rest.len());
            self.rows_matched += (to - from) as u64;
            runs.push((piece.lo + from, piece.lo + to));
            at = to;
        }
        if self.desc {
            runs.reverse();
        }
        for (lo, hi) in runs {
            match self.matching.back_mut() {
                Some(last) if self.desc && last.lo == hi => last.lo = lo,
                Some(last) if !self.desc && last.hi == lo => last.hi = hi,
                _ => self.matching.push_back(Piece { block: Arc::clone(&piece.block), lo, hi }),
            }
        }
        self.matching.back().is_some_and(|last| if self.desc { last.lo == piece.lo } else { last.hi == piece.hi })
    }

    fn gathered_rows(&self) -> usize {
        self.gathered.first().map_or(0, Vec::len)
    }

    fn gather(&mut self, piece: &Piece) {
        for (buffer, position) in self.gathered.iter_mut().zip(&self.columns) {
            let words = piece.block.columns.columns.get(*position).map_or(&[][..], |column| column.typed_data::<i64>());
            let words = words.get(piece.lo..piece.hi).unwrap_or_default();
            if self.desc {
                buffer.extend(words.iter().rev());
            } else {
                buffer.extend_from_slice(words);
            }
        }
    }

    fn give_gathered(&mut self) -> Block {
        let rows = self.gathered_rows();
        let columns = self.gathered.iter_mut().map(|words| Buffer::from_vec(std::mem::take(words))).collect();
        Block { rows, labels: Labels::Only, columns, verbatim: None }
    }

    fn give_piece(&self, piece: &Piece) -> Block {
        let rows = piece.hi - piece.lo;
        let stored = &piece.block.columns;
        let slice = |position: &usize| {
            stored.columns.get(*position).map(|column| column.slice_with_length(piece.lo * 8, rows * 8))
        };
        let columns = self.columns.iter().filter_map(slice).collect();
        let verbatim = stored.message.as_ref().filter(|_| self.whole && rows == stored.rows).map(|message| Verbatim {
            header: message.header.clone(),
            body: message.body.clone(),
            message: message.message.clone(),
        });
        Block { rows, labels: Labels::Only, columns, verbatim }
    }

    /// The next matching rows where they stand, in the direction of the scan. Not to be mixed with blocks.
    pub(super) fn next_piece(&mut self) -> Result<Option<Piece>> {
        if let Some(piece) = self.held.take() {
            return Ok(Some(piece));
        }
        let Some(mut piece) = self.next_match()? else { return Ok(None) };
        let rows = (piece.hi - piece.lo) as u64;
        let edge = |piece: &Piece, row: usize| {
            piece.block.columns.columns.first().and_then(|ts| ts.typed_data::<i64>().get(row).copied())
        };
        if self.left == 0 {
            self.next_ts = edge(&piece, if self.desc { piece.hi.saturating_sub(1) } else { piece.lo });
            return Ok(None);
        }
        if rows > self.left {
            let keep = usize::try_from(self.left).unwrap_or(usize::MAX);
            if self.desc {
                let cut = piece.hi.saturating_sub(keep);
                self.next_ts = edge(&piece, cut.saturating_sub(1));
                piece.lo = cut;
            } else {
                let cut = piece.lo + keep;
                self.next_ts = edge(&piece, cut);
                piece.hi = cut;
            }
            self.left = 0;
            self.ended = true;
        } else {
            self.left -= rows;
        }
        Ok(Some(piece))
    }

    fn next_block(&mut self) -> Result<Option<Block>> {
        loop {
            if self.gathered_rows() >= self.full {
                return Ok(Some(self.give_gathered()));
            }
            let piece = if self.ended && self.held.is_none() { None } else { self.next_piece()? };
            let Some(piece) = piece else {
                self.ended = true;
                return Ok((self.gathered_rows() > 0).then(|| self.give_gathered()));
            };
            if self.desc || piece.hi - piece.lo < GATHER_ROWS {
                // A descending piece can be a whole run: cut it to what still fits.
                let room = self.full.saturating_sub(self.gathered_rows()).max(1);
                self.gather_within(piece, room);
            } else if self.gathered_rows() > 0 {
                self.held = Some(piece);
                return Ok(Some(self.give_gathered()));
            } else if piece.hi - piece.lo > self.full {
                // A run can be longer than a block.
                let cut = piece.lo + self.full;
                let head = Piece { block: Arc::clone(&piece.block), lo: piece.lo, hi: cut };
                self.held = Some(Piece { block: piece.block, lo: cut, hi: piece.hi });
                return Ok(Some(self.give_piece(&head)));
            } else {
                return Ok(Some(self.give_piece(&piece)));
            }
        }
    }

    fn gather_within(&mut self, piece: Piece, room: usize) {
        if piece.hi - piece.lo <= room {
            self.gather(&piece);
            return;
        }
        let (now, later) = if self.desc {
            let cut = piece.hi - room;
            ((cut, piece.hi), (piece.lo, cut))
        } else {
            let cut = piece.lo + room;
            ((piece.lo, cut), (cut, piece.hi))
        };
        self.gather(&Piece { block: Arc::clone(&piece.block), lo: now.0, hi: now.1 });
        self.held = Some(Piece { block: piece.block, lo: later.0, hi: later.1 });
    }
}

impl Iterator for Scan {
    type Item = Result<Block>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.next_block() {
            Ok(block) => block.map(Ok),
            Err(error) => {
                // Nothing follows an error: an answer is never short without saying so.
                self.ended = true;
                self.held = None;
                self.gathered.iter_mut().for_each(Vec::clear);
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
    filter: &[KeyRanges],
) -> Result<i64> {
    let spec = ScanSpec { range, desc: true, limit: Some(count), columns: Some(Vec::new()), filter: filter.to_vec() };
    let mut scan = Scan::new(series, cache, &spec);
    let mut left = count;
    // Only positions are needed: pieces are counted, not copied.
    while let Some(piece) = scan.next_match()? {
        let rows = (piece.hi - piece.lo) as u64;
        if rows >= left {
            let row = piece.hi - usize::try_from(left).unwrap_or(usize::MAX).min(piece.hi);
            let ts = piece.block.columns.columns.first().map_or(&[][..], |ts| ts.typed_data::<i64>());
            return Ok(ts.get(row).copied().unwrap_or(range.0));
        }
        left -= rows;
    }
    Ok(range.0)
}
