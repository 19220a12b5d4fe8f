//! Sealing: the tail becomes chunk files.
//!
//! Order of every publication: chunk written, synced, linked, directory synced; tombstone files likewise; then the
//! manifest edit that names them; then the state that readers see; files that are no longer needed are unlinked last. A
//! crash between any two steps leaves either files that no manifest names or log frames that are replayed over chunks
//! that already have their rows: both are harmless.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use crate::disk;
use crate::error::Result;
use crate::format::chunk::SliceNumber;
use crate::format::manifest::Edit;
use crate::store::publish::counters::SealReport;
use crate::store::publish::publisher::{PublishedFiles, Publisher, SealedSeries};
use crate::store::publish::records::series_record;
use crate::store::publish::slices::{divided, ranges_of_merge, starts_of};
use crate::store::publish::stager::{ChunkWrite, STAGED_MAX, StagedChunk};
use crate::store::read::chunk::ChunkFile;
use crate::store::read::chunk_paths::series_dir;
use crate::store::read::merge_source::MergeSource;
use crate::store::read::run::Run;
use crate::store::read::series_state::{SeriesId, SeriesState};
use crate::store::read::structural::Structural;
use crate::store::read::tombstone::{Tombstone, has_snapshot_between};
use crate::store::wal::commit_queue::FrozenRuns;
use crate::types::cells;

/// The rows of one partition between two snapshots, which may become one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SealInterval {
    /// Commit of the first snapshot at or after the commits of the rows, the highest number without one; later deletes
    /// must not remove rows of the interval.
    pub upper: u64,
}

impl SealInterval {
    pub fn of(snapshot_commits: &[u64], commit: u64) -> Self {
        let next = snapshot_commits.partition_point(|snapshot| *snapshot < commit);
        Self { upper: snapshot_commits.get(next).copied().unwrap_or(u64::MAX) }
    }

    /// The deletes that may remove rows of the interval permanently.
    pub fn tombstones(self, series: &SeriesState) -> Vec<Tombstone> {
        series.tombstones.iter().filter(|t| t.commit <= self.upper).copied().collect()
    }
}

impl Publisher {
    /// Moves the tails of these series into chunks, with one manifest edit for all of them.
    pub fn seal_with(&self, files: &mut PublishedFiles, ids: &[SeriesId]) -> Result<SealReport> {
        // A series listed twice is sealed once: the same rows in two chunks would be an error of the store.
        let ids: BTreeSet<SeriesId> = ids.iter().copied().collect();
        let ids: Vec<SeriesId> = ids.into_iter().collect();
        let frozen = self.wal.queue.freeze(Some(&ids))?;
        let series: Vec<Arc<SeriesState>> = ids
            .iter()
            .filter_map(|id| frozen.state.series.get(id))
            .filter(|series| series.tail().next().is_some())
            .cloned()
            .collect();
        let outcome = self.seal_frozen(files, &series, &frozen);
        if outcome.is_err() {
            let first = files.manifest.contents.next_file_id;
            series.iter().for_each(|series| self.remove_unpublished(series.id, first));
            self.wal.queue.apply(&mut self.wal.queue.lock(), Structural::Thaw(frozen.ids));
        }
        outcome
    }

    /// Seals series as they were when their runs were frozen.
    pub fn seal_frozen(
        &self,
        files: &mut PublishedFiles,
        chosen: &[Arc<SeriesState>],
        frozen: &FrozenRuns,
    ) -> Result<SealReport> {
        let mut report = SealReport::default();
        if chosen.is_empty() {
            return Ok(report);
        }
        let started = Instant::now();
        // Everything frozen must be durable and published before it may reach a chunk.
        self.wal.queue.wait_durable(&frozen.decided)?;
        let (commit, snapshot_commits) = (frozen.state.commit, &frozen.state.snapshot_commits);
        let mut next_file_id = files.manifest.contents.next_file_id;
        let mut edit = Edit::default();
        let mut parts = Vec::new();
        disk::create_dirs(&chosen.iter().map(|series| series_dir(&self.root, series.id)).collect::<Vec<_>>())?;
        let mut staged = Vec::new();
        for series in chosen {
            let part = self.stage_chunks(series, commit, snapshot_commits, &mut next_file_id, &mut staged)?;
            report.series_sealed += 1;
            report.chunks_written += part.added.len() as u64;
            report.rows_sealed += part.added.iter().map(|chunk| chunk.rows).sum::<u64>();
            edit.series.push(series_record(series, commit)?);
            parts.push((part, Some(commit), Arc::clone(series)));
        }
        self.stager.place_chunks(staged)?;
        self.publish_chunks(files, parts, edit, next_file_id)?;
        self.counters.add_seal(report);
        metrics::histogram!("fastk_seal_seconds").record(started.elapsed());
        Ok(report)
    }

    /// Writes the chunks of one series as staged files: one for each partition that its tail touches, on each side of
    /// every snapshot, cut where the partition is cut and where the rows are too many for one. Some get their names.
    fn stage_chunks(
        &self,
        series: &Arc<SeriesState>,
        commit: u64,
        snapshot_commits: &[u64],
        next_file_id: &mut u64,
        staged: &mut Vec<StagedChunk>,
    ) -> Result<SealedSeries> {
        let mut groups: BTreeMap<(String, SealInterval), (i64, i64)> = BTreeMap::new();
        for run in series.filed.iter().chain(&series.frozen) {
            let interval = SealInterval::of(snapshot_commits, run.commit_hi);
            let mut row = 0;
            let ts = run.timestamps();
            while let Some(first) = ts.get(row) {
                let span = series.def.partition.span_of(*first, series.def.unit);
                row += cells::from(ts, row).partition_point(|ts| *ts <= span.end);
                groups.insert((span.name, interval), (span.start, span.end));
            }
        }
        let rows_max = self.stager.rows_max(&series.def);
        let mut added = Vec::new();
        for ((partition, interval), range) in groups {
            let stored: Vec<Arc<ChunkFile>> =
                series.chunks.iter().filter(|chunk| chunk.record.partition == partition).cloned().collect();
            let runs: Vec<&Arc<Run>> = series
                .filed
                .iter()
                .chain(&series.frozen)
                .filter(|run| SealInterval::of(snapshot_commits, run.commit_hi) == interval)
                .collect();
            let sources: Vec<MergeSource> = runs.iter().map(|run| MergeSource::Run(Arc::clone(run))).collect();
            let tombstones = interval.tombstones(series);
            // The tail up to `commit` is complete here, so the chunk is the partition as of the last delete among them.
            let as_of = tombstones.iter().map(|t| t.commit).filter(|t| *t <= commit).max();
            let mut ranges = Vec::new();
            for slice in divided(range, &starts_of(stored.clone(), rows_max)) {
                let rows = runs.iter().map(|run| run.rows_within(slice) as u64).sum();
                if rows > 0 {
                    let merge = self.stager.merge(series, sources.clone(), &tombstones, slice);
                    ranges.extend(ranges_of_merge(merge, rows, rows_max, slice)?);
                }
            }
            for range in ranges {
                // A run can begin before the last of these chunks only with rows of other times.
                let times = runs.iter().filter_map(|run| run.bounds_within(range));
                let Some(times) = times.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))) else { continue };
                let near = stored.iter().map(|chunk| &chunk.record);
                let near = near.filter(|record| record.ts_min <= times.1 && times.0 <= record.ts_max);
                let write = ChunkWrite {
                    partition: &partition,
                    range,
                    sources: sources.clone(),
                    tombstones: tombstones.clone(),
                    as_of,
                    after: near.map(|record| record.commit_hi).max().unwrap_or(0),
                    replaces: Vec::new(),
                    slice: SliceNumber::ONLY,
                };
                if let Some(chunk) = self.stager.stage_chunk(series, write, next_file_id)? {
                    added.push(chunk.record.clone());
                    staged.push(chunk);
                }
                if staged.len() >= STAGED_MAX {
                    self.stager.place_chunks(std::mem::take(staged))?;
                }
            }
        }
        // Chunks that a delete covers entirely are removed now, unless a snapshot still needs them.
        let covered = |chunk: &ChunkFile| {
            series.tombstones.iter().any(|t| {
                chunk.record.commit_hi < t.commit
                    && t.start <= chunk.record.ts_min
                    && chunk.record.ts_max <= t.end
                    && !has_snapshot_between(snapshot_commits, chunk.record.commit_hi, t.commit)
            })
        };
        let removed: Vec<Arc<ChunkFile>> = series.chunks.iter().filter(|chunk| covered(chunk)).cloned().collect();
        let mut after = series.as_ref().clone();
        after.filed.clear();
        after.frozen.clear();
        let tombstones = self.tombstones_after(after, &added, &removed);
        Ok(SealedSeries { series_id: series.id, added, removed, tombstones })
    }
}
