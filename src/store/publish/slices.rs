//! Slices: the parts of its time into which a partition with many rows is divided, one chunk for each.
//!
//! - A chunk has at most [`rows_max`] rows, more only where rows of one timestamp alone are more: a cut lies between two
//!   timestamps, so that what has to be compared or kept in order is in one place.
//! - Chunks that overlap in time, directly or through others, are of one slice. Neighbours are of one slice as long as
//!   their rows fit one chunk.
//! - A seal cuts its rows at the slices that a partition has. A chunk so overlaps chunks of one slice only, and a
//!   compaction rewrites one slice.
//! - Two chunks of a partition are apart in time, or all commits of one are later than those of the other.

use std::ops::Range;
use std::sync::Arc;

use crate::error::Result;
use crate::format::chunk::rows_of_bytes;
use crate::store::read::chunk::ChunkFile;
use crate::store::read::merge::Merge;
use crate::types::width::to_usize;
use crate::types::{SeriesDef, cells};

/// Most rows of a chunk of a series, where cells of `bytes_max` bytes fit into one. Bitmaps of nulls and dictionaries are
/// not counted.
pub fn rows_max(def: &SeriesDef, bytes_max: u64) -> u64 {
    rows_of_bytes(def.all_layouts(), bytes_max)
}

/// The chunks of one partition by slice, in the order of time.
pub fn slices_of(mut chunks: Vec<Arc<ChunkFile>>, rows_max: u64) -> Vec<Vec<Arc<ChunkFile>>> {
    chunks.sort_by_key(|chunk| (chunk.record.ts_min, chunk.record.commit_hi));
    // Chunks that overlap, their rows, and their last timestamp.
    let mut joined: Vec<(Vec<Arc<ChunkFile>>, u64, i64)> = Vec::new();
    for chunk in chunks {
        let (rows, first, last) = (chunk.record.rows, chunk.record.ts_min, chunk.record.ts_max);
        match joined.last_mut().filter(|(.., end)| first <= *end) {
            Some((chunks, sum, end)) => {
                chunks.push(chunk);
                *sum += rows;
                *end = last.max(*end);
            }
            None => joined.push((vec![chunk], rows, last)),
        }
    }
    let mut slices: Vec<(Vec<Arc<ChunkFile>>, u64)> = Vec::new();
    for (mut chunks, rows, _) in joined {
        match slices.last_mut().filter(|(_, sum)| sum.saturating_add(rows) <= rows_max) {
            Some((slice, sum)) => {
                slice.append(&mut chunks);
                *sum += rows;
            }
            None => slices.push((chunks, rows)),
        }
    }
    slices.into_iter().map(|(chunks, _)| chunks).collect()
}

/// First timestamps of the slices of a partition, without that of its first slice.
pub fn starts_of(chunks: Vec<Arc<ChunkFile>>, rows_max: u64) -> Vec<i64> {
    let slices = slices_of(chunks, rows_max).into_iter().skip(1);
    slices.filter_map(|chunks| chunks.first().map(|chunk| chunk.record.ts_min)).collect()
}

/// A closed range divided before each of these ascending timestamps of it.
pub fn divided(range: (i64, i64), starts: &[i64]) -> Vec<(i64, i64)> {
    let mut ranges = Vec::with_capacity(starts.len() + 1);
    let mut first = range.0;
    for start in starts.iter().copied().filter(|start| range.0 < *start && *start <= range.1) {
        ranges.push((first, start - 1));
        first = start;
    }
    ranges.push((first, range.1));
    ranges
}

/// Where rows are cut, found in one pass over their timestamps.
struct CutSearch {
    /// Rows from which on a chunk ends with the next timestamp.
    target: u64,
    /// Rows since the last cut, and the timestamp of the last of them.
    rows: u64,
    last: i64,
    starts: Vec<i64>,
}

impl CutSearch {
    /// For `rows` rows at most, which are to become chunks of equal size.
    fn new(rows: u64, rows_max: u64) -> Self {
        let count = rows.div_ceil(rows_max.max(1)).max(1);
        Self { target: rows.div_ceil(count).max(1), rows: 0, last: i64::MIN, starts: Vec::new() }
    }

    /// Adds rows that follow those before them.
    fn add(&mut self, count: usize, ts: impl Fn(usize) -> Option<i64>) {
        let mut at = 0;
        while at < count {
            if self.rows < self.target {
                let step = to_usize((self.target - self.rows).min((count - at) as u64));
                at += step;
                self.rows += step as u64;
                self.last = ts(at - 1).unwrap_or(self.last);
                continue;
            }
            while at < count && ts(at) == Some(self.last) {
                at += 1;
                self.rows += 1;
            }
            if at < count {
                self.starts.extend(ts(at));
                self.rows = 0;
            }
        }
    }
}

/// The closed ranges of the chunks for the rows of a merge over a closed range, of which there are `rows` at most. The
/// rows are read only where there are too many for one chunk.
pub fn ranges_of_merge(mut merge: Merge, rows: u64, rows_max: u64, range: (i64, i64)) -> Result<Vec<(i64, i64)>> {
    if rows <= rows_max {
        return Ok(vec![range]);
    }
    let mut search = CutSearch::new(rows, rows_max);
    while let Some(piece) = merge.next_piece()? {
        search.add(piece.rows(), |row| piece.ts(row));
    }
    Ok(divided(range, &search.starts))
}

/// The same for ascending timestamps, as positions of them.
pub fn ranges_of_rows(ts: &[i64], within: Range<usize>, rows_max: u64) -> Vec<Range<usize>> {
    let rows = cells::range(ts, within.clone());
    if rows.len() as u64 <= rows_max {
        return vec![within];
    }
    let mut search = CutSearch::new(rows.len() as u64, rows_max);
    search.add(rows.len(), |row| rows.get(row).copied());
    let mut ranges = Vec::with_capacity(search.starts.len() + 1);
    let mut first = within.start;
    for start in search.starts {
        let end = within.start + rows.partition_point(|ts| *ts < start);
        ranges.push(first..end);
        first = end;
    }
    ranges.push(first..within.end);
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::DiskPath;
    use crate::format::manifest::ChunkRecord;

    fn chunk(id: u64, ts: (i64, i64), rows: u64) -> Arc<ChunkFile> {
        let record = ChunkRecord { id, rows, ts_min: ts.0, ts_max: ts.1, commit_hi: id, ..ChunkRecord::default() };
        Arc::new(ChunkFile::new(&DiskPath::os("/store"), record))
    }

    fn ids(slices: &[Vec<Arc<ChunkFile>>]) -> Vec<Vec<u64>> {
        slices.iter().map(|chunks| chunks.iter().map(|chunk| chunk.record.id).collect()).collect()
    }

    #[test]
    fn overlapping_chunks_and_small_neighbours_are_of_one_slice() {
        let chunks = vec![
            chunk(1, (0, 9), 40),
            chunk(2, (10, 19), 50),
            chunk(3, (20, 29), 60),
            // Overlaps the one before, at its last timestamp.
            chunk(4, (29, 35), 70),
            chunk(5, (36, 40), 10),
        ];
        assert_eq!(ids(&slices_of(chunks.clone(), 100)), [vec![1, 2], vec![3, 4], vec![5]]);
        assert_eq!(starts_of(chunks.clone(), 100), [20, 36]);
        assert_eq!(ids(&slices_of(chunks.clone(), 1_000)), [vec![1, 2, 3, 4, 5]]);
        assert_eq!(ids(&slices_of(chunks, 1)), [vec![1], vec![2], vec![3, 4], vec![5]]);
        assert!(starts_of(Vec::new(), 1).is_empty());
    }

    #[test]
    fn a_range_is_divided_without_a_gap() {
        assert_eq!(divided((0, 100), &[20, 36]), [(0, 19), (20, 35), (36, 100)]);
        assert_eq!(divided((0, 100), &[]), [(0, 100)]);
        assert_eq!(divided((20, 36), &[0, 20, 36, 70]), [(20, 35), (36, 36)]);
        assert_eq!(divided((i64::MIN, i64::MAX), &[0]), [(i64::MIN, -1), (0, i64::MAX)]);
    }

    #[test]
    fn rows_are_cut_into_equal_parts_between_timestamps() {
        let ts: Vec<i64> = (0..100).collect();
        let cut = |ts: &[i64], rows_max| ranges_of_rows(ts, 0..ts.len(), rows_max);
        assert_eq!(cut(&ts, 100).len(), 1);
        assert_eq!(cut(&ts, 99), [0..50, 50..100]);
        assert_eq!(cut(&ts, 30), [0..25, 25..50, 50..75, 75..100]);
        assert_eq!(ranges_of_rows(&ts, 10..20, 5), [10..15, 15..20]);
        // Rows of one timestamp stay together, however many they are.
        let ties: Vec<i64> = [vec![1; 3], vec![2; 50], vec![3; 2]].concat();
        assert_eq!(cut(&ties, 2), [0..3, 3..53, 53..55]);
        assert_eq!(cut(&ties, 10), [0..53, 53..55]);
        assert_eq!(cut(&[7; 9], 1).len(), 1);
    }

    #[test]
    fn pieces_of_any_length_are_cut_alike() {
        let ts: Vec<i64> = (0..200).map(|row| row / 3).collect();
        let starts = |piece: usize| {
            let mut search = CutSearch::new(200, 30);
            for rows in ts.chunks(piece) {
                search.add(rows.len(), |row| rows.get(row).copied());
            }
            search.starts
        };
        let whole = starts(200);
        assert_eq!(whole.len(), 6);
        for piece in 1..40 {
            assert_eq!(starts(piece), whole, "pieces of {piece} rows");
        }
    }
}
