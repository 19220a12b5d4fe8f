//! Which rows of the log and of run files are in chunks already, as far as chunk files alone show it.
//!
//! The manifest says up to which commit the rows of a series are in chunks. Where it is lost, the chunks themselves tell:
//! a seal takes all rows of a series up to a commit, and a compaction extends the commits of a chunk only over those that
//! have no rows elsewhere. So no row of its partition between the first and the last timestamp of a chunk, of commits up to
//! its highest one, is outside of chunks. Rows at other times are in other chunks, or were deleted; then they are deleted
//! again, by the log or by the file of the delete.

use std::collections::HashMap;

use crate::store::read::chunk::ChunkFile;
use crate::store::read::merge_source::coalesce;
use crate::store::read::run::Run;
use crate::store::read::series_state::{SeriesId, SeriesState};
use crate::types::partition::PartitionSpan;
use crate::types::{OrderRule, Rows, cells};

/// First timestamp, last timestamp and highest commit of a chunk.
type ChunkReach = (i64, i64, u64);

/// How far the chunks of each partition reach.
#[derive(Debug, Default)]
pub struct CoveredCommits(HashMap<(SeriesId, String), Vec<ChunkReach>>);

impl CoveredCommits {
    /// The rows of these, of one commit, that neither a chunk nor an intact run file has.
    pub fn remaining(&mut self, series: &SeriesState, rows: Rows, commit: u64) -> Rows {
        let is_filed = series.filed.iter().any(|run| (run.commit_lo..=run.commit_hi).contains(&commit));
        let ranges = if is_filed { Vec::new() } else { self.remaining_ranges(series, &rows.ts, commit) };
        if matches!(ranges.as_slice(), [only] if only.len() == rows.len()) {
            return rows;
        }
        let mut left = Rows::like(&rows, ranges.iter().map(ExactSizeIterator::len).sum());
        for range in ranges {
            left.ts.extend_from_slice(cells::range(&rows.ts, range.clone()));
            for (to, from) in left.columns.iter_mut().zip(&rows.columns) {
                to.extend(from.as_slice().slice(range.start, range.len()));
            }
        }
        left
    }

    /// The rows of a run that no chunk has; `None` without any. A run is either sealed as a whole, as far as it lies in a
    /// partition, or not at all.
    pub fn remaining_run(&mut self, series: &SeriesState, run: Run) -> Option<Run> {
        let ranges = self.remaining_ranges(series, run.timestamps(), run.commit_hi);
        if matches!(ranges.as_slice(), [only] if only.len() == run.rows()) {
            return Some(run);
        }
        run.picked(&ranges)
    }

    /// The positions of those of these ascending timestamps whose rows no chunk has; adjacent ones are one range.
    pub fn remaining_ranges(
        &mut self,
        series: &SeriesState,
        timestamps: &[i64],
        commit: u64,
    ) -> Vec<std::ops::Range<usize>> {
        let mut ranges: Vec<std::ops::Range<usize>> = Vec::new();
        let mut push = |range: std::ops::Range<usize>| match ranges.last_mut() {
            _ if range.is_empty() => {}
            Some(last) if last.end == range.start => last.end = range.end,
            _ => ranges.push(range),
        };
        let mut at = 0;
        while let Some(ts) = timestamps.get(at) {
            let span = series.def.partition.span_of(*ts, series.def.unit);
            let end = at + cells::from(timestamps, at).partition_point(|ts| *ts <= span.end);
            for (first, last) in self.covered(series, span, commit) {
                let within = cells::range(timestamps, at..end);
                let covered = at + within.partition_point(|ts| *ts < first);
                push(at..covered);
                at += within.partition_point(|ts| *ts <= last);
            }
            push(at..end);
            at = end;
        }
        ranges
    }

    /// Ascending closed ranges of a partition whose rows of a commit are in chunks.
    fn covered(&mut self, series: &SeriesState, span: PartitionSpan, commit: u64) -> Vec<(i64, i64)> {
        let chunks = self.0.entry((series.id, span.name)).or_insert_with_key(|(_, name)| {
            let chunks = series.chunks.iter().filter(|chunk| chunk.record.partition == *name);
            // What is lost in a damaged chunk may be elsewhere. Rows in the order of arrival would then be there twice.
            let counts =
                |chunk: &&std::sync::Arc<ChunkFile>| series.def.order == OrderRule::Arrival || is_intact(chunk);
            let times =
                |chunk: &std::sync::Arc<ChunkFile>| (chunk.record.ts_min, chunk.record.ts_max, chunk.record.commit_hi);
            chunks.filter(counts).map(times).collect()
        });
        coalesce(chunks.iter().filter(|(.., hi)| commit <= *hi).map(|(first, last, _)| (*first, *last)).collect())
    }
}

fn is_intact(chunk: &ChunkFile) -> bool {
    chunk.open_uncached().is_ok_and(|open| (0..open.blocks().len()).all(|block| open.verify(block).is_ok()))
}
