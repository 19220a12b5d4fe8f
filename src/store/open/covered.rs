//! Which rows of the log and of run files are in chunks already, as far as chunk files alone show it.
//!
//! The manifest says up to which commit the rows of a series are in chunks. Where it is lost, the chunks themselves tell:
//! a seal takes all rows of a series up to a commit, and a compaction extends the commits of a chunk only over those that
//! have no rows elsewhere. So a chunk of a partition holds every row of it of commits up to its highest one.

use std::collections::HashMap;

use crate::store::read::chunk::ChunkFile;
use crate::store::read::run::Run;
use crate::store::read::series_state::{SeriesId, SeriesState};
use crate::types::partition::PartitionSpan;
use crate::types::{OrderRule, Rows, cells};

/// Highest commit in the chunks of each partition.
#[derive(Debug, Default)]
pub struct CoveredCommits(HashMap<(SeriesId, String), u64>);

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
        let mut at = 0;
        while let Some(ts) = timestamps.get(at) {
            let span = series.def.partition.span_of(*ts, series.def.unit);
            let end = at + cells::from(timestamps, at).partition_point(|ts| *ts <= span.end);
            if self.highest(series, span) < commit {
                match ranges.last_mut() {
                    Some(last) if last.end == at => last.end = end,
                    _ => ranges.push(at..end),
                }
            }
            at = end;
        }
        ranges
    }

    fn highest(&mut self, series: &SeriesState, span: PartitionSpan) -> u64 {
        *self.0.entry((series.id, span.name)).or_insert_with_key(|(_, name)| {
            let chunks = series.chunks.iter().filter(|chunk| chunk.record.partition == *name);
            // What is lost in a damaged chunk may be elsewhere. Rows in the order of arrival would then be there twice.
            let counts =
                |chunk: &&std::sync::Arc<ChunkFile>| series.def.order == OrderRule::Arrival || is_intact(chunk);
            chunks.filter(counts).map(|chunk| chunk.record.commit_hi).max().unwrap_or(0)
        })
    }
}

fn is_intact(chunk: &ChunkFile) -> bool {
    chunk.open_uncached().is_ok_and(|open| (0..open.blocks().len()).all(|block| open.verify(block).is_ok()))
}
