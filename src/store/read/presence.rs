//! Presence of a series: the timestamps at which it has rows, as a bitmap of its grid and a list of the timestamps off
//! the grid; and the cache of presences.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use roaring::RoaringTreemap;

use crate::format::coverage::{Coverage, bit_of, bucket_of};
use crate::types::Grid;
use crate::types::cells;
use crate::types::width::narrow;

/// Maximum bytes of presences cached between requests.
const CACHE_BYTES_MAX: usize = 64 << 20;

/// Bytes of an entry in addition to its bitmap and list.
const ENTRY_BYTES: usize = 256;

/// Where a series has rows.
#[derive(Clone, Debug)]
pub struct Presence {
    pub grid: Grid,
    /// Bits of the buckets with a row at their start.
    pub(in crate::store) aligned: RoaringTreemap,
    /// Timestamps of the rows off the grid, ascending.
    off_grid: Vec<i64>,
}

impl Presence {
    pub(in crate::store) fn empty(grid: Grid) -> Self {
        Self { grid, aligned: RoaringTreemap::new(), off_grid: Vec::new() }
    }

    /// Timestamps of rows off the grid within a closed range.
    pub fn off_grid(&self, (start, end): (i64, i64)) -> &[i64] {
        let from = self.off_grid.partition_point(|ts| *ts < start);
        let to = self.off_grid.partition_point(|ts| *ts <= end);
        cells::range(&self.off_grid, from..to.max(from))
    }

    /// How many buckets of a closed range of buckets have a row at their start.
    pub fn aligned(&self, (first, last): (i64, i64)) -> u64 {
        if first > last { 0 } else { self.aligned.range_cardinality(bit_of(first)..=bit_of(last)) }
    }

    /// Exact number of rows in a closed range of timestamps.
    pub fn rows(&self, range: (i64, i64)) -> u64 {
        if range.0 > range.1 {
            return 0;
        }
        let buckets = (self.grid.first_at(range.0), self.grid.bucket_of(range.1));
        self.aligned(buckets) + self.off_grid(range).len() as u64
    }

    /// Bits of the buckets with at least one row of the closed range of timestamps; bits of buckets that start outside
    /// the range are meaningless.
    pub fn buckets(&self, range: (i64, i64)) -> Buckets<'_> {
        let off_grid = self.off_grid(range);
        if off_grid.is_empty() {
            return Buckets(std::borrow::Cow::Borrowed(&self.aligned));
        }
        let mut all = self.aligned.clone();
        let mut last = None;
        for ts in off_grid {
            let bucket = self.grid.bucket_of(*ts);
            if last != Some(bucket) {
                all.insert(bit_of(bucket));
                last = Some(bucket);
            }
        }
        Buckets(std::borrow::Cow::Owned(all))
    }

    /// Adds the rows of a source except those in `hidden_ranges`: sorted closed ranges of timestamps hidden by deletes.
    pub(in crate::store) fn add(&mut self, source: &Coverage, hidden_ranges: &[(i64, i64)]) {
        if hidden_ranges.is_empty() {
            self.aligned |= &source.aligned;
            self.off_grid.extend_from_slice(&source.off_grid);
            return;
        }
        let mut aligned = source.aligned.clone();
        for (from, to) in hidden_ranges {
            let (first, last) = (self.grid.first_at(*from), self.grid.bucket_of(*to));
            if first <= last {
                aligned.remove_range(bit_of(first)..=bit_of(last));
            }
        }
        self.aligned |= aligned;
        let is_hidden = |ts: &i64| {
            let next = hidden_ranges.partition_point(|(_, to)| to < ts);
            hidden_ranges.get(next).is_some_and(|(from, _)| from <= ts)
        };
        self.off_grid.extend(source.off_grid.iter().filter(|ts| !is_hidden(ts)));
    }

    /// Sorts the list of rows off the grid; called once, after the last [`add`](Self::add).
    pub(in crate::store) fn sort_off_grid(&mut self) {
        if !self.off_grid.is_sorted() {
            self.off_grid.sort_unstable();
        }
        self.off_grid.dedup();
    }

    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.aligned.serialized_size() + self.off_grid.len() * 8
    }
}

/// Buckets that have rows.
#[derive(Debug)]
pub struct Buckets<'a>(std::borrow::Cow<'a, RoaringTreemap>);

impl Buckets<'_> {
    /// Maximal runs of adjacent buckets within a closed range of buckets, ascending.
    pub fn runs(&self, (first, last): (i64, i64)) -> BucketRanges<'_> {
        BucketRanges { bitmaps: self.0.bitmaps(), current: None, bits: (bit_of(first), bit_of(last)), pending: None }
    }
}

/// See [`Buckets::runs`].
pub struct BucketRanges<'a> {
    bitmaps: roaring::treemap::BitmapIter<'a>,
    current: Option<(u32, roaring::bitmap::Iter<'a>)>,
    /// Closed range of requested bits.
    bits: (u64, u64),
    /// A run that the next one may extend.
    pending: Option<(u64, u64)>,
}

impl std::fmt::Debug for BucketRanges<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BucketRanges").field("bits", &self.bits).finish_non_exhaustive()
    }
}

impl BucketRanges<'_> {
    /// The next run of bits within one bitmap or container; it can be adjacent to the run before it.
    fn next_piece(&mut self) -> Option<(u64, u64)> {
        loop {
            if let Some((high, bits)) = &mut self.current
                && let Some(piece) = bits.next_range()
            {
                let high = u64::from(*high) << 32;
                return Some((high | u64::from(*piece.start()), high | u64::from(*piece.end())));
            }
            let (high, bitmap) = self.bitmaps.next()?;
            let base = u64::from(high) << 32;
            let (from, to) = (self.bits.0.max(base), self.bits.1.min(base | u64::from(u32::MAX)));
            self.current = (from <= to).then(|| {
                let low = |bit: u64| narrow::<u32, _>(bit - base);
                (high, bitmap.range(low(from)..=low(to)))
            });
        }
    }
}

impl Iterator for BucketRanges<'_> {
    type Item = (i64, i64);

    fn next(&mut self) -> Option<(i64, i64)> {
        let mut run = self.pending.take().or_else(|| self.next_piece())?;
        while let Some(piece) = self.next_piece() {
            if run.1.checked_add(1) != Some(piece.0) {
                self.pending = Some(piece);
                break;
            }
            run.1 = piece.1;
        }
        Some((bucket_of(run.0), bucket_of(run.1)))
    }
}

/// Presence of the chunks of recently requested series, the rest of each series being its tail.
#[derive(Debug, Default)]
pub struct PresenceCache {
    cache: Mutex<CachedPresence>,
}

#[derive(Debug, Default)]
struct CachedPresence {
    /// By the number of the series.
    entries: HashMap<u64, PresenceEntry>,
    bytes: usize,
    /// Incremented by every use.
    clock: u64,
}

#[derive(Debug)]
struct PresenceEntry {
    origin: Origin,
    presence: Arc<Presence>,
    bytes: usize,
    used: u64,
}

/// What a presence was computed from: the chunks of a series and its deletes. The references are weak, so that a cached
/// presence never keeps files.
#[derive(Clone, Debug)]
pub struct Origin([Weak<dyn Any + Send + Sync>; 2]);

impl Origin {
    pub fn new<C: Any + Send + Sync, D: Any + Send + Sync>(chunks: &Arc<C>, deletes: &Arc<D>) -> Self {
        let (chunks, deletes) = (Arc::downgrade(chunks), Arc::downgrade(deletes));
        Self([chunks, deletes])
    }

    fn is_same(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(own, other)| own.ptr_eq(other))
    }
}

impl PresenceCache {
    pub fn get(&self, series_id: u64, origin: &Origin, grid: Grid) -> Option<Arc<Presence>> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.clock += 1;
        let clock = cache.clock;
        let entry = cache.entries.get_mut(&series_id)?;
        if !entry.origin.is_same(origin) || entry.presence.grid != grid {
            return None;
        }
        entry.used = clock;
        Some(Arc::clone(&entry.presence))
    }

    pub fn keep(&self, series_id: u64, origin: Origin, presence: &Arc<Presence>) {
        let bytes = presence.bytes();
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.clock += 1;
        let entry = PresenceEntry { origin, presence: Arc::clone(presence), bytes, used: cache.clock };
        if let Some(old) = cache.entries.insert(series_id, entry) {
            cache.bytes -= old.bytes;
        }
        cache.bytes += bytes;
        if cache.bytes > CACHE_BYTES_MAX {
            cache.shrink();
        }
    }
}

impl CachedPresence {
    /// Evicts the least recently used entries until a quarter of the space is free.
    fn shrink(&mut self) {
        let mut by_use: Vec<(u64, u64)> = self.entries.iter().map(|(id, entry)| (entry.used, *id)).collect();
        by_use.sort_unstable();
        for (_, id) in by_use {
            if self.bytes <= CACHE_BYTES_MAX / 4 * 3 {
                return;
            }
            if let Some(entry) = self.entries.remove(&id) {
                self.bytes -= entry.bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_maximal_and_cut_to_the_range() {
        let grid = Grid::Fixed { length: 1, phase: 0 };
        let mut presence = Presence::empty(grid);
        // A run over the border of two bitmaps, and many containers.
        let around = 5 * (1_i64 << 32);
        for (from, to) in
            [(-200_000, -100_001), (-3, 4), (around - 70_000, around + 70_000), (around + 70_002, around + 70_002)]
        {
            presence.aligned.insert_range(bit_of(from)..=bit_of(to));
        }
        for optimized in [false, true] {
            if optimized {
                presence.aligned.optimize();
            }
            let buckets = presence.buckets((i64::MIN, i64::MAX));
            let runs = |first, last| buckets.runs((first, last)).collect::<Vec<_>>();
            assert_eq!(
                runs(i64::MIN, i64::MAX),
                [(-200_000, -100_001), (-3, 4), (around - 70_000, around + 70_000), (around + 70_002, around + 70_002)]
            );
            assert_eq!(runs(-150_000, around - 1), [(-150_000, -100_001), (-3, 4), (around - 70_000, around - 1)]);
            assert_eq!(runs(0, 0), [(0, 0)]);
            assert_eq!(runs(around + 70_001, around + 70_001), []);
        }
    }
}
